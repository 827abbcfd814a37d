"""A gateway whose ledger does not balance: one alert, one case, and an end to both after a minute of balance."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from citysense import wire
from citysense.clock import SetClock
from citysense.errors import StorageFull
from citysense_platform.alerts.book import AlertBook
from citysense_platform.alerts.queries import Alerts
from citysense_platform.city.database import City
from citysense_platform.dispatch.queries import CaseFilter, Cases
from citysense_platform.ingest.gateways import GatewayStates
from citysense_platform.operation.ledger_watch import CLEAR_MS, RULE, SILENT_MS, LedgerWatch

NOW = 1_795_190_934_423


class Box:
    """A city, a clock, the heartbeats, and the watch over them."""

    def __init__(self, folder: Path) -> None:
        self.clock = SetClock(NOW)
        self.city = City(f"sqlite:///{folder}/city.db")
        self.city.open()
        self.states = GatewayStates()
        self.watch = self.new_watch()

    def new_watch(self) -> LedgerWatch:
        book = AlertBook(clock=self.clock, site_name=lambda _: "", responsible_unit="值班室 / duty office")
        return LedgerWatch(self.city, latest=self.states.latest, settle=book.settle, clock=self.clock)

    async def beat(self, unbalanced: float | None, gateway: str = "gateway-1") -> None:
        counters = {"stored": 5.0} if unbalanced is None else {"ledger.unbalanced": unbalanced}
        sign = wire.Heartbeat(gateway=gateway, time=self.clock.now_ms(), counters=counters)
        self.states.note(gateway, sign, arrived=self.clock.now_ms())
        await self.watch.look()

    async def balance_for(self, ms: int) -> None:
        for _ in range(ms // 1000):
            self.clock.advance(1000)
            await self.beat(0.0)

    async def alerts(self) -> list[tuple[str, str, int]]:
        rows = await Alerts(self.city).newest(state=None, colour=None, device=None, before=None, limit=10)
        return [(row["device"], row["state"], row["episode"]) for row in rows]


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Box]:
    box = Box(tmp_path)
    yield box
    box.city.close()


async def test_an_unbalanced_ledger_is_one_alert_with_its_case(box: Box) -> None:
    await box.beat(None)
    await box.beat(0.0)
    assert await box.alerts() == []
    for unbalanced in (3.0, 3.0, 4.0):
        await box.beat(unbalanced)
    assert await box.alerts() == [("gateway-1", "firing", 1)]
    [row] = await Alerts(box.city).newest(state=None, colour=None, device="gateway-1", before=None, limit=10)
    assert (row["rule"], row["colour"], row["value"], row["site"], row["data_time"]) == (RULE, "orange", 3.0, "", NOW)
    assert row["reason"] == {
        "zh": "网关台账有 3 条收到的数据去向不明",
        "en": "3 frames or records of this gateway are in none of the ledger's bins",
    }
    [case] = await Cases(box.city).newest(CaseFilter(), before=None, limit=10)
    assert (case["title_zh"], case["title_en"]) == (
        "gateway-1：收发台账不平（3）",
        "Conservation ledger of gateway-1 does not balance (3)",
    )
    assert case["idempotency_key"] == "system/ledger/gateway-1/1"


async def test_it_ends_after_a_minute_of_balance_and_begins_anew(box: Box) -> None:
    await box.beat(3.0)
    await box.balance_for(CLEAR_MS - 10_000)
    await box.beat(1.0)
    await box.balance_for(CLEAR_MS)
    assert await box.alerts() == [("gateway-1", "firing", 1)], "the minute began again with the last one"
    await box.balance_for(1_000)
    assert await box.alerts() == [("gateway-1", "resolved", 1)]
    await box.beat(2.0)
    assert await box.alerts() == [("gateway-1", "firing", 2), ("gateway-1", "resolved", 1)]


async def test_silence_is_no_balance(box: Box) -> None:
    await box.beat(3.0)
    box.clock.advance(1000)
    await box.beat(0.0)
    for _ in range(3):
        box.clock.advance(CLEAR_MS)
        await box.watch.look()
    await box.beat(0.0)
    assert await box.alerts() == [("gateway-1", "firing", 1)], "nobody knows what was in between"
    assert SILENT_MS < CLEAR_MS


async def test_each_gateway_has_its_own_and_a_restart_knows_them(box: Box) -> None:
    await box.beat(3.0)
    await box.beat(1.0, gateway="gateway-2")
    box.watch = box.new_watch()
    await box.beat(3.0)
    assert sorted(await box.alerts()) == [("gateway-1", "firing", 1), ("gateway-2", "firing", 1)]
    await box.balance_for(CLEAR_MS + 1_000)
    assert sorted(await box.alerts()) == [("gateway-1", "resolved", 1), ("gateway-2", "firing", 1)]


async def test_what_could_not_be_written_is_written_at_the_next_look(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise StorageFull("no space")

    with monkeypatch.context() as full:
        full.setattr(box.city, "write", refuse)
        with pytest.raises(StorageFull):
            await box.beat(3.0)
    assert await box.alerts() == []
    await box.watch.look()
    assert await box.alerts() == [("gateway-1", "firing", 1)]
