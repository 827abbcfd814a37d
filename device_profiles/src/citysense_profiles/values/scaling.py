"""Numbers on the wire and the values they stand for: exact both ways, with one rounding at the very end.

Owns the arithmetic of scale, offset and unit, and of the three forms that need a number from elsewhere (times,
decimals, span). Knows nothing of codes, maps or where a number stood.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from math import isfinite, lcm
from typing import Any

from citysense_profiles.errors import RefusedError
from citysense_profiles.format.meaning import FromField, FromSetting, Meaning, Source
from citysense_profiles.reading import Value
from citysense_profiles.values.units import Affine, affine

# Beyond this a double no longer holds every integer with a bit to spare: go the slow, exact way.
_EXACT_IN_FLOAT = float(2**50)
_BEYOND_64_BITS = 2**63
AS_IT_IS = Affine(1, 0, 1)
_LINES_KEPT = 64
"""A device has one or two sets of numbers; a frame that brings a new one in every field gains nothing."""
MOST_DECIMALS = 12
"""Places that a field may move the point by; more is a damaged frame."""


def reader(way: Affine, raw: str) -> Callable[[Any], float]:
    """From a raw int or float to a value. Raises RefusedError where the number is not finite or too large."""
    p, b, q = way.p, way.b, way.q
    identity = way.identity

    def from_int(code: int) -> float:
        return (portable_number(code) * p + b) / q

    def from_number(code: Any) -> float:
        try:
            if type(code) is int:
                return (portable_number(code) * p + b) / q
            if not isfinite(code):
                raise RefusedError(f"{code!r} is not a finite number")
            return float(code) if identity else float((exact(code) * p + b) / q)
        except OverflowError:
            raise RefusedError("the number is too large") from None

    return from_int if raw == "int" else from_number


def portable_number(number: int | float) -> int | float:
    """The number, if it is a float or fits 64 bits, with or without sign. Raises RefusedError."""
    if type(number) is int and not -_BEYOND_64_BITS <= number < 2 * _BEYOND_64_BITS:
        raise RefusedError(
            f"{number} does not fit 64 bits" if abs(number) < 10**40 else "the number does not fit 64 bits"
        )
    return number


def writer(way: Affine, raw: str) -> Callable[[Any], Any]:
    """From a value to the nearest raw int, or to a float. Raises RefusedError for what is no finite number."""
    p, b, q = way.p, way.b, way.q

    def to_number(value: Value) -> Any:
        number = finite(value)
        if way.identity and raw != "int":
            return number
        if raw == "int" and type(number) is float:
            rough = (number * q - b) / p
            if abs(rough) < _EXACT_IN_FLOAT:
                return round(rough)
        precise = (exact(number) * q - b) / p
        return round(precise) if raw == "int" else _float(precise)

    return to_number


def exact(number: float) -> Fraction:
    """The decimal number that Python prints for it: 0.1 is a tenth."""
    return Fraction(number) if type(number) is int else Fraction(Decimal(repr(number)))


def finite(value: object) -> int | float:
    """The value, if it is a finite number. Raises RefusedError."""
    if type(value) is float:
        if isfinite(value):
            return value
        raise RefusedError(f"{value!r} is not a finite number")
    if type(value) is int:
        if abs(value) < 10**300:  # what a double can hold, and no device sends
            return value
        raise RefusedError("the number is too large")
    raise RefusedError(f"{value!r} is not a number")


def _float(number: Fraction) -> float:
    try:
        return float(number)
    except OverflowError:
        raise RefusedError("the number is too large") from None


def needs_of(meaning: Meaning) -> tuple[FromSetting | FromField, ...]:
    """The numbers from elsewhere that a field is computed with, in the order that `dependent` takes them."""
    sources: list[Source] = []
    if meaning.times is not None:
        sources.append(meaning.times)
    if meaning.decimals is not None:
        sources.append(meaning.decimals)
    if meaning.span is not None:
        sources.extend(meaning.span.values)
    return tuple(source for source in sources if not isinstance(source, float))


def dependent(meaning: Meaning, raw: str, unit: Affine = AS_IT_IS) -> tuple[Callable[..., float], Callable[..., Any]]:
    """Reader and writer of a field with `needs_of`: both take the raw code or value, then the needed numbers.

    `unit` is the way from the field's own unit to the one that is wanted.
    """
    line = lru_cache(maxsize=_LINES_KEPT)(
        _line_of_span(meaning, unit) if meaning.span else _line_of_scale(meaning, unit)
    )
    lowest = meaning.span.raw[0] if meaning.span is not None and meaning.span.clamp else None
    if lowest is not None and lowest.is_integer():
        lowest = int(lowest)

    def read(code: Any, *numbers: float) -> float:
        p, b, q = line(*numbers)
        if lowest is not None and code < lowest:
            code = lowest
        try:
            return (code * p + b) / q if type(code) is int else _float((exact(finite(code)) * p + b) / q)
        except OverflowError:
            raise RefusedError(f"{code!r} is too large") from None

    def write(value: Any, *numbers: float) -> Any:
        p, b, q = line(*numbers)
        if p == 0:
            raise RefusedError("with these numbers every raw number says the same, so none says this")
        precise = (exact(finite(value)) * q - b) / p
        return round(precise) if raw == "int" else _float(precise)

    return read, write


Line = tuple[int, int, int]
"""(p, b, q): value = (raw * p + b) / q."""


def _line(slope: Fraction, shift: Fraction, unit: Affine) -> Line:
    slope, shift = slope * unit.p / unit.q, (shift * unit.p + unit.b) / unit.q
    q = lcm(slope.denominator, shift.denominator)
    return int(slope * q), int(shift * q), q


def _line_of_scale(meaning: Meaning, unit: Affine) -> Callable[..., Line]:
    scale, offset = meaning.scale, meaning.offset

    def by_factor(number: float) -> Line:
        return _line(scale * exact(finite(number)), offset, unit)

    def by_point(number: float) -> Line:
        if finite(number) != int(number) or not 0 <= number <= MOST_DECIMALS:
            raise RefusedError(f"{number!r} is not a number of decimals (0 to {MOST_DECIMALS})")
        return _line(Fraction(scale, 10 ** int(number)), offset, unit)

    return by_factor if meaning.decimals is None else by_point


def _line_of_span(meaning: Meaning, unit: Affine) -> Callable[..., Line]:
    span = meaning.span
    if span is None:
        raise ValueError("no span")
    low, high = (exact(point) for point in span.raw)
    first, second = span.values

    def between(*numbers: float) -> Line:
        given = iter(numbers)
        start = exact(finite(first if isinstance(first, float) else next(given)))
        end = exact(finite(second if isinstance(second, float) else next(given)))
        slope = (end - start) / (high - low)
        return _line(slope, start - slope * low, unit)

    return between


def way_to(meaning: Meaning, unit: str) -> Affine:
    """The way from the raw number to `unit`. Raises ValueError with a sentence for the profile's author."""
    if meaning.unit is None:
        raise ValueError("unit is missing: say in which unit the device sends it")
    return affine(meaning.scale, meaning.offset, meaning.unit, unit)
