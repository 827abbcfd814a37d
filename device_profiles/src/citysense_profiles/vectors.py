"""The worked examples inside a profile: do its frames say what the author claims, and come back the same?

Owns running them and putting differences into sentences. The same check serves our tests and a vendor's desk.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from citysense_profiles.codecs.concise import read_json, write_cbor, write_json
from citysense_profiles.errors import DecodeError, EncodeError
from citysense_profiles.model import VectorEntry
from citysense_profiles.profile import Profile
from citysense_profiles.reading import Decoded, Sample

_COUNTERS = ("boot", "seq", "base", "serial")


def check_profile(profile: Profile) -> list[str]:
    """Everything wrong with the examples of a profile, one sentence each; empty if all is well."""
    faults = [f"{vector.name}: {fault}" for vector in profile.vectors for fault in check_vector(profile, vector)]
    shown = {vector.message for vector in profile.vectors if vector.samples is not None}
    faults += [f"message {name} has no vector that shows it" for name in profile.messages if name not in shown]
    if not any(vector.error for vector in profile.vectors):
        faults.append("no vector shows a frame that must be refused")
    return faults


def check_vector(profile: Profile, vector: VectorEntry) -> list[str]:
    """What differs between a vector and what the profile makes of its frame."""
    try:
        decoded = _decode(profile, vector, named=vector.message is not None and vector.error is not None)
    except DecodeError as error:
        if vector.error is None:
            return [f"does not decode: {error}"]
        return [] if error.code == vector.error else [f"raises {error.code}, not {vector.error}: {error}"]
    if vector.error is not None:
        return [f"must raise {vector.error} and says {decoded}"]
    faults = _differences(vector, decoded)
    return faults or _round_trip(profile, vector, decoded)


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


def _decode(profile: Profile, vector: VectorEntry, *, named: bool) -> Decoded:
    message = vector.message if named or _needs_name(profile, vector) else None
    if vector.wire.registers is not None:
        return profile.decode_registers(registers_of(vector), message=message, settings=vector.settings)
    return profile.decode(frame_of(vector), message=message, content=vector.content, settings=vector.settings)


def _needs_name(profile: Profile, vector: VectorEntry) -> bool:
    """Messages downward are never chosen by their looks; of several maps the first is taken unless named."""
    return vector.wire.registers is not None or (vector.message is not None and not profile.is_upward(vector.message))


def _differences(vector: VectorEntry, decoded: Decoded) -> list[str]:
    faults = []
    if decoded.message != vector.message:
        faults.append(f"is taken for message {decoded.message}")
    for name in _COUNTERS:
        if getattr(decoded, name) != getattr(vector, name):
            faults.append(f"{name} is {getattr(decoded, name)!r}, not {getattr(vector, name)!r}")
    wanted = vector.samples or []
    if len(decoded.samples) != len(wanted):
        return [*faults, f"has {len(decoded.samples)} samples, not {len(wanted)}"]
    for index, (sample, want) in enumerate(zip(decoded.samples, wanted, strict=True)):
        for name in ("time", "event", "tag"):
            if getattr(sample, name) != getattr(want, name):
                faults.append(f"sample {index}: {name} is {getattr(sample, name)!r}, not {getattr(want, name)!r}")
        if sorted(sample.missing) != sorted(want.missing):
            faults.append(f"sample {index}: missing is {sorted(sample.missing)}, not {sorted(want.missing)}")
        faults += [f"sample {index}: {fault}" for fault in _other_values(sample.values, want.values, vector.tolerance)]
    return faults


def _other_values(found: Mapping[str, Any], wanted: Mapping[str, Any], tolerance: float) -> list[str]:
    faults = [f"{name} is {found[name]!r}, which the vector lacks" for name in found if name not in wanted]
    for name, want in wanted.items():
        if name not in found:
            faults.append(f"{name} is not there, {want!r} is wanted")
        elif not _same(found[name], want, tolerance):
            faults.append(f"{name} is {found[name]!r}, not {want!r}")
    return faults


def _same(found: Any, wanted: Any, tolerance: float) -> bool:
    if isinstance(found, bool) or isinstance(wanted, bool) or isinstance(found, str) or isinstance(wanted, str):
        return type(found) is type(wanted) and bool(found == wanted)
    return bool(abs(found - wanted) <= tolerance)


def _round_trip(profile: Profile, vector: VectorEntry, decoded: Decoded) -> list[str]:
    """Encoding what was decoded says the same again, byte for byte where the vector is in canonical form."""
    if len(decoded.samples) != 1:
        return []  # encode writes one moment
    sample = decoded.samples[0]
    values = {**sample.values, **dict.fromkeys(sample.missing)}
    try:
        if vector.wire.registers is not None:
            return _registers_again(profile, vector, values)
        again = _encode(profile, decoded, sample, vector.content)
        second = profile.decode(again, message=vector.message, content=vector.content, settings=vector.settings)
    except (DecodeError, EncodeError) as error:
        return [f"does not come back: {error}"]
    if second != decoded:
        return [f"comes back as {second}, not as {decoded}"]
    if not vector.canonical or _document(again, vector) == _document(frame_of(vector), vector):
        return []
    return [f"is encoded as {again.hex(' ')}"]


def _encode(profile: Profile, decoded: Decoded, sample: Sample, content: int | None) -> bytes:
    return profile.encode(
        decoded.message,
        {**sample.values, **dict.fromkeys(sample.missing)},
        content=content,
        time=sample.time,
        boot=decoded.boot,
        seq=decoded.seq,
        base=decoded.base,
        tag=sample.tag,
        serial=decoded.serial,
    )


def _registers_again(profile: Profile, vector: VectorEntry, values: Mapping[str, Any]) -> list[str]:
    again = profile.encode_registers(values, message=vector.message)
    if not vector.canonical or again == registers_of(vector):
        return []
    return [f"is encoded as {again}"]


def _document(frame: bytes, vector: VectorEntry) -> Any:
    """JSON is compared as a document, since the order of keys has no meaning; bytes are bytes."""
    return read_json(frame) if "json_" in vector.wire.model_fields_set else frame
