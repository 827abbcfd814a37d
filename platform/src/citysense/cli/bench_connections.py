"""`citysense bench connections`: what many idle MQTT connections cost the gateway, and how soon all are back after a restart.

Owns the set-up, the restarts and the figures. The connections are held by a process of its own (`citysense_sim.idle_fleet`).
The gateway's devices come from a stand-in of the platform: registering them through the API takes longer than everything
measured here.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from citysense.cli.child_environment import child_environment
from citysense.cli.gateway_alone import GatewayAlone, StandIn, devices_of_one_password
from citysense.cli.stack import HOST
from citysense.cli.stack_api import GAUGE_PROFILE
from citysense.clock import Clock, SystemClock
from citysense.errors import SetupError, UpstreamError, WrongUse

EXAMPLE = """\
examples:
  citysense bench connections                   20,000 connections, memory, clean restart
  citysense bench connections --kill            the restart after kill -9
  citysense bench connections --count 2000      a quick look

exit codes:
  0  measured, and within the limits
  1  a limit was missed
"""
KB_EACH = 20.0
BACK_S = 60.0
CPU_SHARE = 0.90
"""Of one core, over the time from the new process's start until all were back."""
PREFIX = "idle-"
SPARE_FILES = 200
"""Descriptors that the gateway, or the fleet, needs beside its connections."""
CONNECTS_A_SECOND = 500.0
"""Pace of the first connects. The storm is the one after the restart."""
SETTLE_S = 3.0
"""Idle time before memory is read: what the connecting left behind is then collected or is there to stay."""
PATIENCE_S = 300.0
"""An answer that takes longer than this is none; the figure it would have been is far beyond its limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One run. Memory is resident memory of the gateway process, in bytes."""

    wanted: int
    connections: int
    connect_s: float
    rss_before: int
    rss_half: int
    """With half of the connections."""
    rss_with: int
    restart: str
    down_s: float
    """From the signal to the old process's end."""
    back_s: float
    """From the signal until every connection was accepted again."""
    back_cpu_s: float
    back_cpu_share: float
    attempts: int
    """Connects of the fleet for that, refused ones included."""
    refused: int
    hinted: int
    broken: int
    """Attempts that ended without CONNACK: nobody listened yet, or the door closed at once."""
    idle_cpu_share: float

    @property
    def kb_each(self) -> float:
        """Memory per connection in kB (1,000 bytes): of all or of the later half, whichever is more. What the start left
        free is used up by the first ones and hides their share."""
        later = self.connections - self.connections // 2
        return max(
            (self.rss_with - self.rss_before) / self.connections / 1000, (self.rss_with - self.rss_half) / later / 1000
        )

    @property
    def within(self) -> bool:
        """True if every limit was kept."""
        return self.kb_each <= KB_EACH and self.back_s <= BACK_S and self.back_cpu_share <= CPU_SHARE


def add_parser(subparsers: Any) -> None:
    """`bench connections` and its options."""
    parser = subparsers.add_parser(
        "connections",
        help="memory of many idle MQTT connections, and their return after a restart",
        description=(
            "Start a gateway of its own, hold many idle MQTT connections (every second one MQTT 5, the others 3.1.1), "
            "read the gateway's memory, end the gateway, start it again and wait until all are back."
        ),
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--count", type=int, default=20_000, metavar="N", help="connections (default 20000)")
    parser.add_argument("--kill", action="store_true", help="end the gateway with SIGKILL instead of SIGTERM")
    parser.add_argument("--data", type=Path, metavar="DIR", help="an empty folder for it (default: a temporary one)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; 1 where a limit was missed."""
    if not 1 <= arguments.count <= 50_000:
        raise WrongUse(f"--count {arguments.count}: 1 to 50000 can be held")
    console = Console(stderr=True)

    def say(text: str) -> None:
        console.print(text, style="dim", highlight=False)

    count = affordable(arguments.count, raise_file_limit(), say)
    with tempfile.TemporaryDirectory(prefix="citysense-bench-") as temporary:
        folder = arguments.data or Path(temporary)
        if arguments.data and arguments.data.exists() and any(arguments.data.iterdir()):
            raise SetupError(f"--data {arguments.data} is not empty; a measurement needs a fresh folder")
        bench = ConnectionsBench(folder, count=count, kill=arguments.kill, clock=SystemClock(), say=say)
        figures = asyncio.run(bench.run(wanted=arguments.count))
    if arguments.json:
        limits = {"kb_each_limit": KB_EACH, "back_s_limit": BACK_S, "back_cpu_share_limit": CPU_SHARE}
        print(json.dumps(asdict(figures) | {"kb_each": figures.kb_each, "within": figures.within} | limits))
    else:
        show(figures)
    return 0 if figures.within else 1


def raise_file_limit() -> int:
    """Open files that this process and its children may have from now on: all that the system grants."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def affordable(wanted: int, files: int, say: Callable[[str], None]) -> int:
    """How many of the `wanted` connections fit under the limit of open files; says so where it is fewer.

    Raises SetupError where next to nothing would be left to measure.
    """
    if files in (resource.RLIM_INFINITY, -1) or wanted + SPARE_FILES <= files:
        return wanted
    fewer = files - SPARE_FILES
    if fewer < wanted // 2 or fewer < 1:
        raise SetupError(
            f"this system grants {files} open files to a process, and {wanted} connections need {wanted + SPARE_FILES}:"
            f" raise the hard limit (ulimit -Hn, LimitNOFILE=) or measure with --count {max(1, fewer)}"
        )
    say(f"this system grants {files} open files to a process: {fewer} connections are held instead of {wanted}")
    return fewer


class ConnectionsBench:
    """One measurement in one folder."""

    def __init__(
        self,
        folder: Path,
        *,
        count: int,
        kill: bool,
        clock: Clock,
        say: Callable[[str], None],
        spread: float | None = None,
        settle: float = SETTLE_S,
        manners: Mapping[str, float] | None = None,
    ) -> None:
        """`spread`: seconds over which the first connects are spread; by default as many as the pace asks for. `manners`:
        more of the fleet's plan, such as its back-off."""
        self._folder = folder
        self._count = count
        self._signal = signal.SIGKILL if kill else signal.SIGTERM
        self._clock = clock
        self._say = say
        self._spread = count / CONNECTS_A_SECOND if spread is None else spread
        self._settle = settle
        self._manners = dict(manners or {})

    async def run(self, *, wanted: int) -> Figures:
        """Set up, measure, take down. Raises SetupError, UpstreamError."""
        self._say(f"a stand-in of the platform serves {self._count} devices; no platform takes part")
        password = "the same for all of them"  # noqa: S105 - devices that live as long as this bench
        devices = devices_of_one_password(self._count, prefix=PREFIX, profile=GAUGE_PROFILE, password=password)
        platform = StandIn(devices)
        await platform.start()
        gateway = GatewayAlone(self._folder, platform=platform, clock=self._clock)
        try:
            await gateway.start()
            await gateway.ready()
            plan = {
                "host": HOST,
                "port": gateway.mqtt_port,
                "prefix": PREFIX,
                "secret": password,
                "spread": self._spread / 2,
                **self._manners,
            }
            fleets: list[FleetProcess] = []
            try:
                return await self._measure(gateway, plan, fleets, wanted)
            finally:
                await asyncio.gather(*(fleet.stop() for fleet in fleets))
        finally:
            await gateway.close()
            await platform.stop()

    async def _measure(
        self, gateway: GatewayAlone, plan: dict[str, Any], fleets: list[FleetProcess], wanted: int
    ) -> Figures:
        half = self._count // 2
        memory = [gateway.rss]
        online, connect_s = _NONE, 0.0
        for first, count in ((0, half), (half, self._count - half)):
            self._say(f"connecting {count}")
            began = self._clock.monotonic()
            fleets.append(await FleetProcess.start(plan | {"first": first, "count": count}))
            event = await fleets[-1].hear("online", PATIENCE_S)
            online, connect_s = online.with_(event), connect_s + event["at"] - began
            await asyncio.sleep(self._settle)
            memory.append(gateway.rss)
        cpu, idle_since = gateway.cpu, self._clock.monotonic()
        await asyncio.sleep(self._settle)
        idle = (gateway.cpu - cpu) / (self._clock.monotonic() - idle_since)
        self._say(f"ending the gateway with {self._signal.name} and starting it again")
        ended = self._clock.monotonic()
        await gateway.end(self._signal)
        started = self._clock.monotonic()
        await gateway.start()
        back = _NONE
        for event in await asyncio.gather(*(fleet.back(PATIENCE_S) for fleet in fleets)):
            back = back.with_(event)
        cpu = gateway.cpu
        await gateway.ready()
        return Figures(
            wanted=wanted,
            connections=self._count,
            connect_s=connect_s,
            rss_before=memory[0],
            rss_half=memory[1],
            rss_with=memory[2],
            restart=self._signal.name,
            down_s=started - ended,
            back_s=back.at - ended,
            back_cpu_s=cpu,
            back_cpu_share=cpu / (back.at - started),
            attempts=back.attempts - online.attempts,
            refused=back.refused - online.refused,
            hinted=back.hinted - online.hinted,
            broken=back.broken - online.broken,
            idle_cpu_share=idle,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    """What the fleets said together: the latest moment (monotonic seconds) and the sums of their counts since start."""

    at: float = 0.0
    attempts: int = 0
    refused: int = 0
    hinted: int = 0
    broken: int = 0

    def with_(self, event: dict[str, Any]) -> _Told:
        return _Told(
            at=max(self.at, event["at"]),
            attempts=self.attempts + event["attempts"],
            refused=self.refused + event["refused"],
            hinted=self.hinted + event["hinted"],
            broken=self.broken + event["broken"],
        )


_NONE = _Told()


class FleetProcess:
    """The process that holds the connections, and its JSON lines."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, plan: dict[str, Any]) -> FleetProcess:
        """Start it with its plan; the keys are those of `citysense_sim.idle_fleet.IdlePlan`."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "citysense_sim.idle_fleet",
            env=child_environment(os.environ, supervisor=os.getpid()),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is this process's own affair; the child ends with it
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps(plan).encode() + b"\n")
        await process.stdin.drain()
        return cls(process)

    async def hear(self, event: str, within: float) -> dict[str, Any]:
        """Its next event, which has to be `event`. Raises UpstreamError otherwise, and after `within` seconds."""
        assert self._process.stdout is not None
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), within)
        except TimeoutError as e:
            raise UpstreamError(
                f"the connections were not {event!r} within {within:.0f} s: the gateway does not admit them fast enough"
            ) from e
        message: dict[str, Any] = json.loads(line) if line else {"failed": "it ended without a word"}
        if "failed" in message:
            raise UpstreamError(f"the process that holds the connections failed: {message['failed']}")
        if message["event"] != event:
            raise UpstreamError(f"connections were {message['event']} where they should have been {event}")
        return message

    async def back(self, within: float) -> dict[str, Any]:
        """Wait until the first connection was lost and then all are back; the event of that. Raises UpstreamError."""
        await self.hear("lost", within)
        return await self.hear("online", within)

    async def stop(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), 10)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


def show(figures: Figures) -> None:
    """The table for people."""
    console = Console()
    held = f"{figures.connections:,}"
    if figures.connections != figures.wanted:
        held += f" of {figures.wanted:,} wanted (limit of open files)"
    table = Table(title=f"idle MQTT connections: {held}", title_justify="left")
    for column in ("what", "measured", "limit", "measured / limit"):
        table.add_column(column, justify="left" if column == "what" else "right")
    rows = (
        ("memory per connection, kB", figures.kb_each, KB_EACH, "{:.1f}"),
        (f"all back after {figures.restart}, s", figures.back_s, BACK_S, "{:.1f}"),
        ("share of one core until then", figures.back_cpu_share, CPU_SHARE, "{:.0%}"),
    )
    for what, value, limit, form in rows:
        style = "" if value <= limit else "bold red"
        table.add_row(what, form.format(value), form.format(limit), f"{value / limit:.2f}", style=style)
    console.print(table)
    console.print(
        f"gateway {figures.rss_before / 1e6:.0f} MB before, {figures.rss_with / 1e6:.0f} MB with them; "
        f"{figures.idle_cpu_share:.1%} of a core while they only ping; first connected in {figures.connect_s:.1f} s",
        highlight=False,
    )
    console.print(
        f"restart: the old process took {figures.down_s:.1f} s to end, the new one used {figures.back_cpu_s:.1f} s of "
        f"CPU; {figures.attempts:,} connects, {figures.broken:,} without an answer, {figures.refused:,} refused by CONNACK, "
        f"{figures.hinted:,} of these with a hint",
        highlight=False,
    )
