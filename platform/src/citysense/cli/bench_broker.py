"""`citysense bench broker`: CPU per message that comes through a city's own broker, from the socket to the fsynced spool,
beside an empty paho subscriber.

Owns the rounds and the ratio. Each of the two reads from a mosquitto of its own under the same load, by turns, and medians are
compared, because the machine is shared. The platform is a stand-in that takes nothing: what is measured ends at the spool.
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

from citysense.cli.bench_mqtt import PLAIN
from citysense.cli.gateway_alone import GatewayAlone, StandIn, devices_of_one_password
from citysense.cli.json_child import JsonChild
from citysense.cli.own_mosquitto import OwnMosquitto
from citysense.cli.paho_reference import PahoReference
from citysense.cli.stack import HOST, POLL_S
from citysense.cli.stack_api import GAUGE_MESSAGE, GAUGE_PROFILE
from citysense.clock import Clock, SystemClock
from citysense.errors import UpstreamError, WrongUse

EXAMPLE = """\
examples:
  citysense bench broker                        three rounds of each load
  citysense bench broker --rounds 7 --json      calmer medians, for programs
  citysense bench broker --protocol 3.1.1       as the empty subscriber speaks it

exit codes:
  0  measured, and within the limits
  1  above a limit, or the measurement failed
  2  wrong use
"""
PREFIX = "bench-"
PASSWORD = "bench"  # noqa: S105 - of accounts that exist for a minute, on loopback
ACCOUNTS = ("gateway", "probe-a", "probe-b")
AS_FAST_AS_THE_YARDSTICK = {"persistence": "false", "autosave_on_changes": "false"}
CONNECT_S = 60.0
SETTLE_S = 90.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One kind of round: messages a second, 0 for as many as the broker takes; at most `count`. `limit` is the ratio."""

    name: str
    rate: float
    count: int
    limit: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """Medians of one load, in microseconds of CPU per message; `receipts` is how many went to devices, per message."""

    load: Load
    gateway: float
    subscriber: float
    receipts: float

    @property
    def ratio(self) -> float:
        """The gateway alone beside the empty subscriber alone."""
        return self.gateway / self.subscriber


def loads(seconds: float) -> tuple[Load, ...]:
    """The loads of one run. Saturated means: a backlog that the reader empties at its own pace."""
    return (
        Load(name="saturated", rate=0, count=int(20_000 * seconds), limit=0.8),
        Load(name="2,000/s", rate=2000, count=int(2000 * seconds), limit=1.0),
    )


def add_parser(subparsers: Any) -> None:
    """Add `broker`."""
    parser = subparsers.add_parser(
        "broker",
        help="CPU per message through a city's own broker, beside an empty paho subscriber",
        description="Measure the CPU that one QoS 1 message costs the gateway when it reads from a city's broker.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--connections", type=int, default=1000, metavar="N", help="devices (default 1000)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="rounds of each load (default 3)")
    parser.add_argument("--seconds", type=float, default=4.0, metavar="S", help="length of a round (default 4)")
    parser.add_argument("--protocol", choices=("5", "3.1.1"), default="5", help="what the gateway speaks (default 5)")
    parser.add_argument("--json", action="store_true", help="print figures as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; 1 if a ratio is above its limit."""
    if arguments.connections < 1 or arguments.rounds < 1 or arguments.seconds <= 0:
        raise WrongUse("--connections, --rounds and --seconds must be above 0")
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="citysense-bench-") as folder:
        bench = BrokerBench(
            Path(folder),
            connections=arguments.connections,
            rounds=arguments.rounds,
            seconds=arguments.seconds,
            protocol=arguments.protocol,
            clock=SystemClock(),
        )
        figures = asyncio.run(bench.run(lambda text: console.print(text, style="dim")))
    if arguments.json:
        print(json.dumps({"protocol": arguments.protocol, "loads": [as_json(figure) for figure in figures]}))
    else:
        _print(figures)
    return 1 if any(figure.ratio > figure.load.limit for figure in figures) else 0


class BrokerBench:
    """One run in one folder."""

    def __init__(
        self, folder: Path, *, connections: int, rounds: int, seconds: float, protocol: str, clock: Clock
    ) -> None:
        self._folder = folder
        self._connections, self._rounds, self._seconds = connections, rounds, seconds
        self._protocol = protocol
        self._clock = clock
        self._devices = devices_of_one_password(connections, prefix=PREFIX, profile=GAUGE_PROFILE, password=PASSWORD)
        self._platform = StandIn(self._devices, takes=False)
        self._received = 0

    async def run(self, say: Callable[[str], None]) -> list[Figure]:
        """All loads. Raises SetupError, UpstreamError."""
        broker = self._broker()
        gateway: GatewayAlone | None = None
        reference = PahoReference(self._folder, topic=f"cs/v1/+/up/{GAUGE_MESSAGE}", clock=self._clock)
        floods: list[JsonChild] = []
        say(f"connecting {self._connections} devices to each of two brokers")
        try:
            await asyncio.to_thread(broker.start)
            gateway = self._gateway(broker)
            await self._platform.start()
            await gateway.start()
            await gateway.ready()
            await self._figure("broker.connected", 1)
            await reference.start()
            for port in (broker.port, reference.port):
                floods.append(await JsonChild.start("citysense_sim.mqtt_flood"))
                await floods[-1].tell(self._plan(port))
                await floods[-1].hear(CONNECT_S)
            return [await self._measure(load, gateway, reference, floods, say) for load in loads(self._seconds)]
        finally:
            for flood in floods:
                await flood.stop()
            await reference.stop()
            if gateway is not None:
                await gateway.close()
            await self._platform.stop()
            broker.kill()

    def _broker(self) -> OwnMosquitto:
        accounts = dict.fromkeys((*ACCOUNTS, *(device.id for device in self._devices)), PASSWORD)
        return OwnMosquitto(self._folder / "broker", accounts, changed=AS_FAST_AS_THE_YARDSTICK)

    def _gateway(self, broker: OwnMosquitto) -> GatewayAlone:
        _, first, second = ACCOUNTS
        return GatewayAlone(
            self._folder / "gateway",
            platform=self._platform,
            clock=self._clock,
            options=("--broker", broker.address, "--broker-protocol", self._protocol),
            environment={
                "CITYSENSE_BROKER_PASSWORD": PASSWORD,
                "CITYSENSE_BROKER_PROBES": f"{first}:{PASSWORD},{second}:{PASSWORD}",
            },
        )

    def _plan(self, port: int) -> dict[str, Any]:
        members = [
            {"device": device.id, "secret": PASSWORD, "topic": f"cs/v1/{device.id}/up/{GAUGE_MESSAGE}"}
            for device in self._devices
        ]
        return {"host": HOST, "port": port, "members": members, "payload": PLAIN, "connect_within": CONNECT_S}

    async def _measure(
        self,
        load: Load,
        gateway: GatewayAlone,
        reference: PahoReference,
        floods: list[JsonChild],
        say: Callable[[str], None],
    ) -> Figure:
        to_gateway, to_reference = floods
        ours, theirs, receipts = [], [], []
        for number in range(self._rounds):
            say(f"{load.name}: round {number + 1} of {self._rounds}")
            stored = self._platform.figures["stored"]
            told = self._platform.figures["broker.receipts"]
            before = gateway.cpu
            sent = await self._play(to_gateway, load)
            await self._figure("stored", stored + sent)
            ours.append((gateway.cpu - before) / sent)
            receipts.append((self._platform.figures["broker.receipts"] - told) / sent)
            _, before = reference.cpu
            sent = await self._play(to_reference, load)
            self._received += sent
            await reference.settled(self._received)
            theirs.append((reference.cpu[1] - before) / sent)
        return Figure(
            load=load,
            gateway=statistics.median(ours) * 1e6,
            subscriber=statistics.median(theirs) * 1e6,
            receipts=statistics.median(receipts),
        )

    async def _play(self, flood: JsonChild, load: Load) -> int:
        await flood.tell({"rate": load.rate, "window": 20, "seconds": self._seconds, "count": load.count})
        done = await flood.hear(self._seconds + SETTLE_S)
        if done["open"] or done["lost"]:
            raise UpstreamError(f"{load.name}: {done['open']} messages had no PUBACK, {done['lost']} connections broke")
        return int(done["acked"])

    async def _figure(self, name: str, wanted: float) -> None:
        """Wait for a counter of the gateway's heartbeat. Raises UpstreamError."""
        deadline = self._clock.monotonic() + SETTLE_S
        while self._platform.figures.get(name, 0.0) < wanted:
            if self._clock.monotonic() > deadline:
                raise UpstreamError(f"the gateway's {name} is {self._platform.figures.get(name)}, not {wanted}")
            await asyncio.sleep(POLL_S)


def as_json(figure: Figure) -> dict[str, Any]:
    """For programs."""
    return {
        "load": figure.load.name,
        "gateway_us": round(figure.gateway, 1),
        "subscriber_us": round(figure.subscriber, 1),
        "ratio": round(figure.ratio, 2),
        "limit": figure.load.limit,
        "receipts_per_message": round(figure.receipts, 2),
    }


def _print(figures: list[Figure]) -> None:
    table = Table(title="CPU per QoS 1 message through a broker, us (medians)")
    for column in ("load", "gateway", "empty paho", "ratio", "limit", "receipts per message"):
        table.add_column(column, justify="left" if column == "load" else "right")
    for figure in figures:
        table.add_row(
            figure.load.name,
            f"{figure.gateway:.1f}",
            f"{figure.subscriber:.1f}",
            f"{figure.ratio:.2f}",
            f"{figure.load.limit:g}",
            f"{figure.receipts:.2f}",
            style="red" if figure.ratio > figure.load.limit else None,
        )
    Console().print(table)
