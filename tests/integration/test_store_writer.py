"""The writer between the log and a store: everything arrives once, whatever happens to the store."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from citysense import wire
from citysense.clock import SetClock, SystemClock
from citysense.durable_log import DurableLog, Entry
from citysense.errors import StorageFull, UpstreamError
from citysense_platform.store.embedded import EmbeddedStore
from citysense_platform.store.points import Point
from citysense_platform.store.port import Latest, SeriesPoint, StoreUnavailable, TelemetryStore
from citysense_platform.store.writer import READER, StoreWriter
from citysense_profiles.reading import ReadingClass

NOW = 1_795_190_934_423


def entry(number: int, cls: ReadingClass = ReadingClass.BULK) -> Entry:
    body = wire.Readings(
        device=f"gauge-{number % 7}",
        profile="generic/water-gauge",
        kind="waterlogging_gauge",
        message="report",
        received=NOW + number,
        identity="credential",
        samples=[wire.SampleBody(time=NOW + number, values={"water.level": float(number)})],
        site="s",
    )
    return Entry(cls=cls, body=wire.encode(body), device=body.device, time=NOW)


@pytest.fixture
async def log_file(tmp_path: Path) -> AsyncIterator[DurableLog]:
    log_file = DurableLog(tmp_path / "log.db", clock=SetClock(NOW), reserve_bytes=4096)
    log_file.open()
    yield log_file
    log_file.close()


class Memory:
    """A store in memory that fails when it is told to."""

    def __init__(self, failures: Sequence[UpstreamError | StorageFull] = ()) -> None:
        self.failures = list(failures)
        self.points: list[Point] = []
        self.at: dict[ReadingClass, int] = dict.fromkeys(ReadingClass, 0)

    async def open(self, *, log_id: str) -> None: ...
    async def close(self) -> None: ...
    async def upkeep(self) -> None: ...

    async def write(self, points: Sequence[Point], *, lane_cursors: Mapping[ReadingClass, int]) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.points += points
        self.at = dict(lane_cursors)

    async def cursors(self) -> Mapping[ReadingClass, int]:
        return self.at

    async def sync(self) -> Mapping[ReadingClass, int]:
        return self.at

    async def latest(self, device: str) -> Sequence[Latest]:
        return []

    async def series(self, device: str, metric: str, start_ms: int, end_ms: int, limit: int) -> Sequence[SeriesPoint]:
        return []


@asynccontextmanager
async def running(log_file: DurableLog, store: TelemetryStore) -> AsyncIterator[StoreWriter]:
    writer = StoreWriter(
        log_file, store, clock=SystemClock(), jitter=random.Random(1), first_pause_s=0.01, sync_every_s=0.05
    )
    task = asyncio.create_task(writer.run())
    try:
        yield writer
    finally:
        writer.stop()
        await task


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not done():
            await asyncio.sleep(0.005)


async def test_all_lanes_arrive_once_and_in_order(log_file: DurableLog, tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path / "telemetry", clock=SetClock(NOW))
    await store.open(log_id=log_file.spool_id)
    lanes = list(ReadingClass)
    await log_file.append_entries([entry(i, lanes[i % 3]) for i in range(1700)], urgent=True)
    async with running(log_file, store) as writer:
        await until(lambda: writer.progress.records == 1700)
        await log_file.append_entries([entry(1700, ReadingClass.SAFETY)], urgent=True)
        await until(lambda: writer.progress.records == 1701)
        assert writer.progress.behind_ms == 0
        assert writer.values == 1701
    found = [await store.series(f"gauge-{n}", "water.level", 0, NOW * 2, 5000) for n in range(7)]
    assert sorted(one.value for series in found for one in series) == [float(i) for i in range(1701)]
    assert {cls: log_file.cursor(READER, cls) for cls in ReadingClass} == await store.cursors()
    assert [log_file.depth(cls, READER) for cls in ReadingClass] == [0, 0, 0]
    await store.close()


async def test_a_store_that_is_down_is_waited_for(log_file: DurableLog, caplog: pytest.LogCaptureFixture) -> None:
    store = Memory([StoreUnavailable("down"), StoreUnavailable("down", retry_after=0), StorageFull("full")])
    await log_file.append_entries([entry(i) for i in range(10)], urgent=True)
    async with running(log_file, store) as writer:
        await until(lambda: len(store.points) == 10)
        await until(lambda: writer.progress.outage_since is None)
        assert writer.progress.failures == 3
    said = [record.levelname for record in caplog.records if record.name.startswith("citysense_platform")]
    assert said == ["ERROR", "WARNING"], "an outage is said once when it begins and once when it ends"


async def test_a_longer_pause_is_kept_and_stop_does_not_wait_for_it(log_file: DurableLog) -> None:
    store = Memory([StoreUnavailable("down", retry_after=3600)])
    await log_file.append_entries([entry(1)], urgent=True)
    async with running(log_file, store) as writer:
        await until(lambda: writer.progress.failures == 1)
        behind = writer.progress.behind_ms
        await asyncio.sleep(0.05)
        assert store.points == []
        assert writer.progress.behind_ms >= behind + 40, "who waits falls behind"
    assert store.at[ReadingClass.BULK] == 0
    assert log_file.cursor(READER, ReadingClass.BULK) == 0
    async with running(log_file, store):
        await until(lambda: len(store.points) == 1)


async def test_a_fault_of_ours_is_not_hidden(log_file: DurableLog) -> None:
    class Wrong(Memory):
        async def write(self, points: Sequence[Point], *, lane_cursors: Mapping[ReadingClass, int]) -> None:
            raise ZeroDivisionError

    await log_file.append_entries([entry(1)], urgent=True)
    writer = StoreWriter(log_file, Wrong(), clock=SystemClock(), jitter=random.Random(1))
    with pytest.raises(ZeroDivisionError):
        await writer.run()


async def test_a_record_that_cannot_be_read_stops_nothing(log_file: DurableLog) -> None:
    store = Memory()
    broken = Entry(cls=ReadingClass.BULK, body=b"\xc1", device="gauge-1", time=NOW)
    tick = Entry(cls=ReadingClass.SAFETY, body=wire.encode(wire.Tick(time=NOW)), device="", time=NOW)
    await log_file.append_entries([entry(0), broken, tick, entry(2)], urgent=True)
    async with running(log_file, store) as writer:
        await until(lambda: len(store.points) == 2)
        assert writer.progress.unreadable == 1
        assert store.at == {ReadingClass.SAFETY: 3, ReadingClass.STATE: 0, ReadingClass.BULK: 4}


async def test_a_second_writer_goes_on_where_the_first_stopped(log_file: DurableLog) -> None:
    store = Memory()
    await log_file.append_entries([entry(i) for i in range(5)], urgent=True)
    async with running(log_file, store):
        await until(lambda: len(store.points) == 5)
    await log_file.append_entries([entry(i) for i in range(5, 9)], urgent=True)
    async with running(log_file, store):
        await until(lambda: len(store.points) == 9)
    assert [point.values["water.level"] for point in store.points] == [float(i) for i in range(9)]
