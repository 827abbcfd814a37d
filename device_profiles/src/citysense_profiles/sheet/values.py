"""Numbers, codes and times of a profile as people write them.

Owns formatting of single values, the same in every language.
"""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

from citysense_profiles.format.meaning import FromField, FromSetting, Meaning, Scalar
from citysense_profiles.sheet.labels import Labels

_DURATIONS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def duration(seconds: float) -> str:
    """5 min, 1 h, 500 ms."""
    for size, unit in _DURATIONS:
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g} {unit}"
    return f"{seconds * 1000:g} ms"


def number(value: float) -> str:
    """Without a needless decimal point."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 else str(value)


def scalar(value: Scalar | None) -> str:
    """A value by name, as a profile would write it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def code_point(value: Scalar) -> str:
    """A raw code: hexadecimal from 10 on, since that is how descriptions of frames print them."""
    if isinstance(value, int) and not isinstance(value, bool) and value > 9:
        return f"0x{value:02X}"
    return scalar(value)


def hexed(data: bytes) -> str:
    """01 75."""
    return data.hex(" ").upper()


def ratio(value: Fraction) -> str:
    """As a decimal where it is one, else as a fraction."""
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    if rest != 1:
        return f"{value.numerator}/{value.denominator}"
    return f"{Decimal(value.numerator) / value.denominator:f}"


def utc_offset(minutes: int) -> str:
    """+08:00."""
    hours, rest = divmod(abs(minutes), 60)
    return f"{'-' if minutes < 0 else '+'}{hours:02d}:{rest:02d}"


def source(wanted: float | FromSetting | FromField, labels: Labels) -> str:
    """A number, a setting or an earlier field."""
    if isinstance(wanted, FromSetting):
        return labels("setting", name=wanted.setting)
    return wanted.field if isinstance(wanted, FromField) else number(wanted)


def scaling(entry: Meaning, labels: Labels) -> str:
    """How the raw number becomes the value; empty where it is the value."""
    parts = []
    if entry.scale != 1:
        parts.append(f"× {ratio(entry.scale)}")
    if entry.times is not None:
        parts.append(f"× {source(entry.times, labels)}")
    if entry.decimals is not None:
        parts.append(f"÷ 10^{entry.decimals.field}")
    if entry.offset != 0:
        parts.append(f"{'-' if entry.offset < 0 else '+'} {ratio(abs(entry.offset))}")
    if entry.span is not None:
        pairs = zip(entry.span.raw, entry.span.values, strict=True)
        drawn = labels.join([f"{number(raw)} → {source(value, labels)}" for raw, value in pairs])
        low = labels("clamped", value=source(entry.span.values[0], labels)) if entry.span.clamp else ""
        parts.append(labels.join([drawn, low]))
    return " ".join(parts)
