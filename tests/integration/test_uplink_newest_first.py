"""A long lane on two chains of requests, into the platform's own log: live readings go ahead, and each is stored once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest

from citysense import wire
from citysense.clock import SetClock
from citysense.crash_points import CrashPoints
from citysense.durable_log import Entry
from citysense.errors import StorageClosed
from citysense.keys import Sealer
from citysense_gateway.counters import FrameCounters
from citysense_gateway.devices import Devices
from citysense_gateway.hand_over import READER
from citysense_gateway.lane_progress import runs
from citysense_gateway.platform_client import PlatformClient, Unreachable
from citysense_gateway.spool import Spool
from citysense_gateway.uplink import Lane
from citysense_platform.ingest.log import IngestLog, platform_log
from citysense_platform.registry.roster import Assigned
from citysense_profiles.catalogue import load_catalogue
from citysense_profiles.reading import ReadingClass

BULK, STATE = ReadingClass.BULK, ReadingClass.STATE
LONG = 200
CATALOGUE = load_catalogue()


class Platform:
    """The platform's ingest without HTTP: takes each batch, unless `trouble` says otherwise."""

    def __init__(self, folder: Path) -> None:
        self.log = platform_log(folder / "log.db", clock=SetClock(0))
        self.refused: set[str] = set()
        self.ingest = IngestLog(self.log, self._assigned, lambda *_: False)
        self.trouble: Callable[[], str] = lambda: ""
        self.batches: list[wire.Batch] = []
        self.on_batch: Callable[[wire.Batch], None] = lambda _: None

    def _assigned(self, _gateway: str, device: str) -> Assigned | None:
        return None if device in self.refused else Assigned(site="1", kind="k")

    async def submit(self, cls: ReadingClass, batch: wire.Batch) -> wire.Answer:
        self.batches.append(batch)
        self.on_batch(batch)
        trouble = self.trouble()
        if trouble == "unreachable":
            raise Unreachable("nobody there")
        if trouble == "keep":
            return wire.Answer(accepted=[], keep=[offset for offset, _ in batch.items])
        answer = await self.ingest.submit("gateway-1", cls, batch)
        if trouble == "answer lost":
            raise Unreachable("the answer was lost")
        return answer

    def stored(self, cls: ReadingClass = BULK) -> list[int]:
        """Numbers of the readings in the order in which the platform has them."""
        bodies = [wire.decode_body(record.body) for record in self.log.read(cls, after=0, limit=1_000_000)]
        return [body.samples[0].time for body in bodies if isinstance(body, wire.Readings)]


class Bench:
    """A spool, the lane of bulk, and the platform behind it."""

    def __init__(self, folder: Path) -> None:
        self.platform = Platform(folder)
        self.spool = Spool(folder / "spool.db", clock=SetClock(0), crash=CrashPoints(), reserve_bytes=4096)
        self.count = 0

    async def fill(self, count: int, device: str = "g") -> list[int]:
        numbers = list(range(self.count, self.count + count))
        self.count += count
        entries = [Entry(cls=BULK, body=reading(number, device), device=device, time=1) for number in numbers]
        await self.spool.log.append_entries(entries, urgent=True)
        # Another lane's records stand between the batches: the offsets of a lane have gaps.
        await self.spool.log.append_entries([Entry(cls=STATE, body=b"", device="g", time=1)], urgent=True)
        return numbers

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Lane]:
        lane = Lane(
            BULK,
            spool=self.spool,
            client=cast(PlatformClient, self.platform),
            devices=Devices(CATALOGUE),
            seal=Sealer(bytes(32)).seal,
            counters=FrameCounters(),
            clock=SetClock(0),
            random=lambda: 0.0,
            crash=CrashPoints(),
            linger=0.0,
            long=LONG,
        )
        task = asyncio.create_task(lane.run())
        try:
            yield lane
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def drain(self) -> None:
        async with self.running() as lane, asyncio.timeout(30):
            await lane.idle.wait()


@pytest.fixture
async def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    # Small requests, so that a lane of some hundred records is a long one.
    monkeypatch.setattr("citysense_gateway.hand_over.MAX_RECORDS", 20)
    for module in ("uplink", "newest_first"):
        monkeypatch.setattr(f"citysense_gateway.{module}.MAX_RECORDS", 20)
    monkeypatch.setattr("citysense_gateway.outage.FIRST_WAIT_S", 0.001)
    made = Bench(tmp_path)
    made.spool.open()
    made.platform.log.open()
    yield made
    made.spool.close()
    made.platform.log.close()


def reading(number: int, device: str = "g") -> bytes:
    return wire.encode(
        wire.Readings(
            device=device,
            profile="generic/water-gauge",
            kind="k",
            message="report",
            received=1_000,
            identity="credential",
            samples=[wire.SampleBody(time=number, values={"water.level": 1.0})],
        )
    )


async def test_live_readings_do_not_wait_behind_the_backlog(bench: Bench) -> None:
    backlog = [number for _ in range(60) for number in await bench.fill(20)]
    live: list[int] = []

    async def report() -> None:
        while len(live) < 20:
            live.extend(await bench.fill(1))

    async with bench.running() as lane, asyncio.timeout(30):
        await report()
        await lane.idle.wait()
    stored = bench.platform.stored()
    assert sorted(stored) == backlog + live, "each reading once"
    last_of_backlog = stored.index(backlog[-41])
    assert stored.index(live[9]) < last_of_backlog, "half of what came meanwhile was there before the backlog's end"
    assert [number for number in stored if number in set(backlog[:-40])] == backlog[:-40], "the backlog keeps its order"
    assert [number for number in stored if number in set(live)] == live, "and so do live readings"
    assert bench.spool.log.depth(BULK, READER) == 0
    assert bench.spool.log.read(BULK, after=0, limit=10) == []


async def test_a_short_lane_goes_in_order_on_one_chain(bench: Bench) -> None:
    numbers = [number for _ in range(10) for number in await bench.fill(20)]
    await bench.drain()
    assert bench.platform.stored() == numbers
    assert all(batch.after == batch.settled for batch in bench.platform.batches)


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_goes_wrong_each_reading_is_stored_once(bench: Bench, seed: int) -> None:
    chance = random.Random(seed)
    troubles = ["", "", "", "", "unreachable", "answer lost", "keep"]
    bench.platform.trouble = lambda: chance.choice(troubles)
    for _ in range(25):
        await bench.fill(20)
    for _ in range(4):
        enough, begun = asyncio.Event(), len(bench.platform.batches)
        most = begun + chance.randint(3, 25)
        bench.platform.on_batch = lambda _, most=most, enough=enough: (  # type: ignore[misc]
            enough.set() if len(bench.platform.batches) >= most else None
        )
        async with bench.running() as lane, asyncio.timeout(30):
            for _ in range(chance.randint(0, 6)):
                await bench.fill(chance.randint(1, 40))
            reached = [asyncio.create_task(event.wait()) for event in (enough, lane.idle)]
            await asyncio.wait(reached, return_when=asyncio.FIRST_COMPLETED)
            for task in reached:
                task.cancel()
        # The process dies here, with requests of both chains under way, and another one begins.
    bench.platform.trouble = lambda: ""
    await bench.drain()
    assert sorted(bench.platform.stored()) == list(range(bench.count))
    assert bench.spool.log.depth(BULK, READER) == 0


async def test_what_is_refused_ahead_of_its_turn_becomes_one_dead_letter(bench: Bench) -> None:
    for _ in range(30):
        await bench.fill(20)
    await bench.fill(3, device="gone")
    bench.platform.refused = {"gone"}
    await bench.drain()
    assert len(bench.platform.stored()) == 600
    letters = [record.body for record in bench.spool.log.read(STATE, after=0, limit=1_000) if record.body]
    assert [type(wire.decode_body(body)) for body in letters] == [wire.DeadLetter] * 3


async def test_a_spool_that_has_stopped_ends_the_lane_from_either_chain(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(30):
        await bench.fill(20)

    async def stopped(*_: object, **__: object) -> None:
        raise StorageClosed("the writer has ended")

    monkeypatch.setattr(bench.spool.log, "finish", stopped)
    async with bench.running() as lane:
        task = next(task for task in asyncio.all_tasks() if task.get_coro().__qualname__ == "Lane.run")  # type: ignore[union-attr]
        with pytest.raises(StorageClosed):
            await asyncio.wait_for(task, 20)
        assert not lane.idle.is_set()


@pytest.mark.parametrize(
    ("sent", "done", "expected"),
    [
        ([], set(), []),
        ([3, 5, 9], {3, 5, 9}, [(3, 9)]),
        ([3, 5, 9], {3, 9}, [(3, 3), (9, 9)]),
        ([3, 5, 9], {5}, [(5, 5)]),
        ([3, 5, 9], set(), []),
    ],
)
def test_what_was_kept_lies_in_no_interval(sent: list[int], done: set[int], expected: list[tuple[int, int]]) -> None:
    assert runs(sent, done) == expected
