"""From the platform's log into the event store."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from citysense.clock import Clock
from citysense.durable_log import DurableLog
from citysense_platform.events.event_store import EventStore
from citysense_platform.store.follower import FIRST_PAUSE_S, SYNC_EVERY_S, LogFollower, Progress, Taken
from citysense_profiles.reading import ReadingClass

READER = "events"
"""The name under which the log knows this reader."""


class EventWriter:
    """Keeps `store` filled from `log_file`. `store` is open while `run` runs."""

    def __init__(
        self,
        log_file: DurableLog,
        store: EventStore,
        *,
        clock: Clock,
        jitter: random.Random,
        first_pause_s: float = FIRST_PAUSE_S,
        sync_every_s: float = SYNC_EVERY_S,
    ) -> None:
        self._store = store
        self._follower = LogFollower(
            READER, log_file, self, clock=clock, jitter=jitter, first_pause_s=first_pause_s, sync_every_s=sync_every_s
        )

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
        """Keep what belongs into the event store."""
        await self._store.write(records, lane_cursors=cursors)

    async def sync(self) -> Mapping[ReadingClass, int]:
        """Put the store on the disk."""
        return await self._store.sync()

    async def upkeep(self) -> None:
        """The store's housekeeping."""
        await self._store.upkeep()
