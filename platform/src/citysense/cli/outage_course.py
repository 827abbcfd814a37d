"""A spool whose platform is gone for days of a district's load, and comes back: the course of it, on a clock of its own.

Readings go straight into the real spool with the real uplink behind it; the platform is a few lines that refuse, or take
each record once, as ingest would. Owns the load, the stand-in and the figures; how they are shown is `soak_outage`'s.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from citysense import wire
from citysense.clock import Clock, SetClock
from citysense.crash_points import CrashPoints
from citysense.errors import UpstreamError
from citysense.keys import Sealer
from citysense_gateway.counters import FrameCounters
from citysense_gateway.devices import Devices
from citysense_gateway.fingerprint import Counted
from citysense_gateway.platform_client import PlatformClient, Unreachable
from citysense_gateway.spool import Put, Spool, Stored
from citysense_gateway.uplink import Lane, drained
from citysense_platform.ingest.accept import decide, examine, place
from citysense_platform.ingest.intervals import Interval
from citysense_platform.registry.roster import Assigned
from citysense_profiles.catalogue import load_catalogue
from citysense_profiles.reading import ReadingClass

START_MS = 1_800_000_000_000
TEND_MS = 10_000
"""Simulated time between two turns of upkeep; a second in a gateway, but nothing of it depends on the pace."""
STATE_SHARE, SAFETY_SHARE = 10, 50
"""Every so many frames one of state, and one of safety; all others are bulk."""
PART = 500
"""Frames that are put together; each of them waits for its commit."""
LIVE_S = 0.1
"""Pace of live frames during the drain."""
SILENT_S = 60.0
"""If the drain makes no progress for so long, it will make none."""
MB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A district: `devices` that report every `period_s`, for `hours`; and `live` frames a second during the drain."""

    hours: float
    devices: int
    period_s: float
    live: int


@dataclass(slots=True, kw_only=True)
class Measured:
    """What was seen. Bytes are the largest ever; seconds of real time; delays in seconds."""

    frames: int = 0
    outage_s: float = 0.0
    drain_s: float = 0.0
    backlog: int = 0
    live: int = 0
    delivered: int = 0
    entombed: int = 0
    duplicates: int = 0
    disordered: int = 0
    left: int = 0
    rss: int = 0
    wal: int = 0
    file: int = 0
    delays: list[float] = field(default_factory=list)

    @property
    def unexplained(self) -> int:
        """Acknowledged frames that are neither on the platform nor in a tombstone; below 0 if more is told than is missing."""
        return self.frames + self.live - self.delivered - self.entombed

    @property
    def drain_rate(self) -> float:
        """Records of the backlog that the platform took per second, live ones not counted."""
        return (self.backlog + self.live - len(self.delays)) / self.drain_s if self.drain_s else 0.0

    def live_delay_p99(self) -> float:
        """Seconds between a live frame's commit being asked for and the platform having it."""
        return statistics.quantiles(self.delays, n=100)[98] if len(self.delays) > 1 else 0.0


class Platform:
    """Refuses while `down`; else takes each record once and remembers which."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen: dict[ReadingClass, list[Interval]] = {cls: [] for cls in ReadingClass}
        self._numbers: set[int] = set()
        self._last: dict[tuple[ReadingClass, bool], int] = {}
        self.born: dict[int, float] = {}
        """When live frames were made, by number; taken out as they come."""
        self.down = True
        self.met: dict[ReadingClass, asyncio.Event] = {cls: asyncio.Event() for cls in ReadingClass}
        """Set when a lane has found the way back: until then it waits as after any failure, which is not the drain."""
        self.measured = Measured()

    async def submit(self, cls: ReadingClass, batch: wire.Batch) -> wire.Answer:
        """The client's call, without HTTP but with its encoding. Raises Unreachable while down."""
        if self.down:
            raise Unreachable("the platform is gone")
        self.met[cls].set()
        await asyncio.sleep(0)
        at = place(batch)
        items = examine(batch, cls, "gateway-1", lambda *_: Assigned(site="1", kind="k"), lambda *_: False)
        decision = decide(items, self._seen[cls], at)
        self._seen[cls] = list(decision.seen)
        self.measured.duplicates += decision.duplicates
        for entry in decision.entries:
            self._take(wire.decode_body(entry.body), cls, ahead=at.after > at.settled)
        return decision.answer

    def _take(self, body: wire.Body, cls: ReadingClass, *, ahead: bool) -> None:
        if isinstance(body, wire.Tombstone):
            self.measured.entombed += body.count
        if not isinstance(body, wire.Readings):
            return
        number = body.seq * 1_000_000 + int(body.device.removeprefix("gauge-"))
        if number in self._numbers:
            self.measured.duplicates += 1
            return
        self._numbers.add(number)
        self.measured.delivered += 1
        # Each chain keeps the order of its lane; the backlog's may find what went ahead left out, never turned round.
        if not ahead and self._last.get((cls, ahead), -1) > number:
            self.measured.disordered += 1
        self._last[cls, ahead] = number
        born = self.born.pop(number, None)
        if born is not None:
            self.measured.delays.append(self._clock.monotonic() - born)


class Outage:
    """One run in one folder. `wall` is the real clock, for rates and delays."""

    def __init__(self, folder: Path, load: Load, *, bound: int, wall: Clock, rss: Callable[[], int]) -> None:
        self._load = load
        self._wall = wall
        self._rss = rss
        self._clock = SetClock(START_MS)
        self._path = folder / "spool.db"
        self._spool = Spool(self._path, clock=self._clock, crash=CrashPoints(), max_bytes=bound)
        self._platform = Platform(wall)
        self._turns = 0
        """Frames of each device so far."""

    @property
    def measured(self) -> Measured:
        """Figures so far."""
        return self._platform.measured

    async def run(self, say: Callable[[str], None]) -> Measured:
        """Fill, come back, drain. Raises UpstreamError if the drain stands still."""
        self._spool.open()
        lanes = [self._lane(cls) for cls in ReadingClass]
        tasks = [asyncio.create_task(lane.run()) for lane in lanes]
        try:
            await self._be_out(say)
            say(f"{self.measured.backlog} records wait; the platform is back")
            await self._come_back(lanes)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.measured.left = sum(account.present for account in (await self._spool.log.accounts()).values())
            self._spool.close()
        return self.measured

    def _lane(self, cls: ReadingClass) -> Lane:
        return Lane(
            cls,
            spool=self._spool,
            client=cast(PlatformClient, self._platform),
            devices=Devices(load_catalogue()),
            seal=Sealer(bytes(32)).seal,
            counters=FrameCounters(),
            clock=self._clock,
            random=lambda: 0.5,
            crash=CrashPoints(),
        )

    async def _be_out(self, say: Callable[[str], None]) -> None:
        load, began = self._load, self._wall.monotonic()
        turns = max(1, int(load.hours * 3600 / load.period_s))
        due = self._clock.now_ms()
        for turn in range(turns):
            for first in range(0, load.devices, PART):
                devices = range(first, min(first + PART, load.devices))
                self.measured.frames += await self._put([(turn, device) for device in devices])
            self._clock.advance(round(load.period_s * 1000))
            if self._clock.now_ms() >= due:
                due = self._clock.now_ms() + TEND_MS
                await self._tend()
            if turn % max(1, turns // 10) == 0:
                say(
                    f"{turn * load.period_s / 3600:.1f} h of {load.hours:.1f} h, {self.measured.rss // MB} MB in memory"
                )
        self._turns = turns
        await self._tend()
        self.measured.outage_s = self._wall.monotonic() - began
        self.measured.backlog = sum(account.present for account in (await self._spool.log.accounts()).values())

    async def _come_back(self, lanes: list[Lane]) -> None:
        platform, began = self._platform, self._wall.monotonic()
        platform.down = False
        reporting = asyncio.create_task(self._report_live())
        tending = asyncio.create_task(self._tend_each_second())
        try:
            await self._until_drained(began)
        finally:
            reporting.cancel()
            await asyncio.gather(reporting, return_exceptions=True)
        tending.cancel()
        await asyncio.gather(tending, return_exceptions=True)
        # Tombstones are told once there is room, and then they are records like all else.
        for _ in range(3):
            await self._tend()
            if not await drained(lanes, SILENT_S):
                raise UpstreamError(f"the lanes were not empty within {SILENT_S:.0f} s")

    async def _until_drained(self, began: float) -> None:
        """Wait until the backlog is gone; live frames come all the while."""
        moved, depth = began, self._depth()
        while depth > max(self._load.live, 1):
            await asyncio.sleep(0.05)
            now = self._wall.monotonic()
            if (left := self._depth()) < depth:
                moved, depth = now, left
            elif now - moved > SILENT_S:
                raise UpstreamError(f"{depth} records wait, and for {SILENT_S:.0f} s none was taken")
        self.measured.drain_s = self._wall.monotonic() - began

    def _depth(self) -> int:
        return sum(self._spool.log.depth(cls, "uplink") for cls in ReadingClass)

    async def _report_live(self) -> None:
        """`live` frames a second, each of another device in turn, until cancelled."""
        share = max(1, round(self._load.live * LIVE_S))
        for met in self._platform.met.values():
            await met.wait()
        sent, due = 0, self._wall.monotonic()
        while True:
            frames = [divmod(number, self._load.devices) for number in range(sent, sent + share)]
            sent += share
            named = [(self._turns + turn, device) for turn, device in frames]
            for turn, device in named:
                self._platform.born[turn * 1_000_000 + device] = self._wall.monotonic()
            # Not to be cancelled halfway: what was acknowledged must be counted.
            self.measured.live += await asyncio.shield(self._put(named))
            due += LIVE_S
            await asyncio.sleep(max(0.0, due - self._wall.monotonic()))

    async def _tend_each_second(self) -> None:
        while True:
            await self._tend()
            await asyncio.sleep(1.0)

    async def _tend(self) -> None:
        await self._spool.tend()
        seen = self.measured
        seen.rss = max(seen.rss, self._rss())
        seen.wal = max(seen.wal, self._spool.log.wal_bytes)
        seen.file = max(seen.file, self._path.stat().st_size)

    async def _put(self, frames: list[tuple[int, int]]) -> int:
        """Put frames, given as (turn, device), and wait for their commits; how many were acknowledged."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        told: list[Stored | BaseException] = []

        def tell(stored: Stored | BaseException) -> None:
            told.append(stored)
            if len(told) == len(frames) and not done.done():
                done.set_result(None)

        now = self._clock.now_ms()
        for turn, device in frames:
            cls = _class_of(turn + device)
            self._spool.put(
                Put(
                    device=f"gauge-{device}",
                    readings={cls: _reading(turn, device, now)},
                    fingerprint=Counted(boot=1, seq=turn, base=None),
                    received=now,
                    told=tell,
                )
            )
        await done
        return sum(isinstance(stored, Stored) and not stored.duplicate for stored in told)


def _class_of(number: int) -> ReadingClass:
    if number % SAFETY_SHARE == 0:
        return ReadingClass.SAFETY
    return ReadingClass.STATE if number % STATE_SHARE == 0 else ReadingClass.BULK


def _reading(turn: int, device: int, now: int) -> wire.Readings:
    return wire.Readings(
        device=f"gauge-{device}",
        profile="generic/water-gauge",
        kind="waterlogging_gauge",
        message="report",
        received=now,
        identity="credential",
        samples=[wire.SampleBody(time=now, values={"water.level": turn % 90 / 10, "battery.voltage": 3.6})],
        boot=1,
        seq=turn,
    )
