"""The way of a frame through the gateway: identify, decode, normalise, recognise repeats, store; then the verdict.

Owns the order of the steps and which verdict each outcome gives; each step is a pure function of its own module. A
verdict is given only after the commit it reports. Never raises for what a device sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from citysense import wire
from citysense.crash_points import CrashPoints
from citysense.errors import StorageError
from citysense_gateway.counters import FrameCounters
from citysense_gateway.dead_letters import NO_VALUE, Quota, Seal, dead_letter, printable
from citysense_gateway.devices import Device, Devices
from citysense_gateway.fingerprint import fingerprint
from citysense_gateway.frame import Frame, Kind, Reason, Verdict
from citysense_gateway.identify import Rejection, contradiction, identify
from citysense_gateway.normalise import Pseudonym, normalise
from citysense_gateway.spool import Spool
from citysense_profiles.errors import DecodeError
from citysense_profiles.reading import Decoded, ReadingClass
from citysense_profiles.vocabulary import Vocabulary

MAX_COUNTER = (1 << 53) - 1
"""Largest boot and seq: what JSON numbers carry exactly, and what fits the spool."""
_TURNS_UNTIL_ACK = 3
"""Turns of the event loop in which a door has sent the acknowledgement of a verdict: task done, settled, flushed."""


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

    async def accept(self, frame: Frame) -> Verdict:
        """Take one frame to its end and say which."""
        self._counters.came_in(frame.transport)
        device = identify(frame, self._devices)
        if isinstance(device, Rejection):
            return self._ended(await self._reject(frame, None, device))
        usable = self._read(frame, device)
        if isinstance(usable, Rejection):
            return self._ended(await self._reject(frame, device, usable))
        decoded, readings = usable
        try:
            stored = await self._spool.store(
                device.id,
                readings,
                fingerprint(frame, device.id, decoded),
                received=frame.received_at,
                beside=self._without_value(frame, device, decoded),
            )
        except StorageError as e:
            return self._ended(Verdict(kind=Kind.UNAVAILABLE, detail=str(e)))
        kind = Kind.DUPLICATE if stored.duplicate else Kind.STORED
        return self._ended(Verdict(kind=kind, receipt=stored.receipt))

    async def refuse(self, frame: Frame, reason: Reason, detail: str) -> Verdict:
        """Keep a frame that the door itself had to refuse, and count it."""
        self._counters.came_in(frame.transport)
        device = self._devices.get(frame.device) if frame.device is not None else None
        return self._ended(await self._reject(frame, device, Rejection(reason=reason, detail=detail)))

    def _read(self, frame: Frame, device: Device) -> Rejection | tuple[Decoded, dict[ReadingClass, wire.Readings]]:
        """What the frame says, or why it cannot be used."""
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

    def _without_value(self, frame: Frame, device: Device, decoded: Decoded) -> wire.DeadLetter | None:
        """A trace of a frame that says "no value" for a metric: nothing is stored in its place, and somebody may want to
        know why the curve has a gap."""
        missing = sorted({metric for sample in decoded.samples for metric in sample.missing})
        if not missing or not self._quota.take(frame):
            return None
        self._counters.add("no_value")
        detail = f"the device reports no value for {', '.join(missing)}; what else the frame holds is stored"
        return dead_letter(frame, reason=NO_VALUE, detail=detail, device=device, seal=self._seal)

    async def _reject(self, frame: Frame, device: Device | None, why: Rejection) -> Verdict:
        """The verdict on a frame that cannot be used, after the commit of its dead letter."""
        detail = printable(why.detail)
        verdict = Verdict(kind=Kind.REJECTED, reason=why.reason, detail=detail)
        if not self._quota.take(frame):
            self._counters.add("dead_letters.over_quota")
            return verdict
        letter = dead_letter(frame, reason=why.reason.value, detail=detail, device=device, seal=self._seal)
        try:
            await self._spool.keep(letter)
        except StorageError as e:
            return Verdict(kind=Kind.UNAVAILABLE, detail=str(e))
        return verdict

    def _ended(self, verdict: Verdict) -> Verdict:
        self._counters.ended(verdict)
        if verdict.kind in (Kind.STORED, Kind.DUPLICATE):
            _after_turns(asyncio.get_running_loop(), _TURNS_UNTIL_ACK, lambda: self._crash.at("door.after_ack"))
        return verdict


def _after_turns(loop: asyncio.AbstractEventLoop, turns: int, call: Callable[[], None]) -> None:
    if turns == 0:
        call()
    else:
        loop.call_soon(_after_turns, loop, turns - 1, call)


def _decode(frame: Frame, device: Device) -> Decoded:
    """Raises DecodeError only."""
    # A vendor's topic names no message; then the profile finds the one that fits.
    message = frame.message or None
    if frame.registers is not None:
        return device.profile.decode_registers(frame.registers, message=message, settings=device.settings)
    if message is not None and message in device.profile.messages and not device.profile.is_upward(message):
        text = f"{message!r} is not sent by devices of this profile"
        raise DecodeError("no_match", text, profile=device.profile.id, message=message)
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
