"""Reading telemetry and events over HTTP: bodies, refusals, pages."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvicorn

from citysense import wire
from citysense.clock import SetClock, rfc3339
from citysense.keys import token_digest
from citysense_platform.api.app import build_api
from citysense_platform.city.database import City
from citysense_platform.downlinks.order_book import OrderBook
from citysense_platform.events.again import LettersAgain
from citysense_platform.events.event_store import EventStore
from citysense_platform.events.routes import event_routes
from citysense_platform.store import routes
from citysense_platform.store.embedded import EmbeddedStore
from citysense_platform.store.follower import Taken
from citysense_platform.store.points import points_of
from citysense_platform.store.port import StoreUnavailable
from citysense_platform.store.routes import telemetry_routes
from citysense_profiles.reading import ReadingClass
from citysense_profiles.vocabulary import load_vocabulary

NOW = 1_795_190_934_423  # 2026-11-20T16:08:54.423Z
DONE = dict.fromkeys(ReadingClass, 1)
TOKEN = "the-admin-token"


async def known(device: str) -> bool:
    return device in ("gauge-001", "reader-07", "silent")


class Platform:
    """Both stores behind a real server."""

    def __init__(self, telemetry: EmbeddedStore, events: EventStore) -> None:
        self.telemetry = telemetry
        self.events = events
        self.http: aiohttp.ClientSession

    async def get(self, path: str, **query: str | int) -> tuple[int, Any]:
        async with self.http.get(path, params=query) as response:
            body = await response.json(content_type=None)
            if response.status != 200:
                assert response.headers["Content-Type"] == "application/problem+json"
            return response.status, body

    async def report(self, *samples: wire.SampleBody, device: str = "gauge-001") -> None:
        readings = wire.Readings(
            device=device,
            profile="p",
            kind="waterlogging_gauge",
            message="report",
            received=NOW + 77,
            identity="credential",
            samples=list(samples),
            site="1",
        )
        await self.telemetry.write(points_of(readings), lane_cursors=DONE)
        await self.keep(readings)

    async def keep(self, *bodies: wire.Body) -> None:
        self.offset += 100
        records = [Taken(cls=ReadingClass.STATE, offset=self.offset + i, body=body) for i, body in enumerate(bodies)]
        await self.events.take(records, cursors=dict.fromkeys(ReadingClass, self.offset + 99))

    offset = 0


@pytest.fixture
async def platform(tmp_path: Path) -> AsyncIterator[Platform]:
    clock = SetClock(NOW)
    platform = Platform(EmbeddedStore(tmp_path / "t", clock=clock), EventStore(tmp_path / "e", clock=clock))
    await platform.telemetry.open(log_id="log-1")
    await platform.events.open(log_id="log-1")
    city = City(f"sqlite:///{tmp_path}/city.db")
    city.open()
    again = LettersAgain(city, OrderBook(city, clock), clock)
    api = build_api(
        admin_digest=token_digest(TOKEN),
        routers=[
            telemetry_routes(platform.telemetry, load_vocabulary(), known),
            event_routes(platform.events, known, again),
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
        async with aiohttp.ClientSession(base, headers={"Authorization": f"Bearer {TOKEN}"}) as platform.http:
            yield platform
        server.should_exit = True
        await serving
    await platform.telemetry.close()
    await platform.events.close()
    city.close()


def water(moment: int, level: float, **more: Any) -> wire.SampleBody:
    return wire.SampleBody(time=moment, values={"water.level": level}, **more)


async def test_latest_has_the_body_of_the_interface(platform: Platform) -> None:
    await platform.report(
        water(NOW - 9000, 50.0), water(NOW, 12.3), wire.SampleBody(time=NOW, values={"door.open": True})
    )
    assert await platform.get("/api/v1/devices/gauge-001/latest") == (
        200,
        {
            "device": "gauge-001",
            "metrics": {
                "door.open": {
                    "value": True,
                    "unit": "",
                    "time": "2026-11-20T16:08:54.423Z",
                    "received": "2026-11-20T16:08:54.500Z",
                    "quality": "good",
                },
                "water.level": {
                    "value": 12.3,
                    "unit": "cm",
                    "time": "2026-11-20T16:08:54.423Z",
                    "received": "2026-11-20T16:08:54.500Z",
                    "quality": "good",
                },
            },
        },
    )
    assert await platform.get("/api/v1/devices/silent/latest") == (200, {"device": "silent", "metrics": {}})


async def test_series_has_the_body_of_the_interface(platform: Platform) -> None:
    await platform.report(water(NOW + 1000, 4000.0, suspect=["water.level"]), water(NOW, 12.3))
    query = {"metric": "water.level", "start": rfc3339(NOW), "end": "2026-11-21T00:08:56.423+08:00"}
    assert await platform.get("/api/v1/devices/gauge-001/series", **query) == (
        200,
        {
            "device": "gauge-001",
            "metric": "water.level",
            "unit": "cm",
            "points": [["2026-11-20T16:08:54.423Z", 12.3, "good"], ["2026-11-20T16:08:55.423Z", 4000.0, "suspect"]],
            "next": None,
        },
    )


async def test_a_long_series_comes_in_pages(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    assert routes.MOST_POINTS == 100_000
    await platform.report(*(water(NOW + i, float(i)) for i in range(25)))
    query: dict[str, str | int] = {
        "metric": "water.level",
        "start": rfc3339(NOW),
        "end": rfc3339(NOW + 99),
        "limit": 10,
    }
    points: list[Any] = []
    for _ in range(3):
        status, body = await platform.get("/api/v1/devices/gauge-001/series", **query)
        assert status == 200
        points += body["points"]
        if body["next"]:
            query["cursor"] = body["next"]
    assert body["next"] is None
    assert [value for _, value, _ in points] == [float(i) for i in range(25)]


@pytest.mark.parametrize(
    ("path", "query", "status", "code"),
    [
        ("nobody/latest", {}, 404, "not_found"),
        ("nobody/series", {"metric": "water.level"}, 404, "not_found"),
        ("nobody/events", {}, 404, "not_found"),
        ("gauge-001/series", {"metric": "water.depth"}, 422, "unknown_metric"),
        ("gauge-001/series", {}, 422, "invalid"),
        ("gauge-001/series", {"metric": "water.level", "start": "2026-11-20T03:00:00"}, 422, "bad_time"),
        ("gauge-001/series", {"metric": "water.level", "start": "yesterday"}, 422, "bad_time"),
        ("gauge-001/series", {"metric": "water.level", "end": "2000-01-01T00:00:00Z"}, 422, "bad_range"),
        ("gauge-001/series", {"metric": "water.level", "limit": "100001"}, 422, "invalid"),
        ("gauge-001/series", {"metric": "water.level", "cursor": "x"}, 422, "bad_time"),
        ("gauge-001/events", {"cursor": "x"}, 422, "bad_cursor"),
        ("gauge-001/events", {"limit": "1001"}, 422, "invalid"),
        ("gauge-001/events", {"start": "2026-11-20T03:00:00Z", "end": "2026-11-20T03:00:00Z"}, 422, "bad_range"),
    ],
)
async def test_refusals(platform: Platform, path: str, query: dict[str, str], status: int, code: str) -> None:
    window = {"start": "2026-11-20T00:00:00Z", "end": "2026-11-21T00:00:00Z"} if path.endswith("series") else {}
    found, body = await platform.get(f"/api/v1/devices/{path}", **{**window, **query})
    assert (found, body["code"]) == (status, code)


async def test_a_store_that_is_down_is_said(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    async def down(*_: object) -> None:
        raise StoreUnavailable("InfluxDB at http://10.0.0.7:8086 cannot be reached")

    monkeypatch.setattr(platform.telemetry, "latest", down)
    status, body = await platform.get("/api/v1/devices/gauge-001/latest")
    assert (status, body["code"]) == (503, "store_unavailable")
    assert "10.0.0.7" not in body["detail"]


async def test_events_have_the_body_of_the_interface(platform: Platform) -> None:
    values: dict[str, wire.Value] = {"tag.antenna": 1, "tag.rssi": -52.3}
    sighting = wire.SampleBody(time=NOW, values=values, event="tag.seen", tag="ab12")
    await platform.report(
        sighting, wire.SampleBody(time=NOW - 1, values={}, event="reader.started"), device="reader-07"
    )
    path = "/api/v1/devices/reader-07/events"
    first = {"time": rfc3339(NOW), "kind": "tag.seen", "values": {"antenna": 1, "rssi": -52.3}, "tag": "ab12"}
    second: dict[str, Any] = {"time": rfc3339(NOW - 1), "kind": "reader.started", "values": {}, "tag": None}
    assert await platform.get(path) == (200, {"items": [first, second], "next": None})
    assert await platform.get(path, start=rfc3339(NOW), end=rfc3339(NOW + 1)) == (200, {"items": [first], "next": None})
    status, body = await platform.get(path, limit=1)
    assert (status, body["items"]) == (200, [first])
    assert await platform.get(path, limit=1, cursor=body["next"]) == (200, {"items": [second], "next": None})
    _, latest = await platform.get("/api/v1/devices/reader-07/latest")
    assert latest["metrics"] == {}, "where somebody was is no telemetry"


async def test_dead_letters_show_raw_bytes_unless_sealed(platform: Platform) -> None:
    clear = wire.DeadLetter(
        received=NOW,
        transport="coap",
        source="127.0.0.1:9",
        channel="/v1/gauge-001/report",
        device="gauge-001",
        profile="generic/water-gauge",
        reason="undecodable",
        detail="field t at offset 3",
        size=2,
        raw=b"\x01\xff",
        gateway="gw-1",
    )
    sealed = wire.DeadLetter(
        received=NOW + 1,
        transport="mqtt",
        source="127.0.0.1:8",
        channel="x",
        device="",
        profile="",
        reason="unknown_device",
        detail="",
        size=9,
        raw=b"sealed bytes",
        seal="gateway",
    )
    await platform.keep(clear, sealed)
    status, body = await platform.get("/api/v1/dead-letters")
    assert status == 200
    assert body["next"] is None
    asked_for = ("received", "transport", "source", "device", "reason", "detail", "size", "raw")
    assert [tuple(item[name] for name in asked_for) for item in body["items"]] == [
        (rfc3339(NOW + 1), "mqtt", "127.0.0.1:8", None, "unknown_device", "", 9, None),
        (rfc3339(NOW), "coap", "127.0.0.1:9", "gauge-001", "undecodable", "field t at offset 3", 2, "01ff"),
    ]
    assert len({item["id"] for item in body["items"]}) == 2
    _, filtered = await platform.get("/api/v1/dead-letters", reason="undecodable", device="gauge-001")
    assert [item["raw"] for item in filtered["items"]] == ["01ff"]
    _, counts = await platform.get("/api/v1/dead-letters/counts")
    assert counts["items"] == [
        {"reason": "undecodable", "kept": 1, "beyond": 0},
        {"reason": "unknown_device", "kept": 1, "beyond": 0},
    ]
    status, body = await platform.get("/api/v1/dead-letters", cursor="1")
    assert (status, body["code"]) == (422, "bad_cursor")


async def test_tombstones_have_the_body_of_the_interface(platform: Platform) -> None:
    lost = wire.Tombstone(device="gauge-001", cls="bulk", reason="disk_full", first=NOW - 1000, last=NOW, count=3)
    damaged = wire.Tombstone(device="", cls="safety", reason="damaged", first=NOW + 1, last=NOW + 1, count=1)
    await platform.keep(lost, damaged)
    path = "/api/v1/tombstones"
    newest = {
        "device": None,
        "class": "safety",
        "reason": "damaged",
        "first": rfc3339(NOW + 1),
        "last": rfc3339(NOW + 1),
        "count": 1,
    }
    older = {
        "device": "gauge-001",
        "class": "bulk",
        "reason": "disk_full",
        "first": rfc3339(NOW - 1000),
        "last": rfc3339(NOW),
        "count": 3,
    }
    assert await platform.get(path) == (200, {"items": [newest, older], "next": None})
    assert await platform.get(path, device="gauge-001") == (200, {"items": [older], "next": None})
    _, first = await platform.get(path, limit=1)
    assert await platform.get(path, limit=1, cursor=first["next"]) == (200, {"items": [older], "next": None})
    status, body = await platform.get(path, cursor="x")
    assert (status, body["code"]) == (422, "bad_cursor")


async def test_a_loss_of_no_known_class_does_not_hide_the_others(platform: Platform) -> None:
    odd = wire.Tombstone(device="gauge-001", cls="zz", reason="disk_full", first=NOW, last=1, count=-3)
    await platform.keep(odd, wire.Tombstone(device="", cls="bulk", reason="damaged", first=1, last=NOW, count=1))
    status, body = await platform.get("/api/v1/tombstones")
    assert status == 200
    assert [(item["class"], item["count"]) for item in body["items"]] == [("bulk", 1), (None, -3)]


@pytest.mark.parametrize(
    ("path", "item"),
    [
        ("devices/{device}/latest", None),
        ("devices/{device}/series", None),
        ("devices/{device}/events", "values"),
        ("dead-letters", "raw"),
        ("dead-letters/counts", "beyond"),
        ("tombstones", "class"),
    ],
)
async def test_the_document_shows_each_body_with_an_example(platform: Platform, path: str, item: str | None) -> None:
    _, document = await platform.get("/openapi.json")
    schemas = document["components"]["schemas"]
    answer = document["paths"][f"/api/v1/{path}"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    schema = schemas[answer["$ref"].rpartition("/")[2]]
    if item is not None:
        assert set(schema["properties"]) == {"items", "next"}
        schema = schemas[schema["properties"]["items"]["items"]["$ref"].rpartition("/")[2]]
        assert item in schema["properties"]
    (example,) = schema["examples"]
    assert set(example) == set(schema["properties"])
