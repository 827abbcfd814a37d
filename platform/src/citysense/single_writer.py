"""One SQLite file, one writing thread, group commit.

Owns the only writing connection to a file (two writers can corrupt a WAL before SQLite 3.51.3) and the moment when a
commit happens: an urgent job commits at once, before all that is not urgent, and takes along what fits; others wait at
most `window` seconds for company. A job's future is resolved only after the COMMIT that holds it has returned. Must not
know what jobs write.

Jobs of one kind keep their order; an urgent one overtakes the others. No caller may rely on more than that, and none
does: who needs one job before another waits for its future first. Records of one lane, and batches of one gateway, come
in order because each is asked for after the one before was answered, or with the same urgency; a repeat of a frame is
recognised inside its transaction, whichever of the two comes first; cursors and trimming name offsets that have been
read, so they have been committed.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from citysense.crash_points import CrashPoints
from citysense.errors import Overloaded, StorageClosed, StorageDamaged, StorageError, StorageFull

T = TypeVar("T")
Job = Callable[[sqlite3.Connection], T]
Durability = str

log = logging.getLogger(__name__)

BULK_WINDOW_S = 0.010
"""Bulk waits at most 10 ms for a commit."""
QUEUE_BOUND = 50_000
"""Items of each kind, urgent or not, that wait for the thread: a storm's worst second, and 75 MB. Beyond it, senders are
told to wait. Urgent ones have a bound of their own: a storm of bulk must not cost a flood its place."""
BATCH_BOUND = 1_000
"""Items of one transaction, unless one job has more: bounds how long an urgent job waits behind the one under way."""


@dataclass(slots=True)
class _Waiting:
    """A job and whom to tell. `items` is how many rows' worth of work it is, for the bounds; `waited` says that it has
    had its wait for company."""

    job: Job[Any]
    loop: asyncio.AbstractEventLoop
    committed: Callable[[Any], None]
    failed: Callable[[BaseException], None]
    items: int
    waited: bool


class _Queue:
    """Jobs of one kind, in order, how many items they are together, and how many of the jobs have waited."""

    __slots__ = ("items", "jobs", "waited")

    def __init__(self) -> None:
        self.jobs: deque[_Waiting] = deque()
        self.items = 0
        self.waited = 0

    def put(self, waiting: _Waiting) -> None:
        self.jobs.append(waiting)
        self.items += waiting.items
        self.waited += waiting.waited

    def take(self, room: int) -> list[_Waiting]:
        """The first jobs that fit into `room` items; at least one where there is room at all."""
        taken: list[_Waiting] = []
        while self.jobs and room > 0:
            waiting = self.jobs.popleft()
            taken.append(waiting)
            self.items -= waiting.items
            self.waited -= waiting.waited
            room -= waiting.items
        return taken


Outcome = tuple[_Waiting, Any, BaseException | None]
"""A job, and either its result or what went wrong."""


class SingleWriter:
    """The thread that owns a SQLite file.

    `rolled_back` is called in that thread whenever a transaction is undone: what jobs remember beside the file, of rows
    that they have just written, is not true any more.
    """

    def __init__(
        self,
        path: Path,
        *,
        schema: Job[None],
        synchronous: Durability = "FULL",
        window: float = BULK_WINDOW_S,
        crash: CrashPoints | None = None,
        crash_prefix: str = "",
        rolled_back: Callable[[], None] | None = None,
    ) -> None:
        self._path = path
        self._schema = schema
        self._synchronous = synchronous
        self._window = window
        self._crash = crash or CrashPoints()
        self._crash_prefix = crash_prefix
        self._rolled_back = rolled_back
        self._urgent = _Queue()
        self._patient = _Queue()
        self._ready = threading.Condition()
        self._closing = False
        self._opened: threading.Event = threading.Event()
        self._open_error: StorageError | None = None
        self._thread: threading.Thread | None = None
        self._failing = False
        self.commits = 0

    def open(self) -> None:
        """Open or create the file and start the thread; what a killed process left in the file is on the disk afterwards.

        Raises StorageError with a sentence for a person; then it may be tried again.
        """
        self._opened.clear()
        self._open_error = None
        self._thread = threading.Thread(target=self._run, name=f"writer {self._path.name}", daemon=True)
        self._thread.start()
        self._opened.wait()
        if self._open_error is not None:
            self._thread.join()
            self._thread = None
            raise self._open_error

    def close(self) -> None:
        """Commit what waits, close the file, end the thread."""
        if self._thread is None:
            return
        with self._ready:
            self._closing = True
            self._ready.notify()
        self._thread.join()
        self._thread = None

    @property
    def waiting(self) -> int:
        """Items not yet taken into a transaction."""
        return self._urgent.items + self._patient.items

    def submit(self, job: Job[T], *, urgent: bool, committed: Callable[[T], None] | None = None) -> asyncio.Future[T]:
        """Queue `job`, an urgent one before all that are not.

        The future holds its result after the commit, or what it or the file raised; see `post` for the rest.
        `committed` is called with the result also when nobody waits for the future any more.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def done(result: T) -> None:
            if committed is not None:
                committed(result)
            if not future.cancelled():
                future.set_result(result)

        def failed(error: BaseException) -> None:
            if not future.cancelled():
                future.set_exception(error)

        self.post(job, urgent=urgent, committed=done, failed=failed)
        return future

    def post(
        self,
        job: Job[T],
        *,
        urgent: bool,
        committed: Callable[[T], None],
        failed: Callable[[BaseException], None],
        items: int = 1,
        waited: bool = False,
    ) -> None:
        """Queue `job` without a future; either `committed` or `failed` is called in the event loop, in the order of the
        commits. One that has `waited` for company already is committed at once, but overtakes nobody.

        A job may refuse with a ValueError, LookupError or ArithmeticError: its caller gets it, and nothing of the job
        is kept. Raises StorageClosed or Overloaded at once. Call from a running event loop.
        """
        loop = asyncio.get_running_loop()
        with self._ready:
            if self._closing or self._thread is None:
                raise StorageClosed(f"{self._path.name} is closed")
            queue = self._urgent if urgent else self._patient
            if queue.items >= QUEUE_BOUND:
                raise Overloaded(
                    f"{QUEUE_BOUND} writes wait for {self._path.name}; the disk is too slow for what comes in"
                )
            before = queue.items
            queue.put(_Waiting(job, loop, committed, failed, items, waited))
            if urgent or waited or not before or before < BATCH_BOUND <= queue.items:
                self._ready.notify()

    def _run(self) -> None:
        try:
            connection = open_for_writing(self._path, self._synchronous)
            try:
                connection.execute("BEGIN IMMEDIATE")
                self._schema(connection)
                write_something(connection)
                connection.execute("COMMIT")
            except (sqlite3.Error, UnicodeDecodeError) as e:
                connection.close()
                raise storage_error(self._path, e) from e
            except StorageError:
                connection.close()
                raise
        except StorageError as e:
            self._open_error = e
            self._opened.set()
            return
        except BaseException:
            # A fault of ours. Whoever opens the file must not wait for ever for a thread that is gone.
            self._open_error = StorageClosed(f"{self._path.name}: opening it failed through a fault of ours")
            self._opened.set()
            raise
        self._opened.set()
        batch: list[_Waiting] = []
        try:
            while batch := self._next_batch():
                self._commit(connection, batch)
        except BaseException:
            # A fault of ours in a job. Nobody may wait for ever for a thread that is gone: all are told, the process
            # goes down, and its supervisor starts it again.
            self._abandon(batch)
            raise
        finally:
            connection.close()

    def _abandon(self, batch: Sequence[_Waiting]) -> None:
        """Refuse what is under way, what waits and what would come."""
        with self._ready:
            self._closing = True
            left = [*batch, *self._urgent.jobs, *self._patient.jobs]
            self._urgent, self._patient = _Queue(), _Queue()
        error = StorageClosed(
            f"{self._path.name}: the writer stopped after a fault of its own; start the process again"
        )
        resolve([(item, None, error) for item in left])

    def _next_batch(self) -> list[_Waiting]:
        """Wait for work; an empty list means the end."""
        with self._ready:
            while not self.waiting and not self._closing:
                self._ready.wait()
            if self._patient.jobs and not self._no_reason_to_wait():
                self._ready.wait_for(self._no_reason_to_wait, timeout=self._window)
            batch = self._urgent.take(BATCH_BOUND)
            return batch + self._patient.take(BATCH_BOUND - sum(waiting.items for waiting in batch))

    def _no_reason_to_wait(self) -> bool:
        return (
            bool(self._urgent.jobs) or self._closing or self._patient.waited > 0 or self._patient.items >= BATCH_BOUND
        )

    def _commit(self, connection: sqlite3.Connection, batch: Sequence[_Waiting]) -> None:
        """One transaction for all of `batch`; what a refusing job has written goes, what its neighbours wrote stays."""
        left = list(batch)
        while left and (refusing := self._transact(connection, left)) is not None:
            left = [item for item in left if item is not refusing]

    def _transact(self, connection: sqlite3.Connection, batch: Sequence[_Waiting]) -> _Waiting | None:
        """Commit `batch` and tell all; or undo it, tell the one job that wrote before it refused, and return that job."""
        outcomes: list[Outcome] = []
        try:
            connection.execute("BEGIN IMMEDIATE")
            for item in batch:
                before = connection.total_changes
                try:
                    outcomes.append((item, item.job(connection), None))
                except (ValueError, LookupError, ArithmeticError) as e:
                    if connection.total_changes == before:
                        outcomes.append((item, None, e))
                        continue
                    # It changed rows before it refused: all start again without it, its neighbours are not concerned.
                    self._roll_back(connection)
                    resolve([(item, None, e)])
                    return item
            self._end_transaction(connection)
        except (sqlite3.Error, OSError, StorageError) as e:
            self._roll_back(connection)
            error = e if isinstance(e, StorageError) else storage_error(self._path, e)
            if not self._failing:
                log.error("%s: writing fails: %s", self._path.name, error)
            self._failing = True
            outcomes = [(item, None, error) for item in batch]
        resolve(outcomes)
        return None

    def _roll_back(self, connection: sqlite3.Connection) -> None:
        if self._rolled_back is not None:
            self._rolled_back()
        if connection.in_transaction:
            connection.execute("ROLLBACK")

    def _end_transaction(self, connection: sqlite3.Connection) -> None:
        if self._crash_prefix:
            self._crash.at(f"{self._crash_prefix}.before_commit")
        connection.execute("COMMIT")
        self.commits += 1
        if self._crash_prefix:
            self._crash.at(f"{self._crash_prefix}.after_commit")
        if self._failing:
            log.warning("%s: writing works again", self._path.name)
        self._failing = False


def resolve(outcomes: Sequence[Outcome]) -> None:
    """Hand results back, one wake-up per event loop and batch."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Outcome]] = {}
    for outcome in outcomes:
        by_loop.setdefault(outcome[0].loop, []).append(outcome)
    for loop, mine in by_loop.items():
        if not loop.is_closed():
            loop.call_soon_threadsafe(_settle, mine)


def _settle(outcomes: Sequence[Outcome]) -> None:
    for item, result, error in outcomes:
        try:
            if error is None:
                item.committed(result)
            else:
                item.failed(error)
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as e:
            # A defect of whoever was told; the others of the same commit wait for their word.
            item.loop.call_exception_handler({"message": "a defect met the outcome of a write", "exception": e})


def open_for_writing(path: Path, synchronous: Durability) -> sqlite3.Connection:
    """A WAL connection with explicit transactions. Raises StorageError."""
    try:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={synchronous}")
        connection.execute("PRAGMA busy_timeout=5000")
        connection.execute("PRAGMA foreign_keys=ON")
        # Debian's SQLite overwrites deleted pages, which writes every record a second time, and cannot be done at all on
        # a full disk, where deleting is what helps. FAST overwrites only what is written anyway.
        connection.execute("PRAGMA secure_delete=FAST")
        # Keep the WAL from growing for ever after a burst; the next checkpoint gives the rest back.
        connection.execute("PRAGMA journal_size_limit=67108864")
    except (sqlite3.Error, UnicodeDecodeError) as e:
        raise storage_error(path, e) from e
    return connection


def write_something(connection: sqlite3.Connection) -> None:
    """Make the transaction under way a writing one, so that its COMMIT syncs the whole write-ahead log.

    A process that was killed between writing and syncing leaves transactions that are read as committed and may not be
    on the disk. A COMMIT without a write of its own syncs nothing: a repeat would be confirmed that a power cut could
    still take. To be done once after a file was opened. Writes a number of the file's head that nobody uses.
    """
    number = connection.execute("PRAGMA user_version").fetchone()[0]
    connection.execute(f"PRAGMA user_version={number}")


def open_for_reading(path: Path) -> sqlite3.Connection:
    """A connection that cannot write and never checkpoints. Raises StorageError."""
    try:
        connection = sqlite3.connect(
            f"file:{path}?mode=ro", uri=True, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        connection.execute("PRAGMA query_only=ON")
        connection.execute("PRAGMA busy_timeout=5000")
    except sqlite3.Error as e:
        raise storage_error(path, e) from e
    return connection


def storage_error(path: Path, error: Exception) -> StorageError:
    """`error` of SQLite or the system as one of ours, with the file and what to do."""
    text = str(error)
    if "disk is full" in text or "No space left" in text or ("disk I/O error" in text and _no_space(path)):
        return StorageFull(f"{path}: no space left on the disk; free some space, the product heals by itself")
    if "unable to open" in text or "readonly" in text or "read-only" in text:
        return StorageError(f"{path} cannot be opened for writing; check the folder's owner and rights ({text})")
    # SQLite quotes what it finds in a damaged file, also where that is no text.
    if isinstance(error, UnicodeDecodeError) or any(
        words in text for words in ("not a database", "malformed", "Could not decode")
    ):
        return StorageDamaged(
            f"{path} is damaged ({text}); move it away and start again, then restore it from a backup"
        )
    return StorageError(f"{path}: {text}")


def _no_space(path: Path) -> bool:
    """SQLite says "disk I/O error" for a short write of its shared memory; the file system knows the reason."""
    return shutil.disk_usage(path.parent).free < 1 << 20
