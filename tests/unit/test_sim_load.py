"""Pace and figures of the load tools."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from citysense.cli.bench_latency import Spread, nearest_rank
from citysense.cli.main import build_parser
from citysense.cli.soak_kill import ALL_POINTS, EPISODE_BURSTS, GAUGES, Kill, Report, level
from citysense.cli.stack_api import CLEAR_CM, NO_HOLD_RULES, RAISE_CM
from citysense_platform.rules.model import parse_pack
from citysense_platform.rules.rule import LadderRule
from citysense_sim.checker import Findings, Stored, episodes
from citysense_sim.ledger import Sent
from citysense_sim.load_sender import Plan, intended_times


def test_moments_are_fixed_in_advance() -> None:
    assert intended_times(4, 200, 10.0) == [10.0, 10.005, 10.01, 10.015]


@given(st.lists(st.floats(0, 1e6), min_size=1), st.sampled_from([50, 90, 99, 100]))
def test_nearest_rank_is_one_of_the_values_and_covers_its_share(values: list[float], percent: int) -> None:
    ordered = sorted(values)
    found = nearest_rank(ordered, percent)
    assert found in ordered
    assert sum(value <= found for value in ordered) * 100 >= len(ordered) * percent
    assert sum(value < found for value in ordered) * 100 < len(ordered) * percent


def test_spread_is_in_milliseconds() -> None:
    assert Spread.of([number / 1000 for number in range(1, 101)]) == Spread(p50=50, p90=90, p99=99, max=100)
    assert Spread.of([]) == Spread(p50=0, p90=0, p99=0, max=0)


def test_the_plan_refuses_what_cannot_be_played() -> None:
    with pytest.raises(ValidationError):
        Plan.model_validate({"members": [], "rate": 0})


def test_the_no_hold_rules_load_and_have_no_patience() -> None:
    rule = parse_pack(NO_HOLD_RULES, "rules.yaml").rules[0]
    assert isinstance(rule, LadderRule)
    assert (rule.raise_hold, rule.clear_hold) == (0, 0)
    assert (rule.levels[0].raise_at, rule.levels[0].clear_at) == (RAISE_CM, CLEAR_CM)


def test_every_gauge_goes_under_and_comes_up_again_all_the_time() -> None:
    for gauge in range(GAUGES):
        course = [level(gauge, burst) for burst in range(EPISODE_BURSTS * 10)]
        assert episodes(course, raise_at=RAISE_CM, clear_below=CLEAR_CM) in (10, 11)
        assert len(set(course)) == len(course)
    assert max(level(0, burst) for burst in range(7_200) if level(0, burst) < RAISE_CM) < CLEAR_CM


KILLS = tuple(Kill(victims=("gateway",), point=None, unacked=n, ready_s=(1.0,)) for n in (50, 90, 70))
CLEAN = Report(
    seed=1,
    kills=KILLS,
    findings=Findings(sent=5, acked=5, stored=5),
    cases=1,
    unacked_left=0,
    refused=0,
    dropped=0,
)


def test_a_clean_report_passes_and_states_its_bound() -> None:
    figures = CLEAN.figures()
    assert figures["passed"]
    assert (figures["unacked_at_kill_min"], figures["unacked_at_kill_median"]) == (50, 70)
    assert figures["loss_rate_below_95"] == 1.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"findings": Findings(sent=5, acked=5, stored=4, lost=(Sent("a", 1, 0, 1, 1.0),))},
        {"findings": Findings(sent=5, acked=5, stored=6, doubled=(Stored("a", 1, 1.0),))},
        {"findings": Findings(sent=5, acked=5, stored=5, missing_cases=("a",))},
        {"unacked_left": 1},
        {"faults": ("platform ended by itself with code 1",)},
    ],
)
def test_anything_wrong_fails_and_claims_no_bound(wrong: dict[str, Any]) -> None:
    found = replace(CLEAN, **wrong)
    assert not found.passed
    assert found.figures()["loss_rate_below_95"] is None


@pytest.mark.parametrize(
    "line", ["bench latency --cases 10 --transport both --json", "soak kill --kills 3 --points none --json"]
)
def test_the_commands_are_there(line: str) -> None:
    assert callable(build_parser().parse_args(line.split()).run)


def test_every_crash_point_can_be_named() -> None:
    for point in ALL_POINTS:
        assert build_parser().parse_args(["soak", "kill", "--points", point]).points == point
