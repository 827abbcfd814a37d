"""Raw codes that a field can carry, drawn at random: numbers of its width, text of its form, the codes of its map.

Owns what each type on the wire can hold. It knows nothing of messages: `round_trip.py` puts the values together.
"""

from __future__ import annotations

import re
import struct
from datetime import UTC, datetime, timedelta
from math import ceil, floor
from random import Random
from string import ascii_letters, digits
from typing import Any

from citysense_profiles.codecs.field import Field
from citysense_profiles.format.binary import BinaryField, Element
from citysense_profiles.format.meaning import BitField, Meaning
from citysense_profiles.format.registers import ModbusField
from citysense_profiles.values.conversion import Raw
from citysense_profiles.vocabulary import Metric

_SIGNED = re.compile(r"^([ui])(\d+)$")
_EXACT = 2**49
"""Scaled numbers stay below: beyond, a double no longer tells neighbours apart."""
_FLOATS = {"f16": "e", "f32": "f", "f64": "d"}
_PART = re.compile(r"\{(\d+)\}")
_LETTERS = ascii_letters + digits
_SOME_BYTES = 6
_FIRST_MOMENT = datetime(2020, 1, 1, tzinfo=UTC)
_MINUTES = 20 * 365 * 24 * 60


def draw_moment(random: Random) -> int:
    """A time in ms since 1970: a whole minute of the years 2020 to 2039, which every form can write."""
    return int(_FIRST_MOMENT.timestamp() * 1000) + random.randrange(_MINUTES) * 60_000


def draw_code(field: Field, metric: Metric | None, random: Random) -> Any:
    """A raw code that the field's place on the wire can hold; whether the field can carry it, its own functions say."""
    entry = field.entry
    if entry.map and (entry.others == "refuse" or random.random() < 0.8):
        return random.choice(list(entry.map))
    if entry.means and field.raw != "bool" and entry.map is None and random.random() < 0.8:
        return random.choice(list(entry.means))
    if metric is not None and metric.values is not None and entry.map is None and field.raw == "text":
        return random.choice(sorted(metric.values))
    return _of_type(field.raw, entry, random)


def _of_type(raw: Raw, entry: Meaning, random: Random) -> Any:
    if raw == "bool":
        return random.random() < 0.5
    if raw == "text":
        return _text(entry, random)
    if raw == "float":
        return _float(getattr(entry, "type", "f64"), random)
    if isinstance(entry, Element):
        return _decimal(entry.definition[0], random)
    low, high = _bounds(entry)
    if entry.scale != 1 or entry.offset != 0 or entry.times or entry.decimals or entry.span:
        low, high = max(low, -_EXACT), min(high, _EXACT)
    if entry.valid is not None and random.random() < 0.9:
        inside = max(low, ceil(entry.valid[0])), min(high, floor(entry.valid[1]))
        low, high = inside if inside[0] <= inside[1] else (low, high)
    whole = _whole(low, high, random)
    return whole if raw == "int" or random.random() < 0.5 else round(random.uniform(-1000, 1000), 2)


def _whole(low: int, high: int, random: Random) -> int:
    """Often an end of the range or a small number: that is where codecs go wrong."""
    kind = random.random()
    if kind < 0.2:
        return random.choice([low, high])
    if kind < 0.5:
        small = min(max(low, 0), high)
        return random.randint(max(low, small - 100), min(high, small + 100))
    return random.randint(low, high)


def _decimal(definition: int, random: Random) -> int | float:
    """As many BCD digits as a definition byte says, with its decimals; a minus takes the room of two."""
    size, decimals = definition >> 3, definition & 7
    negative = size > 1 and random.random() < 0.2
    digits_of = _whole(1, 10 ** (2 * size - 2) - 1, random) if negative else _whole(0, 10 ** (2 * size) - 1, random)
    number = -digits_of if negative else digits_of
    return number / 10**decimals if decimals else number


def _bounds(entry: Meaning) -> tuple[int, int]:
    if isinstance(entry, BitField):
        half = 1 << (entry.width - 1)
        return (-half, half - 1) if entry.signed else (0, (1 << entry.width) - 1)
    kind = getattr(entry, "type", None)
    match = _SIGNED.match(kind) if isinstance(kind, str) else None
    if match is not None:
        bits = int(match[2])
        return (0, (1 << bits) - 1) if match[1] == "u" else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    if kind == "bit":
        return 0, 1
    if kind == "bcd":
        return 0, min(10 ** (2 * _size(entry)), 2**63) - 1
    if kind == "signed_bcd":
        highest = min(10 ** (2 * _size(entry) - 1), 2**63) - 1
        return -highest, highest
    return -(2**31), 2**31 - 1


def _size(entry: Meaning) -> int:
    """Bytes of a field of text or BCD; some, where something else in the message says how many."""
    if isinstance(entry, ModbusField):
        return 2 * (entry.count or 1)
    length = getattr(entry, "length", None)
    return length if isinstance(length, int) else _SOME_BYTES


def _float(kind: str, random: Random) -> float:
    number = random.choice([0.0, 1.0, random.uniform(-1, 1), random.uniform(-1000, 1000), random.uniform(0, 60000)])
    letter = _FLOATS.get(kind, "d")
    return float(struct.unpack(f">{letter}", struct.pack(f">{letter}", number))[0])


def _text(entry: Meaning, random: Random) -> str:
    if entry.reshape is not None:
        return _PART.sub(lambda part: _word(digits, int(part[1]), random), entry.reshape.wire)
    kind = getattr(entry, "type", "text")
    size = _size(entry) if isinstance(entry, BinaryField | ModbusField) else random.randint(1, _SOME_BYTES)
    if kind in ("hex", "base64", "base64url") or getattr(entry, "value", None) == "vd":
        return random.randbytes(size).hex().upper()
    if kind == "digits":
        return _word(digits, 2 * size, random)
    if kind == "dotted":
        return ".".join(str(part) for part in random.randbytes(size))
    if kind == "cp56":
        moment = _FIRST_MOMENT + timedelta(minutes=random.randrange(_MINUTES))
        return f"{moment:%Y-%m-%dT%H:%M:%S}.000"
    longest = size // 2 if kind == "utf16" else size
    return _word(_LETTERS, random.randint(1, longest) if isinstance(entry, ModbusField) else longest, random)


def _word(letters: str, length: int, random: Random) -> str:
    return "".join(random.choice(letters) for _ in range(length))
