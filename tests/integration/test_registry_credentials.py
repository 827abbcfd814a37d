"""Credentials of all kinds, concentrators and gateways: over HTTP in, in the gateway's roster out."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvicorn
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from citysense import wire
from citysense.clock import SetClock
from citysense.keys import Sealer, load_or_create_key, password_digest, token_digest
from citysense_platform.api.app import build_api
from citysense_platform.city.database import City
from citysense_platform.ingest.gateways import GatewayStates
from citysense_platform.registry.authority import load_or_create_authority
from citysense_platform.registry.credentials import Credentials
from citysense_platform.registry.gateway_routes import gateway_routes
from citysense_platform.registry.gateways import Gateways
from citysense_platform.registry.registry import Registry
from citysense_platform.registry.roster import FORMER_MS, Assigned, RosterSource
from citysense_platform.registry.routes import registry_routes
from citysense_profiles.catalogue import load_catalogue

TOKEN = "the-admin-token"
CATALOGUE = load_catalogue()
NOW = 1_795_190_934_423
DEVICES = "/api/v1/devices"


@dataclass
class Platform:
    http: aiohttp.ClientSession
    roster: RosterSource
    gateways: Gateways
    states: GatewayStates
    folder: Path

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        async with self.http.request(method, path, json=body) as response:
            return response.status, await response.json(content_type=None)

    async def register(self, device: str, kind: str | None = None, **more: Any) -> Any:
        body = {"id": device, "profile": "generic/water-gauge", "credential": kind and {"kind": kind}, **more}
        status, answer = await self.ask("POST", DEVICES, body)
        assert status == 201, answer
        return answer

    async def held_by(self, gateway: str) -> dict[str, wire.RosterDevice]:
        roster = await self.roster.roster(gateway, 10**18 - 1, 0)
        assert roster is not None
        return {device.id: device for device in roster.devices}


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Platform]:
    city = City(f"sqlite:///{folder}/city.db")
    city.open()
    clock = SetClock(NOW)
    credentials = Credentials(
        authority=load_or_create_authority(folder / "keys" / "device-authority.pem", now_ms=NOW),
        sealer=Sealer(load_or_create_key(folder / "keys" / "credentials.key")),
        new_password=lambda: secrets.token_urlsafe(20),
        new_bytes=secrets.token_bytes,
    )
    roster = RosterSource(city, CATALOGUE, keys_of=credentials.for_gateway, authority=credentials.authority)
    await roster.refresh()
    tokens = iter(f"token-{n}" for n in range(2, 99))
    gateways = Gateways(city, clock, new_token=lambda: next(tokens))
    await gateways.ensure_gateway("gateway-1", "token-1")
    states = GatewayStates()
    registry = Registry(city, CATALOGUE, roster, clock, default_gateway="gateway-1", credentials=credentials)
    api = build_api(
        admin_digest=token_digest(TOKEN),
        routers=[
            registry_routes(registry, CATALOGUE),
            gateway_routes(gateways, latest=states.latest, held=roster.held),
        ],
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
        base = f"http://127.0.0.1:{listening.getsockname()[1]}"
        async with aiohttp.ClientSession(base, headers={"Authorization": f"Bearer {TOKEN}"}) as http:
            yield Platform(http, roster, gateways, states, folder)
        server.should_exit = True
        await serving
    city.close()


@pytest.fixture
async def platform(tmp_path: Path) -> AsyncIterator[Platform]:
    async with running(tmp_path) as platform:
        yield platform


def stored(platform: Platform) -> bytes:
    return b"".join(path.read_bytes() for path in platform.folder.glob("city.db*"))


async def test_a_certificate_is_shown_once_and_known_by_its_fingerprint(platform: Platform) -> None:
    answer = await platform.register("gauge-1", "x509")
    credential = answer["credential"]
    assert set(credential) == {"kind", "username", "fingerprint", "expires", "secret", "certificate", "authority"}
    assert credential["expires"] == "2036-11-17T16:08:54.000Z"
    load_pem_private_key(credential["secret"].encode(), None)
    der = ssl.PEM_cert_to_DER_cert(credential["certificate"])
    assert credential["fingerprint"] == hashlib.sha256(der).hexdigest()
    entry = (await platform.held_by("gateway-1"))["gauge-1"]
    assert (entry.fingerprint, entry.digest) == (hashlib.sha256(der).digest(), b"")
    roster = await platform.roster.roster("gateway-1", 10**18 - 1, 0)
    assert roster is not None
    assert roster.authority == credential["authority"]
    _, listed = await platform.ask("GET", f"{DEVICES}/gauge-1")
    assert set(listed["credential"]) == {"kind", "username", "fingerprint", "expires"}
    assert b"PRIVATE" not in stored(platform)


async def test_keys_of_coap_reach_the_gateway_in_clear_and_the_disk_sealed(platform: Platform) -> None:
    psk = (await platform.register("gauge-1", "psk"))["credential"]
    assert set(psk) == {"kind", "username", "secret"}
    assert (psk["kind"], psk["username"], len(bytes.fromhex(psk["secret"]))) == ("psk", "gauge-1", 16)
    oscore = (await platform.register("gauge-2", "oscore"))["credential"]
    assert (oscore["algorithm"], oscore["hkdf"]) == ("AES-CCM-16-64-128", "HKDF SHA-256")
    assert (len(bytes.fromhex(oscore["secret"])), len(bytes.fromhex(oscore["salt"]))) == (16, 8)
    held = await platform.held_by("gateway-1")
    assert (held["gauge-1"].psk.hex(), held["gauge-1"].oscore) == (psk["secret"], None)
    context = held["gauge-2"].oscore
    assert context == wire.Oscore(
        secret=bytes.fromhex(oscore["secret"]),
        salt=bytes.fromhex(oscore["salt"]),
        # The gateway's own id is what the device receives under.
        sender=bytes.fromhex(oscore["recipient"]),
        recipient=bytes.fromhex(oscore["sender"]),
        context=b"",
    )
    assert 3 <= len(context.recipient) <= 7
    kept = stored(platform)
    for shown in (psk["secret"], oscore["secret"], oscore["salt"]):
        assert bytes.fromhex(shown) not in kept
        assert shown.encode() not in kept
        assert shown not in str(await platform.ask("GET", DEVICES))


async def test_keys_survive_a_restart_and_a_lost_sealing_key_shuts_out_only_what_it_sealed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path) as platform:
        await platform.register("gauge-1", "psk")
        await platform.register("gauge-2", "password")
        before = await platform.held_by("gateway-1")
    async with running(tmp_path) as platform:
        assert await platform.held_by("gateway-1") == before
    (tmp_path / "keys" / "credentials.key").unlink()
    with caplog.at_level(logging.ERROR):
        async with running(tmp_path) as platform:
            after = await platform.held_by("gateway-1")
    assert after["gauge-1"].psk == b""
    assert after["gauge-2"] == before["gauge-2"]
    assert [record.args for record in caplog.records] == [("gauge-1",)]


async def test_no_two_oscore_contexts_share_an_id(platform: Platform) -> None:
    ids = [(await platform.register(f"gauge-{n}", "oscore"))["credential"]["sender"] for n in range(5)]
    for _ in range(3):
        status, answer = await platform.ask("POST", f"{DEVICES}/gauge-1/credential", {"kind": "oscore"})
        assert status == 201
        ids.append(answer["credential"]["sender"])
    assert len(set(ids)) == 8


async def test_a_renewed_credential_ends_the_old_one(platform: Platform) -> None:
    first = await platform.register("gauge-1", "password")
    status, second = await platform.ask("POST", f"{DEVICES}/gauge-1/credential", {"kind": "password"})
    assert (status, second["version"], second["credential"]["kind"]) == (201, 2, "password")
    assert second["credential"]["secret"] != first["credential"]["secret"]
    entry = (await platform.held_by("gateway-1"))["gauge-1"]
    assert entry.digest == password_digest(entry.salt, second["credential"]["secret"].encode())
    _, third = await platform.ask("POST", f"{DEVICES}/gauge-1/credential", {"kind": "psk"})
    entry = (await platform.held_by("gateway-1"))["gauge-1"]
    assert (entry.digest, entry.salt, entry.psk.hex()) == (b"", b"", third["credential"]["secret"])
    await platform.ask("POST", f"{DEVICES}/gauge-1/credential", {"kind": "x509"})
    entry = (await platform.held_by("gateway-1"))["gauge-1"]
    assert (entry.psk, len(entry.fingerprint)) == (b"", 32)
    assert (await platform.ask("POST", f"{DEVICES}/ghost/credential", {"kind": "psk"}))[1]["code"] == "not_found"
    status, problem = await platform.ask("POST", f"{DEVICES}/gauge-1/credential", {"kind": "x509", "csr": "x"})
    assert (status, problem["code"], problem["errors"][0]["field"]) == (422, "request_unfit", "csr")
    await platform.ask("POST", f"{DEVICES}/gauge-1/revoke")
    status, problem = await platform.ask("POST", f"{DEVICES}/gauge-1/credential", {"kind": "psk"})
    assert (status, problem["code"]) == (409, "revoked")


async def test_a_kind_that_no_door_of_the_profile_takes_is_refused(platform: Platform) -> None:
    await platform.register("switch-1", "password", profile="netvox/r311a")
    status, problem = await platform.ask("POST", f"{DEVICES}/switch-1/credential", {"kind": "oscore"})
    assert (status, problem["code"]) == (422, "credential_kind_not_available")
    assert "speaks mqtt" in problem["detail"]


async def test_a_concentrator_speaks_for_its_devices_on_its_gateway(platform: Platform) -> None:
    await platform.gateways.enrol("gateway-2")
    await platform.register("hub-1", "password", gateway="gateway-2")
    child = await platform.register("gauge-1", concentrator="hub-1")
    assert (child["concentrator"], child["gateway"]) == ("hub-1", "gateway-2")
    await platform.register("gauge-2", concentrator="hub-1")
    held = await platform.held_by("gateway-2")
    assert [held[name].concentrator for name in ("hub-1", "gauge-1", "gauge-2")] == ["", "hub-1", "hub-1"]
    for body, code in (
        ({"concentrator": "gauge-2"}, "concentrator_is_child"),
        ({"concentrator": "gauge-1"}, "concentrator_is_itself"),
        ({"concentrator": "ghost"}, "unknown_concentrator"),
        ({"gateway": "gateway-1"}, "concentrator_elsewhere"),
        ({"gateway": "gateway-9", "concentrator": None}, "unknown_gateway"),
        ({"gateway": None}, "invalid"),
    ):
        status, problem = await platform.ask("PATCH", f"{DEVICES}/gauge-1", body)
        assert (status, problem["code"]) == (422, code)
    status, problem = await platform.ask("PATCH", f"{DEVICES}/hub-1", {"concentrator": "gauge-1"})
    assert status == 422
    # What stands behind it moves along, at once.
    assert (await platform.ask("PATCH", f"{DEVICES}/hub-1", {"gateway": "gateway-1"}))[0] == 200
    assert await platform.held_by("gateway-2") == {}
    assert set(await platform.held_by("gateway-1")) == {"hub-1", "gauge-1", "gauge-2"}
    # What the old gateway received until it heard of the move is still taken from it.
    kind = "waterlogging_gauge"
    assert platform.roster.assignment("gateway-2", "gauge-1") == Assigned(site="", kind=kind, until=NOW + FORMER_MS)
    assert platform.roster.assignment("gateway-1", "gauge-1") == Assigned(site="", kind=kind)
    status, alone = await platform.ask("PATCH", f"{DEVICES}/gauge-1", {"concentrator": None, "gateway": "gateway-2"})
    assert (status, alone["concentrator"], alone["gateway"]) == (200, None, "gateway-2")
    assert platform.roster.assignment("gateway-2", "gauge-1") == Assigned(site="", kind=kind)
    assert platform.roster.assignment("gateway-1", "gauge-1") == Assigned(site="", kind=kind, until=NOW + FORMER_MS)
    await platform.ask("POST", f"{DEVICES}/gauge-1/revoke")
    assert platform.roster.assignment("gateway-1", "gauge-1") is None
    # Whose losses it may still report: the gateway that has it, and the one that had it last.
    assert [platform.roster.foreign(f"gateway-{number}", "gauge-1") for number in (1, 2, 3)] == [False, False, True]
    assert not platform.roster.foreign("gateway-3", "registered-nowhere")


async def test_a_revoked_concentrator_speaks_for_nobody(platform: Platform) -> None:
    await platform.register("hub-1", "password")
    for child in ("gauge-1", "gauge-2"):
        await platform.register(child, concentrator="hub-1")
    await platform.ask("POST", f"{DEVICES}/gauge-2/revoke")
    before = platform.roster.version
    status, revoked = await platform.ask("POST", f"{DEVICES}/hub-1/revoke")
    assert (status, revoked["revoked"] is not None) == (200, True)
    _, child = await platform.ask("GET", f"{DEVICES}/gauge-1")
    assert (child["concentrator"], child["revoked"]) == (None, None)
    _, gone = await platform.ask("GET", f"{DEVICES}/gauge-2")
    assert gone["concentrator"] == "hub-1", "what was revoked stays as it was"
    [held] = (await platform.held_by("gateway-1")).values()
    assert (held.id, held.concentrator) == ("gauge-1", "")
    assert platform.roster.version == before + 2, "a version of its own for each, so that gateways hear of it"
    # It can be moved and put behind another one, which its dead concentrator forbade.
    await platform.register("hub-2", "password")
    assert (await platform.ask("PATCH", f"{DEVICES}/gauge-1", {"concentrator": "hub-2"}))[0] == 200
    assert (await platform.ask("POST", f"{DEVICES}/hub-1/revoke"))[0] == 200
    assert platform.roster.version == before + 4, "two for the new concentrator, none for revoking again"


async def test_gateways_are_enrolled_watched_and_revoked(platform: Platform) -> None:
    status, fresh = await platform.ask("POST", "/api/v1/gateways", {"id": "gateway-2"})
    assert (status, fresh["token"], fresh["heartbeat"], fresh["roster_version"]) == (201, "token-2", None, None)
    assert platform.gateways.gateway_of("token-2") == "gateway-2"
    status, problem = await platform.ask("POST", "/api/v1/gateways", {"id": "gateway-2"})
    assert (status, problem["code"]) == (409, "duplicate_id")
    assert (await platform.ask("POST", "/api/v1/gateways", {"id": "no way"}))[0] == 422
    await platform.register("gauge-1", gateway="gateway-2")
    await platform.roster.roster("gateway-2", 1, 0)
    beat = wire.Heartbeat(gateway="gateway-2", time=NOW, counters={"stored": 7.0})
    platform.states.note("gateway-2", beat, arrived=NOW)
    _, listed = await platform.ask("GET", "/api/v1/gateways")
    assert listed["next"] is None
    first, second = listed["items"]
    assert (first["id"], first["devices"], "token" in second) == ("gateway-1", 0, False)
    assert (second["devices"], second["roster_version"], second["figures"]) == (1, 1, {"stored": 7.0})
    assert second["heartbeat"] == "2026-11-20T16:08:54.423Z"
    assert (await platform.ask("GET", "/api/v1/gateways?limit=1"))[1]["next"] == "gateway-1"
    status, gone = await platform.ask("POST", "/api/v1/gateways/gateway-2/revoke")
    assert (status, gone["revoked"]) == (200, "2026-11-20T16:08:54.423Z")
    assert platform.gateways.gateway_of("token-2") is None
    assert await platform.ask("POST", "/api/v1/gateways/gateway-2/revoke") == (200, gone)
    assert await platform.ask("GET", "/api/v1/gateways/gateway-2") == (200, gone)
    assert (await platform.ask("POST", "/api/v1/gateways/gateway-9/revoke"))[0] == 404
    status, problem = await platform.ask("PATCH", f"{DEVICES}/gauge-1", {"settings": {"mount.height": 200}})
    assert status == 200, "a device may be changed while its gateway is gone"
    _, problem = await platform.ask(
        "POST", DEVICES, {"id": "g", "profile": "generic/water-gauge", "gateway": "gateway-2"}
    )
    assert problem["code"] == "unknown_gateway"
    assert b"token-2" not in stored(platform)


async def test_a_revoked_gateway_stays_so_over_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path) as platform:
        await platform.ask("POST", "/api/v1/gateways/gateway-1/revoke")
    async with running(tmp_path) as platform:
        assert platform.gateways.gateway_of("token-1") is None
        assert (await platform.ask("GET", "/api/v1/gateways/gateway-1"))[1]["revoked"] is not None
