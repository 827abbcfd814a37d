"""From the spool to the platform: one loop per lane, one request in flight in each.

A record leaves the spool only when the platform has answered that it is durable there, or when it was refused for good
and stands in the dead letters. Owns the reading cursor "uplink" of the spool.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from citysense import wire
from citysense.clock import Clock
from citysense.crash_points import CrashPoints
from citysense.durable_log import DurableLog
from citysense.errors import StorageClosed, StorageError
from citysense.record_format import Record
from citysense_gateway.counters import FrameCounters
from citysense_gateway.dead_letters import MAX_RAW, Seal, printable, seal_owner
from citysense_gateway.devices import Devices
from citysense_gateway.lane_progress import LaneProgress
from citysense_gateway.outage import LONGEST_WAIT_S, Outage
from citysense_gateway.platform_client import BatchRefused, PlatformClient, Unreachable
from citysense_gateway.spool import Spool
from citysense_profiles.reading import ReadingClass

log = logging.getLogger(__name__)

READER = "uplink"
MAX_RECORDS = 500
MAX_BYTES = 1 << 20
REFUSED = "platform_refused"
LINGER_S = {ReadingClass.SAFETY: 0.0, ReadingClass.STATE: 0.02, ReadingClass.BULK: 0.1}
"""How long a lane waits for company after something came in: a request costs 2 ms of CPU on both sides together. Safety
never waits."""
SAFETY_LONGEST_WAIT_S = 1.0
"""After an outage of the platform, alarms may be late by this much and no more."""


class Lane:
    """The uplink of one class."""

    def __init__(
        self,
        cls: ReadingClass,
        *,
        spool: Spool,
        client: PlatformClient,
        devices: Devices,
        seal: Seal,
        counters: FrameCounters,
        clock: Clock,
        random: Callable[[], float],
        crash: CrashPoints,
        linger: float | None = None,
    ) -> None:
        self._cls = cls
        self._spool = spool
        self._log: DurableLog = spool.log
        self._client = client
        self._devices = devices
        self._seal = seal
        self._counters = counters
        self._clock = clock
        self._crash = crash
        self._linger = LINGER_S[cls] if linger is None else linger
        longest = SAFETY_LONGEST_WAIT_S if cls is ReadingClass.SAFETY else LONGEST_WAIT_S
        self._outage = Outage(f"uplink {cls.value}", random, longest=longest)
        self._most = MAX_RECORDS
        # Before the first look nothing is known to be delivered: the spool may hold a backlog of an earlier life.
        self._waiting_since: int | None = 0
        self.idle = asyncio.Event()
        """Set while nothing waits in the lane."""

    def delivered_until(self) -> int:
        """Every record that came in before this moment (ms) is on the platform."""
        return self._clock.now_ms() if self._waiting_since is None else self._waiting_since

    async def run(self) -> None:
        """Hand over what is there and what comes, until cancelled. Raises StorageClosed when the spool has stopped."""
        wakeup = self._log.wakeup(self._cls)
        progress = LaneProgress(self._log.cursor(READER, self._cls))
        while True:
            wakeup.clear()
            try:
                wait = await self._round(progress)
            except Unreachable as e:
                wait = self._outage.failed(e, e.retry_after)
            except StorageClosed:
                raise
            except StorageError as e:
                wait = self._outage.failed(e)
            if wait is None:
                self.idle.set()
                await wakeup.wait()
                self.idle.clear()
                wait = self._linger
            if wait > 0:
                await asyncio.sleep(wait)

    async def _round(self, progress: LaneProgress) -> float | None:
        """Send one batch; seconds to wait before the next, None when the lane is empty."""
        window = self._log.read(self._cls, after=progress.cursor, limit=MAX_RECORDS)
        batch = _cut(progress.open(window), self._most)
        if not batch:
            self._waiting_since = None
            return None
        self._waiting_since = _received(batch[0].body) or self._waiting_since
        answer = await self._send(batch)
        if answer is None:
            return 0.0
        before = progress.cursor
        settled = progress.settle(window, [record.offset for record in batch], answer)
        bodies = {record.offset: record.body for record in batch}
        for offset, reason in settled.refused:
            await self._give_up(bodies[offset], reason)
        if settled.cursor != before:
            # The next request waits for this, and an alarm must not wait for company.
            urgent = self._cls is ReadingClass.SAFETY
            await self._log.advance(READER, self._cls, settled.cursor, trim=True, urgent=urgent)
        if settled.kept:
            return self._outage.failed(Unreachable(f"the platform could not take {len(settled.kept)} records yet"))
        self._outage.worked()
        return 0.0

    async def _send(self, batch: Sequence[Record]) -> wire.Answer | None:
        """The platform's answer; None when the batch as a whole was refused and will be sent in smaller ones."""
        self._crash.at("uplink.before_post")
        body = wire.Batch(spool=self._log.spool_id, items=[(record.offset, record.body) for record in batch])
        try:
            answer = await self._client.submit(self._cls, body)
        except BatchRefused as e:
            if len(batch) > 1:
                # Halved until the culprit stands alone: the others are not concerned.
                self._most = max(1, len(batch) // 2)
                return None
            answer = wire.Answer(accepted=[], rejected=[(batch[0].offset, str(e))])
        self._crash.at("uplink.after_post")
        self._most = min(MAX_RECORDS, self._most * 2)
        return answer

    async def _give_up(self, body: bytes, reason: str) -> None:
        """Keep a record that the platform will never take as a dead letter, unless it is one already."""
        try:
            record: wire.Body | None = wire.decode_body(body)
        except ValueError:
            record = None
        if record is not None and not isinstance(record, wire.Readings):
            self._counters.add("uplink.dropped")
            log.error("the platform refused a %s (%s); it is dropped", type(record).__name__, reason)
            return
        self._counters.add("uplink.refused")
        await self._spool.keep(self._refused_letter(body, record, reason))

    def _refused_letter(self, body: bytes, readings: wire.Readings | None, reason: str) -> wire.DeadLetter:
        device = self._devices.get(readings.device) if readings is not None else None
        owner = seal_owner(device)
        kept = body[:MAX_RAW]
        return wire.DeadLetter(
            received=self._clock.now_ms() if readings is None else readings.received,
            transport=READER,
            source="platform",
            channel=self._cls.value,
            device="" if readings is None else readings.device,
            profile="" if readings is None else readings.profile,
            reason=REFUSED,
            detail=printable(reason),
            size=len(body),
            raw=self._seal(owner, kept) if owner else kept,
            seal=owner,
        )


def _cut(records: Sequence[Record], most: int) -> list[Record]:
    """The first of `records` that make one request: at least one, however long it is."""
    batch: list[Record] = []
    size = 0
    for record in records[:most]:
        size += len(record.body)
        if batch and size > MAX_BYTES:
            break
        batch.append(record)
    return batch


def _received(body: bytes) -> int | None:
    """When the frame of a record came in, ms; None for records that came of no frame."""
    try:
        record = wire.decode_body(body)
    except ValueError:
        return None
    return record.received if isinstance(record, wire.Readings | wire.DeadLetter) else None


async def drained(lanes: Sequence[Lane], within: float) -> bool:
    """Wait until no lane has anything left; False if that took longer than `within` seconds."""
    try:
        async with asyncio.timeout(within):
            for lane in lanes:
                await lane.idle.wait()
    except TimeoutError:
        return False
    return True
