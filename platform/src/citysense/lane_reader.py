"""The reading half of a durable log: lanes in order, cursors, depths.

Owns the reading connection, and what readers have in their hands. A damaged record is left out, moved aside and replaced
by a tombstone; it never stops a lane. Decides nothing about what is deleted.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from citysense import lane_account, lane_count, log_check, record_format
from citysense.clock import Clock
from citysense.errors import StorageClosed, StorageDamaged, StorageError
from citysense.lane_account import LaneAccount
from citysense.record_format import CLASS_CODES, Record, RecordDamaged
from citysense.single_writer import SingleWriter, open_for_reading, storage_error
from citysense_profiles.reading import ReadingClass

log = logging.getLogger(__name__)

LAST_OFFSET = (1 << 63) - 1


class LaneReader:
    """What readers of a log call. All from one thread."""

    def __init__(self, path: Path, *, clock: Clock, writer: SingleWriter) -> None:
        self._path = path
        self._clock = clock
        self._writer = writer
        self._reader: sqlite3.Connection | None = None
        self._wakeups: dict[ReadingClass, list[asyncio.Event]] = {cls: [] for cls in ReadingClass}
        self._damaged: set[tuple[int, int]] = set()
        self._held: dict[tuple[str, ReadingClass], tuple[int, int]] = {}
        self._leaving: dict[ReadingClass, tuple[int, int]] = {}
        """What is being evicted just now: nobody is given it any more, and nobody reads past it."""
        self.entombed = 0
        """Records replaced by tombstones since the start."""

    def _open_reader(self) -> None:
        self._reader = open_for_reading(self._path)
        # A flipped bit may make text of a blob: that is a damaged record, and no reason to read no further.
        self._reader.text_factory = as_text

    def wakeup(self, *classes: ReadingClass) -> asyncio.Event:
        """An event that is set after each commit of one of `classes`. Clear it, then read, then wait."""
        event = asyncio.Event()
        for cls in classes:
            self._wakeups[cls].append(event)
        return event

    def read(self, cls: ReadingClass, *, after: int, limit: int, up_to: int | None = None) -> list[Record]:
        """Up to `limit` records of a lane with offsets above `after`, and not above `up_to`, in order; none at the lane's
        end, or where the next ones are just being evicted. Either way `wakeup` tells when there is more."""
        code = CLASS_CODES[cls]
        first_leaving, last_leaving = self._leaving.get(cls, (LAST_OFFSET, 0))
        records: list[Record] = []
        while True:
            wanted = limit - len(records)
            rows = self._query(
                "SELECT offset, blob FROM record WHERE class=? AND offset>? AND offset<=? ORDER BY offset LIMIT ?",
                (code, after, LAST_OFFSET if up_to is None else up_to, wanted),
            )
            for offset, blob in rows:
                if not isinstance(offset, int):
                    log_check.ask_for_check(self._path)
                    raise StorageClosed(
                        f"{self._path} has become damaged (offset {offset!r}); the next start salvages it"
                    )
                after = offset
                if first_leaving <= offset <= last_leaving:
                    # The eviction may fail, and then these are still to be read: whoever had what is behind them would
                    # say that all up to there is finished.
                    return records
                try:
                    records.append(_whole(offset, cls, blob))
                except RecordDamaged as e:
                    self._set_aside(offset, cls, e)
            # Some that were left out made room, and behind them there may be more: an empty list means the lane's end.
            if len(rows) < wanted or len(records) == limit:
                return records

    def hold(self, name: str, cls: ReadingClass, *, first: int, last: int) -> None:
        """Reader `name` may have passed on what it has just read from `first` to `last`: until it says so of others,
        these are not evicted. Call in the same turn of the event loop as `read`."""
        self._held[name, cls] = (first, last)

    def before_newest(self, cls: ReadingClass, count: int) -> int:
        """The offset of a lane behind which its newest `count` records stand; 0 if there are no more than these."""
        rows = self._query(
            "SELECT offset FROM record WHERE class=? ORDER BY offset DESC LIMIT 1 OFFSET ?", (CLASS_CODES[cls], count)
        )
        return int(rows[0][0]) if rows else 0

    def depth(self, cls: ReadingClass, name: str) -> int:
        """Records of a lane that reader `name` has not finished, by the lane's account: 5 us however long the lane is.

        Where records that it has finished are kept, these are counted.
        """
        # One statement, so that all numbers are of the same moment.
        count, waits = self._query(
            "SELECT (SELECT coalesce(sum(CASE fate WHEN 'appended' THEN count ELSE -count END), 0) FROM tally"
            " WHERE class=?1) - (SELECT count(*) FROM record WHERE class=?1 AND offset<=done.value),"
            " EXISTS(SELECT 1 FROM record WHERE class=?1 AND offset>done.value) FROM"
            " (SELECT coalesce((SELECT offset FROM cursor WHERE name=?2 AND class=?1), 0) AS value) AS done",
            (CLASS_CODES[cls], name),
        )[0]
        # An account that is wrong must not make an empty lane look as if it stood still.
        return max(int(count), 1) if waits else 0

    def cursor(self, name: str, cls: ReadingClass) -> int:
        """The last offset that reader `name` has finished in a lane; 0 before the first."""
        rows = self._query("SELECT offset FROM cursor WHERE name=? AND class=?", (name, CLASS_CODES[cls]))
        return int(rows[0][0]) if rows else 0

    async def accounts(self) -> dict[ReadingClass, LaneAccount]:
        """What became of the records of each lane that ever had one; counts them, see `lane_count`. Raises StorageError."""
        try:
            return await lane_count.count_lanes(self._path)
        except (sqlite3.Error, UnicodeDecodeError) as e:
            raise self._reading_error(e) from e

    @property
    def wal_bytes(self) -> int:
        """Size of the write-ahead log beside the file."""
        try:
            return self._path.with_name(self._path.name + "-wal").stat().st_size
        except FileNotFoundError:
            return 0

    def _used(self) -> int:
        """Bytes of the file that hold something."""
        size, free = self._query(
            "SELECT page_count * page_size, freelist_count * page_size"
            " FROM pragma_page_count(), pragma_freelist_count(), pragma_page_size()",
            (),
        )[0]
        return int(size - free)

    def _oldest_sizes(self, cls: ReadingClass, *, up_to: int, limit: int) -> list[tuple[int, int]]:
        """Offset and bytes of the first records of a lane, none above `up_to`."""
        rows = self._query(
            "SELECT offset, length(blob) FROM record WHERE class=? AND offset<=? ORDER BY offset LIMIT ?",
            (CLASS_CODES[cls], up_to, limit),
        )
        return [(offset, size) for offset, size in rows]

    def select(self, statement: str, arguments: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Read a table that an owner added."""
        return self._query(statement, arguments)

    def _query(self, statement: str, arguments: Sequence[Any]) -> list[tuple[Any, ...]]:
        if self._reader is None:
            raise StorageError(f"{self._path.name} is not open")
        try:
            return self._reader.execute(statement, arguments).fetchall()
        except (sqlite3.Error, UnicodeDecodeError) as e:
            raise self._reading_error(e) from e

    def _reading_error(self, e: Exception) -> StorageError:
        error = storage_error(self._path, e)
        if isinstance(error, StorageDamaged):
            # A page has gone bad since the start. Whoever reads here can only try for ever; the next start salvages.
            log_check.ask_for_check(self._path)
            return StorageClosed(f"{self._path} has become damaged ({e}); the next start salvages it")
        return error

    def _set_aside(self, offset: int, cls: ReadingClass, error: RecordDamaged) -> None:
        code = CLASS_CODES[cls]
        if (code, offset) in self._damaged:
            return
        self._damaged.add((code, offset))
        log.error("%s: record %d of class %s is damaged (%s); set aside", self._path.name, offset, cls, error)
        now = self._clock.now_ms()

        def move(connection: sqlite3.Connection) -> int:
            of_it = (code, offset)
            connection.execute("INSERT OR IGNORE INTO damaged SELECT * FROM record WHERE class=? AND offset=?", of_it)
            gone = lane_account.delete(connection, lane_account.SET_ASIDE, code, offset, offset)
            if gone:
                lane_account.entomb(connection, device="", code=code, reason=log_check.DAMAGED, first=now, last=now)
            return gone

        def committed(gone: int) -> None:
            self.entombed += gone

        def moved(future: asyncio.Future[int]) -> None:
            if not future.cancelled() and future.exception() is not None:
                self._damaged.discard((code, offset))  # the disk is full: it is found again at the next reading

        # Urgent, so that it is not overtaken by a reader's advance, which may delete what is to be set aside.
        future = self._writer.submit(move, urgent=True, committed=committed)
        future.add_done_callback(moved)


def as_text(content: bytes) -> str:
    """Text of a file of which some bytes may have changed."""
    return content.decode("utf-8", errors="replace")


def _whole(offset: int, cls: ReadingClass, blob: bytes) -> Record:
    """The record in `blob`, if it is the one of this place. Raises RecordDamaged."""
    record = record_format.unpack(blob)
    if (record.offset, record.cls) != (offset, cls):
        raise RecordDamaged(f"record of offset {record.offset} stands at {offset}")
    return record
