"""Reads MQTT packets from a stream of bytes: MQTT 3.1.1 and 5.0, strictly.

Owns `PacketParser`; raises nothing but `ProtocolViolation`, whatever the bytes. PUBREC, PUBCOMP and AUTH are refused by
name: nothing is sent with QoS 2, and extended authentication is announced as not available.
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
    Pubrel,
    Subscribe,
    Unsubscribe,
    Version,
    Will,
)
from citysense_gateway.mqtt.properties import NO_PROPERTIES, Place, Properties, Property, number_of, read_properties

_CONNECT, _PUBLISH, _PUBACK, _PUBREL, _SUBSCRIBE, _UNSUBSCRIBE, _PINGREQ, _DISCONNECT = 1, 3, 4, 6, 8, 10, 12, 14
# The low four bits that each type must carry; PUBLISH uses them itself (section 2.1.3).
_FLAGS = {_CONNECT: 0, _PUBACK: 0, _PUBREL: 2, _SUBSCRIBE: 2, _UNSUBSCRIBE: 2, _PINGREQ: 0, _DISCONNECT: 0}

_MAX_FILTERS = 64
"""In one SUBSCRIBE or UNSUBSCRIBE. A packet of full size has room for 65,000, which would hold up everybody for 60 ms."""


_KEPT_TOPIC = 256
"""Topics longer than that are read anew each time, so that a connection cannot make us keep 64 kB."""


class PacketParser:
    """Turns a stream of bytes into packets, whatever the pieces it comes in.

    `feed` only stores; `next_packet` returns one packet or None when more bytes are needed, and raises
    `ProtocolViolation` as early as the bytes allow: a packet above `max_packet` (whole packet, in bytes) fails when its
    length is known. After an error the parser must not be used again. The first packet has to be a CONNECT; it sets
    `version`. An idle parser holds no bytes but the last topic: a device sends on the same one again and again.
    """

    __slots__ = ("_data", "_position", "_topic", "_topic_bytes", "max_packet", "version")

    def __init__(self, *, max_packet: int) -> None:
        # Whole packets are cut from the bytes as they came; only what a packet is still missing goes into a bytearray.
        self._data: bytes | bytearray = b""
        self._position = 0
        self._topic = ""
        self._topic_bytes = b""
        self.max_packet = max_packet
        self.version: Version | None = None

    @property
    def pending(self) -> int:
        """Bytes fed and not yet returned as packets."""
        return len(self._data) - self._position

    def feed(self, data: bytes) -> None:
        """Append received bytes."""
        if self._position == len(self._data):
            self._data = data
        elif isinstance(self._data, bytearray):
            del self._data[: self._position]
            self._data += data
        else:
            self._data = bytearray(self._data[self._position :]) + data
        self._position = 0

    def next_packet(self) -> Packet | None:
        """The next whole packet, or None."""
        data, start = self._data, self._position
        available = len(data) - start
        if not available:
            self._data = b""
            self._position = 0
            return None
        first = data[start]
        if first >> 4 != _PUBLISH or self.version is None:
            self._check_first(first)
        if available < 2:
            return None
        length = data[start + 1]
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
        if end > len(data):
            return None
        self._position = end
        if first >> 4 == _PUBLISH:
            return self._publish(first & 0x0F, data, body, end)
        return self._decode(first, bytes(data[body:end]))

    def _check_first(self, first: int) -> None:
        kind = first >> 4
        if self.version is None:
            if first != _CONNECT << 4:
                raise ProtocolViolation(Fault.UNEXPECTED_PACKET, f"the first byte is 0x{first:02x}, not CONNECT")
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
            if at + index >= len(self._data):
                return None
            byte = self._data[at + index]
            length |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                # Only MQTT 5 demands the shortest form; small 3.1.1 stacks reserve four bytes and fill them later.
                if index and not byte and self.version is Version.V5:
                    raise ProtocolViolation(Fault.BAD_LENGTH, f"{length} written in {index + 1} bytes")
                return length, at + index + 1
        raise ProtocolViolation(Fault.BAD_LENGTH, "a remaining length of more than four bytes")

    def _publish(self, flags: int, data: bytes | bytearray, at: int, end: int) -> Publish:
        """The one decoder on the hot path, hence without a reader for its usual fields: the body is data[at:end]."""
        qos = flags >> 1 & 3
        if qos == 3 or (flags > 7 and not qos):
            raise ProtocolViolation(Fault.BAD_QOS, f"PUBLISH with flags 0x{flags:x}")
        if end - at < 2:
            raise ProtocolViolation(Fault.TRUNCATED, "PUBLISH without a topic")
        begin = at + 2
        at = begin + (data[at] << 8 | data[at + 1])
        if at > end:
            raise ProtocolViolation(Fault.TRUNCATED, f"topic of {at - begin} bytes, {end - begin} left")
        raw = data[begin:at]
        known = raw == self._topic_bytes and self._topic != ""
        topic = self._topic if known else _read_topic(bytes(raw))
        packet_id = None
        if qos:
            if at + 2 > end:
                raise ProtocolViolation(Fault.TRUNCATED, "PUBLISH without its packet identifier")
            packet_id = data[at] << 8 | data[at + 1]
            if not packet_id:
                raise ProtocolViolation(Fault.PACKET_ID_ZERO, "PUBLISH with packet identifier 0")
            at += 2
        properties = NO_PROPERTIES
        if self.version is Version.V5:
            if at < end and not data[at]:
                at += 1
            else:
                properties, at = _publish_properties(data, at, end)
        if not known:
            _check_topic(topic)
            if len(topic) <= _KEPT_TOPIC:
                self._topic, self._topic_bytes = topic, bytes(raw)
        return Publish(
            topic=topic,
            payload=bytes(data[at:end]),
            qos=qos,
            dup=flags > 7,
            retain=flags & 1 == 1,
            packet_id=packet_id,
            properties=properties,
        )

    def _decode(self, first: int, body: bytes) -> Packet:
        v5 = self.version is Version.V5
        kind = first >> 4
        reader = FieldReader(body)
        packet: Packet
        if kind == _CONNECT:
            packet = _read_connect(reader)
            self.version = packet.version
        elif kind == _PUBACK:
            packet = _read_puback(reader, v5)
        elif kind == _PUBREL:
            packet = _read_pubrel(reader, v5)
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


def _publish_properties(data: bytes | bytearray, at: int, end: int) -> tuple[Properties, int]:
    """Properties of a PUBLISH, and where they end."""
    reader = FieldReader(bytes(data[at:end]))
    properties = read_properties(reader, Place.PUBLISH)
    if Property.TOPIC_ALIAS in properties:
        raise ProtocolViolation(Fault.TOPIC_ALIAS, "a topic alias, but none was offered in CONNACK")
    _check_response_topic(properties)
    return properties, at + reader.position


def _check_response_topic(properties: Properties) -> None:
    answer = properties.get(Property.RESPONSE_TOPIC)
    if isinstance(answer, str) and ("+" in answer or "#" in answer):
        # MQTT-3.3.2-14 of MQTT 5.0.
        raise ProtocolViolation(Fault.BAD_PROPERTY, "a response topic with a wildcard")


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
    properties = read_properties(reader, Place.WILL) if version is Version.V5 else NO_PROPERTIES
    _check_response_topic(properties)
    topic = reader.text()
    _check_topic(topic)
    return Will(
        topic=topic,
        payload=reader.binary(),
        qos=flags >> 3 & 3,
        retain=bool(flags & 0x20),
        delay=number_of(properties, Property.WILL_DELAY) or 0,
    )


def _read_puback(reader: FieldReader, v5: bool) -> Puback:
    packet_id = reader.packet_id()
    return Puback(packet_id=packet_id, reason=_read_reason(reader, Place.PUBACK)[0] if v5 else 0)


def _read_pubrel(reader: FieldReader, v5: bool) -> Pubrel:
    packet_id = reader.packet_id()
    return Pubrel(packet_id=packet_id, reason=_read_reason(reader, Place.PUBREL)[0] if v5 else 0)


def _read_disconnect(reader: FieldReader, v5: bool) -> Disconnect:
    if not v5:
        return Disconnect()
    reason, properties = _read_reason(reader, Place.DISCONNECT)
    return Disconnect(reason=reason, session_expiry=number_of(properties, Property.SESSION_EXPIRY))


def _read_reason(reader: FieldReader, place: Place) -> tuple[int, Properties]:
    """Reason code and properties of MQTT 5, both of which may be left out (MQTT 5.0 section 3.4.2.1)."""
    if not reader.remaining:
        return 0, NO_PROPERTIES
    reason = reader.integer(1)
    return reason, read_properties(reader, place) if reader.remaining else NO_PROPERTIES


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
        if options & 4 and wanted.startswith("$share/"):
            # MQTT-3.8.3-4 of MQTT 5.0.
            raise ProtocolViolation(Fault.BAD_FILTER, "a shared subscription with No Local")
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
