"""Values that a message can carry, drawn at random from its description, and the frame that says them.

Owns drawing until a message takes the values. Deterministic: all chance comes from the `Random` that the caller gives.
No I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

from citysense_profiles.checking.drawing import Drawing, Values
from citysense_profiles.errors import DecodeError, EncodeError, RefusedError
from citysense_profiles.format.profile_file import BinaryMessage, TlvMessage
from citysense_profiles.profile import Profile
from citysense_profiles.vocabulary import Vocabulary

ATTEMPTS = 60
"""Drawings before a message counts as one that cannot be drawn."""
Frame = bytes | dict[tuple[str, int], int]
"""The bytes of a message, or the words of a register map."""


def draw(
    profile: Profile, message: str, random: Random, vocabulary: Vocabulary, settings: Mapping[str, float]
) -> Values:
    """Values by name that the message can carry, repeats as lists; what encoding fills in by itself is left out.

    `settings` are the device's own (see `drawn_settings`). The first drawings are free, later ones keep ever closer to
    the values of the profile's vectors. Raises EncodeError, the last one met, where no drawing can be encoded, or none
    is recognised as this message.
    """
    last = EncodeError("no value was drawn", profile=profile.id, message=message)
    for attempt in range(ATTEMPTS):
        drawing = Drawing(profile, message, random, vocabulary, settings, faithful=attempt / ATTEMPTS)
        try:
            values = drawing.values()
            frame = encoded(profile, message, values, settings)
        except EncodeError as error:
            last = error
        except RefusedError as error:
            last = EncodeError(str(error), profile=profile.id, message=message)
        else:
            if _is_recognised(profile, message, frame, settings):
                return values
            last = EncodeError(f"{values} makes a frame of another message", profile=profile.id, message=message)
    raise last


def _is_recognised(profile: Profile, message: str, frame: Frame, settings: Mapping[str, float]) -> bool:
    """Where `when` looks at a value or the length, many drawings make no such message. Other errors are the caller's."""
    if not isinstance(frame, bytes):
        return True
    try:
        profile.decode_fields(frame, message=message, settings=settings)
    except DecodeError as error:
        return error.code != "no_match" and not _is_too_short(profile, message, frame)
    return True


def _is_too_short(profile: Profile, message: str, frame: bytes) -> bool:
    entry = profile.file.messages[message]
    if not isinstance(entry, BinaryMessage | TlvMessage):
        return False
    wrapped = isinstance(entry, BinaryMessage) and entry.codec.wrap is not None
    return (len(frame) // 2 if wrapped else len(frame)) < (entry.when.shortest or 0)


def encoded(
    profile: Profile,
    message: str,
    values: Mapping[str, Any],
    settings: Mapping[str, float],
    content: int | None = None,
) -> Frame:
    """The frame or the registers of a message. Raises EncodeError."""
    if profile.is_sent(message):
        return profile.encode_fields(message, values, content=content, settings=settings)
    return profile.encode_register_fields(message, values, settings=settings)


def drawn_settings(profile: Profile) -> dict[str, float]:
    """A number for every setting: its default, else the middle of its range, else 1."""
    found = {}
    for name, setting in profile.settings.items():
        if setting.default is not None:
            found[name] = setting.default
        else:
            low, high = setting.low, setting.high
            found[name] = (low + high) / 2 if low is not None and high is not None else 1.0
    return found
