"""`citysense profiles list` and `show`: what there is, and what stands in one profile.

Owns the two prints, as text and as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, get_args

from citysense.cli.profiles_find import find_profile
from citysense.cli.text_table import aligned, folded, hanging, screen_width
from citysense.errors import SetupError, WrongUse
from citysense_profiles import load_catalogue
from citysense_profiles.codecs.modbus.wire import function_of
from citysense_profiles.errors import ProfileError
from citysense_profiles.format.profile_file import Message, ModbusMessage, ProfileKind
from citysense_profiles.profile import Profile
from citysense_profiles.sheet import describe
from citysense_profiles.sheet.labels import Labels
from citysense_profiles.sheet.outline import outline
from citysense_profiles.sheet.rows import Row
from citysense_profiles.sheet.values import duration, number

_ENGLISH = Labels("en")


def print_list(kind: str | None, *, as_json: bool) -> int:
    """Print the catalogue, of one kind if one is named."""
    if kind is not None and kind not in get_args(ProfileKind):
        raise WrongUse(f"--kind {kind}: there is no such kind; choose from {', '.join(get_args(ProfileKind))}")
    try:
        found = [profile for profile in load_catalogue() if kind is None or profile.kind == kind]
    except ProfileError as error:
        raise SetupError(str(error)) from error
    if as_json:
        print(json.dumps([_head(profile) for profile in found], indent=2, ensure_ascii=False))
        return 0
    rows = [(one.id, one.kind, ",".join(sorted(one.transports)), ",".join(_codecs(one)), one.title) for one in found]
    print("\n".join(aligned(("id", "kind", "transports", "codecs", "title"), rows, screen_width())))
    return 0


def _codecs(profile: Profile) -> list[str]:
    return list(dict.fromkeys(entry.codec.type for entry in profile.file.messages.values()))


def _head(profile: Profile) -> dict[str, Any]:
    return {
        "id": profile.id,
        "kind": profile.kind,
        "title": profile.title,
        "title_zh": profile.file.title_zh,
        "transports": sorted(profile.transports),
        "codecs": _codecs(profile),
    }


def print_profile(wanted: str, *, as_json: bool) -> int:
    """Print one profile."""
    profile = find_profile(wanted)
    if as_json:
        print(json.dumps(_as_json(profile), indent=2, ensure_ascii=False, default=str))
        return 0
    print("\n".join(_as_text(profile, screen_width())))
    return 0


def _as_json(profile: Profile) -> dict[str, Any]:
    product, file = profile.product, profile.file
    return {
        **_head(profile),
        "product": product.model_dump(),
        "mqtt_topics": list(profile.mqtt_topics),
        "report_every": profile.report_every,
        "settings": {name: entry.model_dump() for name, entry in file.settings.items()},
        "options": {name: entry.model_dump() for name, entry in file.options.items()},
        "metrics": sorted(profile.metrics),
        "messages": {name: _message_json(profile, name, entry) for name, entry in file.messages.items()},
        "caveats": [caveat.model_dump() for caveat in file.caveats],
    }


def _message_json(profile: Profile, name: str, entry: Message) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "title": entry.title,
        "direction": entry.direction,
        "codec": entry.codec.type,
        "fields": [
            {"name": field.name, "type": field.raw, "unit": field.unit, "metric": field.metric, "role": field.role}
            for field in profile.fields(name)
        ],
    }
    if isinstance(entry, ModbusMessage):
        shown["unit"] = profile.unit(name)
        shown["reads"] = [
            {"function": function_of(read.table), "table": read.table, "address": read.address, "count": read.count}
            for read in profile.plan_reads(name)
        ]
    return shown


def _as_text(profile: Profile, width: int) -> list[str]:
    product, file = profile.product, profile.file
    lines = [f"{profile.id}  {profile.title}", ""]
    facts = [
        ("kind", profile.kind),
        ("product", f"{product.vendor} {product.model}, firmware {product.firmware}"),
        ("source", f"{product.source} ({_ENGLISH(f'level.{product.level}')})"),
        ("transports", ", ".join(sorted(profile.transports))),
        ("topics", ", ".join(profile.mqtt_topics)),
        ("reports every", duration(profile.report_every)),
    ]
    for name, value in facts:
        lines += hanging(f"  {name:<14} ", value, width) if value else []
    settings = [
        (name, one.unit, "" if one.default is None else number(one.default), _range(one.range), one.title)
        for name, one in file.settings.items()
    ]
    lines += _section("settings", ("name", "unit", "default", "range", "title"), settings, width)
    options = [
        (name, f"{choice}{'*' if choice == one.default else ''}", meaning)
        for name, one in file.options.items()
        for choice, meaning in one.choices.items()
    ]
    lines += _section("options (* is the default)", ("name", "choice", "meaning"), options, width)
    for name, entry in file.messages.items():
        lines += _message_text(profile, name, entry, width)
    lines += ["", "caveats"] if file.caveats else []
    for caveat in file.caveats:
        lines += hanging("  - ", caveat.text, width)
    return lines


def _range(limits: tuple[float, float] | None) -> str:
    return "" if limits is None else f"{number(limits[0])} to {number(limits[1])}"


def _message_text(profile: Profile, name: str, entry: Message, width: int) -> list[str]:
    told = describe.recognised(entry, _ENGLISH)
    said = [describe.title(entry, _ENGLISH), describe.direction(entry, _ENGLISH), describe.form(entry, _ENGLISH), told]
    lines = ["", *hanging(f"message {name}: ", _bare("; ".join(part for part in said if part)), width)]
    for remark in describe.remarks(entry, _ENGLISH):
        lines += hanging("  ", _bare(remark), width)
    rows = outline(entry, profile.fields(name), _ENGLISH)
    head = ("where", "name", "type", "access", "unit", "scale", "metric", "notes")
    top, *below = folded(head, [_cells(row) for row in rows if not row.heading], width - 2)
    lines += _indented(top)
    for row in rows:
        lines += (
            hanging(f"  {'  ' * row.level}", f"[{_bare(row.heading)}]", width)
            if row.heading
            else _indented(below.pop(0))
        )
    if isinstance(entry, ModbusMessage) and entry.direction == "up":
        lines.append("  read plan (unit " + str(profile.unit(name)) + ")")
        lines += [
            f"    function {function_of(read.table)}, {read.table} {read.address}"
            + (f" to {read.address + read.count - 1}" if read.count > 1 else "")
            for read in profile.plan_reads(name)
        ]
    return lines


def _cells(row: Row) -> tuple[str, ...]:
    words = ", ".join(f"{word.code}={word.word}" for word in row.words)
    notes = "; ".join(part for part in (words, *row.notes) if part)
    return ("  " * row.level + row.where, row.name, row.kind, row.access, row.unit, row.scale, row.metric, notes)


def _section(title: str, head: tuple[str, ...], rows: Sequence[tuple[str, ...]], width: int) -> list[str]:
    if not rows:
        return []
    return ["", title, *(line for lines in folded(head, rows, width - 2) for line in _indented(lines))]


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def _bare(text: str) -> str:
    """A phrase of the sheet without its Markdown."""
    return text.replace("`", "")
