"""From a record of the log to points of telemetry. Pure.

Owns what becomes telemetry at all: values of samples, but not sightings of a personal tag, whose moments belong to the
event store alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from citysense import wire

Value = wire.Value

END_OF_TIME = 253_402_300_800_000
"""Year 10000 in ms: RFC 3339 cannot write what comes after."""
_INT64 = 1 << 63
"""Integers beyond this fit neither SQLite nor InfluxDB; they are kept as float."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What one device said of one moment. Times in ms since 1970 UTC; values by metric, in the vocabulary's unit.

    `suspect` names the metrics whose value is not believed; all others are good.
    """

    device: str
    site: str
    kind: str
    time: int
    received: int
    values: Mapping[str, Value]
    suspect: frozenset[str] = frozenset()


def points_of(readings: wire.Readings) -> list[Point]:
    """Points of the samples that carry values, in their order.

    A number that is no number (NaN, infinity) is left out like a missing one. A time that no calendar can write is
    replaced by the time of reception, and everything of that moment is suspect.
    """
    received = min(max(readings.received, 0), END_OF_TIME - 1)
    points = []
    for sample in readings.samples:
        if sample.tag:
            continue
        values = {metric: value for metric, raw in sample.values.items() if (value := storable(raw)) is not None}
        if not values:
            continue
        believed = 0 <= sample.time < END_OF_TIME
        points.append(
            Point(
                device=readings.device,
                site=readings.site,
                kind=readings.kind,
                time=sample.time if believed else received,
                received=received,
                values=values,
                suspect=frozenset(sample.suspect if believed else values) if sample.suspect or not believed else _NONE,
            )
        )
    return points


_NONE: frozenset[str] = frozenset()


def storable(value: Value) -> Value | None:
    """`value` as a store can hold it, None if none can."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int) and not -_INT64 <= value < _INT64:
        return float(value)
    return value
