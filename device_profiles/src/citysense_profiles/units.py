"""Units of measurement and how to turn one into another, exactly.

Owns the closed list of units (UCUM codes; dBm is the customary exception) and the affine conversion between two of the
same dimension, as fractions of integers: a division at the very end is the only rounding. Conversions are resolved
once, when a profile is loaded, never per reading.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from math import lcm


@dataclass(frozen=True, slots=True)
class Unit:
    """base value = value * factor + offset, in the base unit of the dimension."""

    dimension: str
    factor: Fraction
    offset: Fraction = Fraction(0)


def _unit(dimension: str, factor: str = "1", offset: str = "0") -> Unit:
    return Unit(dimension, Fraction(factor), Fraction(offset))


UNITS: dict[str, Unit] = {
    "": _unit("none"),  # states and events
    "1": _unit("count"),
    "%": _unit("share"),
    "mm": _unit("length", "1/1000"),
    "cm": _unit("length", "1/100"),
    "m": _unit("length"),
    "km": _unit("length", "1000"),
    "ms": _unit("duration", "1/1000"),
    "s": _unit("duration"),
    "min": _unit("duration", "60"),
    "h": _unit("duration", "3600"),
    "d": _unit("duration", "86400"),
    "mV": _unit("voltage", "1/1000"),
    "V": _unit("voltage"),
    "mA": _unit("current", "1/1000"),
    "A": _unit("current"),
    "mW": _unit("power", "1/1000"),
    "W": _unit("power"),
    "kW": _unit("power", "1000"),
    "W.h": _unit("energy"),
    "kW.h": _unit("energy", "1000"),
    "Hz": _unit("frequency"),
    "kHz": _unit("frequency", "1000"),
    "MHz": _unit("frequency", "1000000"),
    "K": _unit("temperature"),
    "Cel": _unit("temperature", "1", "273.15"),
    "[degF]": _unit("temperature", "5/9", "45967/180"),
    "Pa": _unit("pressure"),
    "kPa": _unit("pressure", "1000"),
    "bar": _unit("pressure", "100000"),
    "deg": _unit("angle"),
    "dB": _unit("ratio"),
    "dBm": _unit("signal level"),
}


@dataclass(frozen=True, slots=True)
class Affine:
    """value = (raw * p + b) / q with integers, q > 0.

    Integer division in Python rounds once and correctly, so 123 tenths are 12.3 and never 12.300000000000001.
    """

    p: int
    b: int
    q: int

    @property
    def identity(self) -> bool:
        """True when raw and value are the same number."""
        return self.p == self.q == 1 and self.b == 0


def affine(scale: Decimal, offset: Decimal, wire: str, wanted: str) -> Affine:
    """The way from a raw number (raw * scale + offset, in unit `wire`) to a value in unit `wanted`.

    Raises ValueError with a sentence for the profile's author: unknown unit, other dimension, scale of zero.
    """
    for code in (wire, wanted):
        if code not in UNITS:
            raise ValueError(f"unit {code!r} is not known; known units: {', '.join(sorted(UNITS, key=str.lower))}")
    source, target = UNITS[wire], UNITS[wanted]
    if source.dimension != target.dimension:
        raise ValueError(
            f"unit {wire!r} ({source.dimension}) cannot be turned into {wanted!r} ({target.dimension}), "
            "the vocabulary's unit of this metric"
        )
    if not (scale.is_finite() and offset.is_finite()) or scale == 0:
        raise ValueError(f"scale {scale} and offset {offset} must be finite and scale must not be 0")
    slope = Fraction(scale) * source.factor / target.factor
    shift = (Fraction(offset) * source.factor + source.offset - target.offset) / target.factor
    q = lcm(slope.denominator, shift.denominator)
    return Affine(int(slope * q), int(shift * q), q)
