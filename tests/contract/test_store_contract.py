"""What every telemetry store does, asked of the embedded one and of a real InfluxDB 1.x."""

from __future__ import annotations

import asyncio
import socket
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from citysense.clock import SetClock
from citysense_platform.store.embedded import EmbeddedStore
from citysense_platform.store.influx import InfluxStore, RefusedPoint
from citysense_platform.store.influx_server import Target, parse_target
from citysense_platform.store.points import Point, Value
from citysense_platform.store.port import Latest, SeriesPoint, StoreUnavailable, TelemetryStore
from citysense_profiles.reading import Quality, ReadingClass

NOW = 1_795_190_934_423  # 2026-11-20
HOUR = 3_600_000
DAY = 24 * HOUR
LOG = "log-1"
ZERO = dict.fromkeys(ReadingClass, 0)


def point(moment: int, device: str = "gauge-001", suspect: Sequence[str] = (), **values: Value) -> Point:
    return Point(
        device=device,
        site="site-1",
        kind="waterlogging_gauge",
        time=moment,
        received=moment + 150,
        values={metric.replace("__", "."): value for metric, value in values.items()},
        suspect=frozenset(suspect),
    )


def cursors(offset: int) -> dict[ReadingClass, int]:
    return dict.fromkeys(ReadingClass, offset)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


Make = Callable[[], TelemetryStore]


@pytest.fixture(params=["embedded", pytest.param("influxd", marks=pytest.mark.peer("influxd"))])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Gives the same store again and again, as a process that restarts would."""
    if request.param == "embedded":
        return lambda: EmbeddedStore(tmp_path / "telemetry", clock=SetClock(NOW))
    server: Any = request.getfixturevalue("influxd")
    target = parse_target(f"{server.url}?db={tmp_path.name}")
    return lambda: InfluxStore(target, tmp_path / "telemetry", refused=unexpected, personal=personal)


def personal(metric: str) -> bool:
    return metric == "lock.event"


async def unexpected(refused: RefusedPoint) -> None:
    raise AssertionError(f"the server refused {refused.line!r}: {refused.words}")


@asynccontextmanager
async def opened(store: TelemetryStore, log_id: str = LOG) -> AsyncIterator[TelemetryStore]:
    await store.open(log_id=log_id)
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
async def store(make: Make) -> AsyncIterator[TelemetryStore]:
    async with opened(make()) as store:
        yield store


async def level(store: TelemetryStore, device: str = "gauge-001", limit: int = 1000) -> list[tuple[int, Value]]:
    found = await store.series(device, "water.level", 0, NOW + 400 * DAY, limit)
    return [(one.time, one.value) for one in found]


async def test_nothing_was_heard(store: TelemetryStore) -> None:
    assert list(await store.latest("gauge-001")) == []
    assert list(await store.series("gauge-001", "water.level", 0, NOW, 10)) == []
    assert await store.cursors() == ZERO


async def test_series_is_in_order_of_event_time_and_half_open(store: TelemetryStore) -> None:
    times = [NOW + 5000, NOW - 2 * DAY, NOW, NOW - HOUR, NOW + 1]
    await store.write([point(moment, water__level=float(i)) for i, moment in enumerate(times)], lane_cursors=cursors(5))
    assert [moment for moment, _ in await level(store)] == sorted(times)
    found = await store.series("gauge-001", "water.level", NOW - HOUR, NOW + 1, 10)
    assert [one.time for one in found] == [NOW - HOUR, NOW]
    assert await level(store, limit=2) == [(NOW - 2 * DAY, 1.0), (NOW - HOUR, 3.0)]


async def test_writing_again_changes_nothing(store: TelemetryStore) -> None:
    batch = [point(NOW + i, water__level=float(i), door__open=True) for i in range(50)]
    await store.write(batch, lane_cursors=cursors(1))
    first = await level(store), list(await store.latest("gauge-001"))
    await store.write(batch, lane_cursors=cursors(1))
    assert (await level(store), list(await store.latest("gauge-001"))) == first
    assert len(first[0]) == 50


async def test_another_value_for_the_same_moment_wins(store: TelemetryStore) -> None:
    await store.write([point(NOW, water__level=1.0)], lane_cursors=cursors(1))
    await store.write([point(NOW, water__level=2.0), point(NOW, water__level=3.0)], lane_cursors=cursors(3))
    assert await level(store) == [(NOW, 3.0)]
    assert [one.value for one in await store.latest("gauge-001")] == [3.0]


async def test_latest_is_by_event_time_for_each_metric(store: TelemetryStore) -> None:
    await store.write([point(NOW, water__level=12.5, battery__voltage=3.6)], lane_cursors=cursors(1))
    late = replace(point(NOW - 3 * DAY, water__level=99.0), received=NOW + 60_000)
    await store.write([late, point(NOW + 1000, water__level=13.0)], lane_cursors=cursors(3))
    await store.write([point(NOW - DAY, water__level=50.0, gauge__tilted=False)], lane_cursors=cursors(4))
    assert list(await store.latest("gauge-001")) == [
        Latest(metric="battery.voltage", value=3.6, time=NOW, received=NOW + 150, quality=Quality.GOOD),
        Latest(metric="gauge.tilted", value=False, time=NOW - DAY, received=NOW - DAY + 150, quality=Quality.GOOD),
        Latest(metric="water.level", value=13.0, time=NOW + 1000, received=NOW + 1150, quality=Quality.GOOD),
    ]


async def test_quality_belongs_to_the_metric(store: TelemetryStore) -> None:
    await store.write(
        [
            point(NOW, suspect=["water.level"], water__level=4000.0, battery__voltage=3.6),
            point(NOW + 1, water__level=40.0),
        ],
        lane_cursors=cursors(1),
    )
    assert list(await store.series("gauge-001", "water.level", NOW, NOW + 2, 10)) == [
        SeriesPoint(time=NOW, value=4000.0, quality=Quality.SUSPECT),
        SeriesPoint(time=NOW + 1, value=40.0, quality=Quality.GOOD),
    ]
    assert {one.metric: one.quality for one in await store.latest("gauge-001")} == {
        "battery.voltage": Quality.GOOD,
        "water.level": Quality.GOOD,
    }


NASTY = [
    "charging",
    'say "no"',
    "back\\slash\\",
    "comma, equals=sign",
    "two\nlines",
    "充电中 ⚡",
    "'; DROP MEASUREMENT x; --",
    "",
]


async def test_states_keep_their_type_and_text(store: TelemetryStore) -> None:
    await store.write(
        [point(NOW + i, pile__state=text, pile__fault=i % 2 == 0, pile__connector=i) for i, text in enumerate(NASTY)],
        lane_cursors=cursors(1),
    )
    states = await store.series("gauge-001", "pile.state", NOW, NOW + 100, 100)
    assert [one.value for one in states] == NASTY
    faults = await store.series("gauge-001", "pile.fault", NOW, NOW + 100, 100)
    assert [one.value for one in faults] == [i % 2 == 0 for i in range(len(NASTY))]
    assert all(isinstance(one.value, bool) for one in faults)
    connectors = await store.series("gauge-001", "pile.connector", NOW, NOW + 100, 100)
    assert [one.value for one in connectors] == list(range(len(NASTY)))
    assert not any(isinstance(one.value, bool) for one in connectors)


async def test_numbers_of_every_size(store: TelemetryStore) -> None:
    numbers = [0.0, -0.5, 1e-300, 1.7e308, 5, -40, 2**62, 0.1 + 0.2, 1e16, 123456789.123456789]
    await store.write([point(NOW + i, water__level=n) for i, n in enumerate(numbers)], lane_cursors=cursors(1))
    assert [value for _, value in await level(store)] == numbers


WEIRD = ["-", "_", "0", "A" * 64, "a--b", "select", "device", "a b,c=d", "o'neil", 'q"q', "back\\", "x\\,y", "50%", "é"]


async def test_ids_do_not_meet(store: TelemetryStore) -> None:
    await store.write(
        [point(NOW, device=name, water__level=float(i)) for i, name in enumerate(WEIRD)], lane_cursors=cursors(1)
    )
    for i, name in enumerate(WEIRD):
        assert await level(store, name) == [(NOW, float(i))], name
        assert [one.value for one in await store.latest(name)] == [float(i)], name
    assert await level(store, "a b") == []
    assert list(await store.latest("' OR 'a'='a")) == []


async def test_a_device_that_changes_its_kind_and_site_keeps_one_history(store: TelemetryStore) -> None:
    before = point(NOW, water__level=1.0)
    after = replace(point(NOW + 1, water__level=2.0), kind="radar_gauge", site="")
    await store.write([before, after], lane_cursors=cursors(1))
    assert await level(store) == [(NOW, 1.0), (NOW + 1, 2.0)]
    assert [(one.metric, one.value) for one in await store.latest("gauge-001")] == [("water.level", 2.0)]


async def test_a_restart_goes_on_from_the_cursor(make: Make) -> None:
    places = {ReadingClass.SAFETY: 7, ReadingClass.STATE: 3, ReadingClass.BULK: 11}
    async with opened(make()) as store:
        await store.write([point(NOW, water__level=1.0)], lane_cursors=places)
        assert await store.cursors() == places
        assert await store.sync() == places
    async with opened(make()) as store:
        assert await store.cursors() == places
        assert await level(store) == [(NOW, 1.0)]


async def test_without_points_the_cursor_moves_too(make: Make) -> None:
    async with opened(make()) as store:
        await store.write([], lane_cursors=cursors(9))
    async with opened(make()) as store:
        assert await store.cursors() == cursors(9)


async def test_another_log_is_read_from_its_start(make: Make) -> None:
    async with opened(make()) as store:
        await store.write([point(NOW, water__level=1.0)], lane_cursors=cursors(500))
    async with opened(make(), "log-2") as store:
        assert await store.cursors() == ZERO
        await store.write([point(NOW + 1, water__level=2.0)], lane_cursors=cursors(1))
    async with opened(make(), "log-2") as store:
        assert await store.cursors() == cursors(1)
        assert await level(store) == [(NOW, 1.0), (NOW + 1, 2.0)]


async def until_taken(attempt: Callable[[], Awaitable[None]]) -> int:
    """Repeat as the writer does while the server is away; how often it failed."""
    for failures in range(600):
        try:
            await attempt()
        except StoreUnavailable:
            await asyncio.sleep(0.05)
        else:
            return failures
    raise AssertionError("the server did not come back")


@pytest.mark.peer("influxd")
async def test_killing_influxd_while_it_is_written_to_loses_nothing(new_influxd: Any, tmp_path: Path) -> None:
    server = new_influxd(tmp_path)
    server.start()
    store = InfluxStore(
        parse_target(f"{server.url}?db=killed"), tmp_path / "telemetry", refused=unexpected, personal=personal
    )
    kills, failures = 3, 0
    async with opened(store):
        for number in range(60):
            batch = [point(NOW + number * 100 + i, water__level=float(i)) for i in range(100)]
            attempt = partial(store.write, batch, lane_cursors=cursors(number + 1))
            write = asyncio.create_task(until_taken(attempt))
            if number % 20 == 10:
                await asyncio.sleep(0)  # the request is on its way
                server.kill()
                await asyncio.to_thread(server.start)
            failures += await write
        assert await store.cursors() == cursors(60)
        assert await level(store, limit=10_000) == [(NOW + i, float(i % 100)) for i in range(6000)]
    server.kill()
    assert failures >= kills - 1, "the kills fell beside the writes"


@pytest.mark.peer("influxd")
async def test_a_point_that_influxd_refuses_stands_alone(influxd: Any, tmp_path: Path) -> None:
    refused: list[RefusedPoint] = []

    async def note(one: RefusedPoint) -> None:
        refused.append(one)

    target: Target = parse_target(f"{influxd.url}?db={tmp_path.name}")
    async with opened(InfluxStore(target, tmp_path / "telemetry", refused=note, personal=personal)) as store:
        await store.write([point(NOW, water__level=1.0)], lane_cursors=cursors(1))
        batch = [point(NOW + i, water__level=float(i)) for i in range(1, 64)]
        batch[20] = point(NOW + 20, water__level="a text where numbers were")
        # beyond InfluxDB's last year
        batch[41] = point(9_300_000_000_000, water__level=1.0, lock__event="opened")
        await store.write(batch, lane_cursors=cursors(2))
        assert await store.cursors() == cursors(2)
        good = [NOW, *(p.time for i, p in enumerate(batch) if i not in (20, 41))]
        assert [moment for moment, _ in await level(store)] == good
    assert [one.point.time for one in refused] == [NOW + 20, 9_300_000_000_000]
    assert "type" in refused[0].words
    assert "range" in refused[1].words
    assert [one.personal for one in refused] == [False, True]


@pytest.mark.peer("influxd")
async def test_a_dropped_database_is_made_again(influxd: Any, tmp_path: Path) -> None:
    target = parse_target(f"{influxd.url}?db={tmp_path.name}")
    store = InfluxStore(target, tmp_path / "telemetry", refused=unexpected, personal=personal)
    async with opened(store):
        request = urllib.request.Request(f"{influxd.url}/query?q=DROP+DATABASE+%22{tmp_path.name}%22", method="POST")
        with urllib.request.urlopen(request, timeout=10):
            pass
        failures = await until_taken(lambda: store.write([point(NOW, water__level=1.0)], lane_cursors=cursors(1)))
        assert failures == 1
        assert await level(store) == [(NOW, 1.0)]
