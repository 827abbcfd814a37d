"""A log at its bound gives up its oldest, counted; a write-ahead log that cannot be folded back stays bounded."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from citysense import wire
from citysense.clock import SetClock
from citysense.durable_log import LOG_FULL, LOG_PINNED, DurableLog, Entry
from citysense.errors import StorageError
from citysense.eviction import choose
from citysense.lane_account import LaneAccount
from citysense.lane_count import settle
from citysense_profiles.reading import ReadingClass

SAFETY, STATE, BULK = ReadingClass.SAFETY, ReadingClass.STATE, ReadingClass.BULK


@contextmanager
def opened(folder: Path, max_bytes: int = 400_000, readers: tuple[str, ...] = ()) -> Iterator[DurableLog]:
    log = DurableLog(
        folder / "a.db",
        clock=SetClock(9_000),
        reserve_bytes=4096,
        max_bytes=max_bytes,
        readers=dict.fromkeys(ReadingClass, readers),
    )
    log.open()
    try:
        yield log
    finally:
        log.close()


def reading(number: int, device: str, size: int = 200) -> bytes:
    return wire.encode(
        wire.Readings(
            device=device,
            profile="p",
            kind="k",
            message="x" * size,
            received=number,
            identity="credential",
            samples=[wire.SampleBody(time=number, values={"water.level": 1.0})],
        )
    )


def entry(cls: ReadingClass, number: int, device: str = "") -> Entry:
    name = device or f"gauge-{number % 3}"
    return Entry(cls=cls, body=reading(number, name), device=name, time=number)


def numbers(log: DurableLog, cls: ReadingClass) -> list[int]:
    bodies = [wire.decode_body(record.body) for record in log.read(cls, after=0, limit=100_000)]
    return [body.received for body in bodies if isinstance(body, wire.Readings)]


def tombstones(log: DurableLog) -> list[wire.Tombstone]:
    bodies = [wire.decode_body(record.body) for record in log.read(STATE, after=0, limit=100_000)]
    return [body for body in bodies if isinstance(body, wire.Tombstone)]


def grave_rows(log: DurableLog) -> dict[tuple[str, str], tuple[int, int, int]]:
    names = {0: "safety", 1: "state", 2: "bulk"}
    rows = log.select("SELECT device, class, first, last, count FROM tombstone WHERE reason=?", (LOG_FULL,))
    return {(device, names[code]): (first, last, count) for device, code, first, last, count in rows}


async def test_the_oldest_of_the_least_class_go_and_are_counted_to_the_last(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        for first in range(0, 3_000, 100):
            await log.append_entries([entry(BULK, number) for number in range(first, first + 100)], urgent=True)
            await log.append_entries([entry(SAFETY, first), entry(STATE, first)], urgent=True)
            await log.tend()
        kept = numbers(log, BULK)
        assert kept == list(range(kept[0], 3_000)), "the newest stay, without a gap"
        assert len(kept) > 500
        assert numbers(log, SAFETY) == numbers(log, STATE) == list(range(0, 3_000, 100))
        rows = grave_rows(log)
        expected = {
            (f"gauge-{rest}", "bulk"): (rest, last, len(range(rest, kept[0], 3)))
            for rest in range(3)
            for last in [range(rest, kept[0], 3)[-1]]
        }
        assert rows == expected
        assert log.entombed == kept[0]
        account = (await log.accounts())[BULK]
        assert (account.evicted, account.present, account.missing) == (kept[0], len(kept), 0)
        assert log.short_of_space
        assert tombstones(log) == [], "told when the log is well below its bound again"


async def test_state_goes_when_no_bulk_is_left_and_a_tombstone_keeps_its_count(tmp_path: Path) -> None:
    with opened(tmp_path, max_bytes=300_000) as log:
        buried = wire.Tombstone(device="lock-1", cls="bulk", reason="disk_full", first=3, last=4, count=70)
        await log.append_entries(
            [Entry(cls=STATE, body=wire.encode(buried), device="lock-1", time=4)]
            + [entry(STATE, number) for number in range(1_000)],
            urgent=True,
        )
        await log.tend()
        left = numbers(log, STATE)
        assert left == list(range(left[0], 1_000))
        assert left[0] > 0
        assert log.select("SELECT class, first, last, count FROM tombstone WHERE reason='disk_full'") == [(2, 3, 4, 70)]
        assert sum(count for *_, count in grave_rows(log).values()) == left[0]
        await log.advance("uplink", STATE, 900, trim=True)
        await log.tend()
        await log.tend()
        assert not log.short_of_space
        told = Counter({(stone.device, stone.reason): stone.count for stone in tombstones(log)})
        assert told["lock-1", "disk_full"] == 70
        assert sum(count for (_, reason), count in told.items() if reason == LOG_FULL) == left[0]


async def test_what_a_reader_has_in_its_hands_is_not_counted_as_lost(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        await log.append_entries([entry(BULK, number) for number in range(2_000)], urgent=True)
        in_hand = log.read(BULK, after=0, limit=100)
        log.hold("uplink", BULK, first=in_hand[0].offset, last=in_hand[-1].offset)
        await log.tend()
        left = numbers(log, BULK)
        assert left[:100] == list(range(100))
        assert left[100] > 101
        # In their table, or told already where the log is well below its bound again.
        told = sum(stone.count for stone in tombstones(log)) + sum(count for *_, count in grave_rows(log).values())
        assert told == 2_000 - len(left)


async def test_nobody_reads_past_what_is_leaving_and_all_are_told_when_it_has_left(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        await log.append_entries([entry(BULK, number) for number in range(2_000)], urgent=True)
        in_hand = log.read(BULK, after=0, limit=100)
        log.hold("uplink", BULK, first=in_hand[0].offset, last=in_hand[-1].offset)
        wakeup = log.wakeup(BULK)
        tending = asyncio.create_task(log.tend())
        await asyncio.sleep(0)
        # The eviction is in the hands of the writer, and not committed yet as far as this thread knows.
        assert not tending.done()
        assert log.read(BULK, after=in_hand[-1].offset, limit=100) == []
        assert not wakeup.is_set()
        await tending
        assert wakeup.is_set()
        assert log.read(BULK, after=in_hand[-1].offset, limit=1)[0].offset > in_hand[-1].offset + 1


async def test_an_eviction_that_fails_costs_no_reading_that_a_reader_has_not_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()

    def fails(*_: object, **__: object) -> int:
        go.wait(20)
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr("citysense.eviction.evict", fails)
    with opened(tmp_path) as log:
        await log.append_entries([entry(BULK, number) for number in range(2_000)], urgent=True)
        seen: list[int] = []

        def read_on() -> None:
            records = log.read(BULK, after=seen[-1] if seen else 0, limit=500)
            seen.extend(record.offset for record in records)
            if records:
                log.hold("uplink", BULK, first=records[0].offset, last=records[-1].offset)

        read_on()
        wakeup = log.wakeup(BULK)
        tending = asyncio.create_task(log.tend())
        await asyncio.sleep(0)
        for _ in range(3):
            read_on()
        go.set()
        with pytest.raises(StorageError):
            await tending
        assert wakeup.is_set(), "they are to be read after all"
        await log.advance("uplink", BULK, seen[-1], trim=True)
        assert [*seen, *(record.offset for record in log.read(BULK, after=0, limit=10_000))] == list(range(1, 2_001))


async def test_what_all_readers_have_finished_goes_first_and_is_no_loss(tmp_path: Path) -> None:
    with opened(tmp_path, readers=("fast", "slow")) as log:
        await log.append_entries([entry(SAFETY, number) for number in range(500)], urgent=True)
        await log.append_entries([entry(BULK, number) for number in range(1_000)], urgent=True)
        for cls in (SAFETY, BULK):
            await log.advance("fast", cls, 1_500)
        await log.advance("slow", SAFETY, 400)
        await log.advance("slow", BULK, 500 + 600)
        await log.tend()
        assert (log.entombed, log.short_of_space) == (0, False)
        account = (await log.accounts())[BULK]
        assert account.evicted == account.missing == 0
        assert numbers(log, SAFETY)[-100:] == list(range(400, 500))
        assert numbers(log, BULK)[-400:] == list(range(600, 1_000))
        await log.append_entries([entry(BULK, 1_000 + number) for number in range(2_000)], urgent=True)
        await log.tend()
        assert numbers(log, SAFETY) == list(range(400, 500)), "what is finished goes before anything that is not"
        assert log.entombed == numbers(log, BULK)[0] - 600 > 0


async def test_a_tick_that_is_given_up_is_nobodys_loss(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        ticks = [Entry(cls=STATE, body=wire.encode(wire.Tick(time=number)), device="", time=1) for number in range(5)]
        await log.append_entries(ticks + [entry(STATE, number) for number in range(2_000)], urgent=True)
        await log.tend()
        told = Counter({device: count for (device, _), (_, _, count) in grave_rows(log).items()})
        told.update({stone.device: stone.count for stone in tombstones(log)})
        assert set(told) == {"gauge-0", "gauge-1", "gauge-2"}
        assert told.total() == log.entombed > 0
        assert (await log.accounts())[STATE].missing == 0


async def test_a_long_lane_is_counted_in_slices_while_records_leave_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("citysense.lane_count.SLICE", 100)
    with opened(tmp_path, max_bytes=1 << 30) as log:
        for first in range(0, 1_000, 100):
            await log.append_entries([entry(BULK, first + number) for number in range(100)], urgent=True)
            await log.append_entries([entry(SAFETY, first)], urgent=True)
        assert {cls: account.present for cls, account in (await log.accounts()).items()} == {BULK: 1_000, SAFETY: 10}
        counting = asyncio.create_task(log.accounts())
        for offset in range(50, 1_001, 50):
            await log.advance("uplink", BULK, offset, trim=True)
            await log.append_entries([entry(BULK, offset)], urgent=True)
        assert {account.missing for account in (await counting).values()} == {0}
        await log.tidy(lose_one)
        assert (await log.accounts())[BULK].missing == 1


def lose_one(connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM record WHERE class=2 AND offset=(SELECT max(offset) FROM record WHERE class=2)")


def account(finished: int, present: int, evicted: int = 0) -> LaneAccount:
    return LaneAccount(appended=100, finished=finished, evicted=evicted, set_aside=0, present=present)


def test_what_left_while_counting_explains_that_much_and_no_more() -> None:
    begun = account(finished=10, present=70)
    assert begun.missing == 20
    assert settle(begun, account(finished=25, present=0, evicted=3), exact=False).missing == 2
    assert settle(begun, account(finished=80, present=0), exact=False).missing == 0
    assert settle(begun, account(finished=80, present=0), exact=True).missing == 20
    too_many = account(finished=10, present=95)
    assert settle(too_many, account(finished=80, present=0), exact=False).missing == -5


async def test_the_depth_of_a_long_lane_costs_no_more_than_that_of_a_short_one(tmp_path: Path) -> None:
    steps = {}
    for length in (300, 30_000):
        (tmp_path / str(length)).mkdir()
        with opened(tmp_path / str(length), max_bytes=1 << 30) as log:
            await log.append_entries([entry(BULK, number, "d") for number in range(length)], urgent=True)
            await log.advance("uplink", BULK, 100, trim=True)
            assert log.depth(BULK, "uplink") == length - 100
            seen = [0]

            def count(seen: list[int] = seen) -> int:
                seen[0] += 1
                return 0

            # Each 10 instructions of SQLite's machine.
            assert log._reader is not None
            log._reader.set_progress_handler(count, 10)
            log.depth(BULK, "uplink")
            log._reader.set_progress_handler(None, 0)
            steps[length] = seen[0]
    assert steps[30_000] <= steps[300] + 2


async def test_depth_stays_what_counting_says(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        assert log.depth(BULK, "slow") == log.depth(BULK, "fast") == 0
        await log.append_entries([entry(BULK, number) for number in range(2_000)], urgent=True)
        await log.advance("fast", BULK, 150)
        await log.tend()
        left = [record.offset for record in log.read(BULK, after=0, limit=10_000)]
        assert log.depth(BULK, "slow") == len(left)
        assert log.depth(BULK, "fast") == sum(offset > 150 for offset in left)
        await log.finish(BULK, [(left[-20], left[-11]), (left[-5], left[-1])])
        assert log.depth(BULK, "slow") == len(left) - 15


@given(
    offsets=st.lists(st.integers(1, 60), unique=True, max_size=20),
    held=st.lists(st.tuples(st.integers(1, 60), st.integers(0, 9)), max_size=3),
    enough=st.integers(1, 12),
)
def test_a_run_is_the_oldest_and_touches_nothing_that_is_held(
    offsets: list[int], held: list[tuple[int, int]], enough: int
) -> None:
    offsets = sorted(offsets)
    intervals = [(low, low + more) for low, more in held]
    run = choose([(offset, 1) for offset in offsets], intervals, enough=enough)
    free = [offset for offset in offsets if not any(low <= offset <= high for low, high in intervals)]
    if run is None:
        assert not free
        return
    assert run[0] == free[0]
    assert not any(low <= run[1] and run[0] <= high for low, high in intervals)
    assert sum(run[0] <= offset <= run[1] for offset in offsets) <= enough


async def test_a_pinned_write_ahead_log_stays_bounded_and_heals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bound = 6 << 20
    monkeypatch.setattr("citysense.durable_log.MOST_WAL_BYTES", bound)
    with opened(tmp_path, max_bytes=1 << 30) as log:
        with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as pin:
            pin.execute("BEGIN")
            pin.execute("SELECT count(*) FROM record").fetchone()
            for round_ in range(40):
                await log.append_entries(
                    [entry(BULK, round_ * 1_000 + number) for number in range(1_000)] + [entry(SAFETY, round_)],
                    urgent=True,
                )
                await log.tend()
            assert log.short_of_space
            assert bound < log.wal_bytes < 1.5 * bound
            assert len(numbers(log, SAFETY)) == 40, "safety is written all the same"
            pin.execute("COMMIT")
        stored = len(numbers(log, BULK))
        assert 0 < stored < 40_000
        assert sum(count for (count,) in log.select("SELECT count FROM tombstone")) == 40_000 - stored
        # SQLite shortens the file to its limit when it begins anew, as the first write after the reader's end does.
        monkeypatch.setattr("citysense.durable_log.MOST_WAL_BYTES", 64 << 20)
        await log.tend()
        assert not log.short_of_space
        assert {stone.reason for stone in tombstones(log)} == {LOG_PINNED}
    assert "end that reader" in caplog.text
