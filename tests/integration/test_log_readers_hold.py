"""What the platform's readers have in their hands is not given up as lost when the log is at its bound."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from citysense import wire
from citysense.clock import SetClock
from citysense.durable_log import DurableLog, Entry
from citysense_platform.alerts.book import AlertBook
from citysense_platform.city.database import City
from citysense_platform.rules.model import DEFAULT_PACK, load_pack
from citysense_platform.rules.runner import RulesRunner
from citysense_platform.store.follower import LogFollower, Taken
from citysense_profiles.reading import ReadingClass

STATE, BULK = ReadingClass.STATE, ReadingClass.BULK


def entries(cls: ReadingClass, count: int) -> list[Entry]:
    body = wire.encode(
        wire.Readings(
            device="d",
            profile="p",
            kind="k",
            message="x" * 200,
            received=1_000,
            identity="credential",
            samples=[wire.SampleBody(time=1_000, values={"water.level": 1.0})],
        )
    )
    return [Entry(cls=cls, body=body, device="d", time=1_000)] * count


class SlowSink:
    """Has a first batch in its hands until it is let go, and is never on the disk."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.came = asyncio.Event()
        self.go = asyncio.Event()

    async def cursors(self) -> Mapping[ReadingClass, int]:
        return dict.fromkeys(ReadingClass, 0)

    async def take(self, records: Sequence[Taken], cursors: Mapping[ReadingClass, int]) -> None:
        self.batches.append([taken.offset for taken in records])
        self.came.set()
        await self.go.wait()

    async def sync(self) -> Mapping[ReadingClass, int]:
        return dict.fromkeys(ReadingClass, 0)

    async def upkeep(self) -> None:
        return


async def test_a_followers_records_stay_until_its_sink_has_them_on_the_disk(tmp_path: Path) -> None:
    log = DurableLog(tmp_path / "log.db", clock=SetClock(9_000), reserve_bytes=4096, max_bytes=400_000)
    log.open()
    sink = SlowSink()
    follower = LogFollower("store", log, sink, clock=SetClock(9_000), jitter=random.Random(1))
    await log.append_entries(entries(BULK, 2_000), urgent=True)
    running = asyncio.create_task(follower.run())
    try:
        async with asyncio.timeout(10):
            await sink.came.wait()
            await log.tend()
            sink.came.clear()
            sink.go.set()
            await sink.came.wait()
        assert 0 < log.entombed < 1_500
        # Nothing is on the sink's disk: a power cut now, and all of it is read again.
        await log.append_entries(entries(BULK, 500), urgent=True)
        await log.tend()
        first = [record.offset for record in log.read(BULK, after=0, limit=len(sink.batches[0]))]
        assert first == sink.batches[0]
    finally:
        follower.stop()
        await running
        log.close()


async def test_what_the_rules_have_judged_and_not_written_stays(tmp_path: Path) -> None:
    clock = SetClock(9_000)
    log = DurableLog(tmp_path / "log.db", clock=clock, reserve_bytes=4096, max_bytes=200_000)
    log.open()
    city = City(f"sqlite:///{tmp_path / 'city.db'}")
    city.open()
    try:
        book = AlertBook(clock=clock, site_name=lambda _: "", responsible_unit="duty")
        runner = RulesRunner(log=log, city=city, pack=load_pack(DEFAULT_PACK), settle=book.settle, clock=clock)
        await runner.load()
        await log.append_entries(entries(STATE, 2_000), urgent=True)
        assert await runner.judge_batches()
        judged = runner.offset(STATE)
        assert judged > 100
        await log.tend()
        assert log.entombed > 0
        left = [record.offset for record in log.read(STATE, after=0, limit=judged)]
        assert left == list(range(1, judged + 1))
    finally:
        city.close()
        log.close()
