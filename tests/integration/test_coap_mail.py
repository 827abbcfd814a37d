"""Messages for devices over CoAP: asked for, with a reply, as notifications, in blocks; each with the mailbox's word first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from random import Random
from typing import cast

import aiocoap
import pytest
import pytest_asyncio
from aiocoap import Message, oscore
from aiocoap.numbers.types import ACK, CON, RST

from citysense import wire
from citysense.clock import SystemClock
from citysense.errors import StorageError
from citysense_gateway.coap.door import CoapDoor, CoapKeys
from citysense_gateway.coap.mail_resource import etag
from citysense_gateway.coap.oscore_store import OscoreStore, Window
from citysense_gateway.frame import Done, Frame, Kind, Reason, Verdict
from citysense_gateway.mail import Mail

OSCORE = wire.Oscore(secret=b"s" * 16, salt=b"salt", sender=b"\x01", recipient=b"\x05", context=b"")
FAR = 4_000_000_000_000


def mail(number: int, payload: bytes = b"\x01\x02", *, device: str = "lock-1", once: bool = False) -> Mail:
    return Mail(
        id=f"order-{number:04}",
        device=device,
        message="set-period",
        payload=payload,
        content=42,
        values={},
        expires=FAR,
        priority=0,
        once=once,
    )


class Mailbox:
    """A mailbox in memory that writes down what it was told, in order."""

    def __init__(self) -> None:
        self.mail: list[Mail] = []
        self.begun: list[str] = []
        self.done: list[str] = []
        self.broken = False
        self.on_mail: Callable[[str], None] = lambda device: None

    def put(self, *letters: Mail) -> None:
        self.mail += letters
        for letter in letters:
            self.on_mail(letter.device)

    def waiting(self, device: str) -> tuple[Mail, ...]:
        return tuple(m for m in self.mail if m.device == device and not (m.once and m.id in self.begun))

    async def begin(self, mail: Mail) -> bool:
        await asyncio.sleep(0)
        if self.broken:
            raise StorageError("the disk is full")
        if mail not in self.waiting(mail.device):
            return False
        self.begun.append(mail.id)
        return True

    async def delivered(self, mail: Mail) -> None:
        await asyncio.sleep(0)
        self.done.append(mail.id)
        self.mail = [m for m in self.mail if m.id != mail.id]

    async def refused(self, mail: Mail, detail: str) -> None:
        raise AssertionError("nobody refuses here")

    def listen(self, on_mail: Callable[[str], None]) -> None:
        self.on_mail = on_mail


class Sink:
    def deliver(self, frame: Frame, done: Done, *, reason: Reason | None = None, detail: str = "") -> None:
        kind = Kind.STORED if reason is None else Kind.REJECTED
        asyncio.get_running_loop().call_soon(done, Verdict(kind=kind, reason=reason, detail=detail))

    async def accept(self, frame: Frame) -> Verdict:
        raise AssertionError("the door delivers")

    async def refuse(self, frame: Frame, reason: Reason, detail: str) -> Verdict:
        raise AssertionError("the door delivers")


class Numbers:
    """Sender numbers without a disk."""

    def __init__(self) -> None:
        self.next = 0

    async def open(self) -> dict[bytes, Window]:
        return {}

    def take(self) -> int:
        self.next += 1
        return self.next

    async def close(self, windows: object) -> None: ...


@pytest.fixture
def box() -> Mailbox:
    return Mailbox()


@pytest_asyncio.fixture
async def door(box: Mailbox) -> AsyncIterator[CoapDoor]:
    door = CoapDoor(
        sink=Sink(),
        known=lambda device: device.startswith("lock"),
        clock=SystemClock(),
        random=Random(3),
        keys=CoapKeys(psk=lambda device: None, oscore=lambda: {"lock-9": OSCORE}),
        store=cast(OscoreStore, Numbers()),
        mail=box,
    )
    await door.start("127.0.0.1", 0)
    yield door
    await door.stop()


class Device(asyncio.DatagramProtocol):
    """A plain device: writes its own messages, and acknowledges when it is told to."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.inbox: asyncio.Queue[Message] = asyncio.Queue()
        self.message_id = 0
        self.echo: bytes | None = None
        self.transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.inbox.put_nowait(Message.decode(data))

    def send(self, message: Message, kind: object, message_id: int, token: bytes = b"") -> None:
        assert self.transport is not None
        message.mtype, message.mid, message.token = kind, message_id, token
        self.transport.sendto(message.encode())

    async def next(self) -> Message:
        return await asyncio.wait_for(self.inbox.get(), 10)

    async def ask(
        self, code: int, path: str, *, token: bytes = b"t", payload: bytes = b"", **options: object
    ) -> Message:
        self.message_id += 1
        request = Message(code=code, payload=payload, uri_path=path.strip("/").split("/"), echo=self.echo, **options)
        self.send(request, CON, self.message_id, token)
        answer = await self.next()
        self.echo = answer.opt.echo
        return answer

    async def show(self) -> None:
        """Show that it is where it says."""
        assert (await self.ask(aiocoap.GET, f"/v1/{self.name}/down")).code.dotted == "4.01"
        assert self.echo is not None
        assert (await self.ask(aiocoap.DELETE, f"/v1/{self.name}/down/nothing")).code.dotted == "4.04"

    def acknowledge(self, message: Message, kind: object = ACK) -> None:
        self.send(Message(code=0), kind, message.mid)


@pytest_asyncio.fixture
async def device(door: CoapDoor) -> AsyncIterator[Device]:
    loop = asyncio.get_running_loop()
    transport, device = await loop.create_datagram_endpoint(
        lambda: Device("lock-1"), remote_addr=("127.0.0.1", door.port)
    )
    yield device
    transport.close()
    await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


DOWN = "/v1/lock-1/down"
UP = "/v1/lock-1/report"


async def test_nothing_waits(device: Device) -> None:
    await device.show()
    answer = await device.ask(aiocoap.GET, DOWN)
    assert (answer.code.dotted, answer.payload, answer.opt.location_path, answer.opt.etag) == ("2.05", b"", (), None)


async def test_asked_for_and_confirmed(device: Device, box: Mailbox) -> None:
    await device.show()
    box.put(mail(1), mail(2, b"later"))
    for _ in range(2):
        answer = await device.ask(aiocoap.GET, DOWN)
        assert (answer.code.dotted, answer.payload, int(answer.opt.content_format)) == ("2.05", b"\x01\x02", 42)
        assert (answer.opt.etag, answer.opt.location_query) == (etag("order-0001"), ("m=set-period",))
        assert answer.opt.location_path == ("v1", "lock-1", "down", "order-0001")
    assert box.done == []
    assert (await device.ask(aiocoap.DELETE, "/".join(answer.opt.location_path))).code.dotted == "2.02"
    assert box.done == ["order-0001"]
    assert (await device.ask(aiocoap.DELETE, "/".join(answer.opt.location_path))).code.dotted == "4.04"
    assert (await device.ask(aiocoap.GET, DOWN)).payload == b"later"


async def test_an_address_that_has_not_shown_itself_gets_no_mail(device: Device, box: Mailbox) -> None:
    box.put(mail(1, once=True))
    for observe in (None, 0):
        device.echo = None
        answer = await device.ask(aiocoap.GET, DOWN, observe=observe)
        assert (answer.code.dotted, answer.payload) == ("4.01", b"")
    device.echo = b"12345678"
    assert (await device.ask(aiocoap.GET, DOWN)).code.dotted == "4.01"
    assert box.begun == [], "what is handed over once must not be spent on a challenge"


async def test_with_the_reply_to_a_frame(device: Device, box: Mailbox) -> None:
    box.put(mail(1, once=True))
    first = await device.ask(aiocoap.POST, UP, payload=b"{}", uri_query=["mail"])
    assert (first.code.dotted, first.payload, len(first.opt.echo)) == ("2.04", b"", 8), (
        "committed; asked to show itself"
    )
    second = await device.ask(aiocoap.POST, UP, payload=b"{}", uri_query=["mail"])
    assert (second.code.dotted, second.payload) == ("2.04", b"\x01\x02")
    assert second.opt.location_query == ("m=set-period",)
    third = await device.ask(aiocoap.POST, UP, payload=b"{}", uri_query=["mail"])
    assert (third.code.dotted, third.payload, third.opt.location_path) == ("2.04", b"", ())
    assert (await device.ask(aiocoap.DELETE, "/".join(second.opt.location_path))).code.dotted == "2.02"
    assert (box.begun, box.done) == (["order-0001"], ["order-0001"])


async def test_a_repeated_request_gets_the_same_message_again(device: Device, box: Mailbox) -> None:
    await device.show()
    box.put(mail(1, once=True))
    first = await device.ask(aiocoap.GET, DOWN)
    device.message_id -= 1
    again = await device.ask(aiocoap.GET, DOWN)
    assert (first.payload, first.mid) == (again.payload, again.mid) == (b"\x01\x02", device.message_id)
    assert box.begun == ["order-0001"]


async def test_a_frame_is_answered_though_the_mailbox_is_broken(device: Device, box: Mailbox) -> None:
    await device.show()
    box.put(mail(1))
    box.broken = True
    assert (await device.ask(aiocoap.POST, UP, payload=b"{}", uri_query=["mail"])).code.dotted == "2.04"
    refused = await device.ask(aiocoap.GET, DOWN)
    assert (refused.code.dotted, refused.opt.max_age) == ("5.03", 5)
    box.broken = False
    assert (await device.ask(aiocoap.GET, DOWN)).payload == b"\x01\x02"


async def test_notifications_come_one_by_one(device: Device, box: Mailbox, door: CoapDoor) -> None:
    await device.show()
    box.put(mail(1))
    registered = await device.ask(aiocoap.GET, DOWN, token=b"obs", observe=0)
    assert (registered.code.dotted, registered.payload) == ("2.05", b"")
    first = await device.next()
    assert (first.mtype, first.code.dotted, first.token, first.payload) == (CON, "2.05", b"obs", b"\x01\x02")
    assert first.opt.observe > registered.opt.observe
    box.put(mail(2, b"second"))
    await until(lambda: len(box.begun) == 1)
    assert device.inbox.empty(), "the first is not acknowledged yet"
    device.acknowledge(first)
    second = await device.next()
    assert second.payload == b"second"
    assert second.opt.observe > first.opt.observe
    assert box.done == ["order-0001"]
    device.acknowledge(second)
    await until(lambda: len(box.done) == 2)
    assert (door.counters.observers, door.counters.notified) == (1, 2)


async def test_a_reset_ends_the_registration(device: Device, box: Mailbox, door: CoapDoor) -> None:
    await device.show()
    await device.ask(aiocoap.GET, DOWN, observe=0)
    box.put(mail(1))
    device.acknowledge(await device.next(), RST)
    await until(lambda: door.counters.observers == 0)
    assert box.done == []


async def test_registering_ends_by_asking_so(device: Device, box: Mailbox, door: CoapDoor) -> None:
    await device.show()
    await device.ask(aiocoap.GET, DOWN, observe=0)
    assert (await device.ask(aiocoap.GET, DOWN, observe=1)).opt.observe is None
    assert door.counters.observers == 0
    box.put(mail(1))
    assert box.begun == []


async def test_a_sleeping_device_is_left_alone_until_it_speaks(
    device: Device, box: Mailbox, door: CoapDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("citysense_gateway.coap.exchanges.ACK_TIMEOUT", 0.002)
    await device.show()
    await device.ask(aiocoap.GET, DOWN, observe=0)
    box.put(mail(1))
    sent = [await device.next() for _ in range(5)]
    assert len({message.mid for message in sent}) == 1
    await until(lambda: not door._exchanges._confirmable)
    box.put(mail(2, b"second"))
    assert door.counters.notified == 1
    monkeypatch.setattr("citysense_gateway.coap.exchanges.ACK_TIMEOUT", 2.0)
    # Its next frame is answered first; what waits follows right behind.
    assert (await device.ask(aiocoap.POST, UP, payload=b"{}")).code.dotted == "2.04"
    again = await device.next()
    assert (again.payload, again.mid != sent[0].mid) == (b"\x01\x02", True)
    device.acknowledge(again)
    assert (await device.next()).payload == b"second"


async def test_a_message_is_not_repeated_after_its_time(
    device: Device, box: Mailbox, door: CoapDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("citysense_gateway.coap.exchanges.ACK_TIMEOUT", 0.002)
    await device.show()
    await device.ask(aiocoap.GET, DOWN, observe=0)
    letter = mail(1)
    box.put(Mail(**{**{name: getattr(letter, name) for name in Mail.__slots__}, "expires": 1}))
    await device.next()
    await until(lambda: not door._exchanges._confirmable)
    assert device.inbox.empty()


async def test_a_device_that_is_gone_hears_nothing_more(device: Device, box: Mailbox, door: CoapDoor) -> None:
    await device.show()
    await device.ask(aiocoap.GET, DOWN, observe=0)
    box.put(mail(1))
    await device.next()
    door.devices_changed(["lock-1"])
    assert (door.counters.observers, len(door._exchanges._confirmable)) == (0, 0)


async def test_large_messages_go_in_blocks(device: Device, box: Mailbox) -> None:
    await device.show()
    body = bytes(range(256)) * 6
    box.put(mail(1, body))
    got, number, more = b"", 0, True
    while more:
        answer = await device.ask(aiocoap.GET, DOWN, block2=(number, False, 4))
        assert answer.opt.etag == etag("order-0001")
        more = answer.opt.block2.more
        number, got = number + 1, got + answer.payload
    assert (got, number) == (body, 6)
    assert (await device.ask(aiocoap.GET, DOWN, block2=(99, False, 4))).code.dotted == "4.00"
    # In a reply to a frame there is room for one datagram.
    plain = await device.ask(aiocoap.POST, UP, payload=b"{}", uri_query=["mail"])
    assert (plain.code.dotted, plain.payload) == ("2.04", b"")
    # Acknowledging the first block is no word that the rest has come.
    await device.ask(aiocoap.GET, DOWN, observe=0)
    notified = await device.next()
    assert (notified.opt.block2.more, len(notified.payload)) == (True, 1024)
    device.acknowledge(notified)
    assert (await device.ask(aiocoap.GET, DOWN, block2=(1, False, 6))).payload == body[1024:]
    assert box.done == []
    assert (await device.ask(aiocoap.DELETE, f"{DOWN}/order-0001")).code.dotted == "2.02"
    assert box.done == ["order-0001"]


async def test_strangers_and_other_methods(device: Device) -> None:
    assert (await device.ask(aiocoap.GET, "/v1/nobody/down")).code.dotted == "4.01"
    assert (await device.ask(aiocoap.GET, "/v1/lock-9/down")).code.dotted == "4.01", "it has keys, and this is plain"
    assert (await device.ask(aiocoap.GET, f"{DOWN}/order-0001")).code.dotted == "4.05"


class Keys(oscore.CanProtect, oscore.CanUnprotect, oscore.SecurityContextUtils):  # type: ignore[misc]
    alg_aead = oscore.algorithms[oscore.DEFAULT_ALGORITHM]
    hashfun = oscore.hashfunctions[oscore.DEFAULT_HASHFUNCTION]
    id_context = None
    echo_recovery = None

    def __init__(self) -> None:
        self.sender_id, self.recipient_id, self.sender_sequence_number = OSCORE.recipient, OSCORE.sender, 0
        self.recipient_replay_window = oscore.ReplayWindow(32, lambda: None)
        self.recipient_replay_window.initialize_empty()
        self.derive_keys(OSCORE.salt, OSCORE.secret)

    def post_seqnoincrease(self) -> None:
        pass


async def test_the_librarys_client_observes_over_oscore(door: CoapDoor, box: Mailbox) -> None:
    context = await aiocoap.Context.create_client_context(transports=["udp6"])
    keys = Keys()

    def asked(echo: bytes | None) -> tuple[aiocoap.protocol.Request, oscore.RequestIdentifiers]:
        inner = Message(code=aiocoap.GET, uri_path=["v1", "lock-9", "down"], observe=0, echo=echo)
        outer, identifiers = keys.protect(inner)
        outer.set_request_uri(f"coap://127.0.0.1:{door.port}", set_uri_host=False)
        return context.request(outer), identifiers

    request, identifiers = asked(None)
    challenge, _ = keys.unprotect(await asyncio.wait_for(request.response, 10), identifiers)
    request, identifiers = asked(challenge.opt.echo)
    first, _ = keys.unprotect(await asyncio.wait_for(request.response, 10), identifiers)
    assert (first.code.dotted, first.payload, door.counters.observers) == ("2.05", b"", 1)
    numbers: list[int] = []
    notifications = aiter(request.observation)
    for number in (1, 2):
        box.put(mail(number, bytes([number]), device="lock-9"))
        notified, _ = keys.unprotect(await asyncio.wait_for(anext(notifications), 10), identifiers)
        assert (notified.payload, notified.opt.location_query) == (bytes([number]), ("m=set-period",))
        numbers.append(notified.opt.observe)
        await until(lambda number=number: len(box.done) == number)  # type: ignore[misc]
    assert numbers[0] < numbers[1], "each has a sender number of its own"
    request.observation.cancel()
    await context.shutdown()


@pytest.mark.peer("coap-client")
async def test_libcoap_asks_and_observes(door: CoapDoor, box: Mailbox, peer_path: str) -> None:
    async def run(*arguments: str) -> str:
        process = await asyncio.create_subprocess_exec(
            *(peer_path, "-v", "6", "-B", "2", *arguments, f"coap://127.0.0.1:{door.port}{DOWN}"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await asyncio.wait_for(process.communicate(), 20)
        return said.decode(errors="replace")

    box.put(mail(1, b"open-the-valve"))
    # It answers the Echo by itself.
    assert "open-the-valve" in await run("-m", "get")
    assert box.done == []
    assert "open-the-valve" in await run("-m", "get", "-s", "1")
    assert box.done == ["order-0001"]
