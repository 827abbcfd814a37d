"""A virtual device: its plan of reports, its profile's bytes, its link.

Owns numbering (boot, seq) and the pace. Values come from `behaviour.py`, bytes from the profile, delivery from the link.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from itertools import count

from citysense.clock import Clock
from citysense_profiles.profile import Profile
from citysense_sim.behaviour import Planned, plan, values_at
from citysense_sim.link import Fate, Link
from citysense_sim.modbus_station import Registers
from citysense_sim.scenario import Device, Scenario, Value

_log = logging.getLogger(__name__)


class Messages:
    """Encodes a device's reports. A native profile's carry boot and seq; a vendor's carry what the vendor's do."""

    def __init__(self, profile: Profile, device: Device, *, boot: int) -> None:
        self._profile = profile
        self._device = device
        self._boot = boot

    def encode(
        self, values: Mapping[str, Value], *, number: int, time: int, base: int | None, tag: str | None
    ) -> bytes:
        """The bytes of report `number`; `base` is given once the device can no longer send all it has not got acknowledged.
        Raises EncodeError where the scenario asks for what the profile cannot say."""
        if not self._profile.native:
            return self._profile.encode(
                self._device.message,
                values,
                content=self._device.content,
                time=time,
                tag=tag,
                serial=self._device.serial,
            )
        return self._profile.encode(
            self._device.message,
            values,
            content=self._device.content,
            time=time,
            boot=self._boot,
            seq=number,
            base=base,
        )


class ReportingDevice:
    """A device that speaks by itself, over MQTT or CoAP."""

    def __init__(
        self, *, scenario: Scenario, device: Device, messages: Messages, link: Link, speed: float, clock: Clock
    ) -> None:
        self._plan = plan(scenario, device, speed)
        self._device = device
        self._messages = messages
        self._link = link
        self._clock = clock
        self._numbers = count()
        self._forgot = False

    def on_forgotten(self) -> None:
        """A message was dropped for want of memory: from now on say from which number on all can still be had."""
        self._forgot = True

    async def run(self, started: float) -> None:
        """Send each report when it is due; `started` is the scenario's beginning on the monotonic clock."""
        for due in self._plan:
            wait = started + due.at_s - self._clock.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            self._send(due)

    def _send(self, due: Planned) -> None:
        number = next(self._numbers)
        base = self._link.base(number) if self._forgot else None
        now = self._clock.now_ms()
        self._link.push(number, self._messages.encode(due.values, number=number, time=now, base=base, tag=due.tag))
        _log.debug("%s: report %d %s", self._device.id, number, due.values)


class PolledDevice:
    """A device whose registers are read by the gateway; computed at the moment of reading."""

    def __init__(self, *, scenario: Scenario, device: Device, profile: Profile, speed: float, clock: Clock) -> None:
        self._scenario = scenario
        self._device = device
        self._profile = profile
        self._speed = speed
        self._clock = clock
        self._started = clock.monotonic()
        maps = [name for name in profile.messages if not profile.is_sent(name)]
        # What a gateway may ask for or write, of every map; a real device answers 0 where the scenario says nothing.
        self._silent = {
            (read.table, read.address + offset): 0
            for name in maps
            for read in profile.plan_reads(name)
            for offset in range(read.count)
        }

    def begin(self, started: float) -> None:
        """The scenario's beginning on the monotonic clock."""
        self._started = started

    def registers(self) -> Registers:
        """The register map now. Raises EncodeError where the scenario asks for what the profile cannot say."""
        elapsed = self._clock.monotonic() - self._started
        values = values_at(self._scenario, self._device, elapsed, self._speed)
        return self._silent | self._profile.encode_registers(values, message=self._device.message)


class Delivery:
    """Counts fates of one device's messages and tells of the first refusal."""

    def __init__(self, device: str) -> None:
        self._device = device
        self.fates: dict[Fate, int] = dict.fromkeys(Fate, 0)

    def __call__(self, number: int, fate: Fate) -> None:
        """Take note of one message's end."""
        self.fates[fate] += 1
        if fate is not Fate.ACKED:
            level = logging.WARNING if self.fates[fate] == 1 else logging.DEBUG
            _log.log(level, "%s: message %d was %s", self._device, number, fate)
