"""Devices over HTTP: a real city.db behind a real server."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from citysense.clock import SetClock
from citysense.keys import Sealer, load_or_create_key, password_digest, token_digest
from citysense.wire import Roster, encode
from citysense_platform.api.app import build_api
from citysense_platform.city.database import City
from citysense_platform.registry.authority import load_or_create_authority
from citysense_platform.registry.credentials import SALT_BYTES, Credentials, GatewayKeys
from citysense_platform.registry.gateways import Gateways
from citysense_platform.registry.registry import Registry
from citysense_platform.registry.roster import Assigned, RosterSource
from citysense_platform.registry.routes import registry_routes
from citysense_profiles.catalogue import Catalogue, load_catalogue
from citysense_profiles.compiler import parse_profile
from citysense_profiles.vocabulary import load_vocabulary

TOKEN = "the-admin-token"
PILE = parse_profile(
    """
schema: 1
id: acme/pile
kind: charging_pile
title: P
product: {vendor: A, model: P, source: S}
transport: {modbus: {}}
report_every: 60s
vectors: []
options:
  socket: {title: Socket, default: 1, choices: {1: left, 2: right}}
  order: {title: Words, default: high, choices: {high: high first, low: low first}}
messages:
  status:
    codec: {type: modbus}
    fields: [{name: volts, table: input, address: 0, type: u16, unit: V, metric: electric.voltage}]
""",
    "acme/pile.yaml",
    load_vocabulary(),
)
CATALOGUE = Catalogue({profile.id: profile for profile in (PILE, *load_catalogue())})
NOW = 1_795_190_934_423
SITE = {"name": "Underpass 1", "lon": 113.45, "lat": 30.36, "datum": "wgs84"}
GAUGE: dict[str, Any] = {
    "id": "gauge-001",
    "profile": "generic/water-gauge",
    "site": SITE,
    "endpoint": None,
    "serial": None,
    "settings": {"mount.height": 250},
    "credential": {"kind": "password"},
}
MQTT_ONLY = {"profile": "netvox/r311a", "settings": {}}


@dataclass
class Platform:
    """A running registry and a client that holds the token."""

    http: aiohttp.ClientSession
    roster: RosterSource
    city: City

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        async with self.http.request(method, path, json=body) as response:
            return response.status, await response.json(content_type=None)

    async def post(self, **changes: Any) -> tuple[int, Any]:
        return await self.ask("POST", "/api/v1/devices", {**GAUGE, **changes})


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Platform]:
    city = City(f"sqlite:///{folder}/city.db")
    city.open()
    passwords = (f"password-{n}" for n in itertools.count(1))
    credentials = Credentials(
        authority=load_or_create_authority(folder / "keys" / "device-authority.pem", now_ms=NOW),
        sealer=Sealer(load_or_create_key(folder / "keys" / "credentials.key")),
        new_password=lambda: next(passwords),
        new_bytes=bytes,
    )
    roster = RosterSource(city, CATALOGUE, keys_of=credentials.for_gateway, authority=credentials.authority)
    await roster.refresh()
    registry = Registry(
        city,
        CATALOGUE,
        roster,
        SetClock(NOW),
        default_gateway="gw-1",
        credentials=credentials,
    )
    api = build_api(
        admin_digest=token_digest(TOKEN),
        routers=[registry_routes(registry, CATALOGUE)],
        open_routers=[],
        title="citysense",
        version="0",
    )
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(api, log_config=None, lifespan="off", ws="none"))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started:
            await asyncio.sleep(0.001)
        headers = {"Authorization": f"Bearer {TOKEN}"}
        base = f"http://127.0.0.1:{listening.getsockname()[1]}"
        async with aiohttp.ClientSession(base, headers=headers) as http:
            yield Platform(http, roster, city)
        server.should_exit = True
        await serving
    city.close()


@pytest.fixture
async def platform(tmp_path: Path) -> AsyncIterator[Platform]:
    async with running(tmp_path) as platform:
        yield platform


async def test_registered_device_is_answered_in_full_and_its_secret_once(platform: Platform) -> None:
    status, body = await platform.post()
    assert status == 201
    expected = {
        **GAUGE,
        "kind": "waterlogging_gauge",
        "gateway": "gw-1",
        "concentrator": None,
        "site": {"id": 1, **SITE},
        "credential": {"kind": "password", "username": "gauge-001"},
        "created": "2026-11-20T16:08:54.423Z",
        "revoked": None,
        "version": 1,
        "in_force": False,
    }
    secret = {"kind": "password", "username": "gauge-001", "secret": "password-1"}
    assert body == {**expected, "credential": secret}
    assert await platform.ask("GET", "/api/v1/devices/gauge-001") == (200, expected)
    assert await platform.ask("GET", "/api/v1/devices") == (200, {"items": [expected], "next": None})
    stored = b"".join(path.read_bytes() for path in platform.city.path.parent.glob("city.db*"))
    assert b"gauge-001" in stored
    assert b"password-1" not in stored


async def test_a_device_is_in_force_once_its_gateway_has_asked_for_what_comes_after_it(platform: Platform) -> None:
    await platform.post()

    async def in_force() -> bool:
        return bool((await platform.ask("GET", "/api/v1/devices/gauge-001"))[1]["in_force"])

    assert not await in_force()
    roster = await platform.roster.roster("gw-1", 10**18 - 1, 0)
    assert roster is not None
    assert not await in_force(), "it was sent, but the gateway has not said that it has it"
    assert await platform.roster.roster("gw-1", roster.version, 0) is None
    assert await in_force()
    await platform.ask("POST", "/api/v1/devices/gauge-001/revoke")
    assert not await in_force()


async def test_credential_may_be_left_out(platform: Platform) -> None:
    without = {key: value for key, value in GAUGE.items() if key != "credential"}
    assert (await platform.ask("POST", "/api/v1/devices", without))[1]["credential"] is None
    assert (await platform.post(id="gauge-002", credential=None))[1]["credential"] is None


async def test_sites_are_used_again_by_name_and_position_or_id(platform: Platform) -> None:
    sites = [SITE, SITE, {"id": 1}, {**SITE, "datum": "gcj02"}, {**SITE, "name": "  Underpass 1 "}, None]
    ids = []
    for n, site in enumerate(sites):
        status, body = await platform.post(id=f"gauge-{n}", site=site)
        assert status == 201
        ids.append(body["site"] and body["site"]["id"])
    assert ids == [1, 1, 1, 2, 1, None]
    listed = await platform.ask("GET", "/api/v1/devices?site=2")
    assert [item["id"] for item in listed[1]["items"]] == ["gauge-3"]


@pytest.mark.parametrize(
    ("changes", "status", "code", "field"),
    [
        ({"id": "gauge 1"}, 422, "invalid", "id"),
        ({"id": "g" * 65}, 422, "invalid", "id"),
        ({"id": None}, 422, "invalid", "id"),
        ({"colour": "red"}, 422, "invalid", "colour"),
        ({"site": {**SITE, "lat": 91}}, 422, "invalid", "site.lat"),
        ({"site": {**SITE, "lon": "113"}}, 422, "invalid", "site.lon"),
        ({"site": {**SITE, "datum": "mars"}}, 422, "invalid", "site.datum"),
        ({"site": {"name": "Underpass 1"}}, 422, "invalid", "site"),
        ({"site": {"id": 1, **SITE}}, 422, "invalid", "site"),
        ({"site": {"id": 99}}, 422, "unknown_site", "site.id"),
        ({"site": {"id": 2**63}}, 422, "invalid", "site.id"),
        ({"settings": {"mount.height": 10**400}}, 422, "invalid", "settings.mount.height"),
        ({"serial": "a\x00b"}, 422, "invalid", "serial"),
        ({"serial": "\ud800"}, 422, "invalid", "serial"),
        ({"settings": {"mount.height": True}}, 422, "invalid", "settings.mount.height"),
        ({"settings": {"mount.height": float("nan")}}, 422, "invalid", "settings.mount.height"),
        ({"settings": {"mount.height": [250]}}, 422, "invalid", "settings.mount.height"),
        ({"settings": {"mount.height": "\ud800"}}, 422, "invalid", "settings.mount.height"),
        ({"settings": {"mount.height": "x" * 201}}, 422, "invalid", "settings.mount.height"),
        ({"settings": {"mount.height": "250"}}, 422, "setting_no_number", "settings.mount.height"),
        ({"settings": {"\ud800": 250}}, 422, "unknown_setting", "settings"),
        ({"settings": {"mount.hight": 250}}, 422, "unknown_setting", "settings"),
        ({"settings": {"mount.hight": "high"}}, 422, "unknown_setting", "settings"),
        ({"profile": "acme/none"}, 422, "unknown_profile", "profile"),
        ({"endpoint": "modbus+tcp://192.0.2.7:502/1"}, 422, "endpoint_not_allowed", "endpoint"),
        ({"profile": "dfrobot/sen0676", "settings": {}}, 422, "endpoint_required", "endpoint"),
        (
            {
                "profile": PILE.id,
                "settings": {},
                "endpoint": "modbus+tcp://192.0.2.7:502/1",
                "credential": {"kind": "psk"},
            },
            422,
            "credential_kind_not_available",
            "credential.kind",
        ),
        ({"credential": {"kind": "x509", "csr": "a letter"}}, 422, "request_unfit", "credential.csr"),
        ({"credential": {"kind": "psk", "csr": "a letter"}}, 422, "invalid", "credential"),
        ({"gateway": "gw-9"}, 422, "unknown_gateway", "gateway"),
        ({"gateway": "g w"}, 422, "invalid", "gateway"),
        ({"concentrator": "hub-9"}, 422, "unknown_concentrator", "concentrator"),
        ({"concentrator": "gauge-001"}, 422, "concentrator_is_itself", "concentrator"),
        ({"credential": {"kind": "handshake"}}, 422, "invalid", "credential.kind"),
    ],
)
async def test_wrong_requests_name_the_field(
    platform: Platform, changes: dict[str, Any], status: int, code: str, field: str
) -> None:
    answered, problem = await platform.post(**changes)
    assert (answered, problem["code"], problem["status"]) == (status, code, status)
    assert [error["field"] for error in problem["errors"]] == [field]
    assert await platform.ask("GET", "/api/v1/devices") == (200, {"items": [], "next": None})


async def test_ids_and_serials_are_given_out_once(platform: Platform) -> None:
    assert (await platform.post(serial="S1"))[0] == 201
    status, problem = await platform.post(serial="S2")
    assert (status, problem["code"]) == (409, "duplicate_id")
    status, problem = await platform.post(id="gauge-002", serial="S1")
    assert (status, problem["code"]) == (409, "duplicate_serial")
    assert "'gauge-001'" in problem["detail"]
    other = {"profile": "generic/nbiot-lock", "settings": {}}
    assert (await platform.post(id="lock-001", serial="S1", **other))[0] == 201
    assert (await platform.ask("POST", "/api/v1/devices/gauge-001/revoke"))[0] == 200
    assert (await platform.post(id="gauge-002", serial="S1"))[0] == 201
    assert (await platform.post())[1]["code"] == "duplicate_id"


async def test_same_id_asked_for_at_once_goes_to_one(platform: Platform) -> None:
    answers = await asyncio.gather(*(platform.post() for _ in range(8)))
    assert sorted(status for status, _ in answers) == [201] + [409] * 7


async def test_devices_change_and_null_takes_away(platform: Platform) -> None:
    await platform.post(id="pile-1", profile="dfrobot/sen0676", settings={}, endpoint="modbus+tcp://192.0.2.7:502/1")
    await platform.post()
    path = "/api/v1/devices/gauge-001"
    assert (await platform.ask("PATCH", path, {"settings": {"mount.height": 260}}))[1]["settings"] == {
        "mount.height": 260
    }
    assert (await platform.ask("PATCH", path, {"settings": {"mount.height": None}}))[1]["settings"] == {}
    status, changed = await platform.ask("PATCH", path, {"site": {**SITE, "name": "Tunnel"}})
    assert (status, changed["site"]["name"], changed["version"]) == (200, "Tunnel", 5)
    assert (await platform.ask("PATCH", path, {"site": None}))[1]["site"] is None
    assert (await platform.ask("PATCH", path, {}))[1]["version"] == 6
    assert (await platform.ask("PATCH", path, {"endpoint": "modbus+tcp://192.0.2.7:502/1"}))[0] == 422
    status, changed = await platform.ask(
        "PATCH", "/api/v1/devices/pile-1", {"endpoint": "modbus+tcp://192.0.2.8:502/1"}
    )
    assert (status, changed["endpoint"]) == (200, "modbus+tcp://192.0.2.8:502/1")
    assert (await platform.ask("PATCH", "/api/v1/devices/ghost", {}))[1]["code"] == "not_found"


async def test_options_are_chosen_among_the_settings(platform: Platform) -> None:
    pile = {"profile": PILE.id, "endpoint": "modbus+tcp://192.0.2.7:502/1", "credential": None}
    status, body = await platform.post(id="pile-1", **pile, settings={"socket": 2, "order": "low"})
    assert (status, body["settings"]) == (201, {"socket": 2, "order": "low"})
    path = "/api/v1/devices/pile-1"
    status, problem = await platform.ask("PATCH", path, {"settings": {"order": "middle"}})
    assert (status, problem["code"], problem["errors"]) == (
        422,
        "unknown_choice",
        [{"field": "settings.order", "message": "'middle' is not a choice of order; choose from high, low"}],
    )
    assert (await platform.ask("PATCH", path, {"settings": {"order": None}}))[1]["settings"] == {"socket": 2}
    assert (await platform.post(id="pile-2", **pile, settings={"socket": 3}))[1]["code"] == "unknown_choice"
    roster = await platform.roster.roster("gw-1", 0, 60)
    assert roster is not None
    assert msgspec.msgpack.decode(encode(roster), type=Roster) == roster
    assert [device.settings for device in roster.devices] == [{"socket": 2.0}]


async def test_revoking_ends_the_credential_and_leaves_the_device_readable(platform: Platform) -> None:
    await platform.post()
    first = await platform.ask("POST", "/api/v1/devices/gauge-001/revoke")
    assert (first[0], first[1]["revoked"], first[1]["credential"]) == (200, "2026-11-20T16:08:54.423Z", None)
    assert await platform.ask("POST", "/api/v1/devices/gauge-001/revoke") == first
    assert await platform.ask("GET", "/api/v1/devices/gauge-001") == first
    status, problem = await platform.ask("PATCH", "/api/v1/devices/gauge-001", {"settings": {}})
    assert (status, problem["code"]) == (409, "revoked")
    assert (await platform.ask("POST", "/api/v1/devices/ghost/revoke"))[0] == 404


async def test_list_comes_in_pages_without_gap_or_repeat(platform: Platform) -> None:
    for n in range(7):
        await platform.post(id=f"gauge-{n}")
    await platform.post(id="lock-1", profile="generic/nbiot-lock", settings={})
    seen: list[str] = []
    cursor = ""
    for _ in range(4):
        status, listed = await platform.ask("GET", f"/api/v1/devices?profile=generic/water-gauge&limit=2{cursor}")
        assert status == 200
        seen += [item["id"] for item in listed["items"]]
        cursor = f"&cursor={listed['next']}"
    assert listed["next"] is None
    assert seen == [f"gauge-{n}" for n in range(7)]
    assert (await platform.ask("GET", "/api/v1/devices?limit=1001"))[1]["errors"][0]["field"] == "limit"


async def test_profiles_are_listed(platform: Platform) -> None:
    status, listed = await platform.ask("GET", "/api/v1/profiles")
    assert status == 200
    by_id = {item["id"]: item for item in listed["items"]}
    assert sorted(by_id) == sorted(CATALOGUE.ids())
    gauge = by_id["generic/water-gauge"]
    assert gauge["kind"] == "waterlogging_gauge"
    assert gauge["transports"] == ["coap", "mqtt"]
    assert gauge["settings"]["mount.height"]["unit"] == "cm"
    assert gauge["options"] == {}
    assert by_id[PILE.id]["options"]["socket"] == {
        "title": "Socket",
        "default": 1,
        "choices": [{"value": 1, "title": "left"}, {"value": 2, "title": "right"}],
    }


async def test_gateway_that_waits_is_woken_by_each_change(platform: Platform) -> None:
    waiting = asyncio.create_task(platform.roster.roster("gw-1", 0, 60))
    await platform.post()
    roster = await asyncio.wait_for(waiting, 10)
    assert roster is not None
    [device] = roster.devices
    assert (roster.version, device.id, device.settings) == (1, "gauge-001", {"mount.height": 250})
    assert device.digest == password_digest(bytes(SALT_BYTES), b"password-1")
    waiting = asyncio.create_task(platform.roster.roster("gw-1", 1, 60))
    await platform.ask("POST", "/api/v1/devices/gauge-001/revoke")
    assert await asyncio.wait_for(waiting, 10) == Roster(version=2, devices=[], authority=platform.roster._authority)


async def test_roster_answers_nothing_when_nothing_changed_or_all_ends(platform: Platform) -> None:
    await platform.post()
    assert await platform.roster.roster("gw-1", 1, 0.01) is None
    assert (await platform.roster.roster("gw-1", 99, 60)) is not None
    assert (await platform.roster.roster("gw-2", 0, 60)) == Roster(
        version=1, devices=[], authority=platform.roster._authority
    )
    waiting = asyncio.create_task(platform.roster.roster("gw-1", 1, 60))
    await asyncio.sleep(0)
    platform.roster.close()
    assert await asyncio.wait_for(waiting, 10) is None


async def test_ingest_finds_site_and_kind_of_a_gateways_own_devices(platform: Platform) -> None:
    await platform.post()
    assert platform.roster.assignment("gw-1", "gauge-001") == Assigned(site="1", kind="waterlogging_gauge")
    assert platform.roster.assignment("gw-2", "gauge-001") is None
    assert platform.roster.assignment("gw-1", "ghost") is None
    await platform.ask("PATCH", "/api/v1/devices/gauge-001", {"site": None})
    assert platform.roster.assignment("gw-1", "gauge-001") == Assigned(site="", kind="waterlogging_gauge")
    await platform.ask("POST", "/api/v1/devices/gauge-001/revoke")
    assert platform.roster.assignment("gw-1", "gauge-001") is None


async def test_change_that_this_process_missed_is_found_by_the_next_poll(platform: Platform) -> None:
    await platform.post()
    await platform.post(id="gauge-002")
    behind = RosterSource(platform.city, CATALOGUE, keys_of=lambda _: GatewayKeys(), authority="")
    late = await platform.roster.roster("gw-1", 1, 60)
    assert late is not None
    # The second change arrives here without the first: its version may not pass for the whole.
    known = {device.id: device for device in platform.roster._devices.values()}
    behind.learn(known["gauge-002"])
    assert behind.version == 0
    roster = await behind.roster("gw-1", 0, 60)
    assert roster is not None
    assert (roster.version, [device.id for device in roster.devices]) == (2, ["gauge-001", "gauge-002"])


async def test_registry_survives_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path) as platform:
        await platform.post()
    async with running(tmp_path) as platform:
        assert platform.roster.version == 1
        assert platform.roster.assignment("gw-1", "gauge-001") is not None
        assert (await platform.post())[0] == 409


async def test_gateway_tokens_are_told_apart_and_replaced(platform: Platform) -> None:
    gateways = Gateways(platform.city, SetClock(NOW), new_token=str)
    await gateways.ensure_gateway("gw-1", "one")
    await gateways.ensure_gateway("gw-2", "two")
    again = Gateways(platform.city, SetClock(NOW), new_token=str)
    await again.ensure_gateway("gw-1", "new")
    assert [again.gateway_of(token) for token in ("one", "two", "new", "")] == [None, "gw-2", "gw-1", None]
    assert b"two" not in platform.city.path.read_bytes()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
near_misses = st.builds(
    lambda changes: {**GAUGE, **changes},
    st.fixed_dictionaries(
        {},
        optional={
            "id": st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True) | json_values,
            "site": st.fixed_dictionaries(
                {}, optional={key: json_values | st.just(SITE.get(key)) for key in ("id", *SITE)}
            ),
            "endpoint": json_values,
            "serial": json_values,
            "settings": st.dictionaries(st.just("mount.height") | st.text(), json_values, max_size=2),
            "credential": json_values,
        },
    ),
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=near_misses | json_values)
async def test_any_body_gets_an_answer_that_is_no_accident(platform: Platform, body: object) -> None:
    status, answer = await platform.ask("POST", "/api/v1/devices", body)
    assert status == 201 or (400 <= status < 500 and answer["code"]), answer
