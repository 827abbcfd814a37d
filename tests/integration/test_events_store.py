"""The event store on a real disk, filled from a real log."""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from citysense import wire
from citysense.clock import SetClock, SystemClock
from citysense.durable_log import DurableLog, Entry
from citysense_platform.events import dead_letters
from citysense_platform.events.dead_letters import LetterFilter, ReasonCount, keep_letter
from citysense_platform.events.event_store import READER, EventStore
from citysense_platform.store.day_file import DAY_MS, DayFile
from citysense_platform.store.follower import LogFollower, Taken
from citysense_profiles.reading import ReadingClass

NOW = 1_795_190_934_423
FOREVER = 2 * NOW


def cursors(offset: int) -> dict[ReadingClass, int]:
    return dict.fromkeys(ReadingClass, offset)


def seen(moment: int, tag: str = "ab12", device: str = "reader-07", **values: float) -> wire.Readings:
    return wire.Readings(
        device=device,
        profile="impinj/r700",
        kind="tag_reader",
        message="events",
        received=NOW,
        identity="credential",
        samples=[
            wire.SampleBody(
                time=moment, values={f"tag.{name}": v for name, v in values.items()}, event="tag.seen", tag=tag
            )
        ],
    )


def letter(
    moment: int, reason: str = "undecodable", device: str = "gauge-001", raw: bytes = b"\x01\x02"
) -> wire.DeadLetter:
    return wire.DeadLetter(
        received=moment,
        transport="mqtt",
        source="127.0.0.1:5000",
        channel="cs/v1/gauge-001/up/report",
        device=device,
        profile="generic/water-gauge",
        reason=reason,
        detail="field t at offset 3 is no number",
        size=len(raw),
        raw=raw,
    )


def taken(*bodies: wire.Body, first: int = 1, cls: ReadingClass = ReadingClass.STATE) -> list[Taken]:
    return [Taken(cls=cls, offset=first + i, body=body) for i, body in enumerate(bodies)]


@asynccontextmanager
async def opened(folder: Path, log_id: str = "log-1") -> AsyncIterator[EventStore]:
    store = EventStore(folder, clock=SetClock(NOW))
    await store.open(log_id=log_id)
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[EventStore]:
    async with opened(tmp_path) as store:
        yield store


async def pages(store: EventStore, limit: int) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    cursor: str | None = None
    while True:
        page, cursor = await store.events("reader-07", 0, FOREVER, limit, cursor)
        assert len(page) <= limit
        found += [(event.time, event.tag) for event in page]
        if cursor is None:
            return found


async def test_events_come_newest_first_in_pages_that_miss_nothing(store: EventStore) -> None:
    moments = [NOW - (i * 7919 % 50) * 3_600_000 for i in range(50)]
    records = taken(*(seen(moment, tag=f"t{i}", rssi=-50.0) for i, moment in enumerate(moments)))
    records += taken(*(seen(NOW, tag=f"same{i}", rssi=-50.0) for i in range(5)), first=51)
    records += taken(seen(5, tag="odd", rssi=-1.0), seen(NOW, device="reader-08", rssi=-1.0), first=56)
    await store.take(records, cursors=cursors(57))
    everything = await pages(store, 1000)
    assert len(everything) == 56
    assert [moment for moment, _ in everything] == sorted((moment for moment, _ in everything), reverse=True)
    for limit in (1, 3, 7, 56):
        assert await pages(store, limit) == everything
    within, _ = await store.events("reader-07", NOW - 2 * 3_600_000, NOW, 100)
    assert {event.time for event in within} == {NOW - 3_600_000, NOW - 2 * 3_600_000}


async def test_the_parts_of_a_sighting_are_one_event(store: EventStore) -> None:
    antenna = taken(seen(NOW, antenna=1), first=1, cls=ReadingClass.STATE)
    rssi = taken(seen(NOW, rssi=-52.3), first=2, cls=ReadingClass.BULK)
    await store.take(antenna, cursors={**cursors(0), ReadingClass.STATE: 1})
    await store.take(rssi, cursors={**cursors(0), ReadingClass.STATE: 1, ReadingClass.BULK: 2})
    (event,), _ = await store.events("reader-07", 0, FOREVER, 10)
    assert event.values == {"tag.antenna": 1, "tag.rssi": -52.3}
    assert event.tag == "ab12"


async def test_the_same_event_sent_twice_is_one(store: EventStore) -> None:
    await store.take(taken(seen(NOW, rssi=-5.0), seen(NOW, rssi=-5.0), seen(NOW, rssi=-6.0)), cursors=cursors(3))
    found, _ = await store.events("reader-07", 0, FOREVER, 10)
    assert [event.values for event in found] == [{"tag.rssi": -6.0}, {"tag.rssi": -5.0}]


async def everything(store: EventStore) -> tuple[object, ...]:
    return (
        await pages(store, 1000),
        (await store.dead_letters(1000))[0],
        await store.dead_letter_counts(),
        (await store.tombstones(1000))[0],
    )


async def test_reading_the_log_again_gives_the_same_rows_and_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "OF_DEVICE", 5)
    stone = wire.Tombstone(device="gauge-001", cls="bulk", reason="disk_full", first=NOW - 9, last=NOW, count=3)
    bodies: Sequence[wire.Body] = [
        body
        for i in range(30)
        for body in (seen(NOW + i, rssi=-5.0), letter(NOW + i // 10), stone, wire.Tick(time=NOW))
    ]
    records = taken(*bodies)
    async with opened(tmp_path / "once") as store:
        await store.take(records, cursors=cursors(len(records)))
        once = await everything(store)
    async with opened(tmp_path / "again") as store:
        await store.take(records[:70], cursors=cursors(70))
        shutil.copytree(tmp_path / "again", tmp_path / "left")
    # The index's cursor is lost, as after a power cut: the whole log is read again into files that have it already.
    for path in (tmp_path / "left").glob("events-index.db*"):
        path.unlink()
    async with opened(tmp_path / "left") as store:
        assert await store.cursors() == cursors(0)
        await store.take(records[:50], cursors=cursors(50))
        await store.take(records[50:], cursors=cursors(len(records)))
        assert await everything(store) == once
        assert len((await store.tombstones(1000))[0]) == 30
        assert await store.dead_letter_counts() == [ReasonCount(reason="undecodable", kept=5, beyond=25)]


async def test_dead_letters_are_listed_newest_first_and_filtered(store: EventStore) -> None:
    letters = [
        letter(NOW - i * DAY_MS // 2, reason=("undecodable", "unknown_device")[i % 2], device=f"gauge-{i % 3}")
        for i in range(12)
    ]
    await store.take(taken(*letters), cursors=cursors(12))
    found, following = await store.dead_letters(5)
    assert [one.letter for one in found] == letters[:5]
    rest, last = await store.dead_letters(100, following)
    assert [one.letter for one in rest] == letters[5:]
    assert last is None
    assert len({one.id for one in [*found, *rest]}) == 12
    filtered, _ = await store.dead_letters(100, wanted=LetterFilter(reason="unknown_device", device="gauge-0"))
    assert [one.letter for one in filtered] == [letters[3], letters[9]]


async def test_one_device_does_not_crowd_out_the_others(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "OF_DEVICE", 10)
    noise = [letter(NOW + i, device="noisy") for i in range(25)]
    await store.take(taken(*noise, letter(NOW, reason="no_match", device="quiet")), cursors=cursors(26))
    assert await store.dead_letter_counts() == [
        ReasonCount(reason="undecodable", kept=10, beyond=15),
        ReasonCount(reason="no_match", kept=1, beyond=0),
    ]
    assert len((await store.dead_letters(100, wanted=LetterFilter(device="noisy")))[0]) == 10


async def test_a_day_is_bounded_whoever_sends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "OF_DAY", 8)
    monkeypatch.setattr(dead_letters, "BYTES_OF_DAY", 100)
    async with opened(tmp_path) as store:
        await store.take(taken(*(letter(NOW, device=f"d{i}", raw=b"x" * 30) for i in range(4))), cursors=cursors(4))
    async with opened(tmp_path) as store:  # the bounds hold across a restart
        await store.take(taken(*(letter(NOW, device=f"e{i}", raw=b"") for i in range(9)), first=5), cursors=cursors(13))
        await store.take(taken(letter(NOW - DAY_MS, raw=b"x" * 30), first=14), cursors=cursors(14))
        assert await store.dead_letter_counts() == [ReasonCount(reason="undecodable", kept=9, beyond=5)]


async def test_a_letter_from_elsewhere_is_kept_once_and_moves_no_cursor(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.take([], cursors=cursors(4))
        for _ in range(2):
            await store.keep(letter(NOW, reason="refused_by_store"))
        assert await store.cursors() == cursors(4)
    async with opened(tmp_path) as store:
        assert await store.cursors() == cursors(4)
        assert len((await store.dead_letters(10))[0]) == 1


async def test_a_letter_from_elsewhere_is_on_the_disk_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody sends it again, and who asked for it moves a cursor of its own as soon as this returns."""
    modes: list[object] = []

    def spied(one: wire.DeadLetter, key: bytes, file: DayFile) -> None:
        modes.append(file.connection.execute("PRAGMA synchronous").fetchone()[0])
        keep_letter(one, key, file)

    monkeypatch.setattr("citysense_platform.events.event_store.keep_letter", spied)
    async with opened(tmp_path) as store:
        await store.keep(letter(NOW))
        await store.take(taken(letter(NOW)), cursors=cursors(1))
    assert modes == [2, 1], "FULL for the one, NORMAL for what the log holds"


async def test_tombstones_come_newest_first_in_pages_that_miss_nothing(store: EventStore) -> None:
    stones = [
        wire.Tombstone(device=f"d{i % 2}", cls="bulk", reason="disk_full", first=0, last=moment, count=i)
        for i, moment in enumerate([NOW, NOW, NOW - DAY_MS, NOW + 5, NOW, -1, NOW - DAY_MS])
    ]
    await store.take(taken(*stones), cursors=cursors(len(stones)))
    for limit in (1, 2, 3, 100):
        found: list[wire.Tombstone] = []
        cursor: str | None = None
        while True:
            page, cursor = await store.tombstones(limit, cursor)
            assert len(page) <= limit
            found += page
            if cursor is None:
                break
        assert [stone.last for stone in found] == [NOW + 5, NOW, NOW, NOW, NOW - DAY_MS, NOW - DAY_MS, -1]
        assert sorted(stone.count for stone in found) == list(range(7))
    of_one, _ = await store.tombstones(100, device="d1")
    assert {stone.device for stone in of_one} == {"d1"}
    assert len(of_one) == 3


async def test_numbers_beyond_a_file_are_no_poison(store: EventStore) -> None:
    huge = 2**64 - 1
    stone = wire.Tombstone(device="d", cls="bulk", reason="r", first=-huge, last=huge, count=huge)
    await store.take(taken(letter(huge), stone, seen(huge, rssi=-1.0)), cursors=cursors(3))
    assert len((await store.dead_letters(10))[0]) == 1
    assert (await store.tombstones(1))[0][0].count == 2**63 - 1


async def test_the_writer_fills_the_store_from_the_log(tmp_path: Path) -> None:
    log_file = DurableLog(tmp_path / "log.db", clock=SetClock(NOW), reserve_bytes=4096)
    log_file.open()
    async with opened(tmp_path / "events", log_file.spool_id) as store:
        bodies: list[tuple[ReadingClass, wire.Body]] = [
            (ReadingClass.STATE, seen(NOW, antenna=1)),
            (ReadingClass.BULK, seen(NOW, rssi=-5.0)),
            (ReadingClass.STATE, letter(NOW)),
            (ReadingClass.SAFETY, wire.Tick(time=NOW)),
        ]
        entries = [Entry(cls=cls, body=wire.encode(body), device="d", time=NOW) for cls, body in bodies]
        await log_file.append_entries(entries, urgent=True)
        writer = LogFollower(READER, log_file, store, clock=SystemClock(), jitter=random.Random(1), sync_every_s=0.05)
        task = asyncio.create_task(writer.run())
        async with asyncio.timeout(20):
            while writer.progress.records < 4:
                await asyncio.sleep(0.005)
        writer.stop()
        await task
        (event,), _ = await store.events("reader-07", 0, FOREVER, 10)
        assert event.values == {"tag.antenna": 1, "tag.rssi": -5.0}
        assert len((await store.dead_letters(10))[0]) == 1
        assert [log_file.depth(cls, READER) for cls in ReadingClass] == [0, 0, 0]
    log_file.close()


async def test_a_day_file_of_the_version_before_is_read_and_written_on(tmp_path: Path) -> None:
    old = letter(NOW)
    async with opened(tmp_path) as store:
        await store.take(taken(old), cursors=cursors(1))
    [path] = [path for path in tmp_path.glob("events-*.db") if "index" not in path.name]
    connection = sqlite3.connect(path)
    for column in ("message", "content", "identity", "via"):
        connection.execute(f"ALTER TABLE dead_letter DROP COLUMN {column}")
    connection.commit()
    connection.close()
    async with opened(tmp_path) as store:
        assert [one.letter for one in (await store.dead_letters(10))[0]] == [old], "read before anything is written"
        new = msgspec.structs.replace(letter(NOW + 1), message="report", content=42, identity="credential", via="hub-1")
        await store.take(taken(old, new), cursors=cursors(2))
        found, _ = await store.dead_letters(10)
        assert [one.letter for one in found] == [new, old]
        assert await store.letters([one.id for one in found]) == found
        assert await store.letters(["0.0.0", "x"]) == []
