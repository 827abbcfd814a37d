"""The Modbus driver against real servers, and against peers that misbehave."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import pytest
from pymodbus import FramerType
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from citysense.clock import SystemClock
from citysense_gateway.frame import Done, Frame, Identity, Kind, Reason, Transport, Verdict
from citysense_gateway.modbus.connection import Connection
from citysense_gateway.modbus.endpoint import Line, Link
from citysense_gateway.modbus.line import PolledDevice
from citysense_gateway.modbus.poller import ModbusPoller
from citysense_profiles import Read

STORED = Verdict(kind=Kind.STORED)


class Sink:
    """Collects frames and wakes who waits for them."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.verdict = STORED
        self.gate: asyncio.Event | None = None
        self.defect: Exception | None = None
        self.entered = asyncio.Event()

    def deliver(self, frame: Frame, done: Done, *, reason: Reason | None = None, detail: str = "") -> None:
        assert reason is None
        self.entered.set()
        if self.defect is not None:
            raise self.defect
        self._storing = asyncio.create_task(self._store(frame, done))

    async def _store(self, frame: Frame, done: Done) -> None:
        if self.gate is not None:
            await self.gate.wait()
        self.frames.append(frame)
        done(self.verdict)

    async def accept(self, frame: Frame) -> Verdict:
        raise AssertionError("the Modbus driver does not wait for verdicts")

    async def refuse(self, frame: Frame, reason: Reason, detail: str) -> Verdict:
        raise AssertionError("the Modbus driver refuses no frame itself")

    def of(self, device: str) -> list[Frame]:
        return [frame for frame in self.frames if frame.device == device]


async def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


class Impatient(random.Random):
    """Always the shortest time."""

    def uniform(self, a: float, b: float) -> float:
        return a


@asynccontextmanager
async def polling(sink: Sink, *, reply_timeout: float = 0.3) -> AsyncIterator[ModbusPoller]:
    poller = ModbusPoller(sink=sink, clock=SystemClock(), random=Impatient(1), reply_timeout=reply_timeout)
    await poller.start()
    try:
        yield poller
    finally:
        await poller.stop()


@asynccontextmanager
async def serving(
    *units: int, port: int = 0, framer: FramerType = FramerType.SOCKET, base: int = 0
) -> AsyncIterator[tuple[ModbusTcpServer, int]]:
    """A real server: 50 holding and input registers from address 100 on, each holding `base` + 10 * unit + its place."""
    devices = [
        SimDevice(
            unit,
            simdata=(
                [SimData(0, values=[True, False, True, True] * 4, datatype=DataType.BITS)],
                [SimData(0, values=[False, True] * 8, datatype=DataType.BITS)],
                [SimData(100, values=[base + 10 * unit + at for at in range(50)], datatype=DataType.REGISTERS)],
                [SimData(100, values=[5000 + at for at in range(50)], datatype=DataType.REGISTERS)],
            ),
        )
        for unit in units
    ]
    server = ModbusTcpServer(devices, framer=framer, address=("127.0.0.1", port))
    await server.serve_forever(background=True)
    assert isinstance(server.transport, asyncio.Server)
    try:
        yield server, server.transport.sockets[0].getsockname()[1]
    finally:
        await server.shutdown()  # type: ignore[no-untyped-call]
        await asyncio.sleep(0)


Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def misbehaving(behaviour: Behaviour) -> AsyncIterator[int]:
    """A peer that does what `behaviour` says with each connection."""
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await behaviour(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            # The driver hung up, or the test is over.
            return
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)


def device(
    id_: str, port: int, unit: int = 1, *reads: Read, every: float = 0.03, link: str = "tcp", message: str | None = None
) -> PolledDevice:
    plan = reads or (Read(table="holding", address=100, count=2),)
    return PolledDevice(
        id=id_, endpoint=f"modbus+{link}://127.0.0.1:{port}/{unit}", plan=plan, every=every, message=message
    )


async def test_a_poll_of_all_four_tables_is_one_frame() -> None:
    sink = Sink()
    reads = (
        Read(table="coil", address=0, count=3),
        Read(table="discrete", address=1, count=2),
        Read(table="holding", address=100, count=2),
        Read(table="input", address=149, count=1),
    )
    async with serving(7) as (_, port), polling(sink) as poller:
        poller.set_devices([device("pile-1", port, 7, *reads, message="state")])
        await until(lambda: len(sink.frames) >= 3)
        assert poller.counters.failing == poller.counters.failures == 0
    frame = sink.frames[0]
    assert frame.registers == {
        ("coil", 0): 1,
        ("coil", 1): 0,
        ("coil", 2): 1,
        ("discrete", 1): 1,
        ("discrete", 2): 0,
        ("holding", 100): 70,
        ("holding", 101): 71,
        ("input", 149): 5049,
    }
    assert (frame.transport, frame.identity, frame.device) == (Transport.MODBUS, Identity.ENDPOINT, "pile-1")
    assert (frame.channel, frame.source) == (f"modbus+tcp://127.0.0.1:{port}/7", f"127.0.0.1:{port}")
    assert (frame.message, frame.payload, frame.delivery) == ("state", b"", None)
    assert frame.received_at <= sink.frames[1].received_at


async def test_units_share_one_connection(caplog: pytest.LogCaptureFixture) -> None:
    sink = Sink()
    async with serving(1, 2, framer=FramerType.RTU) as (server, port), polling(sink) as poller:
        poller.set_devices([device("a", port, 1, link="rtu-tcp"), device("b", port, 2, link="rtu-tcp")])
        await until(lambda: len(sink.of("a")) >= 3 and len(sink.of("b")) >= 3)
        assert len(server.active_connections) == 1
    assert {frame.registers[("holding", 100)] for frame in sink.of("a") if frame.registers} == {10}
    assert {frame.registers[("holding", 100)] for frame in sink.of("b") if frame.registers} == {20}
    assert caplog.records == []


async def test_an_illegal_address_is_left_out_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    sink = Sink()
    good, illegal = Read(table="holding", address=100, count=1), Read(table="holding", address=900, count=1)
    async with serving(1) as (_, port), polling(sink) as poller:
        poller.set_devices([device("half", port, 1, illegal, good), device("none", port, 1, illegal)])
        await until(lambda: len(sink.of("half")) >= 3 and poller.counters.failing == 1)
        assert poller.counters.refused_reads >= 4
    assert {tuple(frame.registers or {}) for frame in sink.of("half")} == {(("holding", 100),)}
    assert sink.of("none") == []
    told = [record.getMessage() for record in caplog.records]
    assert any(text.startswith("device none ") and "illegal address" in text for text in told)
    assert len([text for text in told if "half" in text]) == 1
    assert len([text for text in told if "none" in text]) == 1


async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def test_a_silent_line_delays_no_other() -> None:
    sink = Sink()
    async with serving(1) as (_, port), misbehaving(never_answer) as silent_port:
        # The silent one is waited for until the test is over: had others to wait too, there would be no frames.
        async with polling(sink, reply_timeout=60) as poller:
            poller.set_devices([device("silent", silent_port), device("good", port)])
            await until(lambda: len(sink.of("good")) >= 20)
            assert poller.counters.failures == 0


async def only_unit_1(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        request = await reader.readexactly(12)
        if request[6] == 1:
            writer.write(mbap(request, [11, 22]))


async def test_a_silent_unit_leaves_room_for_the_others_of_its_line(caplog: pytest.LogCaptureFixture) -> None:
    sink = Sink()
    async with misbehaving(only_unit_1) as port, polling(sink) as poller:
        poller.set_devices([device("silent", port, 2), device("good", port, 1)])
        await until(lambda: poller.counters.failing == 1)
        before = len(sink.of("good"))
        await until(lambda: len(sink.of("good")) >= before + 10)
    assert "no reply within 0.3 s" in caplog.text
    assert sink.of("silent") == []


def mbap(request: bytes, words: list[int], **changed: int) -> bytes:
    """The reply to an MBAP request for registers, with parts of it changed."""
    transaction = changed.get("transaction", int.from_bytes(request[:2], "big"))
    unit = changed.get("unit", request[6])
    function = changed.get("function", request[7])
    body = bytes([unit, function, changed.get("bytes", 2 * len(words))])
    body += b"".join(word.to_bytes(2, "big") for word in words)
    return transaction.to_bytes(2, "big") + b"\0\0" + len(body).to_bytes(2, "big") + body


class Script:
    """A peer that answers request n as entry n says, and correctly after the last entry."""

    def __init__(self, *entries: Callable[[bytes], bytes]) -> None:
        self._entries = list(entries)
        self.connections = 0

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while True:
            request = await reader.readexactly(12)
            entry = self._entries.pop(0) if self._entries else lambda request: mbap(request, [11, 22])
            writer.write(entry(request))
            await writer.drain()


def noise(length: int) -> bytes:
    return random.Random(5).randbytes(length)


WRONG: dict[str, Callable[[bytes], bytes]] = {
    "truncated, then garbage": lambda request: mbap(request, [66, 77])[:10] + noise(300),
    "garbage": lambda request: noise(40),
    "nothing but a header": lambda request: request[:6],
    "too few registers": lambda request: mbap(request, [66]),
    "too many registers": lambda request: mbap(request, [66, 77, 88]),
    "another function": lambda request: mbap(request, [66, 77], function=4),
    "another unit": lambda request: mbap(request, [66, 77], unit=9),
    "another transaction": lambda request: mbap(request, [66, 77], transaction=60_000),
    "more bytes announced than there are": lambda request: mbap(request, [66, 77], bytes=200),
    "an unknown function": lambda request: mbap(request, [66, 77], function=0x63),
    "an exception to another function": lambda request: request[:4] + b"\0\3" + request[6:7] + b"\x84\x02",
}


async def test_a_wrong_reply_is_a_failure_and_the_next_connection_is_good(caplog: pytest.LogCaptureFixture) -> None:
    sink = Sink()
    scripts = {name: Script(wrong) for name, wrong in WRONG.items()}
    async with AsyncExitStack() as peers, polling(sink) as poller:
        ports = {
            name: await peers.enter_async_context(misbehaving(script.connected)) for name, script in scripts.items()
        }
        poller.set_devices([device(name, port) for name, port in ports.items()])
        await until(lambda: all(len(sink.of(name)) >= 3 for name in WRONG))
        assert (poller.counters.failures, poller.counters.failing) == (len(WRONG), 0)
        poller.set_devices([])
    assert {name: script.connections for name, script in scripts.items()} == dict.fromkeys(WRONG, 2)
    assert {tuple((frame.registers or {}).values()) for frame in sink.frames} == {(11, 22)}
    # For each one line when it begins, one when it ends, and nothing from the library or the loop.
    assert [record.name for record in caplog.records] == ["citysense_gateway.modbus.trouble"] * 2 * len(WRONG)


async def test_a_stale_reply_before_the_right_one_is_passed_over() -> None:
    sink = Sink()
    script = Script(lambda request: mbap(request, [66, 77], transaction=60_000) + mbap(request, [11, 22]))
    async with misbehaving(script.connected) as port, polling(sink) as poller:
        poller.set_devices([device("d", port)])
        await until(lambda: len(sink.frames) >= 3)
        assert poller.counters.failures == 0
    assert {tuple((frame.registers or {}).values()) for frame in sink.frames} == {(11, 22)}


async def test_what_nobody_asked_for_is_dropped() -> None:
    sink = Sink()

    async def chatty(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(noise(500))
        while True:
            request = await reader.readexactly(12)
            writer.write(mbap(request, [11, 22]))
            await writer.drain()
            writer.write(noise(7))

    async with misbehaving(chatty) as port, polling(sink) as poller:
        poller.set_devices([device("d", port, every=0.2)])
        await until(lambda: len(sink.frames) >= 3)
    assert {tuple((frame.registers or {}).values()) for frame in sink.frames} == {(11, 22)}


@pytest.mark.parametrize("link", ["tcp", "rtu-tcp"])
async def test_a_hostile_peer_ends_nothing_and_delays_no_other_line(link: str) -> None:
    sink = Sink()
    chance = random.Random(7)

    async def hostile(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(300):
            for _ in range(chance.randint(1, 5)):
                writer.write(chance.randbytes(chance.choice((1, 7, 9, 260, 5000))))
                await writer.drain()
            if chance.random() < 0.3:
                return

    async with serving(1) as (_, port), misbehaving(hostile) as bad_port, polling(sink, reply_timeout=0.05) as poller:
        bad = [device(f"bad-{unit}", bad_port, unit, link=link) for unit in range(1, 9)]
        poller.set_devices([*bad, device("good", port)])
        await until(lambda: poller.counters.failures >= 12 and len(sink.of("good")) >= 20)
        assert poller.counters.failing == 8
    assert {frame.device for frame in sink.frames} == {"good"}


async def test_a_peer_that_hangs_up_is_noticed_at_once(caplog: pytest.LogCaptureFixture) -> None:
    sink = Sink()

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(12)

    async with misbehaving(hang_up) as port, polling(sink, reply_timeout=60) as poller:
        poller.set_devices([device("d", port)])
        await until(lambda: poller.counters.failing == 1)
    assert "hung up" in caplog.text


async def test_an_outage_is_told_at_its_start_and_at_its_end(caplog: pytest.LogCaptureFixture) -> None:
    sink = Sink()
    async with polling(sink) as poller:
        async with serving(1) as (_, port):
            poller.set_devices([device("d", port)])
            await until(lambda: len(sink.frames) >= 2)
        await until(lambda: poller.counters.failures >= 2)
        assert poller.counters.failing == 1
        async with serving(1, port=port):
            before = len(sink.frames)
            await until(lambda: len(sink.frames) >= before + 2)
            assert poller.counters.failing == 0
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(told) == 2
    assert told[0].startswith(f"127.0.0.1:{port} takes no connection") or told[0].startswith("device d ")
    assert "failed" in told[1]


async def test_devices_come_move_change_and_go() -> None:
    sink = Sink()
    async with serving(1) as (old, old_port), serving(1, base=1000) as (new, new_port), polling(sink) as poller:
        stays = device("stays", old_port)
        poller.set_devices([stays, device("moves", old_port)])
        await until(lambda: sink.of("moves") and sink.of("stays"))
        poller.set_devices([stays, device("moves", new_port)])
        moved = len(sink.of("moves"))
        await until(lambda: len(sink.of("moves")) >= moved + 3)
        assert {(frame.registers or {})[("holding", 100)] for frame in sink.of("moves")[moved:]} == {1010}
        assert (len(old.active_connections), len(new.active_connections)) == (1, 1)

        poller.set_devices([stays, device("moves", new_port, 1, Read(table="input", address=100, count=1))])
        await until(lambda: ("input", 100) in (sink.of("moves")[-1].registers or {}))

        poller.set_devices([stays])
        gone = len(sink.of("moves"))
        going_on = len(sink.of("stays"))
        await until(lambda: len(sink.of("stays")) >= going_on + 5)
        assert len(sink.of("moves")) == gone
        await until(lambda: not new.active_connections)
        assert poller.counters.devices == 1

        poller.set_devices([])
        await until(lambda: not old.active_connections)


async def test_what_cannot_be_served_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    sink = Sink()
    read = (Read(table="holding", address=100, count=1),)
    odd = [
        PolledDevice(id="wrong", endpoint="modbus+tcp://127.0.0.1:502/999", plan=read, every=1, message=None),
        PolledDevice(id="empty", endpoint="modbus+tcp://127.0.0.1:1/1", plan=(), every=1, message=None),
        PolledDevice(id="still", endpoint="modbus+tcp://127.0.0.1:1/1", plan=read, every=0, message=None),
    ]
    async with serving(1) as (_, port), polling(sink) as poller:
        poller.set_devices([*odd, device("good", port)])
        poller.set_devices([*odd, device("good", port)])
        await until(lambda: sink.of("good"))
        assert (poller.counters.devices, poller.counters.unserved, poller.counters.failing) == (4, 3, 0)
    told = {text.split()[1]: text for text in (record.getMessage() for record in caplog.records)}
    assert "unit" in told["wrong"]
    assert set(told) == {"wrong", "empty", "still"}
    assert len(caplog.records) == 3


async def test_all_maps_of_a_device_are_polled_each_at_its_own_pace() -> None:
    sink = Sink()
    state = device("pile", 0, 1, Read(table="holding", address=100, count=2), every=0.02, message="state")
    async with serving(1) as (server, port), polling(sink) as poller:
        state = replace(state, endpoint=f"modbus+tcp://127.0.0.1:{port}/1")
        meter = replace(state, plan=(Read(table="input", address=100, count=1),), every=0.2, message="meter")
        poller.set_devices([state, meter])
        await until(lambda: sum(frame.message == "meter" for frame in sink.frames) >= 3)
        assert len(server.active_connections) == 1
        assert poller.counters.devices == 1
    kinds = {(frame.message, *(frame.registers or {})) for frame in sink.frames}
    assert kinds == {("state", ("holding", 100), ("holding", 101)), ("meter", ("input", 100))}
    assert sum(frame.message == "state" for frame in sink.frames) > 2 * sum(
        frame.message == "meter" for frame in sink.frames
    )


async def test_what_could_not_be_stored_is_polled_again_soon() -> None:
    sink = Sink()
    sink.verdict = Verdict(kind=Kind.UNAVAILABLE)
    async with serving(1) as (_, port), polling(sink) as poller:
        poller.set_devices([device("d", port, every=0.05)])
        await until(lambda: poller.counters.unstored >= 3)
        assert poller.counters.failing == 0


async def test_a_frame_being_stored_is_finished_when_its_device_goes() -> None:
    sink = Sink()
    sink.gate = asyncio.Event()
    async with serving(1) as (_, port), polling(sink) as poller:
        poller.set_devices([device("d", port)])
        await asyncio.wait_for(sink.entered.wait(), 10)
        poller.set_devices([])
        await asyncio.sleep(0)
        sink.gate.set()
        await until(lambda: sink.frames)


async def test_a_defect_behind_the_sink_is_raised_to_the_top() -> None:
    sink = Sink()
    sink.defect = RuntimeError("a defect")
    async with serving(1) as (_, port), polling(sink) as poller:
        poller.set_devices([device("d", port)])
        with pytest.raises(RuntimeError, match="a defect"):
            await asyncio.wait_for(poller.watch(), 10)


async def test_stopping_ends_the_watch_and_hangs_up_in_the_middle_of_an_exchange() -> None:
    sink = Sink()
    connected = asyncio.Event()
    gone = asyncio.Event()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(12)
        connected.set()
        await reader.read()
        gone.set()

    async with misbehaving(listen) as port:
        async with polling(sink, reply_timeout=60) as poller:
            watch = asyncio.create_task(poller.watch())
            poller.set_devices([device("d", port)])
            await asyncio.wait_for(connected.wait(), 10)
        await asyncio.wait_for(watch, 10)
        await asyncio.wait_for(gone.wait(), 10)


@pytest.mark.parametrize("link", [Link.TCP, Link.RTU_TCP])
async def test_a_peer_that_talks_without_end_is_hung_up_on(link: Link) -> None:
    hung_up = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while not reader.at_eof():
                writer.write(bytes(512))
                await writer.drain()
        except ConnectionError:
            pass  # we hung up while it was talking, which is what is looked for
        hung_up.set()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    connection = Connection(Line(link=link, host="127.0.0.1", port=server.sockets[0].getsockname()[1]))
    try:
        await connection.open()
        await asyncio.wait_for(hung_up.wait(), 10)
        assert not connection.is_open
    finally:
        connection.close()
        server.close()
        await server.wait_closed()
        await asyncio.sleep(0)
