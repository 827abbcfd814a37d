"""Who is next on a line, with times that are handed in."""

from __future__ import annotations

import itertools
import math
import random
import statistics

import pytest

from citysense_gateway.modbus.agenda import Agenda, Job, Poll
from citysense_gateway.modbus.polled import PolledDevice, WritePlan
from citysense_gateway.modbus.schedule import SLOW_SHARE, TRIAL_SHARE, fair_level, phase, stretch, trial_pause
from citysense_profiles import Read, Write

TIMEOUT = 0.75


class Line:
    """An agenda on a clock of its own; what each unit's request takes is in `cost`, None for one that is lost."""

    def __init__(self, cost: dict[int, float | None], *, every: float, reads: dict[int, int] | None = None) -> None:
        self.agenda = Agenda(tells_apart=True, reply_timeout=TIMEOUT, chance=random.Random(1))
        self.cost = cost
        self.now = 0.0
        self.polled: dict[int, list[float]] = {unit: [] for unit in cost}
        self.trials: list[float] = []
        for unit in cost:
            count = (reads or {}).get(unit, 1)
            plan = tuple(Read(table="holding", address=10 * at, count=1) for at in range(count))
            self.agenda.put(
                PolledDevice(id=f"u{unit}", endpoint="", plan=plan, every=every, message=None), unit, None, 0.0
            )

    def run(self, until: float) -> None:
        while self.now < until:
            job, moment = self.agenda.choose(self.now)
            if job is None:
                assert moment > self.now
                self.now = min(moment, until)
            else:
                self.do(job)

    def do(self, job: Job) -> None:
        assert isinstance(job, Poll)
        began, took = self.now, self.cost[job.slave.unit]
        self.now += TIMEOUT if took is None else took
        self.agenda.took(job.slave, self.now - began, self.now)
        if took is None:
            self.trials.append(self.now - began)
            self.agenda.lost(job, asked=began, now=self.now, damaged=False)
            return
        self.agenda.answered(job.slave)
        job.spent += took
        job.at += 1
        if job.at == len(job.polled.plan):
            self.polled[job.slave.unit].append(self.now)
            self.agenda.finished(job, self.now)

    def period(self, unit: int, since: float) -> float:
        moments = [moment for moment in self.polled[unit] if moment >= since]
        return (moments[-1] - moments[0]) / (len(moments) - 1)


def test_dead_slaves_cost_a_line_a_small_share_however_many_they_are() -> None:
    good = dict.fromkeys(range(1, 31), 0.03)
    dead: dict[int, float | None] = dict.fromkeys(range(31, 51))
    line = Line({**good, **dead}, every=5.0)
    line.run(120.0)
    before = sum(line.trials)
    line.run(1120.0)
    assert sum(line.trials) - before <= 1000 * TRIAL_SHARE * 1.05
    assert max(line.period(unit, 120.0) for unit in good) <= 5.0 * 1.02


def test_every_dead_slave_gets_its_trials() -> None:
    line = Line({1: 0.03, **dict.fromkeys(range(2, 12))}, every=5.0)
    line.run(1000.0)
    before = {unit: line.agenda.slave_of(unit).failures for unit in range(2, 12)}  # type: ignore[union-attr]
    line.run(2000.0)
    tried = {unit: line.agenda.slave_of(unit).failures - before[unit] for unit in before}  # type: ignore[union-attr]
    assert min(tried.values()) >= 5


def test_a_dead_slave_alone_on_its_line_is_tried_as_its_pauses_say() -> None:
    line = Line({1: None}, every=5.0)
    line.run(600.0)
    assert len(line.trials) >= 600 / 61


def test_a_slow_slave_is_polled_less_so_that_the_others_are_not() -> None:
    slow = 0.9 * TIMEOUT
    line = Line({**dict.fromkeys(range(1, 40), 0.03), 40: slow}, every=5.0)
    line.run(600.0)
    assert line.period(40, 200.0) == pytest.approx(slow / SLOW_SHARE, rel=0.3)
    assert max(line.period(unit, 200.0) for unit in range(1, 40)) <= 5.0 * 1.02


def test_where_all_are_slow_none_is_held_back() -> None:
    line = Line(dict.fromkeys(range(1, 6), 0.6), every=10.0)
    line.run(600.0)
    assert max(line.period(unit, 200.0) for unit in range(1, 6)) <= 10.0 * 1.02


def test_too_much_work_stretches_those_who_take_most() -> None:
    line = Line(dict.fromkeys(range(1, 12), 0.05), every=2.0, reads={1: 60})
    line.run(600.0)
    assert max(line.period(unit, 200.0) for unit in range(2, 12)) <= 2.0 * 1.05
    assert line.period(1, 200.0) > 3.0


def test_reads_of_a_long_poll_let_others_go_between() -> None:
    line = Line({1: 0.05, 2: 0.05}, every=10.0, reads={1: 60})
    line.agenda.put(
        PolledDevice(id="quick", endpoint="", plan=(Read(table="input", address=0, count=1),), every=0.5, message=None),
        2,
        None,
        0.0,
    )
    units: list[int] = []
    while line.now < 30.0:
        job, moment = line.agenda.choose(line.now)
        if job is None:
            line.now = moment
        else:
            units.append(job.slave.unit)
            line.do(job)
    longest = max(len(run) for run in "".join("x" if unit == 1 else " " for unit in units).split())
    assert longest <= 12


def test_polls_of_one_period_are_spread_over_it() -> None:
    moments = sorted(phase(index, 0.3) for index in range(50))
    gaps = [after - before for before, after in itertools.pairwise(moments)]
    assert max(gaps) < 2.7 / 50
    assert statistics.fmean(gaps) == pytest.approx(1 / 50, rel=0.1)


def test_mail_waits_until_its_slave_was_heard_and_goes_first_then() -> None:
    line = Line({1: 0.05, 2: 0.05}, every=1.0)
    line.agenda.mail_for("u2", 0.0)
    while not line.polled[2]:
        job, moment = line.agenda.choose(line.now)
        if job is None:
            line.now = moment
        else:
            assert isinstance(job, Poll)
            line.do(job)
    line.now += 3.0
    job, _ = line.agenda.choose(line.now)
    assert job is not None
    assert not isinstance(job, Poll)
    assert job.device == "u2"


def test_what_was_told_is_repeated_until_the_device_goes() -> None:
    line = Line({1: 0.05}, every=100.0)
    line.run(20.0)
    line.agenda.mail_for("u1", 20.0)
    errand, _ = line.agenda.choose(20.0)
    assert errand is not None
    plan = WritePlan(writes=(Write(function=6, table="holding", address=1, words=(1,)),), resend_every=25.0)
    line.agenda.repeat(errand, "limit", plan, 20.0)  # type: ignore[arg-type]
    line.agenda.no_mail(errand)  # type: ignore[arg-type]
    assert line.agenda.choose(44.9)[0] is None
    repeat, _ = line.agenda.choose(45.0)
    assert repeat is not None
    assert repeat.every == 25.0
    line.agenda.remove("u1", None)
    assert line.agenda.choose(1e6) == (None, math.inf)


def test_shares_are_max_min_fair() -> None:
    assert fair_level([0.1, 0.2, 0.3], 0.9) == math.inf
    assert fair_level([0.1, 0.5, 0.9], 0.9) == pytest.approx(0.4)
    assert fair_level([], 0.9) == math.inf
    assert stretch(1.0, 10.0, level=math.inf, slow=False) == 1.0
    assert stretch(1.0, 10.0, level=math.inf, slow=True) == pytest.approx(0.1 / SLOW_SHARE)
    assert stretch(1.0, 2.0, level=0.25, slow=False) == pytest.approx(2.0)
    assert trial_pause(0.75) == pytest.approx(0.75 * 19)
