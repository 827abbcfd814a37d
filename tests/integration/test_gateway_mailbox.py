"""Messages for devices on a real file: durable, in order, once, and each with its outcome."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from citysense import wire
from citysense.clock import SetClock
from citysense.durable_log import DurableLog
from citysense.errors import StorageError
from citysense.keys import Sealer
from citysense_gateway.devices import Changes, Devices
from citysense_gateway.mailbox import OWNER, STRANGE_S, Mailbox, why_gone
from citysense_profiles.catalogue import load_catalogue

NOW = 1_795_190_934_423
HOUR = 3_600_000
CATALOGUE = load_catalogue()
ROSTER = wire.Roster(
    version=1,
    devices=[
        wire.RosterDevice(id="gauge-1", profile="milesight/em400"),
        wire.RosterDevice(id="gauge-2", profile="milesight/em400"),
        wire.RosterDevice(id="meter-1", profile="hiking/dds238-2", endpoint="modbus+tcp://192.0.2.1:502/1"),
    ],
)


class Bench:
    """A gateway's mailbox, which can be opened again as after a kill."""

    def __init__(self, path: Path, clock: SetClock, **bounds: Any) -> None:
        self.devices = Devices(CATALOGUE)
        self.devices.replace(ROSTER)
        self.current = True
        self.clock = clock
        self.log = DurableLog(path, clock=clock, owners=[OWNER], reserve_bytes=1 << 16)
        self.log.open()
        self.box = Mailbox(
            self.log,
            devices=self.devices,
            sealer=Sealer(bytes(32)),
            clock=clock,
            random=lambda: 0.5,
            current=lambda: self.current,
            **bounds,
        )
        self.box.load()
        self.rung: list[str] = []
        self.box.listen(self.rung.append)

    def ids(self, device: str = "gauge-1") -> list[str]:
        return [mail.id for mail in self.box.waiting(device)]

    def states(self) -> dict[str, str]:
        """The last state of each order."""
        return {outcome.id: outcome.state for outcome in self.box.outcomes()[1]}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "spool.db", SetClock(NOW))
    yield made
    made.log.close()


def message(number: int, **changes: Any) -> wire.Downlink:
    given: dict[str, Any] = {
        "number": number,
        "id": f"m{number}",
        "device": "gauge-1",
        "message": "settings",
        "values": {"config.report_interval": 600.0},
        "expires": NOW + HOUR,
    }
    return wire.Downlink(**{**given, **changes})


async def take(bench: Bench, *messages: wire.Downlink) -> None:
    await bench.box.take(messages, number=max(one.number for one in messages))


async def test_mail_waits_in_order_and_as_the_profile_says_it(bench: Bench) -> None:
    await take(bench, message(1), message(2, priority=5), message(3, device="gauge-2"), message(4, priority=5))
    assert bench.ids() == ["m2", "m4", "m1"]
    mail = bench.box.waiting("gauge-1")[0]
    assert mail.payload == CATALOGUE["milesight/em400"].encode("settings", mail.values)
    assert (mail.content, mail.message, mail.expires, mail.once) == (42, "settings", NOW + HOUR, False)
    assert bench.rung == ["gauge-1", "gauge-2"]
    assert bench.box.waiting("stranger") == ()


async def test_mail_and_outcomes_survive_a_restart(bench: Bench, tmp_path: Path) -> None:
    await take(bench, message(1), message(2, once=True), message(3))
    first, second, third = bench.box.waiting("gauge-1")
    assert await bench.box.begin(first)
    assert await bench.box.begin(second)
    await bench.box.delivered(third)
    bench.log.close()
    again = Bench(tmp_path / "spool.db", bench.clock)
    try:
        assert again.box.taken == 3
        assert again.box.told.is_set()
        # The one that is handed over once is not given out a second time; the other is repeated.
        assert again.ids() == ["m1"]
        assert again.states() == {"m1": "sent", "m2": "sent", "m3": "delivered"}
        await take(again, message(3))
        assert again.ids() == ["m1"]
    finally:
        again.log.close()
    bench.log.open()


async def test_an_order_that_comes_again_is_known_by_its_number(bench: Bench) -> None:
    await take(bench, message(1))
    await bench.box.delivered(bench.box.waiting("gauge-1")[0])
    await take(bench, message(1))
    assert bench.ids() == []


async def test_once_is_handed_over_once_and_its_end_is_unknown(bench: Bench) -> None:
    await take(bench, message(1, once=True))
    mail = bench.box.waiting("gauge-1")[0]
    assert await bench.box.begin(mail)
    assert not await bench.box.begin(mail)
    assert bench.ids() == []
    bench.clock.advance(HOUR + 1)
    await bench.box.tend()
    assert bench.states() == {"m1": "unknown"}


async def test_two_doors_cannot_both_hand_over_what_goes_once(bench: Bench) -> None:
    await take(bench, message(1, once=True))
    mail = bench.box.waiting("gauge-1")[0]
    assert sorted(await asyncio.gather(bench.box.begin(mail), bench.box.begin(mail))) == [False, True]


async def test_once_may_still_be_confirmed(bench: Bench) -> None:
    await take(bench, message(1, once=True))
    mail = bench.box.waiting("gauge-1")[0]
    assert await bench.box.begin(mail)
    await bench.box.delivered(mail)
    assert bench.states() == {"m1": "delivered"}


async def test_expired_mail_is_not_handed_over(bench: Bench) -> None:
    await take(bench, message(1), message(2, expires=NOW + 10))
    late = bench.box.waiting("gauge-1")[1]
    bench.clock.advance(11)
    assert bench.ids() == ["m1"]
    assert not await bench.box.begin(late)
    await bench.box.tend()
    assert bench.states() == {"m2": "expired"}


def roster(*devices: wire.RosterDevice) -> wire.Roster:
    return wire.Roster(version=2, devices=list(devices))


def lose(bench: Bench, *left: wire.RosterDevice) -> None:
    """Another roster, as the gateway learns of it."""
    bench.box.devices_gone(why_gone(bench.devices.replace(roster(*left))))


async def test_what_waits_for_a_revoked_device_is_refused_and_given_to_nobody(bench: Bench) -> None:
    await take(bench, message(1), message(2, once=True), message(3), message(4, device="gauge-2"))
    first, second, _ = bench.box.waiting("gauge-1")
    assert await bench.box.begin(second)
    lose(bench, ROSTER.devices[1])
    assert not await bench.box.begin(first)
    await bench.box.tend()
    details = {outcome.id: (outcome.state, outcome.detail) for outcome in bench.box.outcomes()[1]}
    assert details["m1"] == details["m3"] == ("refused", "the device is revoked, or another gateway's now")
    # It may have been obeyed before.
    assert details["m2"][0] == "unknown"
    # Whoever has the id next gets nothing of it.
    bench.devices.replace(ROSTER)
    assert (bench.ids("gauge-1"), bench.ids("gauge-2")) == ([], ["m4"])


async def test_a_device_whose_profile_was_unknown_for_a_while_finds_no_old_commands(bench: Bench) -> None:
    await take(bench, message(1))
    lose(bench, wire.RosterDevice(id="gauge-1", profile="acme/no-such"))
    bench.devices.replace(ROSTER)
    assert bench.ids() == []
    await bench.box.tend()
    (outcome,) = bench.box.outcomes()[1]
    assert (outcome.state, outcome.detail) == ("refused", "this gateway does not know its profile acme/no-such")


def test_devices_that_are_gone_have_each_its_reason() -> None:
    changes = Changes(removed=("a", "b", "c"), unsupported=(("b", "x/y"), ("z", "x/y")), unfit=(("c", "no variant"),))
    assert why_gone(changes) == {
        "a": "the device is revoked, or another gateway's now",
        "b": "this gateway does not know its profile x/y",
        "c": "no variant",
    }


async def test_mail_for_a_stranger_waits_for_the_roster_and_then_not_for_long(bench: Bench) -> None:
    bench.current = False
    await take(bench, message(1, device="new-1"), message(2, device="new-2"))
    bench.clock.advance(60_000)
    await bench.box.tend()
    bench.current = True
    await bench.box.tend()
    bench.clock.advance(int(STRANGE_S * 1000) - 1)
    # The roster with the first of them was on its way.
    bench.devices.replace(roster(wire.RosterDevice(id="new-1", profile="milesight/em400")))
    await bench.box.tend()
    assert bench.states() == {}
    bench.clock.advance(1)
    await bench.box.tend()
    assert bench.states() == {"m2": "refused"}
    assert bench.ids("new-1") == ["m1"]


async def test_a_newer_message_takes_the_place_of_an_older_one(bench: Bench) -> None:
    await take(bench, message(1, supersedes="period"), message(2), message(3, supersedes="period"))
    assert bench.ids() == ["m2", "m3"]
    assert bench.states() == {"m1": "superseded"}


async def test_what_the_profile_cannot_say_is_refused_with_the_reason(bench: Bench) -> None:
    await take(
        bench,
        message(1, values={"config.report_interval": -1.0}),
        message(2, message="uplink"),
        message(3, message="no_such"),
        message(4),
    )
    assert bench.ids() == ["m4"]
    await bench.box.tend()
    _, outcomes = bench.box.outcomes()
    assert {outcome.id: outcome.state for outcome in outcomes} == dict.fromkeys(("m1", "m2", "m3"), "refused")
    assert "config.report_interval" in outcomes[0].detail or "report_interval" in outcomes[0].detail


async def test_too_much_mail_is_refused_the_least_urgent_and_oldest_first(tmp_path: Path) -> None:
    small = Bench(tmp_path / "spool.db", SetClock(NOW), most_per_device=2, most=3)
    try:
        await take(small, message(1), message(2, priority=1), message(3))
        assert small.ids() == ["m2", "m3"]
        await take(small, message(4, device="gauge-2"), message(5, device="gauge-2", priority=2))
        assert (small.ids("gauge-1"), small.ids("gauge-2")) == (["m2"], ["m5", "m4"])
        assert small.states() == {"m1": "refused", "m3": "refused"}
    finally:
        small.log.close()


async def test_a_message_written_over_modbus_has_values_and_no_payload(bench: Bench) -> None:
    name = next(
        name
        for name in CATALOGUE["hiking/dds238-2"].messages
        if CATALOGUE["hiking/dds238-2"].file.messages[name].direction == "down"
    )
    await take(bench, message(1, device="meter-1", message=name, values={"x": 1.0}))
    mail = bench.box.waiting("meter-1")[0]
    assert (mail.payload, mail.values) == (b"", {"x": 1.0})


async def test_outcomes_wait_until_the_platform_has_them(bench: Bench) -> None:
    await take(bench, message(1), message(2))
    first, second = bench.box.waiting("gauge-1")
    await bench.box.refused(first, "it said no \ud83d")
    number, outcomes = bench.box.outcomes()
    assert [(outcome.id, outcome.state, outcome.detail) for outcome in outcomes] == [("m1", "refused", "it said no ?")]
    await bench.box.delivered(second)
    await bench.box.on_record(number)
    assert bench.states() == {"m2": "delivered"}
    await bench.box.on_record(bench.box.outcomes()[0])
    assert bench.box.outcomes() == (0, [])
    assert not bench.box.told.is_set()


async def test_nothing_lies_readable_on_the_disk(bench: Bench, tmp_path: Path) -> None:
    await take(bench, message(1, values={"lock.passcode": "correct horse battery"}))
    await bench.log.tidy(lambda connection: None)
    stored = sqlite3.connect(tmp_path / "spool.db").execute("SELECT * FROM mail").fetchall()
    assert len(stored) == 1
    assert b"correct horse" not in stored[0][3]


async def test_a_full_disk_gives_nothing_out_and_forgets_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    await take(bench, message(1), message(2, once=True))
    first, second = bench.box.waiting("gauge-1")
    bench.rung.clear()

    async def fails(*_: Any, **__: Any) -> None:
        raise StorageError("no space")

    with monkeypatch.context() as full:
        full.setattr(bench.log, "append", fails)
        assert not await bench.box.begin(second)
        await bench.box.delivered(first)
        with pytest.raises(StorageError):
            await take(bench, message(3))
        assert bench.ids() == ["m2"]
    await bench.box.tend()
    assert bench.rung == ["gauge-1"]
    assert bench.states() == {"m1": "delivered"}
    assert bench.box.taken == 2
    assert await bench.box.begin(second)
