"""The MQTT door on real sockets: hand-made bytes against a pipeline that answers as told."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from citysense.clock import Clock, SetClock, SystemClock
from citysense.progress import Pulse
from citysense_gateway.frame import Done, Frame, Kind, Reason, Receipt, Verdict
from citysense_gateway.mqtt.door import MqttDoor
from citysense_gateway.mqtt.limits import MqttSettings

STORED = Verdict(kind=Kind.STORED)
UP = "cs/v1/gauge-1/up/report"
V3, V5 = 4, 5
both_versions = pytest.mark.parametrize("version", [V3, V5])


@dataclass
class Pipeline:
    """Answers frames through `judge`, but only while `gate` is open."""

    judge: Callable[[Frame], Verdict] = lambda frame: STORED
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    frames: list[Frame] = field(default_factory=list)
    refused: list[tuple[Frame, Reason, str]] = field(default_factory=list)
    arrived: asyncio.Condition = field(default_factory=asyncio.Condition)
    under_way: set[asyncio.Task[None]] = field(default_factory=set)

    def deliver(self, frame: Frame, done: Done, *, reason: Reason | None = None, detail: str = "") -> None:
        task = asyncio.get_running_loop().create_task(self._take(frame, done, reason, detail))
        self.under_way.add(task)
        task.add_done_callback(self.under_way.discard)

    async def _take(self, frame: Frame, done: Done, reason: Reason | None, detail: str) -> None:
        done(await (self.accept(frame) if reason is None else self.refuse(frame, reason, detail)))

    async def accept(self, frame: Frame) -> Verdict:
        self.frames.append(frame)
        async with self.arrived:
            self.arrived.notify_all()
        await self.gate.wait()
        return self.judge(frame)

    async def refuse(self, frame: Frame, reason: Reason, detail: str) -> Verdict:
        self.refused.append((frame, reason, detail))
        return Verdict(kind=Kind.REJECTED, reason=reason, detail=detail)

    async def wait_for(self, count: int) -> None:
        async with asyncio.timeout(10), self.arrived:
            await self.arrived.wait_for(lambda: len(self.frames) >= count)


def check_password(device: str, secret: bytes) -> bool:
    return device.startswith("gauge-") and secret == b"right"


@asynccontextmanager
async def serving(
    pipeline: Pipeline,
    *,
    clock: Clock | None = None,
    tls: ssl.SSLContext | None = None,
    pulse: Pulse | None = None,
    **settings: Any,
) -> AsyncIterator[MqttDoor]:
    door = MqttDoor(
        sink=pipeline,
        check_password=check_password,
        topic_rights=lambda device, topic: None,
        clock=clock or SystemClock(),
        settings=MqttSettings(**({"sweep_every": 0.02, "linger": 0.5} | settings)),
        pulse=pulse,
    )
    await door.start("127.0.0.1", 0, tls=tls)
    try:
        yield door
    finally:
        await door.stop()


@pytest.fixture
def pipeline() -> Pipeline:
    one = Pipeline()
    one.gate.set()
    return one


def packet(first: int, body: bytes) -> bytes:
    length, head = len(body), bytearray([first])
    while True:
        length, low = divmod(length, 128)
        head.append(low | (0x80 if length else 0))
        if not length:
            return bytes(head) + body


def words(text: str) -> bytes:
    return len(text.encode()).to_bytes(2, "big") + text.encode()


def connect_bytes(version: int, *, client_id: str = "c1", device: str = "gauge-1", keep_alive: int = 60) -> bytes:
    head = words("MQTT") + bytes([version, 0xC2]) + keep_alive.to_bytes(2, "big")
    none = b"\x00" if version == V5 else b""
    return packet(0x10, head + none + words(client_id) + words(device) + words("right"))


def publish_bytes(version: int, number: int, *, dup: bool = False, topic: str = UP, payload: bytes = b"{}") -> bytes:
    none = b"\x00" if version == V5 else b""
    return packet(0x3A if dup else 0x32, words(topic) + number.to_bytes(2, "big") + none + payload)


class Peer:
    """A socket that speaks packets. Every wait is bounded."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def receive(self) -> bytes:
        """The next packet as (first byte + body), or nothing at the end."""
        async with asyncio.timeout(10):
            try:
                first = await self._reader.readexactly(1)
                length = (await self._reader.readexactly(1))[0]
                assert length < 128, "no test here waits for a long packet"
                return first + await self._reader.readexactly(length)
            except (asyncio.IncompleteReadError, ConnectionResetError):
                return b""

    @property
    def unsent(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return self._writer.transport.get_write_buffer_size()

    def cut(self) -> None:
        self._writer.transport.abort()

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionResetError, BrokenPipeError, ssl.SSLError):
            await self._writer.wait_closed()


@asynccontextmanager
async def raw_peer(door: MqttDoor, **options: Any) -> AsyncIterator[Peer]:
    peer = Peer(*await asyncio.open_connection("127.0.0.1", door.port, **options))
    try:
        yield peer
    finally:
        await peer.close()


@asynccontextmanager
async def peer_online(door: MqttDoor, version: int, **connect: Any) -> AsyncIterator[Peer]:
    async with raw_peer(door) as peer:
        peer.send(connect_bytes(version, **connect))
        connack = await peer.receive()
        assert connack[:3] == b"\x20\x00\x00"
        yield peer


def connections_of(door: MqttDoor) -> int:
    return door.counters.connections


@both_versions
async def test_pubacks_come_in_order_and_only_after_the_verdict(pipeline: Pipeline, version: int) -> None:
    pipeline.gate.clear()
    async with serving(pipeline) as door, peer_online(door, version) as peer:
        peer.send(b"".join(publish_bytes(version, n) for n in range(1, 101)) + b"\xc0\x00")
        assert await peer.receive() == b"\xd0"  # the ping overtakes: no publish has a verdict yet
        assert len(pipeline.frames) == 100
        pipeline.gate.set()
        assert [await peer.receive() for _ in range(100)] == [b"\x40" + n.to_bytes(2, "big") for n in range(1, 101)]
        peer.send(b"\xc0\x00")
        assert await peer.receive() == b"\xd0"


@both_versions
async def test_storage_impossible_is_told_or_cut(pipeline: Pipeline, version: int) -> None:
    pipeline.judge = lambda frame: Verdict(kind=Kind.UNAVAILABLE)
    async with serving(pipeline) as door, peer_online(door, version) as peer:
        peer.send(publish_bytes(version, 1))
        assert await peer.receive() == (b"\x40\x00\x01\x97" if version == V5 else b"")


async def test_an_oversize_packet_ends_with_its_reason(pipeline: Pipeline) -> None:
    async with serving(pipeline, max_packet=1_000) as door:
        async with peer_online(door, V5) as peer:
            peer.send(publish_bytes(V5, 1, payload=bytes(100_000)))
            assert await peer.receive() == b"\xe0\x95"
            assert await peer.receive() == b""
        async with peer_online(door, V3) as peer:
            peer.send(publish_bytes(V3, 1, payload=bytes(1_000)))
            assert await peer.receive() == b""
    assert door.counters.closed["too_large"] == 2
    assert pipeline.frames == []
    sizes = ["a packet of 100032 bytes, at most 1000 are taken", "a packet of 1030 bytes, at most 1000 are taken"]
    assert [detail for _, _, detail in pipeline.refused] == sizes
    for frame, reason, _ in pipeline.refused:
        assert (frame.device, frame.payload, reason) == ("gauge-1", b"", Reason.TOO_LARGE)


@both_versions
@pytest.mark.parametrize("topic", ["cs/v1/gauge-1/up/+", "cs/v1/gauge-1/up/#", "cs/v1/gauge-1/up/a\0b"])
async def test_a_topic_that_ends_the_connection_leaves_a_trace(pipeline: Pipeline, version: int, topic: str) -> None:
    async with serving(pipeline) as door, peer_online(door, version) as peer:
        peer.send(publish_bytes(version, 1, topic=topic))
        if version == V5:
            assert await peer.receive() == (b"\xe0\x81" if "\0" in topic else b"\xe0\x90")
        assert await peer.receive() == b""
    ((frame, reason, _),) = pipeline.refused
    assert (frame.device, frame.channel) == ("gauge-1", topic.replace("\0", "\ufffd"))
    assert reason is Reason.FOREIGN_TOPIC
    assert pipeline.frames == []
    assert door.counters.connections == 0


@both_versions
async def test_too_many_filters_end_the_connection(pipeline: Pipeline, version: int) -> None:
    none = b"\x00" if version == V5 else b""
    async with serving(pipeline) as door, peer_online(door, version) as peer:
        peer.send(packet(0x82, b"\x00\x01" + none + (words("t") + b"\x00") * 40_000))
        if version == V5:
            assert await peer.receive() == b"\xe0\x97"
        assert await peer.receive() == b""
    assert door.counters.closed["too_many_filters"] == 1


async def test_the_reason_arrives_even_while_the_peer_still_sends(pipeline: Pipeline) -> None:
    async with serving(pipeline, max_packet=1_000) as door, peer_online(door, V5) as peer:
        peer.send(publish_bytes(V5, 1, payload=bytes(8_000_000)))
        async with asyncio.timeout(10):
            while peer.unsent:
                await asyncio.sleep(0)
        for _ in range(100):  # were the connection reset, the peer would know by now and read no more
            await asyncio.sleep(0)
        assert await peer.receive() == b"\xe0\x95"
        assert await peer.receive() == b""


async def test_a_stranger_may_not_make_us_keep_much(pipeline: Pipeline) -> None:
    async with serving(pipeline) as door, raw_peer(door) as peer:
        peer.send(packet(0x10, bytes(20_000))[:10])
        assert await peer.receive() == b""
    assert door.counters.closed == {"too_large": 1}


async def test_half_a_packet_and_silence_ends_although_keep_alive_is_off(pipeline: Pipeline) -> None:
    clock = SetClock(1_000)
    async with serving(pipeline, clock=clock) as door, peer_online(door, V5, keep_alive=0) as peer:
        peer.send(b"\xc0\x00" + publish_bytes(V5, 1)[:5])
        assert await peer.receive() == b"\xd0"
        clock.advance(60_000)
        assert await peer.receive() == b"\xe0\x81"
    assert door.counters.closed["packet_timeout"] == 1


async def test_keep_alive_is_enforced_and_a_ping_renews_it(pipeline: Pipeline) -> None:
    clock = SetClock(1_000)
    async with serving(pipeline, clock=clock) as door, peer_online(door, V5, keep_alive=10) as peer:
        for _ in range(3):
            clock.advance(14_000)
            peer.send(b"\xc0\x00")
            assert await peer.receive() == b"\xd0"
        clock.advance(15_001)
        assert await peer.receive() == b"\xe0\x8d"


class Lame(SetClock):
    """A clock that tells no time of day any more: what needs it fails each time."""

    lame = False

    def now_ms(self) -> int:
        if self.lame:
            raise LookupError("as told")
        return super().now_ms()

    def monotonic(self) -> float:
        return super().now_ms() / 1000


async def test_a_defect_in_the_sweep_ends_neither_keep_alive_nor_the_sign_of_life(pipeline: Pipeline) -> None:
    clock, pulse = Lame(1_000), Pulse()
    async with serving(pipeline, clock=clock, pulse=pulse) as door, peer_online(door, V5, keep_alive=10) as peer:
        clock.lame = True
        beats = pulse.beats
        async with asyncio.timeout(10):
            while pulse.beats < beats + 3:
                await asyncio.sleep(0.01)
        clock.lame = False
        assert not pulse.resting
        clock.advance(15_001)
        assert await peer.receive() == b"\xe0\x8d"
    assert pulse.resting


async def test_connect_must_come_in_time(pipeline: Pipeline) -> None:
    clock = SetClock(1_000)
    async with serving(pipeline, clock=clock) as door, raw_peer(door) as peer:
        peer.send(connect_bytes(V5)[:-1])
        while not door.counters.connections_accepted:
            await asyncio.sleep(0)
        clock.advance(10_000)
        assert await peer.receive() == b""
    assert door.counters.closed["connect_timeout"] == 1


@pytest.mark.parametrize(
    "noise", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00", bytes(100), publish_bytes(V3, 1)]
)
async def test_garbage_before_connect_is_cut(pipeline: Pipeline, noise: bytes) -> None:
    async with serving(pipeline) as door, raw_peer(door) as peer:
        peer.send(noise)
        assert await peer.receive() == b""
    assert door.counters.closed == {"unexpected_packet": 1}
    assert pipeline.frames == []


@both_versions
async def test_a_second_connection_takes_over_only_from_the_same_device(pipeline: Pipeline, version: int) -> None:
    async with serving(pipeline) as door, peer_online(door, version) as first:
        async with peer_online(door, version, device="gauge-2") as other:
            first.send(b"\xc0\x00")
            assert await first.receive() == b"\xd0"
            async with peer_online(door, version) as second:
                if version == V5:
                    assert await first.receive() == b"\xe0\x8e"
                assert await first.receive() == b""
                for alive in (second, other):
                    alive.send(b"\xc0\x00")
                    assert await alive.receive() == b"\xd0"
                assert door.disconnect("gauge-1") == 1
                assert await second.receive() == (b"\xe0\x98" if version == V5 else b"")
    assert door.counters.closed["taken_over"] == 1
    assert door.disconnect("gauge-1") == 0


async def test_too_much_under_way_stops_the_reading_and_loses_nothing(pipeline: Pipeline) -> None:
    pipeline.gate.clear()
    async with serving(pipeline, receive_maximum=10) as door, peer_online(door, V3) as peer:
        peer.send(b"".join(publish_bytes(V3, n) for n in range(1, 1_001)))
        await pipeline.wait_for(10)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(pipeline.frames) == 10
        pipeline.gate.set()
        assert [await peer.receive() for _ in range(1_000)] == [b"\x40" + n.to_bytes(2, "big") for n in range(1, 1_001)]


async def test_while_too_much_is_under_way_the_socket_is_not_read(pipeline: Pipeline) -> None:
    pipeline.gate.clear()
    async with serving(pipeline, receive_maximum=1) as door, peer_online(door, V3) as peer:
        # More than both kernel buffers hold; a door that read on would swallow it within 200 turns of the loop.
        peer.send(b"".join(publish_bytes(V3, n, payload=bytes(100_000)) for n in range(1, 201)))
        await pipeline.wait_for(1)
        for _ in range(2_000):
            await asyncio.sleep(0)
        assert peer.unsent > 0
        pipeline.gate.set()
        assert [await peer.receive() for _ in range(200)] == [b"\x40" + n.to_bytes(2, "big") for n in range(1, 201)]


async def test_a_peer_that_does_not_read_is_cut(pipeline: Pipeline) -> None:
    pipeline.judge = lambda frame: Verdict(kind=Kind.REJECTED, reason=Reason.UNDECODABLE, detail="x" * 200)
    async with serving(pipeline, output_limit=10_000) as door, raw_peer(door, limit=100) as peer:
        peer.send(connect_bytes(V5))
        async with asyncio.timeout(60):
            while not door.counters.closed:
                peer.send(b"".join(publish_bytes(V5, n) for n in range(1, 500)))
                await asyncio.sleep(0)
    assert door.counters.closed == {"slow_reader": 1}


async def test_no_more_connections_than_allowed(pipeline: Pipeline) -> None:
    async with serving(pipeline, max_connections=1) as door:
        async with peer_online(door, V3), raw_peer(door) as second:
            assert await second.receive() == b""
        async with asyncio.timeout(10):
            while connections_of(door):
                await asyncio.sleep(0)
        async with peer_online(door, V3):
            assert connections_of(door) == 1


async def test_one_address_may_not_hold_all_connections_without_proving_anything(pipeline: Pipeline) -> None:
    async with serving(pipeline, max_strangers=2, stranger_rate=1_000_000) as door:
        # Who has proved who it is counts no more.
        async with peer_online(door, V3), peer_online(door, V3, client_id="c2"):
            async with raw_peer(door) as stranger, raw_peer(door):
                async with asyncio.timeout(10):
                    while connections_of(door) < 4:
                        await asyncio.sleep(0)
                async with raw_peer(door) as third:
                    assert await third.receive() == b""
                assert door.counters.closed == {"too_many_strangers": 1}
                elsewhere = {"local_addr": ("127.0.0.2", 0)}
                async with raw_peer(door, **elsewhere) as other:
                    other.send(connect_bytes(V3, client_id="c3"))
                    assert (await other.receive())[:1] == b"\x20"
                stranger.cut()
                async with asyncio.timeout(10):
                    while connections_of(door) > 3:
                        await asyncio.sleep(0)
                async with peer_online(door, V3, client_id="c4"):
                    pass
    assert door.counters.closed["too_many_strangers"] == 1


async def test_a_lost_peer_does_not_lose_its_frame(pipeline: Pipeline) -> None:
    pipeline.gate.clear()
    async with serving(pipeline) as door, peer_online(door, V3) as peer:
        peer.send(publish_bytes(V3, 1))
        await pipeline.wait_for(1)
        peer.cut()
        async with asyncio.timeout(10):
            while not door.counters.closed:
                await asyncio.sleep(0)
        assert connections_of(door) == 1  # it counts until the pipeline has answered
        pipeline.gate.set()
        async with asyncio.timeout(10):
            while connections_of(door):
                await asyncio.sleep(0)


async def test_stop_answers_what_is_under_way_and_leaves_nothing_behind(pipeline: Pipeline) -> None:
    before = asyncio.all_tasks()
    pipeline.gate.clear()
    async with serving(pipeline) as door, peer_online(door, V5) as peer, raw_peer(door) as silent:
        port = door.port
        peer.send(publish_bytes(V5, 1))
        await pipeline.wait_for(1)
        stopping = asyncio.create_task(door.stop())
        await asyncio.sleep(0)
        peer.send(publish_bytes(V5, 2))
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(pipeline.frames) == 1
        pipeline.gate.set()
        assert await peer.receive() == b"\x40\x00\x01"
        assert await peer.receive() == b"\xe0\x8b"
        assert await peer.receive() == b""
        assert await silent.receive() == b""
        await peer.close()
        await stopping
        assert door.counters.connections == 0
        assert asyncio.all_tasks() == before
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", port)


async def test_stop_gives_up_on_a_verdict_that_never_comes(pipeline: Pipeline) -> None:
    before = asyncio.all_tasks()
    pipeline.gate.clear()
    async with serving(pipeline, stop_grace=0.05, linger=0.05) as door, peer_online(door, V3) as peer:
        peer.send(publish_bytes(V3, 1))
        await pipeline.wait_for(1)
        await door.stop()
        assert await peer.receive() == b""
        pipeline.gate.set()
        await asyncio.gather(*pipeline.under_way)
        assert asyncio.all_tasks() == before


async def test_a_taken_port_is_an_oserror(pipeline: Pipeline) -> None:
    async with serving(pipeline) as door:
        second = MqttDoor(
            sink=pipeline,
            check_password=check_password,
            topic_rights=lambda device, topic: None,
            clock=SystemClock(),
            settings=MqttSettings(),
        )
        with pytest.raises(OSError):
            await second.start("127.0.0.1", door.port)
        await second.stop()


def tls_contexts(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """(server, client) contexts around one self-signed certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "door")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = folder / "door.pem"
    pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    return server, ssl.create_default_context(cafile=str(pem))


async def test_tls_carries_the_same_conversation(pipeline: Pipeline, tmp_path: Path) -> None:
    server, client = tls_contexts(tmp_path)
    async with serving(pipeline, tls=server) as door, raw_peer(door, ssl=client) as peer:
        peer.send(connect_bytes(V5))
        assert (await peer.receive())[:3] == b"\x20\x00\x00"
        peer.send(publish_bytes(V5, 1))
        assert await peer.receive() == b"\x40\x00\x01"
        door.disconnect("gauge-1")
        assert await peer.receive() == b"\xe0\x98"
        assert await peer.receive() == b""


async def test_a_device_with_a_gap_hears_its_receipt_again_until_the_gap_is_closed(pipeline: Pipeline) -> None:
    receipts = {b"0": 0, b"2": 0, b"1": 2}
    pipeline.judge = lambda frame: Verdict(kind=Kind.STORED, receipt=Receipt(boot=1, seq=receipts[frame.payload]))
    async with serving(pipeline, repeat_receipt_after=0.05) as door, peer_online(door, V3) as peer:
        peer.send(packet(0x82, b"\x00\x01" + words("cs/v1/gauge-1/ack") + b"\x00"))
        assert await peer.receive() == b"\x90\x00\x01\x00"

        async def receipt() -> int:
            while not (got := await peer.receive()).startswith(b"\x30"):
                assert got.startswith(b"\x40"), got
            return int(json.loads(got[1 + 2 + len("cs/v1/gauge-1/ack") :])["seq"])

        peer.send(publish_bytes(V3, 1, payload=b"0"))
        assert await receipt() == 0
        peer.send(publish_bytes(V3, 2, payload=b"2"))
        assert [await receipt() for _ in range(3)] == [0, 0, 0], "the first is the answer, the others are repeats"
        peer.send(publish_bytes(V3, 3, payload=b"1"))
        while await receipt() != 2:
            pass  # a repeat that was under way
