"""A small town with a bad network: platform, gateway, proxies on both sides of the gateway, and gauges of three kinds.

Owns their moments and the comparison at the end. Tried gauges live behind the proxies, calm ones speak to the doors
directly and are timed, mixed ones send a damaged frame among ten. When which fault falls is `faults_course`'s.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import aiohttp

from citysense.cli.stack import HOST, Stack
from citysense.cli.stack_api import GAUGE_MESSAGE, GAUGE_METRIC, GAUGE_PROFILE, NO_HOLD_RULES, StackApi
from citysense.cli.stored_twice import StoredTwice
from citysense.clock import Clock, rfc3339
from citysense.errors import UpstreamError
from citysense_profiles.catalogue import load_catalogue
from citysense_sim.checker import Expected, Findings, Stored
from citysense_sim.fault_proxy import FaultProxy, Weather
from citysense_sim.fault_proxy_udp import Radio, UdpFaultProxy
from citysense_sim.fleet import Doors, Fleet, Member
from citysense_sim.fleet import Report as GaugeReport
from citysense_sim.ledger import Key, Ledger, Sent, read_ledger
from citysense_sim.mixed_frames import MixedFrames

T = TypeVar("T")

TRIED, CALM, MIXED, FLOODING = 40, 20, 20, 2
COAP_SHARE = 2
"""Every second gauge of each kind speaks CoAP."""
BURST_EVERY_S = 0.25
BOOT = 1
RADIO = Radio(duplicate=0.3, reorder=0.3, drop=0.01, rebind=0.02)
ANSWERS = Radio(duplicate=0.3, reorder=0.3, drop=0.01)
ROUGH = Weather(cut=0.4, reset=0.4, within=6_000)
"""A burst of a connection is some 100 bytes: it lives for a quarter of a minute at most."""
READY_S = 30.0
DRAIN_S = 60.0
SETTLE_S = 5.0
"""When nothing more has appeared for so long, what is not there will not come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What the platform holds beside what was sent."""

    findings: Findings
    records: int
    records_twice: int
    bad_sent: int
    bad_missing: int
    bad_strange: int


def drawn_from(seed: int, what: str) -> random.Random:
    """The chance of one part of a run; the same seed gives it again."""
    return random.Random(f"{seed} {what}")  # noqa: S311 - choices that must be repeatable, nothing secret


class TimedLedger(Ledger):
    """A ledger that also knows how long each acknowledgement took, counted from the moment that was planned."""

    def __init__(self, path: Path, clock: Clock) -> None:
        super().__init__(path)
        self._clock = clock
        self._due: dict[Key, float] = {}
        self.planned = 0.0
        """Moment for which the readings that are now being made were planned."""
        self.timed: frozenset[str] = frozenset()
        """Devices whose acknowledgements are timed."""
        self.delays: list[float] = []
        self.acks = 0

    def sent(self, row: Sent) -> None:
        """See Ledger."""
        if row.device in self.timed:
            self._due[row.key] = self.planned
        super().sent(row)

    def acked(self, key: Key) -> None:
        """See Ledger."""
        self.acks += 1
        due = self._due.pop(key, None)
        if due is not None:
            self.delays.append(self._clock.monotonic() - due)
        super().acked(key)

    def waiting(self) -> list[float]:
        """How long the timed readings without acknowledgement have waited."""
        now = self._clock.monotonic()
        return [now - due for due in self._due.values()]


class FaultsTown:
    """`start`, then load under which things happen, `drain`, `judge`, `stop`."""

    def __init__(self, folder: Path, *, seed: int, clock: Clock) -> None:
        self._folder = folder
        self._clock = clock
        rules = folder / "rules.yaml"
        self.stack = Stack(folder / "data", clock=clock, rules=rules, uplink=self._between)
        self.ledger = TimedLedger(folder / "ledger.txt", clock)
        # A chance for each: what one proxy draws must not depend on how busy the others were.
        self.uplink = FaultProxy(0, chance=drawn_from(seed, "uplink"))
        self.mqtt = FaultProxy(0, chance=drawn_from(seed, "mqtt"), weather=ROUGH)
        self.coap = UdpFaultProxy(0, chance=drawn_from(seed, "coap"), up=RADIO, down=ANSWERS)
        self.neighbours: Counter[str] = Counter()
        """What hostile neighbours did."""
        self.flooding: list[Member] = []
        """Devices whose owners will misuse them."""
        self._rules = rules
        self._session: aiohttp.ClientSession | None = None
        self._fleets: list[Fleet] = []
        self._mixed: MixedFrames | None = None
        self._loading: asyncio.Task[None] | None = None
        self._bursts = 0
        self.sent = 0
        """Readings and damaged frames made."""

    @property
    def doors(self) -> Doors:
        """The gateway's own, without a proxy before them."""
        return Doors(host=HOST, mqtt_port=self.stack.mqtt_port, coap_port=self.stack.coap_port)

    @property
    def refused(self) -> int:
        """Good readings that the gateway called bad."""
        return sum(fleet.refused for fleet in self._fleets) + self._mixed_frames.good_refused

    @property
    def dropped(self) -> int:
        """Readings for which a gauge had no room."""
        return sum(fleet.dropped for fleet in self._fleets)

    @property
    def unacked(self) -> int:
        """Frames whose fate is open."""
        return sum(fleet.unacked for fleet in self._fleets) + self._mixed_frames.unacked

    @property
    def _mixed_frames(self) -> MixedFrames:
        assert self._mixed is not None, "before start"
        return self._mixed

    async def _between(self, api_port: int) -> int:
        self.uplink.target = api_port
        await self.uplink.start()
        return self.uplink.port

    async def start(self) -> None:
        """Everybody is connected and the load runs when this returns. Raises SetupError, UpstreamError."""
        self._rules.write_text(NO_HOLD_RULES, encoding="utf-8")
        await self.stack.start()
        self.mqtt.target, self.coap.target = self.stack.mqtt_port, self.stack.coap_port
        await self.mqtt.start()
        await self.coap.start()
        self.ledger.open()
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30))
        self.api = StackApi(self._session, self.stack.api, self.stack.token)
        count = TRIED + CALM + MIXED + FLOODING
        coap = dict.fromkeys(range(0, count, COAP_SHARE), "coap")
        members = await self.api.register(count, coap)
        tried, calm = members[:TRIED], members[TRIED : TRIED + CALM]
        self.flooding = members[-FLOODING:]
        self.ledger.timed = frozenset(member.device for member in calm)
        behind = Doors(host=HOST, mqtt_port=self.mqtt.port, coap_port=self.coap.port)
        report = GaugeReport(profile=load_catalogue()[GAUGE_PROFILE], message=GAUGE_MESSAGE, metric=GAUGE_METRIC)
        for group, doors in ((tried, behind), (calm, self.doors)):
            fleet = Fleet(group, report=report, doors=doors, boot=BOOT, clock=self._clock, ledger=self.ledger)
            self._fleets.append(fleet)
            await fleet.start(READY_S)
        self._mixed = MixedFrames(
            members[TRIED + CALM : -FLOODING],
            report=report,
            doors=self.doors,
            boot=BOOT,
            clock=self._clock,
            ledger=self.ledger,
        )
        await self._mixed.start()
        self._twice = StoredTwice(self.stack.data / "log.db")
        self._loading = asyncio.create_task(self._load())

    async def _load(self) -> None:
        """A frame from every gauge, four times a second, whatever becomes of the ones before."""
        due = self._clock.monotonic()
        while True:
            await self._burst(due)
            due += BURST_EVERY_S
            await asyncio.sleep(max(0.0, due - self._clock.monotonic()))

    async def _burst(self, due: float) -> None:
        self.ledger.planned = due
        rows = [
            (fleet, index, fleet.make(index, self._level(index)))
            for fleet in self._fleets
            for index in range(len(fleet))
        ]
        await self.ledger.sync()  # what was sent is known before it can be acknowledged
        for fleet, index, row in rows:
            fleet.push(index, row)
        await self._mixed_frames.send(self._level(0))
        self.sent += len(rows) + MIXED
        self._bursts += 1

    def _level(self, gauge: int) -> float:
        """Dry, so that no case comes of it, and another number each time."""
        return round(0.5 + (self._bursts % 7_000) * 0.001 + gauge * 0.01, 3)

    async def under_load(self, wanted: Awaitable[T]) -> T:
        """Await something, unless the load fails before: then raise what it failed with. Raises UpstreamError."""
        assert self._loading is not None
        task = asyncio.ensure_future(wanted)
        await asyncio.wait({task, self._loading}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self._loading.result()
            raise UpstreamError("the load ended early")
        return task.result()

    async def live(self, within: float) -> float | None:
        """Seconds until a reading that is made from now on is with the platform; None after `within` seconds."""
        assert self._session is not None
        began, since = self._clock.monotonic(), self._clock.now_ms()
        device = min(self.ledger.timed)
        while self._clock.monotonic() - began < within:
            body = await self.api.get(f"/api/v1/devices/{device}/series", **self._window(since))
            if body["points"]:
                return self._clock.monotonic() - began
            await asyncio.sleep(0.05)
        return None

    def _window(self, since: int) -> dict[str, str]:
        return {"metric": GAUGE_METRIC, "start": rfc3339(since), "end": rfc3339(since + 3_600_000)}

    async def look(self) -> None:
        """Look through what has come into the platform's log meanwhile. Raises StorageError."""
        await asyncio.to_thread(self._twice.look)

    async def drain(self) -> int:
        """End the load, calm the weather, and wait for the last acknowledgement; how many frames have none."""
        assert self._loading is not None
        self._loading.cancel()
        await asyncio.gather(self._loading, return_exceptions=True)
        self.mqtt.weather, self.coap.up, self.coap.down = Weather(), Radio(), Radio()
        self.mqtt.reset_all()
        await asyncio.gather(self._mixed_frames.drain(DRAIN_S), *(fleet.drain(DRAIN_S) for fleet in self._fleets))
        await self.ledger.sync()
        return self.unacked

    async def judge(self) -> Judged:
        """Compare, when nothing more comes. Raises UpstreamError, StorageError, ValueError."""
        sent, acked = await asyncio.to_thread(read_ledger, self.ledger.path)
        expected = Expected(sent, acked)
        reached, since = -1, self._clock.monotonic()
        while True:
            judged = await self._compare(sent, expected)
            there = judged.findings.stored - judged.bad_missing
            if not (judged.findings.lost or judged.bad_missing):
                return judged
            if there != reached:
                reached, since = there, self._clock.monotonic()
            elif self._clock.monotonic() - since > SETTLE_S:
                return judged
            await asyncio.sleep(0.5)

    async def _compare(self, sent: list[Sent], expected: Expected) -> Judged:
        start, end = min(row.time for row in sent) - 1_000, max(row.time for row in sent) + 1_000
        stored: list[Stored] = []
        for device in sorted({row.device for row in sent}):
            stored += await self.api.readings(device, start, end)
        letters: dict[str, set[str]] = {device: set() for device in self._mixed_frames.bad}
        async for letter in self.api.items("/api/v1/dead-letters"):
            if letter["device"] in letters:
                letters[letter["device"]].add(letter["raw"])
        bad = {device: {frame.hex() for frame in frames} for device, frames in self._mixed_frames.bad.items()}
        await self.look()
        return Judged(
            findings=expected.compare(stored),
            records=self._twice.records,
            records_twice=len(self._twice.twice),
            bad_sent=sum(map(len, self._mixed_frames.bad.values())),
            bad_missing=sum(len(frames - letters[device]) for device, frames in bad.items()),
            bad_strange=sum(len(letters[device] - frames) for device, frames in bad.items()),
        )

    def done(self) -> dict[str, int]:
        """What the proxies and the neighbours did, by name."""
        parts = {
            "uplink": self.uplink.done,
            "mqtt": self.mqtt.done,
            "coap": self.coap.done,
            "neighbours": self.neighbours,
        }
        return {f"{part}: {name}": count for part, counts in parts.items() for name, count in counts.items()}

    def deaths(self) -> list[str]:
        """Processes that ended although nobody killed them."""
        return [f"{end.name} ended by itself with code {end.code}" for end in self.stack.unexpected_deaths()]

    async def stop(self) -> None:
        """End everything."""
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)
        for fleet in self._fleets:
            await fleet.stop()
        if self._mixed is not None:
            await self._mixed.stop()
        if self._session is not None:
            await self._session.close()
        await self.stack.stop()
        await self.mqtt.stop()
        await self.coap.stop()
        await self.uplink.stop()
        self.ledger.close()
