"""`citysense bench latency`: the time from a frame's intended sending to the moment an outside GET shows its case.

Owns the set-up of the measurement, the poller and the figures. The load is sent by a process of its own
(`citysense_sim.load_sender`), on moments fixed in advance.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console
from rich.table import Table

from citysense.cli.child_environment import child_environment
from citysense.cli.stack import HOST, Stack, cpu_of
from citysense.cli.stack_api import GAUGE_MESSAGE, GAUGE_METRIC, GAUGE_PROFILE, NO_HOLD_RULES, PAGE, TOP_CM, StackApi
from citysense.clock import Clock, SystemClock
from citysense.errors import SetupError, UpstreamError, WrongUse
from citysense_sim.fleet import Member
from citysense_sim.load_sender import Done

EXAMPLE = """\
examples:
  citysense bench latency                             1,000 cases from 1,000 gauges, 200 frames a second, over MQTT
  citysense bench latency --transport both --json     MQTT and CoAP by turns, figures as JSON
  citysense bench latency --data /mnt/disk/bench      on the disk that you mean
"""
POLL_S = 0.004
CALM_CM, HIGH_CM = 0.5, TOP_CM + 12.5
LATE_CASES_S = 15.0
"""A case that is not there this long after the last frame counts as missing."""
LEAD_S = 0.5
FSYNC_TRIES = 200
FSYNC_BYTES = 4096
SENDER_START_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Percentiles of one measure (nearest rank), in milliseconds."""

    p50: float
    p90: float
    p99: float
    max: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Spread:
        """Of durations in seconds; all zero without any."""
        ordered = sorted(seconds)
        return cls(
            p50=nearest_rank(ordered, 50) * 1000,
            p90=nearest_rank(ordered, 90) * 1000,
            p99=nearest_rank(ordered, 99) * 1000,
            max=(ordered[-1] if ordered else 0.0) * 1000,
        )


def nearest_rank(ordered: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` of them do not exceed; 0 of nothing."""
    if not ordered:
        return 0.0
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All figures of one run. CPU in seconds; `cpu_share` is of the whole machine, per process."""

    cases: int
    seen: int
    rate: float
    transport: str
    latency: Spread
    lateness: Spread
    unacknowledged: int
    seconds: float
    cpu: dict[str, float]
    cpu_share: dict[str, float]
    fsync_before: Spread
    fsync_after: Spread

    @property
    def missing(self) -> int:
        """Frames without a case."""
        return self.cases - self.seen


def add_parser(subparsers: Any) -> None:
    """Add `latency`."""
    parser = subparsers.add_parser(
        "latency",
        help="time from device frame to dispatch case",
        description="Start platform and gateway of its own, send one frame from each of many gauges and watch its case appear.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rate", type=_positive, default=200.0, metavar="N", help="frames a second (default 200)")
    parser.add_argument("--cases", type=int, default=1000, metavar="N", help="gauges, one case each (default 1000)")
    parser.add_argument("--transport", choices=("mqtt", "coap", "both"), default="mqtt", help="default mqtt")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="an empty folder to measure in (default: a temporary one)"
    )
    parser.add_argument("--json", action="store_true", help="print figures as JSON")
    parser.set_defaults(run=run)


def _positive(text: str) -> float:
    value = float(text)
    if value <= 0:
        raise argparse.ArgumentTypeError("must be above 0")
    return value


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; 1 if a case is missing."""
    if not 1 <= arguments.cases <= 9999:
        raise WrongUse(f"--cases {arguments.cases}: 1 to 9999 can be measured")
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="citysense-bench-") as temporary:
        folder = arguments.data or Path(temporary)
        if arguments.data and arguments.data.exists() and any(arguments.data.iterdir()):
            raise SetupError(f"--data {arguments.data} is not empty; a measurement needs a fresh folder")
        bench = LatencyBench(
            folder, rate=arguments.rate, cases=arguments.cases, transport=arguments.transport, clock=SystemClock()
        )
        report = asyncio.run(bench.run(lambda text: console.print(text, style="dim")))
    if arguments.json:
        print(json.dumps(asdict(report) | {"missing": report.missing}))
    else:
        _print(report)
    return 1 if report.missing or report.unacknowledged else 0


class CasePoller:
    """Asks for new cases every few milliseconds over one connection, as a console would, and notes when each first came."""

    def __init__(self, api: StackApi, clock: Clock) -> None:
        self._api = api
        self._clock = clock
        self.first_seen: dict[str, float] = {}
        """Monotonic seconds by device."""

    async def run(self) -> None:
        """Until cancelled. Raises UpstreamError when the platform stops answering."""
        after = 0
        while True:
            began = self._clock.monotonic()
            page = await self._api.get("/dispatch/v1/cases", limit=PAGE, after=after)
            now = self._clock.monotonic()
            for case in page["items"]:
                self.first_seen.setdefault(case["device"], now)
                after = case["id"]
            await asyncio.sleep(max(0.0, POLL_S - (self._clock.monotonic() - began)))


class LatencyBench:
    """One measurement in one folder."""

    def __init__(self, folder: Path, *, rate: float, cases: int, transport: str, clock: Clock) -> None:
        self._folder = folder
        self._rate, self._cases, self._transport = rate, cases, transport
        self._clock = clock

    async def run(self, say: Any) -> Report:
        """Set up, measure, take down. Raises SetupError, UpstreamError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        before = await asyncio.to_thread(fsync_times, self._folder, self._clock)
        rules = self._folder / "rules.yaml"
        rules.write_text(NO_HOLD_RULES, encoding="utf-8")
        stack = Stack(self._folder / "data", clock=self._clock, rules=rules)
        say("starting platform and gateway")
        await stack.start()
        try:
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
                api = StackApi(session, stack.api, stack.token)
                say(f"registering {self._cases} gauges")
                members = await api.register(self._cases, self._transports())
                outcome = await self._measure(stack, api, members, say)
        finally:
            await stack.stop()
        after = await asyncio.to_thread(fsync_times, self._folder, self._clock)
        return self._report(outcome, before, after)

    def _transports(self) -> dict[int, str]:
        every = {"mqtt": 0, "coap": 1, "both": 2}[self._transport]
        return {index: "coap" for index in range(self._cases) if every and index % every == 0}

    async def _measure(self, stack: Stack, api: StackApi, members: list[Member], say: Any) -> _Outcome:
        sender = await _Sender.start(self._plan(stack, members))
        try:
            say("connecting, and one calm frame from each gauge as a warm-up")
            ready = await sender.hear(SENDER_START_S + self._cases / self._rate)
            say(
                f"{self._cases} connected in {ready['connect_s']:.1f} s; measuring for {self._cases / self._rate:.0f} s"
            )
            poller = CasePoller(api, self._clock)
            polling = asyncio.create_task(poller.run())
            try:
                cpu, own = stack.cpu_seconds(), cpu_of(os.getpid())
                began = self._clock.monotonic()
                await sender.tell({"start_at": began + LEAD_S})
                done = Done.model_validate(await sender.hear(60 + LEAD_S + self._cases / self._rate))
                await self._until_all_seen(poller, polling)
                seconds = self._clock.monotonic() - began
                used = {name: value - cpu[name] for name, value in stack.cpu_seconds().items()}
                used |= {"sender": done.cpu, "poller": cpu_of(os.getpid()) - own}
            finally:
                polling.cancel()
                await asyncio.gather(polling, return_exceptions=True)
        finally:
            await sender.stop()
        return _Outcome(done=done, first_seen=poller.first_seen, cpu=used, seconds=seconds)

    def _plan(self, stack: Stack, members: list[Member]) -> dict[str, Any]:
        return {
            "members": [asdict(member) for member in members],
            "profile": GAUGE_PROFILE,
            "message": GAUGE_MESSAGE,
            "metric": GAUGE_METRIC,
            "host": HOST,
            "mqtt_port": stack.mqtt_port,
            "coap_port": stack.coap_port,
            "rate": self._rate,
            "calm": CALM_CM,
            "high": HIGH_CM,
        }

    async def _until_all_seen(self, poller: CasePoller, polling: asyncio.Task[None]) -> None:
        deadline = self._clock.monotonic() + LATE_CASES_S
        while len(poller.first_seen) < self._cases and self._clock.monotonic() < deadline:
            if polling.done():
                polling.result()
            await asyncio.sleep(0.05)

    def _report(self, outcome: _Outcome, before: Spread, after: Spread) -> Report:
        seen_of = outcome.first_seen
        moments = outcome.done.moments
        latencies = [seen_of[moment.device] - moment.intended for moment in moments if moment.device in seen_of]
        processors = os.cpu_count() or 1
        return Report(
            cases=len(moments),
            seen=len(latencies),
            rate=self._rate,
            transport=self._transport,
            latency=Spread.of(latencies),
            lateness=Spread.of([moment.sent - moment.intended for moment in moments]),
            unacknowledged=outcome.done.open,
            seconds=outcome.seconds,
            cpu=outcome.cpu,
            cpu_share={name: value / (outcome.seconds * processors) for name, value in outcome.cpu.items()},
            fsync_before=before,
            fsync_after=after,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    done: Done
    first_seen: dict[str, float]
    cpu: dict[str, float]
    seconds: float


class _Sender:
    """The load process and its JSON lines."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, plan: dict[str, Any]) -> _Sender:
        """Start it with its plan."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "citysense_sim.load_sender",
            env=child_environment(os.environ, supervisor=os.getpid()),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=16 << 20,
            start_new_session=True,  # Ctrl-C is this process's own affair; the child ends with it
        )
        sender = cls(process)
        await sender.tell(plan)
        return sender

    async def tell(self, message: dict[str, Any]) -> None:
        """One line to it."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        await self._process.stdin.drain()

    async def hear(self, within: float) -> dict[str, Any]:
        """Its next line. Raises UpstreamError with its own words when it failed, and after `within` seconds."""
        assert self._process.stdout is not None
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), within)
        except TimeoutError as e:
            raise UpstreamError(f"the load process said nothing for {within:.0f} s") from e
        message: dict[str, Any] = json.loads(line) if line else {"failed": "it ended without a word"}
        if "failed" in message:
            raise UpstreamError(f"the load process failed: {message['failed']}")
        return message

    async def stop(self) -> None:
        """End it."""
        if self._process.returncode is None:
            try:
                await asyncio.wait_for(self._process.wait(), 2)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()


def fsync_times(folder: Path, clock: Clock) -> Spread:
    """What one small write and fsync costs on this disk, now."""
    path = folder / "fsync-probe"
    times: list[float] = []
    try:
        with path.open("wb", buffering=0) as file:
            for _ in range(FSYNC_TRIES):
                began = clock.monotonic()
                file.write(b"\0" * FSYNC_BYTES)
                os.fsync(file.fileno())
                times.append(clock.monotonic() - began)
        path.unlink()
    except OSError as e:
        raise SetupError(f"{folder} cannot be measured in ({e.strerror}); choose another folder with --data") from e
    return Spread.of(times)


def _print(report: Report) -> None:
    console = Console()
    title = f"frame to case: {report.seen} of {report.cases} seen, {report.transport}, {report.rate:g} frames/s"
    table = Table(title=title, title_justify="left")
    for column in ("ms", "p50", "p90", "p99", "max"):
        table.add_column(column, justify="left" if column == "ms" else "right")
    rows = {
        "intended sending to case seen": report.latency,
        "sender behind its plan": report.lateness,
        "fsync of this disk, before": report.fsync_before,
        "fsync of this disk, after": report.fsync_after,
    }
    for name, spread in rows.items():
        table.add_row(name, *(f"{value:.2f}" for value in (spread.p50, spread.p90, spread.p99, spread.max)))
    console.print(table)
    shares = ", ".join(f"{name} {value:.2f} s ({report.cpu_share[name]:.0%})" for name, value in report.cpu.items())
    console.print(f"CPU in {report.seconds:.1f} s, share of {os.cpu_count()} processors: {shares}")
    if report.missing or report.unacknowledged:
        console.print(
            f"{report.missing} cases missing, {report.unacknowledged} frames not acknowledged", style="bold red"
        )
