"""The device's CoAP link against an aiocoap server with a script of answers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import aiocoap
import pytest_asyncio
from aiocoap import resource
from aiocoap.numbers import Code

from citysense_sim.coap_link import CoapLink
from citysense_sim.link import Fate


@dataclass
class Door(resource.Resource):  # type: ignore[misc]  # aiocoap has no types
    """Answers from `script`, then 2.04; keeps what it got."""

    script: list[aiocoap.Message] = field(default_factory=list)
    got: list[tuple[bytes, int | None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    async def render_post(self, request: aiocoap.Message) -> aiocoap.Message:
        self.got.append((request.payload, int(request.opt.content_format)))
        return self.script.pop(0) if self.script else aiocoap.Message(code=Code.CHANGED)


@dataclass
class Setting:
    door: Door
    link: CoapLink
    task: asyncio.Task[None]
    fates: list[tuple[int, Fate]]

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                assert not self.task.done()
                await asyncio.sleep(0.005)


def free_udp_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def serve(door: Door, port: int) -> aiocoap.Context:
    site = resource.Site()
    site.add_resource(["v1", "gauge-1", "report"], door)
    return await aiocoap.Context.create_server_context(site, bind=("127.0.0.1", port), transports=["udp6"])


@pytest_asyncio.fixture
async def setting() -> AsyncIterator[Setting]:
    port = free_udp_port()
    door = Door()
    server = await serve(door, port)
    client = await aiocoap.Context.create_client_context(transports=["udp6"])
    fates: list[tuple[int, Fate]] = []
    uri = f"coap://127.0.0.1:{port}/v1/gauge-1/report"
    link = CoapLink(client, uri=uri, content=60, on_fate=lambda number, fate: fates.append((number, fate)), bound=3)
    task = asyncio.create_task(link.run())
    yield Setting(door, link, task, fates)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await client.shutdown()
    await server.shutdown()


async def test_messages_go_in_order_and_are_acked_by_2_04(setting: Setting) -> None:
    for number in range(3):
        setting.link.push(number, b"%d" % number)
    assert setting.link.unacked == 3
    await setting.until(lambda: setting.link.unacked == 0)
    assert setting.door.got == [(b"0", 60), (b"1", 60), (b"2", 60)]
    assert setting.fates == [(number, Fate.ACKED) for number in range(3)]


async def test_5_03_is_honoured_with_its_max_age(setting: Setting) -> None:
    setting.door.script = [aiocoap.Message(code=Code.SERVICE_UNAVAILABLE, max_age=1)]
    loop = asyncio.get_running_loop()
    began = loop.time()
    setting.link.push(0, b"x")
    await setting.until(lambda: setting.fates)
    assert setting.fates == [(0, Fate.ACKED)]
    assert loop.time() - began >= 1
    assert len(setting.door.got) == 2


async def test_a_refusal_ends_the_message_and_the_next_one_goes(setting: Setting) -> None:
    setting.door.script = [aiocoap.Message(code=Code.BAD_REQUEST, payload=b"v: no metric")]
    setting.link.push(0, b"bad")
    setting.link.push(1, b"good")
    await setting.until(lambda: len(setting.fates) == 2)
    assert setting.fates == [(0, Fate.REFUSED), (1, Fate.ACKED)]


async def test_a_device_that_is_not_known_yet_tries_again(setting: Setting) -> None:
    setting.door.script = [aiocoap.Message(code=Code.UNAUTHORIZED), aiocoap.Message(code=Code.UNAUTHORIZED)]
    setting.link.push(0, b"x")
    await setting.until(lambda: setting.fates == [(0, Fate.ACKED)])
    assert len(setting.door.got) == 3


async def test_the_oldest_is_dropped_when_the_memory_is_full(setting: Setting) -> None:
    setting.door.script = [aiocoap.Message(code=Code.SERVICE_UNAVAILABLE, max_age=1)]
    setting.link.push(0, b"0")
    await setting.until(lambda: setting.door.got)
    for number in (1, 2, 3):
        setting.link.push(number, b"%d" % number)
    assert setting.fates == [(0, Fate.DROPPED)]
    assert setting.link.base(4) == 1
    await setting.until(lambda: len(setting.fates) == 4)
    assert setting.fates[1:] == [(number, Fate.ACKED) for number in (1, 2, 3)]


async def test_a_gateway_that_comes_back_gets_what_waited() -> None:
    port = free_udp_port()
    client = await aiocoap.Context.create_client_context(transports=["udp6"])
    fates: list[tuple[int, Fate]] = []
    uri = f"coap://127.0.0.1:{port}/v1/gauge-1/report"
    link = CoapLink(client, uri=uri, content=60, on_fate=lambda number, fate: fates.append((number, fate)))
    task = asyncio.create_task(link.run())
    link.push(0, b"x")
    await asyncio.sleep(0.3)  # nobody listens: the kernel says so and the link tries again
    assert link.unacked == 1
    door = Door()
    server = await serve(door, port)
    setting = Setting(door, link, task, fates)
    await setting.until(lambda: fates == [(0, Fate.ACKED)])
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await client.shutdown()
    await server.shutdown()
