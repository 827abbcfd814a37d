"""The gateway's spool: the durable log, and beside it what is needed to recognise repeats.

Whether a frame is a repeat is decided in the very transaction that stores it, so no crash can come between. Owns
DIR/spool.db, and there also the table of records that the platform will never take; the policy when space runs out is
the log's.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from citysense import lane_account, wire
from citysense.clock import Clock
from citysense.crash_points import CrashPoints
from citysense.durable_log import MAX_BYTES, DurableLog, Entry, Plan
from citysense.errors import StorageError
from citysense.log_schema import Owner, step
from citysense.record_format import CLASS_CODES, Record
from citysense.reserve import RESERVE_BYTES
from citysense.single_writer import BULK_WINDOW_S
from citysense_gateway.fingerprint import KEPT_MS, Counted, Fingerprint, Keyed
from citysense_gateway.frame import Receipt
from citysense_gateway.received_numbers import SCHEMA as NUMBERS_SCHEMA
from citysense_gateway.received_numbers import ReceivedNumbers
from citysense_profiles.reading import ReadingClass

JOB_BOUND = 500
"""Frames of one job of the writer: half of what it takes into one transaction."""
MAX_KEYS = 1_000_000
"""Keys kept at most, about 100 MB; at 200 frames a second without a counter they last for more than an hour."""
PRUNE_CHUNK = 2_000
"""Keys deleted in one go: about 10 ms, which an urgent commit may have to wait."""
MAX_REFUSED = 10_000
"""Refused dead letters and tombstones kept at most, the newest: a few MB, and at worst 0.7 GB of full-sized letters."""

OWNER = Owner(
    name="spool",
    steps=(
        step(
            1,
            "numbers, keys, refused records",
            NUMBERS_SCHEMA,
            "CREATE TABLE IF NOT EXISTS fingerprint(id INTEGER PRIMARY KEY, key BLOB UNIQUE, seen INTEGER)",
            # Offsets are never reused and count over all classes, so a record that comes here again stands here once.
            "CREATE TABLE IF NOT EXISTS refused_record"
            "(offset INTEGER PRIMARY KEY, class INTEGER, blob BLOB, reason TEXT)",
        ),
    ),
)
"""The tables of the spool itself; files of the first release have them without a number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Aside:
    """A record that the platform will never take and that is no reading, with the platform's words."""

    record: Record
    reason: str


class Stored(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What became of a frame. Either way it is durable now."""

    duplicate: bool
    receipt: Receipt | None = None


class Put(msgspec.Struct, kw_only=True):
    """One frame to store: its readings per class, all or none, unless it is a repeat.

    `beside` is a dead letter to keep with them, of a frame that was usable only in part. `told` is called once, in the
    event loop: with what became of the frame after the commit, or with why it was not stored.
    """

    device: str
    readings: Mapping[ReadingClass, wire.Readings]
    fingerprint: Fingerprint
    received: int
    told: Callable[[Stored | BaseException], None]
    beside: wire.DeadLetter | None = None


class Spool:
    """Durable log of one gateway. `log` is for its readers; `owners` are others with tables in the same file."""

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
        window: float = BULK_WINDOW_S,
        owners: Sequence[Owner] = (),
    ) -> None:
        self._numbers = ReceivedNumbers()
        self._waiting: list[Put] = []
        self._urgent = False
        self._timer: asyncio.TimerHandle | None = None
        self._window = window
        self._alone: set[asyncio.Task[None]] = set()
        self.log = DurableLog(
            path,
            clock=clock,
            crash=crash,
            crash_prefix="spool",
            synchronous=synchronous,
            owners=(OWNER, *owners),
            reserve_bytes=reserve_bytes,
            max_bytes=max_bytes,
            rolled_back=self._numbers.forget,
        )
        self._clock = clock
        self._max_keys = max_keys
        self._max_refused = max_refused

    def open(self) -> None:
        """Open or create the file. Raises SetupError or StorageError with a sentence that says what to do."""
        self.log.open()

    def close(self) -> None:
        """Commit what waits and close."""
        self._hand_over()
        self.log.close()

    def put(self, put: Put) -> None:
        """Store a frame: one with safety readings with whatever else came in this turn of the event loop, others within
        the window that bulk may wait for company."""
        waiting = self._waiting
        waiting.append(put)
        if not self._urgent and ReadingClass.SAFETY in put.readings:
            self._urgent = True
            asyncio.get_running_loop().call_soon(self._hand_over)
        elif len(waiting) == 1:
            self._timer = asyncio.get_running_loop().call_later(self._window, self._hand_over)
        if len(waiting) == JOB_BOUND:
            self._hand_over()

    def _hand_over(self) -> None:
        """Give the writer all that waits as one job."""
        puts, self._waiting = self._waiting, []
        urgent, self._urgent = self._urgent, False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not puts:
            return

        def told(outcomes: Sequence[Stored]) -> None:
            for put, stored in zip(puts, outcomes, strict=True):
                put.told(stored)

        def failed(error: BaseException) -> None:
            # One by one, on the way that gives the reserve back: what stops one frame need not stop its neighbours.
            for put in puts:
                task = asyncio.ensure_future(self._store_alone(put))
                self._alone.add(task)
                task.add_done_callback(self._alone.discard)

        try:
            self.log.post(self._plan(puts), urgent=urgent, committed=told, failed=failed, items=len(puts))
        except StorageError as e:
            # Not from within `put`: whoever delivers has not finished with the frame.
            for put in puts:
                asyncio.get_running_loop().call_soon(put.told, e)

    async def _store_alone(self, put: Put) -> None:
        urgent = ReadingClass.SAFETY in put.readings
        try:
            (stored,) = await self.log.append(self._plan([put]), urgent=urgent)
        except (StorageError, ValueError, LookupError, ArithmeticError) as e:
            put.told(e)
        else:
            put.told(stored)

    def _plan(self, puts: Sequence[Put]) -> Plan[list[Stored]]:
        def plan(connection: sqlite3.Connection) -> tuple[list[Entry], list[Stored]]:
            entries: list[Entry] = []
            outcomes: list[Stored] = []
            try:
                for put in puts:
                    stored = self._recognise(connection, put)
                    outcomes.append(stored)
                    if not stored.duplicate:
                        _add_entries(entries, put)
                self._numbers.write(connection)
            except BaseException:
                self._numbers.forget()
                raise
            return entries, outcomes

        return plan

    def _recognise(self, connection: sqlite3.Connection, put: Put) -> Stored:
        """Whether the frame was stored before; remembers it."""
        match put.fingerprint:
            case Counted() as counted:
                is_new, done = self._numbers.count(connection, put.device, counted)
                receipt = None if done is None else Receipt(boot=counted.boot, seq=done)
                return Stored(duplicate=not is_new, receipt=receipt)
            case Keyed() as keyed:
                return Stored(duplicate=_seen(connection, keyed, put.received, self._clock.now_ms()))
            case None:
                return Stored(duplicate=False)

    async def keep(self, letter: wire.DeadLetter) -> None:
        """Append a dead letter; returns after the commit. Raises StorageError where nothing could be stored."""
        entry = Entry(cls=ReadingClass.STATE, body=wire.encode(letter), device=letter.device, time=letter.received)
        await self.log.append_entries([entry], urgent=False)

    async def give_up(
        self, gone: Iterable[Record], letters: Iterable[wire.DeadLetter], aside: Iterable[Aside], *, urgent: bool
    ) -> None:
        """Keep what the platform will never take, and take the records `gone`, of which it is made, out of their lanes,
        all or nothing; returns after the commit.

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

        places = [(CLASS_CODES[record.cls], record.offset) for record in gone]

        def plan(connection: sqlite3.Connection) -> tuple[list[Entry], None]:
            for code, offset in places:
                lane_account.delete(connection, lane_account.FINISHED, code, offset, offset)
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


def _add_entries(entries: list[Entry], put: Put) -> None:
    device, received = put.device, put.received
    for cls, of_class in put.readings.items():
        entries.append(Entry(cls=cls, body=wire.encode(of_class), device=device, time=received))
    if put.beside is not None:
        entries.append(Entry(cls=ReadingClass.STATE, body=wire.encode(put.beside), device=device, time=received))


def _seen(connection: sqlite3.Connection, frame: Keyed, received: int, now_ms: int) -> bool:
    row = connection.execute("SELECT seen FROM fingerprint WHERE key=?", (frame.key,)).fetchone()
    if row is not None and frame.may_repeat and received - row[0] <= frame.lifetime_ms:
        return True
    # REPLACE gives a new id, so that keys stand in the order in which they were last seen. Now, also with a frame that
    # was received long ago and is read again: its key would be too old to keep at once.
    connection.execute("INSERT OR REPLACE INTO fingerprint(key, seen) VALUES(?, ?)", (frame.key, now_ms))
    return False
