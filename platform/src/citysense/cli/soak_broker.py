"""`citysense soak broker`: the city's broker is killed, wiped, away and flapping, and no receipted reading may be lost.

Owns the course of the run and the table. The broker is a mosquitto of its own with the shipped configuration; the evidence
is the devices' own book, and what is right is `citysense_sim.checker`'s word.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console
from rich.table import Table

from citysense.cli.broker_gauge import BrokerGauge
from citysense.cli.own_mosquitto import OwnMosquitto
from citysense.cli.stack import HOST, Stack
from citysense.cli.stack_api import NO_HOLD_RULES, StackApi
from citysense.clock import Clock, SystemClock
from citysense.errors import UpstreamError, WrongUse
from citysense_gateway.broker.options import Account
from citysense_sim.checker import Expected, Findings, Stored

EXAMPLE = """\
examples:
  citysense soak broker                    two minutes of troubles
  citysense soak broker --minutes 60       the long run
  citysense soak broker --seed 17 --json   the same troubles again, figures as JSON
"""
GAUGES = 10
TROUBLES = ("killed", "killed", "wiped", "away", "flapping")
"""Each as likely as it stands here."""
AWAY_S = (0.5, 5.0)
FLAPS = 4
FLAP_S = 0.15
MORE = 10
"""A trouble is over when each device has receipts for so many readings that it made after it had begun."""
PATIENCE_S = 60.0
SETTLE_S = 5.0
"""When nothing more has appeared in the store for so long, what is not there will not come."""
_PASSWORD = "soak"  # noqa: S105 - of a broker that lives for minutes
_PROBES = ("probe-a", "probe-b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The run's account. `again_s`: from the broker's return to receipts for new readings of every device, in seconds."""

    seed: int
    troubles: tuple[str, ...]
    again_s: tuple[float, ...]
    findings: Findings
    faults: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """The promise was kept, and there was something to keep it against."""
        return self.findings.clean and self.findings.acked > 0 and bool(self.troubles) and not self.faults

    def figures(self) -> dict[str, Any]:
        """Everything countable."""
        found = self.findings
        return {
            "seed": self.seed,
            "troubles": len(self.troubles),
            **{name: self.troubles.count(name) for name in dict.fromkeys(TROUBLES)},
            "receipts_again_s_median": round(statistics.median(self.again_s or (0.0,)), 2),
            "receipts_again_s_max": round(max(self.again_s, default=0.0), 2),
            "sent": found.sent,
            "receipted": found.acked,
            "stored": found.stored,
            "lost": len(found.lost),
            "altered": len(found.altered),
            "phantom": len(found.phantom),
            "doubled_readings": len(found.doubled),
            "faults": list(self.faults),
            "passed": self.passed,
        }


def add_parser(subparsers: Any) -> None:
    """Add `broker`."""
    parser = subparsers.add_parser(
        "broker",
        help="kill, wipe and flap the city's broker and count receipted readings that are lost",
        description="Start mosquitto, platform and gateway of its own, trouble the broker at random, and compare books.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=2.0, metavar="N", help="of troubles (default 2)")
    parser.add_argument("--protocol", choices=("5", "3.1.1"), default="5", help="version of MQTT (default 5)")
    parser.add_argument("--seed", type=int, metavar="N", help="repeat a run's choices (default: a new one, printed)")
    parser.add_argument("--json", action="store_true", help="print figures as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Soak and print; 1 if a receipted reading was lost, or anything was altered, made up or doubled."""
    if arguments.minutes <= 0:
        raise WrongUse(f"--minutes {arguments.minutes}: must be above 0")
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(1_000_000)
    console = Console(stderr=True)
    console.print(f"seed {seed}", style="dim")
    with tempfile.TemporaryDirectory(prefix="citysense-soak-") as folder:
        soak = BrokerSoak(
            Path(folder), seconds=60 * arguments.minutes, seed=seed, protocol=arguments.protocol, clock=SystemClock()
        )
        report = asyncio.run(soak.run(lambda text: console.print(text, style="dim")))
    if arguments.json:
        print(json.dumps(report.figures()))
    else:
        _print(report)
    return 0 if report.passed else 1


class BrokerSoak:
    """One run in one folder."""

    def __init__(self, folder: Path, *, seconds: float, seed: int, protocol: str, clock: Clock) -> None:
        self._folder = folder
        self._seconds, self._seed, self._protocol = seconds, seed, protocol
        self._random = random.Random(seed)  # noqa: S311 - choices that must be repeatable, nothing secret
        self._clock = clock
        devices = [f"load-{index:04d}" for index in range(GAUGES)]
        self._broker = OwnMosquitto(folder / "broker", dict.fromkeys(("gateway", *_PROBES, *devices), _PASSWORD))
        self._gauges = [
            BrokerGauge(
                Account(user=device, password=_PASSWORD),
                port=lambda: self._broker.port,
                host=HOST,
                protocol=5 if protocol == "5" else 4,
                clock=clock,
            )
            for device in devices
        ]
        self._troubles: list[str] = []
        self._again: list[float] = []

    async def run(self, say: Callable[[str], None]) -> Report:
        """Trouble, drain, compare. Raises SetupError, UpstreamError."""
        rules = self._folder / "rules.yaml"
        rules.write_text(NO_HOLD_RULES, encoding="utf-8")
        say("starting broker, platform and gateway")
        running: list[asyncio.Task[None]] = []
        stack: Stack | None = None
        try:
            await asyncio.to_thread(self._broker.start)
            stack = Stack(self._folder / "data", clock=self._clock, rules=rules, more=self._settings())
            await stack.start()
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
                api = StackApi(session, stack.api, stack.token)
                await api.register(GAUGES, {})
                running += [asyncio.create_task(gauge.run()) for gauge in self._gauges]
                await self._trouble(say)
                await self._drain(say)
                findings = await self._compare(api, say)
            faults = [f"{end.name} ended by itself with code {end.code}" for end in stack.unexpected_deaths()]
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            if stack is not None:
                await stack.stop()
            self._broker.kill()
        return Report(
            seed=self._seed,
            troubles=tuple(self._troubles),
            again_s=tuple(self._again),
            findings=findings,
            faults=tuple(faults),
        )

    def _settings(self) -> dict[str, str]:
        return {
            "broker": self._broker.address,
            "broker_password": _PASSWORD,
            "broker_probes": ",".join(f"{probe}:{_PASSWORD}" for probe in _PROBES),
            "broker_protocol": self._protocol,
        }

    async def _trouble(self, say: Callable[[str], None]) -> None:
        await self._until(self._reached([MORE] * GAUGES), "the first receipts came")
        end = self._clock.monotonic() + self._seconds
        while self._clock.monotonic() < end:
            how = self._random.choice(TROUBLES)
            wanted = [len(gauge.memory.sent) + MORE for gauge in self._gauges]
            await self._disturb(how)
            back = self._clock.monotonic()
            await self._until(self._reached(wanted), f"receipts went on after the broker was {how}")
            self._troubles.append(how)
            self._again.append(self._clock.monotonic() - back)
            say(f"trouble {len(self._troubles)}: {how}, receipts for new readings after {self._again[-1]:.1f} s")
            await asyncio.sleep(self._random.random())

    def _reached(self, wanted: Sequence[int]) -> Callable[[], bool]:
        return lambda: all(gauge.memory.receipted >= seq for gauge, seq in zip(self._gauges, wanted, strict=True))

    async def _disturb(self, how: str) -> None:
        for flap in range(FLAPS if how == "flapping" else 1):
            await asyncio.sleep(FLAP_S if flap else 0)
            self._broker.kill()
            if how == "wiped":
                self._broker.wipe()
            if how == "away":
                await asyncio.sleep(self._random.uniform(*AWAY_S))
            await asyncio.to_thread(self._broker.start)

    async def _drain(self, say: Callable[[str], None]) -> None:
        say("draining")
        for gauge in self._gauges:
            gauge.making = False
        await self._until(lambda: not any(gauge.memory.kept for gauge in self._gauges), "every reading had its receipt")

    async def _until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = self._clock.monotonic() + PATIENCE_S
        while not condition():
            if self._clock.monotonic() > deadline:
                raise UpstreamError(f"waited {PATIENCE_S:.0f} s until {what} (seed {self._seed})")
            await asyncio.sleep(0.05)

    async def _compare(self, api: StackApi, say: Callable[[str], None]) -> Findings:
        sent = [row for gauge in self._gauges for row in gauge.memory.sent]
        expected = Expected(sent, set().union(*(gauge.memory.acked for gauge in self._gauges)))
        say(f"{len(sent)} readings sent; asking the platform for all of them")
        start, end = min(row.time for row in sent), max(row.time for row in sent) + 1
        reached, since = -1, self._clock.monotonic()
        while True:
            stored: list[Stored] = []
            for gauge in self._gauges:
                stored += await api.readings(gauge.memory.device, start, end)
            findings = expected.compare(stored)
            if not findings.lost:
                return findings
            if findings.stored != reached:
                reached, since = findings.stored, self._clock.monotonic()
            elif self._clock.monotonic() - since > SETTLE_S:
                return findings
            await asyncio.sleep(0.5)


def _print(report: Report) -> None:
    table = Table(title="a broker that comes and goes", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in report.figures().items():
        if name not in ("faults", "passed"):
            table.add_row(name.replace("_", " ").replace("phantom", "made up"), str(value))
    console = Console()
    console.print(table)
    for fault in report.faults:
        console.print(fault, style="bold red")
    if not report.passed:
        console.print(f"FAILED; the same choices again: citysense soak broker --seed {report.seed}", style="bold red")
        return
    count = len(report.troubles)
    # Three troubles or fewer bound nothing.
    bound = f": with 95 % confidence fewer than {3 / count:.1%} of them lose any" if count > 3 else ""
    console.print(f"no receipted reading lost in {count} troubles{bound}")
