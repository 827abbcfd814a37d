"""Any datagrams at all: the CoAP door lives, answers little, and takes the next good frame."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from random import Random
from typing import cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from citysense import wire
from citysense.clock import SystemClock
from citysense_gateway.coap.amplification import FACTOR
from citysense_gateway.coap.door import CoapDoor, CoapKeys
from citysense_gateway.coap.dtls import DtlsLayer
from citysense_gateway.coap.exchanges import MAX_OPTIONS, Exchanges, few_options
from citysense_gateway.coap.oscore_store import OscoreStore, Window
from citysense_gateway.coap.transport import DatagramCounters, Peer
from citysense_gateway.frame import Done, Frame, Kind, Reason, Verdict

OSCORE = wire.Oscore(secret=b"s" * 16, salt=b"", sender=b"\x01", recipient=b"\x05", context=b"")
GOOD = b"\x41\x02\xff\xffg\xb2v1\x05gauge\x06report\x11\x32\xff{}"


class Line:
    """A peer that counts what it is sent."""

    name = "192.0.2.7:4000"
    key: Hashable = ("192.0.2.7", 4000)
    device = None

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def send(self, data: bytes) -> None:
        self.sent.append(data)


class Sink:
    def __init__(self) -> None:
        self.stored = 0

    def deliver(self, frame: Frame, done: Done, *, reason: Reason | None = None, detail: str = "") -> None:
        if reason is None and frame.payload == b"{}" and frame.device == "gauge":
            self.stored += 1
            verdict = Verdict(kind=Kind.STORED)
        else:
            verdict = Verdict(kind=Kind.REJECTED, reason=reason or Reason.UNDECODABLE, detail="what was wrong" * 20)
        asyncio.get_running_loop().call_soon(done, verdict)

    async def accept(self, frame: Frame) -> Verdict:
        raise AssertionError("the door delivers")

    async def refuse(self, frame: Frame, reason: Reason, detail: str) -> Verdict:
        raise AssertionError("the door delivers")


class Numbers:
    async def open(self) -> dict[bytes, Window]:
        return {}

    def take(self) -> int:
        return 7

    async def close(self, windows: object) -> None: ...


def option(delta: int, value: bytes) -> bytes:
    head, extended = (delta, b"") if delta < 13 else (13, bytes([delta - 13])) if delta < 269 else (14, b"\0\x1f")
    length, more = (len(value), b"") if len(value) < 13 else (13, bytes([len(value) - 13]))
    return bytes([head << 4 | length]) + extended + more + value


options = st.lists(
    st.builds(
        option, st.sampled_from([0, 1, 3, 6, 8, 9, 11, 12, 13, 15, 23, 27, 60, 252, 258]), st.binary(max_size=20)
    ),
    max_size=6,
).map(b"".join)
paths = st.sampled_from([b"", b"\xb2v1\x05gauge\x06report", b"\xb2v1\x05gauge\x04down", b"\xbb.well-known\x04core"])
requests = st.builds(
    lambda first, code, mid, token, path, rest, payload: (
        bytes([0x40 | first << 4 | len(token), code]) + mid + token + path + rest + payload
    ),
    st.integers(0, 3),
    st.sampled_from([0, 1, 2, 4, 5, 0x44, 0x45, 0xE1, 0xFF]),
    st.binary(min_size=2, max_size=2),
    st.binary(max_size=8),
    paths,
    options,
    st.one_of(st.just(b""), st.binary(max_size=60).map(lambda body: b"\xff" + body)),
)
datagrams = st.one_of(requests, st.binary(max_size=80))


async def survive(received: list[bytes]) -> None:
    sink, line = Sink(), Line()
    door = CoapDoor(
        sink=sink,
        known=lambda device: device == "gauge",
        clock=SystemClock(),
        random=Random(1),
        keys=CoapKeys(psk=lambda device: None, oscore=lambda: {"lock": OSCORE}),
        store=cast(OscoreStore, Numbers()),
    )
    await door.start("127.0.0.1", 0)
    try:
        for data in received:
            line.sent.clear()
            door._exchanges.received(data, cast(Peer, line))
            for _ in range(3):
                await asyncio.sleep(0)
            assert sum(map(len, line.sent)) <= FACTOR * len(data), line.sent
        before = sink.stored
        door._exchanges.received(GOOD, cast(Peer, line))
        await asyncio.sleep(0)
        assert sink.stored >= before
        assert line.sent[-1][1:5] == b"\x44\xff\xffg"
    finally:
        await door.stop()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(datagrams.filter(lambda data: data[2:4] != b"\xff\xff"), max_size=30))
def test_no_datagram_kills_the_door_or_draws_much(received: list[bytes]) -> None:
    asyncio.run(survive(received))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.builds(option, st.sampled_from([0, 1, 13, 300]), st.binary(max_size=30)), max_size=80))
def test_options_are_counted_as_the_library_reads_them(found: list[bytes]) -> None:
    data = b"\x42\x02\0\x01tk" + b"".join(found)
    assert few_options(data) == few_options(data + b"\xff" + b"\0" * 500) == (len(found) <= MAX_OPTIONS)


@pytest.mark.parametrize("body", [b"\0" * 65_000, b"\xb1a" + b"\x01a" * 32_000, b"\xb0" + b"\0" * 64_000])
async def test_thousands_of_options_are_not_read(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    line, counters = Line(), DatagramCounters()
    monkeypatch.setattr("citysense_gateway.coap.exchanges.Message", None)
    exchanges = Exchanges(serve=lambda request: None, clock=SystemClock(), random=Random(1), counters=counters)
    exchanges.received(b"\x40\x01\0\x01" + body, cast(Peer, line))
    assert (counters.malformed, line.sent) == (1, [])


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=100),
            # Records of every type and epoch, greetings among them.
            st.builds(
                lambda kind, epoch, body: (
                    bytes([kind, 254, 253]) + epoch + b"\0\0\0\0\0\x01" + len(body).to_bytes(2, "big") + body
                ),
                st.sampled_from([20, 21, 22, 23, 24, 25]),
                st.sampled_from([b"\0\0", b"\0\1"]),
                st.binary(max_size=80).map(lambda body: b"\x01" + body),
            ),
        ),
        max_size=20,
    )
)
def test_no_datagram_kills_dtls(received: list[bytes]) -> None:
    pytest.importorskip("mbedtls.tls")
    line, plain = Line(), list[bytes]()
    layer = DtlsLayer(psk=lambda device: b"k" * 16, arrived=lambda data, peer: plain.append(data), clock=SystemClock())
    layer.start()
    for data in received:
        layer.received(data, cast(Peer, line))
    assert plain == []
    assert layer.counters.sessions == 0
