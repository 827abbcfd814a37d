"""The rows of any message, whichever way it is carried.

Owns the choice by codec and the walks over documents, records and registers. Decodes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from citysense_profiles.codecs.field import Field
from citysense_profiles.format.binary import Items
from citysense_profiles.format.documents import JsonBytes, JsonEach, JsonPart, Only
from citysense_profiles.format.profile_file import (
    BinaryMessage,
    DocumentMessage,
    EpcMessage,
    Message,
    ModbusMessage,
    NativeMessage,
    SenmlMessage,
    TlvMessage,
)
from citysense_profiles.format.registers import ModbusField
from citysense_profiles.sheet.labels import Labels
from citysense_profiles.sheet.outline_bytes import BytesOutline, bit_row
from citysense_profiles.sheet.rows import Row, field_row, whole
from citysense_profiles.sheet.values import scalar


def outline(entry: Message, fields: Sequence[Field], labels: Labels) -> tuple[Row, ...]:
    """The rows of a message, in the order of the profile. `fields` are the compiled ones: some codecs bring their own."""
    match entry:
        case BinaryMessage():
            walk = BytesOutline(labels)
            walk.frame(entry.fields)
            return tuple(walk.rows)
        case TlvMessage():
            walk = BytesOutline(labels)
            walk.items(Items(items=entry.items), "", 0, heading=False)
            return tuple(walk.rows)
        case DocumentMessage():
            return tuple(_document(entry.fields, labels, "", "", 0))
        case SenmlMessage():
            return tuple(_senml(entry, fields, labels))
        case ModbusMessage():
            return tuple(_registers(entry, labels))
        case NativeMessage():
            return tuple(_own(fields, labels, "/"))
        case EpcMessage():
            return tuple(_own(fields, labels, ""))
        case _:
            assert_never(entry)


def _own(fields: Sequence[Field], labels: Labels, place: str) -> list[Row]:
    """Fields that the codec itself brings: the file names none. `place` is the pointer in front of native ones."""
    return [
        field_row(
            field.entry,
            labels,
            name=field.name,
            where=place and f"{place}{'v/' if field.metric else ''}{field.name}",
            kind=field.raw,
        )
        for field in fields
    ]


def _document(parts: Sequence[JsonPart], labels: Labels, prefix: str, around: str, level: int) -> list[Row]:
    rows: list[Row] = []
    for part in parts:
        where = around + part.bytes_ if isinstance(part, JsonBytes) else around + part.pointer
        if isinstance(part, JsonEach):
            name = prefix + part.each
            said = [labels("each", name=name, pointer=f"`{where}`" if where else '""')]
            said += [labels("each.text")] if part.text else []
            said += [only(part.only, labels)] if part.only else []
            rows.append(Row(heading=labels.join(said, "semicolon"), level=level))
            rows += _document(part.fields, labels, f"{name}.", f"{where}/*", level + 1)
        elif isinstance(part, JsonBytes):
            rows.append(Row(heading=labels("bytes_at", coding=part.coding, pointer=f"`{where}`"), level=level))
            walk = BytesOutline(labels)
            walk.inside(part.fields, prefix + whole(part.group), level + 1)
            rows += walk.rows
        else:
            notes = (labels("required"),) if part.required else ()
            name = prefix + (part.name or part.role or part.metric or "")
            rows.append(field_row(part, labels, name=name, where=where, kind=part.type, notes=notes, level=level))
    return rows


def only(rule: Only, labels: Labels) -> str:
    """Only objects whose /type is 5."""
    values = rule.equals if isinstance(rule.equals, list) else [rule.equals]
    return labels("only_where", pointer=f"`{rule.pointer}`", value=labels.join([scalar(one) for one in values], "or"))


def _senml(entry: SenmlMessage, fields: Sequence[Field], labels: Labels) -> list[Row]:
    listed = {field.name or field.role or field.metric for field in entry.fields}
    rows = _own([field for field in fields if field.name not in listed], labels, "")
    for field in entry.fields:
        notes = (labels("units_accepted", units=labels.join(field.units)),) if field.units else ()
        name = field.name or field.role or field.metric or ""
        rows.append(field_row(field, labels, name=name, where=field.senml, kind=field.value, notes=notes))
    return rows


def _registers(entry: ModbusMessage, labels: Labels) -> list[Row]:
    rows = []
    for field in entry.fields:
        where = address(field)
        said = [field.type if field.count is None else f"{field.type}[{field.count}]"]
        if field.word_order is not None and field.word_order != entry.codec.word_order:
            said.append(labels(field.word_order))
        if field.byte_order == "little":
            said.append(labels("little"))
        rows.append(
            field_row(field, labels, name=field.name or "", where=where, kind=labels.join(said), access=field.access)
        )
        rows += [bit_row(bit, labels, "", where, 0, 1) for bit in field.bits or ()]
    return rows


def address(field: ModbusField) -> str:
    """input 100 (0x0064)."""
    return f"{field.table} {field.address} (0x{field.address:04X})"
