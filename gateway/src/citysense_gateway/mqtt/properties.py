"""Properties of MQTT 5.0: which exist, their type, and the packets they may stand in (section 2.2.2.2).

Owns the table and both directions of it. Gives no property a meaning: that is the session's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum, IntEnum
from typing import NamedTuple

from citysense_gateway.mqtt.fields import (
    MAX_VARINT,
    Fault,
    FieldReader,
    ProtocolViolation,
    encode_binary,
    encode_text,
    encode_varint,
)


class Property(IntEnum):
    """Identifiers as on the wire."""

    PAYLOAD_FORMAT = 0x01
    MESSAGE_EXPIRY = 0x02
    CONTENT_TYPE = 0x03
    RESPONSE_TOPIC = 0x08
    CORRELATION_DATA = 0x09
    SUBSCRIPTION_ID = 0x0B
    SESSION_EXPIRY = 0x11
    ASSIGNED_CLIENT_ID = 0x12
    SERVER_KEEP_ALIVE = 0x13
    AUTHENTICATION_METHOD = 0x15
    AUTHENTICATION_DATA = 0x16
    REQUEST_PROBLEM_INFORMATION = 0x17
    WILL_DELAY = 0x18
    REQUEST_RESPONSE_INFORMATION = 0x19
    RESPONSE_INFORMATION = 0x1A
    SERVER_REFERENCE = 0x1C
    REASON_STRING = 0x1F
    RECEIVE_MAXIMUM = 0x21
    TOPIC_ALIAS_MAXIMUM = 0x22
    TOPIC_ALIAS = 0x23
    MAXIMUM_QOS = 0x24
    RETAIN_AVAILABLE = 0x25
    USER_PROPERTY = 0x26
    MAXIMUM_PACKET_SIZE = 0x27
    WILDCARD_AVAILABLE = 0x28
    SUBSCRIPTION_ID_AVAILABLE = 0x29
    SHARED_AVAILABLE = 0x2A


class Place(Enum):
    """Where a set of properties stands. CONNACK, SUBACK and UNSUBACK are only ever written here."""

    CONNECT = "CONNECT"
    WILL = "will"
    CONNACK = "CONNACK"
    PUBLISH = "PUBLISH"
    PUBACK = "PUBACK"
    PUBREL = "PUBREL"
    SUBSCRIBE = "SUBSCRIBE"
    SUBACK = "SUBACK"
    UNSUBSCRIBE = "UNSUBSCRIBE"
    UNSUBACK = "UNSUBACK"
    DISCONNECT = "DISCONNECT"


class _Type(Enum):
    BYTE = 1
    U16 = 2
    U32 = 4
    VARINT = "varint"
    BINARY = "binary"
    TEXT = "text"
    PAIR = "pair"


class _Row(NamedTuple):
    type: _Type
    places: frozenset[Place]
    low: int = 0
    high: int = 0xFFFF_FFFF


_MAX_PROPERTIES = 64
"""In one set. A packet of full size has room for 52,000, which would hold up everybody for 70 ms."""

Value = int | str | bytes
Properties = Mapping[Property, Value]
Pairs = Sequence[tuple[str, str]]
"""User properties, name and value."""
NO_PROPERTIES: Properties = {}


def _row(kind: _Type, *places: Place, low: int = 0, high: int = 0xFFFF_FFFF) -> _Row:
    return _Row(kind, frozenset(places), low, high)


_MESSAGE = (Place.PUBLISH, Place.WILL)
_BOTH_CONNECTS = (Place.CONNECT, Place.CONNACK)

_TABLE: dict[Property, _Row] = {
    Property.PAYLOAD_FORMAT: _row(_Type.BYTE, *_MESSAGE, high=1),
    Property.MESSAGE_EXPIRY: _row(_Type.U32, *_MESSAGE),
    Property.CONTENT_TYPE: _row(_Type.TEXT, *_MESSAGE),
    Property.RESPONSE_TOPIC: _row(_Type.TEXT, *_MESSAGE),
    Property.CORRELATION_DATA: _row(_Type.BINARY, *_MESSAGE),
    # A server may put it into PUBLISH too; a client must not (MQTT-3.3.4-6), and we never do.
    Property.SUBSCRIPTION_ID: _row(_Type.VARINT, Place.SUBSCRIBE, low=1, high=MAX_VARINT),
    Property.SESSION_EXPIRY: _row(_Type.U32, *_BOTH_CONNECTS, Place.DISCONNECT),
    Property.ASSIGNED_CLIENT_ID: _row(_Type.TEXT, Place.CONNACK),
    Property.SERVER_KEEP_ALIVE: _row(_Type.U16, Place.CONNACK),
    Property.AUTHENTICATION_METHOD: _row(_Type.TEXT, *_BOTH_CONNECTS),
    Property.AUTHENTICATION_DATA: _row(_Type.BINARY, *_BOTH_CONNECTS),
    Property.REQUEST_PROBLEM_INFORMATION: _row(_Type.BYTE, Place.CONNECT, high=1),
    Property.WILL_DELAY: _row(_Type.U32, Place.WILL),
    Property.REQUEST_RESPONSE_INFORMATION: _row(_Type.BYTE, Place.CONNECT, high=1),
    Property.RESPONSE_INFORMATION: _row(_Type.TEXT, Place.CONNACK),
    Property.SERVER_REFERENCE: _row(_Type.TEXT, Place.CONNACK, Place.DISCONNECT),
    Property.REASON_STRING: _row(
        _Type.TEXT, Place.CONNACK, Place.PUBACK, Place.PUBREL, Place.SUBACK, Place.UNSUBACK, Place.DISCONNECT
    ),
    Property.RECEIVE_MAXIMUM: _row(_Type.U16, *_BOTH_CONNECTS, low=1),
    Property.TOPIC_ALIAS_MAXIMUM: _row(_Type.U16, *_BOTH_CONNECTS),
    Property.TOPIC_ALIAS: _row(_Type.U16, Place.PUBLISH, low=1),
    Property.MAXIMUM_QOS: _row(_Type.BYTE, Place.CONNACK, high=1),
    Property.RETAIN_AVAILABLE: _row(_Type.BYTE, Place.CONNACK, high=1),
    Property.USER_PROPERTY: _row(_Type.PAIR, *Place),
    Property.MAXIMUM_PACKET_SIZE: _row(_Type.U32, *_BOTH_CONNECTS, low=1),
    Property.WILDCARD_AVAILABLE: _row(_Type.BYTE, Place.CONNACK, high=1),
    Property.SUBSCRIPTION_ID_AVAILABLE: _row(_Type.BYTE, Place.CONNACK, high=1),
    Property.SHARED_AVAILABLE: _row(_Type.BYTE, Place.CONNACK, high=1),
}


def _read_value(reader: FieldReader, kind: _Type) -> Value:
    if kind is _Type.TEXT:
        return reader.text()
    if kind is _Type.BINARY:
        return reader.binary()
    if kind is _Type.VARINT:
        return reader.varint()
    if kind is _Type.PAIR:
        reader.text()
        return reader.text()
    return reader.integer(int(kind.value))


def read_properties(reader: FieldReader, place: Place) -> Properties:
    """Read a property set with its length in front.

    User properties are checked and dropped: nothing here uses them and a peer could fill memory with them.
    """
    length = reader.varint()
    if not length:
        return NO_PROPERTIES
    inner = FieldReader(reader.take(length))
    found: dict[Property, Value] = {}
    count = 0
    while inner.remaining:
        count += 1
        if count > _MAX_PROPERTIES:
            detail = f"at most {_MAX_PROPERTIES} properties in {place.value} are taken"
            raise ProtocolViolation(Fault.TOO_MANY_PROPERTIES, detail)
        number = inner.varint()
        try:
            name = Property(number)
        except ValueError as error:
            raise ProtocolViolation(Fault.BAD_PROPERTY, f"unknown property 0x{number:02x} in {place.value}") from error
        row = _TABLE[name]
        if place not in row.places:
            raise ProtocolViolation(Fault.BAD_PROPERTY, f"{name.name} may not stand in {place.value}")
        value = _read_value(inner, row.type)
        if isinstance(value, int) and not row.low <= value <= row.high:
            raise ProtocolViolation(Fault.BAD_PROPERTY, f"{name.name} of {value} in {place.value}")
        if name is Property.USER_PROPERTY:
            continue
        if name in found:
            raise ProtocolViolation(Fault.BAD_PROPERTY, f"{name.name} given twice in {place.value}")
        found[name] = value
    return found


def number_of(properties: Properties, name: Property) -> int | None:
    """The value of a property that is a number; None where it is left out."""
    value = properties.get(name)
    return value if isinstance(value, int) else None


def encode_properties(properties: Properties, pairs: Pairs = ()) -> bytes:
    """A property set with its length in front, in the order of the mapping; `pairs` are its user properties."""
    out = bytearray()
    for name, value in properties.items():
        out.append(name)
        kind = _TABLE[name].type
        if isinstance(value, str):
            out += encode_text(value)
        elif isinstance(value, bytes):
            out += encode_binary(value)
        elif kind is _Type.VARINT:
            out += encode_varint(value)
        else:
            out += value.to_bytes(int(kind.value), "big")
    for name_of_pair, value_of_pair in pairs:
        out.append(Property.USER_PROPERTY)
        out += encode_text(name_of_pair) + encode_text(value_of_pair)
    return encode_varint(len(out)) + bytes(out)
