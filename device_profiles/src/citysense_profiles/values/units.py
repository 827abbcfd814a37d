"""Units of measurement and how to turn one into another, exactly.

Owns the closed list of units and the affine conversion between two of the same dimension, as fractions of integers: a
division at the very end is the only rounding. Conversions are resolved once, when a profile is loaded, never per reading.

The codes are those of UCUM. The customary exceptions, which UCUM lacks or writes in a way that no meter does: dB and dBm
(UCUM has the bel), var and VA with their hours (watts they are not, so each is a dimension of its own), CNY (ISO 4217).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cache
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
    "dm": _unit("length", "1/10"),
    "m": _unit("length"),
    "km": _unit("length", "1000"),
    "ms": _unit("duration", "1/1000"),
    "s": _unit("duration"),
    "min": _unit("duration", "60"),
    "h": _unit("duration", "3600"),
    "d": _unit("duration", "86400"),
    "mV": _unit("voltage", "1/1000"),
    "V": _unit("voltage"),
    "kV": _unit("voltage", "1000"),
    "uA": _unit("current", "1/1000000"),
    "mA": _unit("current", "1/1000"),
    "A": _unit("current"),
    "mA.h": _unit("charge", "1/1000"),
    "A.h": _unit("charge"),
    "mW": _unit("power", "1/1000"),
    "W": _unit("power"),
    "kW": _unit("power", "1000"),
    "MW": _unit("power", "1000000"),
    "J": _unit("energy", "1/3600"),  # one watt second
    "kJ": _unit("energy", "5/18"),
    "W.h": _unit("energy"),
    "kW.h": _unit("energy", "1000"),
    "MW.h": _unit("energy", "1000000"),
    "var": _unit("reactive power"),
    "kvar": _unit("reactive power", "1000"),
    "var.h": _unit("reactive energy"),
    "kvar.h": _unit("reactive energy", "1000"),
    "VA": _unit("apparent power"),
    "kVA": _unit("apparent power", "1000"),
    "VA.h": _unit("apparent energy"),
    "kVA.h": _unit("apparent energy", "1000"),
    "Hz": _unit("frequency"),
    "kHz": _unit("frequency", "1000"),
    "MHz": _unit("frequency", "1000000"),
    "K": _unit("temperature"),
    "Cel": _unit("temperature", "1", "273.15"),
    "[degF]": _unit("temperature", "5/9", "45967/180"),
    "Pa": _unit("pressure"),
    "hPa": _unit("pressure", "100"),
    "mbar": _unit("pressure", "100"),
    "kPa": _unit("pressure", "1000"),
    "bar": _unit("pressure", "100000"),
    "MPa": _unit("pressure", "1000000"),
    "cm/s": _unit("speed", "1/100"),
    "m/s": _unit("speed"),
    "km/h": _unit("speed", "5/18"),
    "mm/h": _unit("rain intensity"),
    "mL": _unit("volume", "1/1000000"),
    "L": _unit("volume", "1/1000"),
    "m3": _unit("volume"),
    "L/s": _unit("flow", "1/1000"),
    "L/min": _unit("flow", "1/60000"),
    "m3/h": _unit("flow", "1/3600"),
    "m3/s": _unit("flow"),
    "uS/cm": _unit("conductivity"),
    "mS/cm": _unit("conductivity", "1000"),
    "S/m": _unit("conductivity", "10000"),
    "nT": _unit("magnetic flux density", "1/1000"),
    "uT": _unit("magnetic flux density"),
    "mT": _unit("magnetic flux density", "1000"),
    "m/s2": _unit("acceleration"),
    "deg": _unit("angle"),
    "dB": _unit("ratio"),
    "dBm": _unit("signal level"),
    "CNY": _unit("money"),
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


@cache
def affine(scale: Fraction, offset: Fraction, wire: str, wanted: str) -> Affine:
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
    if scale == 0:
        raise ValueError("scale must not be 0")
    slope = scale * source.factor / target.factor
    shift = (offset * source.factor + source.offset - target.offset) / target.factor
    q = lcm(slope.denominator, shift.denominator)
    return Affine(int(slope * q), int(shift * q), q)
