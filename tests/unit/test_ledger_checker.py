"""The oracle of the kill tests must go red for one wrong row among a million, and must not for none."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from citysense_sim.checker import CaseSeen, Expected, Findings, Stored, check_cases, episodes
from citysense_sim.ledger import Key, Sent

ROWS = 1_000_000
DEVICES = 500


@pytest.fixture(scope="module")
def million() -> tuple[Expected, list[Stored]]:
    sent = [
        Sent(f"d-{number % DEVICES}", 1, number // DEVICES, 1_795_000_000_000 + number // DEVICES * 500, number * 0.001)
        for number in range(ROWS)
    ]
    return Expected(sent, {row.key for row in sent}), [Stored(row.device, row.time, row.value) for row in sent]


def check_readings(sent: list[Sent], acked: set[Key], stored: list[Stored]) -> Findings:
    return Expected(sent, acked).compare(stored)


def test_a_clean_million_passes(million: tuple[Expected, list[Stored]]) -> None:
    expected, stored = million
    found = expected.compare(stored)
    assert found.clean
    assert (found.sent, found.acked, found.stored) == (ROWS, ROWS, ROWS)


def _alter(rows: list[Stored], at: int) -> None:
    rows[at] = rows[at]._replace(value=rows[at].value + 0.001)


def _drop(rows: list[Stored], at: int) -> None:
    del rows[at]


def _double(rows: list[Stored], at: int) -> None:
    rows.insert(random.Random(at).randrange(len(rows)), rows[at])


def _make_up(rows: list[Stored], at: int) -> None:
    rows.append(rows[at]._replace(time=rows[at].time + 1))


@pytest.mark.parametrize(
    ("mutate", "name"), [(_alter, "altered"), (_drop, "lost"), (_double, "doubled"), (_make_up, "phantom")]
)
def test_one_wrong_row_in_a_million_is_found(
    million: tuple[Expected, list[Stored]], mutate: Callable[[list[Stored], int], None], name: str
) -> None:
    expected, stored = million
    seed = random.SystemRandom().randrange(ROWS)
    rows = list(stored)
    mutate(rows, seed)
    found = expected.compare(rows)
    assert not found.clean
    counts = {kind: len(getattr(found, kind)) for kind in ("lost", "altered", "phantom", "doubled", "unsent_acks")}
    assert counts == {kind: int(kind == name) for kind in counts}, f"row {seed}"


rows_of_few_devices = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 50), st.floats(0, 100)),
    min_size=1,
    max_size=40,
    unique_by=lambda x: x[:2],
)


@given(rows_of_few_devices, st.data())
def test_any_single_mutation_of_any_set_is_found(rows: list[tuple[str, int, float]], data: st.DataObject) -> None:
    sent = [Sent(device, 1, number, time * 10, value) for number, (device, time, value) in enumerate(rows)]
    stored = [Stored(row.device, row.time, row.value) for row in sent]
    acked = {row.key for row in sent}
    assert check_readings(sent, acked, stored).clean
    mutate = data.draw(st.sampled_from([_alter, _drop, _double, _make_up]))
    mutate(stored, data.draw(st.integers(0, len(stored) - 1)))
    assert not check_readings(sent, acked, stored).clean


def test_what_was_not_acknowledged_may_be_there_or_not() -> None:
    sent = [Sent("a", 1, 0, 10, 1.0), Sent("a", 1, 1, 20, 2.0)]
    acked = {sent[0].key}
    assert check_readings(sent, acked, [Stored("a", 10, 1.0)]).clean
    assert check_readings(sent, acked, [Stored("a", 10, 1.0), Stored("a", 20, 2.0)]).clean


def test_an_acknowledgement_of_something_never_sent_is_told() -> None:
    assert check_readings([], {Key("a", 1, 0)}, []).unsent_acks == (Key("a", 1, 0),)


def test_a_ledger_that_cannot_tell_rows_apart_is_refused() -> None:
    with pytest.raises(ValueError, match="same device and event time"):
        check_readings([Sent("a", 1, 0, 10, 1.0), Sent("a", 1, 1, 10, 2.0)], set(), [])


@pytest.mark.parametrize(
    ("values", "count"),
    [
        ([], 0),
        ([1, 2], 0),
        ([16], 1),
        ([1, 16, 30, 14, 16], 1),
        ([16, 11, 16], 2),
        ([16, 12, 16], 1),
        ([60, 1, 60, 1], 2),
    ],
)
def test_episodes_have_a_level_to_come_and_one_to_go(values: list[float], count: int) -> None:
    assert episodes(values, raise_at=15, clear_below=12) == count


def _course(device: str, *values: float) -> list[Sent]:
    return [Sent(device, 1, number, number * 1000, value) for number, value in enumerate(values)]


def test_cases_must_be_one_for_each_episode() -> None:
    sent = _course("a", 1, 60, 1, 60, 1) + _course("b", 1, 60) + _course("c", 1)
    right = [CaseSeen("a", 1), CaseSeen("a", 2), CaseSeen("b", 1)]

    def check(cases: list[CaseSeen]) -> tuple[tuple[CaseSeen, ...], tuple[str, ...]]:
        return check_cases(sent, cases, raise_at=15, clear_below=12)

    assert check(right) == ((), ())
    assert check(right[1:]) == ((), ("a",))
    assert check([*right, CaseSeen("a", 2)]) == ((CaseSeen("a", 2),), ())
    assert check([*right, CaseSeen("b", 2)]) == ((CaseSeen("b", 2),), ())
    assert check([*right, CaseSeen("c", 1)]) == ((CaseSeen("c", 1),), ())
    assert check([*right, CaseSeen("stranger", 1)]) == ((CaseSeen("stranger", 1),), ())


def test_order_of_cases_follows_event_time_not_order_of_sending() -> None:
    sent = list(reversed(_course("a", 1, 60, 1, 60)))
    assert check_cases(sent, [CaseSeen("a", 1), CaseSeen("a", 2)], raise_at=15, clear_below=12) == ((), ())
