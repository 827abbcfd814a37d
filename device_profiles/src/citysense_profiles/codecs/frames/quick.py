"""The fast way from bytes of fixed layout to readings: tables made beforehand, plain arithmetic inlined.

Owns nothing that the careful walk does not do as well, and says nothing about errors: where a byte is not as it should
be, `fill` gives up, and the careful walk over the same bytes finds out why. Decoding is the gateway's hottest loop.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from citysense_profiles.codecs.field import Field
from citysense_profiles.codecs.frames.cells import Held, Packed, Summed, fields_of
from citysense_profiles.codecs.frames.slots import Slot
from citysense_profiles.codecs.node import Flat
from citysense_profiles.errors import RefusedError
from citysense_profiles.format.binary import ByteOrder
from citysense_profiles.values.conversion import SILENT, compile_conversion
from citysense_profiles.values.units import Affine
from citysense_profiles.vocabulary import Kind, ValueType, Vocabulary

_REFUSED: Any = object()
_WIDEST_TABLE = 4
"""Bits of a part whose codes are all looked up beforehand."""


@dataclass(slots=True)
class _Plan:
    """The loops of `Quick.fill`. Each entry begins with the index of the unpacked object."""

    formats: list[str] = field(default_factory=list)
    count: int = 0
    pinned: dict[int, int] = field(default_factory=dict)
    checks: list[tuple[int, Summed]] = field(default_factory=list)
    divided: list[tuple[int, str, int]] = field(default_factory=list)
    scaled: list[tuple[int, str, int, int, int]] = field(default_factory=list)
    marked: list[tuple[int, str, frozenset[Any], int, int, int]] = field(default_factory=list)
    sure: list[tuple[int, str, int, int, tuple[Any, ...]]] = field(default_factory=list)
    looked_up: list[tuple[int, str, int, int, Callable[..., Any], Any]] = field(default_factory=list)
    told: list[tuple[int, str, Callable[[Any], Any] | None, Callable[[Any], Any]]] = field(default_factory=list)
    roles: list[tuple[int, str, Callable[[Any], Any] | None, Callable[[Any], Any]]] = field(default_factory=list)
    shown: list[tuple[int, str | None, Callable[[Any], Any] | None, Callable[[Any], Any]]] = field(default_factory=list)


class Quick:
    """The fast way over one stretch."""

    def __init__(self, plan: _Plan, order: ByteOrder) -> None:
        self._unpack = struct.Struct((">" if order == "big" else "<") + "".join(plan.formats)).unpack_from
        self._pinned = tuple(_joined(plan.pinned))
        self._checks = tuple(plan.checks)
        self._divided = tuple(plan.divided)
        self._scaled = tuple(plan.scaled)
        self._marked = tuple(plan.marked)
        self._sure = tuple(plan.sure)
        self._looked_up = tuple(plan.looked_up)
        self._careful = bool(plan.told or plan.roles or plan.shown)
        self._told = tuple(plan.told)
        self._roles = tuple(plan.roles)
        self._shown = tuple(plan.shown)

    def fill(  # noqa: C901 - one loop for each kind of field; calls would cost more than the loops
        self,
        payload: bytes,
        at: int,
        values: dict[str, Any],
        missing: list[str],
        roles: dict[str, Any],
        kept: dict[str, Any],
    ) -> bool:
        """Collect what the bytes from `at` on say; all of them are there. False: something is wrong with them."""
        for offset, expected in self._pinned:
            if not payload.startswith(expected, at + offset):
                return False
        for offset, check in self._checks:
            stand = at + offset
            if payload[stand : stand + check.size] != check.over(payload, stand):
                return False
        found = self._unpack(payload, at)
        for index, metric, q in self._divided:
            values[metric] = found[index] / q
        for index, metric, p, b, q in self._scaled:
            values[metric] = (found[index] * p + b) / q
        for index, metric, marks, p, b, q in self._marked:
            code = found[index]
            if code in marks:
                missing.append(metric)
            else:
                values[metric] = (code * p + b) / q
        for index, metric, bit, mask, table in self._sure:
            values[metric] = table[found[index] >> bit & mask]
        for index, metric, bit, mask, look_up, default in self._looked_up:
            value = look_up(found[index] >> bit & mask, default)
            if value is None:
                missing.append(metric)
            elif value is not SILENT:
                if value is _REFUSED:
                    return False
                values[metric] = value
        return not self._careful or self._fill_the_rest(found, values, missing, roles, kept)

    def _fill_the_rest(
        self,
        found: tuple[Any, ...],
        values: dict[str, Any],
        missing: list[str],
        roles: dict[str, Any],
        kept: dict[str, Any],
    ) -> bool:
        try:
            for index, metric, load, told in self._told:
                value = told(found[index] if load is None else load(found[index]))
                if value is None:
                    missing.append(metric)
                elif value is not SILENT:
                    values[metric] = value
            for index, role, load, told in self._roles:
                value = told(found[index] if load is None else load(found[index]))
                if value is not None:
                    roles.setdefault(role, value)
            for index, name, load, shown in self._shown:
                value = shown(found[index] if load is None else load(found[index]))
                if name is not None:
                    kept[name] = value
        except RefusedError:
            return False
        return True


def compile_quick(
    flat: Flat,
    order: ByteOrder,
    vocabulary: Vocabulary,
    kept: frozenset[str],
    *,
    whole: bool = False,
    pinned: Mapping[int, int] | None = None,
) -> Quick | None:
    """The fast way over cells, or None where only the careful walk gives the same outcome.

    `kept` names the fields that others refer to, `pinned` bytes that must stand at their offsets besides. `whole`: this
    is the whole frame, so nobody else looks at its check sums.
    """
    fields = [field for _, cell in flat.cells for field in fields_of(cell)]
    metrics = [field.metric for field in fields if field.metric is not None]
    events = [metric for metric in metrics if vocabulary.metric(metric).kind is Kind.EVENT]
    if any(field.needs for field in fields) or len(set(metrics)) != len(metrics) or len(events) > 1:
        return None  # computed with other numbers; or the order counts, which the loops do not keep
    plan = _Plan(pinned=dict(pinned or {}))
    for offset, cell in flat.cells:
        if isinstance(cell, Held | Packed):
            for part in _parts_of(cell):
                _add(plan, *part, cell.slot, vocabulary, kept)
            plan.formats.append(cell.slot.format)
            plan.count += 1
            continue
        plan.formats.append(f"{cell.size}x")
        if isinstance(cell, Summed):
            if whole or not cell.verified:
                plan.checks.append((offset, cell))
        elif cell.checked and not _pin(plan.pinned, offset, cell.data):
            return None
    for name, number in flat.expects:
        if not _expect(plan, flat, name, number):
            return None
    return Quick(plan, order)


def _parts_of(cell: Held | Packed) -> Iterator[tuple[Field, int, int, bool]]:
    """Field, lowest bit, width (0: the whole number) and sign of all that a cell says."""
    if isinstance(cell, Held):
        yield cell.field, 0, 0, False
    else:
        for part in cell.bits.parts:
            yield part.field, part.bit, part.width, part.signed


def _pin(pinned: dict[int, int], offset: int, data: bytes) -> bool:
    """Ask for these bytes; False where another one is asked for already."""
    return all(pinned.setdefault(offset + step, byte) == byte for step, byte in enumerate(data))


def _expect(plan: _Plan, flat: Flat, name: str, number: int) -> bool:
    """Ask that a counter of this stretch says `number`; False where it cannot be asked for as bytes."""
    for offset, cell in flat.cells:
        if isinstance(cell, Held) and cell.field.name == name:
            try:
                code = cell.field.stored(number)
                if cell.field.shown(code) != number:
                    return False
                return _pin(plan.pinned, offset, cell.slot.store(code))
            except RefusedError:
                return False
    return False


def _joined(pinned: Mapping[int, int]) -> Iterator[tuple[int, bytes]]:
    """Neighbouring bytes as one."""
    offsets = sorted(pinned)
    start = 0
    for index, offset in enumerate(offsets):
        if index + 1 == len(offsets) or offsets[index + 1] != offset + 1:
            yield offsets[start], bytes(pinned[at] for at in offsets[start : index + 1])
            start = index + 1


def _add(
    plan: _Plan,
    field: Field,
    bit: int,
    width: int,
    signed: bool,
    slot: Slot,
    vocabulary: Vocabulary,
    kept: frozenset[str],
) -> None:
    index = plan.count
    mask = (1 << width) - 1 if width else -1
    load = _part_loader(slot, bit, mask, width if signed else 0) if width else slot.load
    if field.name in kept:
        plan.shown.append((index, field.name, load, field.shown))
    elif field.told is None and (_can_refuse(field) or (not width and load is not None)):
        plan.shown.append((index, None, load, field.shown))
    if field.told is None:
        return
    if field.role is not None:
        plan.roles.append((index, field.role, load, field.told))
        return
    inlined = not signed and slot.load is None and _add_inlined(plan, index, field, bit, mask, width, vocabulary)
    if not inlined:
        plan.told.append((index, field.metric or "", load, field.told))


def _part_loader(slot: Slot, bit: int, mask: int, sign: int) -> Callable[[Any], Any]:
    load, half, size = slot.load, 1 << max(sign - 1, 0), 1 << sign

    def part(found: Any) -> int:
        code: int = (found if load is None else load(found)) >> bit & mask
        return code - size if sign and code >= half else code

    return part


def _can_refuse(field: Field) -> bool:
    """Whether reading it by name can fail; whole numbers without a map cannot."""
    return field.raw != "int" or field.entry.map is not None


def _add_inlined(
    plan: _Plan, index: int, field: Field, bit: int, mask: int, width: int, vocabulary: Vocabulary
) -> bool:
    """Plan the field without a call; False where it takes one."""
    metric = field.metric
    if field.raw != "int" or metric is None:
        return False
    way = _plain_way(field, vocabulary)
    if way is not None and not width:
        if field.entry.invalid:
            plan.marked.append((index, metric, frozenset(field.entry.invalid), way.p, way.b, way.q))
        elif way.p == 1 and way.b == 0:
            plan.divided.append((index, metric, way.q))
        else:
            plan.scaled.append((index, metric, way.p, way.b, way.q))
        return True
    if width and width <= _WIDEST_TABLE:
        table = tuple(_told(field, code) for code in range(mask + 1))
        if not any(value is None or value is SILENT or value is _REFUSED for value in table):
            plan.sure.append((index, metric, bit, mask, table))
        else:
            plan.looked_up.append((index, metric, bit, mask, dict(enumerate(table)).get, _REFUSED))
        return True
    codes = _codes_of(field, metric, vocabulary)
    if codes is None:
        return False
    known = {code: _told(field, code) for code in codes}
    default = SILENT if field.entry.others == "pass" else _REFUSED
    plan.looked_up.append((index, metric, bit, mask, known.get, default))
    return True


def _plain_way(field: Field, vocabulary: Vocabulary) -> Affine | None:
    """The arithmetic of a field, marks aside, if it is nothing else."""
    entry, metric = field.entry, vocabulary.metric(field.metric or "")
    if entry.invalid:
        entry = entry.model_copy(update={"invalid": []})
    return compile_conversion(entry, metric, field.raw).plain


def _codes_of(field: Field, metric: str, vocabulary: Vocabulary) -> set[Any] | None:
    """All codes that mean something, if there is an end to them."""
    entry = field.entry
    if entry.map is not None:
        words = {word for word in entry.means or {} if type(word) is int}
        return {*entry.map, *entry.invalid, *(words if entry.others == "pass" else ())}
    if vocabulary.metric(metric).type is ValueType.BOOLEAN and entry.means is None:
        return {0, 1, *entry.invalid}
    return None


def _told(field: Field, code: int) -> Any:
    if field.told is None:
        return _REFUSED
    try:
        return field.told(code)
    except RefusedError:
        return _REFUSED
