"""Downlinks and letters read again: over HTTP in, to the gateway as orders, and its outcomes back."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import uvicorn

from citysense import wire
from citysense.clock import SetClock
from citysense.keys import token_digest
from citysense_platform.api.app import build_api
from citysense_platform.city.database import City
from citysense_platform.downlinks import order_book
from citysense_platform.downlinks.decide import MOST_WAITING
from citysense_platform.downlinks.downlinks import Downlinks
from citysense_platform.downlinks.order import OUTCOME_GRACE_MS, OrderKind
from citysense_platform.downlinks.order_book import OrderBook
from citysense_platform.downlinks.routes import downlink_routes
from citysense_platform.events import again as again_module
from citysense_platform.events.again import LettersAgain
from citysense_platform.events.again_routes import again_routes
from citysense_platform.events.event_store import EventStore
from citysense_platform.events.routes import event_routes
from citysense_platform.registry import rows as registry_rows
from citysense_platform.registry.device import NewDevice
from citysense_platform.store.follower import Taken
from citysense_profiles.catalogue import load_catalogue
from citysense_profiles.reading import ReadingClass
from citysense_profiles.vocabulary import load_vocabulary

TOKEN = "the-admin-token"
NOW = 1_795_190_934_423
CATALOGUE = load_catalogue()
DEVICES = {"well-1": "decentlab/dl-ctd10", "well-2": "decentlab/dl-ctd10", "pile-1": "keba/p30"}
PERIOD: dict[str, Any] = {"message": "set_period", "values": {"config.report_interval": 600}}
PATH = "/api/v1/devices/well-1/downlinks"


@dataclass
class Platform:
    http: aiohttp.ClientSession
    clock: SetClock
    city: City
    orders: OrderBook
    events: EventStore
    offset: int = 0

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        async with self.http.request(method, path, json=body) as response:
            return response.status, await response.json(content_type=None)

    async def send(self, **changes: Any) -> Any:
        status, answer = await self.ask("POST", PATH, {**PERIOD, **changes})
        assert status == 202, answer
        return answer

    async def handed(self, gateway: str = "gw-1", after: int = 0) -> list[wire.Order]:
        found = await self.orders.orders(gateway, after, 0)
        if found is None:
            return []
        # As it goes over the wire.
        return msgspec.msgpack.decode(wire.encode(found), type=wire.Orders).orders

    async def say(self, order: str, state: str, detail: str = "", gateway: str = "gw-1", time: int = NOW + 5) -> None:
        outcome = wire.Outcome(id=order, state=state, time=time, detail=detail)
        await self.orders.outcomes(gateway, wire.Outcomes(outcomes=[outcome]))

    async def state(self, order: str) -> str:
        return str((await self.ask("GET", f"/api/v1/downlinks/{order}"))[1]["state"])

    async def keep(self, *letters: wire.DeadLetter) -> None:
        self.offset += 100
        records = [Taken(cls=ReadingClass.STATE, offset=self.offset + i, body=one) for i, one in enumerate(letters)]
        await self.events.take(records, cursors=dict.fromkeys(ReadingClass, self.offset + 99))


@pytest.fixture
async def platform(tmp_path: Path) -> AsyncIterator[Platform]:
    clock = SetClock(NOW)
    city = City(f"sqlite:///{tmp_path}/city.db")
    city.open()

    def fill(connection: Any) -> None:
        for gateway in ("gw-1", "gw-2"):
            registry_rows.keep_gateway(connection, gateway, gateway.encode(), now=NOW)
        for device, profile in DEVICES.items():
            new = NewDevice(
                id=device, profile=profile, site=None, endpoint=None, serial=None, settings={}, credential=None
            )
            gateway = "gw-2" if device == "well-2" else "gw-1"
            registry_rows.add_device(connection, new, gateway=gateway, credential=None, now=NOW)

    await city.write(fill)
    events = EventStore(tmp_path / "events", clock=clock)
    await events.open(log_id="log-1")
    orders = OrderBook(city, clock)
    again = LettersAgain(city, orders, clock)

    async def known(device: str) -> bool:
        return device in DEVICES

    api = build_api(
        admin_digest=token_digest(TOKEN),
        routers=[
            downlink_routes(Downlinks(city, CATALOGUE, load_vocabulary(), orders, clock), known),
            again_routes(events, again),
            event_routes(events, known, again),
        ],
        open_routers=[],
        title="citysense",
        version="0",
    )
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(api, log_config=None, lifespan="off", ws="none"))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started:
            await asyncio.sleep(0.001)
        base = f"http://127.0.0.1:{listening.getsockname()[1]}"
        async with aiohttp.ClientSession(base, headers={"Authorization": f"Bearer {TOKEN}"}) as http:
            yield Platform(http, clock, city, orders, events)
        server.should_exit = True
        await serving
    await events.close()
    city.close()


async def test_a_message_goes_to_its_devices_gateway_and_its_outcome_comes_back(platform: Platform) -> None:
    sent = await platform.send(ttl=60, priority=3, supersedes="period")
    assert sent == {
        "id": f"d{NOW}",
        "device": "well-1",
        "gateway": "gw-1",
        "message": "set_period",
        "values": {"config.report_interval": 600},
        "priority": 3,
        "supersedes": "period",
        "once": False,
        "created": "2026-11-20T16:08:54.423Z",
        "expires": "2026-11-20T16:09:54.423Z",
        "handed": None,
        "state": "waiting",
        "detail": "",
        "changed": "2026-11-20T16:08:54.423Z",
    }
    assert await platform.handed("gw-2") == []
    [order] = await platform.handed()
    assert order == wire.Downlink(
        number=NOW,
        id=f"d{NOW}",
        device="well-1",
        message="set_period",
        values={"config.report_interval": 600},
        expires=NOW + 60_000,
        priority=3,
        supersedes="period",
    )
    await platform.say(order.id, "sent")
    await platform.say(order.id, "delivered", "PUBACK")
    status, shown = await platform.ask("GET", f"/api/v1/downlinks/{order.id}")
    assert (status, shown["state"], shown["detail"]) == (200, "delivered", "PUBACK")
    assert [(step["state"], step["by"]) for step in shown["history"]] == [
        ("waiting", "person"),
        ("sent", "gateway"),
        ("delivered", "gateway"),
    ]
    assert await platform.handed() == []


async def test_orders_come_again_until_the_gateway_asks_beyond_them(platform: Platform) -> None:
    first, second = await platform.send(), await platform.send()
    numbers = [order.number for order in await platform.handed()]
    assert numbers == sorted(numbers) == [int(one["id"][1:]) for one in (first, second)]
    assert [order.number for order in await platform.handed()] == numbers
    assert [order.number for order in await platform.handed(after=numbers[0])] == numbers[1:]
    assert await platform.handed(after=numbers[1]) == []


async def test_numbers_grow_over_all_gateways_and_after_a_restored_backup(platform: Platform) -> None:
    ids = []
    for device in ("well-1", "well-2", "well-1"):
        _, sent = await platform.ask("POST", f"/api/v1/devices/{device}/downlinks", PERIOD)
        ids.append(int(sent["id"][1:]))
    assert ids == [NOW, NOW + 1, NOW + 2]
    platform.clock.advance(10_000)
    # Even if the newest had been lost with the disk, the next one is beyond what a gateway has seen.
    assert int((await platform.send())["id"][1:]) == NOW + 10_000


async def test_a_gateway_that_waits_is_woken(platform: Platform) -> None:
    waiting = asyncio.create_task(platform.orders.orders("gw-1", 0, 60))
    await asyncio.sleep(0)
    await platform.send()
    found = await asyncio.wait_for(waiting, 10)
    assert found is not None
    assert len(found.orders) == 1
    waiting = asyncio.create_task(platform.orders.orders("gw-1", found.orders[0].number, 60))
    await asyncio.sleep(0)
    platform.orders.close()
    assert await asyncio.wait_for(waiting, 10) is None


async def test_outcomes_are_idempotent_and_nobody_elses(platform: Platform) -> None:
    sent = await platform.send()
    await platform.handed()
    await platform.say(sent["id"], "delivered", gateway="gw-2")
    await platform.say("d1", "delivered")
    await platform.say(sent["id"], "eaten")
    assert await platform.state(sent["id"]) == "waiting"
    for _ in range(3):
        await platform.say(sent["id"], "refused", "a\x00b" + "x" * 1000)
    _, shown = await platform.ask("GET", f"/api/v1/downlinks/{sent['id']}")
    assert (shown["state"], len(shown["history"])) == ("refused", 2)
    assert shown["detail"].startswith("a?bxxx")
    assert len(shown["detail"]) == 500
    assert platform.orders.counters == {
        "handed": 1,
        "outcomes": 1,
        "ignored.other_gateway": 1,
        "ignored.no_such_order": 1,
        "ignored.strange_state": 1,
        "ignored.repeated": 2,
    }


@pytest.mark.parametrize("time", [-5, 2**62, 2**63 + 5])
async def test_a_gateway_with_a_broken_clock_is_still_heard(platform: Platform, time: int) -> None:
    sent = await platform.send()
    await platform.say(sent["id"], "delivered", time=time)
    assert (await platform.ask("GET", f"/api/v1/downlinks/{sent['id']}"))[1]["state"] == "delivered"


async def test_a_message_is_called_back_until_its_gateway_has_it(platform: Platform) -> None:
    early, late = await platform.send(), await platform.send()
    status, gone = await platform.ask("DELETE", f"/api/v1/downlinks/{early['id']}")
    assert (status, gone["state"]) == (200, "cancelled")
    assert (await platform.ask("DELETE", f"/api/v1/downlinks/{early['id']}"))[0] == 200
    assert [order.id for order in await platform.handed()] == [late["id"]]
    status, problem = await platform.ask("DELETE", f"/api/v1/downlinks/{late['id']}")
    assert (status, problem["code"]) == (409, "not_waiting")
    await platform.say(late["id"], "delivered")
    _, problem = await platform.ask("DELETE", f"/api/v1/downlinks/{late['id']}")
    assert "it is delivered" in problem["detail"]
    assert (await platform.ask("DELETE", "/api/v1/downlinks/d1"))[0] == 404


async def test_a_newer_message_supersedes_what_no_gateway_has_yet(platform: Platform) -> None:
    old = await platform.send(supersedes="period")
    other = await platform.send(supersedes="limit")
    new = await platform.send(supersedes="period")
    assert await platform.state(old["id"]) == "superseded"
    assert [order.id for order in await platform.handed()] == [other["id"], new["id"]]
    newest = await platform.send(supersedes="period")
    assert await platform.state(new["id"]) == "waiting", "its gateway has it, and drops it for the next one"
    assert [order.id for order in await platform.handed()][-1] == newest["id"]


async def test_a_revoked_device_gets_nothing_that_no_gateway_has_yet(platform: Platform) -> None:
    old = await platform.send()
    assert len(await platform.handed()) == 1
    new = await platform.send()
    await platform.city.write(lambda connection: registry_rows.revoke_device(connection, "well-1", now=NOW))
    # Its gateway has the first already and will say itself what became of it.
    assert [order.id for order in await platform.handed()] == [old["id"]]
    await platform.orders.sweep()
    _, shown = await platform.ask("GET", f"/api/v1/downlinks/{new['id']}")
    assert (shown["state"], shown["detail"]) == ("refused", "the device is revoked")
    assert await platform.state(old["id"]) == "waiting"


async def test_what_runs_out_is_closed_and_a_late_outcome_still_counts(platform: Platform) -> None:
    never, held, once = await platform.send(ttl=10), await platform.send(ttl=20), await platform.send(ttl=20, once=True)
    await platform.ask("DELETE", f"/api/v1/downlinks/{(await platform.send())['id']}")
    platform.clock.advance(10_000)
    assert [order.id for order in await platform.handed()] == [held["id"], once["id"]]
    await platform.say(once["id"], "sent")
    assert [order.id for order in await platform.handed()] == [held["id"]], "what may be done once is not handed again"
    await platform.orders.sweep()
    assert platform.orders.open[OrderKind.DOWNLINK] == 3
    assert [await platform.state(one["id"]) for one in (never, held, once)] == ["expired", "waiting", "sent"]
    platform.clock.advance(10_000 + OUTCOME_GRACE_MS)
    await platform.orders.sweep()
    assert [await platform.state(one["id"]) for one in (never, held, once)] == ["expired", "expired", "unknown"]
    await platform.say(once["id"], "delivered")
    assert await platform.state(once["id"]) == "delivered"
    await platform.orders.sweep()
    assert platform.orders.open[OrderKind.DOWNLINK] == 0
    assert platform.orders.counters["closed"] == 3


@pytest.mark.parametrize(
    ("changes", "status", "code", "field"),
    [
        ({"message": "dance"}, 422, "unknown_message", "message"),
        ({"values": {"config.report_interval": -4}}, 422, "value_not_possible", "values.config.report_interval"),
        ({"values": {"config.report_interval": None}}, 422, "invalid", "values.config.report_interval"),
        ({"values": {"config.report_interval": 10**400}}, 422, "invalid", "values.config.report_interval"),
        ({"values": {"config.report_interval": [600]}}, 422, "invalid", "values.config.report_interval"),
        ({"ttl": 0}, 422, "invalid", "ttl"),
        ({"ttl": 8 * 86_400}, 422, "invalid", "ttl"),
        ({"priority": 10}, 422, "invalid", "priority"),
        ({"once": "yes"}, 422, "invalid", "once"),
        ({"supersedes": "two words"}, 422, "invalid", "supersedes"),
        ({"colour": "red"}, 422, "invalid", "colour"),
        ({"values": {"": 1}}, 422, "invalid", "values..[key]"),
        ({"values": {"two words": 1}}, 422, "invalid", "values.two words.[key]"),
        ({"values": {"m" * 101: 1}}, 422, "invalid", "values." + "m" * 101 + ".[key]"),
        ({"values": {"config.report_interval": 0.1}}, 422, "value_not_possible", "values.config.report_interval"),
    ],
)
async def test_wrong_requests_name_the_field(
    platform: Platform, changes: Mapping[str, Any], status: int, code: str, field: str
) -> None:
    answered, problem = await platform.ask("POST", PATH, {**PERIOD, **changes})
    assert (answered, problem["code"], problem["errors"][0]["field"]) == (status, code, field)
    assert await platform.ask("GET", PATH) == (200, {"items": [], "next": None})


@pytest.mark.parametrize("changes", [{"values": {"\ud800": 1}}, {"\ud800": 1}, {"message": "\ud800"}])
async def test_half_a_character_is_the_senders_fault(platform: Platform, changes: Mapping[str, Any]) -> None:
    """JSON can write half of a pair of surrogates; no answer in UTF-8 can."""
    answered, problem = await platform.ask("POST", PATH, {**PERIOD, **changes})
    assert (answered, problem["status"]) == (422, 422)
    assert await platform.ask("GET", PATH) == (200, {"items": [], "next": None})


async def test_devices_that_cannot_be_reached_are_told(platform: Platform) -> None:
    assert (await platform.ask("POST", "/api/v1/devices/ghost/downlinks", PERIOD))[0] == 404
    assert (await platform.ask("GET", "/api/v1/devices/ghost/downlinks"))[0] == 404
    await platform.city.write(lambda connection: registry_rows.revoke_device(connection, "well-1", now=NOW))
    status, problem = await platform.ask("POST", PATH, PERIOD)
    assert (status, problem["code"]) == (409, "revoked")


async def test_one_device_holds_a_bounded_number_and_one_answer_too(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(order_book, "AT_ONCE", MOST_WAITING)
    for _ in range(MOST_WAITING):
        await platform.send()
    status, problem = await platform.ask("POST", PATH, PERIOD)
    assert (status, problem["code"]) == (409, "too_many_waiting")
    control = {"message": "control", "values": {"pile.current_limit": 10}}
    assert (await platform.ask("POST", "/api/v1/devices/pile-1/downlinks", control))[0] == 202
    first = await platform.handed()
    assert len(first) == MOST_WAITING
    assert [
        order.device for order in await platform.handed(after=first[-1].number) if isinstance(order, wire.Downlink)
    ] == ["pile-1"]


async def test_messages_are_listed_newest_first_in_pages(platform: Platform) -> None:
    sent = [(await platform.send())["id"] for _ in range(5)]
    status, listed = await platform.ask("GET", f"{PATH}?limit=2")
    assert (status, [one["id"] for one in listed["items"]]) == (200, sent[:2:-1])
    _, listed = await platform.ask("GET", f"{PATH}?limit=10&cursor={listed['next']}")
    assert ([one["id"] for one in listed["items"]], listed["next"]) == (sent[2::-1], None)


def letter(received: int = NOW, **more: Any) -> wire.DeadLetter:
    fields: dict[str, Any] = {
        "received": received,
        "transport": "coap",
        "source": "192.0.2.7:5683",
        "channel": "/v1/well-1/report",
        "device": "well-1",
        "profile": "decentlab/dl-ctd10",
        "reason": "undecodable",
        "detail": "too short",
        "size": 3,
        "raw": b"abc",
        "gateway": "gw-1",
        "message": "report",
        "content": 42,
        "identity": "credential",
        "via": "hub-1",
    }
    return wire.DeadLetter(**{**fields, **more})


async def test_a_letter_goes_back_as_it_is_and_its_end_stands_in_the_list(platform: Platform) -> None:
    sealed = letter(seal="gateway", raw=b"\x01sealed", device="", profile="")
    await platform.keep(sealed)
    _, listed = await platform.ask("GET", "/api/v1/dead-letters")
    assert listed["items"][0]["reprocessed"] is None
    id_ = listed["items"][0]["id"]
    status, answer = await platform.ask("POST", "/api/v1/dead-letters/reprocess", {"ids": [id_, id_, "9.9.9", "no id"]})
    assert (status, answer["next"]) == (202, None)
    [asked] = answer["orders"]
    assert [(one["letter"], one["reason"]) for one in answer["refused"]] == [
        ("9.9.9", "not_found"),
        ("no id", "not_found"),
    ]
    assert await platform.handed("gw-2") == []
    assert await platform.handed() == [wire.Reprocess(number=NOW, id=asked["order"], letter=sealed)]
    _, again = await platform.ask("POST", "/api/v1/dead-letters/reprocess", {"ids": [id_]})
    assert [one["reason"] for one in again["refused"]] == ["under_way"]
    await platform.say(asked["order"], "rejected", "still too short")
    _, listed = await platform.ask("GET", "/api/v1/dead-letters")
    assert listed["items"][0]["reprocessed"] == {
        "order": asked["order"],
        "state": "rejected",
        "detail": "still too short",
        "changed": "2026-11-20T16:08:54.428Z",
    }
    _, again = await platform.ask("POST", "/api/v1/dead-letters/reprocess", {"ids": [id_]})
    [second] = again["orders"]
    await platform.say(second["order"], "stored")
    _, again = await platform.ask("POST", "/api/v1/dead-letters/reprocess", {"ids": [id_]})
    assert [one["reason"] for one in again["refused"]] == ["read_already"]
    assert (await platform.ask("GET", "/api/v1/dead-letters"))[1]["items"][0]["reprocessed"]["state"] == "stored"
    # An order about a letter is no message for a device.
    assert (await platform.ask("GET", f"/api/v1/downlinks/{asked['order']}"))[0] == 404
    assert (await platform.ask("GET", PATH))[1]["items"] == []


async def test_letters_that_cannot_be_read_again_are_refused_with_the_reason(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    await platform.keep(
        letter(NOW + 1, raw=b"", size=0),
        letter(NOW + 2, size=70_000),
        letter(NOW + 3, gateway=""),
        letter(NOW + 4, gateway="gw-9"),
        letter(NOW + 5),
        letter(NOW + 6),
    )
    monkeypatch.setattr(again_module, "MOST_OPEN", 1)
    status, answer = await platform.ask("POST", "/api/v1/dead-letters/reprocess", {"reason": "undecodable"})
    assert status == 202
    assert len(answer["orders"]) == 1
    assert [one["reason"] for one in answer["refused"]] == [
        "too_many",
        "gateway_gone",
        "not_of_a_gateway",
        "cut",
        "no_raw",
    ]
    assert all(one["detail"] for one in answer["refused"])


async def test_letters_are_chosen_by_what_they_are(platform: Platform) -> None:
    await platform.keep(
        letter(NOW),
        letter(NOW + 1_000, device="well-2"),
        letter(NOW + 2_000, reason="no_match"),
        letter(NOW + 3_000, profile="keba/p30"),
    )

    async def chosen(**filter: Any) -> int:
        _, listed = await platform.ask("GET", "/api/v1/dead-letters?" + "&".join(f"{k}={v}" for k, v in filter.items()))
        status, answer = await platform.ask("POST", "/api/v1/dead-letters/reprocess", filter)
        assert status == 202
        found = len(answer["orders"]) + len(answer["refused"])
        assert found == len(listed["items"])
        return found

    assert await chosen(device="well-2") == 1
    assert await chosen(reason="no_match") == 1
    assert await chosen(profile="keba/p30") == 1
    assert await chosen(start="2026-11-20T16:08:55.423Z", end="2026-11-20T16:08:56.424Z") == 2
    assert await chosen(reason="undecodable", device="well-1", profile="decentlab/dl-ctd10") == 1
    for body, code in (
        ({}, "invalid"),
        ({"cursor": "1.2.3"}, "invalid"),
        ({"ids": ["1.2.3"], "device": "well-1"}, "invalid"),
        ({"ids": []}, "invalid"),
        ({"ids": ["1.2.3"] * 201}, "invalid"),
        ({"device": "well-1", "start": "yesterday"}, "bad_time"),
        ({"device": "well-1", "cursor": "x"}, "bad_cursor"),
    ):
        status, problem = await platform.ask("POST", "/api/v1/dead-letters/reprocess", body)
        assert (status, problem["code"]) == (422, code)


async def test_long_letters_go_in_answers_of_bounded_length(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(order_book, "BYTES_AT_ONCE", 5_000)
    await platform.keep(*(letter(NOW + i, raw=bytes(3_000), size=3_000) for i in range(3)))
    await platform.ask("POST", "/api/v1/dead-letters/reprocess", {"device": "well-1"})
    after, answers = 0, []
    while found := await platform.handed(after=after):
        answers.append(len(found))
        after = found[-1].number
    assert answers == [1, 1, 1]
