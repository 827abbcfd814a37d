"""The records of the spool, counted for real beside all else, for the ledger.

Owns the pace: a minute, and for a long backlog so seldom that counting takes a small share of the disk's time. Compares
nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from citysense.clock import Clock
from citysense.durable_log import DurableLog
from citysense.errors import StorageClosed, StorageError
from citysense.progress import Pulse
from citysense_gateway.ledger import LaneBook, lane_books
from citysense_gateway.outage import Outage

EVERY_S = 60.0
REST = 20
"""Rest for so many times as long as counting took: a backlog of 8 GB takes half a minute, and is counted every tenth."""

COUNT_LIMIT_S = 600.0
"""A count that takes longer hangs, also on a slow disk."""


class RecordCount:
    """Counts over and over. `books` are of the last count; none before the first has ended."""

    def __init__(
        self,
        *,
        log: DurableLog,
        clock: Clock,
        random: Callable[[], float],
        every: float = EVERY_S,
        pulse: Pulse | None = None,
    ) -> None:
        self._pulse = pulse or Pulse()
        self._log = log
        self._clock = clock
        self._every = every
        self._trouble = Outage("counting the spool's records", random)
        self.books: Sequence[LaneBook] = ()

    async def run(self) -> None:
        """Until cancelled. Raises StorageClosed when the spool has become damaged."""
        while True:
            began = self._clock.monotonic()
            self._pulse.beat()
            try:
                self.books = lane_books(await self._log.accounts())
            except StorageClosed:
                raise
            except StorageError as e:
                self._trouble.failed(e)
            else:
                self._trouble.worked()
            self._pulse.rest()
            await asyncio.sleep(max(self._every, REST * (self._clock.monotonic() - began)))
