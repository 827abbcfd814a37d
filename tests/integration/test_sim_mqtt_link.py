"""The device's MQTT link against a broker that forgets, refuses and falls silent on purpose."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from citysense_sim.link import Fate
from citysense_sim.mqtt_link import MqttLink


class Broker:
    """Just enough of MQTT 3.1.1 to receive QoS 1 publishes; acknowledges only when `acks` says so."""

    def __init__(self) -> None:
        self.acks = True
        self.code = 0
        self.logins: list[bytes] = []
        self.received: list[tuple[int, bytes]] = []
        """First byte (its bit 3 is DUP) and payload."""
        self.port = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await self._server.wait_closed()
        while self._writers:
            await asyncio.sleep(0.01)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                first = (await reader.readexactly(1))[0]
                length = shift = 0
                while True:
                    byte = (await reader.readexactly(1))[0]
                    length |= (byte & 127) << shift
                    shift += 7
                    if byte < 128:
                        break
                body = await reader.readexactly(length)
                if first >> 4 == 1:
                    self.logins.append(body)
                    writer.write(bytes([0x20, 2, 0, self.code]))
                    if self.code:
                        break
                elif first >> 4 == 3:
                    end = 2 + int.from_bytes(body[:2], "big")
                    self.received.append((first, body[end + 2 :]))
                    if self.acks:
                        writer.write(b"\x40\x02" + body[end : end + 2])
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the device has gone
        finally:
            self._writers.discard(writer)
            writer.close()


@pytest_asyncio.fixture
async def broker() -> AsyncIterator[Broker]:
    broker = Broker()
    await broker.start()
    yield broker
    await broker.stop()


class Running:
    """A link with its task and the fates it told."""

    def __init__(self, broker: Broker, bound: int = 100) -> None:
        self.fates: list[tuple[int, Fate]] = []
        self.link = MqttLink(
            device="gauge-1",
            secret="s3cret",
            topic="cs/v1/gauge-1/up/report",
            host="127.0.0.1",
            port=broker.port,
            on_fate=lambda number, fate: self.fates.append((number, fate)),
            bound=bound,
        )

    async def __aenter__(self) -> Running:
        self.task = asyncio.create_task(self.link.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await self.task

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                assert not self.task.done()
                await asyncio.sleep(0.005)


async def test_a_message_is_acked_once_by_its_number(broker: Broker) -> None:
    async with Running(broker) as running:
        await running.until(lambda: running.link.ready)
        running.link.push(7, b"seven")
        assert running.link.unacked == 1
        await running.until(lambda: running.fates)
        assert running.fates == [(7, Fate.ACKED)]
        assert running.link.unacked == 0
    assert broker.received == [(0x32, b"seven")]
    assert b"gauge-1" in broker.logins[0]
    assert b"s3cret" in broker.logins[0]


async def test_messages_wait_for_a_gateway_that_is_not_there_yet(broker: Broker) -> None:
    await broker.stop()
    async with Running(broker) as running:
        for number in range(3):
            running.link.push(number, b"%d" % number)
        await asyncio.sleep(0.1)
        assert running.link.unacked == 3
        await broker.start()
        await running.until(lambda: running.link.unacked == 0)
    assert [payload for _, payload in broker.received] == [b"0", b"1", b"2"]


async def test_what_was_not_acked_comes_again_with_dup_after_a_kill(broker: Broker) -> None:
    broker.acks = False
    async with Running(broker) as running:
        await running.until(lambda: running.link.ready)
        for number in range(30):
            running.link.push(number, b"%d" % number)
        await running.until(lambda: len(broker.received) == 30)
        assert running.link.base(30) == 0
        await broker.stop()
        await running.until(lambda: not running.link.ready)
        running.link.push(30, b"30")
        broker.received.clear()
        broker.acks = True
        await broker.start()
        await running.until(lambda: running.link.unacked == 0)
        assert sorted(running.fates) == [(number, Fate.ACKED) for number in range(31)]
    assert [payload for _, payload in broker.received] == [b"%d" % number for number in range(31)]
    assert all(first & 0x08 for first, payload in broker.received if payload != b"30"), "repeats without DUP"


async def test_a_refused_password_is_tried_again(broker: Broker) -> None:
    broker.code = 5
    async with Running(broker) as running:
        running.link.push(0, b"x")
        await running.until(lambda: len(broker.logins) >= 2)
        assert not running.link.ready
        broker.code = 0
        await running.until(lambda: running.fates == [(0, Fate.ACKED)])


async def test_a_full_memory_drops_and_says_so(broker: Broker) -> None:
    broker.acks = False
    async with Running(broker, bound=2) as running:
        await running.until(lambda: running.link.ready)
        for number in range(3):
            running.link.push(number, b"x")
        assert running.fates == [(2, Fate.DROPPED)]
        assert running.link.unacked == 2
