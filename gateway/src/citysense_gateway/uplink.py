"""From the spool to the platform: one loop per lane, one request in flight in each; two while a lane is long.

A record leaves the spool only when the platform has answered that it is durable there, or when the platform has refused
this very record and it stands in the dead letters or in the spool's table of refused records. Owns the reading cursor
"uplink" of the spool.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from citysense import wire
from citysense.clock import Clock
from citysense.crash_points import CrashPoints
from citysense.durable_log import DurableLog
from citysense.errors import StorageClosed, StorageError
from citysense_gateway.counters import FrameCounters
from citysense_gateway.dead_letters import Seal
from citysense_gateway.devices import Devices
from citysense_gateway.hand_over import MAX_RECORDS, READER, HandOver
from citysense_gateway.lane_progress import LaneProgress
from citysense_gateway.newest_first import NewestFirst
from citysense_gateway.outage import LONGEST_WAIT_S, Outage
from citysense_gateway.platform_client import PlatformClient, Unreachable
from citysense_gateway.spool import Spool
from citysense_profiles.reading import ReadingClass

LINGER_S = {ReadingClass.SAFETY: 0.0, ReadingClass.STATE: 0.02, ReadingClass.BULK: 0.1}
"""How long a lane waits for company after something came in: a request costs 2 ms of CPU on both sides together. Safety
never waits."""
SAFETY_LONGEST_WAIT_S = 1.0
"""After an outage of the platform, alarms may be late by this much and no more."""
LONG_LANE = 10 * MAX_RECORDS
"""With more records before it than these, what comes in now would be late: a second or two at the pace of a busy platform.
Then the newest go ahead. A shorter lane is sent in order, which every reader finds easier."""


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
        long: int = LONG_LANE,
    ) -> None:
        self._cls = cls
        self._log: DurableLog = spool.log
        self._hand_over = HandOver(
            cls, spool=spool, client=client, devices=devices, seal=seal, counters=counters, clock=clock, crash=crash
        )
        self._linger = LINGER_S[cls] if linger is None else linger
        self._long = long
        longest = SAFETY_LONGEST_WAIT_S if cls is ReadingClass.SAFETY else LONGEST_WAIT_S
        self._outage = Outage(f"uplink {cls.value}", random, longest=longest)
        self._newest: NewestFirst | None = None
        self._newest_wakeup = asyncio.Event()
        self.idle = asyncio.Event()
        """Set while nothing waits in the lane."""

    async def run(self) -> None:
        """Hand over what is there and what comes, until cancelled. Raises StorageClosed when the spool has stopped."""
        wakeup, self._newest_wakeup = self._log.wakeup(self._cls), self._log.wakeup(self._cls)
        progress = LaneProgress(self._log.cursor(READER, self._cls))
        try:
            while True:
                wakeup.clear()
                try:
                    wait = await self._round(progress)
                except StorageClosed:
                    raise
                except Unreachable as e:
                    wait = self._outage.failed(e, e.retry_after)
                except StorageError as e:
                    wait = self._outage.failed(e)
                if wait is None:
                    self.idle.set()
                    await wakeup.wait()
                    self.idle.clear()
                    wait = self._linger
                if wait > 0:
                    await asyncio.sleep(wait)
        finally:
            if self._newest is not None:
                await self._newest.cancel()

    async def _round(self, progress: LaneProgress) -> float | None:
        """Send one batch of the oldest; seconds to wait before the next, None when the lane is empty."""
        if self._newest is not None and self._newest.ended():
            self._newest = None
        up_to = None if self._newest is None else self._newest.start
        window = self._log.read(self._cls, after=progress.cursor, limit=MAX_RECORDS, up_to=up_to)
        if not window:
            return await self._take_over()
        self._log.hold(READER, self._cls, first=window[0].offset, last=window[-1].offset)
        batch = self._hand_over.cut(progress.open(window))
        answer = (
            await self._hand_over.send(batch, settled=progress.cursor, after=progress.cursor)
            if batch
            else wire.Answer(accepted=[])
        )
        if answer is None:
            return 0.0
        settled = progress.settle(window, [record.offset for record in batch], answer)
        await self._hand_over.give_up(batch, dict(settled.refused))
        if settled.cursor != progress.cursor:
            await self._log.advance(READER, self._cls, settled.cursor, trim=True, urgent=self._hand_over.urgent)
        # Last: whatever of this raised, the next round begins before these records, and nothing is passed unkept.
        progress.take(settled)
        if settled.kept:
            return self._outage.failed(Unreachable(f"the platform could not take {len(settled.kept)} records yet"))
        self._outage.worked()
        self._send_newest_ahead(progress)
        return 0.0

    async def _take_over(self) -> float | None:
        """Nothing is left for this chain; where the other was at work, all that follows is this one's again."""
        if self._newest is None:
            return None
        await self._newest.stop()
        self._newest = None
        return 0.0

    def _send_newest_ahead(self, progress: LaneProgress) -> None:
        """Begin the second chain if the lane is long, now that the platform is known to be there."""
        if self._newest is not None or self._log.depth(self._cls, READER) <= self._long:
            return
        self._newest = NewestFirst(
            self._cls,
            start=self._log.before_newest(self._cls, MAX_RECORDS),
            log=self._log,
            hand_over=self._hand_over,
            settled=lambda: progress.cursor,
            wakeup=self._newest_wakeup,
            linger=self._linger,
        )


async def drained(lanes: Sequence[Lane], within: float) -> bool:
    """Wait until no lane has anything left; False if that took longer than `within` seconds."""
    try:
        async with asyncio.timeout(within):
            for lane in lanes:
                await lane.idle.wait()
    except TimeoutError:
        return False
    return True
