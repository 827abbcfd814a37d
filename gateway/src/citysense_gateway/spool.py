"""The gateway's spool: the durable log, and beside it what is needed to recognise repeats.

Whether a frame is a repeat is decided in the very transaction that stores it, so no crash can come between. Owns
DIR/spool.db, and there also the table of records that the platform will never take; the policy when space runs out is
the log's.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from citysense import wire
from citysense.clock import Clock
from citysense.crash_points import CrashPoints
from citysense.durable_log import MAX_BYTES, DurableLog, Entry
from citysense.record_format import CLASS_CODES, Record
from citysense.reserve import RESERVE_BYTES
from citysense_gateway.fingerprint import KEPT_MS, Counted, Fingerprint, Keyed
from citysense_gateway.frame import Receipt
from citysense_gateway.sequence import Sequence, pack_ranges, receive, unpack_ranges
from citysense_profiles.reading import ReadingClass

BOOTS_KEPT = 16
"""Boots whose sequence numbers are remembered per device; the last one for as long as the device is silent."""
MAX_KEYS = 1_000_000
"""Keys kept at most, about 100 MB; at 200 frames a second without a counter they last for more than an hour."""
PRUNE_CHUNK = 2_000
"""Keys deleted in one go: about 10 ms, which an urgent commit may have to wait."""
MAX_REFUSED = 10_000
"""Refused dead letters and tombstones kept at most, the newest: a few MB, and at worst 0.7 GB of full-sized letters."""

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS sequence(device TEXT, boot INTEGER, next INTEGER, received BLOB,"
    " PRIMARY KEY(device, boot)) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS fingerprint(id INTEGER PRIMARY KEY, key BLOB UNIQUE, seen INTEGER)",
    # Offsets are never reused and count over all classes, so a record that comes here again stands here once.
    "CREATE TABLE IF NOT EXISTS refused_record(offset INTEGER PRIMARY KEY, class INTEGER, blob BLOB, reason TEXT)",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Aside:
    """A record that the platform will never take and that is no reading, with the platform's words."""

    record: Record
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What became of a frame. Either way it is durable now."""

    duplicate: bool
    receipt: Receipt | None = None


class Spool:
    """Durable log of one gateway. `log` is for its readers."""

    def __init__(
        self,
        path: Path,
        *,
        clock: Clock,
        crash: CrashPoints,
        synchronous: str = "FULL",
        reserve_bytes: int = RESERVE_BYTES,
        max_bytes: int = MAX_BYTES,
        max_keys: int = MAX_KEYS,
        max_refused: int = MAX_REFUSED,
    ) -> None:
        self.log = DurableLog(
            path,
            clock=clock,
            crash=crash,
            crash_prefix="spool",
            synchronous=synchronous,
            schema=_prepare,
            reserve_bytes=reserve_bytes,
            max_bytes=max_bytes,
        )
        self._clock = clock
        self._max_keys = max_keys
        self._max_refused = max_refused

    def open(self) -> None:
        """Open or create the file. Raises SetupError or StorageError with a sentence that says what to do."""
        self.log.open()

    def close(self) -> None:
        """Commit what waits and close."""
        self.log.close()

    async def store(
        self,
        device: str,
        readings: Mapping[ReadingClass, wire.Readings],
        fingerprint: Fingerprint,
        *,
        received: int,
        beside: wire.DeadLetter | None = None,
    ) -> Stored:
        """Append the readings of one frame, all or none, unless the frame is a repeat; returns after the commit.

        `beside` is a dead letter to keep with them, of a frame that was usable only in part.

        Raises StorageError where nothing could be stored.
        """
        entries = [
            Entry(cls=cls, body=wire.encode(of_class), device=device, time=received)
            for cls, of_class in readings.items()
        ]
        if beside is not None:
            entries.append(Entry(cls=ReadingClass.STATE, body=wire.encode(beside), device=device, time=received))

        def plan(connection: sqlite3.Connection) -> tuple[list[Entry], Stored]:
            stored = _recognise(connection, device, fingerprint, received)
            return ([] if stored.duplicate else entries), stored

        return await self.log.append(plan, urgent=ReadingClass.SAFETY in readings)

    async def keep(self, letter: wire.DeadLetter) -> None:
        """Append a dead letter; returns after the commit. Raises StorageError where nothing could be stored."""
        entry = Entry(cls=ReadingClass.STATE, body=wire.encode(letter), device=letter.device, time=letter.received)
        await self.log.append_entries([entry], urgent=False)

    async def give_up(self, letters: Iterable[wire.DeadLetter], aside: Iterable[Aside], *, urgent: bool) -> None:
        """Keep what the platform will never take, all or nothing, before it is trimmed; returns after the commit.

        Of readings a dead letter is appended. A dead letter or tombstone would only be refused as another dead letter,
        for ever: it stays here, in the table `refused_record`. Raises StorageError where nothing could be stored.
        """
        entries = [
            Entry(cls=ReadingClass.STATE, body=wire.encode(letter), device=letter.device, time=letter.received)
            for letter in letters
        ]
        rows = [
            (refused.record.offset, CLASS_CODES[refused.record.cls], refused.record.body, refused.reason)
            for refused in aside
        ]

        def plan(connection: sqlite3.Connection) -> tuple[list[Entry], None]:
            connection.executemany("INSERT OR REPLACE INTO refused_record VALUES(?, ?, ?, ?)", rows)
            connection.execute(
                "DELETE FROM refused_record WHERE offset<="
                "(SELECT offset FROM refused_record ORDER BY offset DESC LIMIT 1 OFFSET ?)",
                (self._max_refused,),
            )
            return entries, None

        await self.log.append(plan, urgent=urgent)

    async def tend(self) -> None:
        """Call once a second: upkeep of the log, and keys that are too old or too many go."""
        await self.log.tend()
        oldest = self.log.select("SELECT id, seen FROM fingerprint ORDER BY id LIMIT 1")
        if not oldest:
            return
        newest = self.log.select("SELECT max(id) FROM fingerprint")[0][0]
        too_many, too_old = newest - self._max_keys, self._clock.now_ms() - KEPT_MS
        if oldest[0][0] <= too_many or oldest[0][1] < too_old:

            def prune(connection: sqlite3.Connection) -> None:
                connection.execute(
                    "DELETE FROM fingerprint WHERE id IN (SELECT id FROM fingerprint ORDER BY id LIMIT ?)"
                    " AND (id<=? OR seen<?)",
                    (PRUNE_CHUNK, too_many, too_old),
                )

            await self.log.tidy(prune)


def _prepare(connection: sqlite3.Connection) -> None:
    for statement in _SCHEMA:
        connection.execute(statement)


def _recognise(connection: sqlite3.Connection, device: str, fingerprint: Fingerprint, received: int) -> Stored:
    """Whether the frame was stored before; remembers it."""
    match fingerprint:
        case Counted():
            return _count(connection, device, fingerprint)
        case Keyed():
            return Stored(duplicate=_seen(connection, fingerprint, received))
        case None:
            return Stored(duplicate=False)


def _count(connection: sqlite3.Connection, device: str, frame: Counted) -> Stored:
    row = connection.execute(
        "SELECT next, received FROM sequence WHERE device=? AND boot=?", (device, frame.boot)
    ).fetchone()
    before = Sequence(next=row[0], received=unpack_ranges(row[1])) if row else Sequence()
    after, is_new = receive(before, frame.seq, frame.base)
    if after != before:
        connection.execute(
            "INSERT INTO sequence VALUES(?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET next=excluded.next, received=excluded.received",
            (device, frame.boot, after.next, pack_ranges(after.received)),
        )
    if row is None:
        connection.execute(
            # Never the present one: a device whose counter was reset would be counted from nothing with each frame.
            "DELETE FROM sequence WHERE device=?1 AND boot<>?3 AND boot<"
            "(SELECT boot FROM sequence WHERE device=?1 ORDER BY boot DESC LIMIT 1 OFFSET ?2)",
            (device, BOOTS_KEPT - 1, frame.boot),
        )
    done = after.contiguous
    return Stored(duplicate=not is_new, receipt=None if done is None else Receipt(boot=frame.boot, seq=done))


def _seen(connection: sqlite3.Connection, frame: Keyed, received: int) -> bool:
    row = connection.execute("SELECT seen FROM fingerprint WHERE key=?", (frame.key,)).fetchone()
    if row is not None and frame.may_repeat and received - row[0] <= frame.lifetime_ms:
        return True
    # REPLACE gives a new id, so that keys stand in the order in which they were last seen.
    connection.execute("INSERT OR REPLACE INTO fingerprint(key, seen) VALUES(?, ?)", (frame.key, received))
    return False
