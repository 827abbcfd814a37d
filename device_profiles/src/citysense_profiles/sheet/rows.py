"""One row of an outline: what a field says, in words for people. Every message becomes a list of these.

Owns the row and what the keys shared by all fields turn into. Where a field stands is the caller's business.
"""

from __future__ import annotations

from dataclasses import dataclass

from citysense_profiles.format.meaning import Meaning
from citysense_profiles.sheet.labels import Labels
from citysense_profiles.sheet.values import code_point, scalar, scaling, utc_offset


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """A raw code, the vendor's word for it, and what that is in the metric's words (empty: no reading of its own)."""

    code: str
    word: str
    means: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A field, a constant, a gap, or (with `heading`) the start of a part whose rows follow, `level` deep.

    `start` and `size` are bytes from the start of `part`, None where they are not fixed; `inside` marks what takes no
    room of its own (bits of the number before).
    """

    heading: str = ""
    level: int = 0
    where: str = ""
    name: str = ""
    kind: str = ""
    unit: str = ""
    scale: str = ""
    metric: str = ""
    access: str = ""
    notes: tuple[str, ...] = ()
    words: tuple[Word, ...] = ()
    part: int = 0
    start: int | None = None
    size: int | None = None
    inside: bool = False


def field_row(
    entry: Meaning,
    labels: Labels,
    *,
    name: str,
    where: str,
    kind: str,
    notes: tuple[str, ...] = (),
    access: str = "",
    part: int = 0,
    start: int | None = None,
    size: int | None = None,
    inside: bool = False,
    level: int = 0,
) -> Row:
    """The row of a field. `notes` stand before those that the entry's own keys make."""
    return Row(
        level=level,
        where=where,
        name=name,
        kind=kind,
        unit=entry.unit or "",
        scale=scaling(entry, labels),
        metric=entry.metric or "",
        access=access,
        notes=(*notes, *_notes(entry, labels)),
        words=_words(entry),
        part=part,
        start=start,
        size=size,
        inside=inside,
    )


def _notes(entry: Meaning, labels: Labels) -> list[str]:
    notes = []
    if entry.role is not None:
        notes.append(labels(f"role.{entry.role}"))
    if entry.form is not None:
        notes.append(labels(f"form.{entry.form}", offset=utc_offset(entry.utc_offset or 0)))
    if entry.reshape is not None:
        notes.append(labels("reshape", wire=entry.reshape.wire, value=entry.reshape.value))
    if entry.map is None and entry.means is not None:
        pairs = [f"{scalar(word)} = {scalar(value)}" for word, value in entry.means.items()]
        notes.append(labels("means_note", pairs=labels.join(pairs)))
    if entry.others == "pass":
        notes.append(labels("others"))
    if entry.invalid:
        notes.append(labels("invalid", marks=labels.join([code_point(mark) for mark in entry.invalid])))
    if entry.default is not None:
        notes.append(labels("default", value=scalar(entry.default)))
    if entry.secret:
        notes.append(labels("secret"))
    elif entry.personal:
        notes.append(labels("personal"))
    if entry.note is not None:
        notes.append(labels.text(entry.note, entry.note_zh))
    return notes


def _words(entry: Meaning) -> tuple[Word, ...]:
    means = entry.means or {}
    spoken = {(type(word) is bool, word): scalar(value) for word, value in means.items()}
    return tuple(
        Word(code=code_point(code), word=scalar(word), means=spoken.get((type(word) is bool, word), ""))
        for code, word in (entry.map or {}).items()
    )


def whole(group: str | None) -> str:
    """What a group puts before the names of its fields."""
    return f"{group}." if group else ""
