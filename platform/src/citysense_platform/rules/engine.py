"""Runs all rules over records of the log, in memory.

Owns which rules see which reading, and the states. Deterministic: the same states and records give the same
transitions, live, in a replay and in a backtest. Does no I/O and reads no clock.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

from citysense import wire
from citysense_platform.rules import event, ladder
from citysense_platform.rules.lanes import Lane
from citysense_platform.rules.rule import EventRule, LadderRule, Rule, RulePack
from citysense_platform.rules.state import Judged, Observation, Outcome, RuleState, Transition
from citysense_profiles.reading import ReadingClass

Key = tuple[str, str]
"""Rule id and device id."""

RULE_LANES = (ReadingClass.SAFETY, ReadingClass.STATE)
"""Lanes that rules read, the more urgent first."""

HORIZON_MS = 15 * 60 * 1000
"""A reading that is older than this on arrival is backlog. Long enough for an NB-IoT device that sleeps and for a restart
of everything; shorter than the quickest pump crew."""

SKEW_MS = 5 * 1000
"""How far a gateway's clock may be ahead of ours before its word no longer counts."""

_FRESH = RuleState()


class Engine:
    """The rules of a pack with what they remember.

    `states` may come from an earlier version of the pack: open episodes are adopted; states of rules that are gone
    are kept as they are, in case the rule returns.
    """

    def __init__(
        self,
        pack: RulePack,
        states: Mapping[Key, RuleState] | None = None,
        lanes: Mapping[ReadingClass, Lane] | None = None,
    ) -> None:
        self._rules = {rule.id: rule for rule in pack.rules}
        self._by_metric: dict[str, list[Rule]] = {}
        for rule in pack.rules:
            self._by_metric.setdefault(rule.metric, []).append(rule)
        self.lanes = {lane: (lanes or {}).get(lane, Lane()) for lane in RULE_LANES}
        self.states: dict[Key, RuleState] = {}
        self.changed: set[Key] = set()
        """Keys whose state differs from what was saved; the owner of the store clears it."""
        self.outcomes: Counter[str] = Counter()
        """How many readings were judged, and how many were not, by reason."""
        self._waiting: dict[ReadingClass, set[Key]] = {lane: set() for lane in RULE_LANES}
        for key, state in (states or {}).items():
            rule_or_none = self._rules.get(key[0])
            self.states[key] = state if rule_or_none is None else _adopt(rule_or_none, state)
            if rule_or_none is not None and _waits(rule_or_none, self.states[key]):
                self._waiting[rule_or_none.lane].add(key)

    def feed(self, lane: ReadingClass, offset: int, body: wire.Body) -> list[Transition]:
        """Judge one record of a lane; records of a lane come in the order of their offsets."""
        self.lanes[lane] = self.lanes[lane].read_to(offset)
        if isinstance(body, wire.Readings):
            return self._readings(lane, body)
        if isinstance(body, wire.Tick):
            self.lanes[lane] = self.lanes[lane].tick(body.time)
            return self._tick(lane)
        return []

    def pass_over(self, lane: ReadingClass, offset: int) -> None:
        """Count a record that nobody can read, and go on behind it."""
        self.lanes[lane] = self.lanes[lane].read_to(offset)
        self.outcomes["unreadable"] += 1

    def _readings(self, lane: ReadingClass, readings: wire.Readings) -> list[Transition]:
        found: list[Transition] = []
        # By the ticks of the log and not by a clock, so that a replay tomorrow judges what was judged today.
        ticked = self.lanes[lane].ticked
        arrived = max(readings.received, ticked)
        # A clock that runs ahead, a device's or a gateway's, must not make all later readings look old.
        latest = min(readings.received, ticked + SKEW_MS) if ticked else readings.received
        for sample in readings.samples:
            if arrived - sample.time > HORIZON_MS:
                self.outcomes[Outcome.BACKLOG] += sum(metric in self._by_metric for metric in sample.values)
                continue
            for metric in sample.missing:
                if metric in self._by_metric:
                    self.outcomes[Outcome.MISSING] += 1
            for metric, value in sample.values.items():
                for rule in self._by_metric.get(metric, ()):
                    if rule.kinds and readings.kind not in rule.kinds:
                        continue
                    if metric in sample.suspect:
                        self.outcomes[Outcome.SUSPECT] += 1
                        continue
                    seen = Observation(
                        device=readings.device,
                        site=readings.site,
                        time=min(sample.time, latest),
                        data_time=sample.time,
                        received=readings.received,
                        value=value,
                    )
                    found += self._judge(rule, seen)
        return found

    def _judge(self, rule: Rule, seen: Observation) -> tuple[Transition, ...]:
        key = (rule.id, seen.device)
        before = self.states.get(key, _FRESH)
        judged = _step(rule, before, seen)
        self.outcomes[judged.outcome] += 1
        self._keep(rule, key, before, judged.state)
        return judged.transitions

    def _tick(self, lane: ReadingClass) -> list[Transition]:
        found: list[Transition] = []
        awake = self.lanes[lane].awake
        # In a fixed order: a replay in another process must number alerts and cases the same.
        for key in sorted(self._waiting[lane]):
            rule, before = self._rules[key[0]], self.states[key]
            judged = (
                ladder.tick(rule, before, key[1], awake)
                if isinstance(rule, LadderRule)
                else event.tick(rule, before, key[1], awake)
            )
            self._keep(rule, key, before, judged.state)
            found += judged.transitions
        return found

    def _keep(self, rule: Rule, key: Key, before: RuleState, after: RuleState) -> None:
        if after is before:
            return
        self.states[key] = after
        self.changed.add(key)
        if _waits(rule, after):
            self._waiting[rule.lane].add(key)
        else:
            self._waiting[rule.lane].discard(key)


def _step(rule: Rule, state: RuleState, seen: Observation) -> Judged:
    if isinstance(rule, EventRule):
        return event.step(rule, state, seen)
    if isinstance(seen.value, bool | str) or not math.isfinite(seen.value):
        return Judged(state, (), Outcome.NOT_A_NUMBER)
    return ladder.step(rule, state, seen)


def _waits(rule: Rule, state: RuleState) -> bool:
    return ladder.waits(rule, state) if isinstance(rule, LadderRule) else event.waits(rule, state)


def _adopt(rule: Rule, state: RuleState) -> RuleState:
    return ladder.adopt(rule, state) if isinstance(rule, LadderRule) else event.adopt(rule, state)
