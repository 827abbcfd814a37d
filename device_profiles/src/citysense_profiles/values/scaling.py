"""Numbers on the wire and the values they stand for: exact both ways, with one rounding at the very end.

Owns the arithmetic of scale, offset and unit, and of the three forms that need a number from elsewhere (times,
decimals, span). Knows nothing of codes, maps or where a number stood.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from math import isfinite
from typing import Any

from citysense_profiles.errors import RefusedError
from citysense_profiles.format.meaning import FromField, FromSetting, Meaning, Source
from citysense_profiles.reading import Value
from citysense_profiles.values.units import Affine, affine

# Beyond this a double no longer holds every integer with a bit to spare: go the slow, exact way.
_EXACT_IN_FLOAT = float(2**50)
_BEYOND_64_BITS = 2**63
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


def dependent(meaning: Meaning, raw: str) -> tuple[Callable[..., float], Callable[..., Any]]:
    """Reader and writer of a field with `needs_of`: both take the raw code or value, then the needed numbers."""
    if meaning.span is not None:
        return _spanned(meaning, raw)
    scale, offset = meaning.scale, meaning.offset
    by_point = meaning.decimals is not None

    def factor(number: float) -> Fraction:
        if not by_point:
            return scale * exact(number)
        if number != int(number) or not 0 <= number <= MOST_DECIMALS:
            raise RefusedError(f"{number!r} is not a number of decimals (0 to {MOST_DECIMALS})")
        return Fraction(scale, 10 ** int(number))

    def read(code: Any, number: float) -> float:
        return _float(exact(finite(code)) * factor(finite(number)) + offset)

    def write(value: Any, number: float) -> Any:
        by = factor(finite(number))
        if by == 0:
            raise RefusedError("the factor is 0, so no raw number says this")
        precise = (exact(finite(value)) - offset) / by
        return round(precise) if raw == "int" else _float(precise)

    return read, write


def _spanned(meaning: Meaning, raw: str) -> tuple[Callable[..., float], Callable[..., Any]]:
    span = meaning.span
    if span is None:
        raise ValueError("no span")
    low, high = (exact(point) for point in span.raw)
    first, second = span.values
    clamp = span.clamp

    def ends(numbers: tuple[float, ...]) -> tuple[Fraction, Fraction]:
        given = iter(numbers)
        start = first if isinstance(first, float) else next(given)
        end = second if isinstance(second, float) else next(given)
        return exact(finite(start)), exact(finite(end))

    def read(code: Any, *numbers: float) -> float:
        start, end = ends(numbers)
        place = (exact(finite(code)) - low) / (high - low)
        return _float(start + (max(place, Fraction(0)) if clamp else place) * (end - start))

    def write(value: Any, *numbers: float) -> Any:
        start, end = ends(numbers)
        if start == end:
            raise RefusedError("both ends of the span are the same, so no raw number says this")
        precise = low + (exact(finite(value)) - start) / (end - start) * (high - low)
        return round(precise) if raw == "int" else _float(precise)

    return read, write


def way_to(meaning: Meaning, unit: str) -> Affine:
    """The way from the raw number to `unit`. Raises ValueError with a sentence for the profile's author."""
    if meaning.unit is None:
        raise ValueError("unit is missing: say in which unit the device sends it")
    return affine(meaning.scale, meaning.offset, meaning.unit, unit)
