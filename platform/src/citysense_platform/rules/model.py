"""Rule packs as people write them, in YAML; checked completely at load, so that nothing half right runs.

Owns the file format and its translation into `rule` objects. Errors name file, rule and field. Judges no readings.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from citysense.errors import SetupError
from citysense_platform.rules.colour import Colour
from citysense_platform.rules.rule import EventRule, LadderRule, Level, Rule, RulePack, Words
from citysense_profiles.errors import ProfileError
from citysense_profiles.reading import ReadingClass
from citysense_profiles.vocabulary import Kind, Metric, Vocabulary, load_vocabulary
from citysense_profiles.yaml_source import first_fault, load_yaml

DEFAULT_PACK = Path(__file__).with_name("packs") / "default.yaml"

PLACEHOLDERS = ("{colour}", "{site}", "{value}")
_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000}


class RulePackError(SetupError):
    """A rule pack is wrong; the text names file, rule, field and what to write."""

    def __init__(self, text: str, *, file: str, rule: str = "", field: str = "") -> None:
        self.file, self.rule, self.field = file, rule, field
        where = "".join((f", rule {rule}" if rule else "", f", {field}" if field else ""))
        super().__init__(f"{file}{where}: {text}")


def _duration(value: Any) -> int:
    """Milliseconds of `60s`, `5m`, `2h`, `500ms`, `0s`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h)", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("a duration is a number with its unit: 60s, 5m, 2h, 500ms")
    return round(float(match[1]) * _UNITS_MS[match[2]])


def _template(text: str) -> str:
    strange = [part for part in re.findall(r"\{[^}]*\}?|\}", text) if part not in PLACEHOLDERS]
    if strange:
        raise ValueError(f"{strange[0]} is not a placeholder; known are {', '.join(PLACEHOLDERS)}")
    return text


Duration = Annotated[int, BeforeValidator(_duration)]
Text = Annotated[str, StringConstraints(min_length=1)]
Template = Annotated[str, StringConstraints(min_length=1), AfterValidator(_template)]
Scalar = Annotated[bool | int | float | str, Field(union_mode="smart")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class _Words(_Strict):
    zh: Text
    en: Text


class _Title(_Strict):
    zh: Template
    en: Template


class _Level(_Strict):
    colour: Colour
    raise_at: Annotated[float, Field(alias="raise")]
    clear_at: Annotated[float, Field(alias="clear")]
    source: Text | None = None
    """Where the level comes from; for people, not judged."""


class _Head(_Strict):
    metric: str
    kinds: frozenset[str] = frozenset()
    """Kinds of profiles that the rule is for; left out: all that report the metric."""
    label: _Words
    title: _Title


class _Ladder(_Head):
    kind: Literal["ladder"]
    levels: Annotated[list[_Level], Field(min_length=1)]
    raise_hold: Duration
    clear_hold: Duration

    @model_validator(mode="after")
    def _rising(self) -> _Ladder:
        for level in self.levels:
            if not level.clear_at < level.raise_at:
                raise ValueError(
                    f"levels: {level.colour}: clear {level.clear_at:g} must lie below raise {level.raise_at:g}, "
                    "or the colour would come and go with every ripple"
                )
        for low, high in zip(self.levels, self.levels[1:], strict=False):
            if low.colour.rank >= high.colour.rank:
                raise ValueError(
                    f"levels: {high.colour} stands after {low.colour}; the order is blue, yellow, orange, red, each once"
                )
            for name, below, above in (("raise", low.raise_at, high.raise_at), ("clear", low.clear_at, high.clear_at)):
                if not below < above:
                    raise ValueError(
                        f"levels: {name} of {high.colour} ({above:g}) must lie above that of {low.colour} ({below:g})"
                    )
        return self


class _Event(_Head):
    kind: Literal["event"]
    equals: Scalar | None = None
    in_: Annotated[list[Scalar] | None, Field(alias="in", min_length=1)] = None
    colour: Colour
    resolve_after: Duration | None = None
    clear_hold: Duration | None = None

    @model_validator(mode="after")
    def _one_condition(self) -> _Event:
        if (self.equals is None) == (self.in_ is None):
            raise ValueError("say either `equals: VALUE` or `in: [VALUE, ...]`")
        return self


_RuleId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]


class _File(_Strict):
    schema_: Annotated[Literal[1], Field(alias="schema")]
    rules: dict[_RuleId, Annotated[_Ladder | _Event, Field(discriminator="kind")]]


def load_pack(path: Path, *, speed: float = 1.0, vocabulary: Vocabulary | None = None) -> RulePack:
    """The rules in `path`, their holds divided by `speed`. Raises RulePackError; nothing half loaded."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise RulePackError(f"cannot be read ({e})", file=str(path)) from e
    return parse_pack(text, str(path), speed=speed, vocabulary=vocabulary)


def parse_pack(text: str, file: str, *, speed: float = 1.0, vocabulary: Vocabulary | None = None) -> RulePack:
    """The rules that `text` (YAML) describes; see `load_pack`."""
    words = vocabulary or load_vocabulary()
    try:
        parsed = _File.model_validate(load_yaml(text, file))
    except ProfileError as e:
        raise RulePackError(e.text, file=file) from e
    except ValidationError as e:
        raise _explained(e, file) from e
    return RulePack(rules=tuple(_compile(name, entry, words, speed, file) for name, entry in parsed.rules.items()))


def _explained(error: ValidationError, file: str) -> RulePackError:
    location, sentence = first_fault(error)
    if not location or location[0] != "rules":
        return RulePackError(sentence, file=file, field=".".join(map(str, location)))
    rule = str(location[1]) if len(location) > 1 else ""
    # Pydantic names the branch that it took for `kind`; the file has no such step.
    inner = [str(part) for part in location[2:] if part not in ("ladder", "event", "[key]")]
    return RulePackError(sentence, file=file, rule=rule, field=".".join(inner))


def _compile(name: str, entry: _Ladder | _Event, vocabulary: Vocabulary, speed: float, file: str) -> Rule:
    if entry.metric not in vocabulary:
        raise RulePackError(
            f"{entry.metric!r} is not in the vocabulary; use the word that the profiles use",
            file=file,
            rule=name,
            field="metric",
        )
    metric = vocabulary.metric(entry.metric)
    fault = _unfit(entry, metric)
    if fault is not None:
        raise RulePackError(fault[1], file=file, rule=name, field=fault[0])
    head: dict[str, Any] = {
        "id": name,
        "version": _version(entry),
        "metric": metric.name,
        "unit": metric.unit,
        "lane": metric.cls,
        "kinds": entry.kinds,
        "label": Words(zh=entry.label.zh, en=entry.label.en),
        "title": Words(zh=entry.title.zh, en=entry.title.en),
    }
    if isinstance(entry, _Ladder):
        return LadderRule(
            **head,
            levels=tuple(Level(colour=x.colour, raise_at=x.raise_at, clear_at=x.clear_at) for x in entry.levels),
            raise_hold=round(entry.raise_hold / speed),
            clear_hold=round(entry.clear_hold / speed),
        )
    return EventRule(
        **head,
        values=_wanted(entry),
        colour=entry.colour,
        resolve_after=None if entry.resolve_after is None else round(entry.resolve_after / speed),
        clear_hold=round((entry.clear_hold or 0) / speed),
    )


def _wanted(entry: _Event) -> tuple[bool | int | float | str, ...]:
    return tuple(entry.in_) if entry.in_ is not None else (entry.equals,) if entry.equals is not None else ()


def _unfit(entry: _Ladder | _Event, metric: Metric) -> tuple[str, str] | None:
    """Field and sentence of what the vocabulary forbids; None if the rule fits its metric."""
    if metric.cls is ReadingClass.BULK:
        return "metric", f"{metric.name} is of class bulk; rules read safety and state, which are never late by intent"
    if metric.secret:
        return "metric", f"{metric.name} is secret and must not stand in an alert"
    if metric.personal and metric.kind is not Kind.EVENT:
        # An alert shows the value that it is about. Of an event that is one of those that the rule names, a break-in;
        # of anything else it would be whatever the person's device said.
        return "metric", f"{metric.name} is personal and must not stand in an alert"
    if isinstance(entry, _Ladder):
        return _unfit_ladder(entry, metric)
    return _unfit_event(entry, metric)


def _unfit_ladder(entry: _Ladder, metric: Metric) -> tuple[str, str] | None:
    if metric.kind is not Kind.MEASUREMENT:
        return "metric", f"{metric.name} is a {metric.kind}; a ladder needs a measurement"
    low, high = metric.low, metric.high
    for level in entry.levels:
        if (low is not None and level.raise_at < low) or (high is not None and level.raise_at > high):
            return "levels", (
                f"raise {level.raise_at:g} of {level.colour} lies outside {low} to {high} {metric.unit}: such readings "
                "are suspect and are not judged"
            )
    return None


def _unfit_event(entry: _Event, metric: Metric) -> tuple[str, str] | None:
    if metric.kind not in (Kind.STATE, Kind.EVENT):
        return "metric", f"{metric.name} is a {metric.kind}; an event rule needs a state or an event"
    if metric.values is not None:
        strange = [value for value in _wanted(entry) if value not in metric.values]
        if strange:
            known = ", ".join(sorted(metric.values))
            return "in" if entry.in_ else "equals", f"{strange[0]!r} is not a value of {metric.name}; known: {known}"
    if metric.kind is Kind.EVENT and entry.resolve_after is None:
        return "resolve_after", "is required and missing: an event has no value that ends it"
    if metric.kind is Kind.EVENT and entry.clear_hold is not None:
        return "clear_hold", f"{metric.name} is an event, which ends by `resolve_after`; leave this out"
    if metric.kind is Kind.STATE and entry.resolve_after is not None:
        return "resolve_after", f"{metric.name} is a state, which another value ends; leave this out"
    return None


def _version(entry: _Ladder | _Event) -> str:
    """Twelve hex digits that change with what the rule does or says, not with where its levels come from."""
    content = entry.model_dump(mode="json", by_alias=True)
    for level in content.get("levels", ()):
        del level["source"]
    content["kinds"] = sorted(content["kinds"])
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:12]
