"""What outlives a connection to the MQTT door: downlinks, wills and sessions, with real clients and over restarts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiomqtt
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from citysense.clock import SystemClock
from citysense.durable_log import DurableLog
from citysense_gateway.frame import Done, Frame, Kind, Reason, Verdict
from citysense_gateway.mail import Mail
from citysense_gateway.mqtt.door import MqttDoor
from citysense_gateway.mqtt.limits import MqttSettings
from citysense_gateway.mqtt.stored_sessions import OWNER, StoredSessions

UP = "cs/v1/gauge-1/up/report"
DOWN = "cs/v1/gauge-1/down/set"
V3, V5 = 4, 5
both_versions = pytest.mark.parametrize("version", [V3, V5])


@dataclass
class Sink:
    """Stores everything in the next turn of the loop."""

    frames: list[Frame] = field(default_factory=list)
    refused: list[tuple[str | None, Reason]] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def deliver(self, frame: Frame, done: Done, *, reason: Reason | None = None, detail: str = "") -> None:
        if reason is None:
            self.frames.append(frame)
            verdict = Verdict(kind=Kind.STORED)
        else:
            self.refused.append((frame.device, reason))
            verdict = Verdict(kind=Kind.REJECTED, reason=reason, detail=detail)
        self.arrived.set()
        asyncio.get_running_loop().call_soon(done, verdict)

    async def accept(self, frame: Frame) -> Verdict:
        raise AssertionError("the door delivers without a task")

    async def refuse(self, frame: Frame, reason: Reason, detail: str) -> Verdict:
        raise AssertionError("the door delivers without a task")

    async def payloads(self, count: int) -> list[bytes]:
        async with asyncio.timeout(15):
            while len(self.frames) < count:
                self.arrived.clear()
                await self.arrived.wait()
        return [frame.payload for frame in self.frames]


@dataclass
class Box:
    """A mailbox in memory, and what it was told in which order."""

    told: list[tuple[str, str]] = field(default_factory=list)
    mail: dict[str, Mail] = field(default_factory=dict)
    listeners: list[Callable[[str], None]] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def post(self, number: str, *, device: str = "gauge-1", once: bool = False) -> None:
        self.mail[number] = Mail(
            id=number,
            device=device,
            message="set",
            payload=number.encode(),
            content=50,
            values={},
            expires=SystemClock().now_ms() + 600_000,
            priority=1,
            once=once,
        )
        for listener in self.listeners:
            listener(device)

    def waiting(self, device: str) -> tuple[Mail, ...]:
        return tuple(
            mail for mail in self.mail.values() if mail.device == device and not (mail.once and self._begun(mail))
        )

    def _begun(self, mail: Mail) -> bool:
        return ("begin", mail.id) in self.told

    async def begin(self, mail: Mail) -> bool:
        self._tell("begin", mail)
        return True

    async def delivered(self, mail: Mail) -> None:
        del self.mail[mail.id]
        self._tell("delivered", mail)

    async def refused(self, mail: Mail, detail: str) -> None:
        del self.mail[mail.id]
        self._tell("refused", mail)

    def listen(self, on_mail: Callable[[str], None]) -> None:
        self.listeners.append(on_mail)

    def _tell(self, what: str, mail: Mail) -> None:
        self.told.append((what, mail.id))
        self.changed.set()

    async def heard(self, what: str, number: str) -> None:
        async with asyncio.timeout(15):
            while (what, number) not in self.told:
                self.changed.clear()
                await self.changed.wait()


@dataclass
class Gateway:
    """A door with a mailbox and a file for its sessions, which outlive the door."""

    folder: Path
    sink: Sink = field(default_factory=Sink)
    box: Box = field(default_factory=Box)

    @asynccontextmanager
    async def open(self, **settings: Any) -> AsyncIterator[MqttDoor]:
        log = DurableLog(self.folder / "spool.db", clock=SystemClock(), owners=(OWNER,))
        log.open()
        self.box.listeners.clear()
        door = MqttDoor(
            sink=self.sink,
            check_password=lambda device, secret: secret == b"right",
            topic_rights=lambda device, topic: None,
            speaks_for=lambda concentrator, child: (concentrator, child) == ("gauge-1", "pole-9"),
            children_of=lambda concentrator: ("pole-9",) if concentrator == "gauge-1" else (),
            concentrator_of=lambda child: "gauge-1" if child == "pole-9" else "",
            clock=SystemClock(),
            settings=MqttSettings(**({"sweep_every": 0.05, "linger": 0.5} | settings)),
            mail=self.box,
            store=StoredSessions(log, random=lambda: 0.5),
        )
        await door.start("127.0.0.1", 0)
        try:
            yield door
        finally:
            await door.stop()
            log.close()


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    return Gateway(tmp_path)


class Device:
    """paho in its own thread; what it hears arrives on queues of this loop."""

    def __init__(self, version: int, name: str = "c1", *, will: bytes | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._version = version
        self.connected: asyncio.Queue[bool] = asyncio.Queue()
        self.messages: asyncio.Queue[paho.MQTTMessage] = asyncio.Queue()
        self.done: asyncio.Queue[int] = asyncio.Queue()
        self.client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=name,
            protocol=MQTTProtocolVersion.MQTTv5 if version == V5 else MQTTProtocolVersion.MQTTv311,
            clean_session=None if version == V5 else False,
        )
        self.client.username_pw_set("gauge-1", "right")
        if will is not None:
            self.client.will_set(UP, will, qos=1)
        self.client.on_connect = lambda client, data, flags, code, properties: self._put(
            self.connected, flags.session_present
        )
        self.client.on_message = lambda client, data, message: self._put(self.messages, message)
        self.client.on_publish = lambda client, data, mid, code, properties: self._put(self.done, mid)
        self.client.on_subscribe = lambda client, data, mid, codes, properties: self._put(self.done, mid)

    def _put(self, queue: asyncio.Queue[Any], value: object) -> None:
        self._loop.call_soon_threadsafe(queue.put_nowait, value)

    async def connect(self, door: MqttDoor) -> bool:
        """Connect, keeping the session; whether it was there."""
        keep: dict[str, Any] = {}
        if self._version == V5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = 3_600
            keep = {"clean_start": False, "properties": properties}
        self.client.connect_async("127.0.0.1", door.port, **keep)
        self.client.loop_start()
        return bool(await self.next(self.connected))

    async def next(self, queue: asyncio.Queue[Any]) -> Any:
        async with asyncio.timeout(15):
            return await queue.get()

    async def leave(self) -> None:
        self.client.disconnect()
        await asyncio.to_thread(self.client.loop_stop)

    async def vanish(self) -> None:
        """Without DISCONNECT."""
        await asyncio.to_thread(self.client.loop_stop)
        sock = self.client.socket()
        if sock is not None:
            sock.close()


@both_versions
async def test_qos_2_by_paho_is_one_frame_each(gateway: Gateway, version: int) -> None:
    async with gateway.open() as door:
        device = Device(version)
        await device.connect(door)
        for number in range(30):
            device.client.publish(UP, b"%d" % number, qos=2)
        for _ in range(30):
            await device.next(device.done)
        await device.leave()
    assert sorted(await gateway.sink.payloads(30)) == sorted(b"%d" % number for number in range(30))


@both_versions
async def test_a_downlink_waits_for_its_device_and_wakes_it(gateway: Gateway, version: int) -> None:
    gateway.box.post("1")
    async with gateway.open() as door:
        device = Device(version)
        await device.connect(door)
        device.client.subscribe("cs/v1/gauge-1/down/#", qos=1)
        first = await device.next(device.messages)
        assert (first.topic, first.payload, first.qos, first.retain) == (DOWN, b"1", 1, False)
        if version == V5:
            assert 590 <= first.properties.MessageExpiryInterval <= 600
        await gateway.box.heard("delivered", "1")
        gateway.box.post("2")
        assert (await device.next(device.messages)).payload == b"2"
        await gateway.box.heard("delivered", "2")
        await device.leave()
    assert gateway.box.told == [(what, number) for number in "12" for what in ("begin", "delivered")]


@both_versions
@pytest.mark.parametrize("restarted", [False, True])
async def test_a_session_is_resumed_with_its_subscriptions(gateway: Gateway, version: int, restarted: bool) -> None:
    async with gateway.open() as door:
        await subscribe_and_leave(door, version)
        if not restarted:
            gateway.box.post("1")
            await hear_again(gateway, door, version)
            return
    gateway.box.post("1")
    async with gateway.open() as door:
        await hear_again(gateway, door, version)
        other = Device(version, "c2")
        assert not await other.connect(door)
        await other.leave()


async def subscribe_and_leave(door: MqttDoor, version: int) -> None:
    device = Device(version)
    assert not await device.connect(door)
    device.client.subscribe("cs/v1/gauge-1/down/#", qos=1)
    await device.next(device.done)
    await device.leave()


async def hear_again(gateway: Gateway, door: MqttDoor, version: int) -> None:
    device = Device(version)
    assert await device.connect(door)
    assert (await device.next(device.messages)).payload == b"1"
    await gateway.box.heard("delivered", "1")
    await device.leave()


async def test_a_childs_downlink_and_receipt_go_through_its_concentrator(gateway: Gateway) -> None:
    gateway.box.post("7", device="pole-9")
    async with gateway.open() as door:
        device = Device(V3)
        await device.connect(door)
        device.client.subscribe("cs/v1/gauge-1/child/+/down/#", qos=1)
        message = await device.next(device.messages)
        assert (message.topic, message.payload) == ("cs/v1/gauge-1/child/pole-9/down/set", b"7")
        await gateway.box.heard("delivered", "7")
        device.client.publish("cs/v1/gauge-1/child/pole-9/up/state", b"x", qos=1)
        await gateway.sink.payloads(1)
        await device.leave()
    frame = gateway.sink.frames[0]
    assert (frame.device, frame.via) == ("pole-9", "gauge-1")


@both_versions
async def test_a_will_speaks_for_a_device_that_vanished_only(gateway: Gateway, version: int) -> None:
    async with gateway.open() as door:
        for word, regular in ((b"not this", True), (b"gone", False)):
            device = Device(version, will=word)
            await device.connect(door)
            await (device.leave() if regular else device.vanish())
        assert await gateway.sink.payloads(1) == [b"gone"]
        assert (gateway.sink.frames[0].device, gateway.sink.frames[0].message) == ("gauge-1", "report")
        assert door.counters.wills == 1


async def test_a_will_waits_over_our_own_stop(gateway: Gateway) -> None:
    device = Device(V3, will=b"gone")
    async with gateway.open() as door:
        await device.connect(door)
    await device.vanish()
    assert gateway.sink.frames == []
    async with gateway.open(will_after_restart=0):
        assert await gateway.sink.payloads(1) == [b"gone"]


async def _mosquitto(program: str, door: MqttDoor, *options: str, lines: int = 0) -> list[str]:
    """Run a mosquitto client as gauge-1; the lines it prints, or as many as are wanted of it."""
    login = ("-h", "127.0.0.1", "-p", str(door.port), "-u", "gauge-1", "-P", "right")
    process = await asyncio.create_subprocess_exec(
        program, *login, *options, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(20):
        out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    return out.decode().split()


@pytest.mark.peer("mosquitto_pub")
@pytest.mark.parametrize("version", ["311", "5"])
async def test_mosquitto_publishes_with_every_qos_and_hears_its_mail(
    gateway: Gateway, peer_path: str, version: str
) -> None:
    async with gateway.open() as door:
        for qos in "012":
            await _mosquitto(peer_path, door, "-V", version, "-i", "m", "-t", UP, "-q", qos, "-m", qos)
        assert sorted(await gateway.sink.payloads(3)) == [b"0", b"1", b"2"]
        gateway.box.post("a")
        gateway.box.post("b")
        sub = str(Path(peer_path).with_name("mosquitto_sub"))
        listen = ("-V", version, "-i", "m", "-c", "-q", "1", "-t", "cs/v1/gauge-1/down/#", "-C", "2")
        expiry = ("-x", "600") if version == "5" else ()
        assert await _mosquitto(sub, door, *listen, *expiry) == ["a", "b"]
        await gateway.box.heard("delivered", "b")


async def test_aiomqtt_is_told_when_to_come_back_and_comes_in_then(gateway: Gateway) -> None:
    async with gateway.open(connect_rate=4.0, connect_burst=1) as door:
        async with aiomqtt.Client("127.0.0.1", door.port, username="gauge-1", password="right", identifier="a"):
            options: dict[str, Any] = {
                "username": "gauge-2",
                "password": "right",
                "protocol": aiomqtt.ProtocolVersion.V5,
            }
            with pytest.raises(aiomqtt.MqttError, match="Connection rate exceeded"):
                async with aiomqtt.Client("127.0.0.1", door.port, **options):
                    pass
            with pytest.raises(aiomqtt.MqttError, match="Server unavailable"):
                async with aiomqtt.Client("127.0.0.1", door.port, username="gauge-2", password="right"):
                    pass
        assert door.counters.put_off == 2
        async with asyncio.timeout(15):
            while True:
                try:
                    async with aiomqtt.Client("127.0.0.1", door.port, **options):
                        break
                except aiomqtt.MqttError:
                    await asyncio.sleep(0.05)
