"""/api/v1/alerts and /dispatch/v1/cases over a real socket: bodies, filters, pages, histories, counts."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvicorn

from citysense.clock import SetClock
from citysense.keys import token_digest
from citysense_platform.alerts.book import AlertBook
from citysense_platform.alerts.queries import Alerts
from citysense_platform.alerts.routes import alerts_routes
from citysense_platform.api.app import build_api
from citysense_platform.city.database import City
from citysense_platform.dispatch.queries import Cases
from citysense_platform.dispatch.routes import dispatch_routes
from citysense_platform.rules.colour import Colour
from citysense_platform.rules.rule import Words
from citysense_platform.rules.state import Transition, TransitionKind

RAISED, UP, DOWN, CLEARED = TransitionKind
NOON = 1_795_190_400_000


def site_name(site: str) -> str:
    return {"7": "Underpass 1"}.get(site, "")


class Site:
    """A running API over a city.db that tests write alerts into."""

    def __init__(self, city: City, clock: SetClock) -> None:
        self.city, self.clock = city, clock
        self.alerts, self.cases = Alerts(city), Cases(city)
        self.book = AlertBook(clock=clock, site_name=site_name, responsible_unit="值班室 / duty office")
        self.session = aiohttp.ClientSession(headers={"Authorization": "Bearer admin"})
        self.url = ""

    async def happens(self, *transitions: Transition) -> None:
        self.clock.advance(1_000)
        await self.city.write(lambda connection: self.book.settle(connection, transitions), point="rules")

    async def get(self, path: str, status: int = 200) -> Any:
        async with self.session.get(self.url + path) as answer:
            assert answer.status == status, await answer.text()
            return await answer.json(content_type=None)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    city = City(f"sqlite:///{tmp_path / 'city.db'}")
    city.open()
    site = Site(city, SetClock(NOON))
    routers = [alerts_routes(site.alerts, site_name=site_name), dispatch_routes(site.cases, site_name=site_name)]
    api = build_api(admin_digest=token_digest("admin"), routers=routers, open_routers=[], title="t", version="0")
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(api, lifespan="off", log_config=None))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    site.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    yield site
    await site.session.close()
    server.should_exit = True
    await serving
    listener.close()
    city.close()


def change(
    kind: TransitionKind,
    colour: str,
    *,
    device: str = "gauge-001",
    episode: int = 1,
    value: float = 52.3,
    site: str = "7",
) -> Transition:
    return Transition(
        kind=kind,
        rule="water-level",
        rule_version="v1",
        device=device,
        site=site,
        episode=episode,
        colour=Colour(colour),
        value=value,
        unit="cm",
        data_time=NOON - 500,
        received=NOON - 400,
        silent=False,
        reason=Words(zh="因为", en="because"),
        title=Words(zh="积水{colour}预警：{site} 水位 {value}", en="{colour} water level warning: {site}, {value}"),
    )


ALERT = {
    "id": 1,
    "rule": "water-level",
    "rule_version": "v1",
    "device": "gauge-001",
    "site": "7",
    "site_name": "Underpass 1",
    "colour": "red",
    "peak_colour": "red",
    "state": "firing",
    "episode": 1,
    "value": 52.3,
    "unit": "cm",
    "data_time": "2026-11-20T15:59:59.500Z",
    "received": "2026-11-20T15:59:59.600Z",
    "opened": "2026-11-20T16:00:01.000Z",
    "resolved": None,
    "reason": {"zh": "因为", "en": "because"},
}
ZH, EN = "积水红色预警：Underpass 1 水位 52.3 cm", "Red water level warning: Underpass 1, 52.3 cm"
CASE = {
    "id": 1,
    "source": "alert",
    "alert": 1,
    "title": f"{ZH} / {EN}",
    "titles": {"zh": ZH, "en": EN},
    "colour": "red",
    "step": "open",
    "responsible_unit": "值班室 / duty office",
    "device": "gauge-001",
    "site": "7",
    "site_name": "Underpass 1",
    "data_time": "2026-11-20T15:59:59.500Z",
    "received": "2026-11-20T15:59:59.600Z",
    "opened": "2026-11-20T16:00:01.000Z",
    "drill": False,
}


async def test_a_red_alert_and_its_case(site: Site) -> None:
    await site.happens(change(RAISED, "red"))
    assert await site.get("/api/v1/alerts") == {"items": [ALERT], "next": None}
    assert await site.get("/dispatch/v1/cases") == {"items": [CASE], "next": None}


async def test_histories_tell_all_with_the_reasons(site: Site) -> None:
    await site.happens(change(RAISED, "yellow", value=26))
    await site.happens(change(UP, "red"))
    await site.happens(change(DOWN, "yellow", value=30))
    await site.happens(change(UP, "orange", value=41))
    await site.happens(change(CLEARED, "orange", value=3))
    shown = await site.get("/api/v1/alerts/1")
    history = shown.pop("history")
    later = {"colour": "orange", "state": "resolved", "value": 3, "resolved": "2026-11-20T16:00:05.000Z"}
    assert shown == {**ALERT, **later}
    assert [(h["at"][14:19], h["kind"], h["decision"], h["decision_reason"], h["value"]) for h in history] == [
        ("00:01", "raised", "open_case", "first_of_episode", 26),
        ("00:02", "stepped_up", "escalate", "higher_colour", 52.3),
        ("00:03", "stepped_down", "deescalate", "lower_colour", 30),
        ("00:04", "stepped_up", "escalate", "higher_colour", 41),
        ("00:05", "cleared", "resolve", "condition_over", 3),
    ]
    shown = await site.get("/dispatch/v1/cases/1")
    history = shown.pop("history")
    assert shown == CASE, "title and colour are those of the highest colour; a person closes it"
    assert [(h["event"], h["colour"], h["step"], h["by"]) for h in history] == [
        ("opened", "yellow", "open", "citysense"),
        ("escalated", "red", "open", "citysense"),
        ("deescalated", "red", "open", "citysense"),
        ("escalated", "red", "open", "citysense"),
        ("sensor_cleared", "red", "open", "citysense"),
    ]
    assert history[0]["note"] == {"zh": "因为", "en": "because"}


async def test_one_case_for_an_episode_whatever_comes_twice(site: Site) -> None:
    await site.happens(change(RAISED, "red"), change(RAISED, "red"))
    await site.happens(change(RAISED, "red"))
    await site.happens(change(CLEARED, "red"), change(CLEARED, "red"))
    await site.happens(change(UP, "red", episode=1))
    assert await site.cases.total() == 1
    ignored = [
        h["decision_reason"] for h in (await site.get("/api/v1/alerts/1"))["history"] if h["decision"] == "ignore"
    ]
    assert ignored == ["already_open", "already_open", "already_resolved", "already_resolved"]


async def test_an_end_without_a_beginning_is_nothing(site: Site) -> None:
    await site.happens(change(CLEARED, "red"))
    assert await site.get("/api/v1/alerts") == {"items": [], "next": None}


async def test_a_device_without_a_site_is_named_itself(site: Site) -> None:
    await site.happens(change(RAISED, "blue", site="", value=16))
    (shown,) = (await site.get("/dispatch/v1/cases"))["items"]
    assert (shown["site"], shown["site_name"]) == (None, None)
    assert shown["titles"]["en"] == "Blue water level warning: gauge-001, 16 cm"


async def test_lists_are_filtered_and_paged(site: Site) -> None:
    for n in range(1, 6):
        await site.happens(change(RAISED, "red" if n % 2 else "blue", device=f"g{n}"))
    await site.happens(change(CLEARED, "red", device="g5"))

    async def ids(path: str) -> list[int]:
        return [item["id"] for item in (await site.get(path))["items"]]

    assert await ids("/api/v1/alerts") == [5, 4, 3, 2, 1]
    assert await ids("/api/v1/alerts?state=firing&colour=red") == [3, 1]
    assert await ids("/api/v1/alerts?device=g2") == [2]
    assert await ids("/dispatch/v1/cases?colour=blue&step=open") == [4, 2]
    assert await ids("/dispatch/v1/cases?device=g4") == [4]
    assert await ids("/dispatch/v1/cases?after=0&limit=2") == [1, 2]
    assert await ids("/dispatch/v1/cases?after=2&colour=red") == [3, 5]
    assert await ids("/dispatch/v1/cases?after=5") == []
    for path, wanted in (
        ("/api/v1/alerts?limit=2", [5, 4, 3, 2, 1]),
        ("/dispatch/v1/cases?limit=2", [5, 4, 3, 2, 1]),
        ("/dispatch/v1/cases?after=1&limit=2", [2, 3, 4, 5]),
    ):
        found: list[int] = []
        cursor = None
        while True:
            shown = await site.get(path if cursor is None else f"{path}&cursor={cursor}")
            found += [item["id"] for item in shown["items"]]
            cursor = shown["next"]
            if cursor is None:
                break
        assert found == wanted


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/alerts?colour=green",
        "/api/v1/alerts?state=open",
        "/api/v1/alerts?limit=0",
        "/api/v1/alerts?cursor=abc",
        "/api/v1/alerts/0",
        "/api/v1/alerts/x",
        f"/api/v1/alerts/{2**63}",
        "/dispatch/v1/cases?step=closed",
        "/dispatch/v1/cases?after=-1",
        f"/dispatch/v1/cases?after={2**63}",
        "/dispatch/v1/cases?cursor=1;drop",
        f"/dispatch/v1/cases?cursor={9 * 10**18}9",
    ],
)
async def test_questions_that_make_no_sense_are_refused(site: Site, path: str) -> None:
    assert (await site.get(path, 422))["code"] in ("invalid", "invalid_cursor")


@pytest.mark.parametrize("path", ["/api/v1/alerts/7", "/dispatch/v1/cases/7"])
async def test_what_is_not_there_is_not_found(site: Site, path: str) -> None:
    assert (await site.get(path, 404))["code"] == "not_found"


async def test_counts_for_the_live_view(site: Site) -> None:
    assert await site.alerts.open_by_colour() == {"blue": 0, "yellow": 0, "orange": 0, "red": 0}
    for n, colour in enumerate(["blue", "red", "red", "orange"]):
        await site.happens(change(RAISED, colour, device=f"g{n}"))
    await site.happens(change(CLEARED, "red", device="g1"))
    assert await site.alerts.open_by_colour() == {"blue": 1, "yellow": 0, "orange": 1, "red": 1}
    assert await site.cases.total() == 4
