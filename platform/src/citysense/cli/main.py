"""`citysense`: finds the command, runs it, and turns what went wrong into one sentence and an exit code.

Exit codes: 0 done, 1 failed, 2 wrong use.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from citysense.cli import (
    bench_broker,
    bench_coap,
    bench_connections,
    bench_decode,
    bench_latency,
    bench_modbus,
    bench_modbus_line,
    bench_mqtt,
    config,
    gateway_check,
    gateway_qualify,
    gateway_reload,
    profiles,
    soak_broker,
    soak_faults,
    soak_kill,
    soak_modbus,
    soak_outage,
    soak_power,
    test_suite,
    up,
)
from citysense.errors import CitysenseError, WrongUse

DESCRIPTION = (
    "A city's IoT sensing platform and device gateway: from device frame to dispatch case in a fraction of a second."
)
EXAMPLES = """\
examples:
  citysense up                   start everything, with a small district in which a storm rises
  citysense up --scenario none   start everything and wait for real devices
  citysense test                 run the whole test suite
  citysense bench latency        time from device frame to dispatch case
  citysense bench decode         decoding beside code written by hand, slowest input
  citysense config show          settings in force, and where each came from
  citysense profiles list        the devices that it understands
"""


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="citysense", description=DESCRIPTION, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"citysense {version('citysense')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    up.add_parser(commands)
    test_suite.add_parser(commands)
    config.add_parser(commands)
    profiles.add_parser(commands)
    bench = _group(commands, "bench", "measure the product on this machine", "citysense bench latency --rate 200")
    benches = bench.add_subparsers(title="benches", metavar="BENCH", required=True)
    bench_latency.add_parser(benches)
    bench_decode.add_parser(benches)
    bench_mqtt.add_parser(benches)
    bench_broker.add_parser(benches)
    bench_coap.add_parser(benches)
    bench_connections.add_parser(benches)
    bench_modbus.add_parser(benches)
    bench_modbus_line.add_parser(benches)
    gateway = _group(commands, "gateway", "look after a gateway", "citysense gateway check")
    gateways = gateway.add_subparsers(title="gateway commands", metavar="COMMAND", required=True)
    gateway_check.add_parser(gateways)
    gateway_reload.add_parser(gateways)
    gateway_qualify.add_parser(gateways)
    soak = _group(commands, "soak", "long runs that try to break a promise", "citysense soak kill --kills 30")
    soaks = soak.add_subparsers(title="soaks", metavar="SOAK", required=True)
    soak_kill.add_parser(soaks)
    soak_outage.add_parser(soaks)
    soak_power.add_parser(soaks)
    soak_faults.add_parser(soaks)
    soak_modbus.add_parser(soaks)
    soak_broker.add_parser(soaks)
    return parser


def _group(commands: Any, name: str, purpose: str, example: str) -> argparse.ArgumentParser:
    """A command that only holds others."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=purpose,
        description=f"{purpose[0].upper()}{purpose[1:]}.",
        epilog=f"example:\n  {example}\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = build_parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except CitysenseError as e:
        print(f"citysense: {e}", file=sys.stderr)
        return 2 if isinstance(e, WrongUse) else 1
    except BrokenPipeError:
        # The reader (head, less) has gone; point stdout at nothing so that the interpreter's last flush stays quiet.
        sys.stdout = None
        return 1
    except OSError as e:
        where = f"{e.filename}: " if e.filename else ""
        print(f"citysense: {where}{e.strerror or e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def run() -> None:
    """Entry point of the installed command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without Chinese still gets the rest
    raise SystemExit(main())
