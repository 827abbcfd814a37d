"""Who is let in at the MQTT door, how fast, and when things come up to be looked at again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from citysense_gateway.mqtt.admission import ConnectRate, Strangers
from citysense_gateway.mqtt.deadlines import Deadlines
from citysense_gateway.mqtt.limits import connections_allowed


def test_a_fleet_that_heeds_its_appointments_is_in_as_fast_as_the_rate_allows() -> None:
    rate = ConnectRate(rate=500, burst=2_000, random=lambda: 0.5)
    due = {0: list(range(20_000))}
    admitted: dict[int, int] = {}
    second = 0
    while due:
        for device in due.pop(second, []):
            wait = rate.ask(100.0 + second)
            if wait is None:
                admitted[device] = second
            else:
                due.setdefault(second + wait, []).append(device)
        second += 1
    assert len(admitted) == 20_000
    assert list(admitted.values()).count(0) == 2_000
    assert max(admitted.values()) <= 60


def test_hints_are_spread_by_chance_and_bounded() -> None:
    chances = iter([0.0, 0.99] * 10_000)
    rate = ConnectRate(rate=10, burst=1, random=lambda: next(chances))
    assert rate.ask(5.0) is None
    hints = [rate.ask(5.0) for _ in range(5_000)]
    assert (hints[0], hints[1]) == (1, 3)
    assert all(hint is not None and 1 <= hint <= 122 for hint in hints)


def test_who_cannot_be_told_a_time_takes_nobodys_appointment() -> None:
    rate = ConnectRate(rate=10, burst=1, random=lambda: 0.0)
    assert rate.ask(0.0) is None
    assert [rate.ask(0.0, told=False) for _ in range(1_000)] == [1] * 1_000
    assert rate.ask(0.0) == 1, "the first who can be told comes first"


def test_tokens_come_back_with_time_and_not_above_the_burst() -> None:
    rate = ConnectRate(rate=2, burst=3, random=lambda: 0.0)
    assert [rate.ask(10.0) is None for _ in range(4)] == [True, True, True, False]
    assert [rate.ask(11.0) is None for _ in range(3)] == [True, True, False]
    assert [rate.ask(1_000.0) is None for _ in range(4)] == [True, True, True, False]
    # A clock that went back gives nothing.
    assert rate.ask(1.0) is not None


def test_a_district_behind_one_address_comes_in_and_a_scanner_does_not() -> None:
    strangers = Strangers(most=100, rate=2)
    for _ in range(5_000):
        assert strangers.admit("192.0.2.7", 1.0)
        strangers.proven("192.0.2.7")
    scanned = [strangers.admit("192.0.2.8", 1.0) for _ in range(101)]
    assert scanned == [True] * 100 + [False]
    for _ in range(100):
        strangers.gone("192.0.2.8")
    # What it opened and dropped is not given back but by time.
    assert not strangers.admit("192.0.2.8", 1.0)
    assert [strangers.admit("192.0.2.8", 2.0) for _ in range(3)] == [True, True, False]
    assert strangers.admit("192.0.2.7", 1.0)


def test_who_holds_too_many_waits_however_slowly_it_opens_them() -> None:
    strangers = Strangers(most=3, rate=1)
    assert [strangers.admit("192.0.2.7", float(second)) for second in (1, 2, 3, 100)] == [True, True, True, False]
    strangers.gone("192.0.2.7")
    assert strangers.admit("192.0.2.7", 100.0)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("::ffff:192.0.2.7", "192.0.2.7", True),
        ("::ffff:192.0.2.7", "::ffff:192.0.2.8", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
    ],
)
def test_an_ipv6_subscriber_counts_as_one(one: str, other: str, same: bool) -> None:
    strangers = Strangers(most=1, rate=0.001)
    assert strangers.admit(one, 1.0)
    assert strangers.admit(other, 1.0) is not same


def test_accounts_are_forgotten_when_they_say_nothing_any_more() -> None:
    strangers = Strangers(most=10, rate=1)
    strangers.admit("192.0.2.7", 1.0)
    strangers.admit("192.0.2.8", 1.0)
    strangers.proven("192.0.2.8")
    strangers.tidy(1.0)
    assert len(strangers) == 1
    strangers.gone("192.0.2.7")
    strangers.tidy(1.5)
    assert len(strangers) == 1
    strangers.tidy(2.5)
    assert len(strangers) == 0


def test_a_thing_comes_up_in_time_and_once() -> None:
    deadlines: Deadlines[str] = Deadlines()
    deadlines.file("a", 10.4)
    deadlines.file("b", 12.0)
    deadlines.file("c", 11.0)
    deadlines.forget("c")
    deadlines.forget("never there")
    assert deadlines.take(9.9) == []
    assert deadlines.take(10.0) == ["a"]
    assert (deadlines.take(11.9), len(deadlines)) == ([], 1)
    deadlines.file("b", 20.0)
    assert deadlines.take(19.0) == []
    assert deadlines.take(500.0) == ["b"]
    assert (deadlines.take(1e9), len(deadlines)) == ([], 0)


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.none() | st.floats(0, 100), st.floats(0, 5)),
        max_size=40,
    )
)
def test_nothing_is_forgotten_and_nothing_comes_late(steps: list[tuple[int, float | None, float]]) -> None:
    deadlines: Deadlines[int] = Deadlines()
    expected: dict[int, float] = {}
    now = 0.0
    for thing, due, passing in steps:
        if due is None:
            deadlines.forget(thing)
            expected.pop(thing, None)
        else:
            deadlines.file(thing, due)
            expected[thing] = due
        now += passing
        taken = deadlines.take(now)
        assert len(taken) == len(set(taken))
        for one in taken:
            # As much early as a bucket is wide, and never twice.
            assert expected.pop(one) < now + 1
        assert all(later > now - 1 for later in expected.values())
        assert all(later >= now // 1 for later in expected.values())
    assert sorted(deadlines.take(1_000)) == sorted(expected)


@pytest.mark.parametrize(("files", "connections"), [(1_024, 824), (20_000, 19_800), (1_000_000, 25_000), (64, 1)])
def test_there_are_no_more_connections_than_open_files_allow(
    monkeypatch: pytest.MonkeyPatch, files: int, connections: int
) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (files, files))
    assert connections_allowed() == connections
