"""What the broker's soak believes and what it counts as kept: a run that lost something, or troubled nothing, fails."""

from __future__ import annotations

import json

import pytest

from citysense.cli.broker_gauge import Receipted
from citysense.cli.soak_broker import Report
from citysense.cli.stack_api import GAUGE_METRIC
from citysense_sim.checker import Expected, Stored


def receipt(seq: int, boot: int = 1) -> bytes:
    return b'{"boot":%d,"seq":%d}' % (boot, seq)


def made(count: int) -> Receipted:
    memory = Receipted("g")
    for _ in range(count):
        memory.make(1_795_190_000_000)
    return memory


def test_a_device_forgets_what_its_receipt_covers_and_nothing_else() -> None:
    memory = made(5)
    assert memory.take([receipt(2)])
    assert sorted(memory.kept) == [3, 4]
    assert not memory.take([receipt(1), receipt(4, boot=9)]), "an older receipt, and one of another boot"
    assert sorted(memory.kept) == [3, 4]
    assert {key.seq for key in memory.acked} == {0, 1, 2}


def test_each_reading_has_a_moment_of_its_own_and_is_sent_as_it_stands_in_the_book() -> None:
    memory = made(3)
    assert len({row.time for row in memory.sent}) == 3
    body = json.loads(memory.kept[2])
    assert (body["seq"], body["t"], body["v"][GAUGE_METRIC]) == (2, memory.sent[2].time, memory.sent[2].value)


@pytest.mark.parametrize(
    ("stored", "troubles", "faults", "passed"),
    [
        (3, ("killed",), (), True),
        (2, ("killed",), (), True),
        (1, ("killed",), (), False),
        (3, (), (), False),
        (3, ("killed",), ("gateway ended by itself with code 70",), False),
    ],
    ids=["all there", "one without receipt is missing", "a receipted one is missing", "no trouble", "a death"],
)
def test_when_a_run_has_passed(stored: int, troubles: tuple[str, ...], faults: tuple[str, ...], passed: bool) -> None:
    memory = made(3)
    memory.take([receipt(1)])
    there = [Stored(row.device, row.time, row.value) for row in memory.sent[:stored]]
    report = Report(
        seed=1,
        troubles=troubles,
        again_s=(1.0,) * len(troubles),
        findings=Expected(memory.sent, memory.acked).compare(there),
        faults=faults,
    )
    assert report.passed is passed
    assert report.figures()["passed"] is passed
