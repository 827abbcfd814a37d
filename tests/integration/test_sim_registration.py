"""How virtual devices get themselves registered, against an API that starts late, loses answers and refuses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from citysense.errors import Refused
from citysense_sim.registration import DeviceExists, Registrar, Registration

SITE = {"name": "Underpass 1", "lon": 113.45, "lat": 30.36, "datum": "wgs84"}


class Api:
    """The registry's HTTP face in memory."""

    def __init__(self) -> None:
        self.devices: dict[str, dict[str, Any]] = {}
        self.unavailable = 0
        self.tokens: set[str] = set()

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_post("/api/v1/devices", self.create)
        application.router.add_get("/api/v1/devices/{id}", self.show)
        application.router.add_patch("/api/v1/devices/{id}", self.change)
        return application

    async def create(self, request: web.Request) -> web.Response:
        self.tokens.add(request.headers["Authorization"])
        if self.unavailable:
            self.unavailable -= 1
            return web.json_response({"code": "not_ready"}, status=503)
        body = await request.json()
        if body["profile"] == "no/such":
            return web.json_response({"code": "unknown_profile", "detail": "no profile no/such"}, status=422)
        if body["id"] in self.devices:
            return web.json_response({"code": "duplicate_id", "detail": "taken"}, status=409)
        self.devices[body["id"]] = body
        credential = {"kind": "password", "secret": f"secret of {body['id']}"} if "credential" in body else None
        return web.json_response(body | {"credential": credential}, status=201)

    async def show(self, request: web.Request) -> web.Response:
        found = self.devices.get(request.match_info["id"])
        return web.json_response(found or {"code": "not_found"}, status=200 if found else 404)

    async def change(self, request: web.Request) -> web.Response:
        self.devices[request.match_info["id"]].update(await request.json())
        return web.json_response(self.devices[request.match_info["id"]])


@pytest_asyncio.fixture
async def api() -> AsyncIterator[tuple[Api, Registrar]]:
    api = Api()
    runner = web.AppRunner(api.application())
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    async with aiohttp.ClientSession() as session:
        yield api, Registrar(session, f"http://127.0.0.1:{port}/", "admin")
    await runner.cleanup()


def gauge(device: str = "gauge-1", **more: Any) -> Registration:
    return Registration(id=device, profile="generic/water-gauge", site=SITE, **more)


async def test_a_new_device_gets_its_password_once(api: tuple[Api, Registrar]) -> None:
    held, registrar = api
    assert await registrar.find("gauge-1") is None
    assert await registrar.create(gauge(password=True)) == "secret of gauge-1"
    assert held.devices["gauge-1"]["credential"] == {"kind": "password"}
    assert held.tokens == {"Bearer admin"}
    with pytest.raises(DeviceExists, match="gauge-1"):
        await registrar.create(gauge(password=True))


async def test_a_device_without_password_asks_for_none(api: tuple[Api, Registrar]) -> None:
    held, registrar = api
    assert await registrar.create(gauge(endpoint="modbus+tcp://127.0.0.1:1502/1", serial="862")) is None
    assert "credential" not in held.devices["gauge-1"]
    assert held.devices["gauge-1"]["serial"] == "862"


async def test_a_platform_that_is_not_ready_is_waited_for(api: tuple[Api, Registrar]) -> None:
    held, registrar = api
    held.unavailable = 2
    assert await registrar.create(gauge(password=True)) == "secret of gauge-1"


async def test_a_refusal_carries_the_platforms_words(api: tuple[Api, Registrar]) -> None:
    _, registrar = api
    with pytest.raises(Refused, match="422 unknown_profile no profile no/such"):
        await registrar.create(Registration(id="x", profile="no/such", site=SITE))


async def test_an_endpoint_that_moved_is_told(api: tuple[Api, Registrar]) -> None:
    held, registrar = api
    await registrar.create(gauge(endpoint="modbus+tcp://127.0.0.1:1502/1"))
    await registrar.move("gauge-1", "modbus+tcp://127.0.0.1:1503/1")
    assert held.devices["gauge-1"]["endpoint"].endswith(":1503/1")


async def test_a_hundred_at_once_and_one_refusal_ends_it(api: tuple[Api, Registrar]) -> None:
    held, registrar = api
    wanted = [gauge(f"g-{number}", password=number % 2 == 0) for number in range(100)]
    secrets = await registrar.create_all(wanted)
    assert secrets == {f"g-{number}": f"secret of g-{number}" if number % 2 == 0 else None for number in range(100)}
    assert len(held.devices) == 100
    with pytest.raises(DeviceExists):
        await registrar.create_all([gauge("new"), gauge("g-1")])
    await asyncio.sleep(0)
