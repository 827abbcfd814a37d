"""Follows all lanes of the platform's log into a sink with a cursor of its own.

Owns order, batching, patience with a sink that is down, and telling the log what may be trimmed. Knows nothing of what
a record means. A sink that is down stops only its own follower: rules and alerts read the log by themselves.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from citysense import wire
from citysense.clock import Clock
from citysense.durable_log import DurableLog
from citysense.errors import StorageError, UpstreamError
from citysense.progress import Pulse
from citysense_platform.store.port import StoreUnavailable
from citysense_profiles.reading import ReadingClass

log = logging.getLogger(__name__)

BATCH = 500
"""Records of one lane taken in a turn: a few milliseconds of work between two turns of the event loop."""
GATHER_S = 0.02
"""Wait for company after the first record: fifty batches a second at most, and charts still follow at once."""
SYNC_EVERY_S = 5.0
"""How often the sink is put on the disk, and the log told; bounds what is read again after a power cut."""
UPKEEP_EVERY_S = 300.0
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
LONGEST_ASKED_S = 300.0
"""A server may ask for a longer pause than ours, but not for for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """One record of the log with its body decoded."""

    cls: ReadingClass
    offset: int
    body: wire.Body


class Sink(Protocol):
    """Where records go. Each call may be repeated with the same records after it failed."""

    async def cursors(self) -> Mapping[ReadingClass, int]:
        """Offsets up to which the sink is complete."""
        ...

    async def take(self, records: Sequence[Taken], cursors: Mapping[ReadingClass, int]) -> None:
        """Keep `records` and then `cursors`. Raises StoreUnavailable or StorageError; then the cursor has not moved."""
        ...

    async def sync(self) -> Mapping[ReadingClass, int]:
        """Offsets up to which nothing can be lost any more."""
        ...

    async def upkeep(self) -> None:
        """Housekeeping."""
        ...


@dataclass(slots=True, kw_only=True)
class Progress:
    """How far a follower is.

    `behind_ms`: age of the newest record taken while more are waiting, and at least for how long the batch at hand has
    been waiting for the sink; 0 when all is taken.
    """

    records: int = 0
    unreadable: int = 0
    """Records that could not be decoded; logged with their offset and left out."""
    behind_ms: int = 0
    outage_since: int | None = None
    """Since when (ms) the sink has been down; None while it works."""
    failures: int = 0
    """Failed attempts since the start."""


class LogFollower:
    """Moves records from `log_file` into `sink` under the reader name `name`. `pulse` beats with each call of the sink, and
    rests while it waits."""

    def __init__(
        self,
        name: str,
        log_file: DurableLog,
        sink: Sink,
        *,
        clock: Clock,
        jitter: random.Random,
        first_pause_s: float = FIRST_PAUSE_S,
        sync_every_s: float = SYNC_EVERY_S,
        pulse: Pulse | None = None,
    ) -> None:
        self._name = name
        self._log = log_file
        self._sink = sink
        self._clock = clock
        self._jitter = jitter
        self._first_pause = first_pause_s
        self._sync_every = sync_every_s
        self._pulse = pulse or Pulse()
        self._stopping = asyncio.Event()
        self._cursors: dict[ReadingClass, int] = {}
        self._told: dict[ReadingClass, int] = dict.fromkeys(ReadingClass, 0)
        self._progress = Progress()
        self._backlog_ms = 0
        self._delivering_since: int | None = None
        self._failures_before = 0

    @property
    def progress(self) -> Progress:
        """How far it is at this moment."""
        waiting = 0 if self._delivering_since is None else self._clock.now_ms() - self._delivering_since
        self._progress.behind_ms = max(self._backlog_ms, waiting)
        return self._progress

    def stop(self) -> None:
        """Let `run` end after the batch at hand and a last sync."""
        self._stopping.set()

    async def run(self) -> None:
        """Follow the log until `stop`. Faults of the sink are waited out; anything else is raised."""
        wakeup = self._log.wakeup(*ReadingClass)
        self._cursors = dict(await self._sink.cursors())
        started = self._clock.monotonic()
        synced, tidied = started, started
        while not self._stopping.is_set():
            self._pulse.beat()
            wakeup.clear()
            if not await self._turn():
                await self._wait(wakeup, self._sync_every)
                if wakeup.is_set():
                    await self._wait(self._stopping, GATHER_S)
            now = self._clock.monotonic()
            if now - synced >= self._sync_every:
                synced = now
                await self._sync()
            if now - tidied >= UPKEEP_EVERY_S:
                tidied = now
                await self._upkeep()
        await self._sync()
        self._pulse.rest()

    async def _turn(self) -> bool:
        """Take what is there, at most BATCH of each lane; False when nothing was."""
        records: list[Taken] = []
        cursors = dict(self._cursors)
        full = False
        for cls in ReadingClass:
            found = self._log.read(cls, after=cursors[cls], limit=BATCH)
            if found:
                # Up to the last sync the sink may still lose what it took, and reads it again.
                self._log.hold(self._name, cls, first=self._told[cls] + 1, last=found[-1].offset)
            for record in found:
                cursors[cls] = record.offset
                try:
                    records.append(Taken(cls=cls, offset=record.offset, body=wire.decode_body(record.body)))
                except ValueError as e:
                    self._progress.unreadable += 1
                    log.error(
                        "%s: record %d of lane %s cannot be read (%s); left out", self._name, record.offset, cls, e
                    )
            full = full or len(found) == BATCH
        if cursors == self._cursors:
            self._backlog_ms = 0
            return False
        self._delivering_since = self._clock.now_ms()
        if not await self._deliver(records, cursors):
            return True
        self._delivering_since = None
        self._cursors = cursors
        self._progress.records += len(records)
        self._backlog_ms = self._age(records) if full else 0
        return True

    async def _deliver(self, records: Sequence[Taken], cursors: Mapping[ReadingClass, int]) -> bool:
        """Hand a batch over, as often as it takes; False when told to stop before."""
        pause = self._first_pause
        while True:
            self._pulse.beat()
            try:
                await self._sink.take(records, cursors)
            except (UpstreamError, StorageError) as e:
                self._note_failure(e)
                asked = e.retry_after if isinstance(e, StoreUnavailable) else None
                wait = pause if asked is None else max(pause, min(asked, LONGEST_ASKED_S))
                # Up to half more, so that many writers do not come back in the same instant.
                await self._wait(self._stopping, wait * (1 + self._jitter.random() / 2))
                if self._stopping.is_set():
                    return False
                pause = min(pause * 2, LONGEST_PAUSE_S)
            else:
                self._note_success()
                return True

    def _note_failure(self, error: Exception) -> None:
        if self._progress.outage_since is None:
            self._progress.outage_since = self._clock.now_ms()
            self._failures_before = self._progress.failures
            log.error("%s: %s; what comes in waits in the log", self._name, error)
        self._progress.failures += 1

    def _note_success(self) -> None:
        if self._progress.outage_since is not None:
            seconds = (self._clock.now_ms() - self._progress.outage_since) / 1000
            attempts = self._progress.failures - self._failures_before
            log.warning("%s: works again after %.1f s and %d failed attempts", self._name, seconds, attempts)
            self._progress.outage_since = None

    def _age(self, records: Sequence[Taken]) -> int:
        newest = max((moment for taken in records if (moment := _moment(taken.body)) is not None), default=None)
        return max(0, self._clock.now_ms() - newest) if newest is not None else 0

    async def _sync(self) -> None:
        """Put the sink on the disk, and tell the log how far that is."""
        self._pulse.beat()
        try:
            safe = await self._sink.sync()
            for cls, offset in safe.items():
                if offset > self._told[cls]:
                    await self._log.advance(self._name, cls, offset)
                    self._told[cls] = offset
        except (UpstreamError, StorageError) as e:
            self._note_failure(e)
        else:
            self._note_success()

    async def _upkeep(self) -> None:
        # To delete what is too old takes as long as the disk needs for it.
        self._pulse.rest()
        try:
            await self._sink.upkeep()
        except (UpstreamError, StorageError) as e:
            self._note_failure(e)

    async def _wait(self, event: asyncio.Event, seconds: float) -> None:
        """Until `event`, `stop` or `seconds` have passed."""
        self._pulse.rest()
        waiting = [asyncio.ensure_future(one.wait()) for one in {event, self._stopping}]
        try:
            await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()


def _moment(body: wire.Body) -> int | None:
    """When the record came in, ms; None for one that says no such thing."""
    if isinstance(body, wire.Readings | wire.DeadLetter):
        return body.received
    return body.time if isinstance(body, wire.Tick) else None
