"""Packets of MQTT 3.1.1 and 5.0, as a server meets them: what clients send as values, what it sends as bytes.

Owns the packet types and the encoders. `parser` reads; nothing here has an opinion on who may do what.
"""

from __future__ import annotations

from enum import IntEnum

import msgspec

from citysense_gateway.mqtt.fields import encode_text, encode_varint
from citysense_gateway.mqtt.properties import NO_PROPERTIES, Properties, Property, encode_properties


class Version(IntEnum):
    """Protocol level as in CONNECT."""

    V3_1_1 = 4
    V5 = 5


class Will(msgspec.Struct, frozen=True, kw_only=True):
    """The message a client asks us to publish when its connection breaks."""

    topic: str
    payload: bytes
    qos: int
    retain: bool


class Connect(msgspec.Struct, frozen=True, kw_only=True):
    """CONNECT. `keep_alive` is in seconds, 0 for none."""

    version: Version
    client_id: str
    clean_start: bool
    keep_alive: int
    username: str | None = None
    password: bytes | None = None
    will: Will | None = None
    properties: Properties = NO_PROPERTIES

    def __repr__(self) -> str:
        # A packet may end up in a log or an assertion; its password must not.
        return f"Connect(version={self.version!r}, client_id={self.client_id!r}, username={self.username!r})"


class Publish(msgspec.Struct, frozen=True, kw_only=True):
    """PUBLISH. `packet_id` is None exactly for QoS 0."""

    topic: str
    payload: bytes
    qos: int
    dup: bool
    retain: bool
    packet_id: int | None
    properties: Properties = NO_PROPERTIES


class Puback(msgspec.Struct, frozen=True, kw_only=True):
    """PUBACK; `reason` is 0 in MQTT 3.1.1."""

    packet_id: int
    reason: int = 0


class Subscribe(msgspec.Struct, frozen=True, kw_only=True):
    """SUBSCRIBE: at least one (filter, highest QoS wanted), in the order of the packet."""

    packet_id: int
    filters: tuple[tuple[str, int], ...]
    properties: Properties = NO_PROPERTIES


class Unsubscribe(msgspec.Struct, frozen=True, kw_only=True):
    """UNSUBSCRIBE: at least one filter, in the order of the packet."""

    packet_id: int
    filters: tuple[str, ...]


class Pingreq(msgspec.Struct, frozen=True):
    """PINGREQ."""


class Disconnect(msgspec.Struct, frozen=True, kw_only=True):
    """DISCONNECT; `reason` is 0 in MQTT 3.1.1."""

    reason: int = 0


Packet = Connect | Publish | Puback | Subscribe | Unsubscribe | Pingreq | Disconnect

PINGRESP = b"\xd0\x00"


def _packet(first: int, body: bytes) -> bytes:
    return bytes((first,)) + encode_varint(len(body)) + body


def encode_connack(version: Version, reason: int, *, properties: Properties = NO_PROPERTIES) -> bytes:
    """CONNACK without a present session; `reason` is the return code in MQTT 3.1.1, where properties do not exist."""
    body = bytes((0, reason))
    return _packet(0x20, body + encode_properties(properties) if version is Version.V5 else body)


def encode_puback(version: Version, packet_id: int, reason: int = 0, *, reason_string: str = "") -> bytes:
    """PUBACK; MQTT 3.1.1 has neither reason nor reason string, so both are left out there."""
    number = packet_id.to_bytes(2, "big")
    if not reason or version is Version.V3_1_1:
        return b"\x40\x02" + number
    if not reason_string:
        return b"\x40\x03" + number + bytes((reason,))
    return _packet(0x40, number + bytes((reason,)) + encode_properties({Property.REASON_STRING: reason_string}))


def encode_suback(version: Version, packet_id: int, codes: bytes) -> bytes:
    """SUBACK with one code per filter, in the order of SUBSCRIBE."""
    return _packet(0x90, packet_id.to_bytes(2, "big") + (b"\x00" if version is Version.V5 else b"") + codes)


def encode_unsuback(version: Version, packet_id: int, codes: bytes) -> bytes:
    """UNSUBACK; the codes, one per filter, exist only in MQTT 5."""
    return _packet(0xB0, packet_id.to_bytes(2, "big") + (b"\x00" + codes if version is Version.V5 else b""))


def encode_publish(version: Version, topic: str, payload: bytes) -> bytes:
    """PUBLISH with QoS 0, not retained."""
    return _packet(0x30, encode_text(topic) + (b"\x00" if version is Version.V5 else b"") + payload)


def encode_disconnect(reason: int) -> bytes:
    """DISCONNECT from the server, which exists only in MQTT 5."""
    return b"\xe0\x01" + bytes((reason,))
