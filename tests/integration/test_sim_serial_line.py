"""The model of a serial line and its converter: it must mislead whom a real one would mislead."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from pymodbus import FramerType
from pymodbus.client import AsyncModbusTcpClient
from pymodbus.exceptions import ModbusException

from citysense.cli.modbus_model import tag, tagged_slave
from citysense_sim.modbus_faults import (
    Changing,
    Dead,
    Delayed,
    Flipped,
    Garbage,
    GoodSlave,
    Lagging,
    Slave,
    Trickling,
    WrongLength,
    WrongUnit,
    intact,
    sealed,
)
from citysense_sim.serial_line import Converter, SerialPort
from citysense_sim.warped_time import WarpedLoop

BAUD = 9600
BYTE_S = 10 / BAUD


def read(unit: int, address: int, count: int, function: int = 3) -> bytes:
    return sealed(bytes([unit, function]) + address.to_bytes(2) + count.to_bytes(2))


def warped(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=WarpedLoop) as runner:
        runner.run(main())


class Master:
    """One connection to the converter, with the moments at which bytes came."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def at(cls, converter: Converter) -> Master:
        return cls(*await asyncio.open_connection("127.0.0.1", converter.port))

    async def heard(self, seconds: float) -> bytes:
        """What comes within so many seconds."""
        data = b""
        try:
            async with asyncio.timeout(seconds):
                while piece := await self.reader.read(1000):
                    data += piece
        except TimeoutError:
            return data
        return data

    async def ask(self, request: bytes, seconds: float = 1.0) -> bytes:
        self.writer.write(request)
        return await self.heard(seconds)


async def line(*slaves: Slave, echo: bool = False) -> Converter:
    converter = Converter(slaves, baud=BAUD, chance=random.Random(1), echo=echo)
    await converter.start()
    return converter


def reply(unit: int, address: int, count: int) -> bytes:
    words = b"".join(tag(unit, "holding", address + at).to_bytes(2) for at in range(count))
    return sealed(bytes([unit, 3, len(words)]) + words)


def test_bytes_take_their_time() -> None:
    async def main() -> None:
        converter = await line(tagged_slave(1))
        master = await Master.at(converter)
        loop = asyncio.get_running_loop()
        began = loop.time()
        master.writer.write(read(1, 0, 10))
        assert await master.reader.readexactly(25) == reply(1, 0, 10)
        # Request, silence, turnaround, reply.
        assert loop.time() - began == pytest.approx((8 + 3.5 + 25) * BYTE_S + 0.005, abs=0.002)
        master.writer.close()
        await converter.stop()

    warped(main)


def test_late_bytes_go_to_the_new_connection() -> None:
    async def main() -> None:
        converter = await line(Delayed(tagged_slave(1), lambda: 2.0))
        first = await Master.at(converter)
        assert await first.ask(read(1, 5, 1), 1.0) == b""
        first.writer.close()
        second = await Master.at(converter)
        assert await second.heard(2.0) == reply(1, 5, 1)
        second.writer.close()
        await converter.stop()

    warped(main)


def test_what_came_while_nobody_was_connected_is_kept() -> None:
    async def main() -> None:
        converter = await line(Delayed(tagged_slave(1), lambda: 2.0))
        first = await Master.at(converter)
        assert await first.ask(read(1, 5, 1), 1.0) == b""
        first.writer.close()
        await asyncio.sleep(5.0)
        second = await Master.at(converter)
        assert await second.heard(0.5) == reply(1, 5, 1)
        second.writer.close()
        await converter.stop()

    warped(main)


def test_two_who_speak_at_once_spoil_each_other() -> None:
    async def main() -> None:
        converter = await line(Delayed(tagged_slave(1), lambda: 0.05), Delayed(tagged_slave(2), lambda: 0.001))
        master = await Master.at(converter)
        master.writer.write(read(1, 0, 20))
        await asyncio.sleep(0.055)
        heard = await master.ask(read(2, 0, 20))
        assert reply(1, 0, 20) not in heard
        assert converter.line is not None
        assert converter.line.collisions >= 1
        master.writer.close()
        await converter.stop()

    warped(main)


def test_a_line_that_echoes_says_what_it_was_told() -> None:
    async def main() -> None:
        converter = await line(tagged_slave(1), echo=True)
        master = await Master.at(converter)
        assert await master.ask(read(1, 0, 1)) == read(1, 0, 1) + reply(1, 0, 1)
        master.writer.close()
        await converter.stop()

    warped(main)


def test_a_trickling_slave_sends_a_byte_a_second() -> None:
    async def main() -> None:
        converter = await line(Trickling(tagged_slave(1)))
        master = await Master.at(converter)
        assert await master.ask(read(1, 0, 1), 3.5) == reply(1, 0, 1)[:4]
        assert await master.heard(4.0) == reply(1, 0, 1)[4:]
        master.writer.close()
        await converter.stop()

    warped(main)


def test_the_model_misleads_a_client_that_keeps_its_connection() -> None:
    async def main() -> None:
        delays = iter([0.0, 0.0, 0.6, 0.0, 0.0, 0.0])
        converter = await line(Delayed(tagged_slave(1), lambda: next(delays)))
        client = AsyncModbusTcpClient("127.0.0.1", port=converter.port, framer=FramerType.RTU, timeout=0.3, retries=0)
        await client.connect()
        got: list[tuple[int, int]] = []
        for address in range(6):
            try:
                answer = await client.read_holding_registers(address, count=1, device_id=1)
            except ModbusException:
                continue
            got.append((address, answer.registers[0]))
        client.close()
        await converter.stop()
        assert [address for address, value in got if value != tag(1, "holding", address)]

    warped(main)


async def test_a_serial_port_is_the_same_line() -> None:
    port = SerialPort([tagged_slave(1)], baud=115_200, chance=random.Random(1))
    port.start()
    descriptor = os.open(port.path, os.O_RDWR | os.O_NOCTTY)
    try:
        os.write(descriptor, read(1, 3, 1))
        heard = b""
        async with asyncio.timeout(5):
            while len(heard) < 7:
                heard += await asyncio.to_thread(os.read, descriptor, 100)
        assert heard == reply(1, 3, 1)
    finally:
        os.close(descriptor)
        port.stop()


def said(slave: Slave, request: bytes) -> list[bytes]:
    return [telegram.data for telegram in slave.heard(request)]


def test_a_good_slave_reads_writes_and_refuses() -> None:
    slave = GoodSlave(7, {("holding", 0): 5, ("holding", 1): 6, ("coil", 0): 1, ("coil", 1): 0})
    assert said(slave, read(7, 0, 2)) == [sealed(bytes.fromhex("07 03 04 0005 0006"))]
    assert said(slave, read(7, 0, 2, function=1)) == [sealed(bytes.fromhex("07 01 01 01"))]
    assert said(slave, read(7, 1, 2)) == [sealed(bytes.fromhex("07 83 02"))]
    assert said(slave, read(7, 0, 200)) == [sealed(bytes.fromhex("07 83 03"))]
    assert said(slave, sealed(bytes.fromhex("07 07 0000 0000"))) == [sealed(bytes.fromhex("07 87 01"))]
    assert said(slave, read(8, 0, 2)) == []
    for request, confirmed in (
        ("07 06 0001 00ff", "07 06 0001 00ff"),
        ("07 10 0000 0002 04 1111 2222", "07 10 0000 0002"),
        ("07 05 0001 ff00", "07 05 0001 ff00"),
        ("07 0f 0000 0002 01 02", "07 0f 0000 0002"),
        ("07 06 0009 0001", "07 86 02"),
    ):
        assert said(slave, sealed(bytes.fromhex(request))) == [sealed(bytes.fromhex(confirmed))]
    assert slave.written == [
        ("holding", 1, (255,)),
        ("holding", 0, (0x1111, 0x2222)),
        ("coil", 1, (1,)),
        ("coil", 0, (0, 1)),
    ]


def test_slaves_go_wrong_as_they_say() -> None:
    good, chance = tagged_slave(1), random.Random(3)
    ask = [read(1, address, 2) for address in range(6)]
    right = [reply(1, address, 2) for address in range(6)]
    assert said(Dead(), ask[0]) == []
    lagging = Lagging(good, 2)
    assert [said(lagging, request) for request in ask] == [[], [], [right[0]], [right[1]], [right[2]], [right[3]]]
    assert len(lagging.stuck()) == 2
    assert said(WrongUnit(good, 9), ask[0])[0] == sealed(b"\x09" + right[0][1:-2])
    for bent in (said(WrongLength(good, chance), ask[0])[0] for _ in range(10)):
        assert intact(bent)
        assert len(bent) != len(right[0])
    assert not intact(said(Flipped(good, chance), ask[0])[0])
    assert said(Garbage(good, chance), ask[0])[0] != right[0]
    assert said(tagged_slave(1, silent_on_unknown=True), read(1, 900, 1)) == []


def test_a_changing_slave_is_made_anew_each_time() -> None:
    good = tagged_slave(1)
    slave = Changing([lambda: good, Dead, lambda: Lagging(good, 1)], random.Random(5), longest=3)
    answers = [len(said(slave, read(1, 0, 1))) for _ in range(200)]
    assert set(answers) >= {0, 1}
    assert 2 in answers, "what was stuck in a lagging one comes out before the next reply"
