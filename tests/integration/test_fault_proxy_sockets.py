"""The fault proxies on real sockets, between a client and a server that echoes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import cast

import pytest

from citysense_sim.fault_proxy import Fault, FaultProxy, Weather
from citysense_sim.fault_proxy_udp import Radio, UdpFaultProxy

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
PATIENCE_S = 10.0


class Echo:
    """Sends back what comes, and knows what came and how each connection ended."""

    def __init__(self) -> None:
        self.ends: list[str] = []
        self.got = bytearray()
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(100):
                self.got += data
                writer.write(data)
                await writer.drain()
            self.ends.append("end")
        except ConnectionResetError:
            self.ends.append("reset")
        finally:
            writer.close()


@asynccontextmanager
async def proxied(
    weather: Weather, serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
) -> AsyncIterator[FaultProxy]:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    proxy = FaultProxy(server.sockets[0].getsockname()[1], chance=random.Random(1), weather=weather)
    await proxy.start()
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield proxy
    finally:
        await proxy.stop()
        server.close()
        await until(lambda: len(asyncio.all_tasks()) == 1)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.005)


async def connect(proxy: FaultProxy) -> Connection:
    return await asyncio.open_connection("127.0.0.1", proxy.port)


async def test_a_whole_connection_carries_both_ways_to_its_end() -> None:
    echo = Echo()
    sent = random.Random(2).randbytes(300_000)
    async with proxied(Weather(), echo.serve) as proxy:
        reader, writer = await connect(proxy)
        writer.write(sent)
        writer.write_eof()
        assert await reader.read(-1) == sent
        writer.close()
        assert echo.ends == ["end"]
        assert proxy.done == {"connections": 1}


async def test_refused_and_shut() -> None:
    async with proxied(Weather(refuse=1), Echo().serve) as proxy:
        reader, writer = await connect(proxy)
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        writer.close()
        assert proxy.done == {"connections": 1, Fault.REFUSE: 1}
        proxy.shut()
        with pytest.raises(ConnectionRefusedError):
            await connect(proxy)
        proxy.weather = Weather()
        await proxy.start()
        reader, writer = await connect(proxy)
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        writer.close()


async def test_cut_after_so_many_bytes() -> None:
    echo = Echo()
    async with proxied(Weather(cut=1, within=1), echo.serve) as proxy:
        reader, writer = await connect(proxy)
        writer.write(b"hello")
        assert await reader.read(-1) == b""
        writer.close()
        await until(lambda: len(echo.ends) == 1)
        assert bytes(echo.got) == b"h"
        assert proxy.done[Fault.CUT] == 1


async def test_reset_by_the_weather_and_by_hand() -> None:
    echo = Echo()
    async with proxied(Weather(reset=1, within=1), echo.serve) as proxy:
        reader, writer = await connect(proxy)
        writer.write(b"hello")
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        writer.close()
        await until(lambda: echo.ends == ["reset"])
        proxy.weather = Weather()
        reader, writer = await connect(proxy)
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        assert proxy.reset_all() == 1
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        writer.close()
        await until(lambda: echo.ends == ["reset", "reset"])
        assert proxy.done[Fault.RESET] == 2


async def test_half_open_tells_nobody_and_lets_nothing_through() -> None:
    echo = Echo()
    async with proxied(Weather(), echo.serve) as proxy:
        reader, writer = await connect(proxy)
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        assert proxy.swallow_all() == 1
        writer.write(b"nobody hears this")
        await writer.drain()
        await until(lambda: proxy.done[Fault.SWALLOW] == 1)
        writer.close()
        await writer.wait_closed()
        # A second connection's whole way is longer than the first one's end would have taken.
        reader, writer = await connect(proxy)
        writer.write(b"again")
        assert await reader.readexactly(5) == b"again"
        assert bytes(echo.got) == b"helloagain"
        assert echo.ends == []
        writer.close()
        await until(lambda: echo.ends == ["end"])
        proxy.reset_all()
        await until(lambda: echo.ends == ["end", "reset"])


async def test_a_byte_is_turned_over() -> None:
    echo = Echo()
    async with proxied(Weather(corrupt=1, within=1), echo.serve) as proxy:
        reader, writer = await connect(proxy)
        writer.write(b"\x00\x01\x02")
        assert await reader.readexactly(3) == b"\xff\x01\x02"
        assert bytes(echo.got) == b"\xff\x01\x02"
        assert proxy.done[Fault.CORRUPT] == 1
        writer.close()


async def test_delay_and_pace() -> None:
    echo = Echo()
    loop = asyncio.get_running_loop()
    async with proxied(Weather(delay_s=0.05, bytes_per_s=2000), echo.serve) as proxy:
        reader, writer = await connect(proxy)
        began = loop.time()
        writer.write(b"x" * 400)
        await reader.readexactly(400)
        # Two pieces of 200 bytes at 2,000 a second, and 0.05 s for each.
        assert loop.time() - began >= 0.3
        writer.close()


async def test_the_work_is_done_and_the_answer_is_lost() -> None:
    asked = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        try:
            while await reader.read(1000):
                asked += 1
                writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        except ConnectionResetError:
            pass
        finally:
            writer.close()

    async with proxied(Weather(answer_lost=1, answers=1), serve) as proxy:
        reader, writer = await connect(proxy)
        writer.write(b"POST / HTTP/1.1\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        writer.close()
        assert asked == 1
        assert proxy.done[Fault.ANSWER_LOST] == 1


async def test_nobody_behind_the_proxy_is_a_reset() -> None:
    async with proxied(Weather(), Echo().serve) as proxy:
        with_nobody = FaultProxy(1, chance=random.Random(1))
        await with_nobody.start()
        reader, writer = await connect(with_nobody)
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        writer.close()
        await with_nobody.stop()
        assert proxy.done == {}


class Datagrams(asyncio.DatagramProtocol):
    """Keeps what comes and from where; with `answers` sends it back."""

    def __init__(self, *, answers: bool = False) -> None:
        self.got: list[bytes] = []
        self.senders: list[int] = []
        self._answers = answers
        self.transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.got.append(data)
        self.senders.append(addr[1])
        if self._answers:
            assert self.transport is not None
            self.transport.sendto(data, addr)


@asynccontextmanager
async def radio(
    up: Radio | None = None, down: Radio | None = None
) -> AsyncIterator[tuple[Datagrams, Datagrams, UdpFaultProxy]]:
    """(device, server, proxy)."""
    loop = asyncio.get_running_loop()
    server_end, server = await loop.create_datagram_endpoint(
        lambda: Datagrams(answers=True), local_addr=("127.0.0.1", 0)
    )
    proxy = UdpFaultProxy(server_end.get_extra_info("sockname")[1], chance=random.Random(2), up=up, down=down)
    await proxy.start()
    device_end, device = await loop.create_datagram_endpoint(lambda: Datagrams(), remote_addr=("127.0.0.1", proxy.port))
    try:
        yield device, server, proxy
    finally:
        device_end.close()
        server_end.close()
        await proxy.stop()
        await asyncio.sleep(0)


async def send(device: Datagrams, proxy: UdpFaultProxy, count: int) -> list[bytes]:
    assert device.transport is not None
    sent = [b"datagram %04d" % number for number in range(count)]
    before = proxy.done["up"]
    for number, data in enumerate(sent, 1):
        device.transport.sendto(data)
        # One after another: loopback would drop what its buffers cannot hold.
        await until(lambda number=number: proxy.done["up"] == before + number)  # type: ignore[misc]
    return sent


async def test_a_calm_radio() -> None:
    async with radio() as (device, server, proxy):
        sent = await send(device, proxy, 50)
        await until(lambda: len(device.got) == 50)
        assert device.got == server.got == sent
        assert len(set(server.senders)) == 1


async def test_doubled_reordered_and_dropped() -> None:
    async with radio(Radio(drop=0.1, duplicate=0.3, reorder=0.3, hold_s=0.02)) as (device, server, proxy):
        sent = await send(device, proxy, 300)
        done = proxy.done
        await until(lambda: len(server.got) == 300 - done["drop up"] + done["duplicate up"])
        assert min(done["drop up"], done["duplicate up"], done["reorder up"]) > 10
        assert len(set(server.got)) == 300 - done["drop up"]
        assert set(server.got) < set(sent)
        assert server.got != sorted(server.got)
        assert "drop down" not in done


async def test_answers_can_be_lost_alone() -> None:
    async with radio(down=Radio(drop=1)) as (device, server, proxy):
        await send(device, proxy, 20)
        await until(lambda: proxy.done["drop down"] == 20)
        assert len(server.got) == 20
        assert device.got == []


async def test_a_new_source_port_in_the_middle() -> None:
    async with radio(Radio(rebind=0.2)) as (device, server, proxy):
        sent = await send(device, proxy, 60)
        await until(lambda: len(server.got) == 60)
        assert sorted(server.got) == sent
        assert 1 < len(set(server.senders)) <= 1 + proxy.done["rebind up"]
        assert len(device.got) <= 60


async def test_a_spoiled_datagram() -> None:
    async with radio(Radio(corrupt=1)) as (device, server, proxy):
        sent = await send(device, proxy, 5)
        await until(lambda: len(server.got) == 5)
        for before, after in zip(sent, server.got, strict=True):
            assert sum(a != b for a, b in zip(before, after, strict=True)) == 1
