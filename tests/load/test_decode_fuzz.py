"""Sixty seconds of random bytes into every decoder, with another seed every time."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import cbor2
import hypothesis
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from citysense_profiles import Profile
from citysense_profiles.checking.vector_check import frame_of

SECONDS = float(os.environ.get("CITYSENSE_FUZZ_SECONDS", "60"))
EXAMPLES_A_ROUND = 40


def _target() -> ModuleType:
    """The file beside this one; tests are no package, so it is loaded by its path."""
    spec = spec_from_file_location("decode_fuzz_target", Path(__file__).with_name("decode_fuzz_target.py"))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


TARGET = _target()

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=4)
documents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


def _json(document: object) -> bytes:
    return json.dumps(document, default=lambda data: data.hex()).encode()


@st.composite
def damaged(draw: st.DrawFn, frames: list[bytes]) -> bytes:
    """A real frame with bytes changed, cut, repeated."""
    frame = bytearray(draw(st.sampled_from(frames)))
    for _ in range(draw(st.integers(0, 3))):
        if frame:
            frame[draw(st.integers(0, len(frame) - 1))] = draw(st.integers(0, 255))
    if draw(st.booleans()):
        del frame[draw(st.integers(0, len(frame))) :]
    if draw(st.booleans()):
        at = draw(st.integers(0, len(frame)))
        frame[at:at] = frame[at : at + draw(st.integers(0, 20))]
    return bytes(frame)


def _payloads(profile: Profile) -> st.SearchStrategy[bytes]:
    frames = [frame for frame in map(frame_of, profile.vectors) if frame] or [b"\0"]
    noise = st.binary(max_size=80)
    whole = documents.map(_json) | documents.map(cbor2.dumps)
    return st.one_of(damaged(frames), damaged(frames), noise, whole)


def _rounds(seconds: float) -> Iterator[int]:
    """Seeds for as long as there is time; the first one comes from the system, and is printed when something fails."""
    first = int(os.environ.get("CITYSENSE_FUZZ_SEED", "0")) or int.from_bytes(os.urandom(4), "big")
    end = time.monotonic() + seconds
    seed = first
    while seed == first or time.monotonic() < end:
        yield seed
        seed += 1


def _round(profile: Profile, messages: list[str], seed: int) -> None:
    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=EXAMPLES_A_ROUND, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(
        payload=_payloads(profile),
        message=st.sampled_from([*messages, None]),
        content=st.sampled_from(TARGET.CONTENTS),
    )
    def one_round(payload: bytes, message: str | None, content: int | None) -> None:
        TARGET.check(profile, message, payload, content)

    one_round()


def test_any_bytes_are_decoded_or_refused_and_both_ways_agree() -> None:
    profiles = list({profile.id: profile for profile, _ in TARGET.TARGETS}.values())
    share = SECONDS / (len(profiles) + 1)
    for profile in profiles:
        messages = [name for name in profile.messages if profile.is_sent(name)]
        for seed in _rounds(share):
            try:
                _round(profile, messages, seed)
            except BaseException as error:
                error.add_note(f"profile {profile.id}; repeat with CITYSENSE_FUZZ_SEED={seed}")
                raise


def test_any_registers_are_decoded_or_refused_and_both_ways_agree() -> None:
    maps = TARGET.MAPS
    assert maps
    for seed in _rounds(SECONDS / 20):

        @hypothesis.seed(seed)
        @hypothesis.settings(max_examples=EXAMPLES_A_ROUND, deadline=None, database=None)
        @given(which=st.sampled_from(range(len(maps))), data=st.binary(max_size=300))
        def one_round(which: int, data: bytes) -> None:
            profile, message = maps[which]
            TARGET.check_registers(profile, message, TARGET.registers_from(profile, message, data))

        one_round()


@pytest.mark.parametrize("data", [b"", b"\0\0", b"\0\0\0{}", b"\x01\x02\x43\xff", b"\0\0\x80" + bytes(40)])
def test_the_long_runs_drive_the_same_check(data: bytes) -> None:
    TARGET.fuzz_one_input(data)


def test_long_runs_begin_with_frames_that_decode() -> None:
    seeds = list(TARGET.seed_inputs())
    assert len(seeds) > 300
    for data in seeds:
        TARGET.fuzz_one_input(data)
