"""Crash points: off by default, exact when armed, and a misspelt name is refused."""

from __future__ import annotations

import pytest

from citysense.crash_points import GATEWAY_POINTS, PLATFORM_POINTS, CrashPoints


def test_without_the_variable_nothing_happens() -> None:
    points = CrashPoints.from_environment({})
    for name in GATEWAY_POINTS + PLATFORM_POINTS:
        points.at(name)


def test_it_dies_at_the_named_passing_only() -> None:
    deaths: list[int] = []
    points = CrashPoints("uplink.after_post:3", die=lambda: deaths.append(1))
    for expected in (0, 0, 1, 1):
        points.at("uplink.before_post")
        points.at("uplink.after_post")
        assert len(deaths) == expected


def test_it_says_which_point_can_kill() -> None:
    points = CrashPoints("door.after_ack:2")
    assert points.armed("door.after_ack")
    assert not points.armed("uplink.after_post")
    assert not CrashPoints().armed("door.after_ack")


def test_a_name_that_is_no_point_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'uplink\.after_pots', which is no crash point; known: spool\.before_commit"):
        CrashPoints("uplink.after_pots")
