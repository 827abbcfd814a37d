"""From the raw code of a field to a value in the vocabulary's terms, and back, from the same description.

Owns scale and offset, code maps, "no value" marks and the check that a value is one its metric can have. It knows
nothing of where the raw code stood: a codec hands it an int, float, bool or str. Compiled once, no state, no I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from math import isfinite
from typing import Any, Literal

from citysense_profiles.model import Meaning, Scalar
from citysense_profiles.reading import Value
from citysense_profiles.units import Affine, affine
from citysense_profiles.vocabulary import Metric, ValueType

Raw = Literal["int", "float", "number", "bool", "text"]
_PYTHON_TYPES: dict[Raw, tuple[type, ...]] = {
    "int": (int,),
    "float": (float,),
    "number": (int, float),
    "bool": (bool,),
    "text": (str,),
}
_KINDS: dict[ValueType, type] = {
    ValueType.NUMBER: float,
    ValueType.INTEGER: int,
    ValueType.BOOLEAN: bool,
    ValueType.TEXT: str,
}
_BEYOND_64_BITS = 2**63
# Beyond this a double no longer holds every integer with a bit to spare: go the slow, exact way.
_EXACT_IN_FLOAT = float(2**50)


class RefusedError(ValueError):
    """A raw code or a value that the field cannot carry; the codec adds where it stood."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """Both ways of one field. `decode` gives None for "no value"; `encode` takes None for it.

    `plain` is set where decoding is nothing but (raw * p + b) / q of an int, so that codecs may inline it.
    """

    decode: Callable[[Any], Value | None]
    encode: Callable[[Value | None], Any]
    plain: Affine | None
    can_be_missing: bool


def compile_conversion(meaning: Meaning, metric: Metric, raw: Raw, *, null: bool = False) -> Conversion:
    """The conversion that `meaning` describes for `metric`, whose raw codes are of type `raw`.

    `null`: the wire format has a null of its own, so a missing value needs no mark. Raises ValueError with a sentence
    for the profile's author where the description means nothing.
    """
    _check_marks(meaning, raw)
    if meaning.map is not None:
        decode, encode = _mapped(meaning, metric, raw)
        plain = None
    elif metric.type is ValueType.NUMBER:
        decode, encode, plain = _number(meaning, metric, raw)
    else:
        _refuse_scaling(meaning, f"metric {metric.name} is not a number")
        decode, encode = _unscaled(metric, raw)
        plain = None
    if meaning.invalid:
        return Conversion(
            decode=_unless_marked(decode, meaning.invalid),
            encode=_mark_missing(encode, meaning.invalid[0]),
            plain=None,
            can_be_missing=True,
        )
    if null:
        return Conversion(decode=decode, encode=_mark_missing(encode, None), plain=plain, can_be_missing=True)
    return Conversion(decode=decode, encode=_refuse_missing(encode), plain=plain, can_be_missing=False)


def _refuse_scaling(meaning: Meaning, why: str) -> None:
    if meaning.scale != 1 or meaning.offset != 0 or meaning.unit is not None:
        raise ValueError(f"scale, offset and unit mean nothing here: {why}")


def _check_marks(meaning: Meaning, raw: Raw) -> None:
    for mark in meaning.invalid:
        if not _is_raw(mark, raw):
            raise ValueError(f"invalid: {mark!r} is not a raw {raw}")


def _is_raw(code: object, raw: Raw) -> bool:
    return isinstance(code, _PYTHON_TYPES[raw]) and (raw == "bool" or not isinstance(code, bool))


def _number(
    meaning: Meaning, metric: Metric, raw: Raw
) -> tuple[Callable[[Any], Value], Callable[[Value], Any], Affine | None]:
    if raw not in ("int", "float", "number"):
        raise ValueError(f"metric {metric.name} is a number; a raw {raw} needs a map or another metric")
    if meaning.unit is None:
        raise ValueError(f"unit is missing: say in which unit the device sends {metric.name}")
    way = affine(meaning.scale, meaning.offset, meaning.unit, metric.unit)
    return _number_decoder(way, raw), _number_encoder(way, raw), way if raw == "int" else None


def _number_decoder(way: Affine, raw: Raw) -> Callable[[Any], Value]:
    p, b, q = way.p, way.b, way.q
    identity = way.identity
    if raw == "int":
        return lambda code: (code * p + b) / q

    def from_number(code: Any) -> Value:
        try:
            if type(code) is int:
                return (code * p + b) / q
            if not isfinite(code):
                raise RefusedError(f"{code!r} is not a finite number")
            if identity:
                return float(code)
            exact = (Fraction(Decimal(repr(code))) * p + b) / q
            return float(exact)
        except OverflowError:
            raise RefusedError(f"{code!r} is too large") from None

    return from_number


def _number_encoder(way: Affine, raw: Raw) -> Callable[[Value], Any]:
    p, b, q = way.p, way.b, way.q

    def to_number(value: Value) -> Any:
        if isinstance(value, bool | str):
            raise RefusedError(f"{value!r} is not a number")
        try:
            return from_finite(float(value)) if type(value) is float or abs(value) < _EXACT_IN_FLOAT else exactly(value)
        except OverflowError:
            raise RefusedError(f"{value!r} is too large") from None

    def from_finite(value: float) -> Any:
        if not isfinite(value):
            raise RefusedError(f"{value!r} is not a finite number")
        if way.identity and raw != "int":
            return float(value)
        if raw == "int":
            rough = (value * q - b) / p
            if abs(rough) < _EXACT_IN_FLOAT:
                return round(rough)
        return exactly(value)

    def exactly(value: float) -> Any:
        exact = (Fraction(Decimal(repr(value))) * q - b) / p
        return round(exact) if raw == "int" else float(exact)

    return to_number


def _mapped(meaning: Meaning, metric: Metric, raw: Raw) -> tuple[Callable[[Any], Value], Callable[[Value], Any]]:
    _refuse_scaling(meaning, "the map gives the value")
    table = meaning.map or {}
    check = value_check(metric)
    for code, value in table.items():
        if not _is_raw(code, raw):
            raise ValueError(f"map: {code!r} is not a raw {raw}")
        try:
            check(value)
        except RefusedError as error:
            raise ValueError(f"map: {error}") from error
    back = {value: code for code, value in table.items()}
    if len(back) != len(table):
        raise ValueError("map: two raw codes give the same value, so encoding could not tell which; name them apart")
    return _lookup(table, "code"), _lookup(back, "value")


def _lookup(table: Mapping[Scalar, Scalar], what: str) -> Callable[[Any], Any]:
    boolean = any(isinstance(key, bool) for key in table)

    def look_up(key: Any) -> Any:
        if (type(key) is bool) is boolean and key in table:  # True == 1 in Python, and is not the same code
            return table[key]
        raise RefusedError(f"{what} {key!r} is not in the map ({', '.join(map(repr, table))})")

    return look_up


def _unscaled(metric: Metric, raw: Raw) -> tuple[Callable[[Any], Value], Callable[[Value], Any]]:
    if metric.type is ValueType.BOOLEAN and raw == "int":
        return _lookup({0: False, 1: True}, "code"), _lookup({False: 0, True: 1}, "value")
    wanted: dict[ValueType, Raw] = {ValueType.BOOLEAN: "bool", ValueType.INTEGER: "int", ValueType.TEXT: "text"}
    if raw != wanted[metric.type]:
        raise ValueError(f"metric {metric.name} is {metric.type.value}; a raw {raw} needs a map")
    check = value_check(metric)
    return check, check


def value_check(metric: Metric) -> Callable[[Any], Value]:
    """Gives back a value that the metric can have: the right type and, where the list is closed, one of it."""
    kind = _KINDS[metric.type]
    closed = metric.values

    def check(value: Value) -> Value:
        if type(value) is not kind:
            raise RefusedError(f"{value!r} is not what {metric.name} holds ({metric.type.value})")
        if closed is not None and value not in closed:
            raise RefusedError(f"{value!r} is not a value of {metric.name} ({', '.join(sorted(closed))})")
        return portable(value)

    return check


def portable(value: Value) -> Value:
    """The value, if JSON and CBOR can carry it: integers of 64 bits, text that UTF-8 can write. Raises RefusedError."""
    if type(value) is int and not -_BEYOND_64_BITS <= value < _BEYOND_64_BITS:
        raise RefusedError(f"{value} does not fit 64 bits")
    if type(value) is str and not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise RefusedError(f"{value!r} is not text that UTF-8 can write")
    return value


def _unless_marked(decode: Callable[[Any], Value], marks: list[Scalar]) -> Callable[[Any], Value | None]:
    known = frozenset(mark for mark in marks if mark == mark)
    nan = len(known) != len(marks)

    def unless_marked(code: Any) -> Value | None:
        if code in known or (nan and code != code):
            return None
        return decode(code)

    return unless_marked


def _mark_missing(encode: Callable[[Value], Any], mark: Scalar | None) -> Callable[[Value | None], Any]:
    return lambda value: mark if value is None else encode(value)


def _refuse_missing(encode: Callable[[Value], Any]) -> Callable[[Value | None], Any]:
    def present_only(value: Value | None) -> Any:
        if value is None:
            raise RefusedError("the field has no mark for a missing value")
        return encode(value)

    return present_only
