"""Every pair of transition and standing alert, with the decision and its reason."""

from __future__ import annotations

import pytest

from citysense_platform.alerts.decide import Action, AlertState, StandingAlert, Why, decide
from citysense_platform.rules.colour import Colour
from citysense_platform.rules.rule import Words
from citysense_platform.rules.state import Transition, TransitionKind

RAISED, UP, DOWN, CLEARED = TransitionKind
FIRING, ACKNOWLEDGED, RESOLVED = AlertState


def transition(kind: TransitionKind, colour: Colour) -> Transition:
    words = Words(zh="因", en="why")
    return Transition(
        kind=kind,
        rule="r",
        rule_version="v",
        device="d",
        site="1",
        episode=1,
        colour=colour,
        value=1.0,
        unit="cm",
        data_time=1,
        received=2,
        silent=False,
        reason=words,
        title=words,
    )


def standing(state: AlertState, colour: Colour) -> StandingAlert:
    return StandingAlert(id=1, state=state, colour=colour, peak_colour=colour)


@pytest.mark.parametrize(
    ("kind", "colour", "alert", "action", "reason"),
    [
        (RAISED, "blue", None, Action.OPEN_CASE, Why.FIRST_OF_EPISODE),
        (UP, "red", None, Action.OPEN_CASE, Why.START_UNKNOWN),
        (DOWN, "blue", None, Action.OPEN_CASE, Why.START_UNKNOWN),
        (CLEARED, "blue", None, Action.IGNORE, Why.NO_ALERT),
        (RAISED, "red", (FIRING, "blue"), Action.IGNORE, Why.ALREADY_OPEN),
        (UP, "red", (FIRING, "blue"), Action.ESCALATE, Why.HIGHER_COLOUR),
        (UP, "orange", (ACKNOWLEDGED, "yellow"), Action.ESCALATE, Why.HIGHER_COLOUR),
        (UP, "yellow", (FIRING, "yellow"), Action.IGNORE, Why.SAME_COLOUR),
        (DOWN, "yellow", (FIRING, "orange"), Action.DEESCALATE, Why.LOWER_COLOUR),
        (CLEARED, "red", (FIRING, "red"), Action.RESOLVE, Why.CONDITION_OVER),
        (CLEARED, "red", (ACKNOWLEDGED, "red"), Action.RESOLVE, Why.CONDITION_OVER),
        *[(kind, "red", (RESOLVED, "blue"), Action.IGNORE, Why.ALREADY_RESOLVED) for kind in TransitionKind],
    ],
)
def test_decision_and_reason(
    kind: TransitionKind, colour: str, alert: tuple[AlertState, str] | None, action: Action, reason: Why
) -> None:
    before = None if alert is None else standing(alert[0], Colour(alert[1]))
    decision = decide(transition(kind, Colour(colour)), before)
    assert (decision.action, decision.reason) == (action, reason)
