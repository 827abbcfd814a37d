"""The polling of one line: its devices one after another, over one connection.

Owns the order of polls and each device's state; a silent device costs its line the reply timeout and is then left
alone for a growing while. What a poll brings goes to the sink as one frame; nothing here knows what it means.
"""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import dataclass

from citysense.clock import Clock
from citysense_gateway.frame import Frame, FrameSink, Identity, Kind, Transport
from citysense_gateway.modbus.connection import Connection, ExchangeFailed, ReadRefused
from citysense_gateway.modbus.endpoint import Line
from citysense_gateway.modbus.schedule import first_poll, next_poll, pause_after
from citysense_profiles import Read

_LOG = logging.getLogger(__name__)
_RETRY_STORE = 5.0
"""Seconds after which a device is polled again whose frame could not be stored; CoAP devices are told the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolledDevice:
    """A device to poll: the reads of `plan`, every `every` seconds. `message` names the profile's message, if any."""

    id: str
    endpoint: str
    plan: tuple[Read, ...]
    every: float
    message: str | None


@dataclass(slots=True, kw_only=True)
class ModbusCounters:
    """`devices`, `failing` and `unserved` are now; the others are totals since start."""

    devices: int = 0
    """All that were set, also failing and unserved ones."""
    failing: int = 0
    """Devices whose last poll failed."""
    unserved: int = 0
    """Devices that are not polled at all: endpoint wrong or of a kind that this version does not serve."""
    polls: int = 0
    failures: int = 0
    refused_reads: int = 0
    """Reads that a device answered with an exception."""
    unstored: int = 0
    """Polls whose frame could not be stored."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Polled:
    """One device's state on its line."""

    device: PolledDevice
    unit: int
    due: float
    failures: int = 0
    """Failed polls in a row."""
    refused: frozenset[str] = frozenset()


class LinePolling:
    """Polls the devices of one line until it is retired. Devices may come, go and change at any time."""

    def __init__(
        self,
        line: Line,
        *,
        connection: Connection,
        sink: FrameSink,
        clock: Clock,
        chance: random.Random,
        counters: ModbusCounters,
    ) -> None:
        self._line = line
        self._connection = connection
        self._sink = sink
        self._clock = clock
        self._chance = chance
        self._counters = counters
        self._polled: dict[str, _Polled] = {}
        self._changed = asyncio.Event()
        self._delivering = False
        self._retired = False

    def put(self, device: PolledDevice, unit: int) -> None:
        """Add a device, or go on polling it as it is described now."""
        known = self._polled.get(device.id)
        if known is not None and known.unit == unit:
            if known.device.every != device.every:
                known.due = first_poll(self._clock.monotonic(), device.every, self._chance)
            known.device = device
        else:
            self.remove(device.id)
            due = first_poll(self._clock.monotonic(), device.every, self._chance)
            self._polled[device.id] = _Polled(device=device, unit=unit, due=due)
        self._changed.set()

    def remove(self, device_id: str) -> bool:
        """Stop polling a device; True if it was polled here. A poll under way is not delivered."""
        polled = self._polled.pop(device_id, None)
        if polled is None:
            return False
        if polled.failures:
            self._counters.failing -= 1
        self._changed.set()
        return True

    def ids(self) -> set[str]:
        """The devices polled here."""
        return set(self._polled)

    def retire(self, task: asyncio.Task[None]) -> None:
        """End `task`, which runs this line: at once, or after the frame that is being stored."""
        for device_id in self.ids():
            self.remove(device_id)
        self._retired = True
        if not self._delivering:
            task.cancel()

    async def run(self) -> None:
        """Poll until retired."""
        try:
            while not self._retired:
                self._changed.clear()
                polled = min(self._polled.values(), key=lambda one: one.due, default=None)
                pause = None if polled is None else polled.due - self._clock.monotonic()
                if polled is None or (pause is not None and pause > 0):
                    await self._wait(pause)
                else:
                    await self._poll(polled)
        finally:
            self._connection.close()

    async def _wait(self, seconds: float | None) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            # The next poll is due.
            return

    async def _poll(self, polled: _Polled) -> None:
        device = polled.device
        self._counters.polls += 1
        try:
            registers, refused = await self._read(polled)
        except ExchangeFailed as error:
            self._failed(polled, str(error))
            return
        if not registers:
            self._failed(polled, f"refuses every read: {', '.join(sorted(refused))}")
            return
        if not self._still(polled):
            return
        self._answered(polled, refused)
        polled.due = next_poll(polled.due, device.every, self._clock.monotonic())
        await self._deliver(polled, device, registers)

    async def _read(self, polled: _Polled) -> tuple[dict[tuple[str, int], int], frozenset[str]]:
        registers: dict[tuple[str, int], int] = {}
        refused = set()
        for read in polled.device.plan:
            try:
                words = await self._connection.read(polled.unit, read)
            except ReadRefused as error:
                self._counters.refused_reads += 1
                refused.add(f"{read.table} {read.address}: {error}")
                continue
            registers.update({(read.table, read.address + at): word for at, word in enumerate(words)})
        return registers, frozenset(refused)

    async def _deliver(self, polled: _Polled, device: PolledDevice, registers: dict[tuple[str, int], int]) -> None:
        frame = Frame(
            transport=Transport.MODBUS,
            channel=device.endpoint,
            device=device.id,
            identity=Identity.ENDPOINT,
            source=str(self._line),
            received_at=self._clock.now_ms(),
            registers=registers,
            message=device.message,
        )
        self._delivering = True
        try:
            verdict = await self._sink.accept(frame)
        finally:
            self._delivering = False
        if verdict.kind is Kind.UNAVAILABLE:
            self._counters.unstored += 1
            polled.due = self._clock.monotonic() + min(device.every, _RETRY_STORE)

    def _still(self, polled: _Polled) -> bool:
        return self._polled.get(polled.device.id) is polled

    def _failed(self, polled: _Polled, reason: str) -> None:
        if not self._still(polled):
            return
        self._counters.failures += 1
        polled.failures += 1
        polled.due = self._clock.monotonic() + pause_after(polled.failures, self._chance)
        if polled.failures == 1:
            self._counters.failing += 1
            _LOG.warning("device %s at %s cannot be read: %s", polled.device.id, polled.device.endpoint, reason)

    def _answered(self, polled: _Polled, refused: frozenset[str]) -> None:
        if polled.failures:
            self._counters.failing -= 1
            _LOG.warning("device %s can be read again, after %d failed polls", polled.device.id, polled.failures)
            polled.failures = 0
        if refused != polled.refused:
            polled.refused = refused
            told = ", ".join(sorted(refused)) or "nothing any more"
            _LOG.warning("device %s at %s refuses: %s", polled.device.id, polled.device.endpoint, told)
