"""Our own format: one object with boot, seq, t, v and base, as JSON or CBOR with the same keys.

Owns that object and the check of every metric in `v` against the profile's list and the vocabulary's types. Values are
in the vocabulary's units already, so nothing is converted, and the name of a metric is its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isfinite
from typing import Annotated, Any

import msgspec

from citysense_profiles.codecs.contract import Finish, Named, Place
from citysense_profiles.codecs.documents.concise import UnreadableError, is_json, read_cbor, write_cbor, write_json
from citysense_profiles.codecs.field import Field
from citysense_profiles.errors import RefusedError
from citysense_profiles.format.meaning import Meaning
from citysense_profiles.reading import Decoded, Value
from citysense_profiles.values.conversion import Raw, compile_conversion, value_check
from citysense_profiles.values.moment import in_range
from citysense_profiles.vocabulary import Metric, ValueType

JSON_FORMATS = frozenset({50})
CBOR_FORMATS = frozenset({60})

LARGEST_COUNT = 2**53 - 1
"""What JavaScript and JSON readers hold exactly; a counter never comes near it."""
_Count = Annotated[int, msgspec.Meta(ge=0, le=LARGEST_COUNT)]
_RAW: dict[ValueType, Raw] = {
    ValueType.NUMBER: "number",
    ValueType.INTEGER: "int",
    ValueType.BOOLEAN: "bool",
    ValueType.TEXT: "text",
}
_HEAD = ("boot", "seq", "t", "base")
_NEEDED = ("boot", "seq")


class _Report(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The object on the wire."""

    boot: _Count
    seq: _Count
    v: dict[str, float | int | str | bool | None]
    t: _Count | None = None
    base: _Count | None = None


_READ_JSON = msgspec.json.Decoder(_Report)


class NativeCodec:
    """A native message with a closed list of metrics."""

    def __init__(self, place: Place, finish: Finish, metrics: tuple[Metric, ...]) -> None:
        self._place = place
        self._finish = finish
        self._checks = {metric.name: _check(metric) for metric in metrics}
        self.metrics = frozenset(self._checks)
        self.fields = (*(_counter(name) for name in _HEAD), *(_value(metric) for metric in metrics))

    def fits(self, payload: bytes, port: int | None) -> bool:
        """Any bytes may be meant as native: the object itself tells."""
        return True

    def decode(self, payload: bytes, content: int | None, settings: Mapping[str, float]) -> Decoded:
        """The report; the event time is `t`, None without it."""
        report = self._read(payload, content)
        if report.base is not None and report.base > report.seq:
            self._place.refuse("shape", f"base {report.base} is greater than seq {report.seq}", field="base")
        values: dict[str, Value] = {}
        missing: list[str] = []
        name = ""
        checks = self._checks
        try:
            for name, value in report.v.items():
                if value is None and name in checks:
                    missing.append(name)
                else:
                    values[name] = checks[name](value)
            if report.t is not None:
                name = "t"
                in_range(report.t)
        except KeyError:
            self._place.refuse("shape", f"the profile has no metric {name!r}", field=name)
        except RefusedError as error:
            self._place.refuse("shape", str(error), field=name)
        return Decoded(
            message=self._place.message,
            samples=self._finish.sample(values, missing, settings, time=report.t),
            boot=report.boot,
            seq=report.seq,
            base=report.base,
        )

    def decode_fields(self, payload: bytes, content: int | None, settings: Mapping[str, float]) -> Named:
        """boot, seq, t and base as they stand, and each metric; `where` is a JSON pointer."""
        self.decode(payload, content, settings)
        report = self._read(payload, content)
        values: dict[str, Any] = {name: getattr(report, name) for name in _HEAD if getattr(report, name) is not None}
        where = {name: f"/{name}" for name in values}
        for name, value in report.v.items():
            values[name] = None if value is None else self._checks[name](value)
            where[name] = f"/v/{name}"
        return Named(message=self._place.message, values=values, where=where)

    def encode_fields(self, values: Mapping[str, Any], content: int | None, settings: Mapping[str, float]) -> bytes:
        """JSON, or CBOR for content format 60. `boot` and `seq` are required."""
        head: dict[str, int] = {}
        for name in _HEAD:
            count = values.get(name)
            if count is None:
                if name in _NEEDED:
                    self._place.cannot_encode(f"a native message needs {name}", field=name)
            elif type(count) is not int or not 0 <= count <= LARGEST_COUNT:
                self._place.cannot_encode(f"{count!r} is not a whole number from 0 to 2**53 - 1", field=name)
            else:
                head[name] = count
        if head.get("base", 0) > head["seq"]:
            self._place.cannot_encode(f"base {head['base']} is greater than seq {head['seq']}", field="base")
        self._check_time(head.get("t", 0))
        base = {"base": head.pop("base")} if "base" in head else {}
        told = {name: self._checked(name, value) for name, value in values.items() if name not in _HEAD}
        document = {**head, "v": told, **base}
        return write_cbor(document) if content in CBOR_FORMATS else write_json(document)

    def _read(self, payload: bytes, content: int | None) -> _Report:
        try:
            if is_json(payload, content, json_formats=JSON_FORMATS, cbor_formats=CBOR_FORMATS):
                return _READ_JSON.decode(payload)
            return msgspec.convert(read_cbor(payload), _Report)
        except msgspec.ValidationError as error:
            self._place.refuse("shape", str(error))
        except UnreadableError as error:
            self._place.refuse("encoding", str(error))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._place.refuse("encoding", f"not valid JSON: {error}")

    def _check_time(self, time: int) -> None:
        try:
            in_range(time)
        except RefusedError as error:
            self._place.cannot_encode(str(error), field="t")

    def _checked(self, name: str, value: Any) -> Value | None:
        try:
            return None if value is None else self._checks[name](value)
        except KeyError:
            self._place.cannot_encode(f"the profile has no metric {name!r}", field=name)
        except RefusedError as error:
            self._place.cannot_encode(str(error), field=name)


def _check(metric: Metric) -> Callable[[Any], Value]:
    return _number if metric.type is ValueType.NUMBER else value_check(metric)


def _number(value: Any) -> Value:
    if type(value) is float or type(value) is int:
        try:
            number = float(value)
        except OverflowError:
            raise RefusedError("the number is too large") from None
        if isfinite(number):
            return number
    raise RefusedError(f"{value!r} is not a finite number")


def _value(metric: Metric) -> Field:
    return _field(
        metric.name,
        _RAW[metric.type],
        Meaning(name=metric.name, metric=metric.name, unit=metric.unit if metric.type is ValueType.NUMBER else None),
        metric,
    )


def _counter(name: str) -> Field:
    """One of the keys beside `v`. The event time `t` carries the role time; `base` has no role of its own elsewhere."""
    return _field(name, "int", Meaning(name=name), None, role="time" if name == "t" else name)


def _field(name: str, raw: Raw, entry: Meaning, metric: Metric | None, role: str | None = None) -> Field:
    conversion = compile_conversion(entry, metric, raw, null=True)
    return Field(
        name=name,
        depth=0,
        raw=raw,
        metric=entry.metric,
        role=role,
        unit=entry.unit,
        shown=conversion.shown,
        stored=conversion.stored,
        told=conversion.told if role is None else conversion.shown,
        named=conversion.named if role is None else conversion.shown,
        needs=(),
        default=None,
        can_be_missing=metric is not None,
        conversion=conversion,
        entry=entry,
    )
