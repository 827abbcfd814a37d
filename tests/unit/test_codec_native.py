"""Native messages by example and at random: what they read, what they refuse and with which code, what they write."""

from __future__ import annotations

import json
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from citysense_profiles.codecs.contract import Derivation, Finish, Place
from citysense_profiles.codecs.documents.concise import MAX_DEPTH, UnreadableError, read_cbor, read_json
from citysense_profiles.codecs.documents.native import NativeCodec
from citysense_profiles.codecs.field import Outgoing, by_name
from citysense_profiles.compiler import parse_profile
from citysense_profiles.errors import DecodeError, EncodeError
from citysense_profiles.vocabulary import load_vocabulary

VOCABULARY = load_vocabulary()
METRICS = ("water.level", "water.distance", "battery.voltage", "gauge.tilted", "pile.connector")
FINISH = Finish(
    event=None,
    event_metrics=frozenset(),
    derivations=(Derivation("water.level", "mount.height", "water.distance"),),
)
CODEC = NativeCodec(Place("acme/gauge", "report"), FINISH, tuple(VOCABULARY.metric(name) for name in METRICS))
REPORT = {
    "boot": 3,
    "seq": 41,
    "t": 1795190934423,
    "v": {"water.level": 12.3, "battery.voltage": None, "gauge.tilted": True},
    "base": 39,
}


def _encoded(values: dict[str, Any], content: int | None = None) -> bytes:
    return CODEC.encode_fields(values, content, {})


def _code(payload: bytes, content: int | None = None) -> str:
    with pytest.raises(DecodeError) as caught:
        CODEC.decode(payload, content, {})
    with pytest.raises(DecodeError) as named:
        CODEC.decode_fields(payload, content, {})
    assert named.value.code == caught.value.code
    return caught.value.code


def test_the_documented_object_by_name() -> None:
    named = CODEC.decode_fields(json.dumps(REPORT).encode(), 50, {})
    assert named.values == {
        "boot": 3,
        "seq": 41,
        "t": 1795190934423,
        "base": 39,
        "water.level": 12.3,
        "battery.voltage": None,
        "gauge.tilted": True,
    }
    assert (named.where["boot"], named.where["water.level"]) == ("/boot", "/v/water.level")
    assert json.loads(_encoded(dict(named.values))) == REPORT
    assert cbor2.loads(_encoded(dict(named.values), 60)) == REPORT
    assert {field.name for field in CODEC.fields} == {"boot", "seq", "t", "base", *METRICS}


def test_readings_become_the_same_object() -> None:
    outgoing = Outgoing(
        values={"water.level": 12.3, "battery.voltage": None, "gauge.tilted": True},
        boot=3,
        seq=41,
        base=39,
        time=1795190934423,
    )
    assert json.loads(_encoded(by_name(outgoing, CODEC.fields))) == REPORT


@pytest.mark.parametrize(
    "document",
    [
        {"boot": 1, "seq": 1},
        {"boot": 1.5, "seq": 1, "v": {}},
        {"boot": True, "seq": 1, "v": {}},
        {"boot": 2**53, "seq": 1, "v": {}},
        {"boot": 1, "seq": 1, "v": []},
        {"boot": 1, "seq": 1, "v": {"water.level": [1]}},
        {"boot": 1, "seq": 1, "v": {"water.level": True}},
        {"boot": 1, "seq": 1, "v": {"gauge.tilted": 1}},
        {"boot": 1, "seq": 1, "v": {"water.depth": None}},
        {"boot": 1, "seq": 1, "v": {"pile.connector": 1.5}},
        {"boot": 1, "seq": 1, "v": {}, "t": 1.5},
        {"boot": 1, "seq": 1, "v": {}, "t": 2**52},
        {"boot": 1, "seq": 1, "v": {}, "base": 2},
        {"boot": 1, "seq": 1, "v": {}, "extra": 1},
        [1],
        3,
    ],
)
def test_another_shape_is_refused(document: object) -> None:
    assert _code(json.dumps(document).encode(), 50) == "shape"
    assert _code(cbor2.dumps(document), 60) == "shape"


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_numbers_are_finite(number: float) -> None:
    assert _code(cbor2.dumps({"boot": 1, "seq": 1, "v": {"water.level": number}})) == "shape"
    assert _code(json.dumps({"boot": 1, "seq": 1, "v": {"water.level": number}}).encode()) == "encoding"
    assert _code(b'{"boot":1,"seq":1,"v":{"water.level":1e999}}') == "shape"


def test_content_format_decides_before_the_first_byte() -> None:
    frame = _encoded({"boot": 1, "seq": 2})
    for payload, content in ((frame, None), (frame, 50), (b" \n" + frame, None)):
        assert CODEC.decode(payload, content, {}).seq == 2
    assert _code(frame, 60) == "encoding"
    assert _code(cbor2.dumps({"boot": 1, "seq": 2, "v": {}}), 50) == "encoding"


def test_numbers_are_floats_and_a_message_without_values_has_no_sample() -> None:
    (sample,) = CODEC.decode(b'{"boot":1,"seq":2,"v":{"water.level":12}}', None, {}).samples
    assert type(sample.values["water.level"]) is float
    empty = CODEC.decode(b'{"boot":1,"seq":2,"v":{}}', None, {})
    assert (empty.samples, empty.boot, empty.seq) == ((), 1, 2)


def test_a_level_is_derived_only_where_it_is_not_sent() -> None:
    settings = {"mount.height": 250.0}

    def values(given: dict[str, Any], known: dict[str, float]) -> dict[str, Any]:
        (sample,) = CODEC.decode(_encoded({"boot": 1, "seq": 0, **given}), None, known).samples
        return {**sample.values, **dict.fromkeys(sample.missing)}

    assert "water.level" not in values({"water.distance": 211.6}, {})
    assert values({"water.distance": 211.6}, settings)["water.level"] == 38.4
    assert values({"water.distance": 211.6, "water.level": 1.0}, settings)["water.level"] == 1.0
    assert values({"water.distance": None}, settings) == {"water.distance": None, "water.level": None}


@pytest.mark.parametrize(
    "payload", [b"", b"{", b"[" * 100_000, b"\x81" * 100_000, b"\xff", b'{"boot":1,"x":' + b"[" * 100_000]
)
def test_no_document_at_all(payload: bytes) -> None:
    for content in (None, 50, 60):
        assert _code(payload, content) in ("encoding", "shape")


@pytest.mark.parametrize(
    "payload",
    [
        bytes.fromhex("d81c80"),  # a shared value
        bytes.fromhex("c11a5fc8f0a0"),  # a date
        bytes.fromhex("c2420100"),  # a big number
        bytes.fromhex("da00010000"),  # a tag nobody knows
        bytes.fromhex("a00b"),  # something after the document
        bytes.fromhex("a2616101616102"),  # a key twice
        bytes.fromhex("9bffffffffffffffff"),  # a list longer than the frame
        bytes.fromhex("ff"),
        b"",
        b"\x81" * (MAX_DEPTH + 1) + b"\x00",
        b"\x81" * 100_000,
    ],
)
def test_cbor_that_no_device_would_send(payload: bytes) -> None:
    with pytest.raises(UnreadableError):
        read_cbor(payload)


def test_cbor_may_be_as_deep_as_devices_need() -> None:
    assert read_cbor(b"\x81" * (MAX_DEPTH - 1) + b"\x00") is not None


@given(st.binary(max_size=64))
def test_any_bytes_are_a_document_or_refused(payload: bytes) -> None:
    for read in (read_cbor, read_json):
        try:
            read(payload)
        except UnreadableError as error:
            assert str(error)


# Hypothesis' own alphabet takes seconds to build in a fresh checkout, which its health check then holds against us.
LETTERS = st.integers(0, 0xD7FF).map(chr)


@given(
    st.dictionaries(
        st.sampled_from(METRICS),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(LETTERS, max_size=3),
    ),
    st.integers(0, 2**53 - 1),
    st.none() | st.integers(0, 253_402_300_799_999),
    st.sampled_from([50, 60]),
)  # fmt: skip
def test_both_faces_agree_and_lead_back(values: dict[str, Any], seq: int, time: int | None, content: int) -> None:
    document = {"boot": 1, "seq": seq, "v": values} | ({} if time is None else {"t": time})
    try:
        frame = cbor2.dumps(document) if content == 60 else json.dumps(document, allow_nan=False).encode()
    except ValueError:
        return
    try:
        decoded = CODEC.decode(frame, content, {})
    except DecodeError as error:
        assert _code(frame, content) == error.code
        return
    named = CODEC.decode_fields(frame, content, {})
    told = {name: value for name, value in named.values.items() if name in METRICS}
    for sample in decoded.samples:
        assert {**sample.values, **dict.fromkeys(sample.missing)} == told
    again = _encoded(dict(named.values), content)
    assert CODEC.decode(again, content, {}) == decoded
    assert CODEC.decode_fields(again, content, {}).values == named.values


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"boot": None}, "boot"),
        ({"seq": None}, "seq"),
        ({"seq": 1.5}, "seq"),
        ({"seq": True}, "seq"),
        ({"boot": 2**53}, "boot"),
        ({"base": 2}, "base"),
        ({"t": -1}, "t"),
        ({"t": 2**52}, "t"),
        ({"water.level": float("nan")}, "water.level"),
        ({"water.level": "1"}, "water.level"),
        ({"gauge.tilted": 1}, "gauge.tilted"),
        ({"water.depth": 1.0}, "water.depth"),
    ],
)
def test_encoding_errors_name_the_field(change: dict[str, Any], field: str) -> None:
    with pytest.raises(EncodeError) as caught:
        _encoded({"boot": 1, "seq": 1} | change)
    assert (caught.value.message, caught.value.field) == ("report", field)


PROFILE = """
schema: 1
id: acme/gauge
kind: waterlogging_gauge
title: Gauge
product: {vendor: Acme, model: G, source: none}
transport: {mqtt: {}}
report_every: 60s
messages: {report: {codec: {type: native}, metrics: [water.level]}}
vectors: []
"""


def test_a_profile_says_which_message_and_which_metric() -> None:
    gauge = parse_profile(PROFILE, "acme/gauge.yaml", VOCABULARY)
    with pytest.raises(EncodeError, match=r"water\.depth") as caught:
        gauge.encode("report", {"water.depth": 1.0}, boot=1, seq=1)
    assert (caught.value.message, caught.value.field) == ("report", "water.depth")
    with pytest.raises(EncodeError, match="needs seq"):
        gauge.encode("report", {}, boot=1)
    with pytest.raises(EncodeError, match="no message 'alarm'"):
        gauge.encode("alarm", {})
    with pytest.raises(EncodeError, match="not a finite number"):
        gauge.encode("report", {"water.level": float("nan")}, boot=1, seq=1)
    with pytest.raises(DecodeError, match="no_match"):
        gauge.decode(b"{}", message="alarm")
