"""`citysense soak kill`: kill -9 under load, again and again, and then compare what the gauges were promised with what is there.

Owns the course of the run: bursts, kills, crash points, the drain and the table. What is right is `citysense_sim.checker`'s
word, and the evidence is the fleet's own ledger.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console
from rich.table import Table

from citysense.cli.stack import HOST, Stack
from citysense.cli.stack_api import (
    CLEAR_CM,
    GAUGE_MESSAGE,
    GAUGE_METRIC,
    GAUGE_PROFILE,
    NO_HOLD_RULES,
    RAISE_CM,
    StackApi,
)
from citysense.clock import Clock, SystemClock
from citysense.crash_points import GATEWAY_POINTS, PLATFORM_POINTS
from citysense.errors import UpstreamError, WrongUse
from citysense_profiles.catalogue import load_catalogue
from citysense_sim.checker import CaseSeen, Expected, Findings, Stored, check_cases
from citysense_sim.fleet import Doors, Fleet
from citysense_sim.fleet import Report as GaugeReport
from citysense_sim.ledger import Ledger, Sent, read_ledger

EXAMPLE = """\
examples:
  citysense soak kill                              30 kills, and each named crash point once
  citysense soak kill --kills 1000 --points none   the long run
  citysense soak kill --seed 17 --json             the same victims and moments again, figures as JSON
"""
ALL_POINTS = GATEWAY_POINTS + PLATFORM_POINTS
GAUGES = 100
COAP_SHARE = 5
"""Every fifth gauge speaks CoAP."""
BURST_EVERY_S = 0.5
LEAST_UNACKED = 50
"""A kill counts only while at least so many frames are unacknowledged; fewer would cut nothing that matters."""
ACKED_FIRST = (0, 50)
"""A kill falls when so many frames of its burst have just been acknowledged: those are the ones whose loss would break the
promise, and the rest are under way in every stage."""
LATEST_KILL_S = 0.4
"""If the acknowledgements do not come that fast, the kill falls all the same, before the next burst."""
CALM_BURSTS = (1, 3)
"""Bursts between a process being ready again and the next kill."""
EPISODE_BURSTS, WET_BURSTS = 24, 6
"""Each gauge is under water for 3 s of every 12 s, each at another time, so that cases open all the while."""
POINT_S = 30.0
"""A crash point that the load does not reach in this time is reported: then its name or its place is wrong."""
DRAIN_S = 120.0
SETTLE_S = 5.0
"""When nothing more has appeared for so long, what is not there will not come: storing and judging take a second at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """One kill: whom, how, at how many unacknowledged frames, and how long the restart took, in seconds, by process."""

    victims: tuple[str, ...]
    point: str | None
    unacked: int
    ready_s: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The run's account."""

    seed: int
    kills: tuple[Kill, ...]
    findings: Findings
    cases: int
    unacked_left: int
    refused: int
    dropped: int
    faults: tuple[str, ...] = ()
    """What else went wrong: deaths that nobody ordered, crash points that were not reached."""

    @property
    def passed(self) -> bool:
        """The promise was kept, and the run was what it claims to be."""
        return self.findings.clean and not (self.unacked_left or self.refused or self.dropped or self.faults)

    def figures(self) -> dict[str, Any]:
        """Everything countable, for people and programs."""
        found = self.findings
        unacked = [kill.unacked for kill in self.kills] or [0]
        ready = [seconds for kill in self.kills for seconds in kill.ready_s] or [0.0]
        return {
            "seed": self.seed,
            "kills": sum(kill.point is None for kill in self.kills),
            "crash_points": sum(kill.point is not None for kill in self.kills),
            "unacked_at_kill_min": min(unacked),
            "unacked_at_kill_median": statistics.median(unacked),
            "ready_again_s_median": round(statistics.median(ready), 2),
            "ready_again_s_max": round(max(ready), 2),
            "sent": found.sent,
            "acked": found.acked,
            "stored": found.stored,
            "lost": len(found.lost),
            "altered": len(found.altered),
            "phantom": len(found.phantom),
            "doubled_readings": len(found.doubled),
            "cases": self.cases,
            "doubled_cases": len(found.doubled_cases),
            "missing_cases": len(found.missing_cases),
            "unacked_left": self.unacked_left,
            "refused": self.refused,
            "dropped": self.dropped,
            "loss_rate_below_95": round(3 / len(self.kills), 4) if self.kills and self.passed else None,
            "faults": list(self.faults),
            "passed": self.passed,
        }


def add_parser(subparsers: Any) -> None:
    """Add `kill`."""
    parser = subparsers.add_parser(
        "kill",
        help="kill -9 gateway and platform under load and count what was lost",
        description=(
            "Start platform and gateway of its own, load them with 200 frames a second in bursts of 100, kill them, and "
            "compare the gauges' own ledger with what the platform holds."
        ),
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kills", type=int, default=30, metavar="N", help="kills at random moments (default 30)")
    parser.add_argument(
        "--points",
        default="all",
        choices=("all", "none", *ALL_POINTS),
        metavar="all|none|NAME",
        help=f"crash points to die at once each (default all): {', '.join(ALL_POINTS)}",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="repeat a run's choices (default: a new one, printed)")
    parser.add_argument("--json", action="store_true", help="print figures as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Soak and print; 1 if anything was lost, altered, made up or doubled."""
    if arguments.kills < 0:
        raise WrongUse(f"--kills {arguments.kills}: cannot be below 0")
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(1_000_000)
    points = {"all": ALL_POINTS, "none": ()}.get(arguments.points, (arguments.points,))
    console = Console(stderr=True)
    console.print(f"seed {seed}", style="dim")
    with tempfile.TemporaryDirectory(prefix="citysense-soak-") as folder:
        soak = KillSoak(Path(folder), kills=arguments.kills, points=points, seed=seed, clock=SystemClock())
        report = asyncio.run(soak.run(lambda text: console.print(text, style="dim")))
    if arguments.json:
        print(json.dumps(report.figures()))
    else:
        _print(report)
    return 0 if report.passed else 1


def level(gauge: int, burst: int) -> float:
    """What a gauge measures in a burst: dry or knee-deep, and never the same twice within an hour."""
    wet = (burst + gauge) % EPISODE_BURSTS >= EPISODE_BURSTS - WET_BURSTS
    return round((60.0 if wet else 0.5) + (burst % 7_200) * 0.001, 3)


@dataclass(slots=True, kw_only=True)
class _Orders:
    """What the kill loop asks of the burst loop: to kill these in the middle of a burst's acknowledgements, and to say at
    how many open frames that was."""

    victims: tuple[str, ...] = ()
    acked_first: int = 0
    done: asyncio.Event = field(default_factory=asyncio.Event)
    unacked: int = 0


class KillSoak:
    """One run in one folder."""

    def __init__(self, folder: Path, *, kills: int, points: Sequence[str], seed: int, clock: Clock) -> None:
        self._folder = folder
        self._kills, self._points, self._seed = kills, tuple(points), seed
        self._random = random.Random(seed)  # noqa: S311 - choices that must be repeatable, nothing secret
        self._clock = clock
        self._orders: _Orders | None = None
        self._bursts = 0
        self._faults: list[str] = []

    async def run(self, say: Callable[[str], None]) -> Report:
        """Load, kill, drain, compare. Raises SetupError, UpstreamError, StorageError."""
        rules = self._folder / "rules.yaml"
        rules.write_text(NO_HOLD_RULES, encoding="utf-8")
        stack = Stack(self._folder / "data", clock=self._clock, rules=rules)
        ledger = Ledger(self._folder / "ledger.txt")
        say("starting platform and gateway")
        try:
            await stack.start()
            ledger.open()
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
                return await self._soak(stack, StackApi(session, stack.api, stack.token), ledger, say)
        finally:
            await stack.stop()
            ledger.close()

    async def _soak(self, stack: Stack, api: StackApi, ledger: Ledger, say: Callable[[str], None]) -> Report:
        coap = dict.fromkeys(range(0, GAUGES, COAP_SHARE), "coap")
        say(f"registering {GAUGES} gauges")
        members = await api.register(GAUGES, coap)
        fleet = Fleet(
            members,
            report=GaugeReport(profile=load_catalogue()[GAUGE_PROFILE], message=GAUGE_MESSAGE, metric=GAUGE_METRIC),
            doors=Doors(host=HOST, mqtt_port=stack.mqtt_port, coap_port=stack.coap_port),
            boot=1,
            clock=self._clock,
            ledger=ledger,
        )
        try:
            await fleet.start(30)
            loading = asyncio.create_task(self._load(stack, fleet, ledger))
            try:
                kills = await self._kill_all(stack, loading, say)
                await self._pass_bursts(EPISODE_BURSTS // 8, loading)
            finally:
                loading.cancel()
                await asyncio.gather(loading, return_exceptions=True)
            say("draining")
            drained = await fleet.drain(DRAIN_S)
            if not drained:
                say(f"{fleet.unacked} frames were not acknowledged within {DRAIN_S:.0f} s")
            await ledger.sync()
        finally:
            await fleet.stop()
        self._faults += [f"{end.name} ended by itself with code {end.code}" for end in stack.unexpected_deaths()]
        findings, cases = await self._compare(api, ledger.path, say)
        return Report(
            seed=self._seed,
            kills=tuple(kills),
            findings=findings,
            cases=len(cases),
            unacked_left=fleet.unacked,
            refused=fleet.refused,
            dropped=fleet.dropped,
            faults=tuple(self._faults),
        )

    async def _load(self, stack: Stack, fleet: Fleet, ledger: Ledger) -> None:
        """A burst from every gauge, twice a second, whatever becomes of the ones before."""
        due = self._clock.monotonic()
        while True:
            rows = [fleet.make(index, level(index, self._bursts)) for index in range(len(fleet))]
            await ledger.sync()  # what was sent is known before it can be acknowledged
            for index, row in enumerate(rows):
                fleet.push(index, row)
            self._bursts += 1
            if self._orders is not None:
                await self._carry_out(self._orders, stack, fleet)
            due += BURST_EVERY_S
            await asyncio.sleep(max(0.0, due - self._clock.monotonic()))

    async def _carry_out(self, orders: _Orders, stack: Stack, fleet: Fleet) -> None:
        until = max(fleet.unacked - orders.acked_first, LEAST_UNACKED)
        latest = self._clock.monotonic() + LATEST_KILL_S
        # Each turn of the loop takes in what one socket has; the count is looked at after every one.
        while fleet.unacked > until and self._clock.monotonic() < latest:  # noqa: ASYNC110
            await asyncio.sleep(0)
        if fleet.unacked < LEAST_UNACKED:
            orders.acked_first //= 2  # a whole commit was acknowledged at once; earlier with the next burst
            return
        for name in orders.victims:
            stack.kill(name)
        orders.unacked = fleet.unacked
        self._orders = None
        orders.done.set()

    async def _kill(self, stack: Stack, victims: tuple[str, ...], loading: asyncio.Task[None]) -> int:
        """Have the load kill them at its next chance; the number of unacknowledged frames at that moment."""
        orders = _Orders(victims=victims, acked_first=self._random.randint(*ACKED_FIRST))
        self._orders = orders
        await _first(orders.done.wait(), loading)
        return orders.unacked

    async def _pass_bursts(self, count: int, loading: asyncio.Task[None]) -> None:
        until = self._bursts + count
        while self._bursts < until:
            if loading.done():
                loading.result()
            await asyncio.sleep(0.05)

    async def _kill_all(self, stack: Stack, loading: asyncio.Task[None], say: Callable[[str], None]) -> list[Kill]:
        kills: list[Kill] = []
        # Some frames must be through before the first kill, or there is nothing to lose.
        await self._pass_bursts(CALM_BURSTS[1], loading)
        for number in range(self._kills):
            victims = self._random.choice((("gateway",), ("platform",), ("gateway", "platform")))
            unacked = await self._kill(stack, victims, loading)
            ready = await asyncio.gather(*(stack.revive(name) for name in victims))
            kills.append(Kill(victims=victims, point=None, unacked=unacked, ready_s=tuple(ready)))
            names, longest = " and ".join(victims), max(ready)
            say(f"kill {number + 1} of {self._kills}: {names} at {unacked} unacknowledged, ready after {longest:.1f} s")
            await self._pass_bursts(self._random.randint(*CALM_BURSTS), loading)
        for point in self._points:
            kills += await self._die_at(stack, point, loading, say)
        return kills

    async def _die_at(
        self, stack: Stack, point: str, loading: asyncio.Task[None], say: Callable[[str], None]
    ) -> list[Kill]:
        """Arm a crash point in a fresh process, wait for it to die there under load, and bring it back."""
        victim = "gateway" if point in GATEWAY_POINTS else "platform"
        unacked = await self._kill(stack, (victim,), loading)
        passing = self._random.randint(1, 5)
        await stack.revive(victim, crash_at=f"{point}:{passing}")
        if not await _first(stack.dead(victim, POINT_S), loading):
            self._faults.append(f"crash point {point} was not reached within {POINT_S:.0f} s")
            stack.kill(victim)
        ready = await stack.revive(victim)
        say(f"crash point {point}: {victim} died at passing {passing}, ready after {ready:.1f} s")
        await self._pass_bursts(CALM_BURSTS[0], loading)
        return [Kill(victims=(victim,), point=point, unacked=unacked, ready_s=(ready,))]

    async def _compare(self, api: StackApi, path: Path, say: Callable[[str], None]) -> tuple[Findings, list[CaseSeen]]:
        """Give the platform time to store what it has in its log, then hold its answers against the ledger."""
        sent, acked = await asyncio.to_thread(read_ledger, path)
        say(f"{len(sent)} readings sent, {len(acked)} acknowledged; asking the platform for all of them")
        expected = Expected(sent, acked)
        reached, since = (-1, -1), self._clock.monotonic()
        while True:
            findings, cases = await self._ask(api, sent, expected)
            if not (findings.lost or findings.missing_cases):
                return findings, cases
            if (findings.stored, len(cases)) != reached:
                reached, since = (findings.stored, len(cases)), self._clock.monotonic()
            elif self._clock.monotonic() - since > SETTLE_S:
                return findings, cases
            await asyncio.sleep(0.5)

    async def _ask(self, api: StackApi, sent: list[Sent], expected: Expected) -> tuple[Findings, list[CaseSeen]]:
        start, end = min(row.time for row in sent) - 1_000, max(row.time for row in sent) + 1_000
        stored: list[Stored] = []
        for device in sorted({row.device for row in sent}):
            stored += await api.readings(device, start, end)
        cases = await api.cases()
        doubled, missing = check_cases(sent, cases, raise_at=RAISE_CM, clear_below=CLEAR_CM)
        return replace(expected.compare(stored), doubled_cases=doubled, missing_cases=missing), cases


async def _first(wanted: Any, loading: asyncio.Task[None]) -> Any:
    """Await `wanted`, unless the load fails before: then raise what it failed with."""
    task = asyncio.ensure_future(wanted)
    await asyncio.wait({task, loading}, return_when=asyncio.FIRST_COMPLETED)
    if not task.done():
        task.cancel()
        loading.result()
        raise UpstreamError("the load ended early")
    return task.result()


def _print(report: Report) -> None:
    figures = report.figures()
    table = Table(title="kill -9 under load", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in figures.items():
        if name not in ("faults", "passed"):
            table.add_row(name.replace("_", " ").replace("phantom", "made up"), "-" if value is None else str(value))
    console = Console()
    console.print(table)
    for fault in report.faults:
        console.print(fault, style="bold red")
    if report.passed:
        count = len(report.kills)
        # Three kills or fewer bound nothing.
        bound = f": with 95 % confidence fewer than {3 / count:.1%} of kills lose anything" if count > 3 else ""
        console.print(f"nothing lost in {count} kills{bound}")
    else:
        console.print(f"FAILED; the same choices again: citysense soak kill --seed {report.seed}", style="bold red")
        _print_examples(console, report.findings)


def _print_examples(console: Console, findings: Findings) -> None:
    for name in ("lost", "altered", "phantom", "doubled", "unsent_acks", "doubled_cases", "missing_cases"):
        examples = getattr(findings, name)
        if examples:
            console.print(f"{name.replace('_', ' ')}, the first of {len(examples)}: {examples[0]}")
