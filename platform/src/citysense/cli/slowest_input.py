"""The search for the input that a decoder takes longest for: grown from real frames, mutated, the slowest kept.

Owns the search. It measures thread CPU time, so that a busy machine makes nothing look slow; each candidate counts with
its fastest run of several.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import cbor2

from citysense_profiles import DecodeError, EncodeError, Profile, load_vocabulary
from citysense_profiles.checking.round_trip import draw, drawn_settings
from citysense_profiles.checking.vector_check import frame_of

SIZE = 1024
RUNS = 3
RUNS_AT_THE_END = 25
DRAWINGS = 8
KEPT = 40
"""Slowest inputs that are mutated further."""
_CONTENTS = (None, 50, 60, 110, 112)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One input and the CPU time that decoding it took, in seconds."""

    profile: str
    message: str
    content: int | None
    payload: bytes
    seconds: float
    outcome: str


def search(
    profiles: Sequence[Profile], *, seconds: float, rng: random.Random, cpu: Callable[[], float] = time.thread_time
) -> tuple[Found, ...]:
    """The slowest inputs of at most 1 kB found within `seconds` of CPU time, slowest first."""
    targets = [(profile, message) for profile in profiles for message in profile.messages if profile.is_sent(message)]
    if not targets:
        return ()
    end = cpu() + seconds
    found: list[Found] = []
    for profile, message in targets:
        for payload in seeds(profile, message, rng):
            for content in _CONTENTS if payload[:1] in (b"[", b"{") or payload[:1] >= b"\x80" else (None,):
                found.append(measured(profile, message, content, payload, cpu))
    by_id = {profile.id: profile for profile in profiles}
    while cpu() < end:
        found = slowest(found)
        for parent in rng.choices(found, k=KEPT):
            payload = mutated(parent.payload, rng.choice(found).payload, rng)
            found.append(measured(by_id[parent.profile], parent.message, parent.content, payload, cpu))
    # A pause of the machine can hit all few runs of one input: what is reported is measured anew, and longer.
    again = [
        measured(by_id[one.profile], one.message, one.content, one.payload, cpu, RUNS_AT_THE_END)
        for one in slowest(found)
    ]
    return tuple(slowest(again))


def slowest(found: Sequence[Found]) -> list[Found]:
    """The slowest few, slowest first; two of a message at most, so that the search does not dwell on one."""
    of_message: dict[tuple[str, str], int] = {}
    kept = []
    for one in sorted(found, key=lambda one: -one.seconds):
        key = (one.profile, one.message)
        of_message[key] = of_message.get(key, 0) + 1
        if of_message[key] <= 2:
            kept.append(one)
        if len(kept) == KEPT:
            break
    return kept


def measured(
    profile: Profile, message: str, content: int | None, payload: bytes, cpu: Callable[[], float], runs: int = RUNS
) -> Found:
    """The fastest of several runs: what the input itself costs."""
    best, outcome = float("inf"), "readings"
    for _ in range(runs):
        start = cpu()
        try:
            profile.decode(payload, message=message, content=content)
        except DecodeError as error:
            outcome = error.code
        best = min(best, cpu() - start)
    return Found(profile=profile.id, message=message, content=content, payload=payload, seconds=best, outcome=outcome)


def seeds(profile: Profile, message: str, rng: random.Random) -> Iterator[bytes]:
    """Inputs to begin with: noise, real frames stretched to 1 kB, and documents that are all structure."""
    yield rng.randbytes(SIZE)
    yield bytes(SIZE)
    for vector in profile.vectors:
        frame = frame_of(vector)
        if not frame or vector.message not in (message, None):
            continue
        yield frame[:SIZE]
        yield (frame * (SIZE // len(frame) + 1))[:SIZE]
        for cut in (1, len(frame) // 2, len(frame) - 1):
            tail = frame[cut:] or frame
            yield (frame[:cut] + tail * SIZE)[:SIZE]
        if "json_" in vector.wire.model_fields_set:
            yield _listed(vector.wire.json_)
            yield _stretched(vector.wire.json_)
    yield from _drawn(profile, message, rng)
    yield b"[" * 30 + b"]" * 30
    yield b"[" + b",".join([b"{}"] * 341) + b"]"
    yield b"[" + b",".join([b"0"] * 511) + b"]"
    yield b'{"' + b"a" * (SIZE - 7) + b'":1}'
    yield b"9" * SIZE
    yield cbor2.dumps([{} for _ in range(1000)])
    yield cbor2.dumps([0] * 1000)


def _drawn(profile: Profile, message: str, rng: random.Random) -> Iterator[bytes]:
    """Frames of random values, check sums included; lists grown as far as 1 kB goes."""
    settings = drawn_settings(profile)
    for _ in range(DRAWINGS):
        try:
            values = draw(profile, message, rng, load_vocabulary(), settings)
            yield profile.encode_fields(message, values, settings=settings)[:SIZE]
            for times in (4, 16, 64, 256):
                longer = {name: value * times if isinstance(value, list) else value for name, value in values.items()}
                frame = profile.encode_fields(message, longer, settings=settings)
                if len(frame) > SIZE:
                    break
                yield frame
        except EncodeError:
            continue


def _listed(document: object) -> bytes:
    """As often as it goes into 1 kB."""
    items = document if isinstance(document, list) else [document]
    one = json.dumps(items[0], separators=(",", ":")).encode() if items else b"{}"
    return b"[" + b",".join([one] * max(1, (SIZE - 2) // (len(one) + 1))) + b"]"


def _stretched(document: object) -> bytes:
    """Every list inside made longer, as long as the whole fits."""
    best = json.dumps(document, separators=(",", ":")).encode()
    for times in (2, 4, 8, 16, 32, 64, 128, 256):
        longer = json.dumps(_repeated(document, times), separators=(",", ":")).encode()
        if len(longer) > SIZE:
            break
        best = longer
    return best[:SIZE]


def _repeated(node: object, times: int) -> object:
    if isinstance(node, list):
        return [_repeated(item, times) for item in node] * times
    if isinstance(node, dict):
        return {key: _repeated(value, times) for key, value in node.items()}
    return node


def mutated(payload: bytes, other: bytes, rng: random.Random) -> bytes:
    """A neighbour of `payload`: bytes changed, a piece repeated, or a piece of `other` put in. At most 1 kB."""
    data = bytearray(payload or b"\0")
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(data) + 1)
        size = rng.randint(1, 64)
        match rng.randrange(4):
            case 0:
                data[at : at + 1] = rng.randbytes(1)
            case 1:
                piece = data[at : at + size] or data[:size]
                data[at:at] = piece * rng.randint(1, 8)
            case 2:
                start = rng.randrange(len(other) + 1)
                data[at:at] = other[start : start + size]
            case _:
                del data[at : at + size]
    return bytes(data[:SIZE]) or b"\0"
