"""The way of a frame through the gateway: identify, decode, normalise, recognise repeats, store; then the verdict.

Owns the order of the steps and which verdict each outcome gives; each step is a pure function of its own module. A
verdict is given only after the commit it reports. Never raises for what a device sent, nor for a defect of ours that it
brings to light: every frame ends in exactly one counter.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from citysense import wire
from citysense.crash_points import CrashPoints
from citysense.errors import StorageError
from citysense_gateway.counters import FrameCounters
from citysense_gateway.dead_letters import NO_VALUE, Quota, Seal, dead_letter, printable
from citysense_gateway.defects import DEFECTS, Defects
from citysense_gateway.devices import Device, Devices
from citysense_gateway.fingerprint import fingerprint
from citysense_gateway.frame import Done, Frame, Kind, Reason, Verdict
from citysense_gateway.identify import Rejection, contradiction, identify
from citysense_gateway.normalise import Pseudonym, normalise
from citysense_gateway.spool import Put, Spool, Stored
from citysense_profiles.errors import DecodeError
from citysense_profiles.reading import Decoded, ReadingClass
from citysense_profiles.vocabulary import Vocabulary

MAX_COUNTER = (1 << 53) - 1
"""Largest boot and seq: what JSON numbers carry exactly, and what fits the spool."""
_TURNS_UNTIL_ACK = 3
"""Turns of the event loop in which a door has sent the acknowledgement of a verdict: task done, settled, flushed."""
_AFTER_ACK = "door.after_ack"


_Reject = Callable[[Frame, Device | None, Rejection], Coroutine[Any, Any, Verdict]]


class Pipeline:
    """Where doors deliver; see `frame.FrameSink`."""

    def __init__(
        self,
        *,
        devices: Devices,
        spool: Spool,
        vocabulary: Vocabulary,
        pseudonym: Pseudonym,
        seal: Seal,
        counters: FrameCounters,
        crash: CrashPoints,
        quota: Quota | None = None,
    ) -> None:
        self._devices = devices
        self._spool = spool
        self._vocabulary = vocabulary
        self._pseudonym = pseudonym
        self._seal = seal
        self._counters = counters
        self._crash = crash
        self._quota = quota or Quota()
        self._defects = Defects()
        self._under_way: set[asyncio.Task[Verdict]] = set()

    def deliver(self, frame: Frame, done: Done, *, reason: Reason | None = None, detail: str = "") -> None:
        """See `frame.FrameSink`. What can be stored is so without a task; what cannot is rare and may cost more."""
        self._counters.came_in(frame.transport)
        if reason is None:
            self._take(frame, done, self._reject)
        else:
            why = Rejection(reason=reason, detail=detail)
            self._later(self._reject(frame, self._sender(frame), why), done)

    def _take(self, frame: Frame, done: Done, reject: _Reject) -> None:
        try:
            device = identify(frame, self._devices)
            usable = device if isinstance(device, Rejection) else self._read(frame, device)
        except DEFECTS as e:
            self._later(self._broke(frame, e), done)
            return
        if isinstance(device, Rejection):
            self._later(reject(frame, None, device), done)
        elif isinstance(usable, Rejection):
            self._later(reject(frame, device, usable), done)
        else:
            self._store(frame, device, *usable, done)

    async def accept(self, frame: Frame) -> Verdict:
        """Take one frame to its end and say which."""
        verdict: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self.deliver(frame, partial(_answer, verdict))
        return await verdict

    async def read_again(self, frame: Frame) -> Verdict:
        """`accept` for a frame that lies in the dead letters already: where it fails again, no second letter is kept."""
        self._counters.came_in(frame.transport)
        verdict: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self._take(frame, partial(_answer, verdict), self._reject_again)
        return await verdict

    async def refuse(self, frame: Frame, reason: Reason, detail: str) -> Verdict:
        """Keep a frame that the door itself had to refuse, and count it."""
        verdict: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self.deliver(frame, partial(_answer, verdict), reason=reason, detail=detail)
        return await verdict

    def _end(self, verdict: Verdict, done: Done) -> None:
        """The one end of every frame that has a verdict."""
        self._counters.ended(verdict)
        self._tell(verdict, done)
        if verdict.kind in (Kind.STORED, Kind.DUPLICATE) and self._crash.armed(_AFTER_ACK):
            _after_turns(asyncio.get_running_loop(), _TURNS_UNTIL_ACK, lambda: self._crash.at(_AFTER_ACK))

    def _tell(self, verdict: Verdict, done: Done) -> None:
        try:
            done(verdict)
        except DEFECTS as e:
            # A door's defect: its neighbours in the same commit wait for their verdicts too.
            self._defects.tell(e, may_quote=False)

    def _later(self, steps: Coroutine[Any, Any, Verdict], done: Done) -> None:
        """Tell `done` when `steps`, which count for themselves, have come to a verdict."""
        task = asyncio.get_running_loop().create_task(steps)
        self._under_way.add(task)

        def ended(task: asyncio.Task[Verdict]) -> None:
            self._under_way.discard(task)
            self._tell(Verdict(kind=Kind.UNAVAILABLE) if task.cancelled() else task.result(), done)

        task.add_done_callback(ended)

    def _store(
        self,
        frame: Frame,
        device: Device,
        decoded: Decoded,
        readings: dict[ReadingClass, wire.Readings],
        done: Done,
    ) -> None:
        """Have a usable frame stored; the verdict comes after the commit. `readings` may be empty: see `Kind.STORED`."""
        gaps = [metric for sample in decoded.samples for metric in sample.missing]
        letter = None
        if gaps and self._quota.take(frame):
            letter = self._gap_letter(frame, device, sorted(set(gaps)))

        def told(stored: Stored | BaseException) -> None:
            if isinstance(stored, Stored) and not gaps:
                kind = Kind.DUPLICATE if stored.duplicate else Kind.STORED
                self._end(Verdict(kind=kind, receipt=stored.receipt), done)
            else:
                self._ended_otherwise(frame, stored, letter, done)

        try:
            self._spool.put(
                Put(
                    device=device.id,
                    readings=readings,
                    fingerprint=fingerprint(frame, device.id, decoded),
                    received=frame.received_at,
                    beside=letter,
                    told=told,
                )
            )
        except DEFECTS as e:
            self._later(self._broke(frame, e), done)

    def _ended_otherwise(
        self, frame: Frame, stored: Stored | BaseException, letter: wire.DeadLetter | None, done: Done
    ) -> None:
        """What became of a frame that could not be stored, or that says "no value" somewhere."""
        new = isinstance(stored, Stored) and not stored.duplicate
        if letter is not None and not new:
            self._quota.give_back(frame)
        if isinstance(stored, StorageError):
            self._end(Verdict(kind=Kind.UNAVAILABLE, detail=str(stored)), done)
        elif not isinstance(stored, Stored):
            self._later(self._broke(frame, stored), done)
        else:
            if new:
                self._counters.add(NO_VALUE)
                if letter is None:
                    self._counters.add("dead_letters.over_quota")
            kind = Kind.STORED if new else Kind.DUPLICATE
            self._end(Verdict(kind=kind, receipt=stored.receipt), done)

    def _sender(self, frame: Frame) -> Device | None:
        return self._devices.get(frame.device) if frame.device is not None else None

    def _read(self, frame: Frame, device: Device) -> Rejection | tuple[Decoded, dict[ReadingClass, wire.Readings]]:
        """What the frame says, or why it cannot be used."""
        unknown = _no_such_message(frame, device)
        if unknown is not None:
            return unknown
        try:
            decoded = _decode(frame, device)
        except DecodeError as e:
            return _undecodable(e, device)
        mismatch = contradiction(device, decoded) or _uncountable(decoded)
        if mismatch is not None:
            return mismatch
        try:
            return decoded, normalise(frame, device, decoded, vocabulary=self._vocabulary, pseudonym=self._pseudonym)
        except UnicodeEncodeError:
            return Rejection(reason=Reason.UNDECODABLE, detail="value: the tag id holds what is no text")

    def _gap_letter(self, frame: Frame, device: Device, gaps: list[str]) -> wire.DeadLetter:
        """A trace of a frame that says "no value" for a metric: nothing is stored in its place, and somebody may want to
        know why the curve has a gap."""
        detail = f"the device reports no value for {', '.join(gaps)}; what else the frame holds is stored"
        return dead_letter(frame, reason=NO_VALUE, detail=detail, device=device, seal=self._seal)

    async def _reject_again(self, frame: Frame, device: Device | None, why: Rejection) -> Verdict:
        """The verdict on a frame that was refused before, and whose dead letter is there."""
        verdict = Verdict(kind=Kind.REJECTED, reason=why.reason, detail=printable(why.detail))
        self._counters.ended(verdict)
        return verdict

    async def _reject(self, frame: Frame, device: Device | None, why: Rejection) -> Verdict:
        """The verdict on a frame that cannot be used, after the commit of its dead letter."""
        detail = printable(why.detail)
        verdict = Verdict(kind=Kind.REJECTED, reason=why.reason, detail=detail)
        if not self._quota.take(frame):
            self._counters.add("dead_letters.over_quota")
        else:
            try:
                await self._spool.keep(
                    dead_letter(frame, reason=why.reason.value, detail=detail, device=device, seal=self._seal)
                )
            except StorageError as e:
                verdict = Verdict(kind=Kind.UNAVAILABLE, detail=str(e))
            except DEFECTS as e:
                return await self._broke(frame, e)
        self._counters.ended(verdict)
        return verdict

    async def _broke(self, frame: Frame, error: BaseException) -> Verdict:
        """The end of a frame on which our own code failed: counted, told and kept, to be read again after a mend.

        Once it is kept it is answered like any frame that cannot be used: a device that were asked to keep it would send
        it first for ever, and nothing behind it would come through.
        """
        self._counters.broke()
        device = self._sender(frame)
        where = self._defects.tell(error, may_quote=device is not None and not device.profile.personal)
        detail = f"a defect of the gateway stopped it ({where}); its log says more"
        verdict = Verdict(kind=Kind.UNAVAILABLE, detail=detail)
        if not self._quota.take(frame):
            self._counters.add("dead_letters.over_quota")
        else:
            try:
                letter = dead_letter(frame, reason=Reason.INTERNAL, detail=detail, device=device, seal=self._seal)
                await self._spool.keep(letter)
                verdict = Verdict(kind=Kind.REJECTED, reason=Reason.INTERNAL, detail=detail)
            except StorageError as e:
                verdict = Verdict(kind=Kind.UNAVAILABLE, detail=str(e))
            except DEFECTS as e:
                self._defects.tell(e, may_quote=False)
        return verdict


def _answer(waiting: asyncio.Future[Verdict], verdict: Verdict) -> None:
    if not waiting.done():  # whoever waited may have been cancelled
        waiting.set_result(verdict)


def _after_turns(loop: asyncio.AbstractEventLoop, turns: int, call: Callable[[], None]) -> None:
    if turns == 0:
        call()
    else:
        loop.call_soon(_after_turns, loop, turns - 1, call)


def _no_such_message(frame: Frame, device: Device) -> Rejection | None:
    """A rejection where the channel names a message that the profile lacks, that only goes down, or that is polled."""
    profile = device.profile
    if not frame.message or frame.registers is not None or profile.is_upward(frame.message):
        return None
    known = ", ".join(name for name in profile.messages if profile.is_upward(name)) or "none"
    detail = f"devices of profile {profile.id} send no message {frame.message!r}; known: {known}"
    return Rejection(reason=Reason.NO_SUCH_MESSAGE, detail=detail)


def _decode(frame: Frame, device: Device) -> Decoded:
    """Raises DecodeError only."""
    # A vendor's topic names no message; then the profile finds the one that fits.
    message = frame.message or None
    if frame.registers is not None:
        return device.profile.decode_registers(frame.registers, message=message, settings=device.settings)
    return device.profile.decode(frame.payload, message=message, content=frame.content, settings=device.settings)


def _undecodable(error: DecodeError, device: Device) -> Rejection:
    """Field and offset for a person; of a personal profile without the text, which may quote a value."""
    reason = Reason.NO_MATCH if error.code == "no_match" else Reason.UNDECODABLE
    if not device.profile.personal:
        return Rejection(reason=reason, detail=str(error))
    where = f"profile {error.profile}"
    for name, value in (("message", error.message), ("field", error.field), ("byte", error.offset)):
        where += "" if value is None else f", {name} {value}"
    return Rejection(reason=reason, detail=f"{error.code} ({where})")


def _uncountable(decoded: Decoded) -> Rejection | None:
    """A rejection where boot, seq or base is no number that can be counted with."""
    for name, value in (("boot", decoded.boot), ("seq", decoded.seq), ("base", decoded.base)):
        if value is not None and not 0 <= value <= MAX_COUNTER:
            return Rejection(reason=Reason.UNDECODABLE, detail=f"value: {name} must be 0 to {MAX_COUNTER}")
    return None
