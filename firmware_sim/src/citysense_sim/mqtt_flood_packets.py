"""Bytes of MQTT 3.1.1 for the flood: a CONNECT, PUBLISH templates of fixed length, and packets found in a stream.

Owns only what the flood says and hears; it is no MQTT library.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from citysense.errors import SetupError

FORMATS = {"seq": b"%10d", "t": b"%13d", "value": b"%8.2f"}
"""Fixed widths, padded with blanks that JSON allows: a packet's length never changes, so its head is made once."""


def encode_text(text: str) -> bytes:
    """A UTF-8 string with its length (MQTT 3.1.1 section 1.5.3)."""
    data = text.encode()
    return len(data).to_bytes(2, "big") + data


def encode_length(number: int) -> bytes:
    """Remaining Length (section 2.2.3)."""
    out = bytearray()
    while True:
        number, low = divmod(number, 128)
        out.append(low | 128 if number else low)
        if not number:
            return bytes(out)


def connect_packet(device: str, secret: str) -> bytes:
    """CONNECT with clean session and without keep-alive: between two rounds nobody may have time to ping."""
    flags = 0xC2 if secret else 0x02
    body = encode_text("MQTT") + bytes((4, flags, 0, 0)) + encode_text(device)
    if secret:
        body += encode_text(device) + encode_text(secret)
    return b"\x10" + encode_length(len(body)) + body


class Template:
    """A QoS 1 PUBLISH with places for packet id, seq, time and value."""

    def __init__(self, topic: str, payload: str) -> None:
        """Raises SetupError where a field stands twice."""
        parts = re.split(r"\{(seq|t|value)\}", payload)
        self._order: tuple[str, ...] = tuple(parts[1::2])
        if len(set(self._order)) != len(self._order):
            raise SetupError("the flood's payload names a field twice; each of {seq}, {t}, {value} may stand once")
        body = b"".join(
            FORMATS[part] if index % 2 else part.encode().replace(b"%", b"%%") for index, part in enumerate(parts)
        )
        zero = body % ((0,) * len(self._order))
        head = encode_text(topic)
        start = b"\x32" + encode_length(len(head) + 2 + len(zero)) + head
        self._format = start.replace(b"%", b"%%") + b"%b" + body

    def packet(self, packet_id: bytes, seq: int, now_ms: int, value: float) -> bytes:
        """The packet; `packet_id` is two bytes."""
        fields = {"seq": seq, "t": now_ms, "value": value}
        return self._format % (packet_id, *[fields[name] for name in self._order])


def packets(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Whole packets of `data` in order: first byte, body, and the offset after it."""
    at, end = 0, len(data)
    while True:
        length, shift, cursor = 0, 0, at + 1
        while True:
            if cursor >= end:
                return
            byte = data[cursor]
            cursor += 1
            length |= (byte & 127) << shift
            shift += 7
            if not byte & 128:
                break
        if cursor + length > end:
            return
        yield data[at], data[cursor : cursor + length], cursor + length
        at = cursor + length
