"""From the platform's log into the telemetry store, whichever it is.

Owns the choice of what of a record is telemetry; dead letters, tombstones and ticks only move the cursor.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from citysense import wire
from citysense.clock import Clock
from citysense.durable_log import DurableLog
from citysense.progress import Pulse
from citysense_platform.store.follower import FIRST_PAUSE_S, SYNC_EVERY_S, LogFollower, Progress, Taken
from citysense_platform.store.points import Point, points_of
from citysense_platform.store.port import TelemetryStore
from citysense_profiles.reading import ReadingClass

READER = "store"
"""The name under which the log knows this reader."""


class StoreWriter:
    """Keeps `store` filled from `log_file`. `store` is open while `run` runs; `pulse` as in `LogFollower`."""

    def __init__(
        self,
        log_file: DurableLog,
        store: TelemetryStore,
        *,
        clock: Clock,
        jitter: random.Random,
        first_pause_s: float = FIRST_PAUSE_S,
        sync_every_s: float = SYNC_EVERY_S,
        pulse: Pulse | None = None,
    ) -> None:
        self._store = store
        self._follower = LogFollower(
            READER,
            log_file,
            self,
            clock=clock,
            jitter=jitter,
            first_pause_s=first_pause_s,
            sync_every_s=sync_every_s,
            pulse=pulse,
        )
        self.values = 0
        """Values handed to the store since the start."""

    @property
    def progress(self) -> Progress:
        """How far the writer is."""
        return self._follower.progress

    async def run(self) -> None:
        """Follow the log until `stop`."""
        await self._follower.run()

    def stop(self) -> None:
        """Let `run` end after the batch at hand."""
        self._follower.stop()

    async def cursors(self) -> Mapping[ReadingClass, int]:
        """Where the store is."""
        return await self._store.cursors()

    async def take(self, records: Sequence[Taken], cursors: Mapping[ReadingClass, int]) -> None:
        """Store the points of `records`."""
        points: list[Point] = []
        for record in records:
            if isinstance(record.body, wire.Readings):
                points += points_of(record.body)
        await self._store.write(points, lane_cursors=cursors)
        self.values += sum(len(point.values) for point in points)

    async def sync(self) -> Mapping[ReadingClass, int]:
        """Put the store on the disk."""
        return await self._store.sync()

    async def upkeep(self) -> None:
        """The store's housekeeping."""
        await self._store.upkeep()
