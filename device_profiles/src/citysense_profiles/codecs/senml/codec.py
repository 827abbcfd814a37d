"""SenML packs (RFC 8428), JSON and CBOR: which records a profile knows, and the moments that they make up.

Owns names, senders, units and the grouping of records by time. Records of names that the profile does not list are
passed over, because a device may report more resources than we ask for; a pack without any known name is no message of
ours. Sums are not read.

Times of 2**28 seconds and more count from 1970. Smaller ones count from "now", which a decoder without a clock does not
know: such samples have no time, stand in the order of their relative times (latest last), and the receiver's clock
dates them. By name `time` is the number of seconds either way, and `serial` what the base name holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from citysense_profiles.codecs.contract import Finish, Named, Place
from citysense_profiles.codecs.documents.concise import UnreadableError
from citysense_profiles.codecs.field import Field, compile_field
from citysense_profiles.codecs.senml.records import (
    MAX_NAME,
    RELATIVE_BELOW,
    Record,
    RecordError,
    difference,
    read_pack,
    resolved,
    write_pack,
)
from citysense_profiles.codecs.senml.targets import SERIAL_LETTERS, Splits, Target, UnitError, choose, compile_targets
from citysense_profiles.codecs.sinks import ByName, Readings, Sink, numbers_from
from citysense_profiles.errors import RefusedError
from citysense_profiles.format.meaning import Meaning
from citysense_profiles.format.profile_file import SenmlMessage
from citysense_profiles.reading import Decoded
from citysense_profiles.values.scaling import finite
from citysense_profiles.vocabulary import Vocabulary

_TIMES_BELOW = 10**12


@dataclass(slots=True)
class _Moment:
    """Records of one time. `codes`: field name -> field, raw code and the index of its record."""

    at: int | float
    index: int
    codes: dict[str, tuple[Target, Any, int]]


class SenmlCodec:
    """One shape of pack."""

    def __init__(self, place: Place, finish: Finish, entry: SenmlMessage, vocabulary: Vocabulary) -> None:
        self._place = place
        self._finish = finish
        names = [template.partition("{serial}") for template in entry.codec.base_names]
        self._first_base = (names[0][0], names[0][2]) if names else None
        # What follows the serial most closely is tried first: "…{serial}:" before "…{serial}".
        self._base_names = sorted(((before, after) for before, _, after in names), key=lambda name: -len(name[1]))
        self._time = _time_field(vocabulary)
        self._serial = compile_field(Meaning(name="serial", role="serial"), "text", vocabulary)
        own = (self._time, self._serial) if names else (self._time,)
        self._targets = compile_targets(entry.fields, vocabulary, {field.name for field in own}, anonymous=bool(names))
        self._by_path: dict[str, tuple[Target, ...]] = {}
        for target in self._targets:
            self._by_path[target.name] = (*self._by_path.get(target.name, ()), target)
        self.fields = (*own, *(target.field for target in self._targets))
        self.metrics = frozenset(field.metric for field in self.fields if field.metric is not None)

    def fits(self, payload: bytes, port: int | None) -> bool:
        """Any bytes may be meant as a pack: the pack itself tells."""
        return True

    def decode(self, payload: bytes, content: int | None, settings: Mapping[str, float]) -> Decoded:
        """One sample for each moment of the pack, a second one where a name stands twice at one moment."""
        return self._readings(*self._moments(payload, content), settings)

    def decode_fields(self, payload: bytes, content: int | None, settings: Mapping[str, float]) -> Named:
        """Values for a pack of one moment, else a list for each name and for `time`; `where` is a JSON pointer."""
        moments, dated, serial = self._moments(payload, content)
        self._readings(moments, dated, serial, settings)  # for what only the readings refuse
        sink = ByName(settings)
        self._hand_over(moments, dated, serial, sink)
        return sink.named(self._place.message)

    def _readings(
        self, moments: list[_Moment], dated: bool, serial: str | None, settings: Mapping[str, float]
    ) -> Decoded:
        sink = Readings(self._finish, settings)
        self._hand_over(moments, dated, serial, sink)
        try:
            return sink.decoded(self._place.message)
        except RefusedError as error:
            self._place.refuse("value", str(error))

    def _moments(self, payload: bytes, content: int | None) -> tuple[list[_Moment], bool, str | None]:
        """The moments in order, whether any record is dated, and the sender that the names tell."""
        moments: list[_Moment] = []
        latest: dict[float, _Moment] = {}
        serial: str | None = None
        known, dated, index = 0, False, 0
        splits = Splits(self._base_names)
        try:
            for record in self._records(payload, content):
                index = record.index
                found, path = splits.split(record.base, record.name)
                if found is not None and found != serial:
                    if serial is not None:
                        raise RefusedError(f"one pack names two senders: {serial!r} and {found!r}")
                    serial = found
                targets = self._by_path.get(path)
                if targets is None:
                    continue
                known += 1
                target = choose(targets, record)
                if target is None:
                    continue
                dated = dated or record.dated
                name = target.field.name
                moment = latest.get(record.at)
                if moment is None or name in moment.codes:  # two events may share a moment
                    moment = latest[record.at] = _Moment(record.at, index, {})
                    moments.append(moment)
                code = record.value.hex().upper() if target.kind == "vd" else record.value
                moment.codes[name] = (target, code, index)
        except RefusedError as error:
            self._place.refuse("value", str(error), field=f"record {index}")
        except UnitError as error:
            self._place.refuse("unit", str(error), field=f"record {index}")
        except RecordError as error:
            number = error.index if error.index is not None else index
            self._place.refuse("shape", str(error), field=f"record {number}")
        if not known:
            self._place.refuse("no_match", "no record has a name that the profile knows")
        absolute = [moment for moment in moments if moment.at >= RELATIVE_BELOW]
        relative = sorted((moment for moment in moments if moment.at < RELATIVE_BELOW), key=lambda moment: moment.at)
        return absolute + relative, dated, serial

    def _records(self, payload: bytes, content: int | None) -> Iterator[Record]:
        try:
            return resolved(read_pack(payload, content))
        except UnreadableError as error:
            self._place.refuse("encoding", str(error))

    def _hand_over(self, moments: list[_Moment], dated: bool, serial: str | None, sink: Sink) -> None:
        if serial is not None:
            sink.take(self._serial, serial, "/0")
        if len(moments) == 1:
            self._hand_over_one(moments[0], dated, sink)
        elif moments:
            seen = set().union(*(moment.codes for moment in moments))
            columns = [target.field for target in self._targets if target.field.name in seen]
            sink.enter([self._time, *columns] if dated else columns)
            for moment in moments:
                sink.next()
                self._hand_over_one(moment, dated, sink)
            sink.leave()

    def _hand_over_one(self, moment: _Moment, dated: bool, sink: Sink) -> None:
        field, index = self._time, moment.index
        try:
            if dated:
                sink.take(field, moment.at, f"/{index}")
            for target, code, index in moment.codes.values():
                field = target.field
                sink.take(field, code, f"/{index}/{target.kind}")
        except RefusedError as error:
            self._place.refuse("value", f"{error} (record {index})", field=field.name)

    def encode_fields(self, values: Mapping[str, Any], content: int | None, settings: Mapping[str, float]) -> bytes:
        """The pack: JSON, or CBOR for content formats 112, 113 and 60. A value that is None is left out.

        Lists are moments, of one length; `time` and `serial` go into the base fields.
        """
        moments = self._rows(values)
        base_time = self._time_of(moments[0]) if moments else None
        records: list[dict[str, Any]] = []
        for moment in moments:
            time = self._time_of(moment)
            later = difference(time or 0, base_time or 0)
            for record in self._moment_records(moment, settings):
                records.append(record | {"t": later} if later else record)
        if not records:
            self._place.cannot_encode("no value of this message is given, so there is nothing to send")
        first: dict[str, Any] = {}
        if values.get("serial") is not None:
            first["bn"] = self._base_name(values["serial"])
        if base_time is not None:
            first["bt"] = base_time
        records[0] = first | records[0]
        base = first.get("bn", "")
        for record in records:
            if not 0 < len(base + record.get("n", "")) <= MAX_NAME:
                self._place.cannot_encode(
                    f"a record's name has 1 to {MAX_NAME} characters; is serial given?", field="serial"
                )
        return write_pack(records, content)

    def _rows(self, values: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        own = {name: value for name, value in values.items() if name != self._serial.name or not self._first_base}
        lists = {name: value for name, value in own.items() if isinstance(value, list | tuple)}
        if not lists:
            return [own]
        lengths = {len(value) for value in lists.values()}
        if len(lists) != len(own) or len(lengths) > 1:
            self._place.cannot_encode(f"lists of one length are needed: {', '.join(own)}", field=next(iter(own)))
        return [{name: value[row] for name, value in lists.items()} for row in range(lengths.pop())]

    def _time_of(self, moment: Mapping[str, Any]) -> int | float | None:
        time = moment.get(self._time.name)
        if time is None:
            return None
        try:
            number = finite(time)
        except RefusedError as error:
            self._place.cannot_encode(str(error), field=self._time.name)
        if abs(number) >= _TIMES_BELOW:
            self._place.cannot_encode(f"{number!r} s is no time", field=self._time.name)
        return number

    def _moment_records(self, moment: Mapping[str, Any], settings: Mapping[str, float]) -> Iterator[dict[str, Any]]:
        for target in self._targets:
            field = target.field
            value = moment.get(field.name, field.default)
            if value is None and not (field.can_be_missing and field.name in moment):
                continue
            try:
                code = field.code_of(moment, *(numbers_from(field, settings, moment) if field.needs else ()))
                said = _bytes_of(code) if target.kind == "vd" else code
            except RefusedError as error:
                self._place.cannot_encode(str(error), field=field.name)
            record = {"n": target.name} if target.name else {}
            yield record | ({"u": target.unit} if target.unit else {}) | {target.kind: said}

    def _base_name(self, serial: Any) -> str:
        if self._first_base is None or not isinstance(serial, str) or not serial or serial.strip(SERIAL_LETTERS):
            self._place.cannot_encode(f"serial {serial!r} has no place in the base name", field="serial")
        before, after = self._first_base
        return f"{before}{serial}{after}"


def _time_field(vocabulary: Vocabulary) -> Field:
    """The pack's time: told and taken in ms, unless it is relative."""
    field = compile_field(Meaning(name="time", role="time", form="unix_s"), "number", vocabulary)
    tell, named = field.told, field.named
    if tell is None or named is None:
        raise ValueError("the role time has a value of its own")
    to_milliseconds, to_seconds = tell, named

    def told(code: Any) -> int | None:
        return None if code < RELATIVE_BELOW else to_milliseconds(code)

    def seconds(milliseconds: int) -> Any:
        if milliseconds < RELATIVE_BELOW * 1000:
            raise RefusedError(f"{milliseconds} ms would read as relative")
        return to_seconds(milliseconds)

    return replace(field, told=told, named=seconds)


def _bytes_of(code: Any) -> bytes:
    try:
        return bytes.fromhex(code)
    except (TypeError, ValueError):
        raise RefusedError(f"{code!r} is not hex digits") from None
