"""Any bytes into any decoder: readings and values by name, or a DecodeError that says where; nothing else, both alike.

Owns the one function that fuzzers drive. Run by itself with atheris for as long as you like; the folder is filled with
the frames of all vectors first:

    python -m pip install atheris
    python tests/load/decode_fuzz_target.py -max_len=1024 [-max_total_time=3600] CORPUS_FOLDER
"""

from __future__ import annotations

import gc
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

from citysense_profiles import Decoded, DecodeError, Named, Profile, load_catalogue
from citysense_profiles.checking.vector_check import frame_of

CONTENTS = (None, 42, 50, 60, 110, 112)
CODES = frozenset({"no_match", "truncated", "trailing", "checksum", "shape", "value", "unit", "encoding"})

_CATALOGUE = load_catalogue()
TARGETS: tuple[tuple[Profile, str], ...] = tuple(
    (profile, message) for profile in _CATALOGUE for message in profile.messages if profile.is_sent(message)
)
MAPS: tuple[tuple[Profile, str], ...] = tuple(
    (profile, message) for profile in _CATALOGUE for message in profile.messages if not profile.is_sent(message)
)


def check(profile: Profile, message: str | None, payload: bytes, content: int | None = None) -> str:
    """What became of the bytes: "readings" or the error's code. Raises AssertionError where a promise is broken."""
    try:
        decoded = profile.decode(payload, message=message, content=content)
    except DecodeError as error:
        outcome = _told(profile, error)
    else:
        outcome = "readings"
        assert isinstance(decoded, Decoded)
        for sample in decoded.samples:
            assert set(sample.values) <= profile.metrics, sample
            assert not set(sample.values) & set(sample.missing), sample
            assert sample.time is None or sample.time >= 0, sample
    if message is not None:
        assert _by_name(profile, message, payload, content) == outcome, (profile.id, message, payload.hex(), outcome)
    return outcome


def _by_name(profile: Profile, message: str, payload: bytes, content: int | None) -> str:
    try:
        named = profile.decode_fields(payload, message=message, content=content)
    except DecodeError as error:
        return _told(profile, error)
    assert isinstance(named, Named)
    assert named.values.keys() == named.where.keys()
    assert named.values.keys() <= {field.name for field in profile.fields(message)}
    return "readings"


def _told(profile: Profile, error: DecodeError) -> str:
    assert error.code in CODES
    assert error.profile == profile.id
    assert error.text
    assert error.offset is None or error.offset >= 0
    return error.code


def check_registers(profile: Profile, message: str, words: dict[tuple[str, int], int]) -> str:
    """The same for polled registers."""
    try:
        decoded = profile.decode_registers(words, message=message)
    except DecodeError as error:
        outcome = _told(profile, error)
    else:
        outcome = "readings"
        assert all(set(sample.values) <= profile.metrics for sample in decoded.samples)
    try:
        profile.decode_register_fields(words, message=message)
    except DecodeError as error:
        assert _told(profile, error) == outcome, (profile.id, message, words, outcome)
    else:
        assert outcome == "readings", (profile.id, message, words, outcome)
    return outcome


def fuzz_one_input(data: bytes) -> None:
    """The first three bytes choose profile, message and content format; the rest is the frame, or the registers."""
    if len(data) < 3:
        return
    choice = int.from_bytes(data[:2], "big")
    if data[2] & 0x80 and MAPS:
        profile, message = MAPS[choice % len(MAPS)]
        check_registers(profile, message, registers_from(profile, message, data[3:]))
        return
    profile, message = TARGETS[choice % len(TARGETS)]
    named = None if data[2] & 0x40 else message
    check(profile, named, data[3:], CONTENTS[data[2] % len(CONTENTS)])


def registers_from(profile: Profile, message: str, data: bytes) -> dict[tuple[str, int], int]:
    """Registers of the map's own plan, filled with the bytes as far as they go."""
    words: dict[tuple[str, int], int] = {}
    at = 0
    for read in profile.plan_reads(message):
        for address in range(read.address, read.address + read.count):
            if at + 2 > len(data):
                return words
            word = int.from_bytes(data[at : at + 2], "big")
            words[(read.table, address)] = word & 1 if read.table in ("coil", "discrete") else word
            at += 2
    return words


def seed_inputs() -> Iterator[bytes]:
    """The published frames, each for its own message: where a fuzzer had best begin."""
    for at, (profile, message) in enumerate(TARGETS):
        for vector in profile.vectors:
            if vector.message == message and (frame := frame_of(vector)):
                yield at.to_bytes(2, "big") + bytes([0]) + frame


def _fuzz(arguments: list[str]) -> None:
    import atheris  # not among the product's dependencies

    for folder in (Path(argument) for argument in arguments[1:] if not argument.startswith("-")):
        folder.mkdir(parents=True, exist_ok=True)
        for data in seed_inputs():
            (folder / hashlib.sha256(data).hexdigest()[:32]).write_bytes(data)
    gc.unfreeze()  # instrument_all looks for functions among what the collector knows
    atheris.instrument_all()
    atheris.Setup(arguments, fuzz_one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    _fuzz(sys.argv)
