"""Batches into a real log.db: once each, in one transaction with the memory of it, also across a crash."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from citysense import wire
from citysense.clock import SetClock
from citysense.durable_log import DurableLog
from citysense.errors import StorageFull
from citysense_platform.ingest.accept import BatchMalformed
from citysense_platform.ingest.log import IngestLog, platform_log
from citysense_platform.ingest.ticker import Ticker
from citysense_platform.registry.roster import Assigned
from citysense_profiles.reading import ReadingClass

SAFETY, STATE, BULK = ReadingClass


@pytest.fixture
def log(tmp_path: Path) -> Iterator[DurableLog]:
    log = platform_log(tmp_path / "log.db", clock=SetClock(1_000))
    log.open()
    yield log
    log.close()


def assignment(gateway: str, device: str) -> Assigned | None:
    return Assigned(site="7", kind="waterlogging_gauge") if device.startswith(gateway) else None


def foreign(gateway: str, device: str) -> bool:
    return not device.startswith(gateway)


def body(level: float, device: str = "gw-1-gauge") -> bytes:
    return wire.encode(
        wire.Readings(
            device=device,
            profile="p",
            kind="",
            message="report",
            received=2_000,
            identity="credential",
            samples=[wire.SampleBody(time=1_000, values={"water.level": level})],
        )
    )


def batch(*offsets: int, spool: str = "s") -> wire.Batch:
    return wire.Batch(spool=spool, items=[(offset, body(float(offset))) for offset in offsets])


def levels(log: DurableLog, cls: ReadingClass) -> list[float]:
    found = []
    for record in log.read(cls, after=0, limit=1_000):
        readings = wire.decode_body(record.body)
        assert isinstance(readings, wire.Readings)
        assert (readings.site, readings.gateway) == ("7", "gw-1")
        value = readings.samples[0].values["water.level"]
        assert isinstance(value, float)
        found.append(value)
    return found


async def test_repeats_in_any_split_are_accepted_and_stored_once(log: DurableLog) -> None:
    ingest = IngestLog(log, assignment, foreign)
    assert await ingest.submit("gw-1", SAFETY, batch(1, 2, 5)) == wire.Answer(accepted=[(1, 5)])
    assert await ingest.submit("gw-1", SAFETY, batch(2)) == wire.Answer(accepted=[(2, 2)])
    assert await ingest.submit("gw-1", SAFETY, batch(5, 7, 9)) == wire.Answer(accepted=[(5, 9)])
    assert levels(log, SAFETY) == [1.0, 2.0, 5.0, 7.0, 9.0]
    assert ingest.counters == {"batches": 3, "records": 5, "duplicates": 2}
    assert log.select("SELECT low, high FROM submitted") == [(1, 9)]


async def test_lanes_spools_and_gateways_are_told_apart(log: DurableLog) -> None:
    ingest = IngestLog(log, assignment, foreign)
    await ingest.submit("gw-1", SAFETY, batch(1))
    await ingest.submit("gw-1", STATE, batch(1))
    await ingest.submit("gw-1", SAFETY, batch(1, spool="made anew"))
    other = wire.Batch(spool="s", items=[(1, body(1.0, device="gw-2-gauge"))])
    assert (await ingest.submit("gw-2", SAFETY, other)).accepted == [(1, 1)]
    assert ingest.counters["records"] == 4
    assert ingest.counters["duplicates"] == 0


async def test_one_bad_item_concerns_no_other(log: DurableLog) -> None:
    ingest = IngestLog(log, assignment, foreign)
    mixed = wire.Batch(spool="s", items=[(1, body(1.0)), (2, b"\xc1"), (3, body(3.0, "gw-2-gauge")), (4, body(4.0))])
    answer = await ingest.submit("gw-1", BULK, mixed)
    assert answer == wire.Answer(accepted=[(1, 1), (4, 4)], rejected=[(2, "undecodable"), (3, "not_assigned")])
    assert levels(log, BULK) == [1.0, 4.0]
    assert ingest.counters["refused.undecodable"] == ingest.counters["refused.not_assigned"] == 1


async def test_batches_at_the_same_moment_keep_the_order_of_their_lane(log: DurableLog) -> None:
    ingest = IngestLog(log, assignment, foreign)
    sent = [batch(n) for n in range(1, 21)] + [batch(n) for n in range(1, 21)]
    await asyncio.gather(*(ingest.submit("gw-1", SAFETY, one) for one in sent))
    assert levels(log, SAFETY) == [float(n) for n in range(1, 21)]


async def test_nothing_is_remembered_of_what_was_not_stored(log: DurableLog, monkeypatch: pytest.MonkeyPatch) -> None:
    ingest = IngestLog(log, assignment, foreign)

    def full(*_: object) -> set[ReadingClass]:
        raise StorageFull("no space left")

    with monkeypatch.context() as broken:
        broken.setattr(log, "_write", full)
        with pytest.raises(StorageFull):
            await ingest.submit("gw-1", SAFETY, batch(1, 2))
    assert log.select("SELECT * FROM submitted") == []
    assert (await ingest.submit("gw-1", SAFETY, batch(1, 2))).accepted == [(1, 2)]
    assert levels(log, SAFETY) == [1.0, 2.0]


async def test_malformed_batches_change_nothing(log: DurableLog) -> None:
    ingest = IngestLog(log, assignment, foreign)
    with pytest.raises(BatchMalformed):
        await ingest.submit("gw-1", SAFETY, batch(2, 1))
    assert levels(log, SAFETY) == []


async def test_memory_survives_a_restart(tmp_path: Path) -> None:
    for _ in range(2):
        log = platform_log(tmp_path / "log.db", clock=SetClock(1_000))
        log.open()
        answer = await IngestLog(log, assignment, foreign).submit("gw-1", STATE, batch(3, 4))
        assert answer.accepted == [(3, 4)]
        assert levels(log, STATE) == [3.0, 4.0]
        log.close()


async def test_ticks_go_to_both_lanes_of_the_rules(log: DurableLog) -> None:
    clock = SetClock(5_000)
    ticker = Ticker(log, clock)
    await ticker.tick()
    clock.advance(1_000)
    await ticker.tick()
    for lane in (SAFETY, STATE):
        ticks = [wire.decode_body(record.body) for record in log.read(lane, after=0, limit=10)]
        assert ticks == [wire.Tick(time=5_000), wire.Tick(time=6_000)]
    assert log.read(BULK, after=0, limit=10) == []


async def test_a_tick_is_never_counted_as_a_loss(log: DurableLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "_short", True)
    await Ticker(log, SetClock(5_000)).tick()
    assert len(log.read(SAFETY, after=0, limit=10)) == 1
    assert log.read(STATE, after=0, limit=10) == []
    assert log.entombed == 0


async def test_a_tick_is_no_loss_when_the_disk_becomes_full_in_that_moment(
    log: DurableLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "_short", "disk_full")
    monkeypatch.setattr(DurableLog, "short_of_space", False)  # what was seen a moment before
    await Ticker(log, SetClock(5_000)).tick()
    assert len(log.read(SAFETY, after=0, limit=10)) == 1
    assert log.entombed == 0


async def test_the_ticker_outlives_a_full_disk_and_ends_with_the_log(
    log: DurableLog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("citysense_platform.ingest.ticker.PERIOD_S", 0.001)
    ticker = Ticker(log, SetClock(5_000))
    answers = [StorageFull("no space"), StorageFull("no space"), None]
    original = ticker.tick
    done = asyncio.Event()

    async def tick() -> None:
        if answers and (error := answers.pop(0)) is not None:
            raise error
        await original()
        done.set()

    monkeypatch.setattr(ticker, "tick", tick)
    running = asyncio.create_task(ticker.run())
    await done.wait()
    await asyncio.sleep(0)
    log.close()
    await running
    assert [record.levelname for record in caplog.records if record.name.endswith("ticker")] == ["ERROR", "WARNING"]
    assert "2 were missed" in caplog.text
