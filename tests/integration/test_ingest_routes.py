"""/ingest/v1 over a real socket: tokens, limits, status codes, and answers in MessagePack."""

from __future__ import annotations

import asyncio
import io
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import msgspec
import pytest
import uvicorn

from citysense import wire
from citysense.clock import SetClock
from citysense.durable_log import DurableLog
from citysense.errors import Overloaded, StorageFull
from citysense.keys import token_digest
from citysense_platform.api.app import MAX_BODY_BYTES, build_api
from citysense_platform.ingest.gateways import GatewayStates
from citysense_platform.ingest.log import IngestLog, platform_log
from citysense_platform.ingest.routes import MOST_OUTCOMES, POLL_S, ingest_routes
from citysense_platform.registry.roster import Assigned
from citysense_profiles.reading import ReadingClass

GATEWAY = {"Authorization": "Bearer gateway-secret"}
ADMIN = {"Authorization": "Bearer admin-secret"}
ORDERS = wire.Orders(
    orders=[
        wire.Downlink(
            number=5, id="d5", device="gauge-001", message="set", values={"config.report_interval": 600}, expires=9
        )
    ]
)
ROSTER = wire.Roster(version=4, devices=[wire.RosterDevice(id="gauge-001", profile="p")])


class Site:
    """One running platform, as far as gateways see it."""

    def __init__(self, log: DurableLog) -> None:
        self.log = log
        self.states = GatewayStates()
        self.ingest = IngestLog(log, lambda _gateway, _device: Assigned(site="7", kind="k"), lambda *_: False)
        self.asked: list[tuple[str, int, float]] = []
        self.outcomes: list[tuple[str, wire.Outcomes]] = []
        self.session = aiohttp.ClientSession()
        self.url = ""

    async def roster(self, gateway: str, newer_than: int, timeout: float) -> wire.Roster | None:
        self.asked.append((gateway, newer_than, timeout))
        return ROSTER if newer_than != ROSTER.version else None

    async def orders(self, gateway: str, after: int, timeout: float) -> wire.Orders | None:
        self.asked.append((gateway, after, timeout))
        return ORDERS if after < 5 else None

    async def take(self, gateway: str, said: wire.Outcomes) -> None:
        self.outcomes.append((gateway, said))

    async def post(self, path: str, body: bytes, headers: dict[str, str] = GATEWAY) -> tuple[int, bytes]:
        async with self.session.post(f"{self.url}/ingest/v1/{path}", data=body, headers=headers) as answer:
            return answer.status, await answer.read()


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    clock = SetClock(9_000)
    log = platform_log(tmp_path / "log.db", clock=clock)
    log.open()
    site = Site(log)
    routes = ingest_routes(
        site.ingest,
        site.states,
        gateway_of={"gateway-secret": "gw-1"}.get,
        roster=site.roster,
        orders=site.orders,
        outcomes=site.take,
        clock=clock,
    )
    api = build_api(
        admin_digest=token_digest("admin-secret"), routers=[], open_routers=[routes], title="t", version="0"
    )
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(api, lifespan="off", log_config=None))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    site.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    yield site
    await site.session.close()
    server.should_exit = True
    await serving
    listener.close()
    log.close()


def batch(*offsets: int) -> bytes:
    readings = wire.encode(
        wire.Readings(
            device="gauge-001",
            profile="p",
            kind="k",
            message="report",
            received=2_000,
            identity="credential",
            samples=[wire.SampleBody(time=1_000, values={"water.level": 12.3})],
        )
    )
    return wire.encode(wire.Batch(spool="s", items=[(offset, readings) for offset in offsets]))


@pytest.mark.parametrize("cls", list(ReadingClass))
async def test_a_batch_is_in_the_log_when_the_answer_comes(site: Site, cls: ReadingClass) -> None:
    status, body = await site.post(str(cls), batch(1, 2))
    assert status == 200
    assert msgspec.msgpack.decode(body, type=wire.Answer) == wire.Answer(accepted=[(1, 2)])
    assert len(site.log.read(cls, after=0, limit=10)) == 2


@pytest.mark.parametrize(
    "headers", [{}, ADMIN, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic gateway-secret"}]
)
@pytest.mark.parametrize("path", ["safety", "heartbeat", "outcomes"])
async def test_only_gateways_may_submit(site: Site, path: str, headers: dict[str, str]) -> None:
    status, body = await site.post(path, batch(1), headers)
    assert (status, msgspec.json.decode(body)["code"]) == (401, "gateway_unknown")
    assert site.log.read(ReadingClass.SAFETY, after=0, limit=10) == []
    for asked in ("roster", "orders"):
        async with site.session.get(f"{site.url}/ingest/v1/{asked}", headers=headers) as answer:
            assert answer.status == 401


@pytest.mark.parametrize("path", ["safety", "heartbeat", "outcomes"])
@pytest.mark.parametrize("body", [b"", b"\xc1", b"{}", wire.encode({"spool": 7, "items": []})])
async def test_malformed_bodies_are_refused(site: Site, path: str, body: bytes) -> None:
    status, answer = await site.post(path, body)
    assert (status, msgspec.json.decode(answer)["code"]) == (400, "malformed_body")


async def test_malformed_batches_and_strange_lanes_are_refused(site: Site) -> None:
    status, answer = await site.post("safety", batch(2, 1))
    assert (status, msgspec.json.decode(answer)["code"]) == (400, "malformed_batch")
    status, answer = await site.post("urgent", batch(1))
    assert (status, msgspec.json.decode(answer)["code"]) == (404, "no_such_lane")


async def test_a_body_beyond_the_limit_is_refused(site: Site) -> None:
    large = io.BytesIO(bytes(MAX_BODY_BYTES + 1))
    async with site.session.post(f"{site.url}/ingest/v1/bulk", data=large, headers=GATEWAY) as answer:
        assert answer.status == 413

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield bytes(1 << 20)

    async with site.session.post(f"{site.url}/ingest/v1/bulk", data=chunks(), headers=GATEWAY) as answer:
        assert answer.status == 413


@pytest.mark.parametrize(
    ("error", "code"), [(StorageFull("no space"), "storage_full"), (Overloaded("busy"), "overloaded")]
)
async def test_what_cannot_be_stored_now_is_asked_for_again(
    site: Site, monkeypatch: pytest.MonkeyPatch, error: Exception, code: str
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(site.log, "append", refuse)
    async with site.session.post(f"{site.url}/ingest/v1/safety", data=batch(1), headers=GATEWAY) as answer:
        assert answer.status == 503
        assert int(answer.headers["Retry-After"]) > 0
        assert (await answer.json(content_type=None))["code"] == code


async def test_heartbeats_are_kept_by_gateway(site: Site) -> None:
    for time in (1_000, 2_000):
        beat = wire.Heartbeat(gateway="gw-1", time=time, counters={"stored": 7.0})
        assert await site.post("heartbeat", wire.encode(beat)) == (204, b"")
    (state,) = site.states.latest().values()
    assert (state.heartbeat.time, state.heartbeat.counters, state.arrived) == (2_000, {"stored": 7.0}, 9_000)


async def test_a_gateway_speaks_for_itself_only(site: Site) -> None:
    beat = wire.Heartbeat(gateway="gw-2", time=1, counters={})
    status, body = await site.post("heartbeat", wire.encode(beat))
    assert (status, msgspec.json.decode(body)["code"]) == (403, "other_gateway")
    assert site.states.latest() == {}


async def test_the_roster_comes_when_it_is_newer(site: Site) -> None:
    url = f"{site.url}/ingest/v1/roster"
    async with site.session.get(url, headers=GATEWAY) as answer:
        assert answer.status == 200
        assert msgspec.msgpack.decode(await answer.read(), type=wire.Roster) == ROSTER
    async with site.session.get(url, params={"version": "4"}, headers=GATEWAY) as answer:
        assert (answer.status, await answer.read()) == (204, b"")
    assert site.asked == [("gw-1", 0, POLL_S), ("gw-1", 4, POLL_S)]
    for wrong in ("-1", "x", "", "9" * 30):
        async with site.session.get(url, params={"version": wrong}, headers=GATEWAY) as answer:
            assert answer.status == 400


async def test_orders_come_when_there_are_some_and_outcomes_go_under_the_callers_name(site: Site) -> None:
    url = f"{site.url}/ingest/v1/orders"
    async with site.session.get(url, headers=GATEWAY) as answer:
        assert answer.status == 200
        assert msgspec.msgpack.decode(await answer.read(), type=wire.Orders) == ORDERS
    async with site.session.get(url, params={"after": "5"}, headers=GATEWAY) as answer:
        assert (answer.status, await answer.read()) == (204, b"")
    assert site.asked == [("gw-1", 0, POLL_S), ("gw-1", 5, POLL_S)]
    for wait in ("0", "3", "900"):
        async with site.session.get(url, params={"after": "5", "wait": wait}, headers=GATEWAY) as answer:
            assert answer.status == 204
    assert site.asked[2:] == [("gw-1", 5, 0), ("gw-1", 5, 3), ("gw-1", 5, POLL_S)]
    async with site.session.get(url, params={"wait": "x"}, headers=GATEWAY) as answer:
        assert (answer.status, (await answer.json(content_type=None))["code"]) == (400, "malformed_wait")
    async with site.session.get(url, params={"after": "-5"}, headers=GATEWAY) as answer:
        assert (answer.status, (await answer.json(content_type=None))["code"]) == (400, "malformed_after")
    said = wire.Outcomes(outcomes=[wire.Outcome(id="d5", state="delivered", time=8)])
    assert await site.post("outcomes", wire.encode(said)) == (204, b"")
    assert site.outcomes == [("gw-1", said)]
    status, body = await site.post("outcomes", wire.encode(wire.Outcomes(outcomes=said.outcomes * (MOST_OUTCOMES + 1))))
    assert (status, msgspec.json.decode(body)["code"]) == (413, "too_many_outcomes")
    assert len(site.outcomes) == 1
