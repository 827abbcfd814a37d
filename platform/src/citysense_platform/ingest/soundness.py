"""Can a gateway's record be true at all: names, numbers, texts and times. Pure.

A faulty or stolen gateway must not put what no store, no rule and no list can deal with beside good readings. What a
value means, and whether it is plausible, is the business of the profiles and the vocabulary.
"""

from __future__ import annotations

import re
from functools import lru_cache
from math import isfinite

from citysense import wire
from citysense_profiles.reading import ReadingClass

END_MS = 4_102_444_800_000
"""2100-01-01 in ms since 1970. No clock that is only wrong by its battery or its time zone says a later time."""
LONGEST_TEXT = 1_000
"""Characters. A text reading is a word or a short line; what is longer is a frame that was read wrongly."""
LONGEST_NAME = 100
MOST_LOST = 10**12
"""Readings of one tombstone: three years of 10,000 a second."""
TIME = "time"
"""Stands among the suspect names where an event time was replaced; no metric."""

_NAME = re.compile(r"[a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*)+")
_CLASSES = frozenset(str(cls) for cls in ReadingClass)


def sound_readings(readings: wire.Readings) -> bool:
    """Metrics have names of the vocabulary's form, numbers are finite, texts short, times between 1970 and 2100."""
    if not 0 <= readings.received < END_MS:
        return False
    for text in (readings.profile, readings.kind, readings.message, readings.identity):
        if len(text) > LONGEST_TEXT:
            return False
    return all(map(_sound_sample, readings.samples))


def sound_loss(stone: wire.Tombstone) -> bool:
    """A class that exists, a count that can be, and times that rise, between 1970 and 2100."""
    return (
        stone.cls in _CLASSES
        and 0 <= stone.count <= MOST_LOST
        and 0 <= stone.first <= stone.last < END_MS
        and len(stone.device) <= LONGEST_NAME
        and len(stone.reason) <= LONGEST_NAME
    )


def _sound_sample(sample: wire.SampleBody) -> bool:
    if not 0 <= sample.time < END_MS or len(sample.event) > LONGEST_NAME or len(sample.tag) > LONGEST_NAME:
        return False
    # The one loop over every value that enters the city, hence without a call for most of them.
    for name, value in sample.values.items():
        if len(name) > LONGEST_NAME or not _is_name(name):
            return False
        kind = type(value)
        if (kind is float and not isfinite(value)) or (kind is str and len(value) > LONGEST_TEXT):  # type: ignore[arg-type]
            return False
    return all(
        name == TIME or (len(name) <= LONGEST_NAME and _is_name(name)) for name in (*sample.suspect, *sample.missing)
    )


@lru_cache(maxsize=4_096)
def _is_name(name: str) -> bool:
    """Names come in their thousands and are the same few; those given are short, so this keeps little."""
    return _NAME.fullmatch(name) is not None
