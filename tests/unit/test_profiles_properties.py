"""What holds for every profile: values come back from the wire, and no bytes cause anything but Decoded or DecodeError."""

from __future__ import annotations

import json
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from citysense_profiles import Decoded, DecodeError, EncodeError, Profile, Value, load_catalogue, load_vocabulary
from citysense_profiles.catalogue import OWN_CATALOGUE, load_profile
from citysense_profiles.vectors import frame_of
from citysense_profiles.vocabulary import Metric, ValueType

PROFILES = {profile.id: profile for profile in load_catalogue()}
EXAMPLE = load_profile(OWN_CATALOGUE / "_example/level-gauge.yaml", OWN_CATALOGUE)
PROFILES[EXAMPLE.id] = EXAMPLE
VOCABULARY = load_vocabulary()
TIMES = st.integers(2**28, 4_000_000_000).map(lambda seconds: seconds * 1000)
SENT = [(profile.id, name) for profile in PROFILES.values() for name in profile.messages if profile.is_sent(name)]
POLLED = [profile.id for profile in PROFILES.values() if profile.plan_reads()]

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
documents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from(
    ["boot", "seq", "v", "t", "base", "n", "bn", "bt", "vs", "vb", "u", "eventType", "tagInventoryEvent"]
)
likely = st.dictionaries(KEYS, scalars | documents, max_size=6)


def _value(metric: Metric) -> st.SearchStrategy[Value]:
    """Values that any field can carry to within its rounding."""
    if metric.type is ValueType.NUMBER:
        low = 0.0 if metric.low is None else metric.low
        high = 60.0 if metric.high is None else metric.high
        # Signal levels lie below zero and fit a signed field; the rest fits an unsigned byte of half degrees, too.
        low, high = (max(low, -100.0), high) if high <= 0 else (max(low, 0.0), min(high, max(low, 0.0) + 60.0))
        return st.integers(int(low), int(high)).map(float)
    if metric.type is ValueType.BOOLEAN:
        return st.booleans()
    if metric.type is ValueType.INTEGER:
        return st.integers(0, 3)
    return st.sampled_from(sorted(metric.values)) if metric.values else st.text("abc", max_size=5)


def _carried(profile: Profile, metric: Metric) -> st.SearchStrategy[Value]:
    """Of a closed list, the values that the profile's map knows."""
    known = []
    for value in sorted(metric.values or ()):
        try:
            profile.encode_registers({metric.name: value})
        except EncodeError:
            continue
        known.append(value)
    return st.sampled_from(known) if metric.values else _value(metric)


def _roles(data: st.DataObject, profile: Profile) -> dict[str, Any]:
    digits = data.draw(st.integers(10**13, 10**14 - 1).map(str))
    return {
        "time": data.draw(TIMES),
        "boot": data.draw(st.integers(0, 100)),
        "seq": data.draw(st.integers(0, 100)),
        "tag": data.draw(st.binary(min_size=2, max_size=12)).hex().upper(),
        "serial": digits[:6] if profile.id.startswith("_example") else digits,
    }


@pytest.mark.parametrize(("profile_id", "message"), SENT)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_what_is_encoded_comes_back(profile_id: str, message: str, data: st.DataObject) -> None:
    profile = PROFILES[profile_id]
    metrics = sorted(profile.message_metrics(message))
    values = {name: data.draw(_value(VOCABULARY.metric(name)), label=name) for name in metrics}
    roles = _roles(data, profile)
    first = profile.decode(_encoded(profile, message, values, roles, data), message=message)
    (sample,) = first.samples
    assert set(sample.values) == set(metrics)
    again = profile.encode(
        message, sample.values, time=sample.time, boot=first.boot, seq=first.seq, tag=sample.tag, serial=first.serial
    )
    assert profile.decode(again, message=message) == first
    # The coarsest field counts whole hours, all others halves at least; vectors hold them to the byte.
    for name, value in values.items():
        if isinstance(value, float):
            assert sample.values[name] == pytest.approx(value, abs=3600.0 if name.startswith("config.") else 0.5)
        else:
            assert sample.values[name] == value


def _encoded(
    profile: Profile, message: str, values: dict[str, Value], roles: dict[str, Any], data: st.DataObject
) -> bytes:
    content = data.draw(st.sampled_from([None, 50, 60, 110, 112]))
    return profile.encode(message, values, content=content, **roles)


@pytest.mark.parametrize("profile_id", POLLED)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_registers_come_back(profile_id: str, data: st.DataObject) -> None:
    profile = PROFILES[profile_id]
    (message,) = profile.messages
    values = {
        name: data.draw(_carried(profile, VOCABULARY.metric(name)), label=name) for name in sorted(profile.metrics)
    }
    registers = profile.encode_registers(values)
    assert profile.decode_registers(registers).samples[0].values == values
    planned = {(read.table, read.address + step) for read in profile.plan_reads(message) for step in range(read.count)}
    assert set(registers) <= planned


def _decoded_or_refused(profile: Profile, payload: bytes, message: str | None, content: int | None) -> None:
    try:
        decoded = profile.decode(payload, message=message, content=content, settings={"mount.height": 250.0})
    except DecodeError as error:
        assert error.profile == profile.id
        assert str(error)
    else:
        assert isinstance(decoded, Decoded)
        for sample in decoded.samples:
            assert set(sample.values) <= profile.metrics
            assert sample.time is None or sample.time >= 0


payloads = st.one_of(
    st.binary(max_size=40),
    documents.map(lambda document: json.dumps(document).encode()),
    documents.map(cbor2.dumps),
    likely.map(lambda document: json.dumps(document).encode()),
    st.lists(likely, max_size=3).map(lambda document: json.dumps(document).encode()),
    st.lists(likely, max_size=3).map(cbor2.dumps),
    st.lists(st.dictionaries(st.integers(-6, 9), scalars, max_size=5), max_size=3).map(cbor2.dumps),
)


@pytest.mark.parametrize("profile_id", sorted(PROFILES))
@given(payload=payloads, data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_decoded_or_refused(profile_id: str, payload: bytes, data: st.DataObject) -> None:
    profile = PROFILES[profile_id]
    message = data.draw(st.sampled_from([None, *profile.messages]))
    _decoded_or_refused(profile, payload, message, data.draw(st.sampled_from([None, 50, 60, 110, 112, 42])))


@pytest.mark.parametrize("profile_id", sorted(PROFILES))
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_damaged_frames_are_decoded_or_refused(profile_id: str, data: st.DataObject) -> None:
    profile = PROFILES[profile_id]
    frames = [frame for frame in (frame_of(vector) for vector in profile.vectors) if frame] or [b"\x00"]
    frame = bytearray(data.draw(st.sampled_from(frames)))
    for _ in range(data.draw(st.integers(1, 3))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(frame[: data.draw(st.integers(0, len(frame)))])
    message = data.draw(st.sampled_from([None, *profile.messages]))
    _decoded_or_refused(profile, damaged, message, data.draw(st.sampled_from([None, 50, 60])))


@pytest.mark.parametrize("profile_id", POLLED)
@given(
    registers=st.dictionaries(
        st.tuples(st.sampled_from(["input", "holding", "coil"]), st.integers(95, 140) | st.integers(0, 6)),
        st.integers(-1, 70000),
        max_size=60,
    )
)
@settings(max_examples=100, deadline=None)
def test_any_registers_are_decoded_or_refused(profile_id: str, registers: dict[tuple[str, int], int]) -> None:
    profile = PROFILES[profile_id]
    try:
        decoded = profile.decode_registers(registers)
    except DecodeError as error:
        assert error.code in ("no_match", "value")
    else:
        assert set(decoded.samples[0].values) <= profile.metrics


@pytest.mark.parametrize(("profile_id", "message"), SENT)
@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_any_values_are_encoded_or_refused(profile_id: str, message: str, data: st.DataObject) -> None:
    profile = PROFILES[profile_id]
    names = st.sampled_from(sorted(profile.metrics)) | st.text(max_size=4)
    values = data.draw(st.dictionaries(names, scalars, max_size=5))
    roles: dict[str, Any] = {
        "time": data.draw(st.none() | st.integers(-(10**6), 10**16)),
        "boot": data.draw(st.none() | st.integers(-1, 2**70)),
        "seq": data.draw(st.none() | st.integers(-1, 2**70)),
        "tag": data.draw(st.none() | st.text(max_size=4)),
        "serial": data.draw(st.none() | st.text(max_size=4)),
    }
    try:
        frame = profile.encode(message, values, content=data.draw(st.sampled_from([None, 60])), **roles)
    except EncodeError as error:
        assert str(error)
    else:
        assert profile.decode(frame, message=message).message == message
