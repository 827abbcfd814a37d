"""What a session tells its connection to do, and the codes by which peers hear why.

Owns the vocabulary between decision and socket, and the tables from our reasons to MQTT's codes. Decides nothing about
a packet.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

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
    TAKEN_OVER = "taken_over"
    REVOKED = "revoked"
    STORAGE_UNAVAILABLE = "storage_unavailable"
    SLOW_READER = "slow_reader"
    TOO_MANY_CONNECTIONS = "too_many_connections"
    TOO_MANY_STRANGERS = "too_many_strangers"
    """Of one address, before CONNECT was accepted."""
    SHUTTING_DOWN = "shutting_down"


@dataclass(frozen=True, slots=True)
class Opened:
    """The device proved who it is. An older session of the same device and client id ends before CONNACK goes out.

    `with_will`: it left a will, which nobody publishes.
    """

    device: str
    client_id: str
    with_will: bool = False


@dataclass(frozen=True, slots=True)
class Close:
    """End the connection after what was sent before; nothing may follow."""

    reason: CloseReason | Fault


class Delivery:
    """One frame on its way through the pipeline, and the place of its answer in the order of answers.

    With `reason` the pipeline is told to refuse the frame for it instead of judging it itself.
    """

    __slots__ = ("detail", "frame", "packet_id", "reason", "verdict")

    def __init__(self, frame: Frame, packet_id: int | None = None, *, reason: Reason | None = None, detail: str = ""):
        self.frame = frame
        self.packet_id = packet_id
        self.reason = reason
        self.detail = detail
        self.verdict: Verdict | None = None


Action = bytes | Delivery | Opened | Close
"""bytes are written to the peer as they are."""

QUOTA_EXCEEDED = 0x97
_FAULT_CODES = {
    Fault.TOO_LARGE: 0x95,
    Fault.TOO_MANY_FILTERS: QUOTA_EXCEEDED,
    Fault.BAD_TOPIC: 0x90,
    Fault.TOPIC_ALIAS: 0x94,
    Fault.SUBSCRIPTION_ID: 0xA1,
    Fault.QOS_NOT_SUPPORTED: 0x9B,
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
}


def disconnect_code(reason: CloseReason | Fault) -> int | None:
    """Reason code of the DISCONNECT that MQTT 5 sends on ending; None where it ends without one."""
    if isinstance(reason, Fault):
        return _FAULT_CODES.get(reason, _MALFORMED)
    return _CLOSE_CODES.get(reason)


def puback_code(version: Version, verdict: Verdict) -> int | None:
    """Reason code of the PUBACK for a verdict; None: no PUBACK, the connection is closed.

    MQTT 3.1.1 has one answer only, so what is kept in the dead letters is acknowledged and what could not be kept at
    all is answered by closing.
    """
    if verdict.kind is Kind.UNAVAILABLE:
        return QUOTA_EXCEEDED if version is Version.V5 else None
    if verdict.kind is Kind.REJECTED and version is Version.V5:
        return _REJECT_CODES[verdict.reason] if verdict.reason else 0x83
    return 0
