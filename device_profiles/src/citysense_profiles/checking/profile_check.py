"""Everything that can be said about a profile without a device: its vectors, and what random values and bytes do to it.

Owns which checks there are and their verdict. Faults must be mended; advice may have a reason not to be taken.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

from citysense_profiles.checking.chance_check import check_chance, values_of
from citysense_profiles.checking.vector_check import check_vector, frame_of, registers_of, settings_of
from citysense_profiles.codecs.field import Field
from citysense_profiles.errors import DecodeError, SettingError
from citysense_profiles.format.profile_file import BinaryMessage, TlvMessage
from citysense_profiles.profile import Profile
from citysense_profiles.values.units import UNITS
from citysense_profiles.vocabulary import Vocabulary, load_vocabulary

_LONGEST_LIST = 16
"""A map with more words than this need not be shown whole."""
_PERSONAL = re.compile(r"(^|[._])(user|username|card|rfid|id_tag|evcc_?id|vehicle_id|vin|phone)$")
_SECRET = re.compile(r"(^|[._])(password|passcode|pwd|keyboardpwd|new_?password)$")


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found, one sentence each."""

    faults: list[str] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)


def check_profile(profile: Profile, *, seed: int = 0, vocabulary: Vocabulary | None = None) -> Report:
    """Runs every check. The same `seed` draws the same values and bytes."""
    random = Random(seed)  # noqa: S311 - it draws examples and guards nothing
    known = vocabulary or load_vocabulary()
    report = Report()
    for vector in profile.vectors:
        report.faults.extend(f"vector {vector.name}: {fault}" for fault in check_vector(profile, vector))
    report.faults.extend(_uncovered(profile))
    report.faults.extend(check_chance(profile, random, known))
    report.advice.extend(_advice(profile))
    return report


# --- what vectors should show


def _uncovered(profile: Profile) -> Iterator[str]:
    shown = {vector.message for vector in profile.vectors if vector.values is not None or vector.samples is not None}
    for name in profile.messages:
        if name not in shown:
            yield f"message {name} has no vector that shows it"
    framed = any(isinstance(entry, BinaryMessage | TlvMessage) for entry in profile.file.messages.values())
    if framed and not any(vector.error for vector in profile.vectors):
        yield "no vector shows a frame that must be refused"


def _advice(profile: Profile) -> Iterator[str]:
    yield from _untranslated(profile)
    seen = _seen(profile)
    for message in profile.messages:
        for one in profile.fields(message):
            where = f"message {message}, field {one.name}"
            yield from (f"{where}: {text}" for text in _field_advice(one, seen.get((message, one.name), [])))


def _untranslated(profile: Profile) -> Iterator[str]:
    file = profile.file
    if file.title_zh is None:
        yield "title has no title_zh"
    for caveat in file.caveats:
        if caveat.zh is None:
            yield f"a caveat has no zh: {caveat.text[:60]}"
    for kind, entries in (("setting", file.settings), ("option", file.options)):
        for name, entry in entries.items():
            if entry.title_zh is None:
                yield f"{kind} {name} has no title_zh"


def _seen(profile: Profile) -> dict[tuple[str, str], list[Any]]:
    """What the vectors show of each field, by message and name, lists taken apart."""
    seen: dict[tuple[str, str], list[Any]] = {}
    for vector in profile.vectors:
        if vector.message is None or vector.error is not None:
            continue
        values = vector.values
        if values is None:
            try:
                fitted, settings = settings_of(profile, vector)
                frame = registers_of(vector) or frame_of(vector)
                values = dict(values_of(fitted, vector.message, frame, settings, vector.content))
            except (DecodeError, SettingError):
                continue  # a fault of the vector, which its own check names
        for name, value in values.items():
            seen.setdefault((vector.message, name), []).extend(_leaves(value))
    return seen


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        for one in value:
            yield from _leaves(one)
    else:
        yield value


def _field_advice(one: Field, seen: list[Any]) -> Iterator[str]:
    entry = one.entry
    if entry.map is not None and len(entry.map) <= _LONGEST_LIST:
        unseen = [word for word in entry.map.values() if all(type(word) is not type(v) or word != v for v in seen)]
        if unseen:
            yield f"no vector shows {', '.join(map(repr, unseen))}"
    marks = [mark for mark in entry.invalid if mark == mark]  # that NaN is no number needs no example
    if (marks or entry.valid is not None) and None not in seen:
        yield "no vector shows that it may have no value"
    if entry.unit is not None and entry.unit not in UNITS:
        yield f"unit {entry.unit!r} is none that we know; write it as in units.py, or leave it out"
    if _PERSONAL.search(one.name) and not (entry.personal or entry.secret or one.role == "tag"):
        yield "looks like something personal; mark it `personal: true`"
    if _SECRET.search(one.name) and not entry.secret:
        yield "looks like something secret; mark it `secret: true`"
