"""How much of one MQTT connection's input is taken in one turn of the loop: counted in packets, not in seconds."""

from __future__ import annotations

import asyncio

from citysense.clock import SetClock
from citysense_gateway.frame import Frame, Kind, Reason, Verdict
from citysense_gateway.mqtt.actions import Action, CloseReason
from citysense_gateway.mqtt.connection import Connection
from citysense_gateway.mqtt.limits import MqttCounters, MqttSettings
from citysense_gateway.mqtt.packets import Packet
from citysense_gateway.mqtt.session import Session

PING = b"\xc0\x00"
CONNECT = b"\x10\x1e\x00\x04MQTT\x04\xc2\x00\x3c\x00\x02c1\x00\x07gauge-1\x00\x05right"
TOPIC = b"cs/v1/gauge-1/up/report"


def publish(number: int) -> bytes:
    body = len(TOPIC).to_bytes(2, "big") + TOPIC + number.to_bytes(2, "big") + b"{}"
    return bytes([0x32, len(body)]) + body


class Wire(asyncio.Transport):
    """A transport that keeps what is written and whether it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.reading = True
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.closed
        self.reading = True

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        self.closed = True

    abort = close


class AnyHost:
    def connection_made(self, connection: Connection) -> CloseReason | None:
        return None

    def session_opened(self, connection: Connection) -> None: ...
    def session_ended(self, connection: Connection) -> None: ...
    def connection_done(self, connection: Connection) -> None: ...


class Sink:
    """Gives its verdicts all in one turn, when `gate` opens."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.frames: list[Frame] = []

    async def accept(self, frame: Frame) -> Verdict:
        self.frames.append(frame)
        await self.gate.wait()
        return Verdict(kind=Kind.STORED)

    async def refuse(self, frame: Frame, reason: Reason, detail: str) -> Verdict:
        raise AssertionError("nothing here is to be refused")


class Bench:
    """One open connection, and how many packets its session was given."""

    def __init__(self, settings: MqttSettings | None = None) -> None:
        self.taken = 0
        self.wire = Wire()
        self.sink = Sink()
        self.counters = MqttCounters()
        self._settings = settings or MqttSettings()
        self.connection = Connection(
            host=AnyHost(),
            sink=self.sink,
            new_session=self._session,
            clock=SetClock(1_000),
            settings=self._settings,
            counters=self.counters,
        )
        self.connection.connection_made(self.wire)
        self.connection.data_received(CONNECT)
        assert self.wire.written == b"\x20\x02\x00\x00"
        self.wire.written = b""
        self.taken = 0

    def _session(self, source: str) -> Session:
        bench = self

        class Counted(Session):
            def receive(self, packet: Packet, now_ms: int) -> tuple[Action, ...]:
                bench.taken += 1
                return super().receive(packet, now_ms)

        return Counted(
            source=source,
            check_password=lambda device, secret: True,
            topic_rights=lambda device, topic: None,
            new_client_id=lambda: "auto-1",
            settings=self._settings,
            counters=self.counters,
        )

    async def turns_until(self, count: int) -> list[int]:
        """Packets taken in each turn, until `count` were taken in all."""
        steps = [self.taken]
        while self.taken < count:
            assert len(steps) < 100_000, f"stuck at {self.taken} of {count}"
            before = self.taken
            await asyncio.sleep(0)
            steps.append(self.taken - before)
        return steps


async def test_a_flood_of_small_packets_is_taken_in_shares() -> None:
    bench = Bench()
    bench.connection.data_received(PING * 131_072)
    steps = await bench.turns_until(131_072)
    assert max(steps) == 64
    assert bench.wire.written == b"\xd0\x00" * 131_072


async def test_the_socket_is_not_read_before_the_share_is_worked_off() -> None:
    bench = Bench()
    bench.connection.data_received(PING * 64)
    assert bench.wire.reading
    bench.connection.data_received(PING * 65 + PING[:1])
    assert (bench.taken, bench.wire.reading) == (128, False)
    # What a TLS layer had read already comes all the same, and waits for its turn.
    bench.connection.data_received(PING[1:] + PING * 64)
    assert bench.taken == 128
    assert await bench.turns_until(64 + 65 + 65) == [128, 64, 2]
    assert bench.wire.reading


async def test_verdicts_that_come_together_do_not_add_up_to_a_flood() -> None:
    bench = Bench(MqttSettings(receive_maximum=32))
    mixed = b"".join(publish(number) + PING * 63 for number in range(1, 201))
    bench.connection.data_received(mixed)
    await bench.turns_until(31 * 64 + 1)
    for _ in range(3):
        await asyncio.sleep(0)
    assert (bench.taken, len(bench.sink.frames), bench.wire.reading) == (31 * 64 + 1, 32, False)
    bench.taken = 0
    bench.sink.gate.set()
    rest = 200 * 64 - (31 * 64 + 1)
    assert max(await bench.turns_until(rest)) == 64
    for _ in range(3):
        await asyncio.sleep(0)
    assert bench.wire.written.count(b"\x40\x02") == 200
    assert bench.wire.reading


async def test_nothing_is_taken_after_the_end() -> None:
    for end in ("lost", "finished"):
        bench = Bench()
        bench.connection.data_received(PING * 1_000)
        if end == "lost":
            bench.connection.connection_lost(None)
        else:
            bench.connection.finish(CloseReason.REVOKED)
        assert await asyncio.wait_for(bench.turns_until(64), 10) == [64]
        for _ in range(3):
            await asyncio.sleep(0)
        assert bench.taken == 64
