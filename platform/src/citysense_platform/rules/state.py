"""What a rule remembers of a device, what it is shown, and what it says.

Owns the values that pass between engine and rules. All times are ms since 1970 UTC unless a name says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from citysense.wire import Value
from citysense_platform.rules.colour import Colour
from citysense_platform.rules.rule import Words

NEVER = -1
"""In place of a time: no such moment."""
NO_TIMERS = (NEVER, NEVER, NEVER, NEVER)
"""One entry per colour, by rank."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One judgeable value of one device.

    `time` is what order and holds go by: the event time, but never later than `received`, because a reading cannot be
    taken after it arrived and one wrong clock must not make all later readings look old. `data_time` is what the
    device said.
    """

    device: str
    site: str
    time: int
    data_time: int
    received: int
    value: Value


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleState:
    """Memory of one rule about one device; stored as MessagePack, so a field may be added only with a default.

    `since` holds, by rank of colour, when the readings began to ask for a change: for colours not in force, to come;
    for those in force, to go. `newest` is the time of the newest judged reading, whose value and origin follow.
    `heard` is the awake time (see `lanes`) of the first tick after it.
    """

    episode: int = 0
    colour: Colour | None = None
    since: tuple[int, int, int, int] = NO_TIMERS
    newest: int = NEVER
    value: Value = 0
    data_time: int = NEVER
    received: int = NEVER
    site: str = ""
    heard: int = NEVER


class TransitionKind(StrEnum):
    """How the colour in force changed."""

    RAISED = "raised"
    STEPPED_UP = "stepped_up"
    STEPPED_DOWN = "stepped_down"
    CLEARED = "cleared"


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """A change of the colour in force. For CLEARED, `colour` is the one that ended.

    `value`, `data_time` and `received` are those of the reading that is the evidence. `silent` tells that a tick, not
    a reading, completed the hold. `title` is the rule's template for a case's title.
    """

    kind: TransitionKind
    rule: str
    rule_version: str
    device: str
    site: str
    episode: int
    colour: Colour
    value: Value
    unit: str
    data_time: int
    received: int
    silent: bool
    reason: Words
    title: Words

    @property
    def key(self) -> str:
        """Names the episode, for ever and everywhere."""
        return f"{self.rule}/{self.device}/{self.episode}"


class Outcome(StrEnum):
    """What became of a reading that a rule was shown, or why it was not shown."""

    JUDGED = "judged"
    LATE = "late"
    """Older than the newest judged one: stored by others, not judged."""
    REPEAT = "repeat"
    """The event that was judged already."""
    NOT_ASKED_FOR = "not_asked_for"
    """An event of another kind than the rule looks for."""
    BACKLOG = "backlog"
    """Older than the horizon when it got here: stored by others; nobody is to be called for yesterday's water."""
    SUSPECT = "suspect"
    """Flagged as implausible."""
    MISSING = "missing"
    """The frame says that it has no value."""
    NOT_A_NUMBER = "not_a_number"


class Judged(NamedTuple):
    """The answer of a rule: its new memory, what changed, and what became of the reading."""

    state: RuleState
    transitions: tuple[Transition, ...]
    outcome: Outcome
