"""The words that all profiles share: metrics with their unit, meaning, plausible range and class.

Owns loading and checking of `vocabulary.yaml`. The range flags implausible readings, it never drops them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from citysense_profiles.errors import ProfileError
from citysense_profiles.reading import ReadingClass
from citysense_profiles.values.units import UNITS
from citysense_profiles.yaml_source import first_fault, load_yaml

FILE = "vocabulary.yaml"
_PATH = Path(__file__).with_name(FILE)


class Kind(StrEnum):
    """What a metric means over time."""

    MEASUREMENT = "measurement"
    TOTAL = "total"
    """Grows; a fall means that the counter was reset."""
    STATE = "state"
    EVENT = "event"


class ValueType(StrEnum):
    """What a decoded value is in Python: float, int, bool or str."""

    NUMBER = "number"
    INTEGER = "integer"
    BOOLEAN = "boolean"
    TEXT = "text"


class Retention(StrEnum):
    """How long readings are worth keeping; each is a bucket of its own in the store."""

    LONG = "long"
    STANDARD = "standard"
    SHORT = "short"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One word of the vocabulary. `unit` is UCUM, empty for states and events; `low` and `high` are inclusive.

    `title` is English, `title_zh` Chinese (English where the file has none). `values` is the closed list of a text metric,
    None where any text or number is allowed. `personal` and `secret` readings never stand in topics, tags, logs or
    alerts; `secret` ones are zeroed before the spool.
    """

    name: str
    title: str
    title_zh: str
    unit: str
    kind: Kind
    type: ValueType
    low: float | None
    high: float | None
    cls: ReadingClass
    retention: Retention
    personal: bool
    secret: bool
    values: frozenset[str] | None


class _Entry(BaseModel):
    """A metric as it stands in the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    title_zh: str | None = None
    kind: Kind
    type: ValueType = ValueType.NUMBER
    unit: str = ""
    range: tuple[float, float] | None = None
    cls: Annotated[ReadingClass, Field(alias="class")]
    retention: Retention = Retention.STANDARD
    personal: bool = False
    secret: bool = False
    values: list[Annotated[str, StringConstraints(pattern=r"^[a-z0-9_.]+$")]] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> _Entry:
        numeric = self.type is ValueType.NUMBER
        if (self.kind in (Kind.MEASUREMENT, Kind.TOTAL)) != numeric:
            raise ValueError("measurements and totals are numbers, states and events are not")
        if numeric and self.unit == "":
            raise ValueError("a number needs a unit; use '1' for a plain count")
        if not numeric and (self.unit or self.range):
            raise ValueError("only a number has a unit and a range")
        if self.unit not in UNITS:
            raise ValueError(f"unit {self.unit!r} is not known")
        if self.range and not self.range[0] < self.range[1]:
            raise ValueError("range is [low, high] with low < high")
        if self.values is not None and (self.type is not ValueType.TEXT or len(set(self.values)) != len(self.values)):
            raise ValueError("values is for text only and names each value once")
        return self


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_: Annotated[Literal[1], Field(alias="schema")]
    metrics: dict[Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+$")], _Entry]


class Vocabulary:
    """Metrics by name, in the order of the file."""

    def __init__(self, metrics: Mapping[str, Metric]) -> None:
        self._metrics = dict(metrics)

    def metric(self, name: str) -> Metric:
        """The metric of that name. Raises KeyError with a sentence if the vocabulary lacks it."""
        try:
            return self._metrics[name]
        except KeyError:
            raise KeyError(
                f"metric {name!r} is not in the vocabulary; add it to {FILE} or use one of its names"
            ) from None

    def __contains__(self, name: object) -> bool:
        return name in self._metrics

    def __iter__(self) -> Iterator[Metric]:
        return iter(self._metrics.values())

    def __len__(self) -> int:
        return len(self._metrics)


def parse_vocabulary(text: str, file: str = FILE) -> Vocabulary:
    """The vocabulary that `text` (YAML) describes. Raises ProfileError naming file and metric."""
    try:
        parsed = _File.model_validate(load_yaml(text, file))
    except ValidationError as error:
        location, sentence = first_fault(error)
        raise ProfileError(sentence, file=file, field=".".join(str(part) for part in location)) from error
    return Vocabulary({name: _metric(name, entry) for name, entry in parsed.metrics.items()})


@cache
def load_vocabulary() -> Vocabulary:
    """The vocabulary that ships with this package; read once per process."""
    return parse_vocabulary(_PATH.read_text(encoding="utf-8"))


def _metric(name: str, entry: _Entry) -> Metric:
    low, high = entry.range or (None, None)
    return Metric(
        name=name,
        title=entry.title,
        title_zh=entry.title_zh or entry.title,
        unit=entry.unit,
        kind=entry.kind,
        type=entry.type,
        low=low,
        high=high,
        cls=entry.cls,
        retention=entry.retention,
        personal=entry.personal or entry.secret,
        secret=entry.secret,
        values=frozenset(entry.values) if entry.values is not None else None,
    )
