"""Packets of MQTT 3.1.1 and 5.0, as a server meets them: what clients send as values, what it sends as bytes.

Owns the packet types and the encoders. `parser` reads; nothing here has an opinion on who may do what.
"""

from __future__ import annotations

from enum import IntEnum

import msgspec

from citysense_gateway.mqtt.fields import encode_text, encode_varint
from citysense_gateway.mqtt.properties import NO_PROPERTIES, Pairs, Properties, Property, encode_properties


class Version(IntEnum):
    """Protocol level as in CONNECT."""

    V3_1_1 = 4
    V5 = 5


class Will(msgspec.Struct, frozen=True, kw_only=True):
    """The message a client asks us to publish when its connection breaks, `delay` seconds after that (MQTT 5)."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    delay: int = 0


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


class Pubrel(msgspec.Struct, frozen=True, kw_only=True):
    """PUBREL; `reason` is 0 in MQTT 3.1.1."""

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
    """DISCONNECT; `reason` is 0 in MQTT 3.1.1. `session_expiry` in seconds, None where it stays what CONNECT said."""

    reason: int = 0
    session_expiry: int | None = None


Packet = Connect | Publish | Puback | Pubrel | Subscribe | Unsubscribe | Pingreq | Disconnect

PINGRESP = b"\xd0\x00"


def _packet(first: int, body: bytes) -> bytes:
    return bytes((first,)) + encode_varint(len(body)) + body


def encode_connack(
    version: Version,
    reason: int,
    *,
    present: bool = False,
    properties: Properties = NO_PROPERTIES,
    pairs: Pairs = (),
) -> bytes:
    """CONNACK; `reason` is the return code in MQTT 3.1.1, where properties and `pairs` (user properties) do not exist."""
    body = bytes((present, reason))
    return _packet(0x20, body + encode_properties(properties, pairs) if version is Version.V5 else body)


def encode_puback(version: Version, packet_id: int, reason: int = 0, *, reason_string: str = "") -> bytes:
    """PUBACK; MQTT 3.1.1 has neither reason nor reason string, so both are left out there."""
    return _acknowledge(0x40, version, packet_id, reason, reason_string)


def encode_pubrec(version: Version, packet_id: int, reason: int = 0, *, reason_string: str = "") -> bytes:
    """PUBREC; as PUBACK."""
    return _acknowledge(0x50, version, packet_id, reason, reason_string)


def encode_pubcomp(version: Version, packet_id: int, reason: int = 0) -> bytes:
    """PUBCOMP; as PUBACK."""
    return _acknowledge(0x70, version, packet_id, reason, "")


def _acknowledge(first: int, version: Version, packet_id: int, reason: int, reason_string: str) -> bytes:
    number = packet_id.to_bytes(2, "big")
    if not reason or version is Version.V3_1_1:
        return bytes((first, 2)) + number
    if not reason_string:
        return bytes((first, 3)) + number + bytes((reason,))
    return _packet(first, number + bytes((reason,)) + encode_properties({Property.REASON_STRING: reason_string}))


def encode_suback(version: Version, packet_id: int, codes: bytes) -> bytes:
    """SUBACK with one code per filter, in the order of SUBSCRIBE."""
    return _packet(0x90, packet_id.to_bytes(2, "big") + (b"\x00" if version is Version.V5 else b"") + codes)


def encode_unsuback(version: Version, packet_id: int, codes: bytes) -> bytes:
    """UNSUBACK; the codes, one per filter, exist only in MQTT 5."""
    return _packet(0xB0, packet_id.to_bytes(2, "big") + (b"\x00" + codes if version is Version.V5 else b""))


def encode_publish(
    version: Version,
    topic: str,
    payload: bytes,
    *,
    packet_id: int | None = None,
    dup: bool = False,
    expiry: int | None = None,
) -> bytes:
    """PUBLISH, never retained: QoS 1 with a packet id, else QoS 0. `expiry` in seconds exists only in MQTT 5."""
    number = b"" if packet_id is None else packet_id.to_bytes(2, "big")
    first = 0x30 if packet_id is None else 0x3A if dup else 0x32
    properties = b""
    if version is Version.V5:
        properties = b"\x00" if expiry is None else encode_properties({Property.MESSAGE_EXPIRY: expiry})
    return _packet(first, encode_text(topic) + number + properties + payload)


def encode_disconnect(reason: int) -> bytes:
    """DISCONNECT from the server, which exists only in MQTT 5."""
    return b"\xe0\x01" + bytes((reason,))
