"""When a device is polled next."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from citysense_gateway.modbus.schedule import LONGEST_PAUSE, START_WITHIN, first_poll, next_poll, pause_after

periods = st.floats(0.01, 86_400.0)
moments = st.floats(0.0, 1e7)
seeds = st.integers(0, 2**32)


@given(moments, periods, seeds)
def test_the_first_poll_comes_soon(now: float, every: float, seed: int) -> None:
    assert now <= first_poll(now, every, random.Random(seed)) <= now + min(every, START_WITHIN)


def test_first_polls_are_spread() -> None:
    chance = random.Random(1)
    moments = [first_poll(0.0, 60.0, chance) for _ in range(1000)]
    assert max(sum(second <= moment < second + 1 for moment in moments) for second in range(10)) < 200


def test_polls_keep_their_beat() -> None:
    assert next_poll(100.0, 10.0, 100.4) == 110.0
    # Three beats were missed: none is made up for, and the beat stays.
    assert next_poll(100.0, 10.0, 135.0) == 140.0
    assert next_poll(100.0, 10.0, 140.0) == 150.0


@given(moments, periods, st.floats(0.0, 1e5))
def test_the_next_poll_lies_ahead_within_one_period(due: float, every: float, late: float) -> None:
    now = due + late
    following = next_poll(due, every, now)
    assert now - 1e-6 <= following <= now + every + 1e-6


@given(st.integers(1, 10_000), seeds)
def test_pauses_stay_between_1_and_60_s(failures: int, seed: int) -> None:
    assert 1.0 <= pause_after(failures, random.Random(seed)) <= LONGEST_PAUSE == 60.0


def test_pauses_grow_and_differ() -> None:
    chance = random.Random(7)
    means = [sum(pause_after(failures, chance) for _ in range(200)) / 200 for failures in range(1, 7)]
    assert means == sorted(means)
    assert len({pause_after(5, chance) for _ in range(20)}) == 20
