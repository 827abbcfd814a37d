"""One message of a sheet: what it is, the drawing of its bytes, the table of its fields, and their codes.

Owns that section only.
"""

from __future__ import annotations

from collections.abc import Sequence

from citysense_profiles.format.profile_file import (
    BinaryMessage,
    DocumentMessage,
    Message,
    ModbusMessage,
    NativeMessage,
    SenmlMessage,
    TlvMessage,
)
from citysense_profiles.profile import Profile
from citysense_profiles.sheet import describe, markdown
from citysense_profiles.sheet.labels import Labels
from citysense_profiles.sheet.outline import outline
from citysense_profiles.sheet.picture import picture
from citysense_profiles.sheet.rows import Row

_FUNCTIONS = {"coil": 1, "discrete": 2, "holding": 3, "input": 4}


def message_section(profile: Profile, name: str, entry: Message, labels: Labels) -> list[str]:
    """The lines of the section."""
    rows = outline(entry, profile.fields(name), labels)
    title = describe.title(entry, labels)
    lines = [f"### {markdown.plain(title)} (`{name}`)" if title else f"### `{name}`", ""]
    said = [describe.direction(entry, labels), describe.form(entry, labels), describe.recognised(entry, labels)]
    lines += [labels.join(said, "semicolon"), ""]
    if entry.note is not None:
        lines += [markdown.plain(labels.text(entry.note, None)), ""]
    for remark in describe.remarks(entry, labels):
        lines += [remark, ""]
    if isinstance(entry, BinaryMessage):
        lines += [labels("picture"), "", *markdown.block("\n".join(picture(rows, labels)))]
    lines += fields_table(entry, rows, labels)
    lines += _words(rows, labels)
    if isinstance(entry, ModbusMessage) and entry.direction == "up":
        lines += _reads(profile, name, labels)
    return lines


def where_label(entry: Message) -> str:
    """The key of the head of the column that says where a field stands."""
    match entry:
        case TlvMessage() | BinaryMessage():
            return "offset"
        case DocumentMessage() | NativeMessage():
            return "pointer"
        case SenmlMessage():
            return "record"
        case ModbusMessage():
            return "address"
        case _:
            return "content"


def fields_table(entry: Message, rows: Sequence[Row], labels: Labels) -> list[str]:
    """The table of the fields, where bytes are counted with a sentence on how."""
    keys = (where_label(entry), "name", "type", "access", "unit", "scale", "metric", "notes")
    lines = markdown.table([labels(key) for key in keys], [_cells(row, labels) for row in rows])
    counted = isinstance(entry, BinaryMessage | TlvMessage)
    return [*lines, *([labels("offsets"), ""] if counted else [])]


def _cells(row: Row, labels: Labels) -> tuple[str, ...]:
    indent = "&nbsp;&nbsp;" * row.level
    if row.heading:
        return (f"{indent}**{row.heading}**", "", "", "", "", "", "", "")
    metric = markdown.code(row.metric)
    notes = labels.join([markdown.plain(note) for note in row.notes], "semicolon")
    where = markdown.code(row.where) if row.where.startswith("/") else markdown.plain(row.where)
    return (indent + where, markdown.code(row.name), row.kind, row.access, row.unit, row.scale, metric, notes)


def _words(rows: Sequence[Row], labels: Labels) -> list[str]:
    """The codes of every field that has words, each list once however often it is used."""
    lists: dict[str, list[str]] = {}
    for row in rows:
        if row.words:
            said = [f"{word.code} = {word.word}{f' → {word.means}' if word.means else ''}" for word in row.words]
            names = lists.setdefault(markdown.plain(labels.join(said)), [])
            if row.name not in names:
                names.append(row.name)
    if not lists:
        return []
    spoken = [
        f"- {labels.join([markdown.code(name) for name in names])}{labels('colon')}{said}"
        for said, names in lists.items()
    ]
    return [labels("words"), "", *spoken, ""]


def _reads(profile: Profile, name: str, labels: Labels) -> list[str]:
    rows = [
        (f"{_FUNCTIONS[read.table]:02d}", read.table, f"{read.address} (0x{read.address:04X})", str(read.count))
        for read in profile.plan_reads(name)
    ]
    head = [labels(key) for key in ("function", "table", "first_address", "count")]
    return [f"{labels('reads')}{labels('colon')}", "", *markdown.table(head, rows)]
