"""What a decoded frame says, before anybody adds who sent it and when it came in.

Owns the values that pass from the codecs to the gateway's normalising step. No I/O, no clock, no profile knowledge.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import msgspec

Value = float | int | str | bool
"""Numbers of measurements and totals are always float; states are int, str or bool as the vocabulary says."""


class ReadingClass(StrEnum):
    """How hard the platform tries to keep a reading."""

    SAFETY = "safety"
    """Own lane everywhere, never given up."""
    STATE = "state"
    BULK = "bulk"
    """Replaced by a counted tombstone when space runs out."""

    # The key of dictionaries on the way of every frame; Enum's own hash is a call of a Python function.
    __hash__ = str.__hash__


class Quality(StrEnum):
    """Whether a reading is believed."""

    GOOD = "good"
    SUSPECT = "suspect"
    """Outside the vocabulary's plausible range: kept and flagged, not dropped."""


class Sample(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a frame says of one moment.

    `time` is the event time in ms since 1970 UTC, None where the frame carries none. `values` maps metric names to
    values in the vocabulary's unit; a metric that the frame marks as "no value" stands in `missing` instead. `event`
    names the kind of event, if the sample is one. `tag` is a personal id in clear: it leaves the gateway only as HMAC.
    """

    time: int | None
    values: Mapping[str, Value]
    missing: tuple[str, ...] = ()
    event: str | None = None
    tag: str | None = None


class Decoded(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One frame, decoded. `samples` may be empty: a frame that the profile knows and that says nothing of interest.

    `boot`, `seq` and `base` are set where the message counts its frames; `serial` is the payload's own id of its
    sender, where the profile marks one. Samples stand in the order of the frame.
    """

    message: str
    samples: tuple[Sample, ...]
    boot: int | None = None
    seq: int | None = None
    base: int | None = None
    serial: str | None = None
