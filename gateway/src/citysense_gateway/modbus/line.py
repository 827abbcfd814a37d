"""The work on one line: polls and writes of its devices one after another, over one connection.

Owns the line's loop and the requests. What comes next is the agenda's choice; what a poll brings goes to the sink as one
frame, and nothing here knows what it means.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable

from citysense.clock import Clock
from citysense.progress import Pulse
from citysense_gateway.frame import Frame, FrameSink, Identity, Kind, Transport, Verdict
from citysense_gateway.modbus.agenda import Agenda, Errand, Job, Poll, Repeat, Slave
from citysense_gateway.modbus.connection import Connection, ExchangeFailed, LineDown, Refused
from citysense_gateway.modbus.endpoint import Line
from citysense_gateway.modbus.errands import Mailing, Put, hand_over
from citysense_gateway.modbus.in_flight import InFlight
from citysense_gateway.modbus.links import is_rtu
from citysense_gateway.modbus.polled import ModbusCounters, PolledDevice
from citysense_gateway.modbus.resync import Request, Step
from citysense_gateway.modbus.schedule import pause_after
from citysense_gateway.modbus.trouble import Trouble
from citysense_profiles import Write

__all__ = ["LinePolling", "ModbusCounters", "PolledDevice"]

_LOG = logging.getLogger(__name__)
_RETRY_STORE = 5.0
"""Seconds after which a device is polled again whose frame could not be stored; CoAP devices are told the same."""
_RETRY_BUSY = 1.0
"""Seconds after which a device is told again that was busy."""
_MOST_PROOFS = 8
"""Reads in a row to find one whose answer proves the step; more than `resync.options` has odd ones."""


class LinePolling:
    """Works for the devices of one line until it is retired. Devices may come, go and change at any time.

    `connect` makes the line's connection, told who takes bytes that nobody asked for. `pulse` beats with each request, and
    rests while nothing is due.
    """

    def __init__(
        self,
        line: Line,
        *,
        connect: Callable[[Callable[[bytes], None]], Connection],
        sink: FrameSink,
        mailing: Mailing | None,
        clock: Clock,
        chance: random.Random,
        counters: ModbusCounters,
        in_flight: InFlight,
        reply_timeout: float,
        pulse: Pulse,
    ) -> None:
        self._line = line
        self._pulse = pulse
        self._rtu = is_rtu(line)
        self._connection = connect(self._stray)
        self._sink = sink
        self._mailing = mailing
        self._clock = clock
        self._chance = chance
        self._counters = counters
        self._in_flight = in_flight
        self._agenda = Agenda(tells_apart=not self._rtu, reply_timeout=reply_timeout, chance=chance)
        self._trouble = Trouble(str(line), devices=self._agenda.devices, counters=counters)
        self._changed = asyncio.Event()
        self._open_at = -math.inf
        self._asked = 0.0
        self._handing = False
        self._retired = False

    def put(self, device: PolledDevice, unit: int, timeout: float | None) -> None:
        """Add a poll, or go on with it as it is described now. `timeout` where the endpoint says one."""
        now = self._clock.monotonic()
        self._agenda.put(device, unit, timeout, now)
        self._trouble.recount()
        self.mail_for(device.id)
        self._changed.set()

    def remove(self, key: tuple[str, str | None]) -> None:
        """Stop a poll. One under way is not delivered."""
        self._agenda.remove(*key)
        self._trouble.recount()
        if key[0] not in self._agenda.devices():
            self._trouble.forget(key[0])
        self._changed.set()

    def polls(self) -> set[tuple[str, str | None]]:
        """Device and message of what is polled here."""
        return self._agenda.polls()

    def mail_for(self, device: str) -> None:
        """Something may wait for a device of this line."""
        if self._mailing is not None and self._mailing.source.waiting(device):
            self._agenda.mail_for(device, self._clock.monotonic())
            self._changed.set()

    def retire(self, task: asyncio.Task[None]) -> None:
        """End `task`, which runs this line: at once, or after the mail that is being handed over."""
        for key in self.polls():
            self.remove(key)
        self._retired = True
        if not self._handing:
            task.cancel()

    async def run(self) -> None:
        """Work until retired."""
        try:
            while not self._retired:
                self._pulse.beat()
                self._changed.clear()
                now = self._clock.monotonic()
                job, moment = self._agenda.choose(now)
                if self._open_at > now:
                    await self._wait(self._open_at - now)
                elif not self._connection.is_open and (job is not None or (self._rtu and self._agenda.devices())):
                    # An RTU line is open also while it waits: what comes late is then dropped, not kept for later.
                    await self._open()
                elif job is None:
                    await self._wait(moment - now)
                else:
                    await self._work(job)
        finally:
            self._pulse.rest()
            self._connection.close()

    async def _wait(self, seconds: float) -> None:
        self._pulse.rest()
        try:
            async with asyncio.timeout(None if math.isinf(seconds) else seconds):
                await self._changed.wait()
        except TimeoutError:
            # The next job is due.
            return

    async def _open(self) -> None:
        try:
            await self._connection.open()
        except LineDown as error:
            tries = self._trouble.down(str(error))
            self._open_at = self._clock.monotonic() + pause_after(tries, self._chance)
        else:
            self._trouble.up()

    async def _work(self, job: Job) -> None:
        began = self._clock.monotonic()
        try:
            if job.slave.step is not None and not job.slave.step.proven:
                # A turn of its own: a slow slave holds the line once, not twice.
                await self._prove(job.slave, job.slave.step)
            elif isinstance(job, Poll):
                await self._read(job, began)
            elif isinstance(job, Errand):
                await self._hand(job)
            elif isinstance(job, Repeat):
                await self._repeat(job)
        except ExchangeFailed as error:
            self._lost(job, error)

    async def _prove(self, slave: Slave, step: Step) -> None:
        """Get into step with the slave. Raises ExchangeFailed."""
        for _ in range(_MOST_PROOFS):
            read = step.next_read()
            if read is None:
                break
            self._counters.resyncs += 1
            try:
                await self._exchange(slave, read)
            except Refused as error:
                proven = step.answered(read, error.code)
            else:
                proven = step.answered(read)
            if proven:
                self._agenda.proved(slave, self._clock.monotonic())
                return
        raise ExchangeFailed(f"unit {slave.unit} refuses every read that would tell late replies apart")

    async def _exchange(self, slave: Slave, request: Request) -> tuple[int, ...]:
        """One request. Raises ExchangeFailed and Refused; a lost one is noted with the slave."""
        self._pulse.beat()
        self._asked = self._clock.monotonic()
        try:
            words = await self._connection.exchange(slave.unit, request, slave.timeout)
        except ExchangeFailed:
            if slave.step is not None:
                slave.step.lost(request)
            raise
        finally:
            now = self._clock.monotonic()
            self._agenda.took(slave, now - self._asked, now)
        if slave.step is not None:
            slave.step.served(request)
        return words

    async def _read(self, poll: Poll, began: float) -> None:
        """The poll's next read, and what there is to do after its last."""
        read = poll.polled.plan[poll.at]
        try:
            words = await self._exchange(poll.slave, read)
        except Refused as error:
            self._counters.refused_reads += 1
            poll.refused[f"{read.table} {read.address}"] = str(error)
        else:
            poll.registers.update({(read.table, read.address + at): word for at, word in enumerate(words)})
        if not self._agenda.has(poll):
            return
        now = self._clock.monotonic()
        self._agenda.answered(poll.slave)
        poll.spent += now - began
        poll.at += 1
        if poll.at >= len(poll.polled.plan):
            self._counters.polls += 1
            self._finish(poll, now)

    def _finish(self, poll: Poll, now: float) -> None:
        registers, refused = poll.registers, poll.refused
        self._agenda.finished(poll, now)
        if not registers:
            poll.refusals += 1
            poll.due = now + pause_after(poll.refusals, self._chance)
            told = ", ".join(f"{where}: {why}" for where, why in sorted(refused.items()))
            self._trouble.failed([poll.device], f"refuses every read: {told}")
            return
        poll.refusals = 0
        self._trouble.worked(poll.device)
        self._tell_refused(poll, refused)
        self._deliver(poll, registers)

    def _tell_refused(self, poll: Poll, refused: dict[str, str]) -> None:
        refusals = frozenset(f"{where}: {why}" for where, why in refused.items())
        if refusals != poll.told:
            poll.told = refusals
            told = ", ".join(sorted(refusals)) or "nothing any more"
            _LOG.warning("device %s on %s refuses: %s", poll.device, self._line, told)

    def _deliver(self, poll: Poll, registers: dict[tuple[str, int], int]) -> None:
        frame = Frame(
            transport=Transport.MODBUS,
            channel=poll.polled.endpoint,
            device=poll.device,
            identity=Identity.ENDPOINT,
            source=str(self._line),
            received_at=self._clock.now_ms(),
            registers=registers,
            message=poll.polled.message,
        )
        poll.storing = True
        self._in_flight.began()

        def done(verdict: Verdict) -> None:
            self._in_flight.ended()
            poll.storing = False
            if verdict.kind is Kind.UNAVAILABLE:
                self._counters.unstored += 1
                poll.due = self._clock.monotonic() + min(poll.every, _RETRY_STORE)
            self._changed.set()

        try:
            self._sink.deliver(frame, done)
        except BaseException:
            self._in_flight.ended()
            raise

    async def _hand(self, errand: Errand) -> None:
        """The device's most urgent mail."""
        assert self._mailing is not None

        async def write(request: Write) -> None:
            await self._exchange(errand.slave, request)

        self._handing = True
        try:
            handed = await hand_over(self._mailing, errand.device, write)
        finally:
            self._handing = False
        now = self._clock.monotonic()
        if handed.put is Put.NOTHING:
            self._agenda.no_mail(errand)
        elif handed.put is Put.LATER:
            errand.due = now + _RETRY_BUSY
        elif handed.put is Put.REFUSED:
            self._counters.refused_writes += 1
        elif handed.mail is not None and handed.plan is not None:
            self._counters.written += 1
            if not handed.mail.once:
                self._agenda.repeat(errand, handed.mail.message, handed.plan, now)

    async def _repeat(self, repeat: Repeat) -> None:
        """What the device was told, again. What it refuses is not said a third time."""
        try:
            for request in repeat.plan.writes:
                await self._exchange(repeat.slave, request)
        except Refused as error:
            self._agenda.drop_repeat(repeat)
            _LOG.warning("device %s on %s refuses %s: %s", repeat.device, self._line, repeat.message, error)
        repeat.due = self._clock.monotonic() + repeat.every

    def _lost(self, job: Job, error: ExchangeFailed) -> None:
        now = self._clock.monotonic()
        self._counters.polls += isinstance(job, Poll)
        self._agenda.lost(job, asked=self._asked, now=now, damaged=error.damaged)
        # Noise spoils a reply now and then; it is a trouble when the next one fails too.
        spoilt_once = error.damaged and job.slave.failures == 1
        self._trouble.failed([] if spoilt_once else self._agenda.devices(job.slave), str(error))

    def _stray(self, data: bytes) -> None:
        """Bytes that nobody asked for. If a slave sent them, its replies may be one behind from now on."""
        slave = self._agenda.slave_of(data[0])
        if slave is not None and slave.step is not None:
            slave.step.doubt()
