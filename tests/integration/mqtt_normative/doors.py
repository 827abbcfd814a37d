"""A real MQTT door on loopback for tests, with a sink, a mailbox and a clock that the test holds in its hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from integration.mqtt_normative.wire import PATIENCE_S, Peer, connect, read_properties

from citysense.clock import SetClock
from citysense_gateway.frame import Done, Frame, Kind, Reason, Verdict
from citysense_gateway.mail import Mail
from citysense_gateway.mqtt.door import MqttDoor
from citysense_gateway.mqtt.limits import MqttSettings

START_MS = 1_700_000_000_000
UP = "cs/v1/gauge-1/up/report"
ACK = "cs/v1/gauge-1/ack"
DOWN = "cs/v1/gauge-1/down"
STORED = Verdict(kind=Kind.STORED)


@dataclass
class Sink:
    """Takes frames and answers them through `judge`, but only while `gate` is open."""

    judge: Callable[[Frame], Verdict] = lambda frame: STORED
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    frames: list[Frame] = field(default_factory=list)
    refused: list[tuple[Frame, Reason]] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    _held: list[tuple[Done, Verdict]] = field(default_factory=list)

    def deliver(self, frame: Frame, done: Done, *, reason: Reason | None = None, detail: str = "") -> None:
        verdict = self._take(frame, reason, detail)
        if self.gate.is_set():
            asyncio.get_running_loop().call_soon(done, verdict)
        else:
            self._held.append((done, verdict))

    async def accept(self, frame: Frame) -> Verdict:
        verdict = self._take(frame, None, "")
        await self.gate.wait()
        return verdict

    async def refuse(self, frame: Frame, reason: Reason, detail: str) -> Verdict:
        verdict = self._take(frame, reason, detail)
        await self.gate.wait()
        return verdict

    def open(self) -> None:
        """Let the answers go, in the order of their frames."""
        self.gate.set()
        held, self._held = self._held, []
        for done, verdict in held:
            done(verdict)

    def _take(self, frame: Frame, reason: Reason | None, detail: str) -> Verdict:
        self.changed.set()
        if reason is not None:
            self.refused.append((frame, reason))
            return Verdict(kind=Kind.REJECTED, reason=reason, detail=detail)
        self.frames.append(frame)
        return self.judge(frame)

    @property
    def payloads(self) -> list[bytes]:
        return [frame.payload for frame in self.frames]

    async def wait_for(self, count: int) -> None:
        """Until `count` frames came in."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.frames) < count:
                self.changed.clear()
                await self.changed.wait()


@dataclass
class Letters:
    """A mailbox in memory that notes what the door says of each letter."""

    clock: SetClock
    mail: list[Mail] = field(default_factory=list)
    begun: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    _listeners: list[Callable[[str], None]] = field(default_factory=list)

    def post(self, ident: str, *, message: str = "set", payload: bytes = b"{}", **more: Any) -> Mail:
        """Put a letter for gauge-1 into the box and tell the door."""
        fields: dict[str, Any] = {
            "id": ident,
            "device": "gauge-1",
            "message": message,
            "payload": payload,
            "content": 50,
            "values": {},
            "expires": START_MS + 3_600_000,
            "priority": 0,
            "once": False,
        }
        letter = Mail(**fields | more)
        self.mail.append(letter)
        for listener in self._listeners:
            listener(letter.device)
        return letter

    def waiting(self, device: str) -> tuple[Mail, ...]:
        over = {*self.done, *self.failed}
        return tuple(
            one
            for one in self.mail
            if one.device == device
            and one.id not in over
            and one.expires > self.clock.now_ms()
            and not (one.once and one.id in self.begun)
        )

    async def begin(self, mail: Mail) -> bool:
        self.begun.append(mail.id)
        return True

    async def delivered(self, mail: Mail) -> None:
        self.done.append(mail.id)
        self.changed.set()

    async def refused(self, mail: Mail, detail: str) -> None:
        self.failed.append(mail.id)
        self.changed.set()

    def listen(self, on_mail: Callable[[str], None]) -> None:
        self._listeners.append(on_mail)

    async def wait_for(self, *, done: int = 0, failed: int = 0) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while len(self.done) < done or len(self.failed) < failed:
                self.changed.clear()
                await self.changed.wait()


@dataclass
class Bench:
    """A running door and everything around it."""

    door: MqttDoor
    sink: Sink
    letters: Letters
    clock: SetClock

    @asynccontextmanager
    async def peer(self, version: int) -> AsyncIterator[Peer]:
        """A connection on which nothing was said yet."""
        peer = await Peer.open(self.door.port, version)
        try:
            yield peer
        finally:
            await peer.close()

    @asynccontextmanager
    async def online(self, version: int, **options: Any) -> AsyncIterator[Peer]:
        """A connection that the door has accepted."""
        async with self.peer(version) as peer:
            await accepted(peer, **options)
            yield peer

    async def until_gone(self) -> None:
        """Until the door has noticed that nobody is connected."""
        async with asyncio.timeout(PATIENCE_S):
            while self.door.counters.connections:
                await asyncio.sleep(0.001)


async def accepted(peer: Peer, **options: Any) -> tuple[bool, dict[int, list[bytes]]]:
    """Connect; (session present, properties of CONNACK)."""
    peer.send(connect(peer.version, **options))
    connack = await peer.receive()
    assert connack[:1] == b"\x20"
    assert connack[1] in (0, 1), "reserved bits of the acknowledge flags"
    assert connack[2] == 0, f"refused with 0x{connack[2]:02x}"
    return bool(connack[1]), read_properties(connack, 3)[0] if len(connack) > 3 else {}


def check_password(device: str, secret: bytes) -> bool:
    return device.startswith("gauge-") and secret == b"right"


@asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[Bench]:
    """A door with `settings` of its own."""
    sink, clock = Sink(), SetClock(START_MS)
    letters = Letters(clock)
    sink.open()
    door = MqttDoor(
        sink=sink,
        check_password=check_password,
        topic_rights=lambda device, topic: None,
        mail=letters,
        clock=clock,
        settings=MqttSettings(**({"sweep_every": 0.02, "linger": 0.5} | settings)),
    )
    await door.start("127.0.0.1", 0)
    try:
        yield Bench(door, sink, letters, clock)
    finally:
        await door.stop()
