"""From the log to alerts and cases in a real city.db: each episode once, also across crashes and full disks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest
from sqlalchemy import Connection, func, insert, select

from citysense import wire
from citysense.clock import SetClock
from citysense.crash_points import CrashPoints
from citysense.durable_log import Entry
from citysense.errors import StorageError, StorageFull
from citysense_platform.alerts.book import AlertBook
from citysense_platform.alerts.tables import alert, alert_history
from citysense_platform.city.database import City
from citysense_platform.dispatch.tables import case, case_history
from citysense_platform.ingest.log import platform_log
from citysense_platform.rules.model import DEFAULT_PACK, load_pack
from citysense_platform.rules.runner import READER, Opened, RulesRunner
from citysense_platform.rules.tables import rule_cursor, rule_state
from citysense_profiles.reading import ReadingClass

SAFETY, STATE = ReadingClass.SAFETY, ReadingClass.STATE
PACK = load_pack(DEFAULT_PACK, speed=60)


class Crashed(BaseException):
    """Stands for the end of the process; nothing catches it on the way."""


class Box:
    """One data folder; its runner may die and start again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = SetClock(1_000_000)
        self.log = platform_log(folder / "log.db", clock=self.clock)
        self.log.open()
        self.city = self._open_city(None)

    def _open_city(self, crash: CrashPoints | None) -> City:
        city = City(f"sqlite:///{self.folder / 'city.db'}", crash=crash)
        city.open()
        return city

    def restart_city(self, crash: CrashPoints | None = None) -> None:
        self.city.close()
        self.city = self._open_city(crash)

    async def runner(self) -> RulesRunner:
        book = AlertBook(
            clock=self.clock, site_name=lambda site: {"7": "Underpass 1"}.get(site, ""), responsible_unit="duty"
        )
        runner = RulesRunner(log=self.log, city=self.city, pack=PACK, settle=book.settle, clock=self.clock)
        await runner.load()
        return runner

    async def judge(self) -> RulesRunner:
        runner = await self.runner()
        await drain(runner)
        return runner

    def close(self) -> None:
        self.city.close()
        self.log.close()


async def drain(runner: RulesRunner) -> None:
    while await runner.judge_batches():
        pass
    await runner.commit()


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Box]:
    box = Box(tmp_path)
    yield box
    box.close()


def level(value: float, time: int, device: str = "gauge-001") -> Entry:
    return entry(SAFETY, "water.level", value, time, device, "waterlogging_gauge")


def pile(value: str, time: int) -> Entry:
    return entry(STATE, "pile.state", value, time, "pile-001", "charging_pile")


def entry(cls: ReadingClass, metric: str, value: wire.Value, time: int, device: str, kind: str) -> Entry:
    readings = wire.Readings(
        device=device,
        profile="p",
        kind=kind,
        message="report",
        received=time + 40,
        identity="credential",
        samples=[wire.SampleBody(time=time, values={metric: value})],
        site="7",
        gateway="gw-1",
    )
    return Entry(cls=cls, body=wire.encode(readings), device=device, time=time)


def tick(time: int) -> list[Entry]:
    return [Entry(cls=lane, body=wire.encode(wire.Tick(time=time)), device="", time=time) for lane in (SAFETY, STATE)]


STORM = [
    level(55.0, 1_000_000),
    level(55.0, 1_001_000),
    pile("faulted", 1_001_500),
    *tick(1_002_000),
    level(30.0, 1_003_000),
    level(30.0, 1_008_000),
    level(3.0, 1_009_000),
    *tick(1_010_000),
    *[row for second in range(11, 16) for row in tick(1_000_000 + second * 1_000)],
    pile("available", 1_016_000),
    pile("available", 1_017_000),
    level(16.0, 1_017_000),
    level(16.0, 1_018_000),
]


def rows(connection: Connection) -> dict[str, list[tuple[object, ...]]]:
    """Everything that must not depend on when the process died; `opened`, `at` stand still in these tests."""
    return {
        table.name: [tuple(row) for row in connection.execute(select(table).order_by(table.c.id))]
        for table in (alert, alert_history, case, case_history)
    }


async def expected(tmp_path: Path) -> dict[str, list[tuple[object, ...]]]:
    folder = tmp_path / "reference"
    folder.mkdir()
    box = Box(folder)
    await box.log.append_entries(STORM, urgent=True)
    await box.judge()
    found = await box.city.read(rows)
    box.close()
    return found


async def test_a_storm_becomes_alerts_cases_and_their_histories(box: Box) -> None:
    await box.log.append_entries(STORM, urgent=True)
    runner = await box.judge()
    found = await box.city.read(rows)
    shown = select(alert.c.rule, alert.c.device, alert.c.episode, alert.c.state, alert.c.colour, alert.c.peak_colour)
    alerts = await box.city.read(lambda c: [tuple(row) for row in c.execute(shown.order_by(alert.c.id))])
    assert alerts == [
        ("water-level", "gauge-001", 1, "resolved", "yellow", "red"),
        ("water-level", "gauge-001", 2, "firing", "blue", "blue"),
        ("pile-fault", "pile-001", 1, "resolved", "yellow", "yellow"),
    ]
    listed = select(case.c.alert_id, case.c.idempotency_key, case.c.colour, case.c.step, case.c.title_en)
    cases = await box.city.read(lambda c: [tuple(row) for row in c.execute(listed.order_by(case.c.id))])
    assert cases == [
        (1, "water-level/gauge-001/1", "red", "open", "Red water level warning: Underpass 1, 55 cm"),
        (2, "water-level/gauge-001/2", "blue", "open", "Blue water level warning: Underpass 1, 16 cm"),
        (3, "pile-fault/pile-001/1", "yellow", "open", "Yellow alert: charging pile out of order at Underpass 1"),
    ]
    told = select(case_history.c.case_id, case_history.c.event, case_history.c.by)
    history = await box.city.read(lambda c: [tuple(row) for row in c.execute(told.order_by(case_history.c.id))])
    assert history == [
        (1, "opened", "citysense"),
        (1, "deescalated", "citysense"),
        (1, "sensor_cleared", "citysense"),
        (2, "opened", "citysense"),
        (3, "opened", "citysense"),
        (3, "sensor_cleared", "citysense"),
    ]
    decided = select(alert_history.c.kind, alert_history.c.decision, alert_history.c.decision_reason)
    why = await box.city.read(
        lambda c: [
            tuple(row) for row in c.execute(decided.where(alert_history.c.alert_id == 1).order_by(alert_history.c.id))
        ]
    )
    assert why == [
        ("raised", "open_case", "first_of_episode"),
        ("stepped_down", "deescalate", "lower_colour"),
        ("cleared", "resolve", "condition_over"),
    ]
    assert len(found["case_"]) == runner.cases_opened == len(runner.frame_to_case) == 3
    assert runner.frame_to_case[0] == 1_000_000 - 1_001_040
    assert runner.lag_ms(SAFETY) == 1_000_000 - 1_015_000


async def test_rising_water_escalates_the_one_case(box: Box) -> None:
    water = [
        level(value, 1_000_000 + n * 500) for n, value in enumerate([16.0, 16.0, 16.0, 30.0, 30.0, 55.0, 55.0, 55.0])
    ]
    await box.log.append_entries(water, urgent=True)
    await box.judge()
    listed = select(case.c.colour, case.c.title_zh)
    assert await box.city.read(lambda c: [tuple(row) for row in c.execute(listed)]) == [
        ("red", "积水红色预警：Underpass 1 水位 55 cm")
    ]
    told = select(case_history.c.event, case_history.c.colour).order_by(case_history.c.id)
    assert await box.city.read(lambda c: [tuple(row) for row in c.execute(told)]) == [
        ("opened", "blue"),
        ("escalated", "yellow"),
        ("escalated", "red"),
    ]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
async def test_any_batch_size_gives_the_same(
    box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    wanted = await expected(tmp_path)
    monkeypatch.setattr("citysense_platform.rules.runner.BATCH", size)
    await box.log.append_entries(STORM, urgent=True)
    await box.judge()
    found = await box.city.read(rows)
    assert unnumbered(found) == unnumbered(wanted)


def unnumbered(found: dict[str, list[tuple[object, ...]]]) -> dict[str, list[str]]:
    """Without ids, in an order of their own: with smaller batches the two lanes alternate more often."""
    alerts = {row[0]: f"{row[1]}/{row[3]}/{row[5]}" for row in found["alert"]}
    cases = {row[0]: row[3] for row in found["case_"]}
    return {
        "alert": sorted(repr(row[1:]) for row in found["alert"]),
        "alert_history": sorted(repr((alerts[row[1]], *row[2:])) for row in found["alert_history"]),
        "case_": sorted(repr((alerts[row[2]], row[1], *row[3:])) for row in found["case_"]),
        "case_history": sorted(repr((cases[row[1]], *row[2:])) for row in found["case_history"]),
    }


@pytest.mark.parametrize("point", ["rules.before_commit", "rules.after_commit"])
@pytest.mark.parametrize("passing", [1, 2, 3, 4])
async def test_a_crash_around_any_commit_doubles_and_loses_nothing(
    box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str, passing: int
) -> None:
    monkeypatch.setattr("citysense_platform.rules.runner.BATCH", 3)
    wanted = await expected(tmp_path)
    deaths = 0

    def die() -> None:
        nonlocal deaths
        deaths += 1
        raise Crashed

    await box.log.append_entries(STORM, urgent=True)
    box.restart_city(CrashPoints(f"{point}:{passing}", die=die))
    with pytest.raises(Crashed):
        await box.judge()
    assert deaths == 1
    box.restart_city()
    await box.judge()
    assert unnumbered(await box.city.read(rows)) == unnumbered(wanted)


async def test_a_restart_after_every_record_changes_nothing(box: Box, tmp_path: Path) -> None:
    wanted = await expected(tmp_path)
    for one in STORM:
        await box.log.append_entries([one], urgent=True)
        await box.judge()
    assert unnumbered(await box.city.read(rows)) == unnumbered(wanted)


async def test_judged_but_uncommitted_readings_are_judged_again(box: Box) -> None:
    await box.log.append_entries([level(55.0, 1_000_000)], urgent=True)
    first = await box.runner()
    assert await first.judge_batches()
    assert await box.city.read(lambda c: c.execute(select(func.count()).select_from(rule_cursor)).scalar_one()) == 0
    await box.log.append_entries([level(55.0, 1_001_000)], urgent=True)
    await box.judge()
    assert await box.city.read(lambda c: c.execute(select(case.c.id)).scalars().all()) == [1]


async def test_a_refused_commit_is_tried_again_before_anything_else(box: Box) -> None:
    await box.log.append_entries(STORM, urgent=True)
    runner = await box.runner()
    settle: Callable[..., Sequence[Opened]] = runner._settle
    refusals = [StorageFull("no space"), StorageFull("no space")]

    def refusing(connection: Connection, transitions: Sequence[object]) -> Sequence[Opened]:
        opened = settle(connection, transitions)
        if refusals:
            raise refusals.pop()
        return opened

    runner._settle = refusing
    for _ in range(2):
        with pytest.raises(StorageFull):
            await runner.judge_batches()
    assert runner.offset(STATE) == 0, "nothing more is judged while something waits to be written"
    assert await box.city.read(lambda c: c.execute(select(case.c.id)).all()) == []
    await drain(runner)
    assert len(await box.city.read(lambda c: c.execute(select(case.c.id)).all())) == 3
    assert runner.cases_opened == 3


async def test_run_follows_the_log_and_says_how_far(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("citysense_platform.rules.runner.LAZY_S", 0.0)
    runner = await box.runner()
    running = asyncio.create_task(runner.run())
    await box.log.append_entries(STORM, urgent=True)
    last = box.log.read(SAFETY, after=0, limit=1_000)[-1].offset
    async with asyncio.timeout(20):
        while runner.cases_opened < 3 or box.log.cursor(READER, SAFETY) < last:
            await asyncio.sleep(0.005)
    assert runner.offset(SAFETY) == last
    box.city.close()
    await box.log.append_entries([level(3.0, 1_030_000)], urgent=True)
    async with asyncio.timeout(20):
        await running


async def test_memory_that_cannot_be_read_stops_the_start_with_a_sentence(box: Box) -> None:
    broken = insert(rule_state).values(rule="water-level", device="gauge-001", body=b"\xc1")
    await box.city.write(lambda c: c.execute(broken) and None)
    with pytest.raises(StorageError, match="what rule water-level remembers of device gauge-001 cannot be read"):
        await box.runner()


async def test_an_unreadable_record_is_passed_over(box: Box, caplog: pytest.LogCaptureFixture) -> None:
    broken = Entry(cls=SAFETY, body=b"\xc1", device="", time=0)
    await box.log.append_entries([level(55.0, 1_000_000), broken, level(55.0, 1_001_000)], urgent=True)
    runner = await box.judge()
    assert runner.cases_opened == 1
    assert runner.outcomes["unreadable"] == 1
    assert "passed over" in caplog.text


async def test_a_log_made_anew_is_read_from_its_start(box: Box, caplog: pytest.LogCaptureFixture) -> None:
    await box.log.append_entries(STORM, urgent=True)
    await box.judge()
    box.log.close()
    for file in box.folder.glob("log.*"):
        file.unlink()
    box.log = platform_log(box.folder / "log.db", clock=box.clock)
    box.log.open()
    await box.log.append_entries(
        [level(55.0, 1_030_000, "gauge-002"), level(55.0, 1_031_000, "gauge-002")], urgent=True
    )
    runner = await box.judge()
    assert runner.cases_opened == 1
    assert "not the one that was read before" in caplog.text
