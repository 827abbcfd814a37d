"""The worked examples inside a profile: do their frames say what the author claims, and come back the same?

Owns running one vector and putting the differences into sentences. The same check serves our tests and a vendor's desk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from citysense_profiles.checking.whole_names import filled_in
from citysense_profiles.codecs.contract import Named
from citysense_profiles.codecs.documents.concise import UnreadableError, read_cbor, read_json, write_cbor, write_json
from citysense_profiles.codecs.modbus.wire import RequestFault, parse_rtu_request, table_of
from citysense_profiles.errors import DecodeError, EncodeError, SettingError
from citysense_profiles.format.profile_file import ModbusMessage
from citysense_profiles.format.vector import Request, VectorEntry, VectorSample
from citysense_profiles.profile import Profile
from citysense_profiles.reading import Decoded

_COUNTERS = ("boot", "seq", "base", "serial")


def check_vector(profile: Profile, vector: VectorEntry) -> list[str]:
    """What differs between a vector and what the profile makes of its frame, one sentence each; empty if all is well."""
    try:
        fitted, settings = settings_of(profile, vector)
    except SettingError as error:
        return [f"settings: {error}"]
    if vector.message is not None and vector.message not in fitted.messages:
        return [f"no message {vector.message!r}; messages of this profile: {', '.join(fitted.messages)}"]
    if vector.wire.request is not None:
        return _check_request(fitted, vector.wire.request)
    if vector.wire.write is not None:
        return _check_write(fitted, vector, settings)
    run = _Run(fitted, vector, settings)
    return run.check_refused() if vector.error is not None else run.check()


def settings_of(profile: Profile, vector: VectorEntry) -> tuple[Profile, dict[str, float]]:
    """The variant that a vector's settings choose, and the numbers among them. Raises SettingError."""
    fitted = profile.fitted(vector.settings)
    numbers: dict[str, float] = {}
    for name, value in vector.settings.items():
        if name in fitted.options:
            continue
        if name not in fitted.settings:
            raise SettingError(name, f"{name} is no setting and no option of this profile")
        if isinstance(value, str):
            raise SettingError(name, f"{value!r} is not a number")
        numbers[name] = value
    return fitted, numbers


def frame_of(vector: VectorEntry) -> bytes:
    """The bytes of a vector; empty for registers."""
    wire = vector.wire
    if wire.hex is not None:
        return wire.hex
    if wire.text is not None:
        return wire.text.encode()
    if "json_" in wire.model_fields_set:
        return write_json(wire.json_)
    return write_cbor(wire.cbor) if "cbor" in wire.model_fields_set else b""


def registers_of(vector: VectorEntry) -> dict[tuple[str, int], int]:
    """The registers of a vector, (table, address) -> word."""
    found: dict[tuple[str, int], int] = {}
    for table, runs in (vector.wire.registers or {}).items():
        for first, words in runs.items():
            found.update({(table, first + step): word for step, word in enumerate(words)})
    return found


@dataclass(frozen=True, slots=True)
class _Run:
    """One vector with a frame or registers, and the variant of the profile that its settings choose."""

    profile: Profile
    vector: VectorEntry
    settings: Mapping[str, float]

    @property
    def _polled(self) -> bool:
        return self.vector.wire.registers is not None

    def _decode(self, *, by_looks: bool) -> Decoded:
        vector = self.vector
        if self._polled:
            return self.profile.decode_registers(registers_of(vector), message=vector.message, settings=self.settings)
        return self.profile.decode(
            frame_of(vector),
            message=None if by_looks else vector.message,
            content=vector.content,
            port=vector.port,
            settings=self.settings,
        )

    def _decode_fields(self, frame: bytes | dict[tuple[str, int], int]) -> Named:
        message, settings = self.vector.message, self.settings
        if isinstance(frame, dict):
            return self.profile.decode_register_fields(frame, message=message, settings=settings)
        return self.profile.decode_fields(
            frame, message=message, content=self.vector.content, port=self.vector.port, settings=settings
        )

    def _frame(self) -> bytes | dict[tuple[str, int], int]:
        return registers_of(self.vector) if self._polled else frame_of(self.vector)

    def check_refused(self) -> list[str]:
        """Both faces must raise the vector's error."""
        faults = []
        for face, decode in (
            ("readings", lambda: self._decode(by_looks=self.vector.message is None)),
            ("values by name", lambda: self._decode_fields(self._frame())),
        ):
            try:
                said = decode()
            except DecodeError as error:
                if error.code != self.vector.error:
                    faults.append(f"{face}: raises {error.code}, not {self.vector.error}: {error}")
            else:
                faults.append(f"{face}: must raise {self.vector.error} and says {said}")
        return faults

    def check(self) -> list[str]:
        """Recognised, the readings, the values by name, and the way back."""
        vector = self.vector
        try:
            decoded = self._decode(by_looks=not self._polled and self.profile.is_upward(vector.message or ""))
            named = self._decode_fields(self._frame())
        except DecodeError as error:
            return [f"does not decode: {error}"]
        faults = [] if decoded.message == vector.message else [f"is taken for message {decoded.message}"]
        if vector.samples is not None:
            faults += _other_counters(vector, decoded)
            faults += _other_samples(vector.samples, decoded, vector.tolerance)
        if vector.values is not None:
            faults += differences(named.values, vector.values, vector.tolerance)
        if not named.values and not vector.canonical:
            return faults  # a frame that the message passes over: there is nothing to say again
        return faults or self._check_way_back(named)

    def _check_way_back(self, named: Named) -> list[str]:
        """Encoding says the same again, byte for byte where the vector is in canonical form."""
        vector, message = self.vector, self.vector.message or ""
        values = vector.values if vector.values is not None and not vector.tolerance else named.values
        try:
            again: bytes | dict[tuple[str, int], int]
            if self._polled:
                again = self.profile.encode_register_fields(message, values, settings=self.settings)
            else:
                again = self.profile.encode_fields(message, values, content=vector.content, settings=self.settings)
            second = self._decode_fields(again)
        except (DecodeError, EncodeError) as error:
            return [f"does not come back: {error}"]
        # Written in our own way, lengths, counts and check sums are others.
        others = filled_in(self.profile, message) if not vector.canonical else frozenset()
        found, wanted = (
            {name: value for name, value in one.values.items() if name not in others} for one in (second, named)
        )
        faults = [f"comes back otherwise: {fault}" for fault in differences(found, wanted, 0.0)]
        if faults or not vector.canonical or _document(again) == _document(self._frame()):
            return faults
        return [f"is encoded as {again.hex(' ') if isinstance(again, bytes) else again}"]


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any], tolerance: float) -> list[str]:
    """What differs between values by name, one sentence each. Numbers may differ by `tolerance`."""
    faults = [f"{name} is {found[name]!r}, which the vector lacks" for name in found if name not in wanted]
    for name, want in wanted.items():
        if name not in found:
            faults.append(f"{name} is not there, {want!r} is wanted")
        elif not same(found[name], want, tolerance):
            faults.append(f"{name} is {found[name]!r}, not {want!r}")
    return faults


def same(found: Any, wanted: Any, tolerance: float) -> bool:
    """Whether two values are the same; True is not 1 and "1" is not 1, but 1.0 is 1."""
    if isinstance(found, list) and isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(lambda a, b: same(a, b, tolerance), found, wanted))
    if _is_number(found) and _is_number(wanted):
        return found == wanted or _is_near(found, wanted, tolerance)
    return type(found) is type(wanted) and bool(found == wanted)


def _is_near(found: float, wanted: float, tolerance: float) -> bool:
    try:
        return abs(found - wanted) <= tolerance
    except OverflowError:  # the vector has an integer that no double holds
        return False


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _other_counters(vector: VectorEntry, decoded: Decoded) -> list[str]:
    return [
        f"{name} is {getattr(decoded, name)!r}, not {getattr(vector, name)!r}"
        for name in _COUNTERS
        if getattr(decoded, name) != getattr(vector, name)
    ]


def _other_samples(wanted: list[VectorSample], decoded: Decoded, tolerance: float) -> list[str]:
    if len(decoded.samples) != len(wanted):
        return [f"has {len(decoded.samples)} samples, not {len(wanted)}: {list(decoded.samples)}"]
    faults = []
    for index, (sample, want) in enumerate(zip(decoded.samples, wanted, strict=True)):
        for name in ("time", "event", "tag"):
            if getattr(sample, name) != getattr(want, name):
                faults.append(f"sample {index}: {name} is {getattr(sample, name)!r}, not {getattr(want, name)!r}")
        if sorted(sample.missing) != sorted(want.missing):
            faults.append(f"sample {index}: missing is {sorted(sample.missing)}, not {sorted(want.missing)}")
        faults += [f"sample {index}: {fault}" for fault in differences(sample.values, want.values, tolerance)]
    return faults


def _document(frame: bytes | dict[tuple[str, int], int]) -> Any:
    """JSON and CBOR are compared as documents, since the order of keys has no meaning; other bytes as bytes."""
    if isinstance(frame, dict):
        return frame
    for read in (read_json, read_cbor):
        try:
            return read(frame)
        except UnreadableError:
            continue
    return frame


def _check_request(profile: Profile, request: Request) -> list[str]:
    """The bytes ask for what the vector says, and the profile's own plan asks for it as well."""
    try:
        asked = parse_rtu_request(request.hex)
        table = table_of(request.function)
    except RequestFault as error:
        return [f"request: {error}"]
    faults = [
        f"request: {name} is {getattr(asked, name)}, not {getattr(request, name)}"
        for name in ("unit", "function", "address", "quantity")
        if getattr(asked, name) != getattr(request, name)
    ]
    planning = [
        name
        for name, entry in profile.file.messages.items()
        if isinstance(entry, ModbusMessage)
        and profile.unit(name) == request.unit
        and any(
            read.table == table
            and read.address <= request.address
            and request.address + request.quantity <= read.address + read.count
            for read in profile.plan_reads(name)
        )
    ]
    if not planning:
        faults.append(f"request: no message reads {request.quantity} of {table} from {request.address}")
    elif request.field is not None and not any(
        _stands_at(profile, name, request.field, table, request.address) for name in planning
    ):
        faults.append(f"request: field {request.field} does not stand at {table} {request.address}")
    return faults


def _stands_at(profile: Profile, message: str, field: str, table: str, address: int) -> bool:
    entry = profile.file.messages[message]
    return isinstance(entry, ModbusMessage) and any(
        one.name == field and one.table == table and one.address + entry.codec.shift == address for one in entry.fields
    )


def _check_write(profile: Profile, vector: VectorEntry, settings: Mapping[str, float]) -> list[str]:
    """The requests that the profile plans for the vector's values."""
    if vector.values is None or vector.message is None:
        return ["a vector with `write` says which values are to be written"]
    try:
        planned = profile.plan_writes(vector.message, vector.values, settings=settings)
    except EncodeError as error:
        return [f"cannot be planned: {error}"]
    found = [(one.function, one.table, one.address, list(one.words)) for one in planned]
    wanted = [(one.function, one.table, one.address, one.words) for one in vector.wire.write or ()]
    return [] if found == wanted else [f"is planned as {found}, not as {wanted}"]
