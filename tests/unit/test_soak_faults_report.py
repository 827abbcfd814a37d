"""The account of `soak faults`: any fault of the product turns it red, and a limit that is missed is no loss."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from citysense.cli.faults_course import Passed
from citysense.cli.faults_town import TimedLedger
from citysense.cli.soak_faults import Report
from citysense_sim.checker import Findings
from citysense_sim.ledger import Key, Sent

GOOD = Report(
    seed=1,
    episodes=(Passed(name="x", seconds=1.0, acked=10, live_again_s=9.9, p99_s=0.9),),
    findings=Findings(sent=10, acked=10, stored=10),
    records=10,
    records_twice=0,
    bad_sent=1,
    bad_missing=0,
    bad_strange=0,
    unacked_left=0,
    refused=0,
    dropped=0,
    done={},
)


def test_all_is_well() -> None:
    assert GOOD.kept
    assert GOOD.passed


@pytest.mark.parametrize(
    "wrong",
    [
        {"findings": Findings(sent=1, acked=1, stored=0, lost=(Sent("d", 1, 0, 1, 0.0),))},
        {"records_twice": 1},
        {"bad_missing": 1},
        {"bad_strange": 1},
        {"unacked_left": 1},
        {"refused": 1},
        {"dropped": 1},
        {"faults": ("the gateway ended by itself with code 1",)},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_each_fault_is_a_broken_promise(wrong: dict[str, Any]) -> None:
    report = replace(GOOD, **wrong)
    assert not report.kept
    assert not report.passed
    assert report.figures()["passed"] is False


@pytest.mark.parametrize("late", [{"live_again_s": 10.1}, {"p99_s": 1.1}], ids=str)
def test_a_missed_limit_is_told_apart_from_a_broken_promise(late: dict[str, float]) -> None:
    report = replace(GOOD, episodes=(*GOOD.episodes, Passed(name="y", seconds=1.0, acked=10, **late)))
    assert report.kept
    assert not report.passed


class _SetClock:
    def __init__(self) -> None:
        self.at = 100.0

    def now_ms(self) -> int:
        return int(self.at * 1000)

    def monotonic(self) -> float:
        return self.at


def test_acknowledgements_are_timed_from_the_planned_moment(tmp_path: Path) -> None:
    clock = _SetClock()
    ledger = TimedLedger(tmp_path / "ledger.txt", clock)
    ledger.timed = frozenset({"calm"})
    ledger.planned = 99.5
    for device in ("calm", "tried"):
        for seq in range(2):
            ledger.sent(Sent(device, 1, seq, 1, 0.0))
    clock.at = 101.0
    for device in ("calm", "tried"):
        ledger.acked(Key(device, 1, 0))
    clock.at = 102.0
    assert (ledger.delays, ledger.waiting(), ledger.acks) == ([1.5], [2.5], 2)
