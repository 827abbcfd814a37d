"""How much of one MQTT connection's input is taken in one turn of the loop: counted in packets, not in seconds."""

from __future__ import annotations

import asyncio

import pytest

from citysense.clock import SetClock
from citysense_gateway.frame import Done, Frame, Kind, Reason, Verdict
from citysense_gateway.gaps import Gaps
from citysense_gateway.mqtt.actions import CloseReason
from citysense_gateway.mqtt.budget import FRAME_BYTES, Budget
from citysense_gateway.mqtt.connection import Common, Connection
from citysense_gateway.mqtt.fields import Fault
from citysense_gateway.mqtt.limits import MqttCounters, MqttSettings
from citysense_gateway.mqtt.session import Session
from citysense_gateway.mqtt.sessions import Opened, Sessions
from citysense_gateway.mqtt.surroundings import Surroundings

STORED = Verdict(kind=Kind.STORED)
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
        self.pongs = 0
        self.reading = True
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data
        self.pongs += bytes(data).count(b"\xd0\x00")

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
    def connection_made(self, connection: Connection) -> bool:
        return True

    def flush_soon(self, connection: Connection) -> None:
        asyncio.get_running_loop().call_soon(connection.flush)

    def proven(self, connection: Connection) -> None: ...
    def session_opened(self, connection: Connection, opened: Opened) -> None: ...
    def session_ended(self, connection: Connection, session: Session, reason: CloseReason | Fault) -> None: ...
    def attend(self, connection: Connection) -> None: ...
    def watch(self, connection: Connection, due: float | None) -> None: ...
    def settled_all(self, connection: Connection) -> None: ...
    def connection_done(self, connection: Connection) -> None: ...


class Sink:
    """Gives its verdicts all in one turn, when `open` is called."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self._waiting: list[Done] | None = []

    def deliver(self, frame: Frame, done: Done, *, reason: Reason | None = None, detail: str = "") -> None:
        assert reason is None, "nothing here is to be refused"
        self.frames.append(frame)
        if self._waiting is None:
            asyncio.get_running_loop().call_soon(done, STORED)
        else:
            self._waiting.append(done)

    def open(self) -> None:
        waiting, self._waiting = self._waiting or [], None
        for done in waiting:
            done(STORED)

    async def accept(self, frame: Frame) -> Verdict:
        raise AssertionError("the door delivers without a task")

    async def refuse(self, frame: Frame, reason: Reason, detail: str) -> Verdict:
        raise AssertionError("the door delivers without a task")


class Bench:
    """One open connection, and how many packets were taken from it."""

    def __init__(self, settings: MqttSettings | None = None) -> None:
        settings = settings or MqttSettings()
        self.sink = Sink()
        self.budget = Budget(settings.max_held_bytes)
        around = Surroundings(
            gaps=Gaps(),
            budget=self.budget,
            check_password=lambda device, secret: True,
            check_certificate=lambda device, der: False,
            topic_rights=lambda device, topic: None,
            speaks_for=lambda concentrator, child: False,
            admit=lambda _told: None,
            new_client_id=lambda: "auto-1",
            sessions=Sessions(settings=settings),
            settings=settings,
            counters=MqttCounters(),
        )
        self._common = Common(
            host=AnyHost(),
            sink=self.sink,
            clock=SetClock(1_000),
            around=around,
            buffer=memoryview(bytearray(1)),
        )
        self.connection, self.wire = self.another("c1")

    def another(self, client_id: str) -> tuple[Connection, Wire]:
        """One more connection of the same device, open."""
        wire, connection = Wire(), Connection(self._common, address="192.0.2.7", source="192.0.2.7:4711")
        connection.connection_made(wire)
        connection.take(CONNECT.replace(b"c1", client_id.encode()))
        assert wire.written == b"\x20\x02\x00\x00"
        wire.written = b""
        return connection, wire

    @property
    def taken(self) -> int:
        """Whole packets so far: pings are answered at once, publishes are frames."""
        return self.wire.pongs + len(self.sink.frames)

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
    bench.connection.take(PING * 131_072)
    steps = await bench.turns_until(131_072)
    assert max(steps) == 64
    assert bench.wire.written == b"\xd0\x00" * 131_072


async def test_the_socket_is_not_read_before_the_share_is_worked_off() -> None:
    bench = Bench()
    bench.connection.take(PING * 64)
    assert bench.wire.reading
    bench.connection.take(PING * 65 + PING[:1])
    assert (bench.taken, bench.wire.reading) == (128, False)
    # What a TLS layer had read already comes all the same, and waits for its turn.
    bench.connection.take(PING[1:] + PING * 64)
    assert bench.taken == 128
    assert await bench.turns_until(64 + 65 + 65) == [128, 64, 2]
    assert bench.wire.reading


async def test_verdicts_that_come_together_do_not_add_up_to_a_flood() -> None:
    bench = Bench(MqttSettings(receive_maximum=32))
    mixed = b"".join(publish(number) + PING * 63 for number in range(1, 201))
    bench.connection.take(mixed)
    await bench.turns_until(31 * 64 + 1)
    for _ in range(3):
        await asyncio.sleep(0)
    assert (bench.taken, len(bench.sink.frames), bench.wire.reading) == (31 * 64 + 1, 32, False)
    bench.sink.open()
    assert max((await bench.turns_until(200 * 64))[1:]) == 64
    for _ in range(3):
        await asyncio.sleep(0)
    assert bench.wire.written.count(b"\x40\x02") == 200
    assert bench.wire.reading


async def test_nothing_is_taken_after_the_end() -> None:
    for end in ("lost", "finished"):
        bench = Bench()
        bench.connection.take(PING * 1_000)
        if end == "lost":
            bench.connection.connection_lost(None)
        else:
            bench.connection.finish(CloseReason.REVOKED)
        assert await asyncio.wait_for(bench.turns_until(64), 10) == [64]
        for _ in range(3):
            await asyncio.sleep(0)
        assert bench.taken == 64


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


FOUR = MqttSettings(max_held_bytes=4 * (FRAME_BYTES + 2))


async def test_all_connections_together_hold_no_more_than_their_budget() -> None:
    """A disk that stalls stalls everybody: what does not fit waits with its sender, and comes when there is room."""
    bench = Bench(FOUR)
    other, wire = bench.another("c2")
    bench.connection.take(b"".join(publish(number) for number in range(1, 4)))
    other.take(b"".join(publish(number) for number in range(1, 11)))
    await turns()
    assert (len(bench.sink.frames), wire.reading, bench.budget.waiting) == (4, False, 1)
    # Whoever is silent is not stopped before it speaks; then nothing of it is taken.
    bench.connection.take(publish(4) + PING)
    await turns()
    assert (len(bench.sink.frames), bench.wire.reading, bench.wire.pongs) == (4, False, 0)
    assert bench.budget.held == 4 * (FRAME_BYTES + 2)
    bench.sink.open()
    await turns(50)
    assert len(bench.sink.frames) == 14
    assert (bench.wire.reading, wire.reading, bench.wire.pongs) == (True, True, 1)
    assert wire.written.count(b"\x40\x02") == 10
    assert (bench.budget.held, bench.budget.full, bench.budget.waiting) == (0, False, 0)


@pytest.mark.parametrize("how", ["lost", "aborted"])
async def test_a_connection_that_ends_gives_back_what_it_held(how: str) -> None:
    bench = Bench(FOUR)
    other, wire = bench.another("c2")
    bench.connection.take(b"".join(publish(number) for number in range(1, 6)))
    other.take(publish(1))
    assert (bench.budget.full, bench.budget.waiting) == (True, 2)
    if how == "aborted":
        bench.connection.abort()
        await turns()
        assert len(bench.sink.frames) == 5, "the other one's has its turn"
    bench.connection.connection_lost(None)
    bench.sink.open()
    await turns()
    assert (bench.budget.held, bench.budget.waiting, wire.reading) == (0, 0, True)
    assert len(bench.sink.frames) == 5, "nobody reads on for a connection that is gone"
