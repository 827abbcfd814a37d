"""city.db: one writing thread, a few reading threads, migrations at the start.

Owns the two engines of the database, the order of its writes and the moment of COMMIT. Must not know any table: each
feature passes a function of a connection. SQLite only, for now; the address is a URL so that PostgreSQL can follow.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import QueuePool, StaticPool

from citysense.crash_points import CrashPoints
from citysense.errors import Overloaded, SetupError, StorageClosed, StorageError, StorageFull
from citysense.single_writer import open_for_reading, open_for_writing, storage_error, write_something
from citysense_platform.city.migrating import migrate

T = TypeVar("T")
Work = Callable[[Connection], T]

log = logging.getLogger(__name__)

READERS = 4
"""Threads for reading: enough that one long list does not hold up the others, few enough for two cores."""
WRITE_BOUND = 5_000
"""Writes waiting for the thread. At a commit per millisecond five seconds; later answers help nobody."""
READ_BOUND = 1_000
"""Reads waiting for a thread; the same thought."""


class City:
    """The database of the city: registry, rules, alerts, cases, outbox and audit."""

    def __init__(self, url: str, *, crash: CrashPoints | None = None) -> None:
        self._path = _sqlite_path(url)
        self._crash = crash or CrashPoints()
        self._writing: Engine | None = None
        self._reading: Engine | None = None
        self._writer: ThreadPoolExecutor | None = None
        self._readers: ThreadPoolExecutor | None = None
        self._writes_waiting = 0
        self._reads_waiting = 0

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    def open(self) -> None:
        """Create or migrate the file and start the threads; blocks for as long as a migration takes.

        Raises StorageError if the file cannot be used, SetupError if a newer version of the product wrote it.
        """
        _make_private(self._path)
        writing = _writing_engine(self._path)
        try:
            migrate(writing, self._path)
            self._sync_what_was_left(writing)
        except DBAPIError as e:
            writing.dispose()
            raise _translated(self._path, e) from e
        except (StorageError, SetupError):
            writing.dispose()
            raise
        self._writing = writing
        self._reading = _reading_engine(self._path)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix=f"writer {self._path.name}")
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix=f"reader {self._path.name}")

    def _sync_what_was_left(self, engine: Engine) -> None:
        """See `write_something`. On a full disk the first write that succeeds does it: a full disk stops no start."""
        try:
            with engine.connect() as connection, connection.begin():
                driver: Any = connection.connection.driver_connection
                write_something(driver)
        except (DBAPIError, sqlite3.Error) as e:
            error = _translated(self._path, e) if isinstance(e, DBAPIError) else storage_error(self._path, e)
            if not isinstance(error, StorageFull):
                raise error from e
            log.warning("%s", error)

    def close(self) -> None:
        """Finish what waits, close the file, end the threads. Harmless when not open."""
        writer, readers = self._writer, self._readers
        self._writer = self._readers = None
        for threads in (writer, readers):
            if threads is not None:
                threads.shutdown(wait=True)
        for engine in (self._reading, self._writing):
            if engine is not None:
                engine.dispose()
        self._reading = self._writing = None

    async def write(self, work: Work[T], *, point: str = "") -> T:
        """The result of `work` in a transaction of its own, after its COMMIT; in the order of the calls.

        What `work` raises undoes all it wrote and reaches the caller as it is; errors of the database arrive as
        StorageFull or StorageError. Raises Overloaded or StorageClosed at once. With `point`, passes the crash points
        `{point}.before_commit` and `{point}.after_commit`.
        """
        if self._writer is None or self._writing is None:
            raise StorageClosed(f"{self._path.name} is not open")
        if self._writes_waiting >= WRITE_BOUND:
            raise Overloaded(f"{WRITE_BOUND} writes wait for {self._path.name}; the disk is too slow for what comes in")
        future = self._writer.submit(self._transact, self._writing, work, point)
        self._writes_waiting += 1
        try:
            return await asyncio.wrap_future(future)
        finally:
            self._writes_waiting -= 1

    async def read(self, work: Work[T]) -> T:
        """The result of `work` on a connection that cannot write and sees one moment of the database throughout.

        Sees every write whose `write` has returned. Errors as for `write`.
        """
        if self._readers is None or self._reading is None:
            raise StorageClosed(f"{self._path.name} is not open")
        if self._reads_waiting >= READ_BOUND:
            raise Overloaded(f"{READ_BOUND} reads wait for {self._path.name}; ask for less at a time")
        future = self._readers.submit(self._look, self._reading, work)
        self._reads_waiting += 1
        try:
            return await asyncio.wrap_future(future)
        finally:
            self._reads_waiting -= 1

    def _transact(self, engine: Engine, work: Work[T], point: str) -> T:
        try:
            with engine.connect() as connection, connection.begin() as transaction:
                result = work(connection)
                if point:
                    self._crash.at(f"{point}.before_commit")
                transaction.commit()
        except DBAPIError as e:
            raise _translated(self._path, e) from e
        if point:
            self._crash.at(f"{point}.after_commit")
        return result

    def _look(self, engine: Engine, work: Work[T]) -> T:
        try:
            with engine.connect() as connection, connection.begin():
                return work(connection)
        except DBAPIError as e:
            raise _translated(self._path, e) from e


def _sqlite_path(url: str) -> Path:
    """The file that `sqlite:///path` names. Raises SetupError for any other address."""
    try:
        parsed = make_url(url)
    except ArgumentError as e:
        raise SetupError("the address of city.db is no URL; write sqlite:///folder/city.db") from e
    if parsed.get_backend_name() != "sqlite" or not parsed.database or parsed.database == ":memory:":
        # The address may hold a password: name its kind only.
        raise SetupError(
            f"city.db is kept in a SQLite file, not in {parsed.drivername!r}; write sqlite:///folder/city.db"
        )
    return Path(parsed.database)


def _make_private(path: Path) -> None:
    """Create the file for its owner only (it holds digests of credentials); SQLite gives its WAL the same rights."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except FileNotFoundError as e:
        raise StorageError(f"{path} cannot be made: the folder {path.parent} does not exist; create it") from e
    except OSError as e:
        if e.errno == errno.ENOSPC:
            raise storage_error(path, e) from e
        raise StorageError(
            f"{path} cannot be opened for writing ({e.strerror}); check the folder's owner and rights"
        ) from e


def _writing_engine(path: Path) -> Engine:
    engine = sqlalchemy.create_engine(
        "sqlite://",
        creator=lambda: open_for_writing(path, "FULL"),
        # The one connection of the file that may write, kept for good.
        poolclass=StaticPool,
    )

    def begin(connection: Connection) -> None:
        # At once, not at the first write: a lock is then refused before any work is done. The driver's own
        # transaction handling is off (isolation_level None), it would begin too late and commit before DDL.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    event.listen(engine, "begin", begin)
    return engine


def _reading_engine(path: Path) -> Engine:
    engine = sqlalchemy.create_engine(
        "sqlite://",
        creator=lambda: open_for_reading(path),
        poolclass=QueuePool,
        pool_size=READERS,
        max_overflow=0,
    )

    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    event.listen(engine, "begin", begin)
    return engine


def _translated(path: Path, error: DBAPIError) -> StorageError:
    original: Any = error.orig
    return storage_error(path, original if isinstance(original, sqlite3.Error) else error)
