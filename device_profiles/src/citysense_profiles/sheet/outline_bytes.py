"""The rows of a frame of bytes: every part in order, with offsets as far as the layout fixes them.

Owns the walk over `format.binary`. Decodes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from citysense_profiles.format.binary import (
    BinaryField,
    Block,
    Element,
    Elements,
    Item,
    Items,
    Part,
    Repeat,
    SizeField,
    When,
)
from citysense_profiles.format.meaning import BitField
from citysense_profiles.sheet.labels import Labels
from citysense_profiles.sheet.rows import Row, field_row, whole
from citysense_profiles.sheet.values import code_point, hexed, scalar

_SIZES = {"f16": 2, "f32": 4, "f64": 8, "cp56": 7}


def size_of(part: Part) -> int | None:
    """The bytes that a part always takes; None where that varies."""
    match part:
        case BinaryField():
            return _field_size(part)
        case Block():
            return total(part.fields) if part.when is None and part.size is None else None
        case Repeat():
            each = total(part.fields)
            return each * part.to if each is not None and isinstance(part.to, int) and part.size is None else None
        case _:
            return None


def total(parts: Sequence[Part]) -> int | None:
    """The bytes of all of them; None where that varies."""
    sizes = [size_of(part) for part in parts]
    return None if None in sizes else sum(size or 0 for size in sizes)


def _field_size(field: BinaryField) -> int | None:
    if field.skip is not None:
        return field.skip
    if field.length is not None:
        return field.length if isinstance(field.length, int) else None
    kind = field.type or ""
    if kind in _SIZES:
        return _SIZES[kind]
    return int(kind[1:]) // 8 if kind[1:].isdigit() else None


@dataclass(slots=True)
class _Cursor:
    """Where the walk stands. `base`: counted from the frame's start, from its end, or from the last part's end."""

    base: str = ""
    at: int = 0
    part: int = 0

    def where(self, size: int | None) -> str:
        """The offsets of the next `size` bytes."""
        sign = {"": "", "after": "+", "end": "end-"}[self.base]
        first, last = abs(self.at), abs(self.at + (size or 1) - 1)
        if size is None:
            return f"{sign}{first}…"
        if size <= 1:
            return f"{sign}{first}"
        return f"{sign}{first} … {sign}{last}" if self.base == "end" else f"{sign}{first}-{last}"


class BytesOutline:
    """Walks the parts of one frame. `rows` fill in order."""

    def __init__(self, labels: Labels) -> None:
        self.rows: list[Row] = []
        self._labels = labels
        self._parts = 0

    def frame(self, parts: Sequence[Part]) -> None:
        """A whole frame: what follows the last part of varying size counts from the end."""
        self._walk(parts, _Cursor(), "", 0, to_end=True)

    def inside(self, parts: Sequence[Part], prefix: str, level: int) -> None:
        """Parts whose start is elsewhere: offsets count from it."""
        self._walk(parts, self._fresh(), prefix, level, to_end=False)

    def items(self, items: Items, prefix: str, level: int, *, heading: bool = True) -> None:
        """Tagged items; each kind is a part of its own."""
        labels = self._labels
        if heading:
            said = [labels("items")]
            if items.length is not None:
                said.append(labels("items.length", type=items.length))
            if items.unknown == "skip":
                said.append(labels("items.skip"))
            if items.significant is not None:
                said.append(labels("items.masked", bytes=labels.join([str(at) for at in items.significant])))
            said += self._until(items.until) + self._sized(items.size)
            self._heading(said, level)
        for item in items.items:
            self.item(item, prefix, level + (1 if heading else 0))

    def item(self, item: Item, prefix: str, level: int) -> None:
        """One kind of item."""
        labels = self._labels
        said = [labels("item_of", tag=hexed(item.tag))]
        said += [labels("item_group", name=item.group)] if item.group else []
        said += [labels("item.many")] if item.many else []
        said += [] if item.fields else [labels("item.empty")]
        self._heading(said, level)
        self.inside(item.fields, prefix + whole(item.group), level + 1)

    def _walk(self, parts: Sequence[Part], cursor: _Cursor, prefix: str, level: int, *, to_end: bool) -> None:
        for index, part in enumerate(parts):
            size = size_of(part)
            match part:
                case BinaryField():
                    self._field(part, cursor, prefix, level, size)
                case Block():
                    self._block(part, cursor, prefix, level)
                case Repeat():
                    self._repeat(part, prefix, level)
                case Items():
                    self.items(part, prefix, level)
                case Elements():
                    self._elements(part, prefix, level)
            rest = total(parts[index + 1 :])
            if size is not None:
                cursor.at += size
                if isinstance(part, Repeat):
                    cursor.part = self._new_part()
            elif to_end and rest is not None:
                cursor.base, cursor.at, cursor.part = "end", -rest, self._new_part()
            else:
                cursor.base, cursor.at, cursor.part = "after", 0, self._new_part()

    def _field(self, field: BinaryField, cursor: _Cursor, prefix: str, level: int, size: int | None) -> None:
        where = cursor.where(size)
        name = prefix + field.name if field.name else ""
        self.rows.append(
            field_row(
                field,
                self._labels,
                name=name,
                where=where,
                kind=self._kind(field),
                notes=tuple(self._purpose(field)),
                part=cursor.part,
                start=cursor.at,
                size=size,
                level=level,
            )
        )
        for bit in field.bits or ():
            self.rows.append(bit_row(bit, self._labels, prefix, where, cursor.part, level + 1))

    def _kind(self, field: BinaryField) -> str:
        if field.skip is not None:
            return f"skip[{field.skip}]"
        said = [field.type or ""]
        if isinstance(field.length, int):
            said[0] += f"[{field.length}]"
        elif isinstance(field.length, SizeField):
            said += self._sized(field.length)
        for order in (field.byte_order, field.word_order):
            if order is not None:
                said.append(self._labels(order))
        return self._labels.join(said)

    def _purpose(self, field: BinaryField) -> list[str]:
        labels = self._labels
        if field.const is not None:
            return [labels("const", value=f"0x{field.const:02X}")]
        if field.checksum is not None:
            return [labels("checksum", kind=field.checksum.kind, start=field.checksum.start)]
        if field.skip is not None:
            return [labels("reserved"), *([labels("fill", value=hexed(field.fill))] if field.fill else [])]
        return []

    def _block(self, block: Block, cursor: _Cursor, prefix: str, level: int) -> None:
        inner = prefix + whole(block.group)
        if block.when is None and block.size is None:
            here = _Cursor(cursor.base, cursor.at, cursor.part)
            self._walk(block.fields, here, inner, level, to_end=False)
            return
        labels = self._labels
        named = labels("block", name=block.group) if block.group else labels("unnamed_block")
        self._heading(
            [named, *([condition(block.when, labels)] if block.when else []), *self._sized(block.size)], level
        )
        here = _Cursor(cursor.base if cursor.base != "end" else "after", cursor.at, self._new_part())
        if cursor.base == "end":
            here.at = 0
        self._walk(block.fields, here, inner, level + 1, to_end=False)

    def _repeat(self, repeat: Repeat, prefix: str, level: int) -> None:
        labels, name = self._labels, prefix + repeat.repeat
        if repeat.to == "end":
            said = labels("repeat.end", name=name)
        elif isinstance(repeat.to, int):
            said = labels("repeat.times", name=name, count=repeat.to)
        else:
            said = labels("repeat.field", name=name, count=repeat.to)
        self._heading([said, *self._sized(repeat.size)], level)
        self.inside(repeat.fields, f"{name}.", level + 1)

    def _elements(self, elements: Elements, prefix: str, level: int) -> None:
        self._heading([self._labels("elements"), *self._until(elements.until)], level)
        for element in elements.elements:
            self._element(element, prefix, level + 1)

    def _element(self, element: Element, prefix: str, level: int) -> None:
        where = hexed(element.lead + element.definition)
        if element.fields is not None:
            self._heading([self._labels("item_of", tag=where)], level)
            self.inside(element.fields, prefix, level + 1)
            return
        self.rows.append(
            field_row(
                element,
                self._labels,
                name=prefix + (element.name or ""),
                where=where,
                kind=self._labels("bcd_decimals"),
                inside=True,
                level=level,
            )
        )

    def _heading(self, said: list[str], level: int) -> None:
        self.rows.append(Row(heading=self._labels.join(said, "semicolon"), level=level, part=self._new_part()))

    def _sized(self, size: SizeField | None) -> list[str]:
        if size is None:
            return []
        return [self._labels("sized_less" if size.less else "sized_by", field=size.field, less=size.less)]

    def _until(self, until: bytes | None) -> list[str]:
        return [] if until is None else [self._labels("until", bytes=hexed(until))]

    def _fresh(self) -> _Cursor:
        return _Cursor("after", 0, self._new_part())

    def _new_part(self) -> int:
        self._parts += 1
        return self._parts


def bit_row(bit: BitField, labels: Labels, prefix: str, where: str, part: int, level: int) -> Row:
    """Some bits of the number that stands at `where`."""
    last = bit.bit + bit.width - 1
    kind = labels("bit", bit=bit.bit) if bit.width == 1 else labels("bits", first=bit.bit, last=last)
    return field_row(
        bit,
        labels,
        name=prefix + (bit.name or bit.role or ""),
        where=where,
        kind=labels.join([kind, labels("signed") if bit.signed else ""]),
        part=part,
        inside=True,
        level=level,
    )


def condition(when: When, labels: Labels) -> str:
    """Only if kind is 2 or 3; only if it is not."""
    values = labels.join([code_point(one) if not isinstance(one, str) else scalar(one) for one in when.named], "or")
    return labels("only_if" if when.differs is None else "only_if_not", field=when.field, value=values)
