"""What of OSCORE must survive a restart: sender numbers that were never used, and replay windows of a clean stop.

Owns two small tables beside the spool's. A sender number is reserved on disk before it is used, in blocks, so that no
crash can make one nonce protect two messages. All contexts draw from one counter: numbers need only be unique and
growing under each key (RFC 8613 section 5.2), and one row is reserved faster than ten thousand.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

from citysense.clock import Clock
from citysense.durable_log import DurableLog
from citysense.errors import StorageError
from citysense.log_schema import Owner, Step
from citysense_gateway.outage import Outage

BLOCK = 4096
"""Numbers reserved at a time; a restart wastes two blocks at most, and there are 2^40 numbers."""
EPOCH_S = 1_767_225_600
"""2026-01-01 UTC."""
NUMBERS_PER_S = 256
LAST_FROM_CLOCK = 1 << 39
"""The counter starts no lower than the seconds since 2026 times 256: when the file is lost, or an old copy of it comes
back, numbers go on above those that were used. Half of all numbers are kept out of the reach of a clock gone wrong."""
FRESH_MS = 60_000
"""A window on disk counts for a restart that takes less than a minute. An older one may come out of a backup, and what
was received since then would be taken again; the device is asked for an Echo instead (RFC 8613 appendix B.1.2)."""

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS oscore_sender(one INTEGER PRIMARY KEY CHECK(one=1), next INTEGER)",
    "CREATE TABLE IF NOT EXISTS oscore_window(context BLOB PRIMARY KEY, lowest INTEGER, seen INTEGER, saved INTEGER)"
    " WITHOUT ROWID",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A replay window: numbers below `lowest` are used; bit n of `seen` stands for `lowest` + n."""

    lowest: int
    seen: int


def prepare(connection: sqlite3.Connection) -> None:
    """Make the tables, if they are not there."""
    for statement in _SCHEMA:
        connection.execute(statement)


OWNER = Owner(name="oscore", steps=(Step(number=1, name="sender numbers, windows", apply=prepare),))
"""The tables as the durable log knows them."""


def first_number(stored: int, now_ms: int) -> int:
    """Where the counter starts, from what is on disk and the clock."""
    return max(stored, min((now_ms // 1000 - EPOCH_S) * NUMBERS_PER_S, LAST_FROM_CLOCK))


class OscoreStore:
    """Sender numbers to take, and windows to keep. `log` is the spool's, with `OWNER` among its owners; `open` first."""

    def __init__(self, log: DurableLog, *, clock: Clock, trouble: Outage) -> None:
        self._log = log
        self._clock = clock
        self._trouble = trouble
        self._next = 0
        self._end = 0
        self._reserving: asyncio.Task[None] | None = None

    async def open(self) -> dict[bytes, Window]:
        """Reserve the first numbers and hand out the windows of a clean stop just now, once.

        Raises StorageError.
        """
        now = self._clock.now_ms()
        rows: list[tuple[bytes, int, int, int]] = []
        stored: list[int] = []

        def job(connection: sqlite3.Connection) -> None:
            rows[:] = connection.execute("SELECT context, lowest, seen, saved FROM oscore_window").fetchall()
            # In the same transaction: from now on numbers are received that these windows do not know.
            connection.execute("DELETE FROM oscore_window")
            row = connection.execute("SELECT next FROM oscore_sender").fetchone()
            stored[:] = [row[0] if row else 0]

        await self._log.tidy(job)
        self._next = self._end = first_number(stored[0], now)
        await self._extend()
        return {
            context: Window(lowest=lowest, seen=seen)
            for context, lowest, seen, saved in rows
            if 0 <= now - saved < FRESH_MS
        }

    def take(self) -> int | None:
        """A number that was never used before; None while none is reserved."""
        if self._end - self._next <= BLOCK // 2 and (self._reserving is None or self._reserving.done()):
            self._reserving = asyncio.get_running_loop().create_task(self._reserve(), name="OSCORE sender numbers")
        if self._next >= self._end:
            return None
        self._next += 1
        return self._next - 1

    async def _reserve(self) -> None:
        try:
            await self._extend()
        except StorageError as e:
            self._trouble.failed(e)
        else:
            self._trouble.worked()

    async def _extend(self) -> None:
        end = self._end + BLOCK

        def job(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT INTO oscore_sender VALUES(1, ?) ON CONFLICT DO UPDATE SET next=excluded.next", (end,)
            )

        await self._log.tidy(job)
        self._end = end

    async def close(self, windows: Mapping[bytes, Window]) -> None:
        """Keep the windows for a quick restart. Raises StorageError: then devices are asked for an Echo."""
        if self._reserving is not None:
            self._reserving.cancel()
            await asyncio.gather(self._reserving, return_exceptions=True)
            self._reserving = None
        now = self._clock.now_ms()
        rows = [(context, window.lowest, window.seen, now) for context, window in windows.items()]

        def job(connection: sqlite3.Connection) -> None:
            connection.executemany("INSERT OR REPLACE INTO oscore_window VALUES(?, ?, ?, ?)", rows)

        await self._log.tidy(job)
