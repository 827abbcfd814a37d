"""Day files on a real disk: cursors that are never ahead of the data, bounds, retention, damage."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from citysense.clock import SetClock
from citysense.crash_points import CrashPoints
from citysense.errors import StorageClosed, StorageError
from citysense_platform.store.day_file import DAY_MS
from citysense_platform.store.embedded import EmbeddedStore
from citysense_platform.store.points import Point
from citysense_profiles.reading import ReadingClass

NOW = 1_795_190_934_423  # 2026-11-20
TODAY = "telemetry-2026-11-20.db"
LOG = "log-1"


class Died(BaseException):
    """Stands for the end of the process at a crash point."""


def cursors(offset: int) -> dict[ReadingClass, int]:
    return dict.fromkeys(ReadingClass, offset)


def point(moment: int, value: float = 1.0, received: int | None = None) -> Point:
    return Point(
        device="gauge-001",
        site="s",
        kind="gauge",
        time=moment,
        received=moment if received is None else received,
        values={"water.level": value},
    )


@asynccontextmanager
async def opened(folder: Path, **options: object) -> AsyncIterator[EmbeddedStore]:
    options.setdefault("clock", SetClock(NOW))
    store = EmbeddedStore(folder, **options)  # type: ignore[arg-type]
    await store.open(log_id=LOG)
    try:
        yield store
    finally:
        await store.close()


async def times(store: EmbeddedStore) -> list[int]:
    return [one.time for one in await store.series("gauge-001", "water.level", 0, NOW * 2, 100_000)]


def rows(folder: Path) -> dict[str, list[tuple[object, ...]]]:
    """Everything that the day files and the latest table hold, whoever wrote it how often."""
    found: dict[str, list[tuple[object, ...]]] = {}
    for path in sorted(folder.glob("telemetry-*.db")):
        connection = sqlite3.connect(path)
        table = "latest" if path.name == "telemetry-index.db" else "reading"
        found[path.name] = connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()
        connection.close()
    return found


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.db"))


async def test_a_point_goes_to_the_day_of_its_event(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        moments = [NOW, NOW - DAY_MS, NOW - 40 * DAY_MS, NOW + DAY_MS]
        await store.write([point(moment, received=NOW) for moment in moments], lane_cursors=cursors(1))
        assert await times(store) == sorted(moments)
    assert names(tmp_path) == [
        "telemetry-2026-10-11.db",
        "telemetry-2026-11-19.db",
        TODAY,
        "telemetry-2026-11-21.db",
        "telemetry-index.db",
    ]


async def test_a_broken_clock_does_not_fill_the_folder(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        dreams = [i * 400 * DAY_MS for i in range(40)] + [NOW + i * 30 * DAY_MS for i in range(1, 40)]
        await store.write([point(moment, received=NOW) for moment in [*dreams, NOW]], lane_cursors=cursors(1))
        assert await times(store) == sorted([*dreams, NOW])
        found = await store.series("gauge-001", "water.level", 0, NOW * 2, 5)
        assert [one.time for one in found] == sorted(dreams)[:5]
    assert len(names(tmp_path)) <= 5


async def test_reading_the_log_again_gives_the_same_rows(tmp_path: Path) -> None:
    batches = [
        [point(NOW + i * 7 * 3_600_000 % (5 * DAY_MS) - 2 * DAY_MS, float(i), NOW) for i in range(start, start + 40)]
        for start in range(0, 400, 40)
    ]
    batches[3].append(point(NOW, 77.0))
    batches[7].append(point(NOW, 78.0))
    for folder, order in ((tmp_path / "once", range(10)), (tmp_path / "again", [*range(8), *range(2, 10)])):
        async with opened(folder, max_open=2) as store:
            for number in order:
                await store.write(batches[number], lane_cursors=cursors(number + 1))
    assert rows(tmp_path / "again") == rows(tmp_path / "once")
    assert sum(len(of_file) for of_file in rows(tmp_path / "once").values()) > 120


async def test_dying_before_the_cursor_is_read_again(tmp_path: Path) -> None:
    def die() -> None:
        raise Died

    crash = CrashPoints("store.before_cursor:2", die=die)
    async with opened(tmp_path, crash=crash) as store:
        await store.write([point(NOW)], lane_cursors=cursors(1))
        with pytest.raises(Died):
            await store.write([point(NOW + 1)], lane_cursors=cursors(2))
        # What a killed process leaves behind: the files as they are now, with their write-ahead logs.
        shutil.copytree(tmp_path, tmp_path / "left")
    async with opened(tmp_path / "left") as store:
        assert await store.cursors() == cursors(1)
        await store.write([point(NOW + 1)], lane_cursors=cursors(2))
        assert await times(store) == [NOW, NOW + 1]


def power_cut(folder: Path, left: Path, lost: str) -> None:
    """What a power cut may leave: file `lost` without what was not synced since its last checkpoint, the others whole."""
    shutil.copytree(folder, left)
    (left / f"{lost}-wal").unlink()


async def test_a_file_that_lost_its_newest_rows_sets_the_cursor_back(tmp_path: Path) -> None:
    yesterday = NOW - DAY_MS
    async with opened(tmp_path / "live") as store:
        await store.write([point(NOW), point(yesterday)], lane_cursors=cursors(10))
    async with opened(tmp_path / "live") as store:
        await store.write([point(NOW + 1)], lane_cursors=cursors(20))
        await store.write([point(yesterday + 1)], lane_cursors=cursors(30))
        power_cut(tmp_path / "live", tmp_path / "cut", TODAY)
    async with opened(tmp_path / "cut") as store:
        assert await times(store) == [yesterday, yesterday + 1, NOW]
        assert await store.cursors() == cursors(10)
        await store.write([point(NOW + 1), point(yesterday + 1)], lane_cursors=cursors(30))
        assert await times(store) == [yesterday, yesterday + 1, NOW, NOW + 1]


async def test_a_file_that_a_power_cut_took_whole_sets_the_cursor_back(tmp_path: Path) -> None:
    async with opened(tmp_path / "live") as store:
        await store.write([point(NOW - DAY_MS)], lane_cursors=cursors(10))
        await store.write([point(NOW)], lane_cursors=cursors(20))
        shutil.copytree(tmp_path / "live", tmp_path / "cut")
    for path in (tmp_path / "cut").glob(f"{TODAY}*"):
        path.unlink()
    async with opened(tmp_path / "cut") as store:
        assert await store.cursors() == cursors(10)


async def test_a_sync_writes_to_every_file_that_has_unsynced_rows(tmp_path: Path) -> None:
    """SQLite syncs a log only when it adds to it, so a cursor that stays the same must be written all the same."""

    def log_bytes() -> dict[str, int]:
        return {path.name: path.stat().st_size for path in tmp_path.glob("*.db-wal")}

    async with opened(tmp_path) as store:
        await store.write([point(NOW), point(NOW - DAY_MS)], lane_cursors=cursors(10))
        before = log_bytes()
        assert await store.sync() == cursors(10)
        after = log_bytes()
        assert len(after) == 3
        assert all(after[name] > before[name] for name in after)
        await store.sync()
        assert log_bytes() == after, "nothing was written since: nothing to sync"


async def test_what_a_killed_process_left_is_synced_before_it_is_promised(tmp_path: Path) -> None:
    async with opened(tmp_path / "live") as store:
        await store.write([point(NOW)], lane_cursors=cursors(10))
        shutil.copytree(tmp_path / "live", tmp_path / "left")
    left = [tmp_path / "left" / f"{name}-wal" for name in (TODAY, "telemetry-index.db")]
    async with opened(tmp_path / "left") as store:
        before = [path.stat().st_size for path in left]
        assert await store.sync() == cursors(10)
        assert all(path.stat().st_size > size for path, size in zip(left, before, strict=True))


async def test_idle_files_are_closed_and_no_longer_hold_the_cursor_back(tmp_path: Path) -> None:
    clock = SetClock(NOW)
    async with opened(tmp_path / "live", clock=clock) as store:
        await store.write([point(NOW - DAY_MS)], lane_cursors=cursors(10))
        clock.advance(3_600_000)
        await store.upkeep()
        assert not (tmp_path / "live" / "telemetry-2026-11-19.db-wal").exists()
        await store.write([point(NOW)], lane_cursors=cursors(20))
        shutil.copytree(tmp_path / "live", tmp_path / "left")
    async with opened(tmp_path / "left") as store:
        assert await store.cursors() == cursors(20)


async def test_open_files_are_bounded(tmp_path: Path) -> None:
    async with opened(tmp_path, max_open=3) as store:
        for day in range(20):
            await store.write([point(NOW - day * DAY_MS, received=NOW)], lane_cursors=cursors(day + 1))
            assert len(list(tmp_path.glob("*.db-wal"))) <= 3 + 1
        assert len(await times(store)) == 20
        assert await store.cursors() == cursors(20)


async def test_days_beyond_the_retention_go(tmp_path: Path) -> None:
    async with opened(tmp_path, keep_days=30) as store:
        await store.write([point(NOW - day * DAY_MS, received=NOW) for day in (0, 30, 31, 90)], lane_cursors=cursors(1))
        await store.upkeep()
        assert await times(store) == [NOW - 30 * DAY_MS, NOW]
        assert await store.cursors() == cursors(1)
    assert names(tmp_path) == ["telemetry-2026-10-21.db", TODAY, "telemetry-index.db"]


async def test_without_a_retention_nothing_goes(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.write([point(NOW - 360 * DAY_MS, received=NOW)], lane_cursors=cursors(1))
        await store.upkeep()
        assert len(await times(store)) == 1


async def test_a_damaged_day_is_set_aside_and_the_others_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path) as store:
        await store.write([point(NOW), point(NOW - DAY_MS)], lane_cursors=cursors(1))
    (tmp_path / TODAY).write_bytes(b"no database at all" * 1000)
    async with opened(tmp_path) as store:
        await store.write([point(NOW + 1)], lane_cursors=cursors(2))
        assert await times(store) == [NOW - DAY_MS, NOW + 1]
    assert (tmp_path / f"{TODAY}.damaged-{NOW}").read_bytes().startswith(b"no database")
    assert "damaged" in caplog.text


async def test_a_damaged_index_makes_the_log_be_read_again(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.write([point(NOW)], lane_cursors=cursors(5))
    (tmp_path / "telemetry-index.db").write_bytes(b"no database at all" * 1000)
    async with opened(tmp_path) as store:
        assert await store.cursors() == cursors(0)


async def test_values_that_replace_others_are_counted(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.write([point(NOW, 1.0), point(NOW + 1, 1.0)], lane_cursors=cursors(1))
        await store.write([point(NOW, 1.0), point(NOW + 1, 2.0)], lane_cursors=cursors(2))
        assert store.conflicts == 1


async def test_a_folder_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = EmbeddedStore(tmp_path / "file" / "telemetry", clock=SetClock(NOW))
    with pytest.raises(StorageError, match="owner and rights"):
        await store.open(log_id=LOG)


async def test_a_closed_store_takes_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        pass
    with pytest.raises(StorageClosed):
        await store.write([point(NOW)], lane_cursors=cursors(1))
