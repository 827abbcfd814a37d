"""The event rule: one colour while a state has a value, or for a while after an event.

Pure. A state (`pile.state`) ends when other values have stood for `clear_hold`, measured as on the ladder; so a device
that reports several parts in turn (the connectors of a pile) does not flap while one of them has the value. An event
(`lock.event`) has no opposite: its episode is over when it was not repeated for `resolve_after`, measured in event time
by the device's next events and by ticks in silence. Other events of the device neither end an episode nor make a late
one late.
"""

from __future__ import annotations

from dataclasses import replace

from citysense_platform.rules.rule import EventRule
from citysense_platform.rules.state import (
    NEVER,
    NO_TIMERS,
    Judged,
    Observation,
    Outcome,
    RuleState,
    Transition,
    TransitionKind,
)
from citysense_platform.rules.wording import ended, happened


def step(rule: EventRule, state: RuleState, seen: Observation) -> Judged:
    """Judge one value of the metric."""
    if rule.resolve_after is None:
        return _step_state(rule, state, seen)
    return _step_event(rule, state, seen, rule.resolve_after)


def tick(rule: EventRule, state: RuleState, device: str, awake: int) -> Judged:
    """Let time pass for a silent device. `awake` is the lane's awake time in ms."""
    if not waits(rule, state):
        return Judged(state, (), Outcome.JUDGED)
    if state.heard == NEVER:
        state = replace(state, heard=awake)
    silence = awake - state.heard
    if rule.resolve_after is not None:
        is_over = silence >= rule.resolve_after
    else:
        is_over = state.newest + silence - state.since[rule.colour.rank] >= rule.clear_hold
    if not is_over:
        return Judged(state, (), Outcome.JUDGED)
    state, over = _clear(rule, state, device, silent=True)
    return Judged(state, (over,), Outcome.JUDGED)


def waits(rule: EventRule, state: RuleState) -> bool:
    """True while time alone may change the colour."""
    if state.colour is None:
        return False
    return rule.resolve_after is not None or state.since[rule.colour.rank] != NEVER


def adopt(rule: EventRule, state: RuleState) -> RuleState:
    """`state` as left by an earlier version of the rule; an open episode stays open."""
    if state.colour is None or state.colour is rule.colour:
        return state
    return replace(state, colour=rule.colour, since=NO_TIMERS)


def _step_state(rule: EventRule, state: RuleState, seen: Observation) -> Judged:
    if seen.time < state.newest:
        return Judged(state, (), Outcome.LATE)
    asks_to_go = state.colour is not None and not rule.matches(seen.value)
    began = state.since[rule.colour.rank]
    since = (began if began != NEVER else seen.time) if asks_to_go else NEVER
    # As on the ladder: for a device whose clock stands still the ticks must go on counting.
    heard = state.heard if seen.time == state.newest and since == began else NEVER
    state = replace(_take(state, seen), since=_timer(rule, since), heard=heard)
    if asks_to_go and seen.time - since >= rule.clear_hold:
        state, over = _clear(rule, state, seen.device, silent=False)
        return Judged(state, (over,), Outcome.JUDGED)
    if state.colour is None and rule.matches(seen.value):
        state, begun = _raise(rule, state, seen.device)
        return Judged(state, (begun,), Outcome.JUDGED)
    return Judged(state, (), Outcome.JUDGED)


def _timer(rule: EventRule, since: int) -> tuple[int, int, int, int]:
    timers = list(NO_TIMERS)
    timers[rule.colour.rank] = since
    return timers[0], timers[1], timers[2], timers[3]


def _step_event(rule: EventRule, state: RuleState, seen: Observation, resolve_after: int) -> Judged:
    is_over = state.colour is not None and seen.time - state.newest >= resolve_after
    if not rule.matches(seen.value):
        if not is_over:
            return Judged(state, (), Outcome.NOT_ASKED_FOR)
        state, over = _clear(rule, state, seen.device, silent=False)
        return Judged(state, (over,), Outcome.JUDGED)
    if seen.time <= state.newest:
        return Judged(state, (), Outcome.LATE if seen.time < state.newest else Outcome.REPEAT)
    transitions: list[Transition] = []
    if is_over:
        state, over = _clear(rule, state, seen.device, silent=False)
        transitions.append(over)
    state = _take(state, seen)
    if state.colour is None:
        state, begun = _raise(rule, state, seen.device)
        transitions.append(begun)
    return Judged(state, tuple(transitions), Outcome.JUDGED)


def _take(state: RuleState, seen: Observation) -> RuleState:
    return replace(
        state,
        newest=seen.time,
        value=seen.value,
        data_time=seen.data_time,
        received=seen.received,
        site=seen.site,
        heard=NEVER,
    )


def _raise(rule: EventRule, state: RuleState, device: str) -> tuple[RuleState, Transition]:
    state = replace(state, colour=rule.colour, episode=state.episode + 1)
    return state, _transition(rule, state, device, TransitionKind.RAISED, silent=False)


def _clear(rule: EventRule, state: RuleState, device: str, *, silent: bool) -> tuple[RuleState, Transition]:
    over = _transition(rule, state, device, TransitionKind.CLEARED, silent=silent)
    return replace(state, colour=None, since=NO_TIMERS, heard=NEVER), over


def _transition(rule: EventRule, state: RuleState, device: str, kind: TransitionKind, *, silent: bool) -> Transition:
    reason = happened(rule, state.value) if kind is TransitionKind.RAISED else ended(rule, state.value)
    return Transition(
        kind=kind,
        rule=rule.id,
        rule_version=rule.version,
        device=device,
        site=state.site,
        episode=state.episode,
        colour=rule.colour,
        value=state.value,
        unit=rule.unit,
        data_time=state.data_time,
        received=state.received,
        silent=silent,
        reason=reason,
        title=rule.title,
    )
