"""`citysense soak outage`: the platform is gone for days, and comes back.

Owns the options and the table; the course is `outage_course`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from citysense.cli.outage_course import MB, Load, Measured, Outage
from citysense.clock import SystemClock
from citysense.errors import WrongUse

EXAMPLE = """\
examples:
  citysense soak outage                       72 hours of a district of 500 devices, about five minutes
  citysense soak outage --hours 6 --bound 32  six hours, with a spool so small that the oldest must go
"""
MOST_RSS = 300 * MB
MOST_WAL = 256 * MB
LEAST_DRAIN = 3.0
"""Times the pace at which readings come in meanwhile."""
MOST_DELAY_S = 2.0
_IN_WORDS = {
    "rss_mb": "memory, MB",
    "rss_mb_limit": "limit of memory, MB",
    "wal_mb": "write-ahead log, MB",
    "wal_mb_limit": "limit of the write-ahead log, MB",
    "file_mb": "spool's file, MB",
    "file_mb_bound": "bound of the spool's file, MB",
    "drain_to_intake": "drained for each one that came in meanwhile",
    "drain_to_intake_least": "at least",
    "live_delay_p99_s": "delay of live frames p99, s",
    "live_delay_p99_s_limit": "limit of that delay, s",
}
"""For people, where a figure's name does not say it."""


def add_parser(subparsers: Any) -> None:
    """Add `outage`."""
    parser = subparsers.add_parser(
        "outage",
        help="days without a platform, and the drain after its return",
        description=(
            "Put the readings of simulated hours into a real spool while the platform is gone, then let it return and "
            "count what arrives. The process whose memory is shown makes the readings, too, and plays the platform."
        ),
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--hours", type=float, default=72.0, metavar="H", help="length of the outage (default 72)")
    parser.add_argument("--devices", type=int, default=500, metavar="N", help="devices of the district (default 500)")
    parser.add_argument(
        "--period", type=float, default=60.0, metavar="S", help="each reports every so often (default 60)"
    )
    parser.add_argument("--bound", type=int, default=200, metavar="MB", help="bound of the spool's file (default 200)")
    parser.add_argument(
        "--live", type=int, default=500, metavar="N", help="frames a second during the drain (default 500)"
    )
    parser.add_argument("--json", action="store_true", help="print figures as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Soak and print; 1 if a limit was missed or a reading is unaccounted for."""
    for name in ("hours", "devices", "period", "bound", "live"):
        if getattr(arguments, name) <= 0:
            raise WrongUse(f"--{name} {getattr(arguments, name)}: must be above 0")
    console = Console(stderr=True)
    load = Load(hours=arguments.hours, devices=arguments.devices, period_s=arguments.period, live=arguments.live)
    with tempfile.TemporaryDirectory(prefix="citysense-soak-") as folder:
        outage = Outage(Path(folder), load, bound=arguments.bound * MB, wall=SystemClock(), rss=resident)
        measured = asyncio.run(outage.run(lambda text: console.print(text, style="dim")))
    figures = figures_of(measured, load, arguments.bound)
    if arguments.json:
        print(json.dumps(figures))
    else:
        _print(figures)
    return 0 if figures["passed"] else 1


def figures_of(measured: Measured, load: Load, bound_mb: int) -> dict[str, Any]:
    """Figures, each limit beside its own."""
    ratio = measured.drain_rate / load.live
    delay = measured.live_delay_p99()
    whole = not (measured.unexplained or measured.duplicates or measured.disordered or measured.left)
    return {
        "simulated_hours": load.hours,
        "frames_acknowledged": measured.frames,
        "frames_per_s_of_the_outage": round(measured.frames / measured.outage_s) if measured.outage_s else None,
        "given_up_and_told": measured.entombed,
        "delivered": measured.delivered,
        "live_frames": measured.live,
        "unexplained": measured.unexplained,
        "duplicates": measured.duplicates,
        "out_of_order": measured.disordered,
        "left_in_spool": measured.left,
        "rss_mb": round(measured.rss / MB),
        "rss_mb_limit": MOST_RSS // MB,
        "wal_mb": round(measured.wal / MB, 1),
        "wal_mb_limit": MOST_WAL // MB,
        "file_mb": round(measured.file / MB, 1),
        "file_mb_bound": bound_mb,
        "drained_per_s": round(measured.drain_rate),
        "drain_to_intake": round(ratio, 1),
        "drain_to_intake_least": LEAST_DRAIN,
        "live_delay_p99_s": round(delay, 3),
        "live_delay_p99_s_limit": MOST_DELAY_S,
        "passed": whole
        and measured.rss <= MOST_RSS
        and measured.wal <= MOST_WAL
        and ratio >= LEAST_DRAIN
        and delay <= MOST_DELAY_S,
    }


def resident() -> int:
    """Bytes of this process that are in memory now."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def _print(figures: dict[str, Any]) -> None:
    table = Table(title="the platform is gone, and comes back", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in figures.items():
        if name != "passed":
            table.add_row(_IN_WORDS.get(name, name.replace("_", " ")), "-" if value is None else str(value))
    console = Console()
    console.print(table)
    console.print("passed" if figures["passed"] else "FAILED", style=None if figures["passed"] else "bold red")
