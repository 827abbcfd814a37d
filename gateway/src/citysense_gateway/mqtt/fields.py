"""The data types MQTT packets are made of, and the one error that bytes from a peer may cause.

Owns reading and writing of integers, UTF-8 strings and binary data (MQTT 5.0 section 1.5). Knows no packet.
"""

from __future__ import annotations

from enum import StrEnum

MAX_VARINT = 268_435_455
_MAX_LENGTH = 0xFFFF


class Fault(StrEnum):
    """What a peer did wrong on the wire; the stable word for counters and logs."""

    TRUNCATED = "truncated"
    """A field runs past the end of its packet."""
    TRAILING_BYTES = "trailing_bytes"
    BAD_LENGTH = "bad_length"
    """A variable byte integer of more than four bytes, or (MQTT 5) longer than it needs to be."""
    BAD_UTF8 = "bad_utf8"
    RESERVED_BITS = "reserved_bits"
    BAD_QOS = "bad_qos"
    BAD_TOPIC = "bad_topic"
    """A topic name that is empty or holds a wildcard."""
    BAD_FILTER = "bad_filter"
    PACKET_ID_ZERO = "packet_id_zero"
    BAD_PROPERTY = "bad_property"
    """A property unknown, out of place, given twice or with a value outside its range."""
    BAD_CONNECT = "bad_connect"
    """Flags of CONNECT that contradict each other, or a protocol name that is not MQTT."""
    UNSUPPORTED_VERSION = "unsupported_version"
    UNEXPECTED_PACKET = "unexpected_packet"
    """A packet type that this side never takes, or not at this moment."""
    TOPIC_ALIAS = "topic_alias"
    """A topic alias although none was offered."""
    SUBSCRIPTION_ID = "subscription_id"
    """A subscription identifier although they were announced as not available."""
    RETAIN_NOT_SUPPORTED = "retain_not_supported"
    """A message to be retained (MQTT 5) although CONNACK said that nothing is."""
    RECEIVE_MAXIMUM = "receive_maximum"
    """More QoS 2 messages begun and not released than were offered."""
    TOO_LARGE = "too_large"
    TOO_MANY_PROPERTIES = "too_many_properties"
    TOO_MANY_FILTERS = "too_many_filters"


class ProtocolViolation(Exception):
    """A peer broke the protocol. The connection cannot go on; `fault` names the rule, `detail` is for a person.

    `lost` is set where a message, perhaps a reading, goes down with the connection: its topic as far as it is known,
    else the packet's name.
    """

    def __init__(self, fault: Fault, detail: str, *, lost: str | None = None) -> None:
        super().__init__(f"{fault}: {detail}")
        self.fault = fault
        self.detail = detail
        self.lost = lost


def text_of(raw: bytes) -> str:
    """Decode an MQTT UTF-8 string: well formed, no surrogates, no U+0000 (MQTT-1.5.4-1, -2)."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise ProtocolViolation(Fault.BAD_UTF8, f"byte {error.start} of a string of {len(raw)}") from error
    if "\0" in text:
        raise ProtocolViolation(Fault.BAD_UTF8, "a string holds U+0000")
    return text


class FieldReader:
    """Reads fields one after the other from the body of one packet; any overrun is `Fault.TRUNCATED`."""

    __slots__ = ("_body", "_end", "position")

    def __init__(self, body: bytes, position: int = 0) -> None:
        self._body = body
        self._end = len(body)
        self.position = position

    @property
    def remaining(self) -> int:
        """Bytes not read yet."""
        return self._end - self.position

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        start = self.position
        if start + count > self._end:
            raise ProtocolViolation(Fault.TRUNCATED, f"{count} bytes wanted, {self._end - start} left")
        self.position = start + count
        return self._body[start : self.position]

    def integer(self, width: int) -> int:
        """An unsigned big-endian integer of `width` bytes."""
        return int.from_bytes(self.take(width), "big")

    def varint(self) -> int:
        """A variable byte integer, refused when a shorter form exists (MQTT-1.5.5-1)."""
        value = 0
        for index in range(4):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                if index and not byte:
                    raise ProtocolViolation(Fault.BAD_LENGTH, f"{value} written in {index + 1} bytes")
                return value
        raise ProtocolViolation(Fault.BAD_LENGTH, "a variable byte integer of more than four bytes")

    def binary(self) -> bytes:
        """Two bytes of length, then that many bytes."""
        return self.take(self.integer(2))

    def text(self) -> str:
        """A UTF-8 string with its two bytes of length."""
        return text_of(self.binary())

    def packet_id(self) -> int:
        """A packet identifier, never 0 (MQTT-2.2.1-3)."""
        value = self.integer(2)
        if not value:
            raise ProtocolViolation(Fault.PACKET_ID_ZERO, "a packet identifier of 0")
        return value

    def finish(self) -> None:
        """Refuse bytes behind the last field."""
        if self.remaining:
            raise ProtocolViolation(Fault.TRAILING_BYTES, f"{self.remaining} bytes behind the last field")


def encode_varint(value: int) -> bytes:
    """A variable byte integer; ValueError outside 0..268435455."""
    if not 0 <= value <= MAX_VARINT:
        raise ValueError(f"{value} does not fit a variable byte integer (0..{MAX_VARINT})")
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode_binary(value: bytes) -> bytes:
    """Two bytes of length, then the bytes; ValueError above 65535."""
    if len(value) > _MAX_LENGTH:
        raise ValueError(f"{len(value)} bytes do not fit an MQTT string (at most {_MAX_LENGTH})")
    return len(value).to_bytes(2, "big") + value


def encode_text(value: str) -> bytes:
    """A UTF-8 string with its two bytes of length."""
    return encode_binary(value.encode())
