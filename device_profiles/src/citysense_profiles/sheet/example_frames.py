"""The worked examples of a profile, as a sheet prints them: the frame, and what it says.

Owns the choice of examples and their form.
"""

from __future__ import annotations

import json
from typing import Any

from citysense_profiles.format.vector import VectorEntry, VectorSample, Wire
from citysense_profiles.profile import Profile
from citysense_profiles.sheet import markdown
from citysense_profiles.sheet.labels import Labels
from citysense_profiles.sheet.values import hexed, number

EACH_MESSAGE = 2
"""So many positive examples of one message are printed."""
_LINE = 100


def examples(profile: Profile, labels: Labels) -> list[str]:
    """The lines of the section; empty where the profile has no positive example."""
    shown: list[VectorEntry] = []
    positive = [one for one in profile.vectors if one.values is not None or one.samples is not None]
    for message in profile.messages:
        shown += [one for one in positive if one.message == message][:EACH_MESSAGE]
    lines: list[str] = []
    for vector in shown:
        lines += _example(profile, vector, labels)
    left = len(profile.vectors) - len(shown)
    return [*lines, *([labels("more_examples", count=left), ""] if shown and left else [])]


def _example(profile: Profile, vector: VectorEntry, labels: Labels) -> list[str]:
    basis = labels(f"basis.{vector.basis}")
    source = f"{labels('colon')}{markdown.plain(vector.source)}" if vector.source else ""
    lines = [f"### {markdown.plain(vector.name)}", ""]
    lines += [f"`{vector.message}`{labels('comma')}{basis}{source}", ""]
    if vector.settings:
        given = labels.join(
            [
                f"`{name}` = {value if isinstance(value, str) else number(value)}"
                for name, value in vector.settings.items()
            ]
        )
        lines += [labels("with_settings", settings=given), ""]
    lines += [labels("frame"), "", *markdown.block(wire_text(vector.wire))]
    if vector.values is not None:
        lines += [labels("says"), "", *markdown.block(_values_text(profile, vector), "text")]
    if vector.samples:
        lines += [labels("gives"), "", *markdown.block(readable([_sample(one) for one in vector.samples]), "json")]
    return lines


def wire_text(wire: Wire) -> str:
    """A frame as it is written in the profile."""
    if wire.hex is not None:
        digits = hexed(wire.hex)
        return "\n".join(digits[start : start + 96].strip() for start in range(0, len(digits), 96)) or "-"
    if wire.text is not None:
        return wire.text
    if wire.registers is not None:
        return "\n".join(
            f"{table} {first}: {' '.join(f'{word:04X}' for word in words)}"
            for table, runs in wire.registers.items()
            for first, words in runs.items()
        )
    if wire.write is not None:
        return "\n".join(
            f"{one.function:02d} {one.table} {one.address}: {' '.join(f'{word:04X}' for word in one.words)}"
            for one in wire.write
        )
    return readable(wire.json_ if "json_" in wire.model_fields_set else wire.cbor)


def _values_text(profile: Profile, vector: VectorEntry) -> str:
    units = {field.name: field.unit or "" for field in profile.fields(vector.message or "")}
    secret = {field.name for field in profile.fields(vector.message or "") if field.entry.secret}
    values = vector.values or {}
    width = max((len(name) for name in values), default=0)
    return "\n".join(
        f"{name:<{width}}  {'(secret)' if name in secret else readable(value)} {units.get(name, '')}".rstrip()
        for name, value in values.items()
    )


def _sample(sample: VectorSample) -> dict[str, Any]:
    return sample.model_dump(exclude_defaults=True)


def readable(value: Any, indent: str = "") -> str:
    """JSON: on one line where it fits, else one part a line. What JSON lacks (CBOR bytes, number keys) becomes text."""
    line = json.dumps(value, ensure_ascii=False, default=_other)
    if len(indent) + len(line) <= _LINE or not isinstance(value, dict | list) or not value:
        return line
    inner = f"{indent}  "
    if isinstance(value, list):
        parts = [f"{inner}{readable(one, inner)}" for one in value]
        return "[\n" + ",\n".join(parts) + f"\n{indent}]"
    parts = [f"{inner}{json.dumps(str(key), ensure_ascii=False)}: {readable(one, inner)}" for key, one in value.items()]
    return "{\n" + ",\n".join(parts) + f"\n{indent}}}"


def _other(value: Any) -> str:
    return f"h'{value.hex()}'" if isinstance(value, bytes) else str(value)
