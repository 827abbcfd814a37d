"""The ladder: colours by level, with a level and a hold of its own to come and to go, so that noise does not flap.

Pure. Each level is a latch: on when the value has stood at or above `raise_at` for `raise_hold`, off when it has
stood below `clear_at` for `clear_hold`; the highest latch that is on is the colour in force. Because both lists of
levels rise, a latch is never on above one that is off. Order is by event time; a hold is measured in event time
between readings, and by ticks while the device says nothing: its last value counts as standing until another comes.
"""

from __future__ import annotations

from dataclasses import replace

from citysense.wire import Value
from citysense_platform.rules.colour import Colour
from citysense_platform.rules.rule import LadderRule, Level
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
from citysense_platform.rules.wording import fallen, reached

Timers = tuple[int, int, int, int]


def step(rule: LadderRule, state: RuleState, seen: Observation) -> Judged:
    """Judge one reading. `seen.value` is a finite number."""
    if seen.time < state.newest:
        return Judged(state, (), Outcome.LATE)
    since = _timers(rule, state, float(seen.value), seen.time)
    # A device whose clock stands still sends all with one time; then only ticks measure, and must go on counting.
    goes_on = seen.time == state.newest and since == state.since
    state = replace(
        state,
        since=since,
        newest=seen.time,
        value=seen.value,
        data_time=seen.data_time,
        received=seen.received,
        site=seen.site,
        heard=state.heard if goes_on else NEVER,
    )
    return _settle(rule, state, seen.device, at=seen.time, silent=False)


def tick(rule: LadderRule, state: RuleState, device: str, awake: int) -> Judged:
    """Let time pass for a silent device. `awake` is the lane's awake time in ms."""
    if not waits(rule, state):
        return Judged(state, (), Outcome.JUDGED)
    if state.heard == NEVER:
        state = replace(state, heard=awake)
    return _settle(rule, state, device, at=state.newest + awake - state.heard, silent=True)


def waits(rule: LadderRule, state: RuleState) -> bool:
    """True while time alone may change the colour."""
    return any(state.since[level.colour.rank] != NEVER for level in rule.levels)


def adopt(rule: LadderRule, state: RuleState) -> RuleState:
    """`state` as left by an earlier version of the rule, made fit for this one; an open episode stays open.

    A colour that the ladder no longer has becomes the next lower one, or the lowest there is.
    """
    mine = [level.colour for level in rule.levels]
    if state.colour is None or state.colour in mine:
        return state
    lower = [colour for colour in mine if colour.rank < state.colour.rank]
    return replace(state, colour=lower[-1] if lower else mine[0], since=NO_TIMERS)


def _timers(rule: LadderRule, state: RuleState, value: float, time: int) -> Timers:
    """When each level began to ask for its change, given that `value` stands from `time` on."""
    since = list(NO_TIMERS)
    for level in rule.levels:
        rank = level.colour.rank
        asks = value < level.clear_at if _in_force(level, state.colour) else value >= level.raise_at
        if asks:
            since[rank] = state.since[rank] if state.since[rank] != NEVER else time
    return (since[0], since[1], since[2], since[3])


def _in_force(level: Level, colour: Colour | None) -> bool:
    return colour is not None and level.colour.rank <= colour.rank


def _settle(rule: LadderRule, state: RuleState, device: str, *, at: int, silent: bool) -> Judged:
    """Carry out every change whose hold is complete at `at`."""
    before = state.colour
    after = _colour_at(rule, state, at)
    if after is before:
        return Judged(state, (), Outcome.JUDGED)
    since = list(state.since)
    low, high = sorted((_rank(before), _rank(after)))
    for rank in range(low + 1, high + 1):
        # What has just changed has nothing to ask for: the value that lit a level is far from putting it out.
        since[rank] = NEVER
    opened = before is None
    state = replace(
        state,
        colour=after,
        since=(since[0], since[1], since[2], since[3]),
        episode=state.episode + 1 if opened else state.episode,
    )
    return Judged(state, (_transition(rule, state, device, before, after, silent=silent),), Outcome.JUDGED)


def _colour_at(rule: LadderRule, state: RuleState, at: int) -> Colour | None:
    """The highest level that is on at `at`."""
    for level in reversed(rule.levels):
        since = state.since[level.colour.rank]
        if _in_force(level, state.colour):
            if since == NEVER or at - since < rule.clear_hold:
                return level.colour
        elif since != NEVER and at - since >= rule.raise_hold:
            return level.colour
    return None


def _rank(colour: Colour | None) -> int:
    return -1 if colour is None else colour.rank


def _transition(
    rule: LadderRule, state: RuleState, device: str, before: Colour | None, after: Colour | None, *, silent: bool
) -> Transition:
    value: Value = state.value
    if after is not None and _rank(after) > _rank(before):
        kind = TransitionKind.RAISED if before is None else TransitionKind.STEPPED_UP
        colour, reason = after, reached(rule, after, value, silent=silent)
    else:
        kind = TransitionKind.CLEARED if after is None else TransitionKind.STEPPED_DOWN
        # The level just above the one that stays is the last to have fallen, so it explains the step.
        gone = next(level.colour for level in rule.levels if level.colour.rank > _rank(after))
        assert before is not None
        colour = before if after is None else after
        reason = fallen(rule, gone, value, silent=silent)
    return Transition(
        kind=kind,
        rule=rule.id,
        rule_version=rule.version,
        device=device,
        site=state.site,
        episode=state.episode,
        colour=colour,
        value=value,
        unit=rule.unit,
        data_time=state.data_time,
        received=state.received,
        silent=silent,
        reason=reason,
        title=rule.title,
    )
