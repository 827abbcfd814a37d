"""What a session tells its connection to do, and the codes by which peers hear why.

Owns the vocabulary between decision and socket, and the tables from our reasons to MQTT's codes. Decides nothing about
a packet.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Protocol

from citysense_gateway.frame import Frame, Kind, Reason, Verdict
from citysense_gateway.mqtt.fields import Fault
from citysense_gateway.mqtt.packets import Version


class CloseReason(StrEnum):
    """Why a connection ended, where the peer broke no rule of the protocol (for that see `Fault`)."""

    CLIENT_DISCONNECT = "client_disconnect"
    PEER_LOST = "peer_lost"
    CONNECT_REFUSED = "connect_refused"
    CONNECT_TIMEOUT = "connect_timeout"
    PACKET_TIMEOUT = "packet_timeout"
    KEEP_ALIVE = "keep_alive"
    BUSY = "busy"
    """More devices connect than are let in at a time."""
    TAKEN_OVER = "taken_over"
    TOO_MANY_SESSIONS = "too_many_sessions"
    """Of one device, under other client ids."""
    WITH_WILL = "client_disconnect_with_will"
    """DISCONNECT with another reason than 0x00: the will is to be published."""
    REVOKED = "revoked"
    STORAGE_UNAVAILABLE = "storage_unavailable"
    SLOW_READER = "slow_reader"
    TOO_MANY_CONNECTIONS = "too_many_connections"
    TOO_MANY_STRANGERS = "too_many_strangers"
    """Of one address, before CONNECT was accepted."""
    SHUTTING_DOWN = "shutting_down"
    SHUTTING_DOWN_BEFORE_CONNECT = "shutting_down_before_connect"
    HANDSHAKE_FAILED = "handshake_failed"
    """TLS did not come about."""


class Signal(Enum):
    """What the connection tells the door."""

    PROVEN = "the device proved who it is"
    OPENED = "the device has a session now: who has lost it hangs up before anything more goes out"
    ATTEND = "there may be mail to send, or to report on"


@dataclass(frozen=True, slots=True)
class Close:
    """End the connection after what was sent before; nothing may follow."""

    reason: CloseReason | Fault


class Settler(Protocol):
    """Whoever waits for the verdict on a delivery."""

    def settled(self, delivery: Delivery, verdict: Verdict) -> None:
        """Called once, in the event loop."""
        ...


class Delivery:
    """One frame on its way through the pipeline, and the place of its answer in the order of answers.

    With `reason` the pipeline is told to refuse the frame for it instead of judging it itself. Without a frame it only
    waits for the verdict on another one: a repeat of a QoS 2 message. `digest` stands for what a QoS 2 message says.
    """

    __slots__ = ("detail", "digest", "follower", "frame", "packet_id", "qos", "reason", "settler", "verdict")

    def __init__(
        self,
        frame: Frame | None,
        packet_id: int | None = None,
        qos: int = 0,
        *,
        reason: Reason | None = None,
        detail: str = "",
        digest: bytes = b"",
    ):
        self.frame = frame
        self.packet_id = packet_id
        self.qos = qos
        self.reason = reason
        self.detail = detail
        self.digest = digest
        self.verdict: Verdict | None = None
        self.follower: Delivery | None = None
        self.settler: Settler | None = None

    @property
    def size(self) -> int:
        """Bytes of payload that it holds."""
        return 0 if self.frame is None else len(self.frame.payload)

    def told(self, verdict: Verdict) -> None:
        """What the pipeline calls."""
        if self.settler is not None:
            self.settler.settled(self, verdict)
        if self.follower is not None:
            self.follower.told(verdict)


Action = bytes | Delivery | Signal | Close
"""bytes are written to the peer as they are."""

QUOTA_EXCEEDED = 0x97
_FAULT_CODES = {
    Fault.TOO_LARGE: 0x95,
    Fault.TOO_MANY_FILTERS: QUOTA_EXCEEDED,
    Fault.BAD_TOPIC: 0x90,
    Fault.TOPIC_ALIAS: 0x94,
    Fault.SUBSCRIPTION_ID: 0xA1,
    Fault.RETAIN_NOT_SUPPORTED: 0x9A,
    Fault.RECEIVE_MAXIMUM: 0x93,
    Fault.BAD_PROPERTY: 0x82,
    Fault.UNEXPECTED_PACKET: 0x82,
    Fault.BAD_FILTER: 0x82,
}
# What is missing here is a malformed packet.
_MALFORMED = 0x81
_CLOSE_CODES = {
    CloseReason.PACKET_TIMEOUT: _MALFORMED,
    CloseReason.KEEP_ALIVE: 0x8D,
    CloseReason.TAKEN_OVER: 0x8E,
    CloseReason.TOO_MANY_SESSIONS: QUOTA_EXCEEDED,
    CloseReason.REVOKED: 0x98,
    CloseReason.SHUTTING_DOWN: 0x8B,
}
_REJECT_CODES = {
    Reason.UNKNOWN_DEVICE: 0x87,
    Reason.BAD_CREDENTIAL: 0x87,
    Reason.FOREIGN_TOPIC: 0x87,
    Reason.IDENTITY_MISMATCH: 0x87,
    Reason.NO_SUCH_MESSAGE: 0x99,
    Reason.NO_MATCH: 0x99,
    Reason.UNDECODABLE: 0x99,
    Reason.TOO_LARGE: 0x99,
    Reason.INTERNAL: 0x83,
}


def disconnect_code(reason: CloseReason | Fault) -> int | None:
    """Reason code of the DISCONNECT that MQTT 5 sends on ending; None where it ends without one."""
    if isinstance(reason, Fault):
        return _FAULT_CODES.get(reason, _MALFORMED)
    return _CLOSE_CODES.get(reason)


def publish_code(version: Version, verdict: Verdict) -> int | None:
    """Reason code of the PUBACK or PUBREC for a verdict; None: none is sent, the connection is closed.

    MQTT 3.1.1 has one answer only, so what is kept in the dead letters is acknowledged and what could not be kept at
    all is answered by closing.
    """
    if verdict.kind is Kind.UNAVAILABLE:
        return QUOTA_EXCEEDED if version is Version.V5 else None
    if verdict.kind is Kind.REJECTED and version is Version.V5:
        return _REJECT_CODES[verdict.reason] if verdict.reason else 0x83
    return 0
