"""`citysense soak faults`: everything that networks do, under load, and then what the gauges were promised beside what is there.

Owns the course of the run and the table. What is done to connections and datagrams is the proxies', what happens when is
`faults_course`'s, and what is right is `citysense_sim.checker`'s word.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from citysense.cli.faults_course import ALL_EPISODES, FaultsCourse, Passed
from citysense.cli.faults_town import FaultsTown, drawn_from
from citysense.clock import Clock, SystemClock
from citysense.errors import WrongUse
from citysense_sim.checker import Findings

EXAMPLE = """\
examples:
  citysense soak faults                       every fault once, about a minute
  citysense soak faults --minutes 600         the long run
  citysense soak faults --seed 17 --json      the same faults again, figures as JSON
"""
LIVE_AGAIN_S = 10.0
"""From the end of a fault on the way to the platform until a new reading is there."""
P99_S = 1.0
"""What the acknowledgement of a good device's reading may take beside the worst neighbours."""

MUST_BE_NONE = frozenset(
    {
        *("lost", "altered", "phantom", "doubled", "records_twice", "bad_frames_missing", "bad_frames_strange"),
        *("unacked_left", "refused", "dropped"),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The run's account."""

    seed: int
    episodes: tuple[Passed, ...]
    findings: Findings
    records: int
    records_twice: int
    bad_sent: int
    bad_missing: int
    """Damaged frames that are not among the dead letters, byte by byte."""
    bad_strange: int
    """Dead letters of theirs that nobody sent like that."""
    unacked_left: int
    refused: int
    dropped: int
    done: dict[str, int]
    """What the proxies and the neighbours did, by name."""
    faults: tuple[str, ...] = ()

    @property
    def kept(self) -> bool:
        """The promise was kept: nothing lost, altered, made up, doubled or thrown away."""
        wrong = self.records_twice or self.bad_missing or self.bad_strange or self.unacked_left
        return self.findings.clean and not (wrong or self.refused or self.dropped or self.faults)

    @property
    def live_again_s(self) -> float:
        """The longest time in which the way to the platform was not mended."""
        return max((one.live_again_s for one in self.episodes if one.live_again_s is not None), default=0.0)

    @property
    def neighbours_p99_s(self) -> float:
        """The worst p99 of the good devices' acknowledgements beside hostile neighbours."""
        return max((one.p99_s for one in self.episodes if one.p99_s is not None), default=0.0)

    @property
    def passed(self) -> bool:
        """Kept, and within the limits."""
        return self.kept and self.live_again_s <= LIVE_AGAIN_S and self.neighbours_p99_s <= P99_S

    def figures(self) -> dict[str, Any]:
        """Everything countable, for people and programs."""
        found = self.findings
        return {
            "seed": self.seed,
            "episodes": len(self.episodes),
            "sent": found.sent,
            "acked": found.acked,
            "stored": found.stored,
            "lost": len(found.lost),
            "altered": len(found.altered),
            "phantom": len(found.phantom),
            "doubled": len(found.doubled),
            "records": self.records,
            "records_twice": self.records_twice,
            "bad_frames": self.bad_sent,
            "bad_frames_missing": self.bad_missing,
            "bad_frames_strange": self.bad_strange,
            "unacked_left": self.unacked_left,
            "refused": self.refused,
            "dropped": self.dropped,
            "live_again_s_max": round(self.live_again_s, 2),
            "live_again_s_limit": LIVE_AGAIN_S,
            "neighbours_p99_s": round(self.neighbours_p99_s, 3),
            "neighbours_p99_s_limit": P99_S,
            "done": dict(sorted(self.done.items())),
            "faults": list(self.faults),
            "passed": self.passed,
        }


def add_parser(subparsers: Any) -> None:
    """Add `faults`."""
    parser = subparsers.add_parser(
        "faults",
        help="bad networks on both sides of the gateway, and count what was lost or doubled",
        description=(
            "Start platform and gateway of its own with proxies around the gateway that double, reorder, cut, reset, "
            "swallow and forget, and compare the gauges' own ledger with what the platform holds."
        ),
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--minutes", type=float, default=0.0, metavar="N", help="go on for so long (default: each once)"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="repeat a run's choices (default: a new one, printed)")
    parser.add_argument("--json", action="store_true", help="print figures as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Soak and print; 1 if anything was lost, doubled or too late."""
    if arguments.minutes < 0:
        raise WrongUse(f"--minutes {arguments.minutes}: cannot be below 0")
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(1_000_000)
    # Every damaged frame is refused, and a link says so each time.
    logging.getLogger("citysense_sim").setLevel(logging.ERROR)
    console = Console(stderr=True)
    console.print(f"seed {seed}", style="dim")
    with tempfile.TemporaryDirectory(prefix="citysense-faults-") as folder:
        soak = FaultSoak(Path(folder), seconds=60 * arguments.minutes, seed=seed, clock=SystemClock())
        report = asyncio.run(soak.run(lambda text: console.print(text, style="dim")))
    if arguments.json:
        print(json.dumps(report.figures()))
    else:
        _print(report)
    return 0 if report.passed else 1


class FaultSoak:
    """One run in one folder: every episode once in an order of chance, and again until `seconds` are over."""

    def __init__(self, folder: Path, *, seconds: float, seed: int, clock: Clock, scale: float = 1.0) -> None:
        self._folder = folder
        self._seconds, self._seed, self._scale = seconds, seed, scale
        self._clock = clock

    async def run(self, say: Callable[[str], None]) -> Report:
        """Load, disturb, drain, compare. Raises SetupError, UpstreamError, StorageError."""
        chance = drawn_from(self._seed, "course")
        town = FaultsTown(self._folder, seed=self._seed, clock=self._clock)
        say("starting platform, gateway and proxies")
        try:
            await town.start()
            course = FaultsCourse(town, chance=chance, clock=self._clock, scale=self._scale)
            passed = await self._episodes(town, course, chance, say)
            say("draining")
            left = await town.drain()
            say(f"{town.sent} readings sent; asking the platform for all of them")
            judged = await town.judge()
        finally:
            await town.stop()
        return Report(
            seed=self._seed,
            episodes=tuple(passed),
            findings=judged.findings,
            records=judged.records,
            records_twice=judged.records_twice,
            bad_sent=judged.bad_sent,
            bad_missing=judged.bad_missing,
            bad_strange=judged.bad_strange,
            unacked_left=left,
            refused=town.refused,
            dropped=town.dropped,
            done=town.done(),
            faults=(*course.faults, *town.deaths()),
        )

    async def _episodes(
        self, town: FaultsTown, course: FaultsCourse, chance: random.Random, say: Callable[[str], None]
    ) -> list[Passed]:
        passed: list[Passed] = []
        until = self._clock.monotonic() + self._seconds
        while not passed or self._clock.monotonic() < until:
            for name in chance.sample(ALL_EPISODES, len(ALL_EPISODES)):
                passed.append(await town.under_load(course.play(name)))
                say(passed[-1].told)
            await town.look()
        return passed


def _print(report: Report) -> None:
    figures = report.figures()
    table = Table(title="faults on the wire", title_justify="left")
    table.add_column("")
    table.add_column("measured", justify="right")
    table.add_column("limit", justify="right")
    for name, value in figures.items():
        if name in ("done", "faults", "passed") or name.endswith("_limit"):
            continue
        limit = 0 if name in MUST_BE_NONE else figures.get(f"{name.removesuffix('_max')}_limit", "")
        missed = limit != "" and value > limit
        table.add_row(
            name.replace("_", " ").replace("phantom", "made up"),
            str(value),
            str(limit),
            style="bold red" if missed else None,
        )
    console = Console()
    console.print(table)
    done = Table(title="what was done", title_justify="left", show_header=False)
    done.add_column()
    done.add_column(justify="right")
    for name, count in figures["done"].items():
        done.add_row(name, str(count))
    console.print(done)
    for fault in report.faults:
        console.print(fault, style="bold red", markup=False)
    if report.passed:
        console.print(f"nothing lost or doubled in {len(report.episodes)} episodes")
    else:
        console.print(f"FAILED; the same choices again: citysense soak faults --seed {report.seed}", style="bold red")
        for name in ("lost", "altered", "phantom", "doubled", "unsent_acks"):
            if examples := getattr(report.findings, name):
                console.print(f"{name.replace('_', ' ')}, the first of {len(examples)}: {examples[0]}", markup=False)
