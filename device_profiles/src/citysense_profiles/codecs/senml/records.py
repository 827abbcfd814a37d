"""Records of a SenML pack (RFC 8428), JSON and CBOR: base fields applied, names and times whole, nothing understood yet.

Owns the labels, the checks of every record, the base fields and the limits of a pack. Which names matter to a profile,
and what their values mean, is the codec's business.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from math import isfinite
from typing import Any

from citysense_profiles.codecs.documents.concise import is_json, read_cbor, read_json, write_cbor, write_json

JSON_FORMATS = frozenset({50, 110, 111})
CBOR_FORMATS = frozenset({60, 112, 113})
RELATIVE_BELOW = 2**28
"""Seconds. Smaller times count from now, which may well be before it."""
NEWEST_VERSION = 10
MAX_RECORDS = 1_000
MAX_NAME = 256
"""What a pack may hold. A day of minute values fits; without a bound, names made of a long base name and thousands of
records keep a decoder busy for seconds with one frame of a quarter megabyte."""
VALUES = ("v", "vs", "vb", "vd")
MICROSECONDS = 6
"""Decimals of a time. Sums of base time and time are rounded to it, so that they are the decimal numbers they stand for."""

_LABELS: dict[str, int] = {
    "bver": -1, "bn": -2, "bt": -3, "bu": -4, "bv": -5, "bs": -6,
    "n": 0, "u": 1, "v": 2, "vs": 3, "vb": 4, "s": 5, "t": 6, "ut": 7, "vd": 8,
}  # fmt: skip
_BASES = {"bver", "bn", "bt", "bu", "bv", "bs"}
_EARLIEST = -(10**12)
_LATEST = 10**12


class RecordError(ValueError):
    """Not a SenML record. `index` counts from 0."""

    def __init__(self, text: str, index: int | None = None) -> None:
        super().__init__(text)
        self.index = index


@dataclass(slots=True)
class Record:
    """A resolved record. `at`: seconds, from 1970 or, below RELATIVE_BELOW, from now.

    `dated` tells whether the record or a base field says any time at all. `kind` is v, vs, vb or vd, None where there
    is a sum or nothing but base fields.
    """

    index: int
    base: str
    name: str
    at: int | float
    dated: bool
    unit: str | None
    kind: str | None
    value: Any
    sums: bool


def read_pack(payload: bytes, content: int | None) -> list[Any]:
    """The records as they stand. Raises UnreadableError, RecordError."""
    json = is_json(payload, content, json_formats=JSON_FORMATS, cbor_formats=CBOR_FORMATS)
    document = read_json(payload) if json else read_cbor(payload)
    if not isinstance(document, list) or not document:
        raise RecordError("a pack is a list of at least one record")
    if len(document) > MAX_RECORDS:
        raise RecordError(f"a pack of {len(document)} records; at most {MAX_RECORDS} are read")
    return document


def write_pack(records: list[dict[str, Any]], content: int | None) -> bytes:
    """The pack: CBOR for content formats 112, 113 and 60, else JSON. Bytes stand in `vd`."""
    if content in CBOR_FORMATS:
        return write_cbor([{_LABELS[key]: value for key, value in record.items()} for record in records])
    return write_json([{key: _json_value(value) for key, value in record.items()} for record in records])


def _json_value(value: Any) -> Any:
    return base64.urlsafe_b64encode(value).decode("ascii").rstrip("=") if isinstance(value, bytes) else value


def resolved(document: list[Any]) -> Iterator[Record]:
    """The records with their base fields. Raises RecordError."""
    base, base_time, base_unit, base_value = "", 0, None, 0
    exact_base = Decimal()
    dated_base = False
    base_at: int | float = 0
    for index, entry in enumerate(document):
        if type(entry) is not dict:
            raise RecordError("a record is an object", index)
        try:
            others, kind, value = _checked(entry)
            name, unit, at, dated, sums = "", base_unit, base_at, dated_base, False
            if others:
                base = others.get("bn", base)
                base_unit = others.get("bu", base_unit)
                if "bv" in others:
                    base_value, exact_base = others["bv"], Decimal(repr(others["bv"]))
                if "bt" in others:
                    base_time, dated_base = others["bt"], True
                    base_at = _time(base_time, 0)
                name, unit, sums = others.get("n", ""), others.get("u", base_unit), "s" in others
                dated = dated_base or "t" in others
                at = _time(base_time, others["t"]) if "t" in others else base_at
                if len(base) + len(name) > MAX_NAME:
                    raise RecordError(f"a name of {len(base) + len(name)} characters; at most {MAX_NAME} are read")
            if base_value and (kind == "v" or (kind is None and not sums)):
                kind, value = "v", _sum(value or 0, base_value, exact_base)
            if kind is None and not sums and not _BASES & others.keys():
                raise RecordError("a record has a value, a sum or base fields")
        except RecordError as error:
            raise RecordError(str(error), index) from None
        yield Record(index, base, name, at, dated, unit, kind, value, sums)


def _time(base: float, offset: float) -> int | float:
    at = base + offset
    if not _EARLIEST < at < _LATEST:
        raise RecordError(f"{at} s is no time")
    if type(at) is float:
        at = round(at, MICROSECONDS)
        return int(at) if at == int(at) else at
    return at


def _sum(value: float, base: float, exact_base: Decimal) -> int | float:
    """The sum of the two decimal numbers: 100 and -98.8 are 1.2, and not 1.2000000000000028."""
    if type(value) is int and type(base) is int:
        return value + base
    return float(exact_base + (value if type(value) is int else Decimal(repr(value))))


def difference(time: float, base: float) -> int | float:
    """What `t` says where `bt` says `base`, exact for times of no more than MICROSECONDS decimals."""
    found = _sum(time, -base, Decimal(repr(-base)))
    return int(found) if found == int(found) else found


def _checked(entry: dict[Any, Any]) -> tuple[dict[str, Any], str | None, Any]:
    """The value of a record and its other fields by name, each of its type. RFC 8428 wants unknown ones passed over."""
    others: dict[str, Any] = {}
    kind, value = None, None
    for key, found in entry.items():
        known = _FIELDS.get(key)
        if known is not None and (type(key) is str or type(key) is int):  # True == 1, and is no label
            name, check, is_value = known
            if not is_value:
                others[name] = check(name, found)
            elif kind is not None:
                raise RecordError("a record has one value")
            else:
                kind, value = name, check(name, found)
        elif type(key) is str and key.endswith("_"):
            raise RecordError(f"{key} must be understood (its name ends with _) and is not")
    if others.get("bver", NEWEST_VERSION) > NEWEST_VERSION:
        raise RecordError(f"bver {others['bver']} is newer than {NEWEST_VERSION}")
    return others, kind, value


def _text(name: str, value: Any) -> str:
    if type(value) is not str:
        raise RecordError(f"{name} is not a string")
    return value


def _finite(name: str, number: Any) -> int | float:
    if type(number) is int or type(number) is float:
        try:
            if isfinite(number):
                return number
        except OverflowError:
            raise RecordError(f"{name} is too large") from None
    raise RecordError(f"{name} is not a finite number")


def _truth(name: str, value: Any) -> bool:
    if type(value) is not bool:
        raise RecordError(f"{name} is not true or false")
    return value


def _data(name: str, value: Any) -> bytes:
    if type(value) is bytes:
        return value
    text = _text(name, value).rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise RecordError(f"{name} is not base64url") from None


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys(("bn", "n", "bu", "u", "vs"), _text),
    **dict.fromkeys(("bt", "t", "bv", "v", "bs", "s", "ut", "bver"), _finite),
    "vb": _truth,
    "vd": _data,
}
_FIELDS: dict[Any, tuple[str, Callable[[str, Any], Any], bool]] = {
    key: (name, _CHECKS[name], name in VALUES) for name, label in _LABELS.items() for key in (name, label)
}
