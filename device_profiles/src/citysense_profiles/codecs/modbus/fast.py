"""All registers of a map at once: what a poll usually brings, read without a step per register.

Owns the short cut of `ModbusCodec.decode`. Its outcome is that of the careful way, field by field; where it meets
anything unusual it gives up and lets the careful way find the words for it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from operator import itemgetter
from typing import Any

from citysense_profiles.codecs.bits import BitPart, Bits
from citysense_profiles.codecs.field import Field
from citysense_profiles.codecs.modbus.plan import Key
from citysense_profiles.codecs.modbus.register_types import RegisterSlot
from citysense_profiles.errors import RefusedError
from citysense_profiles.reading import Value
from citysense_profiles.values.conversion import SILENT
from citysense_profiles.values.scaling import way_to
from citysense_profiles.vocabulary import ValueType, Vocabulary

FastMap = Callable[[Mapping[Key, int]], tuple[dict[str, Value], list[str]] | None]
Part = tuple[tuple[Key, ...], RegisterSlot, Field | None, Bits | None]
_Step = tuple[str, int, Any]
_Split = tuple[tuple[int, int, int], ...]

# What a step does with its raw code; the third element of a step is what it needs for that.
_DIVIDE, _SCALE, _FLOAT, _TOLD, _CHECK = range(5)
_POWERS = {Fraction(10) ** places: f"e{places}" for places in range(-9, 10)}


def compile_fast(parts: Sequence[Part], vocabulary: Vocabulary) -> FastMap | None:
    """The short cut for these registers; None where there are roles, numbers from elsewhere or nothing to read."""
    keys: list[Key] = []
    layout = ">"
    steps: list[_Step] = []
    splits: list[_Split | None] = []
    for part_keys, slot, field, bits in parts:
        keys.extend(part_keys)
        fields = bits.fields if bits is not None else (field,) if field is not None else ()
        if any(one.role is not None or one.needs for one in fields) or (bits is not None and slot.load is not None):
            return None
        found = [_step(one, slot if bits is None else None, vocabulary) for one in fields]
        if not any(found):
            layout += f"{2 * slot.words}x"
            continue
        layout += slot.format
        if bits is None:
            splits.append(None)
        else:
            splits.append(tuple(_cut(part) for part, step in zip(bits.parts, found, strict=True) if step is not None))
        steps.extend(step for step in found if step is not None)
    if not steps:
        return None
    return _assemble(keys, layout, tuple(steps), tuple(splits) if any(splits) else None)


def _cut(part: BitPart) -> tuple[int, int, int]:
    """Shift, mask and sign bit of a part; (part ^ sign) - sign is its number."""
    return part.bit, part.mask, 1 << (part.width - 1) if part.signed else 0


def _step(field: Field, slot: RegisterSlot | None, vocabulary: Vocabulary) -> _Step | None:
    """What to do with the field's code; None where it says nothing here and any code is readable."""
    load = slot.load if slot is not None else None
    told = field.told
    if told is None:
        readable = field.raw == "int" and field.entry.map is None and load is None
        return None if readable else ("", _CHECK, _after(load, field.shown))
    metric = field.metric or ""
    plain = _plain(field, vocabulary)
    if load is None and plain is not None and not field.entry.invalid:
        p, b, q = plain
        return (metric, _DIVIDE, q) if (p, b) == (1, 0) else (metric, _SCALE, plain)
    by = _float_factor(field, vocabulary) if load is None else None
    if by == 1:
        return metric, _FLOAT, told
    if by in _POWERS:
        return metric, _TOLD, _shifted(_POWERS[by], told)
    table = _table(field, told) if field.raw == "int" else {}
    if table:
        return metric, _TOLD, _looked_up(table, plain if load is None else None, _after(load, told))
    return metric, _TOLD, _after(load, told)


def _after(load: Callable[[Any], Any] | None, convert: Callable[..., Any]) -> Callable[[Any], Any]:
    return convert if load is None else lambda found: convert(load(found))


def _is_number(field: Field, vocabulary: Vocabulary) -> bool:
    entry = field.entry
    return (
        entry.metric is not None
        and vocabulary.metric(entry.metric).type is ValueType.NUMBER
        and entry.map is None
        and entry.means is None
        and entry.span is None
        and entry.valid is None
    )


def _plain(field: Field, vocabulary: Vocabulary) -> tuple[int, int, int] | None:
    """(p, b, q) where the value is (code * p + b) / q of a whole number, "no value" marks aside."""
    if field.raw != "int" or not _is_number(field, vocabulary):
        return None
    way = way_to(field.entry, vocabulary.metric(field.metric or "").unit)
    return way.p, way.b, way.q


def _float_factor(field: Field, vocabulary: Vocabulary) -> Fraction | None:
    """By what every finite number is multiplied; None where there is more to it."""
    if field.raw != "float" or not _is_number(field, vocabulary) or any(mark == mark for mark in field.entry.invalid):
        return None
    way = way_to(field.entry, vocabulary.metric(field.metric or "").unit)
    return Fraction(way.p, way.q) if way.b == 0 else None


def _table(field: Field, told: Callable[..., Any]) -> dict[Any, Any]:
    """What the codes mean that the profile names one by one."""
    table: dict[Any, Any] = {}
    for code in (*(field.entry.map or {}), *field.entry.invalid, *(() if field.conversion.plain else (0, 1))):
        try:
            table[code] = told(code)
        except RefusedError:
            continue  # the careful way says why
    return table


def _assemble(
    keys: list[Key], layout: str, steps: tuple[_Step, ...], splits: tuple[_Split | None, ...] | None
) -> FastMap:
    fetch: Callable[[Mapping[Key, int]], tuple[int, ...]]
    fetch = itemgetter(*keys) if len(keys) > 1 else lambda registers: (registers[keys[0]],)
    pack, unpack = struct.Struct(f">{len(keys)}H").pack, struct.Struct(layout).unpack

    def collect(registers: Mapping[Key, int]) -> tuple[dict[str, Value], list[str]] | None:
        values: dict[str, Value] = {}
        missing: list[str] = []
        try:
            codes: Sequence[Any] = unpack(pack(*fetch(registers)))
            if splits is not None:
                codes = _taken_apart(codes, splits)
            for (metric, kind, how), code in zip(steps, codes, strict=True):
                if kind == _DIVIDE:
                    values[metric] = code / how
                elif kind == _SCALE:
                    p, b, q = how
                    values[metric] = (code * p + b) / q
                elif kind == _FLOAT and code - code == 0.0:  # neither infinite nor NaN
                    values[metric] = code
                elif kind == _CHECK:
                    how(code)
                else:
                    value = how(code)
                    if value is None:
                        missing.append(metric)
                    elif value is not SILENT:
                        values[metric] = value
        except (KeyError, struct.error, RefusedError):
            return None
        return values, missing

    return collect


def _looked_up(
    table: dict[Any, Any], plain: tuple[int, int, int] | None, told: Callable[[Any], Any]
) -> Callable[[Any], Any]:
    def look_up(code: Any) -> Any:
        if code in table:
            return table[code]
        if plain is None:
            return told(code)
        p, b, q = plain
        return (code * p + b) / q

    return look_up


def _shifted(places: str, told: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Moves the point in the decimal number that Python prints, which is exact and far cheaper than fractions."""

    def shift(code: float) -> Any:
        written = repr(code)
        return told(code) if "e" in written or "n" in written else float(written + places)  # 1e-05, nan, inf

    return shift


def _taken_apart(codes: Sequence[Any], splits: tuple[_Split | None, ...]) -> list[Any]:
    """The codes with those that bits take apart replaced by their parts."""
    apart: list[Any] = []
    for code, split in zip(codes, splits, strict=True):
        if split is None:
            apart.append(code)
        else:
            apart += [((code >> shift & mask) ^ sign) - sign for shift, mask, sign in split]
    return apart
