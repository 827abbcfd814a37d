"""`citysense soak power`: take the power away from a durable log at any moment, and see what is left.

Records a real run of the log under strace, builds from it the states that a disk may be left in, and opens the log in
each. Then flips the bits of a spool, byte by byte. Owns the course of the run and the table; the disk's model is
`power_images`, the judgement `log_judge`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from citysense.cli.log_judge import Judged, judge_image
from citysense.cli.power_images import Disk, cuts
from citysense.cli.storage_workload import FILE, Promised, read_promises
from citysense.cli.syscall_trace import TRACED, Call, calls, strace
from citysense.errors import SetupError, WrongUse

EXAMPLE = """\
examples:
  citysense soak power                        300 images of a power cut, 2,000 flipped bytes
  citysense soak power --images 20000 --flips all
  citysense soak power --synchronous NORMAL   what would be lost without a sync before each confirmation
"""
ROUNDS = 400
"""Enough writes for SQLite to fold its write-ahead log back into the file once or twice, which is the delicate moment."""
RUN_S = 120.0
FLIP_ROUNDS = 45
"""Makes a spool of about 64 kB."""


@dataclass(slots=True, kw_only=True)
class Tested:
    """How many states were opened, and the bad ones: what was lost in silence, made up, or did not start, with its name."""

    states: int = 0
    records: int = 0
    lost: int = 0
    salvaged: int = 0
    bad: list[tuple[str, Judged]] = field(default_factory=list)

    def note(self, name: str, judged: Judged, *, loss_is_bad: bool) -> None:
        """Count one state."""
        self.states += 1
        self.records += judged.present
        self.lost += judged.lost
        self.salvaged += judged.salvaged
        if judged.silent or (loss_is_bad and judged.lost):
            self.bad.append((name, judged))


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A run of the log: its calls in order, and which file is its ledger."""

    folder: str
    ledger: str
    trace: tuple[Call, ...]


def add_parser(subparsers: Any) -> None:
    """Add `power`."""
    parser = subparsers.add_parser(
        "power",
        help="cut the power of a durable log at any moment, flip its bytes, and count what was lost",
        description="Open a durable log in the states that a power cut or a bad disk may leave it in.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--images", type=int, default=300, metavar="N", help="states after a power cut (default 300)")
    parser.add_argument(
        "--flips", default="2000", metavar="N|all", help="bytes of a 64 kB spool to flip a bit of (default 2000)"
    )
    parser.add_argument("--synchronous", default="FULL", choices=("FULL", "NORMAL"), help="as the spool's own option")
    parser.add_argument("--seed", type=int, metavar="N", help="repeat a run's choices (default: a new one, printed)")
    parser.add_argument("--json", action="store_true", help="print figures as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Soak and print; 1 if anything was lost without a word, made up, or kept from starting."""
    if arguments.images < 0 or not (arguments.flips == "all" or arguments.flips.isdigit()):
        raise WrongUse(
            f"--images {arguments.images}, --flips {arguments.flips}: both take a whole number from 0, --flips also all"
        )
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(1_000_000)
    chance = random.Random(seed)  # noqa: S311 - choices that must be repeatable, nothing secret
    console = Console(stderr=True)
    console.print(f"seed {seed}", style="dim")
    with tempfile.TemporaryDirectory(prefix="citysense-soak-") as folder:
        recorded = record(Path(folder), rounds=ROUNDS, synchronous=arguments.synchronous)
        images = cut_power(recorded, arguments.images, chance)
        console.print(f"{images.states} power cuts done; flipping bytes", style="dim")
        flips = asyncio.run(_flips(Path(folder), None if arguments.flips == "all" else int(arguments.flips), chance))
    figures = _figures(seed, images, flips)
    if arguments.json:
        print(json.dumps(figures))
    else:
        _print(figures, images, flips)
    return 0 if figures["passed"] else 1


def record(folder: Path, *, rounds: int, synchronous: str) -> Recorded:
    """Run the workload under strace in a folder of its own. Raises SetupError without strace, or if the run fails."""
    program = shutil.which("strace")
    if program is None:
        raise SetupError("strace is not installed; sudo apt install strace")
    data, trace, ledger = folder / "disk", folder / "trace", folder / "ledger"
    data.mkdir()
    command = [*strace(program, trace, "--seccomp-bpf", "-e", f"trace={TRACED}"), sys.executable, "-m"]
    command += ["citysense.cli.storage_workload", str(data)]
    command += ["--rounds", str(rounds), "--synchronous", synchronous]
    with ledger.open("wb") as out:
        done = subprocess.run(  # noqa: S603 - our own words
            command, stdout=out, stderr=subprocess.PIPE, timeout=RUN_S, check=False
        )
    if done.returncode != 0:
        raise SetupError(f"the recorded run failed: {done.stderr.decode(errors='replace')[-500:]}")
    with trace.open(encoding="ascii") as lines:
        found = calls(lines)
    paths = (f"{data}", f"{ledger}")
    return Recorded(
        folder=str(data), ledger=str(ledger), trace=tuple(call for call in found if call.path.startswith(paths))
    )


def cut_power(recorded: Recorded, images: int, chance: random.Random) -> Tested:
    """Cut the power `images` times, each time at another moment of the run, and judge what is left."""
    tested = Tested()
    disk, promised, done = Disk(recorded.folder), Promised(), 0
    for number, cut in enumerate(cuts(recorded.trace, images, chance)):
        for call in recorded.trace[done:cut]:
            if call.path == recorded.ledger:
                for line in call.data.decode().splitlines():
                    promised.note(line)
            else:
                disk.do(call)
        done = cut
        tested.note(f"image {number} at call {cut}", judge_image(disk.image(chance), promised), loss_is_bad=True)
    return tested


async def spool_to_flip(folder: Path) -> tuple[bytes, Promised]:
    """The bytes of a spool of about 64 kB, closed in order, and what stands in it."""
    command = [sys.executable, "-m", "citysense.cli.storage_workload", str(folder), "--keep-all"]
    process = await asyncio.create_subprocess_exec(
        *command, "--rounds", str(FLIP_ROUNDS), stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    return (folder / FILE).read_bytes(), read_promises(said.decode().splitlines())


def flip_bytes(original: bytes, promised: Promised, places: Iterable[int], chance: random.Random) -> Tested:
    """Flip one bit in each of `places`, each time in the original, and judge the log."""
    tested = Tested()
    for place in places:
        bit = 1 << chance.randrange(8)
        content = bytearray(original)
        content[place] ^= bit
        judged = judge_image({FILE: bytes(content)}, promised)
        tested.note(f"byte {place}, bit {bit:#04x}", judged, loss_is_bad=False)
    return tested


async def _flips(folder: Path, count: int | None, chance: random.Random) -> Tested:
    place = folder / "flips"
    place.mkdir()
    original, promised = await spool_to_flip(place)
    every = range(len(original))
    places: Sequence[int] = every if count is None else sorted(chance.sample(every, min(count, len(original))))
    return await asyncio.to_thread(flip_bytes, original, promised, places, chance)


def _figures(seed: int, images: Tested, flips: Tested) -> dict[str, Any]:
    return {
        "seed": seed,
        "power_cuts": images.states,
        "records_found_after_cuts": images.records,
        "lost_after_cuts": images.lost,
        "files_salvaged_after_cuts": images.salvaged,
        "bad_after_cuts": len(images.bad),
        "flipped_bytes": flips.states,
        "records_lost_and_told": flips.lost,
        "files_salvaged_after_flips": flips.salvaged,
        "bad_after_flips": len(flips.bad),
        "passed": not (images.bad or flips.bad),
    }


def _print(figures: dict[str, Any], *runs: Tested) -> None:
    table = Table(title="power cuts and flipped bytes", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in figures.items():
        if name != "passed":
            table.add_row(name.replace("_", " "), str(value))
    console = Console()
    console.print(table)
    for tested in runs:
        for name, judged in tested.bad[:5]:
            console.print(f"{name}: {judged}", style="bold red")
    if figures["passed"]:
        console.print("nothing confirmed was lost without a word, nothing was made up, and every state started")
    else:
        console.print(f"FAILED; the same choices again: --seed {figures['seed']}", style="bold red")
