"""One SQLite file of one UTC day, open for writing: its rows, and the log cursor they are complete up to.

Owns the file's name, its cursor row and how a commit is made (quick, or synced to the disk). Only the writer thread of
`day_files` touches these objects; what the rows mean is the owner's matter.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from citysense.errors import StorageError
from citysense.single_writer import open_for_writing, storage_error
from citysense_profiles.reading import ReadingClass

Cursors = Mapping[ReadingClass, int]
"""Last finished offset of each lane of the log; 0 before the first."""
START: Cursors = dict.fromkeys(ReadingClass, 0)

DAY_MS = 86_400_000
ODD_DAY = -1
"""Stands for the one file of moments that are far from when they were received: a device with a broken clock must not
fill the folder with a file for each day it dreams of."""
PAST_MS = 366 * DAY_MS
"""A device that was cut off for a year may still deliver."""
FUTURE_MS = 2 * DAY_MS
"""A clock set to local time instead of UTC is at most 14 hours ahead."""


def day_of(time: int, received: int) -> int:
    """Number of the UTC day since 1970 whose file keeps `time`; ODD_DAY when it is far from `received`. Both in ms."""
    return time // DAY_MS if -PAST_MS <= time - received <= FUTURE_MS else ODD_DAY


def file_name(name: str, day: int) -> str:
    """`telemetry-2026-11-20.db`; `telemetry-odd.db` for ODD_DAY."""
    if day == ODD_DAY:
        return f"{name}-odd.db"
    return f"{name}-{datetime.fromtimestamp(day * DAY_MS / 1000, tz=UTC):%Y-%m-%d}.db"


def day_in_name(name: str, file: str) -> int | None:
    """The day whose file is called `file`, None when it is none of ours."""
    middle = file.removeprefix(f"{name}-").removesuffix(".db")
    if middle == "odd":
        return ODD_DAY
    try:
        moment = datetime.strptime(middle, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        return None
    day = int(moment.timestamp()) * 1000 // DAY_MS
    return day if file_name(name, day) == file else None


def later(one: Cursors, other: Cursors) -> dict[ReadingClass, int]:
    """Lane by lane the greater offset."""
    return {cls: max(one[cls], other[cls]) for cls in ReadingClass}


def earlier(one: Cursors, other: Cursors) -> dict[ReadingClass, int]:
    """Lane by lane the smaller offset."""
    return {cls: min(one[cls], other[cls]) for cls in ReadingClass}


def is_damage(error: sqlite3.Error | StorageError) -> bool:
    """True when the file itself is broken, not the disk or its rights."""
    text = str(error)
    return "not a database" in text or "malformed" in text


# `version` grows with every commit of the row: SQLite leaves out the write, and with it the sync, of a page that a
# statement did not change.
_CURSOR_TABLE = (
    "CREATE TABLE IF NOT EXISTS cursor(id INTEGER PRIMARY KEY CHECK(id=1), log TEXT, safety INTEGER, state INTEGER,"
    " bulk INTEGER, version INTEGER)"
)
_SET_CURSOR = (
    "INSERT INTO cursor VALUES(1, ?, ?, ?, ?, 0) ON CONFLICT DO UPDATE SET log=excluded.log, safety=excluded.safety,"
    " state=excluded.state, bulk=excluded.bulk, version=version+1"
)


class DayFile:
    """A file open for writing. `memo` is the owner's memory about its rows, forgotten when a commit fails."""

    def __init__(self, path: Path, day: int, *, log_id: str) -> None:
        self.path = path
        self.day = day
        self.used = 0.0
        """When it was last written, on the monotonic clock."""
        self.unsynced = False
        self.memo: dict[Any, Any] = {}
        self.cursors: dict[ReadingClass, int] = dict(START)
        self._log_id = log_id
        self._connection: sqlite3.Connection | None = None

    @property
    def connection(self) -> sqlite3.Connection:
        """The only writing connection to the file."""
        if self._connection is None:
            raise StorageError(f"{self.path.name} is not open")
        return self._connection

    def open(self, schema: Callable[[sqlite3.Connection], None], since: Cursors) -> None:
        """Open or create it. Its cursor is the one it carries for this log, and at least `since`. Raises StorageError."""
        self._connection = open_for_writing(self.path, "NORMAL")
        try:
            # Each series grows at an end of its own: with SQLite's 2 MB a batch over thousands of series reads most pages again.
            self.connection.execute("PRAGMA cache_size=-8192")
            self.connection.execute("BEGIN IMMEDIATE")
            self.connection.execute(_CURSOR_TABLE)
            schema(self.connection)
            row = self.connection.execute(
                "SELECT safety, state, bulk FROM cursor WHERE log=?", (self._log_id,)
            ).fetchone()
            self.connection.execute("COMMIT")
        except sqlite3.Error as e:
            self.close()
            raise storage_error(self.path, e) from e
        # What it holds may be of a process that was killed: rows that can be read and are not on the disk.
        self.unsynced = True
        carried = START if row is None else dict(zip(ReadingClass, row, strict=True))
        self.cursors = later(carried, since)

    def applied(self, cls: ReadingClass, offset: int) -> bool:
        """True when the rows of that log record are in this file already."""
        return offset <= self.cursors[cls]

    def commit(self, job: Callable[[DayFile], object] | None, cursors: Cursors | None, *, synced: bool = False) -> None:
        """Run `job` and move the cursor to `cursors` (never back) in one transaction; with `synced`, on the disk as well.

        Raises StorageError; then nothing of it is in the file.
        """
        moved = self.cursors if cursors is None else later(self.cursors, cursors)
        connection = self.connection
        try:
            if synced:
                connection.execute("PRAGMA synchronous=FULL")
            connection.execute("BEGIN IMMEDIATE")
            if job is not None:
                job(self)
            connection.execute(_SET_CURSOR, (self._log_id, *(moved[cls] for cls in ReadingClass)))
            connection.execute("COMMIT")
        except BaseException as e:
            self.memo.clear()
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if isinstance(e, sqlite3.Error):
                raise storage_error(self.path, e) from e
            raise
        finally:
            if synced:
                connection.execute("PRAGMA synchronous=NORMAL")
        self.cursors = moved
        self.unsynced = not synced

    def settle(self, cursors: Cursors) -> None:
        """Put everything on the disk and fold the write-ahead log into the file, so that it may be closed for long."""
        self.commit(None, cursors, synced=True)
        try:
            self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.Error as e:
            raise storage_error(self.path, e) from e

    def close(self) -> None:
        """Close the connection; committed rows stay."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
