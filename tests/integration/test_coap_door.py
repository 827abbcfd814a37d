"""The CoAP door over real sockets: with the library's client, with raw datagrams, and with libcoap."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Callable
from random import Random

import aiocoap
import pytest
import pytest_asyncio
from aiocoap import Message

from citysense.clock import SetClock, SystemClock
from citysense.progress import Pulse
from citysense_gateway.coap.door import CoapDoor
from citysense_gateway.coap.frames import delivery_key
from citysense_gateway.fingerprint import Keyed, fingerprint
from citysense_gateway.frame import Done, Frame, Identity, Kind, Reason, Transport, Verdict
from citysense_profiles.reading import Decoded, Sample

STORED = Verdict(kind=Kind.STORED)
PAYLOAD = json.dumps({"boot": 3, "seq": 41, "v": {"water.level": 12.3}}).encode()


class Sink:
    """Remembers frames; gives the verdict it is told, as late as it is told."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.refused: list[tuple[Frame, Reason]] = []
        self.verdict: Callable[[Frame], Verdict] = lambda frame: STORED
        self.delay = 0.0
        self.gate: asyncio.Event | None = None
        self.committed: list[Frame] = []

    async def accept(self, frame: Frame) -> Verdict:
        self.frames.append(frame)
        if self.gate is not None:
            await self.gate.wait()
        if self.delay:
            await asyncio.sleep(self.delay)
        self.committed.append(frame)
        return self.verdict(frame)

    async def refuse(self, frame: Frame, reason: Reason, detail: str) -> Verdict:
        self.refused.append((frame, reason))
        return Verdict(kind=Kind.REJECTED, reason=reason, detail=detail)

    def deliver(self, frame: Frame, done: Done, *, reason: Reason | None = None, detail: str = "") -> None:
        steps = self.accept(frame) if reason is None else self.refuse(frame, reason, detail)
        task = asyncio.get_running_loop().create_task(steps)
        task.add_done_callback(lambda task: done(task.result()))


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest_asyncio.fixture
async def door(sink: Sink) -> AsyncIterator[CoapDoor]:
    door = CoapDoor(
        sink=sink,
        known=lambda device: device.startswith("gauge"),
        clock=SystemClock(),
        random=Random(7),
        max_payload=4096,
    )
    await door.start("127.0.0.1", 0)
    yield door
    await door.stop()


@pytest_asyncio.fixture
async def client() -> AsyncIterator[aiocoap.Context]:
    context = await aiocoap.Context.create_client_context(transports=["udp6"])
    yield context
    await context.shutdown()


async def ask(
    client: aiocoap.Context,
    door: CoapDoor,
    path: str,
    payload: bytes = PAYLOAD,
    content: int | None = 50,
    code: int = aiocoap.POST,
    echo: bytes | None = None,
) -> Message:
    request = Message(code=code, uri=f"coap://127.0.0.1:{door.port}{path}", payload=payload)
    if content is not None:
        request.opt.content_format = content
    request.opt.echo = echo
    return await asyncio.wait_for(client.request(request).response, 20)


def dotted(response: Message) -> str:
    return str(response.code.dotted)


async def test_a_frame_is_taken_and_described(client: aiocoap.Context, door: CoapDoor, sink: Sink) -> None:
    response = await ask(client, door, "/v1/gauge-001/report")
    assert dotted(response) == "2.04"
    assert response.payload == b""
    (frame,) = sink.committed
    assert (frame.transport, frame.identity) == (Transport.COAP, Identity.ASSERTED)
    assert (frame.device, frame.message, frame.channel) == ("gauge-001", "report", "/v1/gauge-001/report")
    assert (frame.payload, frame.content) == (PAYLOAD, 50)
    assert frame.source.startswith("127.0.0.1:")
    assert frame.delivery is not None
    assert frame.delivery.startswith(b"\x02" + frame.source.encode())


async def test_bytes_without_a_format(client: aiocoap.Context, door: CoapDoor, sink: Sink) -> None:
    assert dotted(await ask(client, door, "/v1/gauge-001/report", b"\x01\x02", None)) == "2.04"
    assert (sink.frames[0].payload, sink.frames[0].content) == (b"\x01\x02", 42)


async def test_replies_of_the_table(client: aiocoap.Context, door: CoapDoor, sink: Sink) -> None:
    async def with_verdict(verdict: Verdict) -> Message:
        sink.verdict = lambda frame: verdict
        return await ask(client, door, "/v1/gauge-001/report")

    assert dotted(await with_verdict(Verdict(kind=Kind.DUPLICATE))) == "2.04"
    bad = await with_verdict(Verdict(kind=Kind.REJECTED, reason=Reason.UNDECODABLE, detail="seq, offset 9: no number"))
    assert (dotted(bad), bad.payload) == ("4.00", b"seq, offset 9: no number")
    assert dotted(await with_verdict(Verdict(kind=Kind.REJECTED, reason=Reason.NO_MATCH))) == "4.00"
    assert dotted(await with_verdict(Verdict(kind=Kind.REJECTED, reason=Reason.NO_SUCH_MESSAGE))) == "4.04"
    stranger = await with_verdict(Verdict(kind=Kind.REJECTED, reason=Reason.UNKNOWN_DEVICE))
    assert dotted(stranger) == "4.01"
    full = await with_verdict(Verdict(kind=Kind.UNAVAILABLE))
    assert (dotted(full), full.opt.max_age) == ("5.03", 5)
    assert len(sink.frames) == 6
    assert dotted(await ask(client, door, "/v1/gauge-001")) == "4.04"
    assert dotted(await ask(client, door, "/v1/gauge 001/report")) == "4.04"
    assert dotted(await ask(client, door, "/v1/gauge-001/report", code=aiocoap.PUT)) == "4.05"
    assert dotted(await ask(client, door, "/v1/gauge-001/report", b"", None, aiocoap.GET)) == "4.05"
    odd = await ask(client, door, "/v1/gauge-001/report", content=0)
    assert dotted(odd) == "4.15"
    assert b"50" in odd.payload
    assert door.counters.refused == 5
    assert len(sink.frames) == 6


async def test_discovery(client: aiocoap.Context, door: CoapDoor) -> None:
    challenge = await ask(client, door, "/.well-known/core", b"", None, aiocoap.GET)
    # 22 bytes must not draw a page: the address shows first that it is where it says.
    assert (dotted(challenge), len(challenge.opt.echo), challenge.payload) == ("4.01", 8, b"")
    assert door.counters.challenged == 1
    response = await ask(client, door, "/.well-known/core", b"", None, aiocoap.GET, echo=challenge.opt.echo)
    assert (dotted(response), int(response.opt.content_format)) == ("2.05", 40)
    assert door.counters.refused == 0
    assert response.payload.startswith(b"</v1>;")


async def test_a_body_in_blocks(client: aiocoap.Context, door: CoapDoor, sink: Sink) -> None:
    body = bytes(range(256)) * 12
    response = await ask(client, door, "/v1/gauge-001/report", body, 42)
    assert dotted(response) == "2.04"
    assert [frame.payload for frame in sink.frames] == [body]
    assert door.counters.uploads == 0


async def test_a_body_in_blocks_that_is_too_large(client: aiocoap.Context, door: CoapDoor, sink: Sink) -> None:
    response = await ask(client, door, "/v1/gauge-001/report", b"x" * 4097, 42)
    assert (dotted(response), response.opt.size1) == ("4.13", 4096)
    assert sink.frames == []
    assert [reason for _, reason in sink.refused] == [Reason.TOO_LARGE]
    assert door.counters.uploads == 0


async def test_a_strangers_blocks_are_not_kept(client: aiocoap.Context, door: CoapDoor, sink: Sink) -> None:
    sink.verdict = lambda frame: Verdict(kind=Kind.REJECTED, reason=Reason.UNKNOWN_DEVICE)
    response = await ask(client, door, "/v1/stranger/report", b"x" * 3000, 42)
    assert dotted(response) == "4.01"
    assert [len(frame.payload) for frame in sink.frames] == [1024]


class Raw(asyncio.DatagramProtocol):
    """A device of our own making: sends the bytes it is told, collects what comes."""

    def __init__(self) -> None:
        self.inbox: asyncio.Queue[bytes] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.inbox.put_nowait(data)

    async def next(self) -> bytes:
        return await asyncio.wait_for(self.inbox.get(), 10)


@pytest_asyncio.fixture
async def raw(door: CoapDoor) -> AsyncIterator[tuple[asyncio.DatagramTransport, Raw]]:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(Raw, remote_addr=("127.0.0.1", door.port))
    yield transport, protocol
    transport.close()
    await asyncio.sleep(0)


CON, NON, ACK = 0, 1, 2


def post(
    message_id: int,
    token: bytes = b"\x07",
    *,
    kind: int = CON,
    device: bytes = b"gauge-001",
    payload: bytes = PAYLOAD,
) -> bytes:
    head = struct.pack("!BBH", 0x40 | kind << 4 | len(token), 2, message_id) + token
    return head + b"\xb2v1" + bytes([len(device)]) + device + b"\x06report" + b"\x11\x32\xff" + payload


def kind_code_id(data: bytes) -> tuple[int, int, int]:
    first, code, message_id = struct.unpack("!BBH", data[:4])
    return first >> 4 & 3, code, message_id


async def test_nothing_is_promised_before_the_commit(
    door: CoapDoor, sink: Sink, raw: tuple[asyncio.DatagramTransport, Raw]
) -> None:
    transport, device = raw
    sink.gate = asyncio.Event()
    transport.sendto(post(100))
    # The empty ACK: received, nothing promised.
    assert kind_code_id(await device.next()) == (ACK, 0, 100)
    assert sink.committed == []
    sink.gate.set()
    separate = await device.next()
    kind, code, message_id = kind_code_id(separate)
    assert (kind, code) == (CON, 0x44)
    assert len(sink.committed) == 1
    transport.sendto(struct.pack("!BBH", 0x60, 0, message_id))


async def test_a_slow_commit_ends_in_a_separate_response(client: aiocoap.Context, door: CoapDoor, sink: Sink) -> None:
    sink.delay = 0.5
    assert dotted(await ask(client, door, "/v1/gauge-001/report")) == "2.04"
    assert len(sink.committed) == 1


async def test_a_repeated_datagram_is_answered_again_but_taken_once(
    door: CoapDoor, sink: Sink, raw: tuple[asyncio.DatagramTransport, Raw]
) -> None:
    transport, device = raw
    transport.sendto(post(7))
    first = await device.next()
    transport.sendto(post(7))
    assert await device.next() == first
    assert kind_code_id(first) == (ACK, 0x44, 7)
    assert len(sink.frames) == 1
    assert door.counters.repeats == 1
    transport.sendto(post(8))
    await device.next()
    assert len(sink.frames) == 2
    assert sink.frames[0].delivery != sink.frames[1].delivery


OTHERS = {
    "another token": post(7, b"B"),
    "another device": post(7, b"A", device=b"gauge-002"),
    "another payload": post(7, b"A", payload=b'{"boot":4,"seq":0,"v":{"water.level":99.0}}'),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
async def test_another_request_with_the_same_message_id_is_no_repeat(
    door: CoapDoor, sink: Sink, raw: tuple[asyncio.DatagramTransport, Raw], other: bytes
) -> None:
    transport, device = raw
    transport.sendto(post(7, b"A"))
    assert (await device.next())[4:5] == b"A"
    transport.sendto(other)
    answer = await device.next()
    assert kind_code_id(answer) == (ACK, 0x44, 7)
    assert answer[4:5] == other[4:5]
    assert len(sink.committed) == 2
    assert door.counters.repeats == 0
    transport.sendto(other)
    assert await device.next() == answer
    assert len(sink.committed) == 2


async def test_a_late_reply_to_an_older_request_does_not_acknowledge_the_newer(
    door: CoapDoor, sink: Sink, raw: tuple[asyncio.DatagramTransport, Raw]
) -> None:
    transport, device = raw
    gates = {"gauge-001": asyncio.Event(), "gauge-002": asyncio.Event()}

    async def accept(frame: Frame) -> Verdict:
        sink.frames.append(frame)
        await gates[frame.device or ""].wait()
        return STORED

    sink.accept = accept  # type: ignore[method-assign]
    transport.sendto(post(7, b"A"))
    transport.sendto(post(7, b"B", device=b"gauge-002"))
    # Of two acknowledgements under way only the newer request's is left.
    assert kind_code_id(await device.next()) == (ACK, 0, 7)
    gates["gauge-001"].set()
    late = await device.next()
    kind, code, message_id = kind_code_id(late)
    assert (kind, code, late[4:5]) == (CON, 0x44, b"A")
    transport.sendto(struct.pack("!BBH", 0x60, 0, message_id))
    transport.sendto(post(7, b"B", device=b"gauge-002"))
    assert kind_code_id(await device.next()) == (ACK, 0, 7)
    gates["gauge-002"].set()
    kind, code, message_id = kind_code_id(await device.next())
    assert (kind, code) == (CON, 0x44)
    transport.sendto(struct.pack("!BBH", 0x60, 0, message_id))
    assert [frame.device for frame in sink.frames] == ["gauge-001", "gauge-002"]


async def test_half_uploads_of_one_socket_do_not_shut_out_another(
    client: aiocoap.Context, door: CoapDoor, sink: Sink, raw: tuple[asyncio.DatagramTransport, Raw]
) -> None:
    transport, device = raw
    # Path, Block1 (27) of number 0 with more to come and 16 bytes each, then Request-Tag (292).
    path = b"\xb2v1\x09gauge-001\x06report"
    for number in range(257):
        head = struct.pack("!BBH", 0x40, 2, number) + path + b"\xd1\x03\x08"
        transport.sendto(head + b"\xd2\xfc" + number.to_bytes(2, "big") + b"\xff" + b"x" * 16)
        assert kind_code_id(await device.next()) == (ACK, 0x5F, number)
    assert door.counters.uploads == 4
    assert dotted(await ask(client, door, "/v1/gauge-002/report", b"y" * 3000, 42)) == "2.04"
    assert [len(frame.payload) for frame in sink.committed] == [3000]


async def test_unconfirmed_requests_are_taken_too(
    door: CoapDoor, sink: Sink, raw: tuple[asyncio.DatagramTransport, Raw]
) -> None:
    transport, device = raw
    transport.sendto(post(9, kind=NON))
    kind, code, _ = kind_code_id(await device.next())
    assert (kind, code) == (NON, 0x44)


async def test_a_device_that_lost_interest_does_not_tear_out_its_frame(
    door: CoapDoor, sink: Sink, raw: tuple[asyncio.DatagramTransport, Raw]
) -> None:
    transport, device = raw
    sink.gate = asyncio.Event()
    transport.sendto(post(20, b""))
    assert kind_code_id(await device.next()) == (ACK, 0, 20)
    # The same (empty) token again: the library gives the first request up.
    transport.sendto(post(21, b""))
    assert kind_code_id(await device.next()) == (ACK, 0, 21)
    sink.gate.set()
    kind, code, message_id = kind_code_id(await device.next())
    assert (kind, code) == (CON, 0x44)
    transport.sendto(struct.pack("!BBH", 0x60, 0, message_id))
    assert len(sink.committed) == 2


MALFORMED = [
    b"\x40",
    b"\x00\x02\x00\x01",  # version 0
    b"\x4f\x02\x00\x01" + b"t" * 15,  # token of 15 bytes
    b"\x40\x02\x00\x01\xb4v1",  # option longer than the datagram
    b"\x40\x02\x00\x01\xf1",  # reserved option delta
    b"\x40\x02\x00\x01\xb2\xff\xfe\x01a\x01b",  # path that is not UTF-8
    b"GET / HTTP/1.1\r\n\r\n",
    b"\xff" * 600,
]


@pytest.mark.parametrize("garbage", MALFORMED, ids=[str(number) for number in range(len(MALFORMED))])
async def test_garbage_does_not_disturb_the_next(
    door: CoapDoor,
    sink: Sink,
    raw: tuple[asyncio.DatagramTransport, Raw],
    garbage: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    transport, device = raw
    transport.sendto(garbage)
    transport.sendto(post(31))
    assert kind_code_id(await device.next()) == (ACK, 0x44, 31)
    assert len(sink.frames) == 1
    assert door.counters.malformed == 1
    assert caplog.records == []


async def test_every_byte_flipped_once(
    door: CoapDoor, sink: Sink, raw: tuple[asyncio.DatagramTransport, Raw], caplog: pytest.LogCaptureFixture
) -> None:
    transport, device = raw
    good = post(500)
    for at in range(len(good)):
        for flip in (0x01, 0x80, 0xFF):
            transport.sendto(good[:at] + bytes([good[at] ^ flip]) + good[at + 1 :])
            transport.sendto(good[:at])
        await asyncio.sleep(0)
    while True:
        transport.sendto(post(61_000, b"last"))
        answer = await device.next()
        if kind_code_id(answer)[2] == 61_000:
            break
    assert kind_code_id(answer) == (ACK, 0x44, 61_000)
    assert [record for record in caplog.records if record.exc_info] == []


async def test_a_burst_is_answered_in_full(client: aiocoap.Context, door: CoapDoor, sink: Sink) -> None:
    answers = await asyncio.gather(*(ask(client, door, f"/v1/gauge-{i}/report") for i in range(200)))
    assert {dotted(answer) for answer in answers} == {"2.04"}
    assert sorted(frame.device or "" for frame in sink.committed) == sorted(f"gauge-{i}" for i in range(200))


async def test_too_much_under_way_is_refused_openly(client: aiocoap.Context, sink: Sink) -> None:
    door = CoapDoor(sink=sink, known=lambda device: True, clock=SystemClock(), max_in_flight=1)
    await door.start("127.0.0.1", 0)
    sink.gate = asyncio.Event()
    first = asyncio.create_task(ask(client, door, "/v1/gauge-1/report"))
    while not sink.frames:
        await asyncio.sleep(0)
    second = await ask(client, door, "/v1/gauge-2/report")
    assert (dotted(second), second.opt.max_age) == ("5.03", 5)
    assert door.counters.busy == 1
    sink.gate.set()
    assert dotted(await first) == "2.04"
    await door.stop()


async def test_stopping_answers_what_is_under_way(client: aiocoap.Context, sink: Sink) -> None:
    door = CoapDoor(sink=sink, known=lambda device: True, clock=SystemClock())
    await door.start("127.0.0.1", 0)
    sink.gate = asyncio.Event()
    waiting = asyncio.create_task(ask(client, door, "/v1/gauge-1/report"))
    while not sink.frames:
        await asyncio.sleep(0)
    stopping = asyncio.create_task(door.stop())
    await asyncio.sleep(0)
    sink.gate.set()
    await stopping
    assert dotted(await waiting) == "2.04"
    with pytest.raises(RuntimeError, match="start"):
        _ = door.port


async def test_loopback_is_loopback_and_the_port_is_ours_alone(sink: Sink) -> None:
    door = CoapDoor(sink=sink, known=lambda device: True, clock=SystemClock())
    other = CoapDoor(sink=sink, known=lambda device: True, clock=SystemClock())
    await door.start("127.0.0.1", 0)
    with pytest.raises(OSError, match="in use"):
        await other.start("127.0.0.1", door.port)
    with pytest.raises(OSError, match="in use"):
        await other.start("0.0.0.0", door.port)
    # Another address of the machine's loopback network is free: the door does not sit on all addresses.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.2", door.port))
    await door.stop()


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
async def test_any_address_answers_from_the_address_that_was_asked(sink: Sink, host: str) -> None:
    door = CoapDoor(sink=sink, known=lambda device: True, clock=SystemClock())
    await door.start(host, 0)
    loop = asyncio.get_running_loop()
    # A connected socket only hears the address it asked.
    transport, device = await loop.create_datagram_endpoint(Raw, remote_addr=("127.0.0.2", door.port))
    for garbage in MALFORMED:
        transport.sendto(garbage)
    transport.sendto(post(5))
    assert kind_code_id(await device.next()) == (ACK, 0x44, 5)
    transport.sendto(post(5))
    assert kind_code_id(await device.next()) == (ACK, 0x44, 5)
    assert len(sink.frames) == 1
    assert door.counters.malformed == len(MALFORMED)
    assert sink.frames[0].source.startswith("127.0.0.1:")
    transport.close()
    await asyncio.sleep(0)
    await door.stop()


def test_a_delivery_key_is_one_peers_one_message() -> None:
    key = delivery_key("127.0.0.1:4000", 7, b"\x01")
    assert key == delivery_key("127.0.0.1:4000", 7, b"\x01")
    others = [
        delivery_key("127.0.0.1:4001", 7, b"\x01"),
        delivery_key("127.0.0.1:4000", 8, b"\x01"),
        delivery_key("127.0.0.1:4000", 7, b"\x02"),
    ]
    assert key not in others
    assert len(set(others)) == len(others)


@pytest.mark.parametrize("began_ms", [1_000, 245_999, 246_999, 493_999])
async def test_what_is_repeated_over_a_restart_of_ours_is_the_same_message(sink: Sink, began_ms: int) -> None:
    """At any moment: a key that changes every 247 s is another one for the repeat after the change."""
    clock = SetClock(began_ms)
    doors = [CoapDoor(sink=sink, known=lambda device: True, clock=clock) for _ in range(2)]
    await doors[0].start("127.0.0.1", 0)
    port = doors[0].port
    loop = asyncio.get_running_loop()
    transport, device = await loop.create_datagram_endpoint(Raw, remote_addr=("127.0.0.1", port))
    for door in doors:
        if door is not doors[0]:
            await door.start("127.0.0.1", port)
        transport.sendto(post(5, payload=b"12 cm"))
        assert kind_code_id(await device.next()) == (ACK, 0x44, 5)
        await door.stop()
        clock.advance(4_000)
    transport.close()
    await asyncio.sleep(0)
    decoded = Decoded(message="report", samples=(Sample(time=None, values={}),), boot=None, seq=None, base=None)
    first, again = (fingerprint(frame, "gauge-001", decoded) for frame in sink.frames)
    assert first == again
    assert isinstance(again, Keyed)
    assert again.may_repeat
    assert sink.frames[1].received_at - sink.frames[0].received_at < again.lifetime_ms


async def test_the_upkeep_forgets_what_nobody_finishes_and_gives_a_sign_of_life(sink: Sink) -> None:
    clock, pulse = SetClock(1_000_000), Pulse()
    door = CoapDoor(sink=sink, known=lambda device: True, clock=clock, pulse=pulse)
    await door.start("127.0.0.1", 0)
    transport, device = await asyncio.get_running_loop().create_datagram_endpoint(
        Raw, remote_addr=("127.0.0.1", door.port)
    )
    # Path, then Block1 (27) of number 0 with more to come, 16 bytes.
    transport.sendto(struct.pack("!BBH", 0x40, 2, 9) + b"\xb2v1\x09gauge-001\x06report\xd1\x03\x08\xff" + b"x" * 16)
    assert kind_code_id(await device.next()) == (ACK, 0x5F, 9)
    assert door.counters.uploads == 1
    clock.advance(94_000)
    async with asyncio.timeout(10):
        while door.counters.uploads:
            await asyncio.sleep(0.02)
    assert pulse.beats
    transport.close()
    await asyncio.sleep(0)
    await door.stop()
    assert pulse.resting


async def libcoap(path: str, *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        path,
        "-v",
        "6",
        "-B",
        "10",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await asyncio.wait_for(process.communicate(), 20)
    return said.decode(errors="replace")


@pytest.mark.peer("coap-client")
async def test_libcoap_posts(door: CoapDoor, sink: Sink, peer_path: str) -> None:
    url = f"coap://127.0.0.1:{door.port}"
    said = await libcoap(peer_path, "-m", "post", "-t", "50", "-e", PAYLOAD.decode(), f"{url}/v1/gauge-001/report")
    assert "2.04" in said
    assert [frame.payload for frame in sink.committed] == [PAYLOAD]
    assert "</v1>" in await libcoap(peer_path, "-m", "get", f"{url}/.well-known/core")
    assert "4.05" in await libcoap(peer_path, "-m", "put", "-e", "x", f"{url}/v1/gauge-001/report")


@pytest.mark.peer("coap-client")
async def test_libcoap_uploads_in_blocks_and_waits_for_a_slow_commit(
    door: CoapDoor, sink: Sink, peer_path: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    body = bytes(index % 251 for index in range(3000))
    file = tmp_path_factory.mktemp("upload") / "body"
    file.write_bytes(body)
    sink.delay = 0.5
    url = f"coap://127.0.0.1:{door.port}/v1/gauge-001/report"
    said = await libcoap(peer_path, "-m", "post", "-b", "256", "-t", "42", "-f", str(file), url)
    assert "2.04" in said
    assert [frame.payload for frame in sink.committed] == [body]
