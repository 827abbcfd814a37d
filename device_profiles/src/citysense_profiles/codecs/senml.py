"""SenML packs (RFC 8428), JSON and CBOR: records with names, times and one value each.

Owns base fields, names, times and the grouping of records into samples. Records of names that the profile does not
list are passed over, because a device may report more resources than we ask for; a pack without any known name is no
message of ours.

Times: bt + t of 2**28 seconds and more count from 1970. Smaller ones count from "now", which a decoder without a clock
does not know: such samples have no time, stand in the order of their relative times (latest last), and the receiver's
clock dates them.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from citysense_profiles.codecs.concise import UnreadableError, is_json, read_cbor, read_json, write_cbor, write_json
from citysense_profiles.codecs.contract import Finish, Outgoing, Place
from citysense_profiles.codecs.layout import FieldFault, label_of
from citysense_profiles.codecs.moment import FROM_MILLISECONDS, in_range
from citysense_profiles.conversion import Raw, RefusedError, compile_conversion
from citysense_profiles.model import SenmlField, SenmlMessage
from citysense_profiles.reading import Decoded, Sample, Value
from citysense_profiles.vocabulary import Vocabulary

JSON_FORMATS = frozenset({50, 110, 111})
CBOR_FORMATS = frozenset({60, 112, 113})
RELATIVE_BELOW = 2**28
NEWEST_VERSION = 10
MAX_RECORDS = 1_000
MAX_NAME = 256
"""What a pack may hold. A day of minute values fits; without a bound, names made of a long base name and thousands of
records keep a decoder busy for seconds with one frame of a quarter megabyte."""

_LABELS: dict[str, int] = {
    "bver": -1, "bn": -2, "bt": -3, "bu": -4, "bv": -5, "bs": -6,
    "n": 0, "u": 1, "v": 2, "vs": 3, "vb": 4, "s": 5, "t": 6, "ut": 7, "vd": 8,
}  # fmt: skip
_NAMES = {label: name for name, label in _LABELS.items()}
_TEXT_FIELDS = ("bn", "n", "bu", "u", "vs")
_NUMBER_FIELDS = ("bt", "t", "bv", "v", "bs", "s", "ut", "bver")
_RAW: dict[str, Raw] = {"v": "number", "vb": "bool", "vs": "text"}
_SERIAL = string.ascii_letters + string.digits + "_-."


@dataclass(frozen=True, slots=True, kw_only=True)
class _Field:
    """One record name and what its value means."""

    label: str
    name: str
    metric: str
    value: str
    units: frozenset[str]
    decode: Callable[[Any], Value | None]
    encode: Callable[[Value | None], Any]


@dataclass(slots=True)
class _Bases:
    """The base fields in force."""

    name: str = ""
    time: float = 0
    unit: str | None = None
    value: float = 0


@dataclass(slots=True)
class _Group:
    """Records of one moment on their way to a sample. `at`: resolved time in seconds."""

    at: float
    values: dict[str, Value]
    missing: list[str]


class SenmlCodec:
    """One shape of pack."""

    def __init__(self, place: Place, finish: Finish, message: SenmlMessage, vocabulary: Vocabulary) -> None:
        self._place = place
        self._finish = finish
        self._base_names = tuple(
            (before, after)
            for before, _, after in (template.partition("{serial}") for template in message.codec.base_names)
        )
        self._fields = _compile(message.fields, vocabulary)
        self._by_name = {field.name: field for field in self._fields}
        self.metrics = frozenset(field.metric for field in self._fields)

    def fits(self, payload: bytes) -> bool:
        """Any bytes may be meant as a pack: the pack itself tells."""
        return True

    def decode(self, payload: bytes, content: int | None, settings: Mapping[str, float]) -> Decoded:
        """One sample for each moment of the pack, a second one where a name stands twice at one moment."""
        groups: list[_Group] = []
        serial: str | None = None
        bases = _Bases()
        known = 0
        for index, record in enumerate(self._records(payload, content)):
            try:
                _apply_bases(record, bases)
                name = bases.name + record.get("n", "")
                if len(name) > MAX_NAME:
                    raise _ShapeError(f"a name of {len(name)} characters; at most {MAX_NAME} are read")
                found, path = self._split(name)
                if found is not None and serial not in (None, found):
                    raise RefusedError(f"one pack names two senders: {serial!r} and {found!r}")
                serial = found if found is not None else serial
                field = self._by_name.get(path)
                if field is not None:
                    known += 1
                    _collect(field, record, bases, groups)
            except RefusedError as error:
                self._place.refuse("value", str(error), field=f"record {index}")
            except _UnitError as error:
                self._place.refuse("unit", str(error), field=f"record {index}")
            except _ShapeError as error:
                self._place.refuse("shape", str(error), field=f"record {index}")
        if not known:
            self._place.refuse("no_match", "no record has a name that the profile knows")
        return Decoded(message=self._place.message, samples=self._samples(groups, settings), serial=serial)

    def _records(self, payload: bytes, content: int | None) -> list[dict[str, Any]]:
        json = is_json(payload, content, json_formats=JSON_FORMATS, cbor_formats=CBOR_FORMATS)
        try:
            document = read_json(payload) if json else read_cbor(payload)
        except UnreadableError as error:
            self._place.refuse("encoding", str(error))
        if not isinstance(document, list) or not document:
            self._place.refuse("shape", "a pack is a list of at least one record")
        if len(document) > MAX_RECORDS:
            self._place.refuse("shape", f"a pack of {len(document)} records; at most {MAX_RECORDS} are read")
        records = []
        for index, record in enumerate(document):
            try:
                if not isinstance(record, dict):
                    raise _ShapeError("a record is an object")
                records.append(_checked(record if json else _named(record)))
            except _ShapeError as error:
                self._place.refuse("shape", str(error), field=f"record {index}")
        return records

    def _split(self, name: str) -> tuple[str | None, str]:
        """(serial, rest of the name). A name without the base name belongs to the sender of the channel."""
        for before, after in self._base_names:
            if name.startswith(before):
                rest = name[len(before) :].lstrip(_SERIAL)
                serial = name[len(before) : len(name) - len(rest)]
                if serial and rest.startswith((after, "/")):
                    return serial, rest.removeprefix(after)
        return None, name

    def _samples(self, groups: list[_Group], settings: Mapping[str, float]) -> tuple[Sample, ...]:
        samples: list[Sample] = []
        relative = sorted((g for g in groups if g.at < RELATIVE_BELOW), key=lambda group: group.at)
        for group in [*(g for g in groups if g.at >= RELATIVE_BELOW), *relative]:
            time = round(group.at * 1000) if group.at >= RELATIVE_BELOW else None
            samples.extend(self._finish.sample(group.values, group.missing, settings, time=time))
        return tuple(samples)

    def encode(self, outgoing: Outgoing) -> bytes:
        """A pack of one moment: JSON, or CBOR for content formats 112, 113 and 60. Missing values are left out."""
        cbor = outgoing.content in CBOR_FORMATS
        records: list[dict[str, Any]] = []
        for field in self._fields:
            value = outgoing.values.get(field.metric)
            if value is None:
                continue
            try:
                code = field.encode(value)
            except RefusedError as error:
                self._place.cannot_encode(str(error), field=field.label)
            records.append({"n": field.name, field.value: code})
        if not records:
            self._place.cannot_encode("no metric of this message is given, so there is nothing to send")
        first: dict[str, Any] = {}
        if outgoing.serial is not None:
            if not self._base_names or not outgoing.serial or outgoing.serial.strip(_SERIAL):
                self._place.cannot_encode(f"serial {outgoing.serial!r} has no place in the base name", field="serial")
            before, after = self._base_names[0]
            first["bn"] = f"{before}{outgoing.serial}{after}"
        if outgoing.time is not None:
            if outgoing.time < RELATIVE_BELOW * 1000:
                self._place.cannot_encode(f"time {outgoing.time} ms would read as relative", field="time")
            first["bt"] = FROM_MILLISECONDS["unix_s"](outgoing.time)
        records[0] = first | records[0]
        if not cbor:
            return write_json(records)
        return write_cbor([{_LABELS[key]: value for key, value in record.items()} for record in records])


class _ShapeError(ValueError):
    """Not a SenML record."""


class _UnitError(ValueError):
    """Another unit than the profile expects."""


def _compile(entries: list[SenmlField], vocabulary: Vocabulary) -> list[_Field]:
    fields: list[_Field] = []
    for position, entry in enumerate(entries):
        label = label_of(entry, position)
        try:
            if entry.metric is None:
                raise ValueError("a SenML field has a metric; time and serial stand in the pack's base fields")
            if entry.default is not None:
                raise ValueError("default means nothing here: an absent value is simply not sent")
            if any(entry.senml == other.name or entry.metric == other.metric for other in fields):
                raise ValueError("this name or metric stands twice")
            conversion = compile_conversion(entry, vocabulary.metric(entry.metric), _RAW[entry.value])
        except (ValueError, KeyError) as error:
            raise FieldFault(label, str(error.args[0])) from error
        fields.append(
            _Field(
                label=label,
                name=entry.senml,
                metric=entry.metric,
                value=entry.value,
                units=frozenset(entry.units),
                decode=conversion.decode,
                encode=conversion.encode,
            )
        )
    return fields


def _named(record: dict[Any, Any]) -> dict[str, Any]:
    """A CBOR record with names in place of labels."""
    named: dict[str, Any] = {}
    for label, value in record.items():
        name = _NAMES.get(label) if type(label) is int else label
        if isinstance(name, str):
            named[name] = value
    return named


def _checked(record: dict[str, Any]) -> dict[str, Any]:
    for name in _TEXT_FIELDS:
        if name in record and type(record[name]) is not str:
            raise _ShapeError(f"{name} is not a string")
    for name in _NUMBER_FIELDS:
        if name in record:
            record[name] = _finite(name, record[name])
    if "vb" in record and type(record["vb"]) is not bool:
        raise _ShapeError("vb is not true or false")
    must = next((name for name in record if name.endswith("_")), None)
    if must is not None:
        raise _ShapeError(f"{must} must be understood (its name ends with _) and is not")
    if record.get("bver", NEWEST_VERSION) > NEWEST_VERSION:
        raise _ShapeError(f"bver {record['bver']} is newer than {NEWEST_VERSION}")
    if sum(kind in record for kind in ("v", "vs", "vb", "vd")) > 1:
        raise _ShapeError("a record has one value")
    return record


def _finite(name: str, number: Any) -> int | float:
    if type(number) is int or type(number) is float:
        try:
            if isfinite(number):
                return number
        except OverflowError:
            raise _ShapeError(f"{name} is too large") from None
    raise _ShapeError(f"{name} is not a finite number")


def _apply_bases(record: dict[str, Any], bases: _Bases) -> None:
    bases.name = record.get("bn", bases.name)
    bases.time = record.get("bt", bases.time)
    bases.unit = record.get("bu", bases.unit)
    bases.value = record.get("bv", bases.value)


def _collect(field: _Field, record: dict[str, Any], bases: _Bases, groups: list[_Group]) -> None:
    raw = record.get(field.value)
    if raw is None and field.value == "v" and bases.value and not any(k in record for k in ("vs", "vb", "vd", "s")):
        raw = 0
    if raw is None:
        raise _ShapeError(f"{field.name} carries no {field.value}")
    unit = record.get("u", bases.unit)
    if field.value == "v":
        raw = raw + bases.value if bases.value else raw
        if field.units and unit is not None and unit not in field.units:
            raise _UnitError(f"{field.name} comes in {unit!r}, the profile knows {', '.join(sorted(field.units))}")
    at = bases.time + record.get("t", 0)
    if at >= RELATIVE_BELOW:
        in_range(round(at * 1000) if at < 1e12 else -1)
    value = field.decode(raw)
    group = _group_at(groups, at, field.metric)
    if value is None:
        group.missing.append(field.metric)
    else:
        group.values[field.metric] = value


def _group_at(groups: list[_Group], at: float, metric: str) -> _Group:
    """The latest group of that moment that does not hold the metric yet: two events may share a moment."""
    if groups:
        last = groups[-1]
        if last.at == at and metric not in last.values and metric not in last.missing:
            return last
    group = next((g for g in groups if g.at == at and metric not in g.values and metric not in g.missing), None)
    if group is None:
        group = _Group(at, {}, [])
        groups.append(group)
    return group
