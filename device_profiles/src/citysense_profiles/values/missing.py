"""No value: the raw marks that say so, the range outside which there is none, and what is written for it.

Owns wrapping a reader or writer of one field. What the value is otherwise is `conversion.py`'s business. All of them
raise RefusedError, and pass on the numbers that a field is computed with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from citysense_profiles.errors import RefusedError
from citysense_profiles.format.meaning import Scalar


def unless_marked(decode: Callable[..., Any], marks: list[Scalar]) -> Callable[..., Any]:
    """Reads a mark as None. NaN may be a mark."""
    known = frozenset(mark for mark in marks if mark == mark)
    nan = any(mark != mark for mark in marks)

    def unless_marked(code: Any, *numbers: float) -> Any:
        if code in known or (nan and code != code):
            return None
        return decode(code, *numbers)

    return unless_marked


def within(decode: Callable[..., Any], low: float, high: float) -> Callable[..., Any]:
    """Reads a raw code outside the range as None."""
    return lambda code, *numbers: decode(code, *numbers) if low <= code <= high else None


def only_within(encode: Callable[..., Any], low: float, high: float) -> Callable[..., Any]:
    """Refuses a value whose raw code lies outside the range."""

    def inside(value: Any, *numbers: float) -> Any:
        code = encode(value, *numbers)
        if not low <= code <= high:
            raise RefusedError(f"raw {code} is outside {low:g} to {high:g}, which would be read as no value")
        return code

    return inside


def never_a_mark(encode: Callable[..., Any], marks: list[Scalar]) -> Callable[..., Any]:
    """A value that would be written as a mark of "no value" cannot be said."""
    if not marks:
        return encode

    def unmarked(value: Any, *numbers: float) -> Any:
        code = encode(value, *numbers)
        if code in marks:
            raise RefusedError(f"{value!r} would be written as {code!r}, which means that there is no value")
        return code

    return unmarked


def mark_missing(encode: Callable[..., Any], mark: Scalar | None) -> Callable[..., Any]:
    """Writes None as the mark; None where the wire has a null of its own."""
    return lambda value, *numbers: mark if value is None else encode(value, *numbers)


def refuse_missing(encode: Callable[..., Any]) -> Callable[..., Any]:
    """Refuses None: there is no way to write it."""

    def present_only(value: Any, *numbers: float) -> Any:
        if value is None:
            raise RefusedError("the field has no mark for a missing value")
        return encode(value, *numbers)

    return present_only
