"""The frame: what a front door or driver hands on, and what it is told to answer.

Owns the vocabulary between the doors (MQTT, CoAP, Modbus) and the pipeline behind them. A door knows nothing of
meaning: it delivers a `Frame` to a `FrameSink` and turns the `Verdict` into its protocol's reply. Nothing here does I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Protocol

import msgspec


class Transport(StrEnum):
    """The way a frame came in."""

    MQTT = "mqtt"
    COAP = "coap"
    MODBUS = "modbus"

    # As in `ReadingClass`.
    __hash__ = str.__hash__


class Identity(StrEnum):
    """How sure we are who sent a frame."""

    CREDENTIAL = "credential"
    """The channel was opened with the device's own credential."""
    ENDPOINT = "endpoint"
    """We opened the channel ourselves, to the address registered for the device."""
    ASSERTED = "asserted"
    """The sender only claims it: plain CoAP on loopback or with --insecure."""
    CONCENTRATOR = "concentrator"
    """A concentrator proved who it is and speaks for a device that is registered behind it."""
    BROKER = "broker"
    """The city's own broker names the device, and was shown to keep devices apart."""


class Frame(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Raw input of one device at one moment, before anybody knows what it means.

    `device` is the id that the channel speaks for; None where the channel names none. `channel` is the MQTT topic, the
    CoAP path or the Modbus endpoint. `message` names the profile's message where the channel says it (`up/{message}`).
    `registers` maps (table, address) to words of 16 bits for Modbus; then `payload` is empty. `content` is the CoAP
    content format. `delivery` tells repeats of a frame without a time or sequence apart: it is set only where the
    protocol itself vouches for "this is the same message again" (session and packet id with DUP, or CoAP message id).
    `via` is the concentrator that spoke for `device`, where it was one. Times are milliseconds since 1970 UTC.
    """

    transport: Transport
    channel: str
    device: str | None
    identity: Identity
    source: str
    received_at: int
    payload: bytes = b""
    registers: Mapping[tuple[str, int], int] | None = None
    message: str | None = None
    content: int | None = None
    delivery: bytes | None = None
    via: str | None = None


class Kind(StrEnum):
    """What became of a frame. Every frame ends in exactly one of these."""

    STORED = "stored"
    """What was usable is committed. A frame may hold no value at all (`"v": {}`): then no record is made, and its
    counter is remembered all the same, so that the device's receipt goes on."""
    DUPLICATE = "duplicate"
    """Committed before; answered as the first time."""
    REJECTED = "rejected"
    """Not usable; kept in the dead letters, which are committed too."""
    UNAVAILABLE = "unavailable"
    """Nothing could be stored, not even in the reserve: the device must keep the reading."""

    # As in `ReadingClass`.
    __hash__ = str.__hash__


class Reason(StrEnum):
    """Why a frame was rejected; the stable word that counters, dead letters and replies share."""

    UNKNOWN_DEVICE = "unknown_device"
    BAD_CREDENTIAL = "bad_credential"
    FOREIGN_TOPIC = "foreign_topic"
    NO_SUCH_MESSAGE = "no_such_message"
    """The path or topic names a message that devices of this profile do not send."""
    NO_MATCH = "no_match"
    """No message of the device's profile fits the frame."""
    UNDECODABLE = "undecodable"
    """A message matched, then a field did not: truncated, wrong check sum, wrong shape."""
    IDENTITY_MISMATCH = "identity_mismatch"
    """The payload names another device than the channel."""
    TOO_LARGE = "too_large"
    INTERNAL = "internal"
    """A defect of ours stopped it; it is kept whole, to be read again after a mend."""


class Receipt(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Highest contiguous sequence number of a boot that is durable (docs/native.md, "What the device keeps")."""

    boot: int
    seq: int


class Verdict(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The pipeline's answer to one frame, given only after the commit it reports.

    `reason` and `detail` are set for REJECTED; `detail` names field and offset for a person. `receipt` is set for
    native frames with (boot, seq), also for duplicates.
    """

    kind: Kind
    reason: Reason | None = None
    detail: str = ""
    receipt: Receipt | None = None


Done = Callable[[Verdict], None]
"""Told the verdict on one frame, once, in the event loop. Must not raise."""


class FrameSink(Protocol):
    """Where doors deliver. Returns after the commit; never raises for what a device sent."""

    def deliver(self, frame: Frame, done: Done, *, reason: Reason | None = None, detail: str = "") -> None:
        """Take one frame to its end and tell `done`, without a task of its own: the way for many frames a second.

        `done` is never called from within this call. With `reason` the frame is refused for it, as in `refuse`. Verdicts
        of one commit are told in one turn of the loop, in the order in which their frames were delivered; beyond that
        the order is not promised.
        """
        ...

    async def accept(self, frame: Frame) -> Verdict:
        """Take one frame to its end and say which."""
        ...

    async def refuse(self, frame: Frame, reason: Reason, detail: str) -> Verdict:
        """Keep a frame that the door itself had to refuse (foreign topic, bad credential) and count it."""
        ...


class PasswordCheck(Protocol):
    """Answers whether a device's password is right, from memory, in microseconds."""

    def __call__(self, device: str, secret: bytes) -> bool:
        """True only for a registered, unrevoked device whose password this is."""
        ...
