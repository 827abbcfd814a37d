"""What chance does to a profile: drawn values must come back, and no bytes may cause anything but an answer or a refusal.

Owns the two experiments and their sentences. Deterministic: all chance comes from the `Random` that the caller gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from random import Random
from typing import Any

from citysense_profiles.checking.round_trip import Frame, draw, drawn_settings, encoded
from citysense_profiles.checking.vector_check import differences, frame_of, registers_of
from citysense_profiles.errors import DecodeCode, DecodeError, EncodeError, SettingError
from citysense_profiles.format.profile_file import NativeMessage, SenmlMessage
from citysense_profiles.options import variants
from citysense_profiles.profile import Profile
from citysense_profiles.vocabulary import Vocabulary

_DRAWINGS = 12
_DRAWINGS_OF_A_VARIANT = 2
_HOSTILE_FRAMES = 25
_NEARLY = 1e-6


def check_chance(profile: Profile, random: Random, vocabulary: Vocabulary) -> list[str]:
    """Faults that drawn values and damaged frames bring up, in every variant that the options give."""
    faults = []
    for chosen in variants(profile.options):
        try:
            fitted = profile.fitted(chosen)
        except SettingError as error:
            faults.append(f"options {chosen}: {error}")
            continue
        default = fitted is profile
        where = "" if default else f"with {chosen}: "
        for message in fitted.messages:
            count = _DRAWINGS if default else _DRAWINGS_OF_A_VARIANT
            faults += [
                f"{where}message {message}: {fault}" for fault in _drawn(fitted, message, random, vocabulary, count)
            ]
        if default:
            faults += list(_damaged(fitted, random))
    return faults


# --- values that come back


def _drawn(profile: Profile, message: str, random: Random, vocabulary: Vocabulary, count: int) -> Iterator[str]:
    """Drawn values come back from the wire, and what came back is written as the same bytes."""
    settings = drawn_settings(profile)
    for _ in range(count):
        try:
            values = draw(profile, message, random, vocabulary, settings)
        except EncodeError as error:
            yield f"no values could be drawn that it can carry: {error}"
            return
        if profile.file.messages[message].direction == "down" and not profile.is_sent(message):
            continue  # a command to registers: what it writes need not be all of a map that can be read back
        content = random.choice(_contents(profile, message))
        frame = encoded(profile, message, values, settings, content)
        try:
            found = values_of(profile, message, frame, settings, content)
        except DecodeError as error:
            yield f"{values} is encoded as {_shown(frame)}, which does not decode: {error}"
            return
        faults = [fault for fault in differences(found, values, _NEARLY) if "which the vector lacks" not in fault]
        if faults:
            yield f"{values} is encoded as {_shown(frame)} and comes back otherwise: {'; '.join(faults)}"
            return
        again = encoded(profile, message, found, settings, content)
        if again != frame:
            yield f"{_shown(frame)} says {found}, which is written as {_shown(again)}"
            return


def _contents(profile: Profile, message: str) -> tuple[int | None, ...]:
    entry = profile.file.messages[message]
    return (50, 60) if isinstance(entry, NativeMessage) else (110, 112) if isinstance(entry, SenmlMessage) else (None,)


def values_of(
    profile: Profile, message: str, frame: Frame, settings: Mapping[str, float], content: int | None
) -> Mapping[str, Any]:
    if isinstance(frame, bytes):
        return profile.decode_fields(frame, message=message, content=content, settings=settings).values
    return profile.decode_register_fields(frame, message=message, settings=settings).values


def _shown(frame: Frame) -> str:
    return frame.hex(" ") if isinstance(frame, bytes) else str(frame)


# --- bytes that nobody meant


def _damaged(profile: Profile, random: Random) -> Iterator[str]:
    """Whatever the bytes, readings and values by name agree on taking or refusing them, and on the reason."""
    settings = drawn_settings(profile)
    frames = [frame for frame in map(frame_of, profile.vectors) if frame]
    maps = [words for words in map(registers_of, profile.vectors) if words]
    for message in profile.messages:
        harm: Callable[[], Frame]
        if profile.is_sent(message):
            faces: list[Callable[..., object]] = [profile.decode, profile.decode_fields]
            harm = partial(_harmed, frames, random)
        elif maps:
            faces = [profile.decode_registers, profile.decode_register_fields]
            harm = partial(_mixed, maps, random)
        else:
            continue
        for _ in range(_HOSTILE_FRAMES):
            frame = harm()
            readings, by_name = (_outcome(partial(face, frame, message=message, settings=settings)) for face in faces)
            if readings != by_name:
                yield f"message {message}: readings say {readings} of {_shown(frame)}, values by name say {by_name}"
                break


def _harmed(frames: Sequence[bytes], random: Random) -> bytes:
    """A frame with some bytes changed, often cut; sometimes any bytes at all."""
    if not frames or random.random() < 0.2:
        return random.randbytes(random.randint(0, 60))
    harmed = bytearray(random.choice(frames))
    for _ in range(random.randint(1, 3)):
        harmed[random.randrange(len(harmed))] = random.randrange(256)
    return bytes(harmed[: random.randint(0, len(harmed))]) if random.random() < 0.3 else bytes(harmed)


def _mixed(maps: Sequence[Mapping[tuple[str, int], int]], random: Random) -> dict[tuple[str, int], int]:
    """Registers of which some hold any word."""
    return {key: random.choice([word, random.randrange(65536)]) for key, word in random.choice(maps).items()}


def _outcome(decode: Callable[[], object]) -> DecodeCode | None:
    """None: taken; else why not."""
    try:
        decode()
    except DecodeError as error:
        return error.code
    return None
