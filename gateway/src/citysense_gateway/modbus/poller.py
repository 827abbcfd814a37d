"""The Modbus driver: which devices are polled, on which lines.

Owns the set of lines; every line polls on its own, so that none waits for another. Opens connections only to the hosts
of the endpoints it is given.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import Sequence

from citysense.clock import Clock
from citysense.progress import LIMIT_S, Progress
from citysense_gateway.frame import FrameSink
from citysense_gateway.mail import MailSource
from citysense_gateway.modbus.connection import CONNECT_TIMEOUT, Connection
from citysense_gateway.modbus.endpoint import LONGEST_TIMEOUT, Endpoint, EndpointError, Line, parse_endpoint
from citysense_gateway.modbus.errands import Mailing
from citysense_gateway.modbus.in_flight import InFlight
from citysense_gateway.modbus.line import LinePolling
from citysense_gateway.modbus.links import ModbusTls, silence_library, tls_context
from citysense_gateway.modbus.polled import ModbusCounters, PolledDevice, WritePlanner

__all__ = ["ModbusCounters", "ModbusPoller", "PolledDevice"]

_LOG = logging.getLogger(__name__)
REPLY_TIMEOUT = 0.75
"""Seconds that a slave has for its reply where its endpoint says nothing else. As a rule they answer within 0.1 s. It is
also the longest that one of them holds up its line: with 1 s, the other slaves' delays exceed 1 s at the 99th percentile."""
_STOP_GRACE = 5.0
"""Seconds that stop() waits for frames being stored."""


class ModbusPoller:
    """Polls the devices it is set, from start() to stop(), and hands them their mail.

    `random` spreads the polls. `progress` watches each line. `mail` and `plan_writes` go together; without them nothing is
    written. `tls` is for modbus+tls; the files are read by start(). Timeouts in seconds.
    """

    def __init__(
        self,
        *,
        sink: FrameSink,
        clock: Clock,
        random: random.Random,
        mail: MailSource | None = None,
        plan_writes: WritePlanner | None = None,
        tls: ModbusTls | None = None,
        reply_timeout: float = REPLY_TIMEOUT,
        connect_timeout: float = CONNECT_TIMEOUT,
        progress: Progress | None = None,
    ) -> None:
        self.counters = ModbusCounters()
        self._sink = sink
        self._clock = clock
        self._random = random
        self._mailing = Mailing(source=mail, plan=plan_writes) if mail is not None and plan_writes is not None else None
        self._tls = tls or ModbusTls()
        self._context: ssl.SSLContext | None = None
        self._reply_timeout = reply_timeout
        self._connect_timeout = connect_timeout
        self._progress = progress or Progress(clock)
        self._polls: dict[tuple[str, str | None], PolledDevice] = {}
        self._unserved: dict[str, str] = {}
        self._lines: dict[Line, tuple[LinePolling, asyncio.Task[None]]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._in_flight = InFlight()
        self._broken: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Begin to poll what was set, and what will be. Raises SetupError where a TLS file cannot be used."""
        silence_library()
        self._context = tls_context(self._tls)
        if self._mailing is not None:
            self._mailing.source.listen(self._mail_came)
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
        await self._in_flight.settle(_STOP_GRACE)
        # One turn of the loop closes the sockets.
        await asyncio.sleep(0)
        if not broken.done():
            broken.cancel()

    @property
    def polling(self) -> bool:
        """True from start() to stop(), while no line's polling has ended in a defect."""
        return self._broken is not None and not self._broken.done()

    async def watch(self) -> None:
        """Return when stopped; raise what broke a line's polling, which only a defect of ours can."""
        broken = self._broken
        if broken is not None:
            await asyncio.wait([broken])
            if not broken.cancelled():
                broken.result()

    def set_devices(self, devices: Sequence[PolledDevice]) -> None:
        """Poll exactly these from now on: new ones start, missing ones stop, changed ones change, others go on."""
        self._polls = {(device.id, device.message): device for device in devices}
        self._apply()

    def _mail_came(self, device: str) -> None:
        for polling, _ in self._lines.values():
            if any(known == device for known, _ in polling.polls()):
                polling.mail_for(device)

    def _apply(self) -> None:
        if self._broken is None:
            return
        wanted: dict[Line, list[tuple[PolledDevice, Endpoint]]] = {}
        unserved: dict[str, str] = {}
        for device in self._polls.values():
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
            for key in polling.polls() - {(device.id, device.message) for device, _ in members}:
                polling.remove(key)
            for device, endpoint in members:
                polling.put(device, endpoint.unit, endpoint.timeout)
        self.counters.devices = len({device_id for device_id, _ in self._polls})
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
        # A request takes as long as the slowest slave, and whatever else a turn does is done at once.
        pulse = self._progress.watch("modbus line", which=str(line), limit=LIMIT_S + LONGEST_TIMEOUT)
        polling = LinePolling(
            line,
            connect=lambda stray: Connection(
                line, tls=self._context, connect_timeout=self._connect_timeout, on_stray=stray
            ),
            sink=self._sink,
            mailing=self._mailing,
            clock=self._clock,
            chance=self._random,
            counters=self.counters,
            in_flight=self._in_flight,
            reply_timeout=self._reply_timeout,
            pulse=pulse,
        )
        task = asyncio.create_task(polling.run(), name=f"modbus line {line}")
        task.add_done_callback(self._ended)
        task.add_done_callback(lambda _: self._progress.forget(pulse))
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
    if not device.every > 0:
        return f"its period of {device.every:g} s is not above 0"
    if not device.plan:
        return f"message {device.message!r} of its profile has no registers to read"
    return endpoint
