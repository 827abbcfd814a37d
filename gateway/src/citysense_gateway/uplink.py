"""From the spool to the platform: one loop per lane, one request in flight in each.

A record leaves the spool only when the platform has answered that it is durable there, or when the platform has refused
this very record and it stands in the dead letters or in the spool's table of refused records. Owns the reading cursor
"uplink" of the spool.
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
from citysense_gateway.lane_progress import LaneProgress, Settled
from citysense_gateway.outage import LONGEST_WAIT_S, Outage
from citysense_gateway.platform_client import BatchRefused, PlatformClient, Unreachable
from citysense_gateway.spool import Aside, Spool
from citysense_profiles.reading import ReadingClass

log = logging.getLogger(__name__)

READER = "uplink"
MAX_RECORDS = 500
MAX_BYTES = 1 << 20
REFUSED = "platform_refused"
_TOO_LARGE = 413
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
        self._given_up: set[int] = set()
        """Refused records that are kept already while the cursor is still before them."""
        self.idle = asyncio.Event()
        """Set while nothing waits in the lane."""

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
            return None
        answer = await self._send(batch)
        if answer is None:
            return 0.0
        settled = progress.settle(window, [record.offset for record in batch], answer)
        # The next request waits for this, and an alarm must not wait for company.
        urgent = self._cls is ReadingClass.SAFETY
        await self._give_up(batch, settled, urgent=urgent)
        if settled.cursor != progress.cursor:
            await self._log.advance(READER, self._cls, settled.cursor, trim=True, urgent=urgent)
        # Last: whatever of this raised, the next round begins before these records, and nothing is passed unkept.
        progress.take(settled)
        self._given_up &= settled.done
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
            if e.status != _TOO_LARGE:
                # No word on the record itself: another version of the platform, or a proxy before it, refuses whatever
                # comes. Were it final, every reading of the outage would end in the dead letters.
                raise Unreachable(f"the platform takes no request ({e})") from e
            answer = wire.Answer(accepted=[], rejected=[(batch[0].offset, str(e))])
        self._crash.at("uplink.after_post")
        self._most = min(MAX_RECORDS, self._most * 2)
        return answer

    async def _give_up(self, batch: Sequence[Record], settled: Settled, *, urgent: bool) -> None:
        """Keep the records that the platform will never take: of readings a dead letter, all else as it is."""
        reasons = {offset: reason for offset, reason in settled.refused if offset not in self._given_up}
        letters: list[wire.DeadLetter] = []
        aside: list[Aside] = []
        for record in batch:
            reason = reasons.get(record.offset)
            if reason is None:
                continue
            body = _decoded(record.body)
            if body is None or isinstance(body, wire.Readings):
                letters.append(self._refused_letter(record.body, body, reason))
            else:
                aside.append(Aside(record=record, reason=printable(reason)))
        if not reasons:
            return
        await self._spool.give_up(letters, aside, urgent=urgent)
        self._given_up.update(reasons)
        self._counters.add("uplink.refused", len(letters))
        self._counters.add("uplink.set_aside", len(aside))
        if aside:
            log.error(
                "the platform refused %d dead letters or tombstones (%s); they stay in the spool's table refused_record",
                len(aside),
                aside[0].reason,
            )

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


def _decoded(body: bytes) -> wire.Body | None:
    try:
        return wire.decode_body(body)
    except ValueError:
        return None


async def drained(lanes: Sequence[Lane], within: float) -> bool:
    """Wait until no lane has anything left; False if that took longer than `within` seconds."""
    try:
        async with asyncio.timeout(within):
            for lane in lanes:
                await lane.idle.wait()
    except TimeoutError:
        return False
    return True
