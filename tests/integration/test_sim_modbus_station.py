"""The virtual Modbus device, asked by pymodbus's client as a gateway asks."""

from __future__ import annotations

import asyncio
import socket
import subprocess

import pytest
from pymodbus.client import AsyncModbusTcpClient

from citysense_sim.modbus_station import UNIT, ModbusStation


async def test_registers_are_computed_when_they_are_read() -> None:
    level = 10
    station = ModbusStation(lambda: {("holding", 1): 2000 + level, ("holding", 3): level, ("input", 100): 7})
    await station.start()
    client = AsyncModbusTcpClient("127.0.0.1", port=station.port, timeout=5, retries=0)
    try:
        assert await client.connect()
        assert (await client.read_holding_registers(1, count=3, device_id=UNIT)).registers == [2010, 0, 10]
        level = 555
        assert (await client.read_holding_registers(1, count=3, device_id=UNIT)).registers == [2555, 0, 555]
        assert (await client.read_input_registers(100, count=1, device_id=UNIT)).registers == [7]
        assert (await client.read_holding_registers(100, count=1, device_id=UNIT)).isError(), (
            "an address of the other table"
        )
        assert (await client.write_register(3, 1, device_id=UNIT)).isError(), "nothing here is for writing"
        assert (await client.read_holding_registers(3, count=1, device_id=UNIT)).registers == [555]
    finally:
        client.close()
        await station.stop()


async def test_bits_have_tables_of_their_own() -> None:
    station = ModbusStation(lambda: {("coil", 17): 1, ("coil", 18): 0, ("coil", 19): 1, ("discrete", 2): 1})
    await station.start()
    client = AsyncModbusTcpClient("127.0.0.1", port=station.port, timeout=5, retries=0)
    try:
        assert await client.connect()
        assert (await client.read_coils(17, count=3, device_id=UNIT)).bits[:3] == [True, False, True]
        assert (await client.read_discrete_inputs(2, count=1, device_id=UNIT)).bits[0] is True
    finally:
        client.close()
        await station.stop()


async def test_a_taken_port_is_exchanged_for_a_free_one() -> None:
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        taken = squatter.getsockname()[1]
        station = ModbusStation(lambda: {("holding", 1): 1})
        await station.start(taken)
        assert station.port not in (0, taken)
        await station.stop()


async def test_the_wanted_port_is_kept_over_a_restart() -> None:
    station = ModbusStation(lambda: {("holding", 1): 1})
    await station.start()
    port = station.port
    await station.stop()
    again = ModbusStation(lambda: {("holding", 1): 1})
    await again.start(port)
    assert again.port == port
    await again.stop()


@pytest.mark.peer("mbpoll")
async def test_an_independent_client_reads_it(peer_path: str) -> None:
    station = ModbusStation(lambda: {("holding", 1): 2377, ("holding", 2): 0, ("holding", 3): 123})
    await station.start()
    command = [
        peer_path,
        "-m",
        "tcp",
        "-p",
        str(station.port),
        "-a",
        str(UNIT),
        "-0",
        "-r",
        "1",
        "-c",
        "3",
        "-1",
        "127.0.0.1",
    ]
    said = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=20)
    await station.stop()
    values = [line.split()[1] for line in said.stdout.splitlines() if line.startswith("[")]
    assert values == ["2377", "0", "123"], said.stdout + said.stderr
