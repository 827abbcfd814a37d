"""`citysense test`: style, types, import contracts and the whole test suite, in that order, in one run."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from citysense.errors import SetupError

EXAMPLE = """\
examples:
  citysense test                      everything
  citysense test -- -k ladder -x      hand what follows -- to pytest
"""
ROOT = Path(__file__).resolve().parents[4]
CHECKS: Sequence[tuple[str, Sequence[str]]] = (
    ("style", ("ruff", "check", ".")),
    ("format", ("ruff", "format", "--check", ".")),
    ("types", ("mypy",)),
    ("import contracts", ("lint-imports",)),
)
TWO_AT_A_TIME = ("-n", "2", "--dist", "loadfile")
"""Much of the suite waits for processes, networks and deadlines; tests of one file stay together, in their order."""


def add_parser(commands: Any) -> None:
    """Add `test`."""
    parser = commands.add_parser(
        "test",
        help="run the whole test suite",
        description="Style, types, import contracts and all tests. Tests that need an independent peer (mosquitto, "
        "coap-client, influxd …) are skipped where it is missing; the table at the end tells how to install it.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("pytest", nargs="*", metavar="-- ARGUMENT", help="arguments for pytest")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run all checks, then the tests; 1 when anything failed."""
    if not (ROOT / "tests").is_dir():
        raise SetupError(
            "there are no tests here: this is an installed package; run ./citysense test in a clone of the repository"
        )
    console = Console()
    binaries = Path(sys.executable).parent
    environment = dict(os.environ, PYTHONSAFEPATH="1")
    failed = []
    for name, (program, *rest) in CHECKS:
        console.print(f"[bold]{name}[/]: {program} {' '.join(rest)}", highlight=False)
        if subprocess.run([str(binaries / program), *rest], cwd=ROOT, env=environment, check=False).returncode:  # noqa: S603
            failed.append(name)
    command = [str(binaries / "pytest"), *(arguments.pytest or TWO_AT_A_TIME)]
    if subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode:  # noqa: S603 - our own arguments
        failed.append("tests")
    if failed:
        console.print(f"[bold red]failed: {', '.join(failed)}[/]")
    return 1 if failed else 0
