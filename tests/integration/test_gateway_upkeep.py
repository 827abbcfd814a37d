"""What the gateway says of its spool while the spool cannot be asked, and how its records are counted beside all else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from citysense import wire
from citysense.clock import SetClock
from citysense.crash_points import CrashPoints
from citysense.durable_log import Entry
from citysense.errors import StorageClosed, StorageError
from citysense.progress import Progress, Pulse
from citysense_gateway.frame import Kind
from citysense_gateway.heartbeat import Heartbeat
from citysense_gateway.ledger import CountedSink, LaneBook, Ledger, Sink
from citysense_gateway.platform_client import PlatformClient
from citysense_gateway.record_count import RecordCount
from citysense_gateway.spool import Spool
from citysense_gateway.traffic import Traffic
from citysense_gateway.upkeep import Upkeep
from citysense_profiles.reading import ReadingClass

BULK = ReadingClass.BULK
NO_FRAMES = dict.fromkeys((Kind.STORED.value, Kind.DUPLICATE.value, Kind.UNAVAILABLE.value), 0.0)


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    made = Spool(tmp_path / "spool.db", clock=SetClock(0), crash=CrashPoints(), reserve_bytes=1 << 16)
    made.open()
    yield made
    made.close()


async def fill(spool: Spool, count: int) -> None:
    await spool.log.append_entries([Entry(cls=BULK, body=b"x", device="d", time=1)] * count, urgent=True)


def upkeep(spool: Spool) -> Upkeep:
    clock = SetClock(0)
    ledger = Ledger(sink=CountedSink(cast(Sink, None)), counters=lambda: NO_FRAMES, lanes=list)
    return Upkeep(
        spool=spool, ledger=ledger, traffic=Traffic(), progress=Progress(clock), clock=clock, random=lambda: 0.0
    )


@asynccontextmanager
async def running(loop: Coroutine[Any, Any, None]) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(loop)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.002)


async def test_the_heart_beats_on_while_the_spool_cannot_be_read(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("citysense_gateway.upkeep.EVERY_S", 0.0)
    beats: list[float] = []

    class Platform:
        async def heartbeat(self, sign: wire.Heartbeat) -> None:
            beats.append(sign.counters["bulk"])

    kept = upkeep(spool)
    heart = Heartbeat(
        "gateway-1",
        client=cast(PlatformClient, Platform()),
        clock=SetClock(0),
        random=lambda: 0.0,
        figures=lambda: {cls.value: float(count) for cls, count in kept.waiting().items()},
        every=0.0,
    )
    await fill(spool, 5)
    async with running(kept.run()) as tending, running(heart.run()) as beating:
        await until(lambda: beats[-1:] == [5.0])

        def fails(*_: object) -> int:
            raise StorageError("disk I/O error")

        monkeypatch.setattr(spool.log, "depth", fails)
        await until(lambda: "disk I/O error" in caplog.text)
        so_far = len(beats)
        await until(lambda: len(beats) > so_far + 3)
        assert beats[-1] == 5.0
        assert not tending.done()
        assert not beating.done()


async def test_depths_are_known_while_the_disk_takes_nothing(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("citysense_gateway.upkeep.EVERY_S", 0.0)
    kept = upkeep(spool)

    async def fails(_: object) -> None:
        raise StorageError("disk I/O error")

    monkeypatch.setattr(spool.log, "tidy", fails)
    async with running(kept.run()):
        await fill(spool, 3)
        await until(lambda: kept.waiting()[BULK] == 3)
        await fill(spool, 4)
        await until(lambda: kept.waiting()[BULK] == 7)


async def test_records_are_counted_while_the_event_loop_goes_on(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    go, began = threading.Event(), threading.Event()
    pulse = Pulse()
    count = RecordCount(log=spool.log, clock=SetClock(0), random=lambda: 0.0, pulse=pulse)
    await fill(spool, 5)

    def slow(*_: object) -> tuple[int, None]:
        began.set()
        assert go.wait(20)
        return 5, None

    monkeypatch.setattr("citysense.lane_count._slice", slow)
    async with running(count.run()):
        await until(began.is_set)
        assert count.books == ()
        assert not pulse.resting
        go.set()
        await until(lambda: count.books == [LaneBook(lane="bulk", expected=5, found=5)])
        assert pulse.resting


async def test_a_count_that_fails_is_tried_again_and_damage_ends_the_process(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    troubles: list[StorageError] = [StorageError("busy"), StorageError("busy")]
    real = spool.log.accounts

    async def accounts() -> object:
        if troubles:
            raise troubles.pop()
        return await real()

    monkeypatch.setattr(spool.log, "accounts", accounts)
    await fill(spool, 2)
    count = RecordCount(log=spool.log, clock=SetClock(0), random=lambda: 0.0, every=0.0)
    async with running(count.run()) as task:
        await until(lambda: count.books == [LaneBook(lane="bulk", expected=2, found=2)])
        troubles.append(StorageClosed("damaged"))
        await until(task.done)
        assert isinstance(task.exception(), StorageClosed)
