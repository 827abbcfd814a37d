"""The three bench formats decoded by hand, as one would for a single device: the yardstick of `bench decode`.

Owns the references. They give exactly what the profiles give, on good frames; they may not use the profile engine, and
they are as fast as plain Python with `struct` and `msgspec` is.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

import msgspec

from citysense_profiles import Decoded, Sample, Value

_FRAME = struct.Struct(">BhHHhbBHB")
_START = 0xA5
_NO_LEVEL = 0x7FFF


def binary(payload: bytes) -> Decoded:
    """The ten fields of `binary.yaml`. Raises ValueError for another frame."""
    if len(payload) != _FRAME.size:
        raise ValueError("another length")
    start, level, distance, battery, temperature, rssi, tilt, uptime, flags = _FRAME.unpack(payload)
    if start != _START:
        raise ValueError("another start")
    values: dict[str, Value] = {
        "water.distance": distance / 10,
        "battery.voltage": battery / 1000,
        "device.temperature": temperature / 10,
        "link.rssi": float(rssi),
        "gauge.tilt": float(tilt),
        "device.uptime": float(uptime * 60),
        "gauge.tilted": bool(flags & 1),
        "gauge.full": bool(flags & 2),
        "battery.low": bool(flags & 4),
    }
    missing: tuple[str, ...] = ()
    if level == _NO_LEVEL:
        missing = ("water.level",)
    else:
        values["water.level"] = level / 10
    return Decoded(message="report", samples=(Sample(time=None, values=values, missing=missing),))


class _Object(msgspec.Struct):
    lvl: float | None
    bat: int | None
    t: int
    sig: int | None
    tilt: bool | None


_READ = msgspec.json.Decoder(_Object)


def json(payload: bytes) -> Decoded:
    """The five fields of `json.yaml`. Raises msgspec.DecodeError for another document."""
    found = _READ.decode(payload)
    values: dict[str, Value] = {}
    missing: list[str] = []
    if found.lvl is None:
        missing.append("water.level")
    else:
        values["water.level"] = found.lvl
    if found.bat is None:
        missing.append("battery.voltage")
    else:
        values["battery.voltage"] = found.bat / 1000
    if found.sig is None:
        missing.append("link.rssi")
    else:
        values["link.rssi"] = float(found.sig)
    if found.tilt is None:
        missing.append("gauge.tilted")
    else:
        values["gauge.tilted"] = found.tilt
    return Decoded(message="report", samples=(Sample(time=found.t * 1000, values=values, missing=tuple(missing)),))


_WORDS = struct.Struct(">27H")
_MAP = struct.Struct(">HHHHHHHhhhIfQIIHhhHH")
_STATES = ("available", "preparing", "charging", "finishing", "faulted")
_NO_SOC = 0xFFFF
_KEYS = tuple(("input", address) for address in range(100, 127))


def registers(words: Mapping[tuple[str, int], int]) -> Decoded:
    """The twenty fields of `registers.yaml`. Raises KeyError, IndexError or struct.error for other registers."""
    (state, u1, u2, u3, i1, i2, i3, p1, p2, p3, power, frequency, energy, session, seconds, soc, temperature, factor,
     limit, phases) = _MAP.unpack(_WORDS.pack(*[words[key] for key in _KEYS]))  # fmt: skip
    values: dict[str, Value] = {
        "pile.state": _STATES[state],
        "electric.voltage.l1": u1 / 10,
        "electric.voltage.l2": u2 / 10,
        "electric.voltage.l3": u3 / 10,
        "electric.current.l1": i1 / 1000,
        "electric.current.l2": i2 / 1000,
        "electric.current.l3": i3 / 1000,
        "electric.power.l1": float(p1),
        "electric.power.l2": float(p2),
        "electric.power.l3": float(p3),
        "electric.power": float(power),
        "electric.frequency": frequency,
        "electric.energy": energy / 1000,
        "pile.session_energy": session / 1000,
        "pile.session_time": float(seconds),
        "device.temperature": temperature / 10,
        "electric.power_factor": factor / 1000,
        "pile.current_limit": limit / 10,
        "pile.phases": phases,
    }
    missing: tuple[str, ...] = ()
    if soc == _NO_SOC:
        missing = ("pile.soc",)
    else:
        values["pile.soc"] = soc / 100
    return Decoded(message="status", samples=(Sample(time=None, values=values, missing=missing),))
