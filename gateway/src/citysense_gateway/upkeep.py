"""What the gateway does once a second beside serving devices: tend the spool, and look whether everything moves.

Owns that loop, and the seconds since the spool's writer last answered. It is asked to commit nothing, which costs next
to nothing and waits behind everything else that it has to do.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Mapping

from citysense.clock import Clock
from citysense.errors import CitysenseError, StorageClosed
from citysense.progress import Progress, Pulse
from citysense_gateway.hand_over import READER
from citysense_gateway.ledger import Ledger
from citysense_gateway.outage import Outage
from citysense_gateway.spool import Spool
from citysense_gateway.traffic import Durations, Traffic
from citysense_profiles.reading import ReadingClass

EVERY_S = 1.0
LANE_LIMIT_S = 45.0
"""A lane makes no call for this long only when it hangs: a request ends after 10 s, and the platform may ask for 30 s of
patience after it."""


class Upkeep:
    """The loop. `commits` counts how long the writer took to answer."""

    def __init__(
        self,
        *,
        spool: Spool,
        ledger: Ledger,
        traffic: Traffic,
        progress: Progress,
        clock: Clock,
        random: Callable[[], float],
    ) -> None:
        self._spool = spool
        self._ledger = ledger
        self._traffic = traffic
        self._clock = clock
        self._trouble = Outage("spool", random)
        self._pulse = progress.watch("spool")
        self._lanes = {
            cls: _LaneWatch(progress.watch(f"uplink {cls.value}", limit=LANE_LIMIT_S)) for cls in ReadingClass
        }
        self._committed: float | None = None
        self._waiting = dict.fromkeys(ReadingClass, 0)
        self.commits = Durations()

    @property
    def commit_age(self) -> float | None:
        """Seconds since the spool last committed; None before the first time."""
        return None if self._committed is None else self._clock.monotonic() - self._committed

    def waiting(self) -> Mapping[ReadingClass, int]:
        """Records per lane that the platform does not have yet, as of the last time that the spool could be asked."""
        return dict(self._waiting)

    async def run(self) -> None:
        """Until cancelled. Raises StorageClosed when the spool's writer has ended."""
        try:
            while True:
                await self._once()
                await asyncio.sleep(EVERY_S)
        finally:
            self._pulse.rest()
            for lane in self._lanes.values():
                lane.pulse.rest()

    async def _once(self) -> None:
        self._pulse.beat()
        began = self._clock.monotonic()
        try:
            # First: these are looked at from outside, all the more while the rest fails.
            for cls in ReadingClass:
                self._waiting[cls] = self._spool.log.depth(cls, READER)
                self._lanes[cls].look(self._waiting[cls], self._traffic.calls[cls.value].begun)
            await self._spool.log.tidy(_nothing)
            self._committed = self._clock.monotonic()
            self.commits.add(self._committed - began)
            self._pulse.beat()
            await self._spool.tend()
            self._ledger.look(self._clock.now_ms())
        except StorageClosed:
            raise
        except CitysenseError as e:
            self._trouble.failed(e)
        else:
            self._trouble.worked()


class _LaneWatch:
    """Watches one lane from outside, by its calls: whatever it waits for, it tries again and again while records wait."""

    def __init__(self, pulse: Pulse) -> None:
        self.pulse = pulse
        self._calls = -1

    def look(self, waiting: int, calls: int) -> None:
        """Note how many records wait, and the calls so far."""
        if not waiting:
            self.pulse.rest()
        elif self.pulse.resting or calls != self._calls:
            self.pulse.beat()
        self._calls = calls


def _nothing(_: sqlite3.Connection) -> None:
    return
