"""The simulator as a process, between an API and a CoAP door that the test plays itself."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiocoap
import pytest_asyncio
from aiocoap import resource
from aiocoap.numbers import Code
from aiohttp import web
from pymodbus.client import AsyncModbusTcpClient

from citysense_profiles.catalogue import load_catalogue


def free_port(kind: socket.SocketKind) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Door(resource.Resource):  # type: ignore[misc]  # aiocoap has no types
    """Takes every frame of one device: payload and content format."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[tuple[bytes, int]] = []

    async def render_post(self, request: aiocoap.Message) -> aiocoap.Message:
        self.frames.append((request.payload, int(request.opt.content_format)))
        return aiocoap.Message(code=Code.CHANGED)


class World:
    """What stands around the simulator: the registry's API, a CoAP door, a data folder."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.devices: dict[str, dict[str, Any]] = {}
        self.patched: list[str] = []
        self.gauge, self.lock = Door(), Door()
        self.coap_port = free_port(socket.SOCK_DGRAM)
        self.api_port = free_port(socket.SOCK_STREAM)
        self._processes: list[asyncio.subprocess.Process] = []

    async def open(self) -> None:
        application = web.Application()
        application.router.add_post("/api/v1/devices", self._create)
        application.router.add_get("/api/v1/devices/{id}", self._show)
        application.router.add_patch("/api/v1/devices/{id}", self._change)
        self._runner = web.AppRunner(application)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.api_port).start()
        site = resource.Site()
        site.add_resource(["v1", "gauge-001", "report"], self.gauge)
        site.add_resource(["v1", "lock-001", "report"], self.lock)
        self._coap = await aiocoap.Context.create_server_context(
            site, bind=("127.0.0.1", self.coap_port), transports=["udp6"]
        )

    async def close(self) -> None:
        for process in self._processes:
            if process.returncode is None:
                process.kill()
            await process.wait()
        await self._coap.shutdown()
        await self._runner.cleanup()

    async def start(self) -> asyncio.subprocess.Process:
        command = ["-m", "citysense_sim.app", "--data", str(self.data), "--api", f"http://127.0.0.1:{self.api_port}"]
        command += ["--mqtt-port", str(free_port(socket.SOCK_STREAM)), "--coap-port", str(self.coap_port)]
        command += ["--speed", "600", "--scenario", "storm"]
        process = await asyncio.create_subprocess_exec(sys.executable, *command, stderr=asyncio.subprocess.PIPE)
        self._processes.append(process)
        return process

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                assert self._processes[-1].returncode is None, "the simulator ended"
                await asyncio.sleep(0.02)

    async def _create(self, request: web.Request) -> web.Response:
        body = await request.json()
        if body["id"] in self.devices:
            return web.json_response({"code": "duplicate_id"}, status=409)
        self.devices[body["id"]] = body | {"in_force": True}
        credential = {"secret": "s3cret"} if "credential" in body else None
        return web.json_response(body | {"credential": credential}, status=201)

    async def _show(self, request: web.Request) -> web.Response:
        found = self.devices.get(request.match_info["id"])
        return web.json_response(found or {}, status=200 if found else 404)

    async def _change(self, request: web.Request) -> web.Response:
        device = request.match_info["id"]
        self.patched.append(device)
        self.devices[device].update(await request.json())
        return web.json_response(self.devices[device])


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path / "data")
    world.data.mkdir()
    await world.open()
    yield world
    await world.close()


async def ended(process: asyncio.subprocess.Process) -> tuple[int | None, str]:
    assert process.stderr is not None
    async with asyncio.timeout(20):
        said = (await process.stderr.read()).decode()
        return await process.wait(), said


async def test_devices_register_speak_and_stop_cleanly(world: World) -> None:
    process = await world.start()
    await asyncio.sleep(0.3)
    assert not world.devices, "without an administrator's token nothing can be registered"
    (world.data / "admin-token").write_text("admin\n")
    await world.until(lambda: len(world.gauge.frames) >= 2 and world.lock.frames)
    assert sorted(world.devices) == ["gauge-001", "gauge-002", "lock-001", "pile-001", "reader-001"]
    assert [device for device, body in world.devices.items() if "credential" in body] == ["reader-001"]

    gauge = load_catalogue()["generic/water-gauge"]
    decoded = [gauge.decode(payload, content=content) for payload, content in world.gauge.frames]
    assert [(one.boot, one.seq) for one in decoded] == [(1, number) for number in range(len(decoded))]

    host, _, path = world.devices["pile-001"]["endpoint"].removeprefix("modbus+tcp://").partition(":")
    port, _, unit = path.partition("/")
    client = AsyncModbusTcpClient(host, port=int(port), timeout=5, retries=0)
    assert await client.connect()
    answer = await client.read_input_registers(100, count=10, device_id=int(unit))
    client.close()
    assert not answer.isError()
    assert answer.registers[9] == 5, "the plug is GB/T"

    process.send_signal(signal.SIGTERM)
    code, said = await ended(process)
    assert code == 0, said
    for line in said.splitlines():
        assert json.loads(line)["level"] in ("info", "warning")
    state = world.data / "sim" / "state.json"
    assert state.stat().st_mode & 0o777 == 0o600
    assert "s3cret" in state.read_text()
    assert "s3cret" not in said


async def test_a_second_start_keeps_passwords_and_ports_and_begins_a_new_boot(world: World) -> None:
    (world.data / "admin-token").write_text("admin")
    for boot in (1, 2):
        process = await world.start()
        world.gauge.frames.clear()
        await world.until(lambda: world.gauge.frames)
        payload, content = world.gauge.frames[0]
        decoded = load_catalogue()["generic/water-gauge"].decode(payload, content=content)
        assert (decoded.boot, decoded.seq) == (boot, 0)
        process.send_signal(signal.SIGINT)
        assert (await ended(process))[0] == 0
    assert world.patched == []
    # The port is someone else's now: the device moves and says so.
    old = world.devices["gauge-002"]["endpoint"]
    with socket.socket() as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        squatter.bind(("127.0.0.1", int(old.rsplit(":", 1)[1].split("/")[0])))
        squatter.listen()
        process = await world.start()
        await world.until(lambda: world.patched)
    assert world.patched == ["gauge-002"]
    assert world.devices["gauge-002"]["endpoint"] != old
    process.send_signal(signal.SIGTERM)
    assert (await ended(process))[0] == 0


async def test_a_lost_password_is_told_with_the_files_name(world: World) -> None:
    (world.data / "admin-token").write_text("admin")
    world.devices["reader-001"] = {"id": "reader-001", "in_force": True}
    code, said = await ended(await world.start())
    assert code == 1
    last = said.splitlines()[-1]
    assert "reader-001 is registered, but its password is not in" in last
    assert str(world.data / "sim" / "state.json") in last
