"""What a line does next: polls, mail and repeats of its slaves, and who has to wait.

Owns the choice and what it is made from: beats, costs, failures in a row. Does no I/O and reads no clock; `line.py`
carries out what is chosen and tells how it went.

The job whose deadline is nearest comes first, request by request, so that a device with many reads does not hold up one
with a short period. A line that is asked for more than it can do stretches the periods of those who take most of it, and
of nobody else. A slave that fails is left alone for a growing while; those that failed more than once share a small part of
the line's time.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field

from citysense_gateway.modbus.polled import PolledDevice, WritePlan
from citysense_gateway.modbus.resync import Step
from citysense_gateway.modbus.schedule import (
    fair_level,
    first_poll,
    next_poll,
    pause_after,
    phase,
    quarantine,
    stretch,
    trial_pause,
)

_LEARNT = 0.2
"""Weight of the newest poll in a poll's mean cost."""
_SLOW = 0.5
"""Share of the timeout above which a reply is slow,"""
_OUTLIER = 4.0
"""if it also takes so many times what is usual on its line: where all are slow, none holds up the others."""
_LEVEL_EVERY = 1.0
"""Seconds between two looks at whether the line is asked for too much."""


@dataclass(slots=True, kw_only=True, eq=False)
class Slave:
    """One unit of the line. `step` is None where replies carry a number, which tells late ones apart."""

    unit: int
    timeout: float
    step: Step | None
    failures: int = 0
    """Lost requests in a row."""
    not_before: float = -math.inf
    heard: bool = False


@dataclass(slots=True, kw_only=True, eq=False)
class Job:
    """Something to do for a device at `due`, again every `every` seconds."""

    slave: Slave
    device: str
    due: float
    every: float


@dataclass(slots=True, kw_only=True, eq=False)
class Poll(Job):
    """A poll, and how far it has come: `at` is the place of the next read in the plan."""

    polled: PolledDevice
    beat: float
    at: int = 0
    registers: dict[tuple[str, int], int] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    """By read, the exceptions of this poll; `told` those of the last one that was logged."""
    told: frozenset[str] = frozenset()
    spent: float = 0.0
    cost: float = 0.0
    """Mean seconds of the line that a poll takes."""
    stretched: float = 0.0
    """By how many seconds its period is longer than `every`, where the line is asked for too much."""
    refusals: int = 0
    """Polls in a row of which every read was refused."""
    storing: bool = False


@dataclass(slots=True, kw_only=True, eq=False)
class Errand(Job):
    """Mail waits for the device. At once, and once; `every` is 0."""


@dataclass(slots=True, kw_only=True, eq=False)
class Repeat(Job):
    """Something the device was told and must hear again."""

    message: str
    plan: WritePlan


class Agenda:
    """The jobs of one line. `tells_apart` is true where replies carry a number."""

    def __init__(self, *, tells_apart: bool, reply_timeout: float, chance: random.Random) -> None:
        self._tells_apart = tells_apart
        self._reply_timeout = reply_timeout
        self._chance = chance
        self._offset = chance.random()
        self._count = 0
        self._slaves: dict[int, Slave] = {}
        self._polls: dict[tuple[str, str | None], Poll] = {}
        self._errands: dict[str, Errand] = {}
        self._repeats: dict[tuple[str, str], Repeat] = {}
        self._next_trial = -math.inf
        self._calm_until = -math.inf
        self._usual = 0.0
        self._level = math.inf
        self._level_due = -math.inf

    def put(self, polled: PolledDevice, unit: int, timeout: float | None, now: float) -> None:
        """Add a poll, or go on with it as it is described now."""
        key = (polled.id, polled.message)
        known = self._polls.get(key)
        if known is not None and known.slave.unit == unit:
            if known.every != polled.every:
                self._place(known, polled.every, now)
            if known.polled.plan != polled.plan:
                known.at, known.registers, known.refused = 0, {}, {}
            known.polled = polled
            slave = known.slave
        else:
            slave = self._slave(unit)
            known = Poll(slave=slave, device=polled.id, due=0.0, every=polled.every, polled=polled, beat=0.0)
            self._place(known, polled.every, now)
            self._polls[key] = known
        slave.timeout = timeout or self._reply_timeout
        self._plan_step(slave)

    def remove(self, device: str, message: str | None) -> Poll | None:
        """Stop a poll, and with its last one all that is done for the device."""
        gone = self._polls.pop((device, message), None)
        if not any(poll.device == device for poll in self._polls.values()):
            self._errands.pop(device, None)
            self._repeats = {key: one for key, one in self._repeats.items() if key[0] != device}
        units = {poll.slave.unit for poll in self._polls.values()}
        self._slaves = {unit: slave for unit, slave in self._slaves.items() if unit in units}
        if gone is not None:
            self._plan_step(gone.slave)
        return gone

    def polls(self) -> set[tuple[str, str | None]]:
        """Device and message of all polls."""
        return set(self._polls)

    def devices(self, slave: Slave | None = None) -> list[str]:
        """The devices of the line, or of one slave, each once."""
        found = (poll.device for poll in self._polls.values() if slave is None or poll.slave is slave)
        return list(dict.fromkeys(found))

    def has(self, poll: Poll) -> bool:
        """Whether the poll still stands."""
        return self._polls.get((poll.device, poll.polled.message)) is poll

    def slave_of(self, unit: int) -> Slave | None:
        """The slave with that unit id, if it is polled."""
        return self._slaves.get(unit)

    def mail_for(self, device: str, due: float) -> None:
        """Mail waits for a device of this line."""
        poll = next((poll for poll in self._polls.values() if poll.device == device), None)
        if poll is not None:
            self._errands[device] = Errand(slave=poll.slave, device=device, due=due, every=0.0)

    def no_mail(self, errand: Errand) -> None:
        """Nothing waits any more; unless something new came meanwhile."""
        if self._errands.get(errand.device) is errand:
            del self._errands[errand.device]

    def repeat(self, errand: Errand, message: str, plan: WritePlan, now: float) -> None:
        """Tell the device again every `plan.resend_every` seconds, instead of what it was told before."""
        if plan.resend_every is None or not self.devices(errand.slave):
            return
        self._repeats[errand.device, message] = Repeat(
            slave=errand.slave,
            device=errand.device,
            due=now + plan.resend_every,
            every=plan.resend_every,
            message=message,
            plan=plan,
        )

    def drop_repeat(self, repeat: Repeat) -> None:
        """Do not tell this again."""
        self._repeats.pop((repeat.device, repeat.message), None)

    def choose(self, now: float) -> tuple[Job | None, float]:
        """The job to do now, or None and the moment of the next one (infinite if there is none)."""
        chosen: Job | None = None
        best, earliest = (math.inf, 0, math.inf, math.inf), math.inf
        for job in self._jobs():
            ready = self._ready(job)
            if ready > now:
                earliest = min(earliest, ready)
                continue
            # Among those that wait for the next trial: who failed least, then who waits longest.
            deadline = ready + job.every + (job.stretched if isinstance(job, Poll) else 0.0)
            rank = (deadline, job.slave.failures, job.slave.not_before, job.due)
            if chosen is None or rank < best:
                chosen, best = job, rank
        return chosen, earliest

    def proved(self, slave: Slave, now: float) -> None:
        """The slave is in step. What else waits for the line may go first: this one has just had it."""
        slave.not_before = now

    def answered(self, slave: Slave) -> None:
        """The slave gave a reply that counts."""
        slave.failures, slave.heard = 0, True

    def took(self, slave: Slave, seconds: float, now: float) -> None:
        """The slave held the line for so long; after a long time the others have as much, before the next such one."""
        if seconds > _SLOW * slave.timeout:
            self._calm_until = now + seconds

    def lost(self, job: Job, *, asked: float, now: float, damaged: bool) -> None:
        """A request of the job, sent at `asked`, got no reply that can be trusted. What a poll has read is dropped."""
        slave = job.slave
        slave.failures += 1
        if damaged and slave.failures == 1:
            # Noise on the wire: the reply has come, so no late one is to be expected; ask again.
            slave.not_before = now
        else:
            pause = pause_after(slave.failures, self._chance)
            late = 0.0 if self._tells_apart else quarantine(slave.timeout)
            slave.not_before = max(now + pause, asked + late)
        if any(one.failures == 0 for one in self._slaves.values()):
            self._next_trial = now + trial_pause(now - asked)
        if isinstance(job, Poll):
            job.at, job.registers, job.refused, job.spent = 0, {}, {}, 0.0

    def finished(self, poll: Poll, now: float) -> None:
        """The poll's last read was answered or refused. It starts anew in its beat."""
        poll.cost = poll.spent if poll.cost == 0.0 else poll.cost + _LEARNT * (poll.spent - poll.cost)
        poll.at, poll.registers, poll.refused, poll.spent = 0, {}, {}, 0.0
        poll.stretched = self._stretched(poll, now) - poll.every
        poll.due = next_poll(poll.beat, poll.every + poll.stretched, now)

    def _jobs(self) -> Iterator[Job]:
        yield from self._errands.values()
        yield from self._repeats.values()
        yield from self._polls.values()

    def _ready(self, job: Job) -> float:
        """When the job may be done."""
        slave = job.slave
        if isinstance(job, Poll):
            if job.storing:
                return math.inf
        elif slave.failures or not slave.heard:
            # What must be done at most once is not tried on a slave of which nobody knows whether it listens.
            return math.inf
        ready = max(job.due, slave.not_before)
        if slave.failures > 1 and not (slave.step is not None and slave.step.proven):
            ready = max(ready, self._next_trial)
        if slave.failures or (isinstance(job, Poll) and self._slow(job)):
            ready = max(ready, self._calm_until)
        return ready

    def _slow(self, poll: Poll) -> bool:
        """Whether the device's replies take long, on a line where others answer fast."""
        each = poll.cost / max(1, len(poll.polled.plan))
        return len(self._slaves) > 1 and each > max(_SLOW * poll.slave.timeout, _OUTLIER * self._usual)

    def _slave(self, unit: int) -> Slave:
        slave = self._slaves.get(unit)
        if slave is None:
            step = None if self._tells_apart else Step()
            slave = self._slaves[unit] = Slave(unit=unit, timeout=self._reply_timeout, step=step)
        return slave

    def _place(self, poll: Poll, every: float, now: float) -> None:
        """Soon for the first time, then in a beat that lies evenly among those of the line."""
        poll.every = every
        poll.beat = now + phase(self._count, self._offset) * every
        poll.due = first_poll(now, every, self._chance)
        self._count += 1

    def _plan_step(self, slave: Slave) -> None:
        if slave.step is not None:
            own = [poll.polled.plan for poll in self._polls.values() if poll.slave is slave]
            slave.step.plan([read for plan in own for read in plan])

    def _stretched(self, poll: Poll, now: float) -> float:
        """The poll's period, longer where the line cannot give it its share."""
        if now >= self._level_due:
            working = [one for one in self._polls.values() if not one.slave.failures and one.polled.plan]
            self._level, self._level_due = fair_level([one.cost / one.every for one in working]), now + _LEVEL_EVERY
            if working:
                self._usual = statistics.median(one.cost / len(one.polled.plan) for one in working)
        return poll.every * stretch(poll.cost, poll.every, level=self._level, slow=self._slow(poll))
