"""What every durable log promises to those who append and those who read."""

from __future__ import annotations

import asyncio
import errno
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from citysense import wire
from citysense.clock import SetClock
from citysense.crash_points import CrashPoints
from citysense.durable_log import DAMAGED, LOG_FULL, DurableLog, Entry
from citysense.errors import Overloaded, SetupError, StorageClosed, StorageError, StorageFull
from citysense.log_schema import Owner, Step
from citysense.single_writer import BATCH_BOUND, SingleWriter
from citysense_profiles.reading import ReadingClass

SAFETY, STATE, BULK = ReadingClass.SAFETY, ReadingClass.STATE, ReadingClass.BULK
SMALL = 1 << 16


def entry(cls: ReadingClass, body: bytes = b"x", device: str = "gauge-1", time: int = 5) -> Entry:
    return Entry(cls=cls, body=body, device=device, time=time)


@contextmanager
def opened(path: Path, **options: object) -> Iterator[DurableLog]:
    log = DurableLog(path / "a.db", clock=SetClock(1_000), reserve_bytes=SMALL, **options)  # type: ignore[arg-type]
    log.open()
    try:
        yield log
    finally:
        log.close()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[DurableLog]:
    with opened(tmp_path) as log:
        yield log


def bodies(log: DurableLog, cls: ReadingClass, after: int = 0, limit: int = 1_000) -> list[bytes]:
    return [record.body for record in log.read(cls, after=after, limit=limit)]


def sql(path: Path, statement: str, *arguments: object) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path / "a.db")) as connection, connection:
        return connection.execute(statement, arguments).fetchall()


async def test_lanes_are_read_apart_and_in_order(log: DurableLog) -> None:
    await log.append_entries([entry(SAFETY, b"a"), entry(BULK, b"b"), entry(SAFETY, b"c")], urgent=True)
    await log.append_entries([entry(BULK, b"d")], urgent=False)
    assert bodies(log, SAFETY) == [b"a", b"c"]
    assert bodies(log, BULK) == [b"b", b"d"]
    assert bodies(log, STATE) == []
    first = log.read(SAFETY, after=0, limit=1)
    assert [record.body for record in first] == [b"a"]
    assert bodies(log, SAFETY, after=first[0].offset) == [b"c"]


async def test_append_returns_after_the_commit(log: DurableLog, tmp_path: Path) -> None:
    await log.append_entries([entry(STATE)], urgent=False)
    assert sql(tmp_path, "SELECT count(*) FROM record") == [(1,)]


async def test_offsets_are_never_used_again(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        await log.append_entries([entry(BULK) for _ in range(5)], urgent=True)
        last = log.read(BULK, after=0, limit=10)[-1].offset
        await log.advance("uplink", BULK, last, trim=True)
        assert log.read(BULK, after=0, limit=10) == []
        spool_id = log.spool_id
    with opened(tmp_path) as log:
        assert log.spool_id == spool_id
        assert log.cursor("uplink", BULK) == last
        await log.append_entries([entry(BULK)], urgent=True)
        assert [record.offset for record in log.read(BULK, after=0, limit=10)] == [last + 1]


async def test_a_clean_stop_leaves_one_whole_file(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        await log.append_entries([entry(SAFETY)], urgent=True)
        assert (tmp_path / "a.db-wal").stat().st_size > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.db", "a.reserve"]


async def test_a_new_file_is_another_spool(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    with opened(tmp_path) as one, opened(tmp_path / "b") as other:
        assert one.spool_id != other.spool_id


async def test_a_job_that_refuses_leaves_its_neighbours_alone(log: DurableLog) -> None:
    def refuses(_: sqlite3.Connection) -> tuple[list[Entry], None]:
        raise ValueError("not this one")

    def writes_then_refuses(connection: sqlite3.Connection) -> tuple[list[Entry], None]:
        connection.execute("INSERT INTO meta VALUES('half', 1)")
        raise LookupError("too late")

    outcomes = await asyncio.gather(
        log.append_entries([entry(BULK, b"before")], urgent=False),
        log.append(refuses, urgent=False),
        log.append(writes_then_refuses, urgent=False),
        log.append_entries([entry(BULK, b"after")], urgent=False),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [type(None), ValueError, LookupError, type(None)]
    assert sorted(bodies(log, BULK)) == [b"after", b"before"]
    assert log.select("SELECT * FROM meta WHERE key='half'") == []


async def test_a_fault_in_a_job_ends_the_writer_and_tells_all_who_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[object] = []
    monkeypatch.setattr("threading.excepthook", told.append)

    def faulty(_: sqlite3.Connection) -> None:
        raise AssertionError("a fault of ours")

    writer = SingleWriter(tmp_path / "a.db", schema=lambda _: None, window=60.0)
    writer.open()
    try:
        waiting = [writer.submit(lambda _: None, urgent=False), writer.submit(faulty, urgent=True)]
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [StorageClosed, StorageClosed]
        with pytest.raises(StorageClosed):
            writer.submit(lambda _: None, urgent=True)
    finally:
        writer.close()
    assert len(told) == 1


async def test_a_cancelled_append_still_wakes_its_reader_and_is_counted(log: DurableLog) -> None:
    wakeup = log.wakeup(BULK)
    assert log.depth(BULK, "uplink") == 0
    task = asyncio.create_task(log.append_entries([entry(BULK)], urgent=False))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait_for(wakeup.wait(), 5)
    assert len(log.read(BULK, after=0, limit=10)) == log.depth(BULK, "uplink") == 1


async def test_wakeups_are_per_lane(log: DurableLog) -> None:
    safety, rest = log.wakeup(SAFETY), log.wakeup(STATE, BULK)
    await log.append_entries([entry(STATE)], urgent=False)
    assert (safety.is_set(), rest.is_set()) == (False, True)


async def test_a_closed_log_says_so(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        pass
    with pytest.raises(StorageClosed):
        await log.append_entries([entry(SAFETY)], urgent=True)
    with pytest.raises(StorageError):
        log.read(SAFETY, after=0, limit=1)


def test_the_queue_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("citysense.single_writer.QUEUE_BOUND", 3)

    async def fill() -> None:
        # The window is longer than the test: nothing is taken from the queue.
        writer = SingleWriter(tmp_path / "a.db", schema=lambda _: None, window=30.0)
        writer.open()
        try:
            futures = [writer.submit(lambda _: None, urgent=False) for _ in range(3)]
            with pytest.raises(Overloaded):
                writer.submit(lambda _: None, urgent=False)
        finally:
            writer.close()
        await asyncio.gather(*futures)

    asyncio.run(fill())


async def test_a_full_batch_does_not_wait_for_the_window(tmp_path: Path) -> None:
    writer = SingleWriter(tmp_path / "a.db", schema=lambda _: None, window=60.0)
    writer.open()
    try:
        futures = [writer.submit(lambda _: None, urgent=False) for _ in range(BATCH_BOUND)]
        await asyncio.wait_for(asyncio.gather(*futures), 20)
    finally:
        writer.close()


async def test_an_urgent_job_takes_along_what_waits(tmp_path: Path) -> None:
    writer = SingleWriter(tmp_path / "a.db", schema=lambda _: None, window=60.0)
    writer.open()
    try:
        slow = writer.submit(lambda _: "slow", urgent=False)
        urgent = writer.submit(lambda _: "urgent", urgent=True)
        done = await asyncio.wait_for(asyncio.gather(slow, urgent), 20)
        assert list(done) == ["slow", "urgent"]
        assert writer.commits == 1
    finally:
        writer.close()


async def test_an_urgent_job_does_not_wait_behind_the_others(tmp_path: Path) -> None:
    writer = SingleWriter(tmp_path / "a.db", schema=lambda _: None)
    writer.open()
    begun, go = threading.Event(), threading.Event()
    order: list[str] = []

    def blocks(_: sqlite3.Connection) -> None:
        begun.set()
        go.wait(20)

    try:
        first = writer.submit(blocks, urgent=True)
        assert await asyncio.to_thread(begun.wait, 20)
        lazy = [writer.submit(lambda _: order.append("lazy"), urgent=False) for _ in range(15_000)]
        urgent = [writer.submit(lambda _: order.append("urgent"), urgent=True) for _ in range(2)]
        go.set()
        await asyncio.gather(first, *urgent)
        assert writer.commits - 2 < len(lazy) // BATCH_BOUND, "the lazy ones were not all written before"
        await asyncio.gather(*lazy)
        assert order[:3] == ["urgent", "urgent", "lazy"]
        assert len(order) == 15_002
    finally:
        go.set()
        writer.close()


async def test_a_full_queue_of_others_refuses_no_urgent_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("citysense.single_writer.QUEUE_BOUND", 3)
    writer = SingleWriter(tmp_path / "a.db", schema=lambda _: None, window=30.0)
    writer.open()
    try:
        lazy = [writer.submit(lambda _: "lazy", urgent=False) for _ in range(3)]
        with pytest.raises(Overloaded):
            writer.submit(lambda _: "lazy", urgent=False)
        assert await asyncio.wait_for(writer.submit(lambda _: "urgent", urgent=True), 20) == "urgent"
        await asyncio.gather(*lazy)
    finally:
        writer.close()


async def test_a_batch_of_nothing_but_refusals_is_refused_one_by_one(log: DurableLog) -> None:
    def writes_then_refuses(connection: sqlite3.Connection) -> tuple[list[Entry], None]:
        connection.execute("INSERT INTO meta VALUES('half', 1)")
        raise LookupError("too late")

    jobs = [log.append(writes_then_refuses, urgent=False) for _ in range(BATCH_BOUND - 1)]
    outcomes = await asyncio.gather(
        *jobs, log.append_entries([entry(BULK, b"kept")], urgent=False), return_exceptions=True
    )
    assert {type(outcome) for outcome in outcomes[:-1]} == {LookupError}
    assert bodies(log, BULK) == [b"kept"]


async def test_crash_points_stand_on_both_sides_of_the_commit(tmp_path: Path) -> None:
    passed: list[int] = []
    for point in ("spool.before_commit", "spool.after_commit"):
        folder = tmp_path / point
        folder.mkdir()

        def die(folder: Path = folder) -> None:
            passed.append(int(str(sql(folder, "SELECT count(*) FROM record")[0][0])))

        with opened(folder, crash=CrashPoints(point, die=die), crash_prefix="spool") as log:
            await log.append_entries([entry(SAFETY)], urgent=True)
    assert passed == [0, 1]


async def test_a_damaged_record_is_set_aside_and_reported(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        for body in (b"one", b"two", b"three"):
            await log.append_entries([entry(BULK, body)], urgent=True)
        assert log.depth(BULK, "uplink") == 3
    sql(tmp_path, "UPDATE record SET blob=CAST(replace(blob, 'two', 'twO') AS BLOB) WHERE offset=2")
    with opened(tmp_path) as log:
        assert log.depth(BULK, "uplink") == 3
        assert bodies(log, BULK) == [b"one", b"three"]
        await log.append_entries([], urgent=True)
        await log.tend()
        assert bodies(log, BULK) == [b"one", b"three"]
        assert log.depth(BULK, "uplink") == 2
        (report,) = (wire.decode_body(body) for body in bodies(log, STATE))
        assert report == wire.Tombstone(device="", cls="bulk", reason=DAMAGED, first=1_000, last=1_000, count=1)
        assert log.select("SELECT class, offset FROM damaged") == [(2, 2)]


async def test_a_damaged_record_is_set_aside_before_a_reader_deletes_it(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        await log.append_entries([entry(SAFETY, b"one")], urgent=True)
    sql(tmp_path, "UPDATE record SET blob=zeroblob(30)")
    with opened(tmp_path) as log:
        assert bodies(log, SAFETY) == []
        await log.advance("uplink", SAFETY, 1, trim=True, urgent=True)
        assert log.select("SELECT class, offset FROM damaged") == [(0, 1)]


async def test_damaged_records_never_look_like_the_end_of_the_lane(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        await log.append_entries([entry(STATE, b"%d" % number) for number in range(10)], urgent=True)
    sql(tmp_path, "UPDATE record SET blob=zeroblob(30) WHERE offset<=9")
    with opened(tmp_path) as log:
        assert bodies(log, STATE, limit=3) == [b"9"]
        await log.append_entries([], urgent=True)


async def test_a_record_in_anothers_place_is_found(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        await log.append_entries([entry(BULK, b"one"), entry(BULK, b"two")], urgent=True)
    sql(tmp_path, "UPDATE record SET blob=(SELECT blob FROM record WHERE offset=1) WHERE offset=2")
    with opened(tmp_path) as log:
        assert bodies(log, BULK) == [b"one"]
        await log.append_entries([], urgent=True)


async def test_a_log_at_its_bound_with_nothing_but_safety_buries_what_is_new_of_the_others(tmp_path: Path) -> None:
    with opened(tmp_path, max_bytes=300_000) as log:
        await log.append_entries([entry(SAFETY, bytes(50_000)) for _ in range(6)], urgent=True)
        await log.tend()
        assert log.short_of_space
        for time in (7, 9):
            await log.append_entries(
                [entry(SAFETY, b"flood"), entry(BULK, b"-", "lock-1", time), entry(STATE, b"-", "lock-1", time)],
                urgent=True,
            )
        assert bodies(log, SAFETY)[-2:] == [b"flood", b"flood"]
        assert bodies(log, STATE) == []
        assert log.entombed == 4
        await log.tend()
        assert bodies(log, STATE) == [], "tombstones wait until there is space to record them"
        await log.advance("uplink", SAFETY, 5, trim=True)
        await log.tend()
        assert not log.short_of_space
        told = [wire.decode_body(body) for body in bodies(log, STATE)]
        assert told == [
            wire.Tombstone(device="lock-1", cls=cls, reason=LOG_FULL, first=7, last=9, count=2)
            for cls in ("state", "bulk")
        ]
        await log.append_entries([entry(BULK, b"again")], urgent=True)
        assert bodies(log, BULK) == [b"again"]


async def test_a_log_at_its_bound_does_not_go_back_and_forth(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with opened(tmp_path, max_bytes=1_000_000) as log:
        await log.append_entries([entry(SAFETY, bytes(10_000)) for _ in range(110)], urgent=True)
        await log.tend()
        for offset, short in ((25, True), (30, True), (60, False)):
            await log.advance("uplink", SAFETY, offset, trim=True)
            await log.tend()
            assert log.short_of_space is short, offset
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


async def test_a_reserve_that_cannot_be_made_is_no_refusal_to_start_while_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path) as log:
        await log.append(FullDisk(tmp_path, heals=True), urgent=True)

        def read_only(*_: object) -> None:
            raise OSError(errno.EROFS, "Read-only file system")

        with monkeypatch.context() as broken:
            broken.setattr("os.posix_fallocate", read_only)
            with pytest.raises(StorageError, match="Read-only"):
                await log.tend()
        await log.tend()
        assert not log.short_of_space


async def test_a_start_on_a_full_disk_uses_the_reserve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path):
        pass

    def full(connection: sqlite3.Connection) -> None:
        if (tmp_path / "a.reserve").exists():
            raise sqlite3.OperationalError("database or disk is full")

    with opened(tmp_path, owners=[Owner(name="o", steps=[Step(number=1, name="s", apply=full)])]) as log:
        assert log.short_of_space
        await log.append_entries([entry(SAFETY, b"flood"), entry(BULK)], urgent=True)
        assert (bodies(log, SAFETY), bodies(log, BULK)) == ([b"flood"], [])
        await log.tend()
        assert not log.short_of_space


async def test_tombstones_survive_a_restart(tmp_path: Path) -> None:
    with opened(tmp_path, max_bytes=1) as log:
        await log.append_entries([entry(SAFETY)], urgent=True)
        await log.tend()
        await log.append_entries([entry(BULK)], urgent=True)
    with opened(tmp_path) as log:
        await log.tend()
        assert [type(wire.decode_body(body)) for body in bodies(log, STATE)] == [wire.Tombstone]


class FullDisk:
    """A plan that finds the disk full until the reserve is given back, or for ever."""

    def __init__(self, folder: Path, *, heals: bool) -> None:
        self._reserve = folder / "a.reserve"
        self._heals = heals
        self.tries = 0

    def __call__(self, _: sqlite3.Connection) -> tuple[list[Entry], str]:
        self.tries += 1
        if self._reserve.exists() or not self._heals:
            raise sqlite3.OperationalError("database or disk is full")
        return [entry(SAFETY, b"flood"), entry(BULK, b"-")], "stored"


async def test_a_full_disk_gives_the_reserve_to_safety(log: DurableLog, tmp_path: Path) -> None:
    assert await log.append(FullDisk(tmp_path, heals=True), urgent=True) == "stored"
    assert bodies(log, SAFETY) == [b"flood"]
    assert bodies(log, BULK) == []
    assert log.entombed == 1
    assert log.short_of_space
    await log.tend()
    assert (tmp_path / "a.reserve").stat().st_size == SMALL, "the reserve is taken again as soon as it fits"
    assert not log.short_of_space
    assert len(bodies(log, STATE)) == 1


async def test_delivering_makes_room_again_on_a_full_disk(log: DurableLog, tmp_path: Path) -> None:
    await log.append_entries([entry(BULK, bytes(40_000)) for _ in range(10)], urgent=True)
    await log.append(FullDisk(tmp_path, heals=True), urgent=True)
    stored = 1
    with pytest.raises(StorageFull):
        while stored < 1_000:
            await log.append_entries([entry(SAFETY, bytes(1_000))], urgent=True)
            stored += 1
    assert 4 < stored < 1_000, "safety may use half of the reserve"
    await log.advance("uplink", BULK, 10, trim=True)
    await log.append_entries([entry(SAFETY, bytes(1_000))], urgent=True)
    assert len(bodies(log, SAFETY)) == stored + 1
    await log.tend()
    await log.append_entries([entry(BULK, bytes(600_000))], urgent=True)
    assert len(bodies(log, BULK)) == 1, "once there is space the file may grow again"


async def test_refused_openly_when_the_reserve_is_gone_too(log: DurableLog, tmp_path: Path) -> None:
    plan = FullDisk(tmp_path, heals=False)
    with pytest.raises(StorageFull):
        await log.append(plan, urgent=True)
    assert plan.tries == 2
    await log.append_entries([entry(SAFETY, b"next")], urgent=True)
    assert bodies(log, SAFETY) == [b"next"]


async def test_advancing_uses_the_reserve_too(log: DurableLog, monkeypatch: pytest.MonkeyPatch) -> None:
    await log.append_entries([entry(BULK)], urgent=True)
    real, full = log._writer.submit, [True]

    def once_full(job: object, **options: object) -> object:
        if full.pop() if full else False:
            future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
            future.set_exception(StorageFull("no space"))
            return future
        return real(job, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(log._writer, "submit", once_full)
    await log.advance("uplink", BULK, 1, trim=True)
    assert bodies(log, BULK) == []
    assert log.short_of_space


def test_no_start_without_room_for_the_reserve(tmp_path: Path) -> None:
    log = DurableLog(tmp_path / "a.db", clock=SetClock(), reserve_bytes=1 << 60)
    with pytest.raises(SetupError, match="no space left"):
        log.open()


def test_a_folder_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="cannot be written"):
        DurableLog(tmp_path / "missing" / "a.db", clock=SetClock(), reserve_bytes=SMALL).open()


async def test_trimming_waits_for_the_slowest_reader(tmp_path: Path) -> None:
    with opened(tmp_path, readers={BULK: ("fast", "slow")}) as log:
        await log.append_entries([entry(BULK, b"%d" % number) for number in range(1, 11)], urgent=True)
        await log.advance("fast", BULK, 10)
        await log.advance("slow", BULK, 6)
        await log.trim(BULK, keep=2)
        assert bodies(log, BULK)[0] == b"5"
        await log.advance("slow", BULK, 3)
        assert log.cursor("slow", BULK) == 6, "a cursor never goes back"


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.lists(st.sampled_from([SAFETY, BULK]), min_size=1, max_size=4)),
        st.tuples(st.just("advance"), st.sampled_from([SAFETY, BULK]), st.integers(0, 20), st.booleans()),
        st.tuples(st.just("ask"), st.sampled_from([SAFETY, BULK])),
        st.tuples(st.just("reopen")),
    ),
    max_size=14,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_depth_is_what_counting_would_say(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[object, ...]]
) -> None:
    folder = tmp_path_factory.mktemp("depth")

    async def play() -> None:
        log = DurableLog(folder / "a.db", clock=SetClock(), reserve_bytes=SMALL)
        log.open()
        lanes: dict[ReadingClass, list[int]] = {SAFETY: [], BULK: []}
        cursor, offset = {SAFETY: 0, BULK: 0}, 0
        try:
            for step in steps:
                match step:
                    case ("append", list() as classes):
                        await log.append_entries([entry(cls) for cls in classes], urgent=True)
                        for cls in classes:
                            offset += 1
                            lanes[cls].append(offset)
                    case ("advance", ReadingClass() as cls, int() as to, bool() as trim):
                        to = min(to, offset)  # a reader finishes only what it has read
                        await log.advance("uplink", cls, to, trim=trim)
                        cursor[cls] = max(cursor[cls], to)
                    case ("ask", ReadingClass() as cls):
                        assert log.depth(cls, "uplink") == sum(o > cursor[cls] for o in lanes[cls])
                    case _:
                        log.close()
                        log = DurableLog(folder / "a.db", clock=SetClock(), reserve_bytes=SMALL)
                        log.open()
            for cls in lanes:
                assert log.depth(cls, "uplink") == sum(o > cursor[cls] for o in lanes[cls])
        finally:
            log.close()

    asyncio.run(play())
