"""`citysense bench coap`: requests a second that one gateway process answers with 2.04, each after its commit.

Owns the set-up and the figures beside their limits. The load is sent by a process of its own (`citysense_sim.coap_flood`),
whose share of the processor is printed; the platform is a stand-in that takes what the gateway hands over.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from citysense import wire
from citysense.cli.bench_latency import fsync_times
from citysense.cli.gateway_alone import GatewayAlone, StandIn
from citysense.cli.json_child import JsonChild
from citysense.cli.stack import HOST
from citysense.cli.stack_api import GAUGE_MESSAGE, GAUGE_PROFILE
from citysense.clock import Clock, SystemClock
from citysense.errors import WrongUse

EXAMPLE = """\
examples:
  citysense bench coap                  plain CoAP, 100 clients, 60 s
  citysense bench coap --oscore         each request protected, each reply opened
  citysense bench coap --seconds 10 --json

exit codes:
  0  measured, and within the limits
  1  outside a limit, or the measurement failed
  2  wrong use
"""
PAYLOAD = (
    '{"boot": 1, "seq": {seq}, "t": {t},'
    ' "v": {"water.temperature": {value}, "battery.voltage": 3.61, "device.temperature": 21.5}}'
)
"""Three metrics of class bulk, which may wait 10 ms for company."""
GATEWAYS_ID = b"\x01"
START_S = 60.0
SETTLE_S = 30.0
SAMPLE_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A bound on one figure: at least `at_least`, or at most `at_most`."""

    at_least: float | None = None
    at_most: float | None = None

    def held(self, value: float) -> bool:
        """Whether `value` is within it."""
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    def __str__(self) -> str:
        return f">= {self.at_least:,g}" if self.at_least is not None else f"<= {self.at_most:,g}"


def limits(oscore: bool) -> dict[str, Limit]:
    """The bounds by figure, with OSCORE or without."""
    return {
        "requests_per_s": Limit(at_least=1_000 if oscore else 4_500),
        "p99_ms": Limit(at_most=75 if oscore else 60),
        "unavailable": Limit(at_most=0),
        "other_codes": Limit(at_most=0),
        "open": Limit(at_most=0),
        "rss_mb": Limit(at_most=300),
    }


def add_parser(subparsers: Any) -> None:
    """Add `coap`."""
    parser = subparsers.add_parser(
        "coap",
        help="CoAP requests a second of one gateway process, plain or OSCORE",
        description="Measure how many CoAP requests one gateway answers, from its socket to the fsynced spool and back.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--oscore", action="store_true", help="protect each request with its device's OSCORE keys")
    parser.add_argument("--seconds", type=float, default=60.0, metavar="S", help="length of the run (default 60)")
    parser.add_argument("--clients", type=int, default=100, metavar="N", help="devices, one socket each (default 100)")
    parser.add_argument("--json", action="store_true", help="print figures as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; 1 if a figure is outside its limit."""
    if not 1 <= arguments.clients <= 10_000 or arguments.seconds <= 0:
        raise WrongUse("--clients must be 1 to 10000, --seconds above 0")
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="citysense-bench-") as folder:
        bench = CoapBench(
            Path(folder),
            clients=arguments.clients,
            seconds=arguments.seconds,
            oscore=arguments.oscore,
            clock=SystemClock(),
        )
        fsync = fsync_times(Path(folder), SystemClock())
        figures = asyncio.run(bench.run(lambda text: console.print(text, style="dim")))
    figures["fsync_p50_ms"] = round(fsync.p50, 2)
    bounds = limits(arguments.oscore)
    missed = [name for name, limit in bounds.items() if not limit.held(figures[name])]
    if arguments.json:
        print(json.dumps({**figures, "limits": {name: str(limit) for name, limit in bounds.items()}, "missed": missed}))
    else:
        _print(figures, bounds, oscore=arguments.oscore)
    return 1 if missed else 0


class CoapBench:
    """One run in one folder."""

    def __init__(self, folder: Path, *, clients: int, seconds: float, oscore: bool, clock: Clock) -> None:
        self._folder = folder
        self._clients, self._seconds, self._oscore = clients, seconds, oscore
        self._clock = clock
        self._rss = 0

    async def run(self, say: Callable[[str], None]) -> dict[str, float]:
        """The figures by name. Raises SetupError, UpstreamError."""
        devices = bench_devices(self._clients, oscore=self._oscore)
        platform = StandIn(devices)
        gateway = GatewayAlone(self._folder / "gateway", platform=platform, clock=self._clock)
        flood: JsonChild | None = None
        try:
            say("starting a gateway")
            await platform.start()
            await gateway.start()
            await gateway.ready()
            flood = await JsonChild.start("citysense_sim.coap_flood")
            await flood.tell(self.plan(gateway.coap_port, devices))
            await flood.hear(START_S)
            say(f"{self._clients} clients, {self._seconds:g} s")
            return await self._measure(gateway, flood)
        finally:
            if flood is not None:
                await flood.stop()
            await gateway.close()
            await platform.stop()

    def plan(self, port: int, devices: list[wire.RosterDevice]) -> dict[str, Any]:
        """What the load process is told."""
        members = [{"device": device.id} | _keys(device) for device in devices]
        return {"host": HOST, "port": port, "message": GAUGE_MESSAGE, "members": members, "payload": PAYLOAD}

    async def _measure(self, gateway: GatewayAlone, flood: JsonChild) -> dict[str, float]:
        before = gateway.cpu
        watching = asyncio.create_task(self._largest(gateway))
        try:
            await flood.tell({"seconds": self._seconds})
            done = await flood.hear(self._seconds + SETTLE_S)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        cpu = gateway.cpu - before
        answered = max(1, done["answered"])
        codes = done["codes"]
        return {
            "requests_per_s": round(codes.get("2.04", 0) / done["elapsed"]),
            "p50_ms": round(done["p50"], 1),
            "p99_ms": round(done["p99"], 1),
            "longest_ms": round(done["longest"], 1),
            "unavailable": codes.get("5.03", 0),
            "other_codes": sum(count for code, count in codes.items() if code not in ("2.04", "5.03")),
            "open": done["open"],
            "repeated": done["repeated"],
            "rss_mb": round(max(gateway.rss, self._rss) / 1e6, 1),
            "cpu_us_per_request": round(cpu / answered * 1e6, 1),
            "gateway_cores": round(cpu / done["elapsed"], 2),
            "client_cores": round(done["cpu"] / done["elapsed"], 2),
        }

    async def _largest(self, gateway: GatewayAlone) -> None:
        while True:
            self._rss = max(self._rss, gateway.rss)
            await asyncio.sleep(SAMPLE_S)


def bench_devices(count: int, *, oscore: bool) -> list[wire.RosterDevice]:
    """Devices of a bench. Their keys are made of their names: they exist for a minute, on loopback."""
    return [
        wire.RosterDevice(id=name, profile=GAUGE_PROFILE, oscore=_oscore(name, number) if oscore else None)
        for number, name in ((number, f"bench-{number:05}") for number in range(count))
    ]


def _oscore(name: str, number: int) -> wire.Oscore:
    digest = hashlib.sha256(name.encode()).digest()
    return wire.Oscore(
        secret=digest[:16], salt=digest[16:24], sender=GATEWAYS_ID, recipient=number.to_bytes(3, "big"), context=b""
    )


def _keys(device: wire.RosterDevice) -> dict[str, str]:
    """The device's keys as the device sees them."""
    if device.oscore is None:
        return {}
    keys = device.oscore
    return {
        "secret": keys.secret.hex(),
        "salt": keys.salt.hex(),
        "sender": keys.recipient.hex(),
        "recipient": keys.sender.hex(),
    }


def _print(figures: dict[str, float], bounds: dict[str, Limit], *, oscore: bool) -> None:
    table = Table(title=f"CoAP, {'OSCORE' if oscore else 'plain'}, spool fsynced")
    for column in ("figure", "value", "limit"):
        table.add_column(column, justify="left" if column == "figure" else "right")
    for name, value in figures.items():
        limit = bounds.get(name)
        style = "red" if limit is not None and not limit.held(value) else None
        table.add_row(name.replace("_", " "), f"{value:,g}", "" if limit is None else str(limit), style=style)
    Console().print(table)
