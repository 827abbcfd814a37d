"""`citysense soak modbus`: slaves that go wrong at random, for hours, and no value at another register.

Owns the course of the runs and the table. Each run is a few lines with slaves of random behaviour on a clock that jumps
over waiting; every value says where it came from, and is compared with what was asked for.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from citysense.cli.modbus_model import JudgingSink, changing_slave, driving, quiet, random_plan
from citysense.clock import SystemClock
from citysense.errors import WrongUse
from citysense_gateway.modbus.polled import PolledDevice
from citysense_sim.serial_line import Converter
from citysense_sim.warped_time import LoopClock, WarpedLoop

EXAMPLE = """\
examples:
  citysense soak modbus                     one minute of this machine, many hours of the lines
  citysense soak modbus --minutes 240       the long run
  citysense soak modbus --seed 17 --runs 1  one run again
"""
LINES = 4
TIMEOUT_S = 0.5
BAUD = 19_200
RUN_S = 3600.0
"""Seconds of one run, on the lines' clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StormFigures:
    """What one run, or several, brought. `seconds` are those of the lines."""

    runs: int = 1
    seconds: float
    reads: int
    lost: int
    resyncs: int
    values: int
    wrong: tuple[str, ...]

    def plus(self, other: StormFigures) -> StormFigures:
        """Both together."""
        return StormFigures(
            runs=self.runs + other.runs,
            seconds=self.seconds + other.seconds,
            reads=self.reads + other.reads,
            lost=self.lost + other.lost,
            resyncs=self.resyncs + other.resyncs,
            values=self.values + other.values,
            wrong=self.wrong + other.wrong,
        )


async def storm(seed: int, seconds: float) -> StormFigures:
    """One run on the running loop's clock. The last line gives back what is sent on it."""
    chance = random.Random(seed)  # noqa: S311 - the same storm again for the same seed
    clock = LoopClock()
    converters: list[Converter] = []
    devices: list[PolledDevice] = []
    units: dict[str, int] = {}
    for line in range(LINES):
        members = range(1, chance.choice((1, 2, 8)) + 1)
        slaves = [changing_slave(unit, timeout=TIMEOUT_S, chance=chance) for unit in members]
        converter = Converter(slaves, baud=BAUD, chance=chance, echo=line == LINES - 1)
        await converter.start()
        converters.append(converter)
        for unit in members:
            units[f"line-{line}-unit-{unit}"] = unit
            devices += _maps(f"line-{line}-unit-{unit}", converter.port, unit, chance)
    sink = JudgingSink(units, clock)
    began = clock.monotonic()
    async with driving(sink, devices, clock=clock, chance=chance, reply_timeout=TIMEOUT_S) as poller:
        await asyncio.sleep(seconds)
        counters = poller.counters
    for converter in converters:
        await converter.stop()
    return StormFigures(
        seconds=clock.monotonic() - began,
        reads=counters.polls + counters.resyncs,
        lost=counters.failures,
        resyncs=counters.resyncs,
        values=sink.values,
        wrong=tuple(f"seed {seed}: {text}" for text in sink.wrong),
    )


def _maps(device: str, port: int, unit: int, chance: random.Random) -> list[PolledDevice]:
    return [
        PolledDevice(
            id=device,
            endpoint=f"modbus+rtu-tcp://127.0.0.1:{port}/{unit}",
            plan=random_plan(chance),
            every=chance.choice((0.5, 1.0, 5.0)),
            message=f"map-{number}",
        )
        for number in range(chance.randint(1, 2))
    ]


def run_storm(seed: int, seconds: float = RUN_S) -> StormFigures:
    """One run on a clock of its own."""
    with asyncio.Runner(loop_factory=WarpedLoop) as runner:
        return runner.run(storm(seed, seconds))


def add_parser(subparsers: Any) -> None:
    """Add `modbus`."""
    parser = subparsers.add_parser(
        "modbus",
        help="values at the wrong register, with slaves that go wrong at random",
        description="Poll slaves that are dead, late, behind, noisy or wrong by turns, and check every value's origin.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=1.0, metavar="N", help="of this machine (default 1)")
    parser.add_argument("--runs", type=int, metavar="N", help="instead of --minutes: so many runs")
    parser.add_argument(
        "--seconds",
        type=float,
        default=RUN_S,
        metavar="S",
        help="of the lines' clock in each run (default %(default)g)",
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the first run (default 1)")
    parser.add_argument("--json", action="store_true", help="print figures as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run and print; 1 if a value was wrong."""
    if min(arguments.minutes, arguments.seconds) <= 0 or (arguments.runs is not None and arguments.runs < 1):
        raise WrongUse("--minutes and --seconds must be above 0 and --runs at least 1")
    clock = SystemClock()
    until = clock.monotonic() + 60 * arguments.minutes
    with quiet():
        figures = run_storm(arguments.seed, arguments.seconds)
        while figures.runs < arguments.runs if arguments.runs is not None else clock.monotonic() < until:
            figures = figures.plus(run_storm(arguments.seed + figures.runs, arguments.seconds))
    if arguments.json:
        print(json.dumps(asdict(figures)))
    else:
        _print(figures, arguments.seed)
    return 1 if figures.wrong else 0


def _print(figures: StormFigures, seed: int) -> None:
    table = Table(title=f"{figures.runs} runs from seed {seed}, {figures.seconds / 3600:.1f} hours of {LINES} lines")
    table.add_column("")
    table.add_column("measured", justify="right")
    table.add_column("limit", justify="right")
    table.add_row("polls and resync reads", str(figures.reads), "")
    table.add_row("requests lost", str(figures.lost), "")
    table.add_row("values", str(figures.values), "")
    table.add_row("values at the wrong register", str(len(figures.wrong)), "0")
    console = Console()
    console.print(table)
    for text in figures.wrong[:10]:
        console.print(text, markup=False)
    if not figures.wrong:
        console.print(f"0 of {figures.values} bounds the rate at {3 / max(1, figures.values):.1e} (95 %)")
