"""Rules as the engine uses them: checked, in milliseconds, with the words that people will read.

Owns the shape of a loaded rule. Must not read files; `model` makes these.
"""

from __future__ import annotations

from dataclasses import dataclass

from citysense.wire import Value
from citysense_platform.rules.colour import Colour
from citysense_profiles.reading import ReadingClass


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """One text in the two languages of the product."""

    zh: str
    en: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One step of a ladder: the colour comes at `raise_at` or above and goes below `clear_at` (metric's unit)."""

    colour: Colour
    raise_at: float
    clear_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleHead:
    """What every rule has. `version` changes with the rule's content, not with `speed`; empty `kinds` means any."""

    id: str
    version: str
    metric: str
    unit: str
    lane: ReadingClass
    """The class of the metric: its readings arrive in this lane of the log, and its timers run on that lane's ticks."""
    kinds: frozenset[str]
    label: Words
    title: Words
    """Template of a case's title; `{colour}`, `{site}` and `{value}` are filled in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LadderRule(RuleHead):
    """Colours by level of a number, each with its own level to come and to go. Levels rise; holds in ms."""

    levels: tuple[Level, ...]
    raise_hold: int
    clear_hold: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRule(RuleHead):
    """One colour while a metric has one of `values`. Times in ms.

    `resolve_after` is None for a state, which ends when other values have stood for `clear_hold`; an event is over
    when it was not repeated for `resolve_after`.
    """

    values: tuple[Value, ...]
    colour: Colour
    resolve_after: int | None
    clear_hold: int = 0

    def matches(self, value: Value) -> bool:
        """True if `value` is one of those looked for. True is not 1: types must agree."""
        return any(type(value) is type(wanted) and value == wanted for wanted in self.values)


Rule = LadderRule | EventRule


@dataclass(frozen=True, slots=True, kw_only=True)
class RulePack:
    """All rules in force, in the order of their file."""

    rules: tuple[Rule, ...]

    def __getitem__(self, rule_id: str) -> Rule:
        return next(rule for rule in self.rules if rule.id == rule_id)
