"""The durable log: gateway spool and platform log are both one of these.

Append returns after the commit. Every record has an offset that is never reused and a class that is its lane; readers
follow a lane from an offset of their own and say what may be trimmed. A log that has grown to its bound gives up its
oldest bulk and state readings. When the disk is full the log gives its reserve back: safety is stored in it, state and
bulk are acknowledged and become counted tombstones, and only when the reserve is used up does an append raise
StorageFull. Owns the policy when full, and the life of the file; must not know what a body means, apart from the
tombstones it writes itself.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec

from citysense import eviction, lane_account, log_check, record_format, salvage
from citysense.clock import Clock
from citysense.crash_points import CrashPoints
from citysense.errors import SetupError, StorageDamaged, StorageError, StorageFull
from citysense.lane_reader import LAST_OFFSET, LaneReader
from citysense.log_schema import Owner, bring_up
from citysense.record_format import CLASS_CODES
from citysense.reserve import RESERVE_BYTES, Reserve
from citysense.single_writer import Job, SingleWriter
from citysense_profiles.reading import ReadingClass

T = TypeVar("T")

log = logging.getLogger(__name__)

MAX_BYTES = 8 << 30
"""A log larger than this gives up its oldest: eight days of a prefecture's steady load, well inside a small disk."""
ROOM_AGAIN = 0.9
"""A log that was too large is so until it is below this share of its bound; else it would go back and forth, and tell so,
with every batch."""
MOST_WAL_BYTES = 192 << 20
"""A write-ahead log that another process's reader keeps from being folded back is not let grow beyond this by state and
bulk; what safety still writes stays far below the 256 MB that an operator was promised."""
MOST_PAGES = (1 << 30) - 1
"""SQLite's own bound of a file, in pages."""
DISK_FULL = "disk_full"
LOG_FULL = "log_full"
LOG_PINNED = "log_pinned"
DAMAGED = log_check.DAMAGED
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


class DurableLog(LaneReader):
    """A log in one SQLite file with one owner process. `owners` have further tables in it.

    `readers` by lane: what all of them have finished and `trim` still keeps is the first to go when the log is too large.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Clock,
        crash: CrashPoints | None = None,
        crash_prefix: str = "",
        synchronous: str = "FULL",
        owners: Sequence[Owner] = (),
        readers: Mapping[ReadingClass, Sequence[str]] | None = None,
        reserve_bytes: int = RESERVE_BYTES,
        max_bytes: int = MAX_BYTES,
        rolled_back: Callable[[], None] | None = None,
    ) -> None:
        self._owners = tuple(owners)
        self._readers = dict(readers or {})
        self._max_bytes = max_bytes
        self._reserve = Reserve(path.with_suffix(".reserve"), size=reserve_bytes)
        writer = SingleWriter(
            path,
            schema=self._prepare,
            synchronous=synchronous,
            crash=crash,
            crash_prefix=crash_prefix,
            rolled_back=rolled_back,
        )
        super().__init__(path, clock=clock, writer=writer)
        self._short: str | None = None
        self._crowded = False
        self.spool_id = ""
        self.salvaged: salvage.Salvage | None = None
        """What was saved from a damaged file at this start; owners of further tables may have to make up for losses."""

    # -- life ---------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Open or create the file. Raises SetupError or StorageError with a sentence that says what to do."""
        if not self._reserve.allocate():
            raise SetupError(
                f"{self._path.parent}: no space left on the disk;"
                f" free at least {(self._reserve.size >> 20) + 1} MB and start again"
            )
        salvage.finish_interrupted(self._path)
        try:
            if not log_check.head_is_whole(self._path):
                raise StorageDamaged("its head is not that of a database")
            self._open_writer()
        except StorageDamaged as e:
            log.error("%s: %s; saving what can be read", self._path, e)
            self.salvaged = salvage.salvage(self._path, owners=self._owners, clock=self._clock)
            self._open_writer()
        self._open_reader()

    def _open_writer(self) -> None:
        try:
            self._writer.open()
        except StorageFull:
            # Started anew on a disk that is full: the reserve is there for this.
            if not self._reserve.release():
                raise
            self._short = DISK_FULL
            self._writer.open()

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
        thorough = log_check.read_through(connection, self._path)
        bring_up(connection, self._owners)
        log_check.tables_are_whole(connection, self._owners)
        log_check.put_right(connection, self._path.name)
        if thorough:
            self.entombed += log_check.entomb_vanished(connection, self._path.name, self._clock.now_ms())
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
        for cls in outcome[1].lanes:
            self._wake(cls)

    def _wake(self, cls: ReadingClass) -> None:
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
                    _entomb(connection, entry, short)
                    written.entombed += 1
                continue
            rows.append((CLASS_CODES[entry.cls], offset, record_format.pack(offset, entry.cls, entry.body)))
            first, count = written.lanes.get(entry.cls, (offset, 0))
            written.lanes[entry.cls] = (first, count + 1)
            offset += 1
        if rows:
            connection.executemany("INSERT INTO record VALUES(?, ?, ?)", rows)
            connection.execute("UPDATE meta SET value=? WHERE key='next_offset'", (offset,))
            for cls, (_, count) in written.lanes.items():
                lane_account.count(connection, lane_account.APPENDED, CLASS_CODES[cls], count)
        return written

    # -- upkeep -------------------------------------------------------------------------------------------------------

    async def advance(
        self, name: str, cls: ReadingClass, offset: int, *, trim: bool = False, urgent: bool = False
    ) -> None:
        """Reader `name` has finished a lane up to `offset`; with `trim` the records up to there are deleted."""
        code = CLASS_CODES[cls]

        def job(connection: sqlite3.Connection) -> None:
            before = connection.execute(
                "SELECT offset FROM cursor WHERE name=? AND class=?", (name, code)
            ).fetchone() or (0,)
            reached = max(offset, before[0])
            connection.execute(
                "INSERT INTO cursor VALUES(?, ?, ?, ?)"
                " ON CONFLICT DO UPDATE SET offset=excluded.offset, checksum=excluded.checksum",
                (name, code, reached, log_check.cursor_checksum(name, code, reached)),
            )
            if trim:
                lane_account.delete(connection, lane_account.FINISHED, code, 0, offset)

        await self._submit(job, urgent=urgent)

    async def finish(self, cls: ReadingClass, intervals: Sequence[tuple[int, int]], *, urgent: bool = False) -> None:
        """The only reader of a lane has finished these records (closed intervals) ahead of its cursor: they go."""
        if not intervals:
            return
        code = CLASS_CODES[cls]

        def job(connection: sqlite3.Connection) -> None:
            for first, last in intervals:
                lane_account.delete(connection, lane_account.FINISHED, code, first, last)

        await self._submit(job, urgent=urgent)

    async def trim(self, cls: ReadingClass, *, keep: int) -> None:
        """Delete what every one of the lane's readers has finished, but the last `keep` offsets."""
        floor = self._finished_by_all(cls) - keep
        if floor > 0:
            code = CLASS_CODES[cls]

            def job(connection: sqlite3.Connection) -> None:
                lane_account.delete(connection, lane_account.FINISHED, code, 0, floor)

            await self._submit(job, urgent=False)

    def _finished_by_all(self, cls: ReadingClass) -> int:
        return min((self.cursor(name, cls) for name in self._readers.get(cls, ())), default=0)

    async def tidy(self, job: Job[None]) -> None:
        """Run upkeep of the owner's own tables on the writer; it commits with whatever else waits."""
        await self._submit(job, urgent=False)

    @property
    def short_of_space(self) -> bool:
        """True while readings are given up: new ones of state and bulk, or the oldest of a log at its bound."""
        return self._short is not None or self._crowded

    async def tend(self) -> None:
        """Call once a second: heals after space has returned, keeps the file within its bound, and turns tombstones into
        records that can be seen.

        Raises StorageError; the next call tries again.
        """
        used = await self._keep_within_bound()
        was_short = self._short
        if (reason := self._too_large(used)) is not None:
            self._short = self._short or reason
        elif self._short and self._take_reserve():
            await self._writer.submit(_unbound_growth, urgent=True)
            self._short = None
        if self._short and self._short != DISK_FULL and was_short is None:
            log.error("%s: %s; state and bulk readings become tombstones", self._path, _WHY[self._short])
        if was_short and self._short is None:
            log.warning("%s: there is space again; all readings are kept", self._path)
        if not self.short_of_space and self._query("SELECT 1 FROM tombstone LIMIT 1", ()):
            await self.append(self._publish_tombstones, urgent=False)

    def _too_large(self, used: int) -> str | None:
        again = ROOM_AGAIN if self._short in (LOG_FULL, LOG_PINNED) else 1
        if self.wal_bytes > MOST_WAL_BYTES * again:
            return LOG_PINNED
        return LOG_FULL if used > self._max_bytes * again else None

    async def _keep_within_bound(self) -> int:
        """Give up the oldest until the log is within its bound, or only safety is left; the bytes in use then."""
        used = self._used()
        # On a full disk nothing is gained by it: the reserve is for safety, and deleting needs some of it.
        while used > self._max_bytes and self._short != DISK_FULL:
            excess = used - int(self._max_bytes * eviction.DOWN_TO)
            if (kept := self._oldest_finished(excess)) is not None:
                await self.finish(kept[0], [kept[1:]])
            elif (oldest := self._oldest(excess)) is not None:
                self._tell_crowded()
                await self._evict(*oldest)
            else:
                break
            used = self._used()
        if self._crowded and used <= self._max_bytes * ROOM_AGAIN:
            self._crowded = False
            log.warning("%s: well below its bound again; all readings are kept", self._path)
        return used

    def _tell_crowded(self) -> None:
        if not self._crowded:
            self._crowded = True
            log.error(
                "%s: larger than %d bytes; its oldest bulk and state readings become tombstones",
                self._path,
                self._max_bytes,
            )

    def _oldest_finished(self, excess: int) -> tuple[ReadingClass, int, int] | None:
        """What goes before anything else, for `excess` bytes: the oldest that all readers have finished; it costs
        nobody a reading."""
        for cls in self._readers:
            run = eviction.choose(
                self._oldest_sizes(cls, up_to=self._finished_by_all(cls), limit=eviction.CHUNK), (), enough=excess
            )
            if run is not None:
                return cls, *run
        return None

    def _oldest(self, excess: int) -> tuple[ReadingClass, int, int] | None:
        """What goes next, for `excess` bytes: a run of the oldest records that no reader has in its hands."""
        for cls in eviction.EXPENDABLE:
            held = [interval for (_, lane), interval in self._held.items() if lane is cls]
            run = eviction.choose(self._oldest_sizes(cls, up_to=LAST_OFFSET, limit=eviction.CHUNK), held, enough=excess)
            if run is not None:
                return cls, *run
        return None

    async def _evict(self, cls: ReadingClass, first: int, last: int) -> None:
        now = self._clock.now_ms()

        def job(connection: sqlite3.Connection) -> int:
            return eviction.evict(connection, cls, first, last, reason=LOG_FULL, now_ms=now)

        def committed(lost: int) -> None:
            self.entombed += lost

        self._leaving[cls] = (first, last)
        try:
            await self._submit(job, urgent=False, committed=committed)
        finally:
            del self._leaving[cls]
            # Readers stopped before it, and nothing else tells them that they can go on.
            self._wake(cls)

    def _take_reserve(self) -> bool:
        try:
            return self._reserve.allocate()
        except SetupError as e:  # a refusal to start is none while running: a fault of the disk that may pass
            raise StorageError(str(e)) from e

    def _publish_tombstones(self, connection: sqlite3.Connection) -> tuple[Sequence[Entry], None]:
        if self._short:
            return (), None  # the disk has just become full: they wait, or would be counted away themselves
        return [
            Entry(cls=ReadingClass.STATE, body=msgspec.msgpack.encode(told), device=told.device, time=told.last)
            for told in lane_account.take_tombstones(connection)
        ], None


_WHY = {
    LOG_FULL: "larger than its bound, and all that is left is safety",
    LOG_PINNED: "its write-ahead log cannot be folded back because another process keeps reading; end that reader",
}


def _entomb(connection: sqlite3.Connection, entry: Entry, reason: str) -> None:
    lane_account.entomb(
        connection,
        device=entry.device,
        code=CLASS_CODES[entry.cls],
        reason=reason,
        first=entry.time,
        last=entry.time,
    )


def _unbound_growth(connection: sqlite3.Connection) -> None:
    connection.execute(f"PRAGMA max_page_count={MOST_PAGES}")
