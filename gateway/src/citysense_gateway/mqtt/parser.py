"""Reads MQTT packets from a stream of bytes: MQTT 3.1.1 and 5.0, strictly.

Owns `PacketParser`; raises nothing but `ProtocolViolation`, whatever the bytes. PUBREC, PUBREL, PUBCOMP and AUTH are
refused by name: QoS 2 and extended authentication are announced as not available.
"""

from __future__ import annotations

from collections.abc import Sized

from citysense_gateway.mqtt.fields import Fault, FieldReader, ProtocolViolation, text_of
from citysense_gateway.mqtt.packets import (
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Puback,
    Publish,
    Subscribe,
    Unsubscribe,
    Version,
    Will,
)
from citysense_gateway.mqtt.properties import NO_PROPERTIES, Place, Property, read_properties

_CONNECT, _PUBLISH, _PUBACK, _SUBSCRIBE, _UNSUBSCRIBE, _PINGREQ, _DISCONNECT = 1, 3, 4, 8, 10, 12, 14
# The low four bits that each type must carry; PUBLISH uses them itself (section 2.1.3).
_FLAGS = {_CONNECT: 0, _PUBACK: 0, _SUBSCRIBE: 2, _UNSUBSCRIBE: 2, _PINGREQ: 0, _DISCONNECT: 0}

_MAX_FILTERS = 64
"""In one SUBSCRIBE or UNSUBSCRIBE. A packet of full size has room for 65,000, which would hold up everybody for 60 ms."""


class PacketParser:
    """Turns a stream of bytes into packets, whatever the pieces it comes in.

    `feed` only stores; `next_packet` returns one packet or None when more bytes are needed, and raises
    `ProtocolViolation` as early as the bytes allow: a packet above `max_packet` (whole packet, in bytes) fails when its
    length is known. After an error the parser must not be used again. The first packet has to be a CONNECT; it sets
    `version`.
    """

    __slots__ = ("_buffer", "_position", "max_packet", "version")

    def __init__(self, *, max_packet: int) -> None:
        self._buffer = bytearray()
        self._position = 0
        self.max_packet = max_packet
        self.version: Version | None = None

    @property
    def pending(self) -> int:
        """Bytes fed and not yet returned as packets."""
        return len(self._buffer) - self._position

    def feed(self, data: bytes) -> None:
        """Append received bytes."""
        if self._position:
            del self._buffer[: self._position]
            self._position = 0
        self._buffer += data

    def next_packet(self) -> Packet | None:
        """The next whole packet, or None."""
        buffer, start = self._buffer, self._position
        available = len(buffer) - start
        if not available:
            return None
        first = buffer[start]
        self._check_first(first)
        if available < 2:
            return None
        length = buffer[start + 1]
        body = start + 2
        if length > 0x7F:
            header = self._long_length(start + 1)
            if header is None:
                return None
            length, body = header
        end = body + length
        if end - start > self.max_packet:
            detail = f"a packet of {end - start} bytes, at most {self.max_packet} are taken"
            # Said when the length is known, so before there is a topic.
            raise ProtocolViolation(Fault.TOO_LARGE, detail, lost="PUBLISH" if first >> 4 == _PUBLISH else None)
        if end > len(buffer):
            return None
        self._position = end
        return self._decode(first, bytes(buffer[body:end]))

    def _check_first(self, first: int) -> None:
        kind = first >> 4
        if self.version is None:
            if first != _CONNECT << 4:
                raise ProtocolViolation(Fault.UNEXPECTED_PACKET, f"the first byte is 0x{first:02x}, not CONNECT")
            return
        if kind == _PUBLISH:
            return
        flags = _FLAGS.get(kind)
        if flags is None or kind == _CONNECT:
            raise ProtocolViolation(Fault.UNEXPECTED_PACKET, f"packet type {kind} is not taken here")
        if flags != first & 0x0F:
            raise ProtocolViolation(Fault.RESERVED_BITS, f"flags 0x{first & 0x0F:x} of packet type {kind}")

    def _long_length(self, at: int) -> tuple[int, int] | None:
        """(remaining length, position of the body) of a length of several bytes; None when bytes are missing."""
        length = 0
        for index in range(4):
            if at + index >= len(self._buffer):
                return None
            byte = self._buffer[at + index]
            length |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                # Only MQTT 5 demands the shortest form; small 3.1.1 stacks reserve four bytes and fill them later.
                if index and not byte and self.version is Version.V5:
                    raise ProtocolViolation(Fault.BAD_LENGTH, f"{length} written in {index + 1} bytes")
                return length, at + index + 1
        raise ProtocolViolation(Fault.BAD_LENGTH, "a remaining length of more than four bytes")

    def _decode(self, first: int, body: bytes) -> Packet:
        v5 = self.version is Version.V5
        kind = first >> 4
        if kind == _PUBLISH:
            return _read_publish(first & 0x0F, body, v5)
        reader = FieldReader(body)
        packet: Packet
        if kind == _CONNECT:
            packet = _read_connect(reader)
            self.version = packet.version
        elif kind == _PUBACK:
            packet = _read_puback(reader, v5)
        elif kind == _SUBSCRIBE:
            packet = _read_subscribe(reader, v5)
        elif kind == _UNSUBSCRIBE:
            packet = _read_unsubscribe(reader, v5)
        elif kind == _PINGREQ:
            packet = Pingreq()
        else:
            packet = _read_disconnect(reader, v5)
        reader.finish()
        return packet


def _read_publish(flags: int, body: bytes, v5: bool) -> Publish:
    """The one decoder on the hot path, hence without a reader for its two usual fields."""
    qos = flags >> 1 & 3
    dup = flags > 7
    if qos == 3 or (dup and not qos):
        raise ProtocolViolation(Fault.BAD_QOS, f"PUBLISH with flags 0x{flags:x}")
    if len(body) < 2:
        raise ProtocolViolation(Fault.TRUNCATED, "PUBLISH without a topic")
    at = 2 + (body[0] << 8 | body[1])
    if at > len(body):
        raise ProtocolViolation(Fault.TRUNCATED, f"topic of {at - 2} bytes in a packet of {len(body)}")
    topic = _read_topic(body[2:at])
    packet_id = None
    if qos:
        packet_id = int.from_bytes(body[at : at + 2], "big")
        at += 2
        if at > len(body):
            raise ProtocolViolation(Fault.TRUNCATED, "PUBLISH without its packet identifier")
        if not packet_id:
            raise ProtocolViolation(Fault.PACKET_ID_ZERO, "PUBLISH with packet identifier 0")
    properties = NO_PROPERTIES
    if v5:
        reader = FieldReader(body, at)
        properties = read_properties(reader, Place.PUBLISH)
        at = reader.position
        if Property.TOPIC_ALIAS in properties:
            raise ProtocolViolation(Fault.TOPIC_ALIAS, "a topic alias, but none was offered in CONNACK")
    _check_topic(topic)
    return Publish(
        topic=topic,
        payload=body[at:],
        qos=qos,
        dup=dup,
        retain=bool(flags & 1),
        packet_id=packet_id,
        properties=properties,
    )


def _read_topic(raw: bytes) -> str:
    try:
        return text_of(raw)
    except ProtocolViolation as violation:
        lost = raw.decode(errors="replace").replace("\0", "\ufffd")
        raise ProtocolViolation(violation.fault, violation.detail, lost=lost) from violation


def _check_topic(topic: str) -> None:
    if not topic or "+" in topic or "#" in topic:
        raise ProtocolViolation(Fault.BAD_TOPIC, f"topic name {topic[:80]!r}", lost=topic)


def _read_connect(reader: FieldReader) -> Connect:
    name = reader.binary()
    if name not in (b"MQTT", b"MQIsdp"):
        raise ProtocolViolation(Fault.BAD_CONNECT, "the protocol name is not MQTT")
    level = reader.integer(1)
    if name != b"MQTT" or level not in (Version.V3_1_1, Version.V5):
        raise ProtocolViolation(Fault.UNSUPPORTED_VERSION, f"protocol level {level}; 4 (3.1.1) and 5 are served")
    version = Version(level)
    flags = reader.integer(1)
    _check_connect_flags(flags, version)
    keep_alive = reader.integer(2)
    properties = read_properties(reader, Place.CONNECT) if version is Version.V5 else NO_PROPERTIES
    client_id = reader.text()
    will = _read_will(reader, flags, version) if flags & 0x04 else None
    return Connect(
        version=version,
        client_id=client_id,
        clean_start=bool(flags & 0x02),
        keep_alive=keep_alive,
        username=reader.text() if flags & 0x80 else None,
        password=reader.binary() if flags & 0x40 else None,
        will=will,
        properties=properties,
    )


def _check_connect_flags(flags: int, version: Version) -> None:
    if flags & 0x01:
        raise ProtocolViolation(Fault.RESERVED_BITS, "the reserved flag of CONNECT is set")
    will_qos = flags >> 3 & 3
    if will_qos == 3 or (not flags & 0x04 and flags & 0x38):
        raise ProtocolViolation(Fault.BAD_CONNECT, f"will flags 0x{flags:02x} contradict each other")
    if version is Version.V3_1_1 and flags & 0x40 and not flags & 0x80:
        raise ProtocolViolation(Fault.BAD_CONNECT, "a password without a user name")


def _read_will(reader: FieldReader, flags: int, version: Version) -> Will:
    if version is Version.V5:
        read_properties(reader, Place.WILL)
    topic = reader.text()
    _check_topic(topic)
    return Will(topic=topic, payload=reader.binary(), qos=flags >> 3 & 3, retain=bool(flags & 0x20))


def _read_puback(reader: FieldReader, v5: bool) -> Puback:
    packet_id = reader.packet_id()
    return Puback(packet_id=packet_id, reason=_read_reason(reader, Place.PUBACK) if v5 else 0)


def _read_disconnect(reader: FieldReader, v5: bool) -> Disconnect:
    return Disconnect(reason=_read_reason(reader, Place.DISCONNECT) if v5 else 0)


def _read_reason(reader: FieldReader, place: Place) -> int:
    """Reason code and properties of MQTT 5, both of which may be left out (MQTT 5.0 section 3.4.2.1)."""
    if not reader.remaining:
        return 0
    reason = reader.integer(1)
    if reader.remaining:
        read_properties(reader, place)
    return reason


def _read_subscribe(reader: FieldReader, v5: bool) -> Subscribe:
    packet_id = reader.packet_id()
    properties = read_properties(reader, Place.SUBSCRIBE) if v5 else NO_PROPERTIES
    filters: list[tuple[str, int]] = []
    while reader.remaining:
        wanted = _read_filter(reader)
        options = reader.integer(1)
        if options & (0xC0 if v5 else 0xFC):
            raise ProtocolViolation(Fault.RESERVED_BITS, f"subscription options 0x{options:02x}")
        if options & 3 == 3 or options >> 4 & 3 == 3:
            raise ProtocolViolation(Fault.BAD_QOS, f"subscription options 0x{options:02x}")
        filters.append((wanted, options & 3))
        _check_number(filters)
    if not filters:
        raise ProtocolViolation(Fault.BAD_FILTER, "SUBSCRIBE without a topic filter")
    return Subscribe(packet_id=packet_id, filters=tuple(filters), properties=properties)


def _read_unsubscribe(reader: FieldReader, v5: bool) -> Unsubscribe:
    packet_id = reader.packet_id()
    if v5:
        read_properties(reader, Place.UNSUBSCRIBE)
    filters: list[str] = []
    while reader.remaining:
        filters.append(_read_filter(reader))
        _check_number(filters)
    if not filters:
        raise ProtocolViolation(Fault.BAD_FILTER, "UNSUBSCRIBE without a topic filter")
    return Unsubscribe(packet_id=packet_id, filters=tuple(filters))


def _check_number(filters: Sized) -> None:
    if len(filters) > _MAX_FILTERS:
        raise ProtocolViolation(Fault.TOO_MANY_FILTERS, f"at most {_MAX_FILTERS} topic filters in one packet are taken")


def _read_filter(reader: FieldReader) -> str:
    wanted = reader.text()
    if not wanted:
        raise ProtocolViolation(Fault.BAD_FILTER, "an empty topic filter")
    return wanted
