"""Writes into the log that a second has passed.

Rules wait by these records and not by a clock, so that a replay of the log gives the same alerts. Each lane that rules
read gets its own: a lane is a complete story by itself, however far the readers of the others are.
"""

from __future__ import annotations

import asyncio
import logging

from citysense import wire
from citysense.clock import Clock
from citysense.durable_log import DurableLog, Entry
from citysense.errors import StorageClosed, StorageError
from citysense.progress import Pulse
from citysense_profiles.reading import ReadingClass

log = logging.getLogger(__name__)

PERIOD_S = 1.0


class Ticker:
    """Appends one tick per second to the safety and the state lane; `pulse` beats with each."""

    def __init__(self, log: DurableLog, clock: Clock, pulse: Pulse | None = None) -> None:
        self._log = log
        self._clock = clock
        self._pulse = pulse or Pulse()
        self._missed = 0

    async def run(self) -> None:
        """Tick until cancelled; returns when the log has been closed. A second that was missed is not made up for."""
        due = self._clock.monotonic()
        while True:
            self._pulse.beat()
            try:
                await self.tick()
            except StorageClosed:
                return
            except StorageError as e:
                self._missed += 1
                if self._missed == 1:
                    log.error("ticker: the log takes no ticks, so no rule's hold ends until it does: %s", e)
            else:
                if self._missed:
                    log.warning("ticker: the log takes ticks again, %d were missed", self._missed)
                self._missed = 0
            now = self._clock.monotonic()
            self._pulse.rest()
            due = max(due + PERIOD_S, now)
            await asyncio.sleep(due - now)

    async def tick(self) -> None:
        """Append one tick now. Raises StorageError."""
        time = self._clock.now_ms()
        body = wire.encode(wire.Tick(time=time))

        # Expendable: on a full disk a tick of the state lane would stand among the losses as if it were a reading.
        entries = [
            Entry(cls=lane, body=body, device="", time=time, expendable=True)
            for lane in (ReadingClass.SAFETY, ReadingClass.STATE)
        ]
        await self._log.append_entries(entries, urgent=True)
