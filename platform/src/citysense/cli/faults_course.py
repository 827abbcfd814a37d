"""What happens to the town's network, one episode after another, and how well it is borne.

Owns the episodes and what is measured of each. The load goes on meanwhile; the comparison at the end is `faults_town`'s.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from citysense.cli.faults_town import ANSWERS, FaultsTown
from citysense.cli.json_child import JsonChild
from citysense.clock import Clock
from citysense_sim.fault_proxy import Weather
from citysense_sim.fault_proxy_udp import Radio
from citysense_sim.hostile_neighbours import HostileNeighbours

LIVE_WITHIN_S = 30.0
RESET_EVERY_S = 0.2
UNHEARD, UNHEARD_S = 10, 10.0
"""Answers that are lost before the gateway dies: committed, and half the devices behind the proxy do not know."""
FLOOD_RATE = 3_000.0
FLOOD_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """One episode: what was done, for how long, how long until the platform heard of new readings again (where the way to
    it was disturbed), and the p99 of calm gauges' acknowledgements (where neighbours were hostile)."""

    name: str
    seconds: float
    acked: int
    """Readings that were acknowledged while the fault lasted."""
    live_again_s: float | None = None
    p99_s: float | None = None

    @property
    def told(self) -> str:
        """For people."""
        again = "" if self.live_again_s is None else f", live again after {self.live_again_s:.1f} s"
        slowest = "" if self.p99_s is None else f", p99 of good devices {self.p99_s:.3f} s"
        return f"{self.name}: {self.seconds:.1f} s, {self.acked} acknowledged meanwhile{again}{slowest}"


class FaultsCourse:
    """Plays episodes by name. `scale` shortens or lengthens them; `faults` collects what went wrong and is no reading."""

    def __init__(self, town: FaultsTown, *, chance: random.Random, clock: Clock, scale: float = 1.0) -> None:
        self._town = town
        self._chance, self._clock, self._scale = chance, clock, scale
        self.faults: list[str] = []

    async def play(self, name: str) -> Passed:
        """One episode, to its end and until all is well again. Raises UpstreamError, SetupError."""
        began, acks = self._clock.monotonic(), self._town.ledger.acks
        town = self._town
        town.ledger.delays.clear()
        await EPISODES[name](self)
        seconds, acked = self._clock.monotonic() - began, town.ledger.acks - acks
        if name not in DOORS_CLOSED and not acked:
            self.faults.append(f"{name}: nothing was acknowledged for {seconds:.1f} s")
        p99 = None
        if name in BESIDE_NEIGHBOURS:
            # Those that still wait count with what they have waited; else the slowest would not be seen.
            delays = sorted([*town.ledger.delays, *town.ledger.waiting()])
            p99 = delays[min(len(delays) - 1, int(0.99 * len(delays)))] if delays else None
        live = await town.live(LIVE_WITHIN_S)
        if live is None:
            self.faults.append(f"{name}: no new reading reached the platform within {LIVE_WITHIN_S:.0f} s of its end")
        return Passed(name=name, seconds=seconds, acked=acked, live_again_s=live, p99_s=p99)

    async def _last(self, shortest: float, longest: float) -> None:
        await asyncio.sleep(self._chance.uniform(shortest, longest) * self._scale)

    async def half_open(self) -> None:
        """Whatever the gateway sends to the platform vanishes, and new connections are no better."""
        self._town.uplink.weather = Weather(swallow=1.0, within=1)
        self._town.uplink.swallow_all()
        await self._last(1.0, 6.0)
        self._town.uplink.weather = Weather()

    async def resets(self) -> None:
        """Each connection to the platform is reset again and again."""
        until = self._clock.monotonic() + self._chance.uniform(1.0, 4.0) * self._scale
        while self._clock.monotonic() < until:
            self._town.uplink.reset_all()
            await asyncio.sleep(RESET_EVERY_S)

    async def refused(self) -> None:
        """Nobody listens where the platform was."""
        self._town.uplink.shut()
        self._town.uplink.reset_all()
        await self._last(1.0, 4.0)
        await self._town.uplink.start()

    async def answers_lost(self) -> None:
        """The platform has committed, and the gateway does not hear of it."""
        self._town.uplink.weather = Weather(answer_lost=0.9, answers=2)
        self._town.uplink.reset_all()
        await self._last(2.0, 5.0)
        self._town.uplink.weather = Weather()
        self._town.uplink.reset_all()

    async def slow(self) -> None:
        """A way to the platform like a bad radio link."""
        self._town.uplink.weather = Weather(delay_s=0.1, bytes_per_s=40_000, cut=0.2, within=20_000)
        self._town.uplink.reset_all()
        await self._last(1.5, 5.0)
        self._town.uplink.weather = Weather()
        self._town.uplink.reset_all()

    async def platform_halted(self) -> None:
        """SIGSTOP: the platform's sockets are there and nothing comes of them."""
        self._town.stack.pause("platform")
        try:
            await self._last(1.5, 6.0)
        finally:
            self._town.stack.resume("platform")

    async def gateway_killed(self) -> None:
        """Between the request of a CoAP device, whose answer is lost, and its retransmission."""
        town = self._town
        town.coap.down = Radio(drop=1.0)
        lost = town.coap.done["drop down"] + UNHEARD
        if not await _until(lambda: town.coap.done["drop down"] >= lost, UNHEARD_S):
            self.faults.append(f"the gateway answered fewer than {UNHEARD} requests within {UNHEARD_S:.0f} s")
        town.stack.kill("gateway")
        await town.stack.revive("gateway")
        town.coap.down = ANSWERS

    async def doors_reset(self) -> None:
        """Every device behind the proxy is thrown out again and again, and some find a line that swallows all."""
        until = self._clock.monotonic() + self._chance.uniform(1.0, 3.0) * self._scale
        while self._clock.monotonic() < until:
            self._town.mqtt.reset_all()
            await asyncio.sleep(2 * RESET_EVERY_S)
        self._town.mqtt.swallow_all()
        await self._last(0.5, 1.0)
        self._town.mqtt.reset_all()

    async def neighbours(self) -> None:
        """Silent, slow, restless, noisy and flooding ones at both doors."""
        town = self._town
        hostile = HostileNeighbours(town.doors, chance=self._chance)
        floods = [await JsonChild.start(f"citysense_sim.{kind}_flood") for kind in ("coap", "mqtt")]
        try:
            seconds = self._chance.uniform(2.0, 6.0) * self._scale
            rounds = [self._flood(child, at, seconds) for at, child in enumerate(floods)]
            hostile.start()
            for answered in await asyncio.gather(*rounds):
                town.neighbours["flood"] += answered
        finally:
            await hostile.stop()
            for child in floods:
                await child.stop()
            town.neighbours.update(hostile.done)

    async def _flood(self, child: JsonChild, at: int, seconds: float) -> int:
        """The flooding device's readings that were answered."""
        town, coap = self._town, at == 0
        member, doors = town.flooding[at], town.doors
        port = doors.coap_port if coap else doors.mqtt_port
        row = {"device": member.device} if coap else {"device": member.device, "secret": member.secret}
        if coap:
            plan = {"host": doors.host, "port": port, "message": "report", "members": [row]}
        else:
            plan = {"host": doors.host, "port": port, "members": [{**row, "topic": f"cs/v1/{member.device}/up/report"}]}
        await child.tell(plan)
        await child.hear(FLOOD_S)
        await child.tell({"seconds": seconds} if coap else {"seconds": seconds, "rate": FLOOD_RATE})
        done = await child.hear(FLOOD_S)
        return int(done["answered" if coap else "acked"])


async def _until(condition: Callable[[], bool], within: float) -> bool:
    """Wait for something that others do; False if it has not come about."""
    try:
        async with asyncio.timeout(within):
            while not condition():  # noqa: ASYNC110 - a counter sets no event
                await asyncio.sleep(0.01)
    except TimeoutError:
        return False
    return True


EPISODES: dict[str, Callable[[FaultsCourse], Awaitable[None]]] = {
    "uplink half-open": FaultsCourse.half_open,
    "uplink reset": FaultsCourse.resets,
    "uplink refused": FaultsCourse.refused,
    "answers lost": FaultsCourse.answers_lost,
    "uplink slow": FaultsCourse.slow,
    "platform halted": FaultsCourse.platform_halted,
    "gateway killed between request and retransmission": FaultsCourse.gateway_killed,
    "doors reset": FaultsCourse.doors_reset,
    "hostile neighbours": FaultsCourse.neighbours,
}
ALL_EPISODES = tuple(EPISODES)
DOORS_CLOSED = frozenset({"gateway killed between request and retransmission"})
"""Nobody can be expected to acknowledge meanwhile."""
BESIDE_NEIGHBOURS = frozenset({"hostile neighbours"})
