"""From records of the log to rows of the event store. Pure.

Owns what makes two rows the same one, and how an event's values are named outside.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from citysense import wire
from citysense_platform.store.points import END_OF_TIME, Value, storable


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRow:
    """Something that happened at a device at `time` (ms). `tag` is an HMAC or empty; `values` by metric."""

    device: str
    time: int
    received: int
    kind: str
    tag: str
    values: Mapping[str, Value]


def events_of(readings: wire.Readings) -> list[EventRow]:
    """The samples that are events, in their order; one without any value is still an event."""
    received = min(max(readings.received, 0), END_OF_TIME - 1)
    return [
        EventRow(
            device=readings.device,
            time=sample.time if 0 <= sample.time < END_OF_TIME else received,
            received=received,
            kind=sample.event,
            tag=sample.tag,
            values={metric: value for metric, raw in sample.values.items() if (value := storable(raw)) is not None},
        )
        for sample in readings.samples
        if sample.event
    ]


def short_names(kind: str, values: Mapping[str, Value]) -> dict[str, Value]:
    """Values as they are shown: `tag.rssi` of a `tag.seen` is called `rssi`; what belongs to another word keeps its name."""
    prefix = kind.partition(".")[0] + "."
    return {metric.removeprefix(prefix): value for metric, value in values.items()}


def storable_int(number: int) -> int:
    """The nearest integer that SQLite can hold."""
    return min(max(number, -(1 << 63)), (1 << 63) - 1)


def digest_of(*parts: object) -> bytes:
    """Sixteen bytes that are the same for the same parts only."""
    return hashlib.blake2b(msgspec.msgpack.encode(parts), digest_size=16).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge:
    """What to do with an event beside the rows of the same device, time, kind and tag."""

    row: int | None
    """The row to complete, None for a new one."""
    values: Mapping[str, Value]
    """What the row holds afterwards."""
    changed: bool


def merge(known: Sequence[tuple[int, int, Mapping[str, Value]]], event: EventRow) -> Merge:
    """Decide whether `event` is new, known, or the other part of a known one.

    A frame travels in one record per class, so an event may come in parts, all with the same time of reception.
    `known`: (row id, received, values) of the rows with the same device, time, kind and tag. A part that says something
    else of a metric that the row has already is another event of the same millisecond.
    """
    for row, _, values in known:
        if all(metric in values and values[metric] == value for metric, value in event.values.items()):
            return Merge(row=row, values=values, changed=False)
    for row, received, values in known:
        if received == event.received and not values.keys() & event.values.keys():
            return Merge(row=row, values={**values, **event.values}, changed=True)
    return Merge(row=None, values=event.values, changed=True)
