"""Raw MQTT for tests: packets put together byte by byte, and a socket that sends and hears them.

Written from the specifications and sharing nothing with the gateway's codec, so that both cannot be wrong together.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

V3, V5 = 4, 5
PINGREQ, PINGRESP = b"\xc0\x00", b"\xd0"
PATIENCE_S = 5


@contextlib.contextmanager
def case(*what: object) -> Iterator[None]:
    """One case of many in a test; a failure says which."""
    try:
        yield
    except BaseException as failure:
        failure.add_note(f"with {', '.join(repr(one) for one in what)}")
        raise


def varint(value: int) -> bytes:
    out = bytearray()
    while True:
        value, low = divmod(value, 128)
        out.append(low | (0x80 if value else 0))
        if not value:
            return bytes(out)


def read_varint(data: bytes, at: int = 0) -> tuple[int, int]:
    """(value, position behind it)"""
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            return value, at


def packet(first: int, body: bytes = b"") -> bytes:
    return bytes([first]) + varint(len(body)) + body


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return len(raw).to_bytes(2, "big") + raw


def number(value: int, size: int = 2) -> bytes:
    return value.to_bytes(size, "big")


def properties(version: int, raw: bytes = b"") -> bytes:
    """A property set with its length in front; nothing in 3.1.1, which has none."""
    return varint(len(raw)) + raw if version == V5 else b""


@dataclass(frozen=True)
class Will:
    topic: str | bytes
    payload: bytes = b"gone"
    qos: int = 0
    retain: bool = False
    properties: bytes = b""


def connect(
    version: int,
    *,
    client_id: str | bytes = "c1",
    device: str | bytes | None = "gauge-1",
    secret: bytes | None = b"right",
    clean: bool = True,
    keep_alive: int = 60,
    will: Will | None = None,
    props: bytes = b"",
    name: str = "MQTT",
    level: int | None = None,
    flags: int | None = None,
    tail: bytes = b"",
) -> bytes:
    """CONNECT; `flags` overrides the connect flags that follow from the rest, `tail` goes behind the payload."""
    worked_out = (0x80 if device is not None else 0) | (0x40 if secret is not None else 0) | (0x02 if clean else 0)
    payload = text(client_id)
    if will is not None:
        worked_out |= 0x04 | will.qos << 3 | (0x20 if will.retain else 0)
        payload += properties(version, will.properties) + text(will.topic) + text(will.payload)
    payload += b"" if device is None else text(device)
    payload += b"" if secret is None else text(secret)
    head = text(name) + bytes([version if level is None else level, worked_out if flags is None else flags])
    return packet(0x10, head + number(keep_alive) + properties(version, props) + payload + tail)


def publish(
    version: int,
    topic: str | bytes,
    payload: bytes = b"{}",
    *,
    qos: int = 1,
    packet_id: int = 1,
    dup: bool = False,
    retain: bool = False,
    props: bytes = b"",
) -> bytes:
    first = 0x30 | (8 if dup else 0) | qos << 1 | (1 if retain else 0)
    return packet(first, text(topic) + (number(packet_id) if qos else b"") + properties(version, props) + payload)


def subscribe(version: int, packet_id: int, *filters: tuple[str | bytes, int], props: bytes = b"") -> bytes:
    body = b"".join(text(wanted) + bytes([options]) for wanted, options in filters)
    return packet(0x82, number(packet_id) + properties(version, props) + body)


def unsubscribe(version: int, packet_id: int, *filters: str | bytes, props: bytes = b"") -> bytes:
    return packet(0xA2, number(packet_id) + properties(version, props) + b"".join(text(one) for one in filters))


def answer(kind: int, packet_id: int, code: int | None = None) -> bytes:
    """PUBACK 0x40, PUBREC 0x50, PUBREL 0x62 or PUBCOMP 0x70 from the client; `code` only in MQTT 5."""
    return packet(kind, number(packet_id) + (b"" if code is None else bytes([code])))


def disconnect(version: int, code: int = 0, props: bytes = b"") -> bytes:
    if version == V3 or not (code or props):
        return b"\xe0\x00"
    return packet(0xE0, bytes([code]) + (properties(V5, props) if props else b""))


@dataclass(frozen=True)
class Publication:
    """A PUBLISH from the server."""

    topic: str
    payload: bytes
    qos: int
    dup: bool
    retain: bool
    packet_id: int | None
    props: dict[int, list[bytes]]


# Sizes of properties on the wire; 0 means a length in front, -1 two of those, -2 a variable byte integer.
_SIZES = {
    0x01: 1, 0x02: 4, 0x03: 0, 0x08: 0, 0x09: 0, 0x0B: -2, 0x11: 4, 0x12: 0, 0x13: 2, 0x15: 0, 0x16: 0, 0x17: 1,
    0x18: 4, 0x19: 1, 0x1A: 0, 0x1C: 0, 0x1F: 0, 0x21: 2, 0x22: 2, 0x23: 2, 0x24: 1, 0x25: 1, 0x26: -1, 0x27: 4,
    0x28: 1, 0x29: 1, 0x2A: 1,
}  # fmt: skip


def read_properties(data: bytes, at: int) -> tuple[dict[int, list[bytes]], int]:
    """(raw values by identifier, position behind the set). Fails on anything that is not a property set."""
    length, at = read_varint(data, at)
    end, found = at + length, dict[int, list[bytes]]()
    assert end <= len(data), "the property length runs past the packet"
    while at < end:
        name, at = data[at], at + 1
        size = _SIZES[name]
        start = at
        if size == -2:
            _, at = read_varint(data, at)
        elif size > 0:
            at += size
        else:
            for _ in range(1 - size):
                at += 2 + int.from_bytes(data[at : at + 2], "big")
        found.setdefault(name, []).append(data[start:at] if size else data[start + 2 : at])
    assert at == end
    return found, end


def read_publish(version: int, data: bytes) -> Publication:
    assert data[0] & 0xF0 == 0x30, f"not a PUBLISH: {data.hex()}"
    qos = data[0] >> 1 & 3
    at = 3 + int.from_bytes(data[1:3], "big")
    topic = data[3:at].decode()
    packet_id = None
    if qos:
        packet_id, at = int.from_bytes(data[at : at + 2], "big"), at + 2
    props: dict[int, list[bytes]] = {}
    if version == V5:
        props, at = read_properties(data, at)
    return Publication(topic, data[at:], qos, bool(data[0] & 8), bool(data[0] & 1), packet_id, props)


class Peer:
    """A socket that speaks packets. Every wait is bounded."""

    def __init__(self, version: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.version = version
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int, version: int) -> Peer:
        return cls(version, *await asyncio.open_connection("127.0.0.1", port))

    def send(self, *packets: bytes) -> None:
        self._writer.write(b"".join(packets))

    async def receive(self) -> bytes:
        """The next packet as its first byte and its body, or nothing at the end of the connection."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                head = await self._reader.readexactly(2)
                while head[-1] >= 0x80:
                    head += await self._reader.readexactly(1)
                length, _ = read_varint(head, 1)
                assert varint(length) == head[1:], "the remaining length is not in its shortest form"
                return head[:1] + await self._reader.readexactly(length)
            except (asyncio.IncompleteReadError, ConnectionResetError):
                return b""

    async def publication(self) -> Publication:
        return read_publish(self.version, await self.receive())

    async def quiet(self) -> None:
        """Nothing was on its way: a ping is answered at once."""
        self.send(PINGREQ)
        assert await self.receive() == PINGRESP

    async def ended(self) -> int | None:
        """The connection ends; the code of the DISCONNECT before, if one came. Nothing else may come."""
        last = await self.receive()
        if not last:
            return None
        assert last[0] == 0xE0, f"neither the end nor DISCONNECT: {last.hex()}"
        assert self.version == V5, "3.1.1 servers have no DISCONNECT"
        assert await self.receive() == b""
        if len(last) > 2:
            props, _ = read_properties(last, 2)
            assert 0x11 not in props
        return last[1]

    async def refused(self) -> int | None:
        """CONNECT was not accepted; the code of CONNACK, if one came, and the connection ends."""
        first = await self.receive()
        if not first:
            return None
        assert first[0] == 0x20, f"neither the end nor CONNACK: {first.hex()}"
        assert first[1] == 0, "a refusal with a session present"
        assert first[2] != 0
        assert await self.receive() == b""
        return first[2]

    async def sub(self, *filters: tuple[str, int], packet_id: int = 77) -> bytes:
        """Subscribe; the codes of SUBACK."""
        self.send(subscribe(self.version, packet_id, *filters))
        suback = await self.receive()
        head = b"\x90" + number(packet_id) + (b"\x00" if self.version == V5 else b"")
        assert suback.startswith(head)
        return suback[len(head) :]

    def cut(self) -> None:
        """Break the connection without a word."""
        self._writer.transport.abort()

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            await self._writer.wait_closed()
