"""From what a frame says to readings as the platform takes them.

Adds event time and class, flags what is not plausible and hides personal ids. Nothing is dropped here but what must not
be kept (secret metrics) and what is no number; missing is not zero. Pure: the time of arrival comes with the frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

from citysense import wire
from citysense_gateway.devices import Device
from citysense_gateway.frame import Frame
from citysense_profiles.reading import Decoded, ReadingClass, Sample, Value
from citysense_profiles.vocabulary import Metric, Vocabulary

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
    samples: dict[ReadingClass, list[wire.SampleBody]] = {cls: [] for cls in _URGENCY}
    for sample in decoded.samples:
        time, time_replaced = _event_time(sample.time, frame.received_at)
        values, missing = _usable(sample, vocabulary)
        tag = pseudonym(sample.tag) if sample.tag else ""
        for cls, metrics in _by_class(sample, [*values, *missing], vocabulary).items():
            own = {name: values[name] for name in metrics if name in values}
            suspect = [name for name, value in own.items() if not _plausible(vocabulary.metric(name), value)]
            samples[cls].append(
                wire.SampleBody(
                    time=time,
                    values=own,
                    suspect=[*suspect, TIME] if time_replaced else suspect,
                    missing=[name for name in metrics if name not in values],
                    event=sample.event or "",
                    tag=tag,
                )
            )
    return {cls: _readings(frame, device, decoded, of_class) for cls, of_class in samples.items() if of_class}


def _event_time(time: int | None, received: int) -> tuple[int, bool]:
    if time is None:
        return received, False
    if OLDEST_MS <= time <= received + NEWEST_MS:
        return time, False
    return received, True


def _usable(sample: Sample, vocabulary: Vocabulary) -> tuple[dict[str, Value], list[str]]:
    """Values that may be kept, and the names of those that are marked as "no value" or are no number."""
    values: dict[str, Value] = {}
    missing = [name for name in sample.missing if not vocabulary.metric(name).secret]
    for name, value in sample.values.items():
        if vocabulary.metric(name).secret:
            continue
        if isinstance(value, float) and not math.isfinite(value):
            missing.append(name)
        else:
            values[name] = value
    return values, missing


def _by_class(sample: Sample, metrics: Iterable[str], vocabulary: Vocabulary) -> Mapping[ReadingClass, list[str]]:
    """Which metrics travel in which lane. An event stays whole, in the most urgent lane of its parts: a sighting whose
    signal level comes by another lane would be two half sightings."""
    lanes: dict[ReadingClass, list[str]] = {}
    for name in metrics:
        lanes.setdefault(vocabulary.metric(name).cls, []).append(name)
    if sample.event is None:
        return lanes
    of_event = {vocabulary.metric(sample.event).cls} if sample.event in vocabulary else set()
    cls = next((cls for cls in _URGENCY if cls in lanes.keys() | of_event), ReadingClass.STATE)
    return {cls: [name for names in lanes.values() for name in names]}


def _plausible(metric: Metric, value: Value) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return True
    return (metric.low is None or value >= metric.low) and (metric.high is None or value <= metric.high)


def _readings(frame: Frame, device: Device, decoded: Decoded, samples: list[wire.SampleBody]) -> wire.Readings:
    return wire.Readings(
        device=device.id,
        profile=device.profile.id,
        kind=device.profile.kind,
        message=decoded.message,
        received=frame.received_at,
        identity=frame.identity.value,
        samples=samples,
        boot=-1 if decoded.boot is None else decoded.boot,
        seq=-1 if decoded.seq is None else decoded.seq,
    )
