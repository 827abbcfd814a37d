"""`citysense bench mqtt`: CPU per message of the front door, from the socket to the fsynced spool, beside an empty paho
subscriber behind mosquitto.

Owns the rounds and the ratios. Gateway and yardstick take turns under the same load, and medians are compared, because the
machine is shared. The platform is a stand-in that takes nothing, so that what is measured ends at the spool.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from citysense.cli.bench_latency import fsync_times
from citysense.cli.gateway_alone import GatewayAlone, StandIn, devices_of_one_password
from citysense.cli.json_child import JsonChild
from citysense.cli.paho_reference import PahoReference
from citysense.cli.stack import HOST
from citysense.cli.stack_api import GAUGE_MESSAGE, GAUGE_PROFILE
from citysense.clock import Clock, SystemClock
from citysense.errors import UpstreamError, WrongUse

EXAMPLE = """\
examples:
  citysense bench mqtt                 three rounds of each load
  citysense bench mqtt --rounds 7      calmer medians
  citysense bench mqtt --json          figures for programs

exit codes:
  0  measured, and within the limits
  1  above a limit, or the measurement failed
  2  wrong use
"""
PASSWORD = "bench"  # noqa: S105 - of devices that exist for a minute, on loopback
PREFIX = "bench-"
PLAIN = (
    '{"boot": 1, "seq": {seq}, "t": {t},'
    ' "v": {"water.temperature": {value}, "battery.voltage": 3.61, "device.temperature": 21.5}}'
)
"""Three metrics of class bulk, which may wait 10 ms for company."""
URGENT = PLAIN.replace("water.temperature", "water.level")
"""One of them of class safety: each frame commits at once."""
CONNECT_S = 90.0
SETTLE_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One kind of round: messages a second over all connections, 0 for as many as go. `limit` is the ratio allowed."""

    name: str
    rate: float
    limit: float


LOADS = (
    Load(name="saturated", rate=0, limit=0.6),
    Load(name="2,000/s", rate=2000, limit=0.9),
    Load(name="200/s", rate=200, limit=1.7),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """Medians of one load, in microseconds of CPU per message; the rate that the gateway reached, in messages a second."""

    load: Load
    gateway: float
    broker: float
    subscriber: float
    rate: float
    p50_ms: float
    p99_ms: float

    @property
    def ratio(self) -> float:
        """The gateway beside broker and subscriber together."""
        return self.gateway / (self.broker + self.subscriber)


def add_parser(subparsers: Any) -> None:
    """Add `mqtt`."""
    parser = subparsers.add_parser(
        "mqtt",
        help="CPU per MQTT message, beside an empty paho subscriber behind mosquitto",
        description="Measure the CPU that one QoS 1 message costs the gateway, from its socket to the fsynced spool.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--connections", type=int, default=1000, metavar="N", help="devices (default 1000)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="rounds of each load (default 3)")
    parser.add_argument("--seconds", type=float, default=4.0, metavar="S", help="length of a round (default 4)")
    parser.add_argument(
        "--safety", action="store_true", help="frames of class safety, each committed at once; no limit"
    )
    parser.add_argument("--json", action="store_true", help="print figures as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; 1 if a ratio is above its limit."""
    if arguments.connections < 1 or arguments.rounds < 1 or arguments.seconds <= 0:
        raise WrongUse("--connections, --rounds and --seconds must be above 0")
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="citysense-bench-") as folder:
        bench = MqttBench(
            Path(folder),
            connections=arguments.connections,
            rounds=arguments.rounds,
            seconds=arguments.seconds,
            payload=URGENT if arguments.safety else PLAIN,
            clock=SystemClock(),
        )
        fsync = fsync_times(Path(folder), SystemClock())
        figures = asyncio.run(bench.run(lambda text: console.print(text, style="dim")))
    missed = [] if arguments.safety else [figure for figure in figures if figure.ratio > figure.load.limit]
    if arguments.json:
        print(json.dumps({"fsync_p50_ms": fsync.p50, "loads": [_as_json(figure) for figure in figures]}))
    else:
        _print(figures, limits=not arguments.safety)
        print(f"fsync of this disk: p50 {fsync.p50:.2f} ms, p99 {fsync.p99:.2f} ms")
    return 1 if missed else 0


class MqttBench:
    """One run in one folder."""

    def __init__(
        self, folder: Path, *, connections: int, rounds: int, seconds: float, payload: str, clock: Clock
    ) -> None:
        self._folder = folder
        self._connections, self._rounds, self._seconds = connections, rounds, seconds
        self._payload = payload
        self._clock = clock
        self._received = 0

    async def run(self, say: Callable[[str], None]) -> list[Figure]:
        """All loads. Raises SetupError, UpstreamError."""
        devices = devices_of_one_password(self._connections, prefix=PREFIX, profile=GAUGE_PROFILE, password=PASSWORD)
        platform = StandIn(devices, takes=False)
        gateway = GatewayAlone(self._folder / "gateway", platform=platform, clock=self._clock)
        reference = PahoReference(self._folder, topic=f"cs/v1/+/up/{GAUGE_MESSAGE}", clock=self._clock)
        floods: list[JsonChild] = []
        say(f"connecting {self._connections} devices to the gateway, and as many to mosquitto")
        try:
            await platform.start()
            await gateway.start()
            await gateway.ready()
            await reference.start()
            for port in (gateway.mqtt_port, reference.port):
                floods.append(await JsonChild.start("citysense_sim.mqtt_flood"))
                await floods[-1].tell(self._plan(port, [device.id for device in devices]))
                await floods[-1].hear(CONNECT_S)
            return [await self._measure(load, gateway, reference, floods, say) for load in LOADS]
        finally:
            for flood in floods:
                await flood.stop()
            await reference.stop()
            await gateway.close()
            await platform.stop()

    def _plan(self, port: int, devices: list[str]) -> dict[str, Any]:
        members = [
            {"device": device, "secret": PASSWORD, "topic": f"cs/v1/{device}/up/{GAUGE_MESSAGE}"} for device in devices
        ]
        return {"host": HOST, "port": port, "members": members, "payload": self._payload, "connect_within": CONNECT_S}

    async def _measure(
        self,
        load: Load,
        gateway: GatewayAlone,
        reference: PahoReference,
        floods: list[JsonChild],
        say: Callable[[str], None],
    ) -> Figure:
        to_gateway, to_broker = floods
        rows: list[tuple[float, float, float]] = []
        rounds: list[dict[str, Any]] = []
        for number in range(self._rounds):
            say(f"{load.name}: round {number + 1} of {self._rounds}")
            before = gateway.cpu
            done = await self._play(to_gateway, load)
            ours = (gateway.cpu - before) / done["acked"]
            broker_before, subscriber_before = reference.cpu
            sent = (await self._play(to_broker, load))["acked"]
            self._received += sent
            await reference.settled(self._received)
            broker, subscriber = reference.cpu
            rows.append((ours, (broker - broker_before) / sent, (subscriber - subscriber_before) / sent))
            rounds.append(done)
        micro = [statistics.median(row[column] for row in rows) * 1e6 for column in range(3)]
        return Figure(
            load=load,
            gateway=micro[0],
            broker=micro[1],
            subscriber=micro[2],
            rate=statistics.median(done["acked"] / done["elapsed"] for done in rounds),
            p50_ms=statistics.median(done["p50"] for done in rounds),
            p99_ms=statistics.median(done["p99"] for done in rounds),
        )

    async def _play(self, flood: JsonChild, load: Load) -> dict[str, Any]:
        await flood.tell({"rate": load.rate, "window": 20, "seconds": self._seconds})
        done = await flood.hear(self._seconds + SETTLE_S)
        if done["open"] or done["lost"]:
            raise UpstreamError(f"{load.name}: {done['open']} messages had no PUBACK, {done['lost']} connections broke")
        return done


def _as_json(figure: Figure) -> dict[str, Any]:
    return {
        "load": figure.load.name,
        "gateway_us": round(figure.gateway, 1),
        "broker_us": round(figure.broker, 1),
        "subscriber_us": round(figure.subscriber, 1),
        "ratio": round(figure.ratio, 2),
        "limit": figure.load.limit,
        "rate": round(figure.rate),
        "p50_ms": round(figure.p50_ms, 2),
        "p99_ms": round(figure.p99_ms, 2),
    }


def _print(figures: list[Figure], *, limits: bool) -> None:
    table = Table(title="CPU per QoS 1 message, us (medians)")
    for column in ("load", "gateway", "broker", "paho", "ratio", "limit", "msg/s", "PUBACK p50/p99"):
        table.add_column(column, justify="left" if column == "load" else "right")
    for figure in figures:
        missed = limits and figure.ratio > figure.load.limit
        table.add_row(
            figure.load.name,
            f"{figure.gateway:.1f}",
            f"{figure.broker:.1f}",
            f"{figure.subscriber:.1f}",
            f"{figure.ratio:.2f}",
            f"{figure.load.limit:g}" if limits else "-",
            f"{figure.rate:,.0f}",
            f"{figure.p50_ms:.1f}/{figure.p99_ms:.1f} ms",
            style="red" if missed else None,
        )
    Console().print(table)
