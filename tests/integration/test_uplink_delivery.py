"""The uplink against an HTTP server that loses answers, refuses, is busy and comes back."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from citysense import wire
from citysense.clock import SetClock
from citysense.crash_points import CrashPoints
from citysense.durable_log import Entry
from citysense.errors import Overloaded, StorageClosed, StorageError, StorageFull
from citysense.keys import Sealer
from citysense.record_format import CLASS_CODES
from citysense.wire import Answer, Batch, Roster, RosterDevice
from citysense_gateway.counters import FrameCounters
from citysense_gateway.devices import Changes, Devices
from citysense_gateway.hand_over import READER, REFUSED
from citysense_gateway.heartbeat import Heartbeat
from citysense_gateway.platform_client import BatchRefused, PlatformClient, TooSlow, Unreachable
from citysense_gateway.roster import RosterKeeper
from citysense_gateway.spool import Spool
from citysense_gateway.uplink import Lane
from citysense_profiles.catalogue import load_catalogue
from citysense_profiles.reading import ReadingClass

BULK, STATE, SAFETY = ReadingClass.BULK, ReadingClass.STATE, ReadingClass.SAFETY
SEALER = Sealer(bytes(32))
CATALOGUE = load_catalogue()
TOKEN = "gateway token"

Reply = Callable[[Batch], Answer | web.Response]


def accept(batch: Batch) -> Answer:
    offsets = [offset for offset, _ in batch.items]
    return Answer(accepted=[(offsets[0], offsets[-1])])


class Platform:
    """A platform of a few lines: answers with `replies` in turn, then accepts everything."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.batches: list[Batch] = []
        self.beats: list[wire.Heartbeat] = []
        self.rosters: asyncio.Queue[Roster | None] = asyncio.Queue()
        self.versions: list[int] = []
        self.tokens: set[str | None] = set()
        self.lanes: list[str] = []
        self._came = asyncio.Event()
        self.url = ""

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Platform]:
        app = web.Application()
        app.router.add_post("/ingest/v1/heartbeat", self._heartbeat)
        app.router.add_get("/ingest/v1/roster", self._roster)
        app.router.add_post("/ingest/v1/{lane}", self._submit)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            self.rosters.put_nowait(None)  # whoever still polls is let go
            await runner.cleanup()

    async def _submit(self, request: web.Request) -> web.StreamResponse:
        batch = msgspec.msgpack.decode(await request.read(), type=Batch)
        self.tokens.add(request.headers.get("Authorization"))
        self.lanes.append(request.match_info["lane"])
        self.batches.append(batch)
        answer = (self.replies.pop(0) if self.replies else accept)(batch)
        self._came.set()
        if isinstance(answer, Answer):
            return web.Response(body=wire.encode(answer))
        if answer.status == 599:
            # Everything was done, and the answer gets lost.
            assert request.transport is not None
            request.transport.abort()
        return answer

    async def _heartbeat(self, request: web.Request) -> web.Response:
        self.beats.append(msgspec.msgpack.decode(await request.read(), type=wire.Heartbeat))
        self._came.set()
        return web.Response(status=204)

    async def _roster(self, request: web.Request) -> web.Response:
        self.versions.append(int(request.query["version"]))
        self._came.set()
        roster = await self.rosters.get()
        return web.Response(status=204) if roster is None else web.Response(body=wire.encode(roster))

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not true():
                self._came.clear()
                await self._came.wait()

    def offsets(self) -> list[list[int]]:
        return [[offset for offset, _ in batch.items] for batch in self.batches]


class Bench:
    """A spool and the uplink of one lane."""

    def __init__(self, folder: Path, platform: Platform, client: PlatformClient, cls: ReadingClass) -> None:
        self.platform = platform
        self.clock = SetClock(50_000)
        self.spool = Spool(folder / "spool.db", clock=self.clock, crash=CrashPoints(), reserve_bytes=1 << 16)
        self.counters = FrameCounters()
        self.devices = Devices(CATALOGUE)
        self.devices.replace(Roster(version=1, devices=[RosterDevice(id="g", profile="generic/water-gauge")]))
        self.cls = cls
        self.crash = CrashPoints()
        self.client = client

    def lane(self) -> Lane:
        return Lane(
            self.cls,
            spool=self.spool,
            client=self.client,
            devices=self.devices,
            seal=SEALER.seal,
            counters=self.counters,
            clock=self.clock,
            random=lambda: 0.0,
            crash=self.crash,
            linger=0.0,
        )

    async def fill(self, count: int, body: bytes = b"") -> None:
        entries = [Entry(cls=self.cls, body=body or reading(number), device="g", time=1) for number in range(count)]
        await self.spool.log.append_entries(entries, urgent=True)

    def left(self) -> int:
        return len(self.spool.log.read(self.cls, after=0, limit=10_000))

    def letters(self) -> list[wire.DeadLetter]:
        bodies = [wire.decode_body(record.body) for record in self.spool.log.read(STATE, after=0, limit=10_000)]
        return [body for body in bodies if isinstance(body, wire.DeadLetter)]

    def aside(self) -> list[tuple[Any, ...]]:
        return self.spool.log.select("SELECT class, offset, blob, reason FROM refused_record ORDER BY offset")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Lane]:
        lane = self.lane()
        task = asyncio.create_task(lane.run())
        try:
            yield lane
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def handed_over(self, lane: Lane) -> None:
        """Wait until the lane is empty and the platform's word on it is on the disk."""
        async with asyncio.timeout(10):
            await lane.idle.wait()


def reading(number: int, received: int = 1_000) -> bytes:
    return wire.encode(
        wire.Readings(
            device="g",
            profile="generic/water-gauge",
            kind="waterlogging_gauge",
            message="report",
            received=received,
            identity="credential",
            samples=[wire.SampleBody(time=number, values={"water.level": 1.0})],
        )
    )


@pytest.fixture
async def platform() -> AsyncIterator[Platform]:
    async with Platform().serving() as serving:
        yield serving


@pytest.fixture
async def client(platform: Platform) -> AsyncIterator[PlatformClient]:
    async with PlatformClient(platform.url, TOKEN) as client:
        yield client


@pytest.fixture
async def bench(tmp_path: Path, platform: Platform, client: PlatformClient) -> AsyncIterator[Bench]:
    made = Bench(tmp_path, platform, client, BULK)
    made.spool.open()
    yield made
    made.spool.close()


async def test_all_is_handed_over_in_order_and_leaves_the_spool(bench: Bench) -> None:
    await bench.fill(1_200)
    async with bench.running() as lane:
        await bench.handed_over(lane)
        assert [len(offsets) for offsets in bench.platform.offsets()] == [500, 500, 200]
        assert [offset for sent in bench.platform.offsets() for offset in sent] == list(range(1, 1_201))
        assert {batch.spool for batch in bench.platform.batches} == {bench.spool.log.spool_id}
        assert bench.platform.tokens == {f"Bearer {TOKEN}"}
        assert set(bench.platform.lanes) == {"bulk"}
        assert bench.left() == 0
        await bench.fill(1)
        await bench.platform.until(lambda: len(bench.platform.batches) == 4)
    assert bench.platform.offsets()[-1] == [1_201]


async def test_a_lost_answer_costs_a_second_sending_of_the_same(bench: Bench) -> None:
    await bench.fill(3)
    bench.platform.replies = [lambda _: web.Response(status=599)]
    async with bench.running() as lane:
        await bench.platform.until(lambda: len(bench.platform.batches) == 2)
        await bench.handed_over(lane)
    assert bench.platform.offsets() == [[1, 2, 3], [1, 2, 3]]
    assert bench.left() == 0


async def test_nothing_leaves_the_spool_before_the_answer(bench: Bench) -> None:
    await bench.fill(3)
    seen: list[int] = []

    def look(batch: Batch) -> Answer:
        seen.append(bench.left())
        return accept(batch)

    bench.platform.replies = [look]
    async with bench.running() as lane:
        await bench.handed_over(lane)
    assert (seen, bench.left()) == ([3], 0)


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503])
async def test_trouble_of_the_platform_is_waited_out(
    bench: Bench, status: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    waits: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        waits.append(seconds)
        await sleep(0)

    await bench.fill(2)
    busy = [lambda _: web.Response(status=status, headers={"Retry-After": "7"})]
    bench.platform.replies = [*busy, lambda _: web.Response(status=status), *busy]
    monkeypatch.setattr("citysense_gateway.uplink.asyncio.sleep", noted)
    async with bench.running() as lane:
        await bench.handed_over(lane)
    assert waits[:3] == [7.0, 0.1, 7.0]
    assert bench.left() == 0
    assert bench.platform.offsets() == [[1, 2]] * 4
    told = [record.getMessage() for record in caplog.records if "uplink" in record.getMessage()]
    assert len(told) == 2
    assert told[1] == "uplink bulk: works again after 3 failed tries"


async def test_an_answer_that_cannot_be_read_is_trouble_too(bench: Bench) -> None:
    await bench.fill(1)
    bench.platform.replies = [lambda _: web.Response(body=b"<html>")]
    async with bench.running() as lane:
        await bench.handed_over(lane)
    assert len(bench.platform.batches) == 2


async def test_a_refused_reading_becomes_a_dead_letter_and_the_others_go_on(bench: Bench) -> None:
    await bench.fill(3)
    bench.platform.replies = [
        lambda _: Answer(accepted=[(1, 1), (3, 3)], rejected=[(2, "not_assigned")]),
    ]
    async with bench.running() as lane:
        await bench.handed_over(lane)
    assert bench.left() == 0
    (record,) = bench.spool.log.read(STATE, after=0, limit=10)
    letter = wire.decode_body(record.body)
    assert isinstance(letter, wire.DeadLetter)
    assert (letter.reason, letter.detail, letter.device) == (REFUSED, "not_assigned", "g")
    assert (letter.seal, letter.raw) == ("", reading(1))


async def test_a_crash_between_the_letter_and_the_cursor_makes_no_second_letter(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse_second(batch: Batch) -> Answer:
        offsets = [offset for offset, _ in batch.items]
        refused = [(offset, "not_assigned") for offset in offsets if offset == 2]
        return Answer(accepted=[(offset, offset) for offset in offsets if offset != 2], rejected=refused)

    async def ends(*_: object, **__: object) -> None:
        raise StorageClosed("the process ends here")

    await bench.fill(3)
    bench.platform.replies = [refuse_second, refuse_second]
    with monkeypatch.context() as patched:
        patched.setattr(bench.spool.log, "advance", ends)
        with pytest.raises(StorageClosed):
            await bench.lane().run()
    assert bench.left() == 2, "it has left with the very commit that keeps its letter"
    async with bench.running() as lane:
        await bench.handed_over(lane)
    assert [letter.detail for letter in bench.letters()] == ["not_assigned"]
    assert {account.missing for account in (await bench.spool.log.accounts()).values()} == {0}


@pytest.mark.parametrize("more", [0, 700])
async def test_a_kept_record_that_is_damaged_before_it_is_sent_again_holds_nothing_up(bench: Bench, more: int) -> None:
    await bench.fill(3 + more)
    bench.platform.replies = [lambda batch: Answer(accepted=[(1, 1), (3, batch.items[-1][0])], keep=[2])]

    def lose(connection: sqlite3.Connection) -> None:
        connection.execute("UPDATE record SET blob=zeroblob(30) WHERE offset=2")

    async with bench.running() as lane:
        await bench.platform.until(lambda: len(bench.platform.batches) == 1)
        await bench.spool.log.tidy(lose)
        await bench.handed_over(lane)
        assert bench.left() == 0
    assert sorted({offset for batch in bench.platform.offsets() for offset in batch} | {2}) == list(range(1, 4 + more))


async def test_what_was_refused_of_an_unknown_device_is_sealed(bench: Bench) -> None:
    bench.devices.replace(Roster(version=2, devices=[]))
    await bench.fill(1)
    bench.platform.replies = [lambda _: Answer(accepted=[], rejected=[(1, "not_assigned")])]
    async with bench.running() as lane:
        await bench.handed_over(lane)
    (record,) = bench.spool.log.read(STATE, after=0, limit=10)
    letter = wire.decode_body(record.body)
    assert isinstance(letter, wire.DeadLetter)
    assert letter.seal == "gateway"
    assert SEALER.open("gateway", letter.raw) == reading(0)


@pytest.mark.parametrize(
    "record",
    [
        wire.DeadLetter(1, "mqtt", "s", "c", "g", "p", "undecodable", "d", 0, b""),
        wire.Tombstone("g", "bulk", "disk_full", 1, 2, 70),
    ],
    ids=["dead letter", "tombstone"],
)
async def test_a_refused_dead_letter_or_tombstone_is_set_aside(
    bench: Bench, caplog: pytest.LogCaptureFixture, record: wire.DeadLetter | wire.Tombstone
) -> None:
    await bench.fill(1, wire.encode(record))
    bench.platform.replies = [lambda _: Answer(accepted=[], rejected=[(1, "no room for it")])]
    async with bench.running() as lane:
        await bench.handed_over(lane)
    assert bench.left() == 0
    assert bench.spool.log.read(STATE, after=0, limit=10) == []
    assert bench.aside() == [(CLASS_CODES[BULK], 1, wire.encode(record), "no room for it")]
    assert bench.counters.snapshot()["uplink.set_aside"] == 1
    assert "refused_record" in caplog.text


async def test_what_is_set_aside_is_bounded_and_the_newest_stays(bench: Bench) -> None:
    bench.spool._max_refused = 3
    tombstone = wire.Tombstone("g", "bulk", "disk_full", 1, 2, 70)
    await bench.fill(5, wire.encode(tombstone))
    bench.platform.replies = [lambda batch: Answer(accepted=[], rejected=[(o, "no") for o, _ in batch.items])]
    async with bench.running() as lane:
        await bench.handed_over(lane)
    assert [row[1] for row in bench.aside()] == [3, 4, 5]
    assert bench.counters.snapshot()["uplink.set_aside"] == 5


@pytest.mark.parametrize("error", [Overloaded("queue full"), StorageFull("no space"), StorageError("disk I/O error")])
async def test_a_refused_reading_is_not_passed_before_its_dead_letter_is_kept(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: StorageError
) -> None:
    await bench.fill(3)
    append = bench.spool.log.append
    failures = [error]

    async def append_failing_once(*arguments: Any, **more: Any) -> Any:
        if failures:
            raise failures.pop()
        return await append(*arguments, **more)

    monkeypatch.setattr(bench.spool.log, "append", append_failing_once)

    def refuse_2(batch: Batch) -> Answer:
        offsets = [offset for offset, _ in batch.items]
        return Answer(accepted=[(o, o) for o in offsets if o != 2], rejected=[(2, "not_assigned")])

    bench.platform.replies = [refuse_2] * 5
    async with bench.running() as lane:
        await bench.handed_over(lane)
    assert bench.left() == 0
    assert failures == []
    assert [body.raw for body in bench.letters()] == [reading(1)]


async def test_a_failing_trim_makes_no_second_dead_letter(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    await bench.fill(2)
    advance = bench.spool.log.advance
    failures = [Overloaded("queue full")]

    async def advance_failing_once(*arguments: Any, **more: Any) -> None:
        if failures:
            raise failures.pop()
        await advance(*arguments, **more)

    monkeypatch.setattr(bench.spool.log, "advance", advance_failing_once)
    bench.platform.replies = [lambda _: Answer(accepted=[(1, 1)], rejected=[(2, "not_assigned")])] * 2
    async with bench.running() as lane:
        await bench.handed_over(lane)
    assert bench.left() == 0
    assert bench.spool.log.depth(BULK, READER) == 0
    assert len(bench.letters()) == 1


@pytest.mark.parametrize("status", [400, 415, 422])
async def test_who_refuses_every_request_is_waited_out_and_costs_no_reading(
    bench: Bench, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Another version of the platform, or a proxy before it: no word on any record."""
    await bench.fill(3)
    bench.platform.replies = [lambda _: web.Response(status=status, text="speak louder")] * 5
    async with bench.running() as lane:
        await bench.handed_over(lane)
    assert bench.left() == 0
    assert bench.letters() == []
    taken = [offset for offsets in bench.platform.offsets()[5:] for offset in offsets]
    assert taken == [1, 2, 3]
    told = [record.getMessage() for record in caplog.records if "uplink" in record.getMessage()]
    assert len(told) == 2
    assert f"{status}: speak louder" in told[0]


async def test_a_batch_refused_as_a_whole_is_halved_until_the_culprit_stands_alone(bench: Bench) -> None:
    await bench.fill(7)

    def too_large(batch: Batch) -> Answer | web.Response:
        culprit = any(offset == 5 for offset, _ in batch.items)
        return web.Response(status=413, text="too large") if culprit else accept(batch)

    bench.platform.replies = [too_large] * 50
    async with bench.running() as lane:
        await bench.handed_over(lane)
    assert bench.left() == 0
    (record,) = bench.spool.log.read(STATE, after=0, limit=10)
    letter = wire.decode_body(record.body)
    assert isinstance(letter, wire.DeadLetter)
    assert letter.detail == "413: too large"


async def test_kept_records_are_sent_again_and_hold_nothing_back_for_good(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.fill(3)
    bench.platform.replies = [lambda _: Answer(accepted=[(1, 1), (3, 3)], keep=[2])]
    async with bench.running() as lane:
        await bench.platform.until(lambda: len(bench.platform.batches) == 2)
        await bench.handed_over(lane)
    assert bench.platform.offsets() == [[1, 2, 3], [2]]
    assert bench.left() == 0


async def test_a_new_process_goes_on_behind_what_was_accepted(bench: Bench) -> None:
    await bench.fill(3)
    bench.platform.replies = [lambda _: Answer(accepted=[(1, 2)], keep=[3])]
    async with bench.running():
        await bench.platform.until(lambda: len(bench.platform.batches) == 1)
        async with asyncio.timeout(10):
            while bench.spool.log.cursor(READER, BULK) != 2:
                await asyncio.sleep(0.005)
    before = len(bench.platform.batches)
    async with bench.running() as lane:
        await bench.handed_over(lane)
    assert all(offsets == [3] for offsets in bench.platform.offsets()[before:])
    assert bench.left() == 0


async def test_large_records_make_smaller_requests(bench: Bench) -> None:
    await bench.fill(5, bytes(400_000))
    async with bench.running() as lane:
        await bench.handed_over(lane)
    assert bench.platform.offsets() == [[1, 2], [3, 4], [5]]


async def test_crash_points_stand_on_both_sides_of_the_request(bench: Bench) -> None:
    requests_at: dict[str, int] = {}
    for point in ("uplink.before_post", "uplink.after_post"):
        await bench.fill(1)
        before = len(bench.platform.batches)

        def die(point: str = point, before: int = before) -> None:
            requests_at[point] = len(bench.platform.batches) - before

        bench.crash = CrashPoints(point, die=die)
        async with bench.running() as lane:
            await bench.handed_over(lane)
    assert requests_at == {"uplink.before_post": 0, "uplink.after_post": 1}


async def test_nobody_there_is_told_as_unreachable() -> None:
    async with PlatformClient("http://127.0.0.1:9", TOKEN) as client:
        with pytest.raises(Unreachable, match="cannot be reached"):
            await client.submit(SAFETY, Batch(spool="s", items=[]))


async def test_the_platforms_no_to_a_body_is_told_apart(platform: Platform, client: PlatformClient) -> None:
    platform.replies = [lambda _: web.Response(status=422, text="why")]
    with pytest.raises(BatchRefused, match="422: why"):
        await client.submit(STATE, Batch(spool="s", items=[(1, b"")]))


async def test_heartbeats_come_with_the_counters_of_the_moment(platform: Platform, client: PlatformClient) -> None:
    counted = iter(range(100))
    beat = Heartbeat(
        "gateway-1",
        client=client,
        clock=SetClock(7),
        random=lambda: 0.0,
        figures=lambda: {"stored": float(next(counted))},
        every=0.0,
    )
    task = asyncio.create_task(beat.run())
    await platform.until(lambda: len(platform.beats) >= 3)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert platform.beats[:2] == [
        wire.Heartbeat(gateway="gateway-1", time=7, counters={"stored": float(n)}) for n in (0, 1)
    ]


def roster(version: int, *devices: str) -> Roster:
    return Roster(version=version, devices=[RosterDevice(id=d, profile="generic/water-gauge") for d in devices])


def keeper(
    folder: Path, client: PlatformClient, devices: Devices, on_change: Callable[[Changes], None] = lambda _: None
) -> RosterKeeper:
    return RosterKeeper(
        folder / "roster.sealed",
        devices=devices,
        client=client,
        sealer=SEALER,
        random=lambda: 0.0,
        on_change=on_change,
    )


async def following(keeper: RosterKeeper, until: Callable[[], Awaitable[None]]) -> None:
    task = asyncio.create_task(keeper.run())
    try:
        await until()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_the_roster_is_followed_and_revoked_devices_are_told(
    tmp_path: Path, platform: Platform, client: PlatformClient
) -> None:
    devices, changes = Devices(CATALOGUE), list[Changes]()
    for answer in (roster(4, "a", "b"), None, roster(6, "b")):
        platform.rosters.put_nowait(answer)
    await following(
        keeper(tmp_path, client, devices, changes.append), lambda: platform.until(lambda: len(platform.versions) == 4)
    )
    assert platform.versions[1:] == [4, 4, 6]
    assert [change.cut for change in changes] == [(), ("a",)]
    assert [device.id for device in devices] == ["b"]


async def test_devices_are_served_from_the_cache_and_the_cache_is_sealed(
    tmp_path: Path, platform: Platform, client: PlatformClient
) -> None:
    platform.rosters.put_nowait(roster(4, "gauge-in-the-underpass"))
    await following(
        keeper(tmp_path, client, Devices(CATALOGUE)), lambda: platform.until(lambda: len(platform.versions) == 2)
    )
    stored = (tmp_path / "roster.sealed").read_bytes()
    assert b"gauge" not in stored
    assert (tmp_path / "roster.sealed").stat().st_mode & 0o077 == 0
    devices, changes = Devices(CATALOGUE), list[Changes]()
    keeper(tmp_path, client, devices, changes.append).load()
    assert devices.known("gauge-in-the-underpass")
    assert [change.added for change in changes] == [("gauge-in-the-underpass",)]


@pytest.mark.parametrize("content", [b"", b"short", bytes(200)])
async def test_a_cache_that_cannot_be_read_is_as_good_as_none(
    tmp_path: Path, client: PlatformClient, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "roster.sealed").write_bytes(content)
    devices = Devices(CATALOGUE)
    keeper(tmp_path, client, devices).load()
    assert len(devices) == 0
    assert "is not used" in caplog.text


async def test_a_link_too_slow_for_a_large_request_gets_smaller_ones(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, tried = bench.client.submit, list[int]()

    async def slow(lane: ReadingClass, batch: Batch) -> Answer:
        tried.append(len(batch.items))
        if len(batch.items) > 40:
            raise TooSlow("no answer in time")
        return await real(lane, batch)

    monkeypatch.setattr(bench.client, "submit", slow)
    await bench.fill(300)
    async with bench.running() as lane:
        await bench.handed_over(lane)
    assert bench.left() == 0
    failed = sum(size > 40 for size in tried)
    assert failed < len(tried) / 2, f"most requests get through: {tried}"
    assert sorted(offset for batch in bench.platform.offsets() for offset in batch) == list(range(1, 301))
