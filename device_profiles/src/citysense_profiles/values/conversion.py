"""From the raw code of a field to its value by name and to its metric, and back, from the same description.

Owns putting the parts together: scale and unit (`scaling.py`), words (`words.py`), marks of "no value" (`missing.py`), and
refusing descriptions that mean nothing. It knows nothing of where the raw code stood: a codec hands it an int, float,
bool or str. Compiled once, no state, no I/O.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from citysense_profiles.errors import RefusedError
from citysense_profiles.format.meaning import FromField, FromSetting, Meaning, Scalar
from citysense_profiles.values.missing import (
    mark_missing,
    never_a_mark,
    only_within,
    refuse_missing,
    unless_marked,
    within,
)
from citysense_profiles.values.reshape import compile_reshape
from citysense_profiles.values.scaling import dependent, finite, needs_of, portable_number, reader, way_to, writer
from citysense_profiles.values.units import Affine, affine
from citysense_profiles.values.words import (
    SILENT,
    TRUTH,
    TRUTH_CODE,
    Raw,
    Silence,
    check_words,
    is_raw,
    mapped,
    meant,
    portable,
    typed,
    value_check,
)
from citysense_profiles.vocabulary import Metric, ValueType

__all__ = ["SILENT", "Conversion", "Raw", "compile_conversion", "portable", "value_check"]
_NUMBERS = ("int", "float", "number")
_NEAR_THE_END = 1e100


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """Both faces of one field, both ways. None stands for "no value".

    `shown`: raw -> value by name. `stored`: value by name -> raw. `told`: raw -> value of the metric, SILENT where the
    code has no meaning for it. `named`: value of the metric -> value by name. `told` and `named` are None without a
    metric. All but `named` take the numbers of `needs` after the code.

    `plain` is set where `told` is nothing but (raw * p + b) / q of an int, so that codecs may inline it.
    """

    shown: Callable[..., Any]
    stored: Callable[..., Any]
    told: Callable[..., Any] | None
    named: Callable[[Any], Any] | None
    needs: tuple[FromSetting | FromField, ...]
    plain: Affine | None
    can_be_missing: bool


def compile_conversion(
    meaning: Meaning, metric: Metric | None, raw: Raw, *, null: bool = False, single_bit: bool = False
) -> Conversion:
    """The conversion that `meaning` describes, whose raw codes are of type `raw`.

    `null`: the wire format has a null of its own, so a missing value needs no mark. `single_bit`: a number of one bit,
    which is a truth value unless a map says otherwise. Raises ValueError with a sentence for the profile's author.
    """
    _check_marks(meaning, raw)
    needs = needs_of(meaning)
    shown, stored = _by_name(meaning, metric, raw, single_bit=single_bit)
    told, named, plain = _by_metric(meaning, metric, raw, shown, single_bit=single_bit)
    missing: Scalar | None = None
    if meaning.invalid:
        shown = unless_marked(shown, meaning.invalid)
        told = None if told is None else unless_marked(told, meaning.invalid)
        missing, plain = meaning.invalid[0], None
    if meaning.valid is not None:
        if raw not in _NUMBERS or meaning.map is not None or not meaning.valid[0] <= meaning.valid[1]:
            raise ValueError(
                "valid is [lowest, highest] of raw numbers, and a map says by itself which codes there are"
            )
        shown = within(shown, *meaning.valid)
        told = None if told is None else within(told, *meaning.valid)
        stored = only_within(stored, *meaning.valid)
        plain = None
    can_be_missing = null or bool(meaning.invalid)
    stored = mark_missing(never_a_mark(stored, meaning.invalid), missing) if can_be_missing else refuse_missing(stored)
    return Conversion(
        shown=shown,
        stored=stored,
        told=told,
        named=None if named is None else _present(named),
        needs=needs,
        plain=plain,
        can_be_missing=can_be_missing,
    )


def _check_marks(meaning: Meaning, raw: Raw) -> None:
    for mark in meaning.invalid:
        if not is_raw(mark, raw):
            raise ValueError(f"invalid: {mark!r} is not a raw {raw}")


def _by_name(
    meaning: Meaning, metric: Metric | None, raw: Raw, *, single_bit: bool
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Raw to value by name and back, marks aside."""
    if meaning.map is not None:
        _refuse_scaling(meaning, "the map gives the value")
        return mapped(meaning, raw)
    if meaning.reshape is not None:
        if raw != "text":
            raise ValueError("reshape rearranges text")
        return compile_reshape(meaning.reshape)
    truth = metric is not None and metric.type is ValueType.BOOLEAN and meaning.means is None
    if (
        single_bit
        and metric is not None
        and meaning.means is None
        and metric.type in (ValueType.NUMBER, ValueType.INTEGER)
    ):
        raise ValueError(f"a single bit is true or false and metric {metric.name} is a number; a map says which")
    if raw == "int" and (single_bit or truth):
        _refuse_scaling(meaning, "a truth value is 0 or 1", unit=True)
        return TRUTH, TRUTH_CODE
    if raw in _NUMBERS:
        return _number_by_name(meaning, raw)
    if metric is not None and metric.type is ValueType.NUMBER and meaning.means is None:
        raise ValueError(f"metric {metric.name} is a number; a raw {raw} needs a map or another metric")
    _refuse_scaling(meaning, f"a raw {raw} is no number", unit=True)
    check = typed(raw)
    return check, check


def _number_by_name(meaning: Meaning, raw: Raw) -> tuple[Callable[..., Any], Callable[..., Any]]:
    if meaning.span is not None and (meaning.scale != 1 or meaning.offset != 0):
        raise ValueError("scale and offset mean nothing here: the span gives the value")
    if meaning.span or meaning.times or meaning.decimals:
        return dependent(meaning, raw)
    way = affine(meaning.scale, meaning.offset, "1", "1")
    if not way.identity:
        return reader(way, raw), writer(way, raw)
    read: Callable[[Any], Any] = portable if raw == "int" else _as_it_is
    return read, writer(way, raw) if raw != "number" else _as_it_is


def _as_it_is(code: Any) -> int | float:
    number = finite(code)
    return portable_number(number)


def _by_metric(
    meaning: Meaning, metric: Metric | None, raw: Raw, shown: Callable[..., Any], *, single_bit: bool
) -> tuple[Callable[..., Any] | None, Callable[[Any], Any] | None, Affine | None]:
    """Raw to value of the metric, value of the metric to value by name, and the way where it is only that."""
    if metric is None:
        return None, None, None
    if meaning.means is not None:
        check_words(meaning, raw, single_bit=single_bit)
        told, named = meant(meaning, metric, shown)
        return told, named, None
    if metric.type is ValueType.NUMBER:
        return _measured(meaning, metric, raw, shown)
    if meaning.unit is not None:
        raise ValueError(f"unit means nothing here: metric {metric.name} is not a number")
    if meaning.map is None:
        _check_type(meaning, metric, raw)
    check = value_check(metric)
    if meaning.map is None:
        return lambda code: check(shown(code)), check, None
    for value in meaning.map.values():
        try:
            check(value)
        except RefusedError as error:
            raise ValueError(f"map: {error}; say in `means` which value it is, or change the word") from error
    known = frozenset(meaning.map)
    return lambda code: check(shown(code)) if code in known else _unknown(shown, code), check, None


def _unknown(shown: Callable[..., Any], code: Any) -> Silence:
    """A code outside the map: the lookup refuses it, or lets it through without a meaning."""
    shown(code)
    return SILENT


def _check_type(meaning: Meaning, metric: Metric, raw: Raw) -> None:
    _refuse_scaling(meaning, f"metric {metric.name} is not a number")
    wanted: dict[ValueType, tuple[Raw, ...]] = {
        ValueType.BOOLEAN: ("bool", "int"),
        ValueType.INTEGER: ("int",),
        ValueType.TEXT: ("text",),
    }
    if raw not in wanted[metric.type]:
        raise ValueError(f"metric {metric.name} is {metric.type.value}; a raw {raw} needs a map")


def _measured(
    meaning: Meaning, metric: Metric, raw: Raw, shown: Callable[..., Any]
) -> tuple[Callable[..., Any], Callable[[Any], Any], Affine | None]:
    if meaning.map is not None:
        if any(isinstance(word, bool | str) for word in meaning.map.values()):
            raise ValueError(f"metric {metric.name} is a number; its map holds words, so say in `means` what they are")
    elif raw not in _NUMBERS:
        raise ValueError(f"metric {metric.name} is a number; a raw {raw} needs a map or another metric")
    whole = way_to(meaning, metric.unit)
    unit_only = affine(Fraction(1), Fraction(0), meaning.unit or "", metric.unit)
    named = writer(unit_only, "float")
    direct = meaning.map is None and not needs_of(meaning) and meaning.span is None
    if direct:
        told_directly = reader(whole, raw)
        if raw == "int" or whole.identity:
            return told_directly, named, whole if raw == "int" else None
        return _refusing_alike(told_directly, shown), named, None
    if meaning.map is None:
        return dependent(meaning, raw, unit_only)[0], named, None
    convert, known = reader(unit_only, "number"), meaning.map

    def told(code: Any, *numbers: float) -> Any:
        value = shown(code, *numbers)
        return convert(value) if code in known else SILENT

    return told, named, None


def _refusing_alike(told: Callable[[Any], Any], shown: Callable[..., Any]) -> Callable[[Any], Any]:
    """Near the end of what a double holds, a value may fit in one unit and not in the other: then it fits neither."""

    def told_alike(code: Any) -> Any:
        if abs(code) > _NEAR_THE_END:
            shown(code)
        return told(code)

    return told_alike


def _refuse_scaling(meaning: Meaning, why: str, *, unit: bool = False) -> None:
    scaled = meaning.scale != 1 or meaning.offset != 0 or bool(needs_of(meaning)) or meaning.span is not None
    if scaled or (unit and meaning.unit is not None):
        raise ValueError(f"scale, offset and unit mean nothing here: {why}")


def _present(named: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else named(value)
