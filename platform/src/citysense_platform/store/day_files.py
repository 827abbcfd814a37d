"""A folder of day files with one writing thread, bounded open files, and a cursor that is never ahead of the data.

Day files commit without a sync (`synchronous=NORMAL`): a power cut may take the newest rows of any of them, and each
loses another stretch. Nothing is lost for good, because the log is read again from a cursor that is safe:

- Every file carries the cursor up to which it is complete, written in the same transaction as its rows.
- The index file lists which day files are "dirty" (may hold rows that are not on the disk yet). A file enters the list
  with a synced commit before its first row, and leaves it after a synced one.
- The index carries a cursor of its own, committed last. Reading resumes at the minimum over the index and all dirty
  files, lane by lane.

A file that is idle or has to make room is synced and leaves the list, so dirty files are exactly the open ones. Owns
files, thread and cursors; must not know what rows mean.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from citysense.clock import Clock
from citysense.crash_points import CrashPoints
from citysense.errors import StorageClosed, StorageError
from citysense.single_writer import open_for_reading, storage_error
from citysense_platform.store.day_file import (
    DAY_MS,
    ODD_DAY,
    START,
    Cursors,
    DayFile,
    day_in_name,
    earlier,
    file_name,
    is_damage,
    later,
)
from citysense_profiles.reading import ReadingClass

T = TypeVar("T")
Schema = Callable[[sqlite3.Connection], None]
Job = Callable[[DayFile], object]

log = logging.getLogger(__name__)

MAX_OPEN = 8
"""Today, yesterday and a few days of late data; each open file costs three descriptors and up to 8 MB of cache."""
IDLE_S = 3600.0
"""A file untouched for an hour is synced and closed."""
READERS = 4
"""Reads at the same time; more would only take the processor from the writers."""
INDEX_DAY = -2
"""Stands for the index file where a day is asked for."""

_INDEX_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS dirty(day INTEGER PRIMARY KEY, log TEXT, safety INTEGER, state INTEGER, bulk INTEGER)"
)


_MARK_DIRTY = "INSERT OR REPLACE INTO dirty VALUES(?, ?, ?, ?, ?)"


class DayFiles:
    """Files `NAME-YYYY-MM-DD.db` by UTC day, `NAME-odd.db` for odd moments, and `NAME-index.db`.

    `schema` and `index_schema` run inside a transaction when a file is opened. `crash_point` is passed when all rows of
    a write are committed and the index's cursor is not.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        schema: Schema,
        index_schema: Schema,
        clock: Clock,
        max_open: int = MAX_OPEN,
        keep_days: int | None = None,
        crash: CrashPoints | None = None,
        crash_point: str = "",
    ) -> None:
        self._folder = folder
        self._name = name
        self._schema = schema
        self._index_schema = index_schema
        self._clock = clock
        self._max_open = max_open
        self._keep_days = keep_days
        self._crash = crash or CrashPoints()
        self._crash_point = crash_point
        self._log_id = ""
        self._thread: ThreadPoolExecutor | None = None
        self._readers = asyncio.Semaphore(READERS)
        self._index: DayFile | None = None
        self._open: OrderedDict[int, DayFile] = OrderedDict()
        self._days: frozenset[int] = frozenset()
        self._cursors: dict[ReadingClass, int] = dict(START)

    # -- life ---------------------------------------------------------------------------------------------------------

    async def open(self, log_id: str) -> None:
        """Open or create the folder; cursors of another log than `log_id` count as 0. Raises StorageError."""
        self._log_id = log_id
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"writer {self._name}")
        try:
            await self._on_thread(self._open_all)
        except StorageError:
            self._thread.shutdown()
            self._thread = None
            raise

    async def close(self) -> None:
        """Put everything on the disk and close; a second call does nothing."""
        if self._thread is None:
            return
        thread, self._thread = self._thread, None
        try:
            await asyncio.get_running_loop().run_in_executor(thread, self._close_all)
        finally:
            thread.shutdown()

    async def _on_thread(self, work: Callable[[], T]) -> T:
        """Run on the writing thread. Who writes waits for the result, so the thread's queue is as long as there are writers."""
        if self._thread is None:
            raise StorageClosed(f"the {self._name} files in {self._folder} are closed")
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _open_all(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            names = [path.name for path in self._folder.iterdir()]
        except OSError as e:
            raise StorageError(
                f"{self._folder} cannot be made or read ({e.strerror}); check its owner and rights"
            ) from e
        self._days = frozenset(day for file in names if (day := day_in_name(self._name, file)) is not None)
        self._index = self._open_file(INDEX_DAY, START)
        dirty = self._index.connection.execute(
            "SELECT day, safety, state, bulk FROM dirty WHERE log=?", (self._log_id,)
        ).fetchall()
        resume = dict(self._index.cursors)
        for day, *offsets in dirty:
            since = dict(zip(ReadingClass, offsets, strict=True))
            file = self._open_file(day, since)
            self._open[day] = file
            resume = earlier(resume, file.cursors)
        self._cursors = resume
        while len(self._open) > self._max_open:
            self._settle(next(iter(self._open)))

    def _close_all(self) -> None:
        try:
            for day in list(self._open):
                self._settle(day)
            if self._index is not None:
                self._index.settle(self._cursors)
        finally:
            for file in (*self._open.values(), *((self._index,) if self._index else ())):
                file.close()
            self._open.clear()
            self._index = None

    # -- writing ------------------------------------------------------------------------------------------------------

    @property
    def cursors(self) -> dict[ReadingClass, int]:
        """Where reading the log goes on."""
        return dict(self._cursors)

    async def write(
        self,
        jobs: Mapping[int, Job],
        cursors: Cursors | None,
        *,
        index_job: Job | None = None,
        synced: bool = False,
    ) -> None:
        """Run each day's job in that day's file, then `index_job`, and move the cursors to `cursors`.

        Each file is one transaction; a failure in between leaves earlier files written and the cursor where it was, so
        jobs must be idempotent. Without `cursors` no cursor moves. With `synced` the days' rows are on the disk when this
        returns, for what cannot be read from the log again. Raises StorageError.
        """
        await self._on_thread(lambda: self._write(jobs, cursors, index_job, synced))

    def _write(self, jobs: Mapping[int, Job], cursors: Cursors | None, index_job: Job | None, synced: bool) -> None:
        for day in sorted(jobs):
            file = self._writable(day)
            try:
                file.commit(jobs[day], cursors, synced=synced)
            except StorageError as e:
                if is_damage(e):
                    file.close()
                    del self._open[day]
                    self._set_aside(file.path, e)
                raise
        if self._crash_point and cursors is not None:
            self._crash.at(self._crash_point)
        if cursors is not None or index_job is not None:
            self._own_index().commit(index_job, cursors)
        if cursors is not None:
            self._cursors = dict(cursors)

    def _writable(self, day: int) -> DayFile:
        """The day's file, listed as dirty on the disk before anything is written to it."""
        file = self._open.get(day)
        if file is None:
            while len(self._open) >= self._max_open:
                self._settle(next(iter(self._open)))
            row = (day, self._log_id, *(self._cursors[cls] for cls in ReadingClass))
            self._own_index().commit(lambda index: index.connection.execute(_MARK_DIRTY, row), None, synced=True)
            file = self._open_file(day, self._cursors)
            self._open[day] = file
            self._days |= {day}
        self._open.move_to_end(day)
        file.used = self._clock.monotonic()
        return file

    def _own_index(self) -> DayFile:
        if self._index is None:
            raise StorageClosed(f"the {self._name} files in {self._folder} are closed")
        return self._index

    def _path(self, day: int) -> Path:
        return self._folder / (f"{self._name}-index.db" if day == INDEX_DAY else file_name(self._name, day))

    def _open_file(self, day: int, since: Cursors) -> DayFile:
        file = DayFile(self._path(day), day, log_id=self._log_id)
        file.used = self._clock.monotonic()
        schema = self._schema if day != INDEX_DAY else self._prepare_index
        try:
            file.open(schema, since)
        except StorageError as e:
            if not is_damage(e):
                raise
            self._set_aside(file.path, e)
            file.open(schema, since)
        return file

    def _prepare_index(self, connection: sqlite3.Connection) -> None:
        connection.execute(_INDEX_SCHEMA)
        self._index_schema(connection)

    def _set_aside(self, path: Path, error: StorageError) -> None:
        """One broken file must not stop the others; it is kept for whoever wants to rescue its rows."""
        aside = path.with_name(f"{path.name}.damaged-{self._clock.now_ms()}")
        log.error("%s; it is now called %s and a new one is begun", error, aside.name)
        path.rename(aside)
        for suffix in ("-wal", "-shm"):
            # SQLite would replay the old log into the new file.
            path.with_name(path.name + suffix).unlink(missing_ok=True)

    # -- upkeep -------------------------------------------------------------------------------------------------------

    async def sync(self) -> dict[ReadingClass, int]:
        """Put on the disk what was written; returns the cursors up to which even a power cut loses nothing."""
        return await self._on_thread(self._sync)

    def _sync(self) -> dict[ReadingClass, int]:
        for file in (*self._open.values(), self._own_index()):
            if file.unsynced or later(file.cursors, self._cursors) != file.cursors:
                file.commit(None, self._cursors, synced=True)
        return dict(self._cursors)

    def _settle(self, day: int) -> None:
        """Sync, fold in and close a day's file, then take it off the list of dirty ones."""
        file = self._open[day]
        file.settle(self._cursors)
        file.close()
        del self._open[day]
        self._own_index().commit(lambda index: index.connection.execute("DELETE FROM dirty WHERE day=?", (day,)), None)

    async def upkeep(self) -> None:
        """Close what is idle and delete the days that are older than the retention; call every few minutes."""
        await self._on_thread(self._tidy)

    def _tidy(self) -> None:
        now = self._clock.monotonic()
        for day in [day for day, file in self._open.items() if now - file.used >= IDLE_S]:
            self._settle(day)
        if self._keep_days is None:
            return
        oldest = self._clock.now_ms() // DAY_MS - self._keep_days
        for day in sorted(day for day in self._days if day < oldest and day != ODD_DAY):
            if day in self._open:
                self._settle(day)
            self._days -= {day}
            path = self._path(day)
            for suffix in ("", "-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            log.info("%s deleted: older than %d days", path.name, self._keep_days)

    # -- reading ------------------------------------------------------------------------------------------------------

    def days(self, start_ms: int, end_ms: int) -> list[int]:
        """Days with a file that may hold moments from `start_ms` up to, not including, `end_ms`; ODD_DAY first, then in order."""
        first, last = start_ms // DAY_MS, (end_ms - 1) // DAY_MS
        return sorted(day for day in self._days if first <= day <= last or day == ODD_DAY)

    async def read(
        self, days: Sequence[int], query: Callable[[int, sqlite3.Connection], list[T]], *, enough: int
    ) -> list[T]:
        """Rows of `query` over the files of `days`, in that order, until there are at least `enough`. Raises StorageError."""

        def run() -> list[T]:
            rows: list[T] = []
            for day in days:
                rows += self._read_file(day, query)
                if len(rows) >= enough:
                    break
            return rows

        async with self._readers:
            return await asyncio.to_thread(run)

    async def read_index(self, query: Callable[[sqlite3.Connection], list[T]]) -> list[T]:
        """Rows of `query` over the index file. Raises StorageError."""
        return await self.read([INDEX_DAY], lambda _day, connection: query(connection), enough=1)

    def _read_file(self, day: int, query: Callable[[int, sqlite3.Connection], list[T]]) -> list[T]:
        path = self._path(day)
        try:
            connection = open_for_reading(path)
        except StorageError:
            if path.exists():
                raise
            return []  # its retention ended while we were on the way
        try:
            return query(day, connection)
        except sqlite3.Error as e:
            raise storage_error(path, e) from e
        finally:
            connection.close()
