"""CoAP with credentials over real sockets: OSCORE with the library's client and a spool on disk, DTLS with libcoap's."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import types
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import aiocoap
import pytest
import pytest_asyncio
from aiocoap import Message, oscore

from citysense import wire
from citysense.clock import SetClock, SystemClock
from citysense.crash_points import CrashPoints
from citysense.durable_log import DurableLog
from citysense.errors import SetupError
from citysense_gateway.coap.door import CoapDoor, CoapKeys
from citysense_gateway.coap.dtls import HANDSHAKE_S, DtlsLayer
from citysense_gateway.coap.oscore_store import BLOCK, OWNER, OscoreStore, Window
from citysense_gateway.frame import Done, Frame, Identity, Kind, Reason, Verdict
from citysense_gateway.outage import Outage

OSCORE = wire.Oscore(secret=b"s" * 16, salt=b"salt", sender=b"\x01", recipient=b"\x05", context=b"")
PSK = b"0123456789abcdef"
PATH = "/v1/gauge-001/report"


class Sink:
    """Stores everything; remembers what."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.refused: list[tuple[Frame, Reason]] = []

    async def accept(self, frame: Frame) -> Verdict:
        self.frames.append(frame)
        return Verdict(kind=Kind.STORED)

    async def refuse(self, frame: Frame, reason: Reason, detail: str) -> Verdict:
        self.refused.append((frame, reason))
        return Verdict(kind=Kind.REJECTED, reason=reason, detail=detail)

    def deliver(self, frame: Frame, done: Done, *, reason: Reason | None = None, detail: str = "") -> None:
        steps = self.accept(frame) if reason is None else self.refuse(frame, reason, detail)
        asyncio.get_running_loop().create_task(steps).add_done_callback(lambda task: done(task.result()))


@dataclass
class House:
    """A door on a spool in a folder; `opened` again after it was closed, or after its file was left as it was."""

    folder: Path
    sink: Sink = field(default_factory=Sink)
    psk: dict[str, bytes] = field(default_factory=dict)
    oscore: dict[str, wire.Oscore] = field(default_factory=dict)
    asserted: bool = True

    async def open(self, *, dtls: bool = False) -> None:
        clock = SystemClock()
        self.log = DurableLog(
            self.folder / "spool.db", clock=clock, crash=CrashPoints(), crash_prefix="spool", owners=(OWNER,)
        )
        self.log.open()
        trouble = Outage("OSCORE numbers", Random(1).random)
        self.door = CoapDoor(
            sink=self.sink,
            known=lambda device: device.startswith("gauge"),
            clock=clock,
            random=Random(3),
            keys=CoapKeys(psk=self.psk.get, oscore=lambda: self.oscore),
            store=OscoreStore(self.log, clock=clock, trouble=trouble),
            asserted=self.asserted,
        )
        await self.door.start("127.0.0.1", 0, dtls_port=0 if dtls else None)

    async def close(self) -> None:
        await self.door.stop()
        self.log.close()

    async def lose(self) -> None:
        """End without a clean stop, as far as the disk is concerned."""
        await self.door.stop()

        def forget(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM oscore_window")

        await self.log.tidy(forget)
        self.log.close()


@pytest_asyncio.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path, oscore={"gauge-001": OSCORE})
    await house.open()
    yield house
    await house.close()


class Device(oscore.CanProtect, oscore.CanUnprotect, oscore.SecurityContextUtils):  # type: ignore[misc]
    """The device's side."""

    alg_aead = oscore.algorithms[oscore.DEFAULT_ALGORITHM]
    hashfun = oscore.hashfunctions[oscore.DEFAULT_HASHFUNCTION]
    id_context = None
    echo_recovery = None

    def __init__(self, keys: wire.Oscore = OSCORE) -> None:
        self.sender_id, self.recipient_id = keys.recipient, keys.sender
        self.sender_sequence_number = 0
        self.recipient_replay_window = oscore.ReplayWindow(32, lambda: None)
        self.recipient_replay_window.initialize_empty()
        self.derive_keys(keys.salt, keys.secret)

    def post_seqnoincrease(self) -> None:
        pass


@pytest_asyncio.fixture
async def client(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[aiocoap.Context]:
    # The library's OSCORE transport imports its key exchange, whose cryptography nobody here needs.
    monkeypatch.setitem(sys.modules, "lakers", types.ModuleType("lakers"))
    # In this order: the other way round requests go out in clear.
    context = await aiocoap.Context.create_client_context(transports=["oscore", "udp6"])
    yield context
    await context.shutdown()


async def post(
    client: aiocoap.Context, house: House, path: str = PATH, payload: bytes = b"{}", *, device: Device | None = None
) -> Message:
    base = f"coap://127.0.0.1:{house.door.port}"
    client.client_credentials.clear()
    if device is not None:
        client.client_credentials[f"{base}/*"] = device
    request = Message(code=aiocoap.POST, uri=base + path, payload=payload, content_format=50)
    return await asyncio.wait_for(client.request(request).response, 20)


async def test_a_protected_frame_carries_its_credential(client: aiocoap.Context, house: House) -> None:
    device = Device()
    response = await post(client, house, payload=b'{"v": {}}', device=device)
    assert response.code.dotted == "2.04"
    (frame,) = house.sink.frames
    assert (frame.device, frame.identity, frame.payload) == ("gauge-001", Identity.CREDENTIAL, b'{"v": {}}')
    assert (frame.channel, frame.message, frame.content) == (PATH, "report", 50)
    # The first one came with an Echo, which the library's client gave by itself; the next one needs none.
    assert house.door.counters.challenged == 1
    assert (await post(client, house, device=device)).code.dotted == "2.04"
    assert house.door.counters.challenged == 1


async def test_another_devices_path_is_refused_and_kept(client: aiocoap.Context, house: House) -> None:
    response = await post(client, house, "/v1/gauge-002/report", device=Device())
    assert response.code.dotted == "4.01"
    assert house.sink.frames == []
    ((frame, reason),) = house.sink.refused
    assert (reason, frame.device, frame.channel) == (Reason.FOREIGN_TOPIC, "gauge-001", "/v1/gauge-002/report")


async def test_a_device_with_keys_is_not_believed_without_them(client: aiocoap.Context, house: House) -> None:
    house.psk["gauge-009"] = PSK
    for name in ("gauge-001", "gauge-009"):
        assert (await post(client, house, f"/v1/{name}/report")).code.dotted == "4.01"
    assert [reason for _, reason in house.sink.refused] == [Reason.BAD_CREDENTIAL] * 2
    assert (await post(client, house, "/v1/gauge-003/report")).code.dotted == "2.04", "it has none"
    assert house.sink.frames[0].identity is Identity.ASSERTED


async def test_where_plain_coap_is_not_served(client: aiocoap.Context, tmp_path: Path) -> None:
    house = House(tmp_path, oscore={"gauge-001": OSCORE}, asserted=False)
    await house.open()
    assert (await post(client, house, "/v1/gauge-003/report")).code.dotted == "4.01"
    assert (await post(client, house, device=Device())).code.dotted == "2.04"
    await house.close()


async def test_wrong_keys_and_unknown_ids_are_kept(client: aiocoap.Context, house: House) -> None:
    wrong = wire.Oscore(secret=b"x" * 16, salt=b"salt", sender=b"\x01", recipient=b"\x05", context=b"")
    stranger = wire.Oscore(secret=b"x" * 16, salt=b"salt", sender=b"\x01", recipient=b"\x06", context=b"")
    for keys, code, device in ((wrong, 0x80, "gauge-001"), (stranger, 0x81, None)):
        outer, _ = Device(keys).protect(Message(code=aiocoap.POST, payload=b"{}", uri_path=PATH[1:].split("/")))
        outer.set_request_uri(f"coap://127.0.0.1:{house.door.port}", set_uri_host=False)
        response = await asyncio.wait_for(client.request(outer).response, 20)
        assert int(response.code) == code
        frame, reason = house.sink.refused[-1]
        assert (reason, frame.device, frame.identity) == (Reason.BAD_CREDENTIAL, device, Identity.ASSERTED)
        assert frame.payload == outer.payload
    assert house.sink.frames == []


async def test_a_large_protected_datagram_is_not_read(house: House) -> None:
    head = b"\x41\x02\x00\x07t\x93\x09\x00\x05\xff"
    answer = await Radio(house.door.port).exchange(head + b"c" * 5_000)
    assert (answer.code.dotted, answer.opt.size1) == ("4.13", 4096)
    assert house.sink.refused == []


class Raw(asyncio.DatagramProtocol):
    """A device of our own making: sends the bytes it is told, collects what comes."""

    def __init__(self) -> None:
        self.inbox: asyncio.Queue[bytes] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.inbox.put_nowait(data)


@dataclass
class Radio:
    """Protects requests, sends them as datagrams, and keeps them: what an eavesdropper has."""

    port: int
    device: Device = field(default_factory=Device)
    heard: list[bytes] = field(default_factory=list)
    message_id: int = 100

    async def exchange(self, data: bytes) -> Message:
        loop = asyncio.get_running_loop()
        transport, raw = await loop.create_datagram_endpoint(Raw, remote_addr=("127.0.0.1", self.port))
        transport.sendto(data)
        answer = await asyncio.wait_for(raw.inbox.get(), 10)
        transport.close()
        await asyncio.sleep(0)
        return Message.decode(answer)

    async def post(self, echo: bytes | None = None) -> Message:
        self.message_id += 1
        inner = Message(code=aiocoap.POST, payload=b"{}", content_format=50, uri_path=PATH[1:].split("/"), echo=echo)
        outer, request = self.device.protect(inner)
        outer.mtype, outer.mid, outer.token = aiocoap.CON, self.message_id, b"t"
        self.heard.append(outer.encode())
        answer, _ = self.device.unprotect(await self.exchange(self.heard[-1]), request)
        return answer


async def test_replays_are_never_taken_before_or_after_a_restart(tmp_path: Path) -> None:
    house = House(tmp_path, oscore={"gauge-001": OSCORE})
    await house.open()
    radio = Radio(house.door.port)
    challenge = await radio.post()
    assert (challenge.code.dotted, len(house.sink.frames)) == ("4.01", 0)
    assert (await radio.post(challenge.opt.echo)).code.dotted == "2.04"
    assert (await radio.post()).code.dotted == "2.04"
    for captured in radio.heard:
        assert (await radio.exchange(captured)).code.dotted == "4.01"
    assert (len(house.sink.frames), house.door.counters.replays) == (2, 3)
    await house.lose()

    await house.open()
    radio.port = house.door.port
    for captured in radio.heard:
        # Not even with the Echo of the last run.
        assert (await radio.exchange(captured)).opt.oscore is not None
    assert (len(house.sink.frames), house.door.counters.challenged) == (2, 3)
    challenge = await radio.post()
    assert challenge.code.dotted == "4.01"
    assert (await radio.post(challenge.opt.echo)).code.dotted == "2.04"
    assert len(house.sink.frames) == 3
    await house.close()

    await house.open()
    radio.port = house.door.port
    assert (await radio.post()).code.dotted == "2.04", "after a clean stop nobody has to ask"
    assert (await radio.exchange(radio.heard[-2])).code.dotted == "4.01"
    await house.close()


async def test_sender_numbers_are_never_given_twice(tmp_path: Path) -> None:
    clock, trouble = SystemClock(), Outage("OSCORE numbers", Random(1).random)
    taken: list[int] = []
    for _ in range(3):
        log = DurableLog(tmp_path / "s.db", clock=clock, crash=CrashPoints(), crash_prefix="spool", owners=(OWNER,))
        log.open()
        store = OscoreStore(log, clock=clock, trouble=trouble)
        await store.open()
        for _ in range(BLOCK + 10):
            number = store.take()
            while number is None:
                await asyncio.sleep(0)
                number = store.take()
            # On disk before it is used.
            taken.append(number)
        assert log.select("SELECT next FROM oscore_sender")[0][0] > taken[-1]
        await store.close({})
        log.close()
    assert len(set(taken)) == len(taken)
    assert taken == sorted(taken)


class Clock(SystemClock):
    """The machine's, moved on by hand."""

    ahead = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.ahead


async def test_windows_are_handed_out_once_and_only_after_a_quick_restart(tmp_path: Path) -> None:
    clock, window = Clock(), Window(lowest=7, seen=0b1011)
    log = DurableLog(tmp_path / "s.db", clock=clock, crash=CrashPoints(), crash_prefix="spool", owners=(OWNER,))
    log.open()
    store = OscoreStore(log, clock=clock, trouble=Outage("OSCORE numbers", Random(1).random))
    assert await store.open() == {}
    await store.close({b"gauge": window})
    assert await store.open() == {b"gauge": window}
    assert await store.open() == {}, "killed since: what came in meanwhile is in no window"
    await store.close({b"gauge": window})
    clock.ahead = 61_000
    assert await store.open() == {}, "it may come out of a backup"
    log.close()


async def test_a_removed_device_is_out_at_once(client: aiocoap.Context, house: House) -> None:
    device = Device()
    assert (await post(client, house, device=device)).code.dotted == "2.04"
    del house.oscore["gauge-001"]
    house.door.devices_changed(["gauge-001"])
    with pytest.raises(oscore.NotAProtectedMessage):
        await post(client, house, device=device)
    assert house.sink.refused[-1][1] is Reason.BAD_CREDENTIAL
    assert len(house.sink.frames) == 1


@pytest_asyncio.fixture
async def dtls(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path, psk={"gauge-001": PSK})
    await house.open(dtls=True)
    yield house
    await house.close()


async def coap_client(program: str, house: House, path: str, *, identity: str = "gauge-001", key: bytes = PSK) -> str:
    process = await asyncio.create_subprocess_exec(
        program,
        *("-v", "6", "-B", "3", "-m", "post", "-t", "50", "-e", "{}", "-u", identity, "-k", key.decode()),
        f"coaps://127.0.0.1:{house.door.dtls_port}{path}",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await asyncio.wait_for(process.communicate(), 20)
    return said.decode(errors="replace")


@pytest.mark.parametrize("program", ["coap-client-openssl", "coap-client-gnutls"])
@pytest.mark.peer("coap-client")
async def test_libcoap_over_dtls(dtls: House, program: str, peer_path: str) -> None:
    path = str(Path(peer_path).with_name(program))
    assert "2.04" in await coap_client(path, dtls, PATH)
    (frame,) = dtls.sink.frames
    assert (frame.device, frame.identity, frame.payload) == ("gauge-001", Identity.CREDENTIAL, b"{}")
    assert "4.01" in await coap_client(path, dtls, "/v1/gauge-002/report")
    assert dtls.sink.refused[-1][1] is Reason.FOREIGN_TOPIC
    for wrong in ({"key": b"another key 1234"}, {"identity": "gauge-002"}):
        assert "2.04" not in await coap_client(path, dtls, PATH, **wrong)
    assert len(dtls.sink.frames) == 1
    assert dtls.door.counters.failed_handshakes == 2


class Secure:
    """A DTLS client in this process, over a datagram socket."""

    def __init__(self, tls: Any, key: bytes = PSK) -> None:
        configuration = tls.DTLSConfiguration(
            pre_shared_key=("gauge-001", key), ciphers=("TLS-PSK-WITH-AES-128-CCM-8",), validate_certificates=False
        )
        self._tls = tls
        self.buffer = tls.ClientContext(configuration).wrap_buffers(None)

    async def connect(self, port: int, source: int = 0) -> None:
        loop = asyncio.get_running_loop()
        self.transport, self.raw = await loop.create_datagram_endpoint(
            Raw, local_addr=("127.0.0.1", source), remote_addr=("127.0.0.1", port)
        )
        while self.buffer._handshake_state is not self._tls.HandshakeStep.HANDSHAKE_OVER:
            try:
                self.buffer.do_handshake()
            except self._tls.WantWriteError:
                self.flush()
            except self._tls.WantReadError:
                self.flush()
                self.buffer.receive_from_network(await asyncio.wait_for(self.raw.inbox.get(), 10))
        self.flush()

    def flush(self) -> None:
        data = self.buffer.peek_outgoing(65536)
        self.buffer.consume_outgoing(len(data))
        if data:
            self.transport.sendto(data)

    def send(self, message_id: int) -> bytes:
        """Send a POST; the record, as an eavesdropper sees it."""
        path = b"\xb2v1\x09gauge-001\x06report\x11\x32\xff{}"
        self.buffer.write(bytes((0x41, 2)) + message_id.to_bytes(2, "big") + b"t" + path)
        record = bytes(self.buffer.peek_outgoing(65536))
        self.flush()
        return record

    async def answer(self) -> bytes:
        self.buffer.receive_from_network(await asyncio.wait_for(self.raw.inbox.get(), 10))
        return bytes(self.buffer.read(4096))

    async def close(self) -> None:
        self.transport.close()
        await asyncio.sleep(0)


class Far:
    """A peer without a socket: it keeps what it is sent."""

    device = None

    def __init__(self, name: str) -> None:
        self.key = self.name = name
        self.inbox: list[bytes] = []

    def send(self, data: bytes) -> None:
        self.inbox.append(data)


def half_way(tls: Any, layer: DtlsLayer, name: str) -> None:
    """Shake hands with `layer` as far as its second greeting, which brings the cookie back; then fall silent."""
    device, peer = Secure(tls), Far(name)
    for _ in range(2):
        sent = b""
        while not sent:
            try:
                device.buffer.do_handshake()
            except (tls.WantWriteError, tls.WantReadError):
                sent = bytes(device.buffer.peek_outgoing(4096))
                device.buffer.consume_outgoing(len(sent))
                if not sent:
                    device.buffer.receive_from_network(peer.inbox.pop(0))
        layer.received(sent, peer)


def test_handshakes_that_come_to_nothing_make_room_though_nobody_else_comes() -> None:
    tls = pytest.importorskip("mbedtls.tls")
    clock = SetClock(1_000_000)
    layer = DtlsLayer(psk={"gauge-001": PSK}.get, arrived=lambda data, peer: None, clock=clock, max_handshakes=1)
    layer.start()
    half_way(tls, layer, "192.0.2.1:4000")
    half_way(tls, layer, "192.0.2.2:4000")
    assert (layer.counters.handshakes, layer.counters.crowded) == (1, 1)
    clock.advance(int(HANDSHAKE_S * 1000) - 1)
    layer.tidy()
    assert layer.counters.handshakes == 1
    clock.advance(1)
    layer.tidy()
    assert layer.counters.handshakes == 0


async def test_a_revoked_key_ends_its_session(dtls: House) -> None:
    tls = pytest.importorskip("mbedtls.tls")
    device = Secure(tls)
    await device.connect(dtls.door.dtls_port)
    device.send(1)
    assert (await device.answer())[1] == 0x44
    assert dtls.door.counters.sessions == 1
    del dtls.psk["gauge-001"]
    dtls.door.devices_changed(["gauge-001"])
    assert dtls.door.counters.sessions == 0
    device.send(2)
    again = Secure(tls)
    with pytest.raises(Exception, match="SSL"):
        await again.connect(dtls.door.dtls_port)
    assert len(dtls.sink.frames) == 1
    await again.close()
    await device.close()


async def test_a_replayed_record_and_a_forged_greeting_change_nothing(dtls: House) -> None:
    tls = pytest.importorskip("mbedtls.tls")
    device = Secure(tls)
    await device.connect(dtls.door.dtls_port)
    record = device.send(1)
    assert (await device.answer())[1] == 0x44
    device.transport.sendto(record)
    device.transport.sendto(record[:-1] + bytes((record[-1] ^ 1,)))
    # From the device's own address, as a forger of addresses would: a greeting without a cookie.
    stranger = Secure(tls)
    for _ in range(2):
        try:
            stranger.buffer.do_handshake()
        except stranger._tls.WantWriteError:
            pass
    device.transport.sendto(stranger.buffer.peek_outgoing(4096))
    verify = await asyncio.wait_for(device.raw.inbox.get(), 10)
    assert verify[:1] == b"\x16"
    device.send(2)
    assert (await device.answer())[1] == 0x44
    assert len(dtls.sink.frames) == 2
    assert (dtls.door.counters.sessions, dtls.door.counters.handshakes) == (1, 0)
    await device.close()


async def test_a_device_that_restarts_on_the_same_port_gets_a_new_session(dtls: House) -> None:
    tls = pytest.importorskip("mbedtls.tls")
    first = Secure(tls)
    await first.connect(dtls.door.dtls_port)
    source = first.transport.get_extra_info("sockname")[1]
    await first.close()
    second = Secure(tls)
    await second.connect(dtls.door.dtls_port, source)
    second.send(1)
    assert (await second.answer())[1] == 0x44
    assert dtls.door.counters.sessions == 1
    await second.close()


async def test_sessions_are_bounded(tmp_path: Path) -> None:
    tls = pytest.importorskip("mbedtls.tls")
    house = House(tmp_path, psk={"gauge-001": PSK})
    await house.open(dtls=True)
    layer: DtlsLayer = house.door._dtls
    layer._max_sessions = 2
    devices = [Secure(tls) for _ in range(3)]
    for device in devices:
        await device.connect(house.door.dtls_port)
    assert layer.counters.sessions == 2
    assert layer.counters.crowded == 1, "nobody who spoke within the last minute gives way"
    devices[0].send(1)
    assert (await devices[0].answer())[1] == 0x44
    for device in devices:
        await device.close()
    await house.close()


async def test_without_the_library_the_port_is_refused_with_a_sentence(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "mbedtls.tls", None)
    house = House(tmp_path, psk={"gauge-001": PSK})
    with pytest.raises(SetupError, match=r"citysense\[dtls\]"):
        await house.open(dtls=True)
    await house.close()
