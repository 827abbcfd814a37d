"""The durable log: gateway spool and platform log are both one of these.

Append returns after the commit. Every record has an offset that is never reused and a class that is its lane; readers
follow a lane from an offset of their own and say what may be trimmed. When the disk is full the log gives its reserve
back: safety is stored in it, state and bulk are acknowledged and become counted tombstones, and only when the reserve
is used up does an append raise StorageFull. Owns the file format and the policy when full; must not know what a body
means, apart from the tombstones it writes itself.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from citysense import record_format, wire
from citysense.clock import Clock
from citysense.crash_points import CrashPoints
from citysense.errors import SetupError, StorageError, StorageFull
from citysense.lane_depths import LaneDepths
from citysense.record_format import CLASS_CODES, Record, RecordDamaged
from citysense.reserve import RESERVE_BYTES, Reserve
from citysense.single_writer import Job, SingleWriter, open_for_reading, storage_error
from citysense_profiles.reading import ReadingClass

T = TypeVar("T")

log = logging.getLogger(__name__)

MAX_BYTES = 8 << 30
"""A log larger than this counts as full: eight days of a prefecture's steady load, well inside a small disk."""
ROOM_AGAIN = 0.9
"""A log that was too large is so until it is below this share of its bound; else it would go back and forth, and tell so,
with every batch."""
MOST_PAGES = (1 << 30) - 1
"""SQLite's own bound of a file, in pages."""
DISK_FULL = "disk_full"
LOG_FULL = "log_full"
DAMAGED = "damaged"
"""Why readings that were acknowledged were given up; the words stand in the tombstones."""


class Entry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One record to append. `device` and `time` (ms) are what a tombstone would say of it.

    An `expendable` one that is given up leaves no tombstone: nobody's reading is lost with it.
    """

    cls: ReadingClass
    body: bytes
    device: str
    time: int
    expendable: bool = False


@dataclass(slots=True)
class _Written:
    """What one job appended: per lane the lowest offset and the number; and how many became tombstones."""

    lanes: dict[ReadingClass, tuple[int, int]] = field(default_factory=dict)
    entombed: int = 0


Plan = Callable[[sqlite3.Connection], tuple[Sequence[Entry], T]]
"""Decides inside the transaction what to append, and what the caller is told. Decide first, write after."""

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS record(class INTEGER, offset INTEGER, blob BLOB, PRIMARY KEY(class, offset)) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS cursor(name TEXT, class INTEGER, offset INTEGER, PRIMARY KEY(name, class)) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS tombstone(device TEXT, class INTEGER, reason TEXT, first INTEGER, last INTEGER, count INTEGER,"
    " PRIMARY KEY(device, class, reason)) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS damaged(class INTEGER, offset INTEGER, blob BLOB, PRIMARY KEY(class, offset)) WITHOUT ROWID",
)


class DurableLog:
    """A log in one SQLite file with one owner process."""

    def __init__(
        self,
        path: Path,
        *,
        clock: Clock,
        crash: CrashPoints | None = None,
        crash_prefix: str = "",
        synchronous: str = "FULL",
        schema: Callable[[sqlite3.Connection], None] | None = None,
        reserve_bytes: int = RESERVE_BYTES,
        max_bytes: int = MAX_BYTES,
        rolled_back: Callable[[], None] | None = None,
    ) -> None:
        self._path = path
        self._clock = clock
        self._more_schema = schema
        self._max_bytes = max_bytes
        self._reserve = Reserve(path.with_suffix(".reserve"), size=reserve_bytes)
        self._writer = SingleWriter(
            path,
            schema=self._prepare,
            synchronous=synchronous,
            crash=crash,
            crash_prefix=crash_prefix,
            rolled_back=rolled_back,
        )
        self._reader: sqlite3.Connection | None = None
        self._depths = LaneDepths()
        self._wakeups: dict[ReadingClass, list[asyncio.Event]] = {cls: [] for cls in ReadingClass}
        self._short: str | None = None
        self._damaged: set[tuple[int, int]] = set()
        self.spool_id = ""
        self.entombed = 0
        """Records replaced by tombstones since the start."""

    # -- life ---------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Open or create the file. Raises SetupError or StorageError with a sentence that says what to do."""
        if not self._reserve.allocate():
            raise SetupError(
                f"{self._path.parent}: no space left on the disk;"
                f" free at least {(self._reserve.size >> 20) + 1} MB and start again"
            )
        try:
            self._writer.open()
        except StorageFull:
            # Started anew on a disk that is full: the reserve is there for this.
            if not self._reserve.release():
                raise
            self._short = DISK_FULL
            self._writer.open()
        self._reader = open_for_reading(self._path)

    def close(self) -> None:
        """Commit what waits and close."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        # Last: whoever closes last folds the write-ahead log into the file, and only the writer may write.
        self._writer.close()

    def _prepare(self, connection: sqlite3.Connection) -> None:
        if self._short:
            self._bound_growth(connection)
        for statement in _SCHEMA:
            connection.execute(statement)
        if self._more_schema is not None:
            self._more_schema(connection)
        connection.execute("INSERT OR IGNORE INTO meta VALUES('spool_id', ?)", (secrets.token_hex(16),))
        connection.execute("INSERT OR IGNORE INTO meta VALUES('next_offset', 1)")
        self.spool_id = str(connection.execute("SELECT value FROM meta WHERE key='spool_id'").fetchone()[0])

    # -- writing ------------------------------------------------------------------------------------------------------

    async def append(self, plan: Plan[T], *, urgent: bool) -> T:
        """Run `plan` in a transaction, append what it returns, and give its result after the commit.

        Raises StorageFull when neither disk nor reserve can hold it; StorageError for other faults of the file.
        """

        def job(connection: sqlite3.Connection) -> tuple[T, _Written]:
            # One answer for the whole job: the loop's thread may find the disk full while this one writes.
            short = self._short
            entries, result = plan(connection)
            return result, self._write(connection, entries, short)

        return (await self._submit(job, urgent=urgent, committed=self._announce))[0]

    def post(
        self,
        plan: Plan[T],
        *,
        urgent: bool,
        committed: Callable[[T], None],
        failed: Callable[[BaseException], None],
        items: int,
    ) -> None:
        """`append` for many frames a second, which have waited for each other: no task, no future, no further wait; one
        of the two is called in the event loop.

        Does not give the reserve back: whoever is told of StorageFull appends again, with `append`. `items` is how many
        rows' worth of work the plan is. Raises StorageClosed or Overloaded at once.
        """

        def job(connection: sqlite3.Connection) -> tuple[T, _Written]:
            short = self._short
            entries, result = plan(connection)
            return result, self._write(connection, entries, short)

        def done(outcome: tuple[T, _Written]) -> None:
            self._announce(outcome)
            committed(outcome[0])

        self._writer.post(job, urgent=urgent, committed=done, failed=failed, items=items, waited=True)

    async def append_entries(self, entries: Sequence[Entry], *, urgent: bool) -> None:
        """Append `entries` without a decision."""
        await self.append(lambda _connection: (entries, None), urgent=urgent)

    async def _submit(self, job: Job[T], *, urgent: bool, committed: Callable[[T], None] | None = None) -> T:
        """Run `job` on the writer; when the disk is full, once more with the reserve given back."""
        try:
            return await self._writer.submit(job, urgent=urgent, committed=committed)
        except StorageFull:
            if self._reserve.release():
                log.error("%s: disk full; the reserve is in use, state and bulk readings become tombstones", self._path)
                await self._writer.submit(self._bound_growth, urgent=True)
            self._short = self._short or DISK_FULL
            return await self._writer.submit(job, urgent=urgent, committed=committed)

    def _bound_growth(self, connection: sqlite3.Connection) -> None:
        """Let the file grow by half of the reserve only. The other half is for the write-ahead log: were it used up as
        well, not even deleting what has been delivered would be possible, and the log would never heal by itself."""
        pages, page_size = connection.execute(
            "SELECT page_count, page_size FROM pragma_page_count, pragma_page_size"
        ).fetchone()
        connection.execute(f"PRAGMA max_page_count={pages + self._reserve.size // 2 // page_size}")

    def _announce(self, outcome: tuple[object, _Written]) -> None:
        self.entombed += outcome[1].entombed
        for cls, (first, count) in outcome[1].lanes.items():
            self._depths.appended(cls, first=first, count=count)
            for event in self._wakeups[cls]:
                event.set()

    def _write(self, connection: sqlite3.Connection, entries: Sequence[Entry], short: str | None) -> _Written:
        written = _Written()
        rows = []
        # From the table, not from memory: a transaction that was rolled back must not leave a gap that looks like loss.
        offset = connection.execute("SELECT value FROM meta WHERE key='next_offset'").fetchone()[0] if entries else 0
        for entry in entries:
            if short and entry.cls is not ReadingClass.SAFETY:
                if not entry.expendable:
                    self._entomb(connection, entry, short)
                    written.entombed += 1
                continue
            rows.append((CLASS_CODES[entry.cls], offset, record_format.pack(offset, entry.cls, entry.body)))
            first, count = written.lanes.get(entry.cls, (offset, 0))
            written.lanes[entry.cls] = (first, count + 1)
            offset += 1
        if rows:
            connection.executemany("INSERT INTO record VALUES(?, ?, ?)", rows)
            connection.execute("UPDATE meta SET value=? WHERE key='next_offset'", (offset,))
        return written

    def _entomb(self, connection: sqlite3.Connection, entry: Entry, reason: str) -> None:
        connection.execute(
            "INSERT INTO tombstone VALUES(?, ?, ?, ?, ?, 1) ON CONFLICT DO UPDATE SET"
            " first=min(first, excluded.first), last=max(last, excluded.last), count=count+1",
            (entry.device, CLASS_CODES[entry.cls], reason, entry.time, entry.time),
        )

    # -- reading ------------------------------------------------------------------------------------------------------

    def wakeup(self, *classes: ReadingClass) -> asyncio.Event:
        """An event that is set after each commit of one of `classes`. Clear it, then read, then wait."""
        event = asyncio.Event()
        for cls in classes:
            self._wakeups[cls].append(event)
        return event

    def read(self, cls: ReadingClass, *, after: int, limit: int) -> list[Record]:
        """Up to `limit` records of a lane with offsets above `after`, in order.

        A damaged record is left out, moved aside and replaced by a tombstone; it never stops the lane.
        """
        code = CLASS_CODES[cls]
        records: list[Record] = []
        while True:
            wanted = limit - len(records)
            rows = self._query(
                "SELECT offset, blob FROM record WHERE class=? AND offset>? ORDER BY offset LIMIT ?",
                (code, after, wanted),
            )
            for offset, blob in rows:
                after = offset
                try:
                    records.append(_whole(offset, cls, blob))
                except RecordDamaged as e:
                    self._set_aside(offset, cls, e)
            # Damaged ones left room, and behind them there may be more: an empty list means the end of the lane.
            if len(rows) < wanted or len(records) == limit:
                return records

    def _set_aside(self, offset: int, cls: ReadingClass, error: RecordDamaged) -> None:
        code = CLASS_CODES[cls]
        if (code, offset) in self._damaged:
            return
        self._damaged.add((code, offset))
        log.error("%s: record %d of class %s is damaged (%s); set aside", self._path.name, offset, cls, error)
        now = self._clock.now_ms()

        def move(connection: sqlite3.Connection) -> None:
            of_it = (code, offset)
            connection.execute("INSERT OR IGNORE INTO damaged SELECT * FROM record WHERE class=? AND offset=?", of_it)
            connection.execute("DELETE FROM record WHERE class=? AND offset=?", of_it)
            self._entomb(connection, Entry(cls=cls, body=b"", device="", time=now), DAMAGED)

        def committed(_: None) -> None:
            self.entombed += 1
            self._depths.removed(cls, offset)

        def moved(future: asyncio.Future[None]) -> None:
            if not future.cancelled() and future.exception() is not None:
                self._damaged.discard((code, offset))  # the disk is full: it is found again at the next reading

        # Urgent, so that it is not overtaken by a reader's advance, which may delete what is to be set aside.
        future = self._writer.submit(move, urgent=True, committed=committed)
        future.add_done_callback(moved)

    def depth(self, cls: ReadingClass, name: str) -> int:
        """Records of a lane that reader `name` has not finished."""
        known = self._depths.get(name, cls)
        if known is not None:
            return known
        # One statement, so that all three numbers are of the same moment.
        count, next_offset, finished = self._query(
            "SELECT (SELECT count(*) FROM record WHERE class=?1 AND offset>done.value),"
            " (SELECT value FROM meta WHERE key='next_offset'), done.value FROM"
            " (SELECT coalesce((SELECT offset FROM cursor WHERE name=?2 AND class=?1), 0) AS value) AS done",
            (CLASS_CODES[cls], name),
        )[0]
        self._depths.counted(name, cls, count=count, next_offset=next_offset, finished=finished)
        return int(count)

    def cursor(self, name: str, cls: ReadingClass) -> int:
        """The last offset that reader `name` has finished in a lane; 0 before the first."""
        rows = self._query("SELECT offset FROM cursor WHERE name=? AND class=?", (name, CLASS_CODES[cls]))
        return int(rows[0][0]) if rows else 0

    def select(self, statement: str, arguments: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Read a table that the owner added with `schema`."""
        return self._query(statement, arguments)

    def _query(self, statement: str, arguments: Sequence[Any]) -> list[tuple[Any, ...]]:
        if self._reader is None:
            raise StorageError(f"{self._path.name} is not open")
        try:
            return self._reader.execute(statement, arguments).fetchall()
        except sqlite3.Error as e:
            raise storage_error(self._path, e) from e

    # -- upkeep -------------------------------------------------------------------------------------------------------

    async def advance(
        self, name: str, cls: ReadingClass, offset: int, *, trim: bool = False, urgent: bool = False
    ) -> None:
        """Reader `name` has finished a lane up to `offset`; with `trim` the records up to there are deleted."""
        code = CLASS_CODES[cls]

        def job(connection: sqlite3.Connection) -> int:
            count = connection.execute(
                "SELECT count(*) FROM record WHERE class=?1 AND offset<=?2 AND offset>"
                "coalesce((SELECT offset FROM cursor WHERE name=?3 AND class=?1), 0)",
                (code, offset, name),
            ).fetchone()[0]
            connection.execute(
                "INSERT INTO cursor VALUES(?, ?, ?) ON CONFLICT DO UPDATE SET offset=max(offset, excluded.offset)",
                (name, code, offset),
            )
            if trim:
                connection.execute("DELETE FROM record WHERE class=? AND offset<=?", (code, offset))
            return int(count)

        def committed(count: int) -> None:
            self._depths.finished(name, cls, offset=offset, count=count)

        await self._submit(job, urgent=urgent, committed=committed)

    async def trim(self, cls: ReadingClass, readers: Sequence[str], *, keep: int) -> None:
        """Delete what every one of `readers` has finished, but the last `keep` offsets."""
        floor = min(self.cursor(name, cls) for name in readers) - keep
        if floor > 0:
            code = CLASS_CODES[cls]

            def job(connection: sqlite3.Connection) -> None:
                connection.execute("DELETE FROM record WHERE class=? AND offset<=?", (code, floor))

            await self._submit(job, urgent=False)

    async def tidy(self, job: Job[None]) -> None:
        """Run upkeep of the owner's own tables on the writer; it commits with whatever else waits."""
        await self._submit(job, urgent=False)

    @property
    def short_of_space(self) -> bool:
        """True while state and bulk readings become tombstones."""
        return self._short is not None

    async def tend(self) -> None:
        """Call once a second: heals after space has returned, and turns tombstones into records that can be seen.

        Raises StorageError; the next call tries again.
        """
        size, free = self._query(
            "SELECT page_count * page_size, freelist_count * page_size"
            " FROM pragma_page_count(), pragma_freelist_count(), pragma_page_size()",
            (),
        )[0]
        was_short = self._short
        bound = self._max_bytes * (ROOM_AGAIN if self._short == LOG_FULL else 1)
        if size - free > bound:
            self._short = LOG_FULL
        elif self._short and self._take_reserve():
            await self._writer.submit(_unbound_growth, urgent=True)
            self._short = None
        if self._short == LOG_FULL and was_short is None:
            log.error(
                "%s: larger than %d bytes; state and bulk readings become tombstones", self._path, self._max_bytes
            )
        if was_short and self._short is None:
            log.warning("%s: there is space again; all readings are kept", self._path)
        if self._short is None and self._query("SELECT 1 FROM tombstone LIMIT 1", ()):
            await self.append(self._publish_tombstones, urgent=False)

    def _take_reserve(self) -> bool:
        try:
            return self._reserve.allocate()
        except SetupError as e:  # a refusal to start is none while running: a fault of the disk that may pass
            raise StorageError(str(e)) from e

    def _publish_tombstones(self, connection: sqlite3.Connection) -> tuple[Sequence[Entry], None]:
        if self._short:
            return (), None  # the disk has just become full: they wait, or would be counted away themselves
        classes = {code: cls for cls, code in CLASS_CODES.items()}
        rows = connection.execute("SELECT device, class, reason, first, last, count FROM tombstone").fetchall()
        connection.execute("DELETE FROM tombstone")
        entries = [
            Entry(
                cls=ReadingClass.STATE,
                body=msgspec.msgpack.encode(
                    wire.Tombstone(
                        device=device, cls=classes[code].value, reason=reason, first=first, last=last, count=count
                    )
                ),
                device=device,
                time=last,
            )
            for device, code, reason, first, last, count in rows
        ]
        return entries, None


def _whole(offset: int, cls: ReadingClass, blob: bytes) -> Record:
    """The record in `blob`, if it is the one of this place. Raises RecordDamaged."""
    record = record_format.unpack(blob)
    if (record.offset, record.cls) != (offset, cls):
        raise RecordDamaged(f"record of offset {record.offset} stands at {offset}")
    return record


def _unbound_growth(connection: sqlite3.Connection) -> None:
    connection.execute(f"PRAGMA max_page_count={MOST_PAGES}")
