"""paho and aiomqtt as devices at the MQTT door, in front of a pipeline that answers as told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiomqtt
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.reasoncodes import ReasonCode

from citysense.clock import SystemClock
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
    refused: list[tuple[Frame, Reason]] = field(default_factory=list)
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
        self.refused.append((frame, reason))
        return Verdict(kind=Kind.REJECTED, reason=reason, detail=detail)

    async def wait_for(self, count: int) -> None:
        async with asyncio.timeout(10), self.arrived:
            await self.arrived.wait_for(lambda: len(self.frames) >= count)


def check_password(device: str, secret: bytes) -> bool:
    return device.startswith("gauge-") and secret == b"right"


@asynccontextmanager
async def serving(pipeline: Pipeline) -> AsyncIterator[MqttDoor]:
    door = MqttDoor(
        sink=pipeline,
        check_password=check_password,
        topic_rights=lambda device, topic: None,
        clock=SystemClock(),
        settings=MqttSettings(linger=0.5),
    )
    await door.start("127.0.0.1", 0)
    try:
        yield door
    finally:
        await door.stop()


@pytest.fixture
def pipeline() -> Pipeline:
    one = Pipeline()
    one.gate.set()
    return one


class PahoDevice:
    """paho in its own thread; what happens to it arrives on queues of this loop."""

    def __init__(self, door: MqttDoor, version: int, *, password: str = "right") -> None:
        self._loop = asyncio.get_running_loop()
        self._port = door.port
        self.connected: asyncio.Queue[ReasonCode] = asyncio.Queue()
        self.acked: asyncio.Queue[tuple[int, int]] = asyncio.Queue()
        self.client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id="paho-1",
            protocol=MQTTProtocolVersion.MQTTv5 if version == V5 else MQTTProtocolVersion.MQTTv311,
            clean_session=None if version == V5 else False,
        )
        self.client.username_pw_set("gauge-1", password)
        self.client.on_connect = self._on_connect
        self.client.on_publish = self._on_publish

    def _on_connect(self, client: Any, userdata: Any, flags: Any, code: ReasonCode, properties: Any) -> None:
        self._loop.call_soon_threadsafe(self.connected.put_nowait, code)

    def _on_publish(self, client: Any, userdata: Any, mid: int, code: ReasonCode, properties: Any) -> None:
        self._loop.call_soon_threadsafe(self.acked.put_nowait, (mid, code.value))

    async def __aenter__(self) -> PahoDevice:
        self.client.connect_async("127.0.0.1", self._port)
        self.client.loop_start()
        return self

    async def __aexit__(self, *error: object) -> None:
        self.client.disconnect()
        await asyncio.to_thread(self.client.loop_stop)

    async def online(self) -> PahoDevice:
        async with asyncio.timeout(10):
            code = await self.connected.get()
        assert not code.is_failure, code
        return self

    async def acks(self, count: int) -> list[tuple[int, int]]:
        async with asyncio.timeout(10):
            return [await self.acked.get() for _ in range(count)]


@both_versions
async def test_a_burst_of_publishes_is_acknowledged_once_each(pipeline: Pipeline, version: int) -> None:
    async with serving(pipeline) as door, PahoDevice(door, version) as device:
        await device.online()
        sent = [device.client.publish(UP, b'{"n":%d}' % n, qos=1).mid for n in range(100)]
        assert sorted(await device.acks(100)) == [(mid, 0) for mid in sorted(sent)]
        assert device.acked.empty()
    assert sorted(frame.payload for frame in pipeline.frames) == sorted(b'{"n":%d}' % n for n in range(100))
    assert door.counters.publishes == 100


async def test_a_device_that_was_cut_sends_again_with_dup(pipeline: Pipeline) -> None:
    pipeline.gate.clear()
    async with serving(pipeline) as door, PahoDevice(door, V3) as device:
        await device.online()
        mid = device.client.publish(UP, b"{}", qos=1).mid
        await pipeline.wait_for(1)
        assert door.disconnect("gauge-1") == 1
        await device.online()
        await pipeline.wait_for(2)
        pipeline.gate.set()
        assert await device.acks(1) == [(mid, 0)]
    assert [frame.delivery for frame in pipeline.frames] == [
        b"\x00gauge-1/paho-1/%d" % mid,
        b"\x01gauge-1/paho-1/%d" % mid,
    ]


@both_versions
async def test_a_wrong_password_is_refused_and_kept(pipeline: Pipeline, version: int) -> None:
    async with serving(pipeline) as door, PahoDevice(door, version, password="wrong") as device:
        async with asyncio.timeout(10):
            code = await device.connected.get()
        assert str(code) == "Not authorized"
    frame, reason = pipeline.refused[0]
    assert (frame.device, frame.payload, reason) == ("gauge-1", b"", Reason.BAD_CREDENTIAL)
    assert door.counters.refused["bad_credential"] == len(pipeline.refused)


@pytest.mark.parametrize(("version", "code"), [(V3, 0), (V5, 0x87)])
async def test_a_foreign_topic_is_answered_and_kept(pipeline: Pipeline, version: int, code: int) -> None:
    async with serving(pipeline) as door, PahoDevice(door, version) as device:
        await device.online()
        mid = device.client.publish("cs/v1/gauge-2/up/report", b"x", qos=1).mid
        assert await device.acks(1) == [(mid, code)]
    [(frame, reason)] = pipeline.refused
    assert (frame.device, frame.channel, frame.payload) == ("gauge-1", "cs/v1/gauge-2/up/report", b"x")
    assert reason is Reason.FOREIGN_TOPIC
    assert pipeline.frames == []


@pytest.mark.parametrize(("version", "code"), [(V3, 0), (V5, 0x99)])
async def test_an_undecodable_payload_is_answered(pipeline: Pipeline, version: int, code: int) -> None:
    pipeline.judge = lambda frame: Verdict(kind=Kind.REJECTED, reason=Reason.UNDECODABLE, detail="byte 3")
    async with serving(pipeline) as door, PahoDevice(door, version) as device:
        await device.online()
        mid = device.client.publish(UP, b"x", qos=1).mid
        assert await device.acks(1) == [(mid, code)]


@pytest.mark.parametrize("protocol", [aiomqtt.ProtocolVersion.V311, aiomqtt.ProtocolVersion.V5])
async def test_a_device_hears_which_numbers_are_durable(pipeline: Pipeline, protocol: aiomqtt.ProtocolVersion) -> None:
    pipeline.judge = lambda frame: Verdict(kind=Kind.STORED, receipt=Receipt(boot=3, seq=int(frame.payload)))
    async with (
        serving(pipeline) as door,
        aiomqtt.Client(
            "127.0.0.1", door.port, username="gauge-1", password="right", identifier="a", protocol=protocol
        ) as client,
    ):
        await client.subscribe("cs/v1/gauge-1/ack")
        await asyncio.gather(*(client.publish(UP, str(seq), qos=1) for seq in range(40, 60)))
        async with asyncio.timeout(10):
            async for message in client.messages:
                assert message.topic.value == "cs/v1/gauge-1/ack"
                if message.payload == b'{"boot":3,"seq":59}':
                    break
