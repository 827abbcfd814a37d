"""What to do about a transition: a decision and its reason, both of which are stored.

Pure. Routing, inhibition and silences will be further reasons here; writing is done by `book`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from citysense_platform.rules.colour import Colour
from citysense_platform.rules.state import Transition, TransitionKind


class AlertState(StrEnum):
    """The life of an alert after its rule's holds."""

    FIRING = "firing"
    ACKNOWLEDGED = "acknowledged"
    RESOLVED = "resolved"


class Action(StrEnum):
    """What is done."""

    OPEN_CASE = "open_case"
    ESCALATE = "escalate"
    DEESCALATE = "deescalate"
    RESOLVE = "resolve"
    IGNORE = "ignore"


class Why(StrEnum):
    """Why it is done."""

    FIRST_OF_EPISODE = "first_of_episode"
    START_UNKNOWN = "start_unknown"
    """A colour changed in an episode that has no alert (a backup was restored): better late than not at all."""
    HIGHER_COLOUR = "higher_colour"
    LOWER_COLOUR = "lower_colour"
    CONDITION_OVER = "condition_over"
    ALREADY_OPEN = "already_open"
    SAME_COLOUR = "same_colour"
    ALREADY_RESOLVED = "already_resolved"
    NO_ALERT = "no_alert"


@dataclass(frozen=True, slots=True, kw_only=True)
class StandingAlert:
    """The alert of a transition's episode, as stored."""

    id: int
    state: AlertState
    colour: Colour
    peak_colour: Colour


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to do and why."""

    action: Action
    reason: Why


def decide(transition: Transition, standing: StandingAlert | None) -> Decision:
    """The decision about `transition`, given the alert of its episode if there is one."""
    if standing is None:
        return _without_alert(transition)
    if standing.state is AlertState.RESOLVED:
        return Decision(action=Action.IGNORE, reason=Why.ALREADY_RESOLVED)
    if transition.kind is TransitionKind.RAISED:
        return Decision(action=Action.IGNORE, reason=Why.ALREADY_OPEN)
    if transition.kind is TransitionKind.CLEARED:
        return Decision(action=Action.RESOLVE, reason=Why.CONDITION_OVER)
    # By the colours themselves: after a change of the rule a step up may end where the alert already stands.
    if transition.colour.rank > standing.colour.rank:
        return Decision(action=Action.ESCALATE, reason=Why.HIGHER_COLOUR)
    if transition.colour.rank < standing.colour.rank:
        return Decision(action=Action.DEESCALATE, reason=Why.LOWER_COLOUR)
    return Decision(action=Action.IGNORE, reason=Why.SAME_COLOUR)


def _without_alert(transition: Transition) -> Decision:
    if transition.kind is TransitionKind.RAISED:
        return Decision(action=Action.OPEN_CASE, reason=Why.FIRST_OF_EPISODE)
    if transition.kind is TransitionKind.CLEARED:
        return Decision(action=Action.IGNORE, reason=Why.NO_ALERT)
    return Decision(action=Action.OPEN_CASE, reason=Why.START_UNKNOWN)
