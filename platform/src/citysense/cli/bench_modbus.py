"""`citysense bench modbus`: what a register value costs the gateway, from 200 connections to the fsynced spool.

Owns the measurement. The polled units are a process of their own; driver, pipeline and spool are those of the gateway and
run in this one, so that its CPU time is theirs.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import random
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from citysense import wire
from citysense.cli.modbus_model import quiet
from citysense.clock import Clock, SystemClock
from citysense.crash_points import CrashPoints
from citysense.errors import SetupError, WrongUse
from citysense.keys import Sealer, TagPseudonym
from citysense_gateway.counters import FrameCounters
from citysense_gateway.devices import Devices
from citysense_gateway.modbus.polled import PolledDevice
from citysense_gateway.modbus.poller import ModbusPoller
from citysense_gateway.pipeline import Pipeline
from citysense_gateway.spool import Spool
from citysense_profiles.catalogue import Catalogue, load_catalogue
from citysense_profiles.profile import Profile
from citysense_profiles.simulation import Simulation
from citysense_profiles.vocabulary import load_vocabulary

EXAMPLE = """\
examples:
  citysense bench modbus                        200 connections, 12,000 values a second for 30 s
  citysense bench modbus --rate 20000 --json    more of them, figures as JSON
  citysense bench modbus --data /mnt/disk/bench on the disk that you mean
"""
CONNECTIONS = 200
LEAST_RATE = 10_000.0
MOST_CORES = 1.0
SETTLE_S = 3.0
"""Connections open and first polls are through; the profile is compiled and the loop is warm."""
SLICES = 5
"""The measurement is cut into so many parts, of which the median counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModbusFigures:
    """Rates are of values that were stored, a value being one metric of one poll; `cores` is CPU seconds a second."""

    connections: int
    registers: int
    metrics: int
    seconds: float
    polls: int
    values_per_s: float
    registers_per_s: float
    cores: float
    us_per_value: float
    not_stored: int
    failures: int

    @property
    def kept(self) -> bool:
        """Whether the limits hold and every poll was stored."""
        return (
            self.values_per_s >= LEAST_RATE and self.cores <= MOST_CORES and self.not_stored == 0 and self.failures == 0
        )


class Bench:
    """The gateway's parts in a folder, polling `connections` units of one profile."""

    def __init__(self, folder: Path, *, connections: int, rate: float, clock: Clock) -> None:
        self._folder = folder
        self._connections = connections
        self._clock = clock
        self._catalogue = load_catalogue()
        self._profile, self._message = richest_map(self._catalogue)
        self._metrics = len(self._profile.message_metrics(self._message))
        self._every = connections * self._metrics / rate
        self._counters = FrameCounters()

    async def run(self, seconds: float) -> ModbusFigures:
        """Set up, measure, take down. Raises SetupError."""
        fleet = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "citysense_sim.modbus_fleet"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is this process's own affair; the units end with their input
        )
        assert fleet.stdin is not None
        assert fleet.stdout is not None
        try:
            fleet.stdin.write(self._order().encode() + b"\n")
            line = await fleet.stdout.readline()
            if not line:
                raise SetupError("the polled units did not start; see above")
            return await self._polled(json.loads(line), seconds)
        finally:
            fleet.stdin.close()
            await fleet.wait()

    def _order(self) -> str:
        chance = random.Random(1)  # noqa: S311 - the same values in every run
        simulation = Simulation(self._profile, self._message, random=chance, vocabulary=load_vocabulary())
        words = {
            (read.table, read.address + at): 0
            for read in self._profile.plan_reads(self._message)
            for at in range(read.count)
        }
        words |= self._profile.encode_register_fields(self._message, simulation.report(0.0))
        tables: dict[str, dict[int, int]] = {}
        for (table, address), word in words.items():
            tables.setdefault(table, {})[address] = word
        return json.dumps({"count": self._connections, "words": tables})

    async def _polled(self, ports: list[int], seconds: float) -> ModbusFigures:
        polled = [
            PolledDevice(
                id=f"unit-{number}",
                endpoint=f"modbus+tcp://127.0.0.1:{port}/1",
                plan=self._profile.plan_reads(self._message),
                every=self._every,
                message=self._message,
            )
            for number, port in enumerate(ports)
        ]
        devices = Devices(self._catalogue)
        roster = [wire.RosterDevice(id=one.id, profile=self._profile.id, endpoint=one.endpoint) for one in polled]
        devices.replace(wire.Roster(version=1, devices=roster))
        spool = Spool(self._folder / "spool.db", clock=self._clock, crash=CrashPoints())
        spool.open()
        poller = ModbusPoller(sink=self._pipeline(devices, spool), clock=self._clock, random=random.Random(1))  # noqa: S311 - the same beats in every run
        await poller.start()
        try:
            poller.set_devices(polled)
            # First polls are spread over a period, or over the first seconds of a long one.
            await asyncio.sleep(SETTLE_S + min(self._every, 10.0))
            gc.freeze()
            return await self._measured(poller, seconds)
        finally:
            gc.unfreeze()
            await poller.stop()
            spool.close()

    def _pipeline(self, devices: Devices, spool: Spool) -> Pipeline:
        return Pipeline(
            devices=devices,
            spool=spool,
            vocabulary=load_vocabulary(),
            pseudonym=TagPseudonym(bytes(32)),
            seal=Sealer(bytes(32)).seal,
            counters=self._counters,
            crash=CrashPoints(),
        )

    async def _measured(self, poller: ModbusPoller, seconds: float) -> ModbusFigures:
        frames, failures = self._counters.snapshot(), poller.counters.failures
        began = self._clock.monotonic()
        slices: list[tuple[float, float, float]] = []
        for _ in range(SLICES):
            stored, moment, cpu = self._counters.snapshot()["stored"], self._clock.monotonic(), time.process_time()
            await asyncio.sleep(seconds / SLICES)
            slices.append(
                (
                    self._counters.snapshot()["stored"] - stored,
                    self._clock.monotonic() - moment,
                    time.process_time() - cpu,
                )
            )
        after = self._counters.snapshot()
        polls = statistics.median(stored / took for stored, took, _ in slices)
        others = sum(after[name] - frames.get(name, 0.0) for name in after if _is_loss(name))
        registers = sum(read.count for read in self._profile.plan_reads(self._message))
        return ModbusFigures(
            connections=self._connections,
            registers=registers,
            metrics=self._metrics,
            seconds=self._clock.monotonic() - began,
            polls=int(after["stored"] - frames["stored"]),
            values_per_s=polls * self._metrics,
            registers_per_s=polls * registers,
            cores=statistics.median(cpu / took for _, took, cpu in slices),
            us_per_value=1e6 * statistics.median(cpu / max(1.0, stored * self._metrics) for stored, _, cpu in slices),
            not_stored=int(others),
            failures=poller.counters.failures - failures,
        )


def _is_loss(name: str) -> bool:
    return name in ("duplicate", "unavailable") or name.startswith("rejected.")


def richest_map(catalogue: Catalogue) -> tuple[Profile, str]:
    """The register map with the most metrics, of all profiles; the first of several."""
    maps = [
        (profile, name)
        for profile in catalogue
        for name in profile.messages
        if not profile.is_sent(name) and profile.file.messages[name].direction == "up"
    ]
    return max(maps, key=lambda one: len(one[0].message_metrics(one[1])))


def add_parser(subparsers: Any) -> None:
    """Add `modbus`."""
    parser = subparsers.add_parser(
        "modbus",
        help="CPU per register value, from 200 Modbus connections to the spool",
        description="Poll many Modbus TCP units through driver, pipeline and fsynced spool, at a rate of values.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--connections", type=int, default=CONNECTIONS, metavar="N", help="default %(default)s")
    parser.add_argument("--rate", type=float, default=12_000.0, metavar="N", help="values a second (default 12000)")
    parser.add_argument("--seconds", type=float, default=30.0, metavar="S", help="to measure (default 30)")
    parser.add_argument("--data", type=Path, metavar="DIR", help="an empty folder (default: a temporary one)")
    parser.add_argument("--json", action="store_true", help="print figures as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; 1 if a limit is missed."""
    if not 1 <= arguments.connections <= 900 or arguments.rate <= 0 or arguments.seconds <= 0:
        raise WrongUse("--connections must be 1 to 900, --rate and --seconds above 0")
    with quiet(logging.WARNING), tempfile.TemporaryDirectory(prefix="citysense-bench-") as temporary:
        folder = arguments.data or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise SetupError(f"--data {folder} is not empty; a measurement needs a fresh folder")
        bench = Bench(folder, connections=arguments.connections, rate=arguments.rate, clock=SystemClock())
        figures = asyncio.run(bench.run(arguments.seconds))
    if arguments.json:
        print(json.dumps(asdict(figures) | {"kept": figures.kept}))
    else:
        _print(figures)
    return 0 if figures.kept else 1


def _print(figures: ModbusFigures) -> None:
    table = Table(title=f"{figures.connections} Modbus TCP connections, {figures.metrics} values in each poll")
    table.add_column("")
    table.add_column("measured", justify="right")
    table.add_column("limit", justify="right")
    table.add_row("values a second, stored", f"{figures.values_per_s:,.0f}", f"{LEAST_RATE:,.0f}")
    table.add_row("CPU seconds a second", f"{figures.cores:.2f}", f"{MOST_CORES:g}")
    table.add_row("CPU per value", f"{figures.us_per_value:.1f} us", "")
    table.add_row("registers a second", f"{figures.registers_per_s:,.0f}", "")
    table.add_row("polls not stored", str(figures.not_stored), "0")
    table.add_row("requests lost", str(figures.failures), "0")
    console = Console()
    console.print(table)
    console.print(f"{figures.polls} polls in {figures.seconds:.0f} s; medians of {SLICES} parts")
