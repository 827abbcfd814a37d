"""The few MQTT bytes that an idle connection needs: CONNECT and PINGREQ out, CONNACK in.

Owns their form in MQTT 3.1.1 and 5.0, written from the specifications and shared with nobody, so that a mistake of the
gateway's codec is no mistake here as well. Does no I/O.
"""

from __future__ import annotations

from dataclasses import dataclass

PINGREQ = b"\xc0\x00"
RETRY_AFTER = "retry-after"
"""User property in which a busy gateway says how many seconds to stay away."""
_SERVER_KEEP_ALIVE, _USER_PROPERTY = 0x13, 0x26
_CONNACK = 0x20
# Lengths of the properties that CONNACK may hold (MQTT 5.0 section 2.2.2.2); "text" and "pair" carry their own.
_LENGTHS: dict[int, int | str] = {
    0x11: 4, 0x12: "text", 0x13: 2, 0x15: "text", 0x16: "text", 0x1A: "text", 0x1C: "text", 0x1F: "text",
    0x21: 2, 0x22: 2, 0x24: 1, 0x25: 1, 0x26: "pair", 0x27: 4, 0x28: 1, 0x29: 1, 0x2A: 1,
}  # fmt: skip


class Incomplete(Exception):
    """More bytes are needed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A packet from the gateway, as far as an idle client cares. `retry_after` in seconds, `keep_alive` in seconds where
    the gateway sets it (MQTT 5.0 section 3.2.2.3.14). `refused` is only ever set by CONNACK."""

    refused: bool = False
    retry_after: float | None = None
    keep_alive: int | None = None


_OTHER = Answer()


def connect_packet(version: int, device: str, secret: str, keep_alive: int) -> bytes:
    """CONNECT with a clean session; the client id is the device's."""
    head = _text("MQTT") + bytes((version, 0xC2)) + keep_alive.to_bytes(2, "big") + (b"\x00" if version == 5 else b"")
    body = head + _text(device) + _text(device) + _text(secret)
    return b"\x10" + _varint(len(body)) + body


def read_answer(data: bytes, version: int) -> tuple[Answer, bytes]:
    """The first packet in `data` and the rest. Raises Incomplete."""
    length, body = _read_varint(data, 1)
    end = body + length
    if end > len(data):
        raise Incomplete
    if data[0] != _CONNACK:
        return _OTHER, data[end:]
    found = _connack_properties(data[body + 2 : end]) if version == 5 and length > 2 else _OTHER
    refused = length < 2 or data[body + 1] != 0
    return Answer(refused=refused, retry_after=found.retry_after, keep_alive=found.keep_alive), data[end:]


def _connack_properties(raw: bytes) -> Answer:
    """The two properties that matter. What cannot be read ends the search: a client needs none of them."""
    try:
        length, at = _read_varint(raw, 0)
    except Incomplete:
        return _OTHER
    end = min(at + length, len(raw))
    retry_after: float | None = None
    keep_alive: int | None = None
    while at < end:
        name, at = raw[at], at + 1
        size = _LENGTHS.get(name)
        if size is None:
            break
        if isinstance(size, int):
            if name == _SERVER_KEEP_ALIVE:
                keep_alive = int.from_bytes(raw[at : at + size], "big")
            at += size
            continue
        first, at = _read_text(raw, at)
        if size == "pair":
            second, at = _read_text(raw, at)
            if first == RETRY_AFTER.encode():
                retry_after = _seconds(second)
    return Answer(retry_after=retry_after, keep_alive=keep_alive)


def _seconds(text: bytes) -> float | None:
    try:
        return max(0.0, float(text))
    except ValueError:
        return None


def _read_text(raw: bytes, at: int) -> tuple[bytes, int]:
    start = at + 2
    end = start + int.from_bytes(raw[at:start], "big")
    return raw[start:end], end


def _read_varint(raw: bytes, at: int) -> tuple[int, int]:
    value = 0
    for index in range(4):
        if at + index >= len(raw):
            raise Incomplete
        byte = raw[at + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, at + index + 1
    raise Incomplete


def _text(value: str) -> bytes:
    return len(value.encode()).to_bytes(2, "big") + value.encode()


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
