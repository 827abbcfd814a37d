"""PUBLISH packets as a client receives them, read straight from the buffer.

paho spends 6 us (MQTT 3.1.1) to 12 us (MQTT 5) on making an object of each; nearly everything that a broker sends us is one,
so these few lines are most of what a message costs. Everything else on the connection is paho's. Pure.
"""

from __future__ import annotations

import msgspec

PUBLISH = 0x30
_TYPE, _DUP, _QOS, _RETAIN = 0xF0, 0x08, 0x06, 0x01


class BadPacket(Exception):
    """What stands in the buffer is no packet of MQTT; the text says why. It does not leave the connection."""


class Inbound(msgspec.Struct, frozen=True, gc=False):
    """One message. `packet_id` is 0 for QoS 0; the topic is as it came, in UTF-8."""

    topic: bytes
    payload: bytes
    packet_id: int
    dup: bool
    retain: bool


def take_publishes(buffer: bytes, at: int, *, v5: bool, largest: int) -> tuple[list[Inbound], int]:
    """All whole PUBLISH packets from `at` on, up to the first other or unfinished packet, and where that begins.

    Raises BadPacket.
    """
    found: list[Inbound] = []
    end = len(buffer)
    while at < end and buffer[at] & _TYPE == PUBLISH:
        first = buffer[at]
        size = _size(buffer, at + 1, end)
        if size is None:
            break
        length, body = size
        if length > largest:
            raise BadPacket(f"it sends a packet of {length} bytes; set its limit of packets to at most {largest}")
        after = body + length
        if after > end:
            break
        found.append(_publish(buffer, body, after, first, v5=v5))
        at = after
    return found, at


def _size(buffer: bytes, at: int, end: int) -> tuple[int, int] | None:
    """A Variable Byte Integer (MQTT 5.0 section 1.5.5) and what follows it; None while it is unfinished."""
    value = shift = 0
    for cursor in range(at, min(at + 4, end)):
        byte = buffer[cursor]
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, cursor + 1
        shift += 7
    if end - at >= 4:
        raise BadPacket("it sends a length of more than four bytes")
    return None


def _publish(buffer: bytes, body: int, after: int, first: int, *, v5: bool) -> Inbound:
    """One packet (section 3.3). Properties are skipped: we offered no topic alias and no subscription identifier."""
    qos = first & _QOS
    if qos > 2:
        raise BadPacket("it sends a message with QoS 2, which was not subscribed to")
    start = body + 2
    cursor = start + (buffer[body] << 8 | buffer[body + 1]) if start <= after else after + 1
    topic_end = cursor
    packet_id = 0
    if qos:
        cursor += 2
        if cursor <= after:
            packet_id = buffer[cursor - 2] << 8 | buffer[cursor - 1]
    if v5 and cursor < after:
        size = _size(buffer, cursor, after)
        cursor = after + 1 if size is None else size[0] + size[1]
    elif v5:
        cursor = after + 1
    if cursor > after or (qos and not packet_id):
        raise BadPacket("it sends a PUBLISH that is cut short")
    return Inbound(buffer[start:topic_end], buffer[cursor:after], packet_id, bool(first & _DUP), bool(first & _RETAIN))
