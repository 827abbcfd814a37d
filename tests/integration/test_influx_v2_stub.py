"""The 2.x and 3.x way of writing, against a stub: a small server of ours that answers as the documented API does.

No InfluxDB 2 or 3 is packaged for the machines that these tests run on. What the stub shows is what we send and how we
take each answer; it says nothing about a real server.
"""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from citysense.errors import SetupError
from citysense_platform.store.influx import InfluxStore, RefusedPoint
from citysense_platform.store.influx_server import parse_target
from citysense_platform.store.points import Point
from citysense_platform.store.port import StoreUnavailable
from citysense_profiles.reading import ReadingClass

NOW = 1_795_190_934_423
DONE = dict.fromkeys(ReadingClass, 5)
ZERO = dict.fromkeys(ReadingClass, 0)


class Stub:
    """Answers 204, or what `answers` says first; a line that holds POISON is refused with the whole batch."""

    def __init__(self) -> None:
        self.version = "v2.7.1"
        self.answers: list[web.Response] = []
        self.lines: list[str] = []
        self.requests: list[web.Request] = []
        self.most_lines = 10_000
        self.url = ""

    async def ping(self, _request: web.Request) -> web.Response:
        return web.Response(status=204, headers={"X-Influxdb-Version": self.version})

    async def write(self, request: web.Request) -> web.Response:
        raw = await request.read()
        self.requests.append(request)
        lines = gzip.decompress(raw).decode().splitlines()
        if self.answers:
            return self.answers.pop(0)
        if len(lines) > self.most_lines:
            return web.json_response({"code": "request too large", "message": "too large"}, status=413)
        if any("POISON" in line for line in lines):
            return web.json_response({"code": "invalid", "message": "unable to parse POISON"}, status=400)
        self.lines += lines
        return web.Response(status=204)


@pytest.fixture
async def stub() -> AsyncIterator[Stub]:
    stub = Stub()
    app = web.Application()
    app.router.add_get("/ping", stub.ping)
    app.router.add_post("/api/v2/write", stub.write)
    runner = web.AppRunner(app, auto_decompress=False)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    stub.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield stub
    await runner.cleanup()


def personal(_: str) -> bool:
    return False


@pytest.fixture
async def refused() -> list[RefusedPoint]:
    return []


@pytest.fixture
async def store(stub: Stub, tmp_path: Path, refused: list[RefusedPoint]) -> AsyncIterator[InfluxStore]:
    async def note(one: RefusedPoint) -> None:
        refused.append(one)

    target = parse_target(f"{stub.url}?org=city&bucket=long", "secret-token")
    store = InfluxStore(target, tmp_path, refused=note, personal=personal)
    await store.open(log_id="log-1")
    yield store
    await store.close()


def point(number: int, text: str = "charging") -> Point:
    return Point(
        device="pile-1",
        site="site 1",
        kind="charging_pile",
        time=NOW + number,
        received=NOW + 100,
        values={"pile.state": text, "electric.voltage": 230},
    )


async def test_lines_arrive_zipped_with_token_org_bucket_and_precision(stub: Stub, store: InfluxStore) -> None:
    await store.write([point(0), point(1)], lane_cursors=DONE)
    assert stub.lines == [
        f'charging_pile,device=pile-1,site=site\\ 1 pile.state="charging",electric.voltage=230.0,received={NOW + 100}i {NOW + i}'
        for i in range(2)
    ]
    request = stub.requests[0]
    assert dict(request.query) == {"org": "city", "bucket": "long", "precision": "ms"}
    assert request.headers["Authorization"] == "Token secret-token"
    assert request.headers["Content-Encoding"] == "gzip"
    assert await store.cursors() == DONE


async def test_the_refused_lines_are_found_and_all_others_written(
    stub: Stub, store: InfluxStore, refused: list[RefusedPoint]
) -> None:
    batch = [point(i, "POISON" if i in (17, 200) else "charging") for i in range(256)]
    await store.write(batch, lane_cursors=DONE)
    assert len(stub.lines) == 254
    assert [one.point.time for one in refused] == [NOW + 17, NOW + 200]
    assert all(one.words == "unable to parse POISON" and b"POISON" in one.line for one in refused)
    assert len(stub.requests) <= 2 * (2 * 8 + 1)
    assert await store.cursors() == DONE


async def test_a_batch_that_is_too_large_is_halved(stub: Stub, store: InfluxStore, refused: list[RefusedPoint]) -> None:
    stub.most_lines = 10
    await store.write([point(i) for i in range(64)], lane_cursors=DONE)
    assert len(stub.lines) == 64
    assert refused == []


async def test_a_pause_that_the_server_asks_for_is_handed_on(stub: Stub, store: InfluxStore) -> None:
    stub.answers = [
        web.Response(status=429, headers={"Retry-After": "7"}),
        web.Response(status=503),
        web.json_response({"code": "unauthorized", "message": "unauthorized access"}, status=401),
        web.json_response({"code": "not found", "message": 'bucket "long" not found'}, status=404),
    ]
    found = []
    for _ in range(4):
        with pytest.raises(StoreUnavailable) as caught:
            await store.write([point(0)], lane_cursors=DONE)
        found.append(caught.value.retry_after)
    assert found == [7.0, None, None, None]
    assert "bucket" in str(caught.value)
    assert stub.lines == []
    assert await store.cursors() == ZERO
    await store.write([point(0)], lane_cursors=DONE)
    assert len(stub.lines) == 1


async def test_a_server_of_the_first_generation_is_told_apart(stub: Stub, tmp_path: Path) -> None:
    stub.version = "1.8.10"
    store = InfluxStore(parse_target(f"{stub.url}?org=city&bucket=long"), tmp_path, refused=never, personal=personal)
    with pytest.raises(SetupError, match=r"db=citysense"):
        await store.open(log_id="log-1")


async def test_a_server_that_is_down_does_not_keep_the_platform_from_starting(tmp_path: Path) -> None:
    store = InfluxStore(
        parse_target("http://127.0.0.1:1?org=city&bucket=long"), tmp_path, refused=never, personal=personal
    )
    await store.open(log_id="log-1")
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        await store.write([point(0)], lane_cursors=DONE)
    with pytest.raises(StoreUnavailable):
        await store.latest("pile-1")
    await store.close()


async def never(one: RefusedPoint) -> None:
    raise AssertionError(one)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("influx:8086?db=x", "not understood"),
        ("http://h:99999?db=x", "out of range"),
        ("http://h:8086/path?db=x", "not understood"),
        ("http://h:port?db=x", "Port could not be cast"),
        ("http://h:8086", "where in the server"),
        ("http://h:8086?bucket=x", "where in the server"),
        ("http://h:8086?db=x&bucket=y&org=z", "where in the server"),
        ("http://user:word@h:8086?db=x", "CITYSENSE_INFLUX_TOKEN"),
    ],
)
def test_a_url_that_is_not_understood_is_explained(url: str, said: str) -> None:
    with pytest.raises(SetupError, match=said):
        parse_target(url)


def test_a_url_says_which_generation() -> None:
    first = parse_target("http://[::1]?db=citysense", "user:word")
    assert (first.base, first.database, first.bucket) == ("http://[::1]:8086", "citysense", "")
    second = parse_target("https://influx.city:443?bucket=b&org=o", "t")
    assert (second.base, second.database, second.bucket, second.org) == ("https://influx.city:443", "b", "b", "o")
