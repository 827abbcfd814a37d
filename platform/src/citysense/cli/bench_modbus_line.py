"""`citysense bench modbus-line`: the poll periods of good slaves that share a serial line with dead, slow, late and noisy ones.

Owns the measurement and its figures. The line, its slaves and the converter before it are `citysense_sim`'s model; the
sockets between it and the driver are real.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from citysense.cli.modbus_model import JudgingSink, driving, quiet, tagged_slave
from citysense.errors import SetupError, WrongUse
from citysense_gateway.modbus.polled import PolledDevice
from citysense_gateway.modbus.poller import REPLY_TIMEOUT
from citysense_profiles import Read
from citysense_sim.modbus_faults import Dead, Delayed, Garbage, Slave, Telegram
from citysense_sim.serial_line import Converter
from citysense_sim.warped_time import LoopClock, WarpedLoop

EXAMPLE = """\
examples:
  citysense bench modbus-line                        50 slaves at 9600 baud, 4 of them bad; takes some minutes
  citysense bench modbus-line --warp                 the same on a clock that jumps over waiting: some seconds
  citysense bench modbus-line --slaves 100 --period 20 --json
"""
MOST_RATIO = 1.10
MOST_DELAY_S = 1.0
BAD = ("dead", "slow", "late", "garbage")
CYCLES = 3
"""Back-offs that each bad slave has gone through before the measurement begins."""
MOST_WARM_UP_S = 900.0
_LOOK_S = 0.5
_REGISTERS = 2
_EARLY = 0.1
"""Share of the period by which a poll may come before its slave's usual moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LineFigures:
    """`ratio` is the worst good slave's mean period beside the nominal one; delays are of single polls against their
    beat, in seconds. `line_busy` is the share of time in which somebody was sending."""

    slaves: int
    period: float
    timeout: float
    baud: int
    measured_s: float
    polls: int
    ratio: float
    mean_ratio: float
    delay_p99: float
    delay_max: float
    line_busy: float
    requests_to_bad: dict[str, int]
    wrong_values: int

    @property
    def kept(self) -> bool:
        """Whether both limits hold and no value was wrong."""
        return self.ratio <= MOST_RATIO and self.delay_p99 <= MOST_DELAY_S and not self.wrong_values


class Watched:
    """A slave that counts what it is asked."""

    def __init__(self, unit: int, inner: Slave) -> None:
        self._unit = unit
        self._inner = inner
        self.requests = 0

    def heard(self, request: bytes) -> Sequence[Telegram]:
        """See `Slave`."""
        self.requests += request[0] == self._unit
        return self._inner.heard(request)


def bad_slaves(timeout: float, chance: random.Random) -> dict[str, Watched]:
    """One of each kind, as units 1 to 4. The slow one answers just before and just after the timeout, by turns."""
    good = {kind: tagged_slave(unit) for unit, kind in enumerate(BAD, 1)}
    slow = itertools.cycle((0.95 * timeout, 0.95 * timeout, 1.05 * timeout))
    kinds: dict[str, Slave] = {
        "dead": Dead(),
        "slow": Delayed(good["slow"], lambda: next(slow)),
        "late": Delayed(good["late"], lambda: 2 * timeout),
        "garbage": Garbage(good["garbage"], chance),
    }
    return {kind: Watched(unit, kinds[kind]) for unit, kind in enumerate(BAD, 1)}


async def measure(
    *, slaves: int, period: float, baud: int, reply_timeout: float, seconds: float, chance: random.Random
) -> LineFigures:
    """Warm up until each bad slave went through its back-offs, then measure. Raises SetupError where it never does.

    Its time is that of the running loop, warped or not.
    """
    bad = bad_slaves(reply_timeout, chance)
    units = range(1, slaves + 1)
    good: list[Slave] = [_turned(unit) for unit in units if unit > len(BAD)]
    converter = Converter([*bad.values(), *good], baud=baud, chance=chance)
    await converter.start()
    clock = LoopClock()
    latest = clock.monotonic() + MOST_WARM_UP_S
    sink = JudgingSink({f"slave-{unit}": unit & 15 for unit in units}, clock)
    devices = [_device(unit, converter.port, period) for unit in units]
    try:
        async with driving(sink, devices, clock=clock, chance=chance, reply_timeout=reply_timeout):
            while min(slave.requests for slave in bad.values()) <= CYCLES:
                if clock.monotonic() > latest:
                    raise SetupError("a bad slave was not asked often enough; this is a defect of the driver")
                await asyncio.sleep(_LOOK_S)
            begun, busy = clock.monotonic(), _busy(converter)
            before = {kind: slave.requests for kind, slave in bad.items()}
            await asyncio.sleep(seconds)
            ended = clock.monotonic()
    finally:
        await converter.stop()
    moments = [[at for at in sink.moments[f"slave-{unit}", None] if begun <= at <= ended] for unit in units[len(BAD) :]]
    ratios, delays = _periods(moments, period)
    return LineFigures(
        slaves=slaves,
        period=period,
        timeout=reply_timeout,
        baud=baud,
        measured_s=ended - begun,
        polls=sum(map(len, moments)),
        ratio=max(ratios),
        mean_ratio=statistics.fmean(ratios),
        delay_p99=sorted(delays)[int(0.99 * (len(delays) - 1))],
        delay_max=max(delays),
        line_busy=(_busy(converter) - busy) / (ended - begun),
        requests_to_bad={kind: slave.requests - before[kind] for kind, slave in bad.items()},
        wrong_values=len(sink.wrong),
    )


def _turned(unit: int) -> Slave:
    """A good slave; its tags are those of the unit's last four bits."""
    slave = tagged_slave(unit & 15)
    slave.unit = unit
    return slave


def _device(unit: int, port: int, period: float) -> PolledDevice:
    return PolledDevice(
        id=f"slave-{unit}",
        endpoint=f"modbus+rtu-tcp://127.0.0.1:{port}/{unit}",
        plan=(Read(table="holding", address=0, count=_REGISTERS),),
        every=period,
        message=None,
    )


def _busy(converter: Converter) -> float:
    return converter.line.busy if converter.line is not None else 0.0


def _periods(moments: Sequence[Sequence[float]], period: float) -> tuple[list[float], list[float]]:
    """Mean period of each slave beside the nominal one, and the delay of each poll against its beat.

    A slave that was polled once or never in the whole time has an infinite period.
    """
    ratios: list[float] = []
    delays: list[float] = []
    for series in moments:
        if len(series) < 2:
            ratios.append(float("inf"))
            continue
        ratios.append((series[-1] - series[0]) / (len(series) - 1) / period)
        beat = statistics.median(at - period * round((at - series[0]) / period) for at in series)
        # Most polls are on time, so the middle one is the beat; a little before it is still on time.
        delays.extend(max(0.0, (at - beat + _EARLY * period) % period - _EARLY * period) for at in series)
    return ratios, delays or [float("inf")]


def add_parser(subparsers: Any) -> None:
    """Add `modbus-line`."""
    parser = subparsers.add_parser(
        "modbus-line",
        help="periods of good Modbus slaves beside bad ones on one line",
        description=(
            "Poll slaves behind a model of a serial-to-TCP converter, four of them dead, slow, late and sending garbage."
        ),
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--slaves", type=int, default=50, metavar="N", help="on one line, bad ones too (default 50)")
    parser.add_argument("--period", type=float, default=5.0, metavar="S", help="between polls of a slave (default 5)")
    parser.add_argument("--baud", type=int, default=9600, metavar="N", help="speed of the line (default 9600)")
    parser.add_argument(
        "--timeout", type=float, default=REPLY_TIMEOUT, metavar="S", help="for a reply (default %(default)s)"
    )
    parser.add_argument("--seconds", type=float, default=120.0, metavar="S", help="to measure (default 120)")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    parser.add_argument("--warp", action="store_true", help="jump over waiting instead of waiting")
    parser.add_argument("--json", action="store_true", help="print figures as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; 1 if a limit is missed."""
    if not len(BAD) < arguments.slaves <= 247:
        raise WrongUse(f"--slaves {arguments.slaves}: {len(BAD) + 1} to 247 fit on a line")
    if min(arguments.period, arguments.timeout, arguments.seconds) <= 0 or arguments.baud < 300:
        raise WrongUse("--period, --timeout and --seconds must be above 0, --baud at least 300")
    with quiet(), asyncio.Runner(loop_factory=WarpedLoop if arguments.warp else None) as runner:
        figures = runner.run(
            measure(
                slaves=arguments.slaves,
                period=arguments.period,
                baud=arguments.baud,
                reply_timeout=arguments.timeout,
                seconds=arguments.seconds,
                chance=random.Random(arguments.seed),  # noqa: S311  the same slaves again for the same seed
            )
        )
    if arguments.json:
        print(json.dumps(asdict(figures) | {"kept": figures.kept}))
    else:
        _print(figures)
    return 0 if figures.kept else 1


def _print(figures: LineFigures) -> None:
    bad = ", ".join(f"{kind} {requests}" for kind, requests in figures.requests_to_bad.items())
    table = Table(
        title=f"{figures.slaves} slaves at {figures.baud} baud, each every {figures.period:g} s; {len(BAD)} of them bad"
    )
    table.add_column("the others")
    table.add_column("measured", justify="right")
    table.add_column("limit", justify="right")
    table.add_row("mean period / nominal, worst slave", f"{figures.ratio:.3f}", f"{MOST_RATIO:.2f}")
    table.add_row("mean period / nominal, mean", f"{figures.mean_ratio:.3f}", "")
    table.add_row("delay of a poll, p99", f"{figures.delay_p99:.2f} s", f"{MOST_DELAY_S:g} s")
    table.add_row("delay of a poll, longest", f"{figures.delay_max:.2f} s", "")
    table.add_row("values at the wrong register", str(figures.wrong_values), "0")
    console = Console()
    console.print(table)
    console.print(
        f"{figures.polls} polls in {figures.measured_s:.0f} s after {CYCLES} back-offs; the line was busy"
        f" {figures.line_busy:.0%} of the time; requests to the bad slaves: {bad}; timeout {figures.timeout:g} s"
    )
