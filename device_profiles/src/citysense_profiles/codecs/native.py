"""Our own format: one object with boot, seq, t, v and base, as JSON or CBOR with the same keys.

Owns that object and the check of every metric in `v` against the profile's list and the vocabulary's types. Values are
in the vocabulary's units already, so nothing is converted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isfinite
from typing import Annotated, Any

import msgspec

from citysense_profiles.codecs.concise import UnreadableError, is_json, read_cbor, write_cbor, write_json
from citysense_profiles.codecs.contract import Finish, Outgoing, Place
from citysense_profiles.codecs.moment import in_range
from citysense_profiles.conversion import RefusedError, value_check
from citysense_profiles.reading import Decoded, Value
from citysense_profiles.vocabulary import Metric, ValueType

JSON_FORMATS = frozenset({50})
CBOR_FORMATS = frozenset({60})

# Within what JavaScript and JSON readers hold exactly; a counter never comes near it.
_Count = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]


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

    def fits(self, payload: bytes) -> bool:
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

    def encode(self, outgoing: Outgoing) -> bytes:
        """JSON, or CBOR for content format 60. `boot` and `seq` are required."""
        for name, given in (("boot", outgoing.boot), ("seq", outgoing.seq)):
            if given is None:
                self._place.cannot_encode(f"a native message needs {name}", field=name)
        document: dict[str, Any] = {"boot": outgoing.boot, "seq": outgoing.seq}
        if outgoing.time is not None:
            document["t"] = outgoing.time
        document["v"] = {name: self._checked(name, value) for name, value in outgoing.values.items()}
        if outgoing.base is not None:
            document["base"] = outgoing.base
        return write_cbor(document) if outgoing.content in CBOR_FORMATS else write_json(document)

    def _checked(self, name: str, value: Value | None) -> Value | None:
        try:
            return None if value is None else self._checks[name](value)
        except RefusedError as error:
            self._place.cannot_encode(str(error), field=name)


def _check(metric: Metric) -> Callable[[Any], Value]:
    if metric.type is ValueType.NUMBER:
        return _number
    return value_check(metric)


def _number(value: Any) -> Value:
    if type(value) is float or type(value) is int:
        try:
            number = float(value)
        except OverflowError:
            raise RefusedError("the number is too large") from None
        if isfinite(number):
            return number
    raise RefusedError(f"{value!r} is not a finite number")
