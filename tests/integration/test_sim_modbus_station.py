"""The virtual Modbus device, asked by pymodbus's client as a gateway asks."""

from __future__ import annotations

import asyncio
import socket
import subprocess

import pytest
from pymodbus.client import AsyncModbusTcpClient

from citysense.clock import SetClock
from citysense_profiles.catalogue import load_catalogue
from citysense_sim.device import PolledDevice
from citysense_sim.modbus_station import UNIT, ModbusStation
from citysense_sim.scenario import find_scenario, load_scenario


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
        assert (await client.write_register(4, 1, device_id=UNIT)).isError(), "an address that is not there"
        assert (await client.mask_write_register(address=3, and_mask=1, or_mask=1, device_id=UNIT)).isError(), (
            "a function that is not there"
        )
        assert (await client.read_holding_registers(3, count=1, device_id=UNIT)).registers == [555]
    finally:
        client.close()
        await station.stop()


async def test_what_was_written_is_read_back() -> None:
    station = ModbusStation(lambda: {("holding", 1): 1, ("holding", 2): 2, ("holding", 3): 3, ("coil", 5): 0})
    await station.start()
    client = AsyncModbusTcpClient("127.0.0.1", port=station.port, timeout=5, retries=0)
    try:
        assert await client.connect()
        assert not (await client.write_registers(2, [770, 8], device_id=UNIT)).isError()
        assert not (await client.write_coil(5, True, device_id=UNIT)).isError()
        assert (await client.read_holding_registers(1, count=3, device_id=UNIT)).registers == [1, 770, 8]
        assert not (await client.write_register(2, 9, device_id=UNIT)).isError()
        assert (await client.read_holding_registers(1, count=3, device_id=UNIT)).registers == [1, 9, 8]
        assert (await client.read_coils(5, count=1, device_id=UNIT)).bits[0] is True
    finally:
        client.close()
        await station.stop()


async def test_the_demos_pile_answers_every_poll_and_takes_every_write_of_its_profile() -> None:
    storm = load_scenario(find_scenario("storm"))
    entry = next(device for device in storm.devices if device.transport == "modbus")
    profile = load_catalogue()[entry.profile]
    pile = PolledDevice(scenario=storm, device=entry, profile=profile, speed=1, clock=SetClock(0))
    maps = [name for name in profile.messages if not profile.is_sent(name)]
    assert len(maps) > 1
    station = ModbusStation(pile.registers)
    await station.start()
    client = AsyncModbusTcpClient("127.0.0.1", port=station.port, timeout=5, retries=0)
    ask = {"input": client.read_input_registers, "holding": client.read_holding_registers}
    try:
        assert await client.connect()
        for read in (read for name in maps for read in profile.plan_reads(name)):
            answer = await ask[read.table](read.address, count=read.count, device_id=UNIT)
            assert not answer.isError(), read
            if read.table == "holding":
                zeros = [0] * read.count
                assert not (await client.write_registers(read.address, zeros, device_id=UNIT)).isError(), read
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
