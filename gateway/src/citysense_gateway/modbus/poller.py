"""The Modbus driver: which devices are polled, on which lines.

Owns the set of lines; every line polls on its own, so that none waits for another. Opens connections only to the hosts
of the endpoints it is given.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence

from citysense.clock import Clock
from citysense_gateway.frame import FrameSink
from citysense_gateway.modbus.connection import LATE_REPLY, REPLY_TIMEOUT, Connection, silence_library
from citysense_gateway.modbus.endpoint import Endpoint, EndpointError, Line, Link, parse_endpoint
from citysense_gateway.modbus.line import LinePolling, ModbusCounters, PolledDevice

__all__ = ["ModbusCounters", "ModbusPoller", "PolledDevice"]

_LOG = logging.getLogger(__name__)
_SERVED = (Link.TCP, Link.RTU_TCP)
_STOP_GRACE = 5.0
"""Seconds that stop() waits for frames being stored."""


class ModbusPoller:
    """Polls the devices it is set, from start() to stop().

    `random` spreads the polls. `reply_timeout` and `late_reply` in seconds, see `connection`.
    """

    def __init__(
        self,
        *,
        sink: FrameSink,
        clock: Clock,
        random: random.Random,
        reply_timeout: float = REPLY_TIMEOUT,
        late_reply: float = LATE_REPLY,
    ) -> None:
        self.counters = ModbusCounters()
        self._sink = sink
        self._clock = clock
        self._random = random
        self._reply_timeout = reply_timeout
        self._late_reply = late_reply
        self._devices: dict[str, PolledDevice] = {}
        self._unserved: dict[str, str] = {}
        self._lines: dict[Line, tuple[LinePolling, asyncio.Task[None]]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._broken: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Begin to poll what was set, and what will be."""
        silence_library()
        self._broken = asyncio.get_running_loop().create_future()
        self._apply()

    async def stop(self) -> None:
        """Stop polling and hang up; frames being stored are waited for a little."""
        broken, self._broken = self._broken, None
        if broken is None:
            return
        for line in tuple(self._lines):
            self._retire(line)
        if self._ending:
            _, late = await asyncio.wait(self._ending, timeout=_STOP_GRACE)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        # One turn of the loop closes the sockets.
        await asyncio.sleep(0)
        if not broken.done():
            broken.cancel()

    async def watch(self) -> None:
        """Return when stopped; raise what broke a line's polling, which only a defect of ours can."""
        broken = self._broken
        if broken is not None:
            await asyncio.wait([broken])
            if not broken.cancelled():
                broken.result()

    def set_devices(self, devices: Sequence[PolledDevice]) -> None:
        """Poll exactly these from now on: new ones start, missing ones stop, changed ones change, others go on."""
        self._devices = {device.id: device for device in devices}
        self._apply()

    def _apply(self) -> None:
        if self._broken is None:
            return
        wanted: dict[Line, list[tuple[PolledDevice, Endpoint]]] = {}
        unserved: dict[str, str] = {}
        for device in self._devices.values():
            endpoint = _served(device)
            if isinstance(endpoint, str):
                unserved[device.id] = endpoint
            else:
                wanted.setdefault(endpoint.line, []).append((device, endpoint))
        self._tell_unserved(unserved)
        for line in set(self._lines) - set(wanted):
            self._retire(line)
        for line, members in wanted.items():
            polling = self._polling(line)
            for device_id in polling.ids() - {device.id for device, _ in members}:
                polling.remove(device_id)
            for device, endpoint in members:
                polling.put(device, endpoint.unit)
        self.counters.devices = len(self._devices)
        self.counters.unserved = len(unserved)

    def _tell_unserved(self, unserved: dict[str, str]) -> None:
        for device_id, sentence in unserved.items():
            if self._unserved.get(device_id) != sentence:
                _LOG.warning("device %s is not polled: %s", device_id, sentence)
        self._unserved = unserved

    def _polling(self, line: Line) -> LinePolling:
        known = self._lines.get(line)
        if known is not None:
            return known[0]
        connection = Connection(line, reply_timeout=self._reply_timeout, late_reply=self._late_reply)
        polling = LinePolling(
            line,
            connection=connection,
            sink=self._sink,
            clock=self._clock,
            chance=self._random,
            counters=self.counters,
        )
        task = asyncio.create_task(polling.run(), name=f"modbus line {line}")
        task.add_done_callback(self._ended)
        self._lines[line] = (polling, task)
        return polling

    def _retire(self, line: Line) -> None:
        polling, task = self._lines.pop(line)
        self._ending.add(task)
        polling.retire(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._ending.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and self._broken is not None and not self._broken.done():
            self._broken.set_exception(error)
        elif error is not None:
            _LOG.error("the polling of a line ended in a defect", exc_info=error)


def _served(device: PolledDevice) -> Endpoint | str:
    """Where the device is polled, or the sentence why it is not."""
    try:
        endpoint = parse_endpoint(device.endpoint)
    except EndpointError as error:
        return str(error)
    if endpoint.line.link not in _SERVED:
        return (
            f"endpoint {device.endpoint!r}: {endpoint.line.link} is not yet served by this version; "
            f"use {' or '.join(_SERVED)}"
        )
    if not device.every > 0:
        return f"its period of {device.every:g} s is not above 0"
    if not device.plan:
        return f"message {device.message!r} of its profile has no registers to read"
    return endpoint
