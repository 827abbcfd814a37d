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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from citysense import record_format, wire
from citysense.clock import Clock
from citysense.crash_points import CrashPoints
from citysense.errors import SetupError, StorageError, StorageFull
from citysense.record_format import CLASS_CODES, Record, RecordDamaged
from citysense.reserve import RESERVE_BYTES, Reserve
from citysense.single_writer import SingleWriter, open_for_reading, storage_error
from citysense_profiles.reading import ReadingClass

T = TypeVar("T")

log = logging.getLogger(__name__)

MAX_BYTES = 8 << 30
"""A log larger than this counts as full: eight days of a prefecture's steady load, well inside a small disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One record to append. `device` and `time` (ms) are what a tombstone would say of it."""

    cls: ReadingClass
    body: bytes
    device: str
    time: int


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
    ) -> None:
        self._path = path
        self._clock = clock
        self._more_schema = schema
        self._max_bytes = max_bytes
        self._reserve = Reserve(path.with_suffix(".reserve"), size=reserve_bytes)
        self._writer = SingleWriter(
            path, schema=self._prepare, synchronous=synchronous, crash=crash, crash_prefix=crash_prefix
        )
        self._reader: sqlite3.Connection | None = None
        self._next_offset = 1
        self._wakeups: dict[ReadingClass, list[asyncio.Event]] = {cls: [] for cls in ReadingClass}
        self._short = False
        self._damaged: set[tuple[int, int]] = set()
        self.spool_id = ""
        self.entombed = 0
        """Records replaced by tombstones since the start."""

    # -- life ---------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Open or create the file. Raises SetupError or StorageError with a sentence that says what to do."""
        if not self._reserve.allocate():
            raise SetupError(
                f"{self._path.parent}: no space left on the disk; free at least {RESERVE_BYTES >> 20} MB and start again"
            )
        self._writer.open()
        self._reader = open_for_reading(self._path)

    def close(self) -> None:
        """Commit what waits and close."""
        self._writer.close()
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _prepare(self, connection: sqlite3.Connection) -> None:
        for statement in _SCHEMA:
            connection.execute(statement)
        if self._more_schema is not None:
            self._more_schema(connection)
        connection.execute("INSERT OR IGNORE INTO meta VALUES('spool_id', ?)", (secrets.token_hex(16),))
        connection.execute("INSERT OR IGNORE INTO meta VALUES('next_offset', 1)")
        meta = dict(connection.execute("SELECT key, value FROM meta"))
        self.spool_id = str(meta["spool_id"])
        self._next_offset = int(meta["next_offset"])

    # -- writing ------------------------------------------------------------------------------------------------------

    async def append(self, plan: Plan[T], *, urgent: bool) -> T:
        """Run `plan` in a transaction, append what it returns, and give its result after the commit.

        Raises StorageFull when neither disk nor reserve can hold it; StorageError for other faults of the file.
        """
        job = self._job(plan)
        try:
            result, classes = await self._writer.submit(job, urgent=urgent)
        except StorageFull:
            if self._reserve.release():
                log.error("%s: disk full; the reserve is in use, state and bulk readings become tombstones", self._path)
            self._short = True
            result, classes = await self._writer.submit(job, urgent=urgent)
        for cls in classes:
            for event in self._wakeups[cls]:
                event.set()
        return result

    async def append_entries(self, entries: Sequence[Entry], *, urgent: bool) -> None:
        """Append `entries` without a decision."""
        await self.append(lambda _connection: (entries, None), urgent=urgent)

    def _job(self, plan: Plan[T]) -> Callable[[sqlite3.Connection], tuple[T, set[ReadingClass]]]:
        def run(connection: sqlite3.Connection) -> tuple[T, set[ReadingClass]]:
            entries, result = plan(connection)
            return result, self._write(connection, entries)

        return run

    def _write(self, connection: sqlite3.Connection, entries: Sequence[Entry]) -> set[ReadingClass]:
        classes: set[ReadingClass] = set()
        rows = []
        # From the table, not from memory: a transaction that was rolled back must not leave a gap that looks like loss.
        offset = connection.execute("SELECT value FROM meta WHERE key='next_offset'").fetchone()[0] if entries else 0
        for entry in entries:
            if self._short and entry.cls is not ReadingClass.SAFETY:
                self._entomb(connection, entry, "disk_full")
                continue
            rows.append((CLASS_CODES[entry.cls], offset, record_format.pack(offset, entry.cls, entry.body)))
            classes.add(entry.cls)
            offset += 1
        if rows:
            connection.executemany("INSERT INTO record VALUES(?, ?, ?)", rows)
            connection.execute("UPDATE meta SET value=? WHERE key='next_offset'", (offset,))
        return classes

    def _entomb(self, connection: sqlite3.Connection, entry: Entry, reason: str) -> None:
        connection.execute(
            "INSERT INTO tombstone VALUES(?, ?, ?, ?, ?, 1) ON CONFLICT DO UPDATE SET"
            " first=min(first, excluded.first), last=max(last, excluded.last), count=count+1",
            (entry.device, CLASS_CODES[entry.cls], reason, entry.time, entry.time),
        )
        self.entombed += 1

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
        for offset, blob in self._query(
            "SELECT offset, blob FROM record WHERE class=? AND offset>? ORDER BY offset LIMIT ?", (code, after, limit)
        ):
            try:
                record = record_format.unpack(blob)
                if (record.offset, record.cls) != (offset, cls):
                    raise RecordDamaged(f"record of offset {record.offset} stands at {offset}")
            except RecordDamaged as e:
                self._set_aside(code, offset, cls, e)
                continue
            records.append(record)
        return records

    def _set_aside(self, code: int, offset: int, cls: ReadingClass, error: RecordDamaged) -> None:
        if (code, offset) in self._damaged:
            return
        self._damaged.add((code, offset))
        log.error("%s: record %d of class %s is damaged (%s); set aside", self._path.name, offset, cls, error)
        now = self._clock.now_ms()

        def move(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT OR IGNORE INTO damaged SELECT * FROM record WHERE class=? AND offset=?", (code, offset)
            )
            connection.execute("DELETE FROM record WHERE class=? AND offset=?", (code, offset))
            self._entomb(connection, Entry(cls=cls, body=b"", device="", time=now), "damaged")

        self._writer.submit(move, urgent=False)

    def depth(self, cls: ReadingClass, name: str) -> int:
        """Records of a lane that reader `name` has not finished."""
        row = self._query(
            "SELECT count(*) FROM record WHERE class=?1 AND offset>"
            "coalesce((SELECT offset FROM cursor WHERE name=?2 AND class=?1), 0)",
            (CLASS_CODES[cls], name),
        )[0]
        return int(row[0])

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

    async def advance(self, name: str, cls: ReadingClass, offset: int, *, trim: bool = False) -> None:
        """Reader `name` has finished a lane up to `offset`; with `trim` the records up to there are deleted."""
        code = CLASS_CODES[cls]

        def job(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT INTO cursor VALUES(?, ?, ?) ON CONFLICT DO UPDATE SET offset=max(offset, excluded.offset)",
                (name, code, offset),
            )
            if trim:
                connection.execute("DELETE FROM record WHERE class=? AND offset<=?", (code, offset))

        await self._writer.submit(job, urgent=False)

    async def trim(self, cls: ReadingClass, readers: Sequence[str], *, keep: int) -> None:
        """Delete what every one of `readers` has finished, but the last `keep` offsets."""
        floor = min(self.cursor(name, cls) for name in readers) - keep
        if floor > 0:
            code = CLASS_CODES[cls]
            await self._writer.submit(
                lambda c: c.execute("DELETE FROM record WHERE class=? AND offset<=?", (code, floor)) and None,
                urgent=False,
            )

    @property
    def short_of_space(self) -> bool:
        """True while state and bulk readings become tombstones."""
        return self._short

    async def tend(self) -> None:
        """Call once a second: heals after space has returned, and turns tombstones into records that can be seen."""
        size = self._query("SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()", ())[0][0]
        free = self._query("SELECT freelist_count * page_size FROM pragma_freelist_count(), pragma_page_size()", ())[0][
            0
        ]
        too_large = size - free > self._max_bytes
        if too_large and not self._short:
            log.error(
                "%s: larger than %d bytes; state and bulk readings become tombstones", self._path, self._max_bytes
            )
        self._short = too_large or (self._short and not self._reserve.allocate())
        if not self._short and self._query("SELECT 1 FROM tombstone LIMIT 1", ()):
            await self.append(self._publish_tombstones, urgent=False)

    def _publish_tombstones(self, connection: sqlite3.Connection) -> tuple[Sequence[Entry], None]:
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
