"""`citysense bench decode`: what decoding costs beside code written by hand for one device, and the slowest input found.

Owns the measurement and its figures. Both sides run in turns in one process, in CPU time; the ratio is the median of
the rounds, so that a busy machine slows both or neither.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from citysense.errors import SetupError

EXAMPLE = """\
examples:
  citysense bench decode                  ratios, loading time, slowest input of 1 kB
  citysense bench decode --search 600     ten minutes of looking for slow input
  citysense bench decode --json           figures as JSON

exit codes:
  0  measured, and every profile gives what the code by hand gives
  1  they differ, or the catalogue does not load
"""
HIGHEST_RATIO = 2.5
SLOWEST_S = 0.001
LONGEST_LOAD_S = 0.3
ROUNDS = 31
FRAMES = 200
"""Different frames in a round: caches and branches see variety, as they do in a city."""
LOADS = 7
_REFERENCES = Path(__file__).with_name("decode_references")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """One format. Times in microseconds per frame, medians of the rounds."""

    format: str
    profile_us: float
    by_hand_us: float
    ratio: float
    target: float
    identical: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Slowest:
    """The slowest input found; `cpu_ms` is its fastest run of several."""

    profile: str
    message: str
    outcome: str
    size: int
    cpu_ms: float
    target_ms: float
    hex: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """All figures of one run. `load_ms` are CPU times of a process of its own, without its imports."""

    ratios: tuple[Ratio, ...]
    profiles: int
    load_ms: float
    load_target_ms: float
    searched_s: float
    seed: int
    slowest: tuple[Slowest, ...]


def add_parser(subparsers: Any) -> None:
    """`bench decode` and its options."""
    parser = subparsers.add_parser(
        "decode",
        help="decoding beside code written by hand, loading time, slowest input",
        description=(
            "Decode a binary frame of ten fields, a JSON object of five and a register map of twenty with compiled "
            "profiles and with code written by hand; load the whole catalogue; search for the slowest input of 1 kB."
        ),
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--search", type=float, default=20.0, metavar="S", help="CPU seconds to search (default 20)")
    parser.add_argument("--seed", type=int, help="of the search (default: another one every time)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; 1 where a profile gives something else than the code by hand."""
    from citysense.cli.slowest_input import search
    from citysense_profiles import ProfileError, load_catalogue

    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(2**32)
    try:
        catalogue = load_catalogue()
    except ProfileError as error:
        raise SetupError(
            f"the catalogue does not load: {error}; `citysense profiles check` shows all faults"
        ) from error
    found = search(list(catalogue), seconds=arguments.search, rng=random.Random(seed))  # noqa: S311 - repeatable, nothing secret
    figures = Figures(
        ratios=tuple(measure(name) for name in ("binary", "json", "registers")),
        profiles=len(catalogue),
        load_ms=load_time() * 1000,
        load_target_ms=LONGEST_LOAD_S * 1000,
        searched_s=arguments.search,
        seed=seed,
        slowest=tuple(
            Slowest(
                profile=one.profile,
                message=one.message,
                outcome=one.outcome,
                size=len(one.payload),
                cpu_ms=one.seconds * 1000,
                target_ms=SLOWEST_S * 1000,
                hex=one.payload.hex(),
            )
            for one in found[:3]
        ),
    )
    if arguments.json:
        print(json.dumps(asdict(figures), indent=2))
    else:
        show(figures)
    return 0 if all(one.identical for one in figures.ratios) else 1


def measure(name: str) -> Ratio:
    """Profile and hand-written code in turns over the same frames."""
    decode, by_hand, frames = _pair(name)
    identical = all(decode(frame) == by_hand(frame) for frame in frames)
    ours, theirs, ratios = [], [], []
    for position in range(ROUNDS + 1):
        order = (decode, by_hand) if position % 2 else (by_hand, decode)
        spent = {function: _cpu_of(function, frames) for function in order}
        if position:  # the first round only warms up
            ours.append(spent[decode])
            theirs.append(spent[by_hand])
            ratios.append(spent[decode] / spent[by_hand])
    return Ratio(
        format=name,
        profile_us=statistics.median(ours) * 1e6 / len(frames),
        by_hand_us=statistics.median(theirs) * 1e6 / len(frames),
        ratio=statistics.median(ratios),
        target=HIGHEST_RATIO,
        identical=identical,
    )


def _cpu_of(function: Callable[[Any], object], frames: Sequence[Any]) -> float:
    start = time.thread_time()
    for _ in range(10):
        for frame in frames:
            function(frame)
    return (time.thread_time() - start) / 10


def _pair(name: str) -> tuple[Callable[[Any], object], Callable[[Any], object], list[Any]]:
    """(profile's decode, decode by hand, frames) of one format."""
    from citysense.cli.decode_references import by_hand
    from citysense_profiles import load_vocabulary
    from citysense_profiles.compiler import parse_profile

    path = _REFERENCES / f"{name}.yaml"
    profile = parse_profile(path.read_text(encoding="utf-8"), path.name, load_vocabulary())
    rng = random.Random(name)  # noqa: S311 - the same frames in every run
    if name == "binary":
        return (
            profile.decode,
            by_hand.binary,
            [b"\xa5" + rng.randbytes(12) + bytes([rng.randrange(8)]) for _ in range(FRAMES)],
        )
    if name == "json":
        return profile.decode, by_hand.json, [_object(rng) for _ in range(FRAMES)]
    return profile.decode_registers, by_hand.registers, [_registers(rng) for _ in range(FRAMES)]


def _object(rng: random.Random) -> bytes:
    document = {
        "lvl": round(rng.uniform(0, 300), 1),
        "bat": rng.randrange(3000, 3700),
        "t": rng.randrange(1_700_000_000, 1_800_000_000),
        "sig": -rng.randrange(60, 120),
        "tilt": rng.random() < 0.5,
    }
    return json.dumps(document, separators=(",", ":")).encode()


def _registers(rng: random.Random) -> Mapping[tuple[str, int], int]:
    words = [rng.randrange(65536) for _ in range(27)]
    words[0] = rng.randrange(5)
    words[12:14] = 0x4248, rng.randrange(65536)  # a finite number
    return {("input", 100 + step): word for step, word in enumerate(words)}


def load_time() -> float:
    """CPU seconds that loading the whole catalogue takes: median of fresh processes, modules already imported."""
    program = (
        "import time, citysense_profiles as p\n"
        "p.load_vocabulary()\n"
        "start = time.process_time()\n"
        "p.load_catalogue()\n"
        "print(time.process_time() - start)\n"
    )
    command = [sys.executable, "-c", program]
    runs = [subprocess.run(command, check=True, capture_output=True, text=True) for _ in range(LOADS)]  # noqa: S603
    return statistics.median(float(run.stdout) for run in runs)


def show(figures: Figures) -> None:
    """The figures for people."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(title="Decoding one frame, CPU time (medians)", title_justify="left")
    for heading in ("format", "profile", "by hand", "ratio", "at most", "same output"):
        table.add_column(heading, justify="left" if heading == "format" else "right")
    for one in figures.ratios:
        table.add_row(
            one.format,
            f"{one.profile_us:.2f} us",
            f"{one.by_hand_us:.2f} us",
            f"{one.ratio:.2f}",
            f"{one.target:.1f}",
            "yes" if one.identical else "NO",
        )
    console.print(table)
    console.print(
        f"Loading all {figures.profiles} profiles: {figures.load_ms:.0f} ms of CPU (at most {figures.load_target_ms:.0f})."
    )
    console.print(f"Slowest inputs of at most 1 kB found in {figures.searched_s:.0f} s (seed {figures.seed}):")
    for slow in figures.slowest:
        console.print(
            f"  {slow.cpu_ms:.3f} ms (at most {slow.target_ms:.0f})  {slow.profile}, {slow.message}: {slow.outcome}, "
            f"{slow.size} bytes, {slow.hex[:40]}…",
            soft_wrap=True,
            highlight=False,
        )
