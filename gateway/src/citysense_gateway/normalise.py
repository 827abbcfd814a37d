"""From what a frame says to readings as the platform takes them.

Adds event time and class, flags what is not plausible and hides personal ids. Nothing is dropped here but what must not
be kept (secret metrics) and what is no number; missing is not zero. Pure: the time of arrival comes with the frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from citysense import wire
from citysense_gateway.devices import Device
from citysense_gateway.frame import Frame
from citysense_profiles.reading import Decoded, ReadingClass, Sample, Value
from citysense_profiles.vocabulary import Vocabulary

OLDEST_MS = 1_420_070_400_000
"""2015-01-01. Clocks that were never set start at 1970, 1980, 2000 or at the firmware's build date; nothing that a city
installs today remembers readings from before."""
NEWEST_MS = 5 * 60 * 1000
"""An event time further ahead of the time of arrival is a wrong clock, not a reading of then."""
TIME = "time"
"""Stands among the suspect metrics of a sample whose event time was replaced."""
_URGENCY = (ReadingClass.SAFETY, ReadingClass.STATE, ReadingClass.BULK)

Pseudonym = Callable[[str], str]


def normalise(
    frame: Frame, device: Device, decoded: Decoded, *, vocabulary: Vocabulary, pseudonym: Pseudonym
) -> dict[ReadingClass, wire.Readings]:
    """The frame's readings per class, the most urgent class first; samples in the order of the frame.

    Raises UnicodeEncodeError for a tag id that is no text.
    """
    lanes: dict[ReadingClass, list[wire.SampleBody]] = {}
    for sample in decoded.samples:
        time, time_replaced = _event_time(sample.time, frame.received_at)
        tag = pseudonym(sample.tag) if sample.tag else ""
        for cls, (values, suspect, missing) in _by_class(sample, vocabulary).items():
            if time_replaced:
                suspect.append(TIME)
            body = wire.SampleBody(
                time=time, values=values, suspect=suspect, missing=missing, event=sample.event or "", tag=tag
            )
            lanes.setdefault(cls, []).append(body)
    return {cls: _readings(frame, device, decoded, lanes[cls]) for cls in _URGENCY if cls in lanes}


def _event_time(time: int | None, received: int) -> tuple[int, bool]:
    if time is None:
        return received, False
    if OLDEST_MS <= time <= received + NEWEST_MS:
        return time, False
    return received, True


_Part = tuple[dict[str, Value], list[str], list[str]]
"""What one sample says in one lane: values, and the names that are suspect and missing."""


def _by_class(sample: Sample, vocabulary: Vocabulary) -> dict[ReadingClass, _Part]:
    """Which metrics travel in which lane; what is secret is left out, what is no number is missing."""
    parts: dict[ReadingClass, _Part] = {}
    whole = None if sample.event is None else _lane_of_event(sample, vocabulary)
    if whole is not None:
        parts[whole] = ({}, [], [])
    for name in sample.missing:
        metric = vocabulary.metric(name)
        if not metric.secret:
            parts.setdefault(whole or metric.cls, ({}, [], []))[2].append(name)
    # The one loop over every value of every frame, hence without a call per value but one.
    for name, value in sample.values.items():
        metric = vocabulary.metric(name)
        if metric.secret:
            continue
        cls = whole or metric.cls
        part = parts.get(cls)
        if part is None:
            part = parts[cls] = ({}, [], [])
        if type(value) is float and not math.isfinite(value):
            part[2].append(name)
            continue
        part[0][name] = value
        # Not bool, which would compare as well.
        if (type(value) is float or type(value) is int) and (
            (metric.low is not None and value < metric.low) or (metric.high is not None and value > metric.high)
        ):
            part[1].append(name)
    return parts


def _lane_of_event(sample: Sample, vocabulary: Vocabulary) -> ReadingClass:
    """An event stays whole, in the most urgent lane of its parts: a sighting whose signal level comes by another lane
    would be two half sightings."""
    metrics = (vocabulary.metric(name) for name in (*sample.values, *sample.missing))
    lanes = {metric.cls for metric in metrics if not metric.secret}
    if sample.event is not None and sample.event in vocabulary:
        lanes.add(vocabulary.metric(sample.event).cls)
    return next((cls for cls in _URGENCY if cls in lanes), ReadingClass.STATE)


def _readings(frame: Frame, device: Device, decoded: Decoded, samples: list[wire.SampleBody]) -> wire.Readings:
    return wire.Readings(
        device=device.id,
        profile=device.profile.id,
        kind=device.profile.kind,
        message=decoded.message,
        received=frame.received_at,
        identity=frame.identity,
        samples=samples,
        boot=-1 if decoded.boot is None else decoded.boot,
        seq=-1 if decoded.seq is None else decoded.seq,
    )
