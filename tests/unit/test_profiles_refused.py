"""Profile files that mean nothing are refused at load, and the error says where: file, message, field."""

from __future__ import annotations

import pytest

from citysense_profiles import ProfileError, load_vocabulary
from citysense_profiles.compiler import parse_profile

HEAD = """
schema: 1
id: acme/gauge
kind: waterlogging_gauge
title: Gauge
product: {vendor: Acme, model: Gauge, source: manual}
transport: {mqtt: {}}
report_every: 60s
vectors: []
"""


def _binary(*fields: str, codec: str = "{type: binary}", extra: str = "") -> str:
    lines = "".join(f"      - {field}\n" for field in fields)
    return f"{HEAD}messages:\n  report:\n    codec: {codec}\n{extra}    fields:\n{lines}"


LEVEL = "{name: level, metric: water.level, type: u16, unit: mm}"


def _refused(text: str) -> ProfileError:
    with pytest.raises(ProfileError) as caught:
        parse_profile(text, "acme/gauge.yaml", load_vocabulary())
    assert caught.value.file == "acme/gauge.yaml"
    assert str(caught.value).startswith("acme/gauge.yaml")
    return caught.value


def test_the_base_of_these_tests_is_a_good_profile() -> None:
    assert parse_profile(_binary(LEVEL), "acme/gauge.yaml", load_vocabulary()).messages == ("report",)


@pytest.mark.parametrize(
    ("field", "named", "sentence"),
    [
        ("{name: depth, metric: water.depth, type: u16, unit: mm}", "depth", "not in the vocabulary"),
        ("{name: level, metric: water.level, type: u16}", "level", "unit is missing"),
        ("{name: level, metric: water.level, type: u16, unit: V}", "level", "cannot be turned into 'cm'"),
        ("{name: level, metric: water.level, type: u16, unit: furlong}", "level", "unit 'furlong' is not known"),
        ("{name: level, metric: water.level, type: u12, unit: mm}", "level", "type 'u12' is not known"),
        ("{name: level, metric: water.level, type: u16, unit: mm, scale: 0}", "level", "scale must not be 0"),
        ("{name: level, metric: water.level, type: u16, unit: mm, length: 2}", "level", "remove length"),
        (
            "{name: level, metric: water.level, type: hex, length: 2, unit: mm}",
            "level",
            "is a number; a raw text needs a map",
        ),
        ("{name: level, metric: water.level, type: bcd, unit: mm}", "level", "needs a length"),
        (
            "{name: door, metric: door.open, type: u8, map: {0: false, 1: 2}}",
            "door",
            "map: 2 is not what door.open holds",
        ),
        (
            "{name: door, metric: door.open, type: u8, map: {0: false, 1: false}}",
            "door",
            "two raw codes give the same value",
        ),
        ("{name: door, metric: door.open, type: u8, map: {a: false}}", "door", "'a' is not a raw int"),
        ("{name: door, metric: door.open, type: u8, scale: 2}", "door", "mean nothing"),
        (
            "{name: state, metric: pile.state, type: u8, map: {0: asleep}}",
            "state",
            "'asleep' is not a value of pile.state",
        ),
        ("{name: state, metric: pile.state, type: u8}", "state", "needs a map"),
        ("{name: connector, metric: pile.connector, type: u8, unit: cm}", "connector", "unit means nothing"),
        (
            "{name: level, metric: water.level, type: u16, unit: mm, invalid: [none]}",
            "level",
            "invalid: 'none' is not a raw int",
        ),
        (
            "{name: level, metric: water.level, type: u16, unit: mm, default: wet}",
            "level",
            "default: 'wet' is not a number",
        ),
        ("{name: flags, type: i8, bits: [{name: door, metric: door.open, bit: 0}]}", "flags", "unsigned"),
        ("{name: flags, type: u8, bits: [{name: door, metric: door.open, bit: 8}]}", "door", "outside 8 bits"),
        (
            "{name: flags, type: u8, bits: [{name: door, metric: door.open, bit: 0, width: 2},"
            " {name: tamper, metric: device.tamper, bit: 1}]}",
            "tamper",
            "overlap",
        ),
        ("{name: crc, type: u16, checksum: {kind: crc16_modbus, from: 2}}", "crc", "covers nothing"),
        ("{name: mark, type: u8, const: 256}", "mark", "does not fit 1 byte"),
        ("{name: serial, role: serial, type: u8}", "serial", "carried by text"),
        ("{name: time, role: time, type: u32, form: rfc3339}", "time", "cannot be carried"),
        ("{name: seq, role: seq, type: u8, scale: 2}", "seq", "takes no scale"),
    ],
)
def test_a_field_that_means_nothing(field: str, named: str, sentence: str) -> None:
    error = _refused(_binary("{name: first, type: u8, const: 1}" if "from: 2" not in field else "{skip: 2}", field))
    assert error.message == "report"
    assert error.field is not None
    assert named in error.field
    assert sentence in error.text


@pytest.mark.parametrize(
    ("field", "sentence"),
    [
        ("{name: level, metric: water.level, type: u16, unit: mm, colour: blue}", "'colour' is not a key"),
        ("{name: level, metric: water.level, role: seq, type: u16}", "not both"),
        ("{name: level, metric: water.level, unit: mm}", "needs a type"),
        ("{name: level, metric: water.level, type: u16, unit: mm, const: 3}", "carry no metric"),
        ("{name: time, role: time, type: u32}", "needs form"),
        ("{skip: 2, fill: '00'}", "as many bytes"),
        ("{name: level, metric: water.level, type: u16, unit: mm, scale: twice}", "such as 0.1"),
    ],
)
def test_a_field_of_the_wrong_shape(field: str, sentence: str) -> None:
    error = _refused(_binary("{name: first, type: u8, const: 1}", field))
    assert error.message == "report"
    assert error.field is not None
    assert error.field.startswith("fields.1")
    assert sentence in error.text


@pytest.mark.parametrize(
    ("text", "field", "sentence"),
    [
        (_binary(LEVEL).replace("schema: 1", "schema: 2"), "schema", "Input should be 1"),
        (_binary(LEVEL).replace("kind: waterlogging_gauge", "kind: toaster"), "kind", "waterlogging_gauge"),
        (_binary(LEVEL).replace("id: acme/gauge", "id: Acme Gauge"), "id", "pattern"),
        (_binary(LEVEL).replace("report_every: 60s", "report_every: 60"), "report_every", "carries its unit"),
        (_binary(LEVEL).replace("title: Gauge\n", ""), "title", "is required"),
        (_binary(LEVEL).replace("source: manual", "source: ''"), "product.source", "at least 1 character"),
        (_binary(LEVEL).replace("mqtt: {}", "mqtt: {topics: ['a/x{device}']}"), "transport.mqtt", "one whole segment"),
        (_binary(LEVEL).replace("mqtt: {}", "pigeon: {}"), "transport.pigeon", "'pigeon' is not a key"),
        (HEAD + "messages: {}\n", "messages", "at least 1"),
        (
            _binary(LEVEL) + "derive: [{metric: water.level, setting: h, minus: water.distance}]\n",
            "derive.0",
            "not declared",
        ),
        (
            _binary(LEVEL)
            + "settings: {h: {title: H, unit: m}}\nderive: [{metric: water.level, setting: h, minus: water.distance}]\n",
            "derive.0",
            "one unit",
        ),
        (
            _binary(LEVEL)
            + "settings: {h: {title: H, unit: cm}}\nderive: [{metric: water.level, setting: h, minus: water.distance}]\n",
            "derive.0",
            "can never be derived",
        ),
        (_binary(LEVEL) + "settings: {h: {title: H, unit: ell}}\n", "settings.h.unit", "not known"),
    ],
)
def test_a_head_that_means_nothing(text: str, field: str, sentence: str) -> None:
    error = _refused(text)
    assert error.message is None
    assert error.field is not None
    assert error.field.startswith(field)
    assert sentence in error.text


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (_binary(LEVEL, codec="{type: morse}"), "codec.type must be one of"),
        (_binary(LEVEL, extra="    when: {length: 3}\n"), "the fields make 2 bytes"),
        (_binary(LEVEL, extra="    when: {match: [{at: 2, equals: 1}]}\n"), "lies outside the 2 bytes"),
        (_binary(LEVEL, LEVEL), "stands twice"),
        (HEAD + "messages:\n  report: {codec: {type: native}, metrics: [water.depth]}\n", "not in the vocabulary"),
        (
            HEAD + "messages:\n  report:\n    codec: {type: tlv}\n    items:\n"
            "      - {tag: '01', fields: [{skip: 1}]}\n      - {tag: '02 03', fields: [{skip: 1}]}\n",
            "same length",
        ),
        (
            HEAD + "messages:\n  report: {codec: {type: json}, fields: "
            "[{name: value, pointer: v, type: int, metric: pile.connector}]}\n",
            "must begin with /",
        ),
        (
            HEAD
            + "messages:\n  report: {codec: {type: senml}, fields: [{name: a, senml: a, value: vb, metric: water.level}]}\n",
            "needs a map",
        ),
        (
            HEAD + "messages:\n  report: {codec: {type: modbus}, fields: "
            "[{name: level, metric: water.level, table: input, address: 65535, type: u32, unit: mm}]}\n",
            "is not within 0 to 65535",
        ),
        (
            HEAD + "messages:\n  report: {codec: {type: modbus}, fields: "
            "[{name: level, metric: water.level, table: input, address: 1, type: u32, unit: mm},"
            " {name: distance, metric: water.distance, table: input, address: 2, type: u16, unit: mm}]}\n",
            "same register",
        ),
        (
            HEAD + "messages:\n  report: {codec: {type: modbus, max_count: 1}, fields: "
            "[{name: level, metric: water.level, table: input, address: 1, type: u32, unit: mm}]}\n",
            "max_count 1 is too small",
        ),
        (
            HEAD + "messages:\n  report: {codec: {type: modbus}, fields: "
            "[{name: level, metric: water.level, table: coil, address: 1, type: u16, unit: mm}]}\n",
            "hold type bit",
        ),
    ],
)
def test_a_message_that_means_nothing(text: str, sentence: str) -> None:
    error = _refused(text)
    assert error.message == "report"
    assert sentence in str(error)


def test_messages_that_cannot_be_told_apart() -> None:
    one = "{codec: {type: json}, fields: [{name: value, pointer: /v, type: int, metric: pile.connector}]}"
    error = _refused(HEAD + f"messages:\n  first: {one}\n  second: {one}\n")
    assert error.message == "second"
    assert "cannot be told apart" in error.text


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "empty"),
        ("schema: [", "line"),
        (HEAD + "schema: 1\n", "'schema' stands twice"),
        ("a: &x {b: 1}\nc: *x\n", "aliases"),
        ("a: !!python/object:os.system {}\n", "could not determine a constructor"),
        ("[1, 2]", "valid dictionary"),
        ("{a: " * 200_000, "nested deeper than 40"),
        ("[" * 200_000 + "]" * 200_000, "nested deeper than 40"),
    ],
)
def test_text_that_is_no_profile_at_all(text: str, sentence: str) -> None:
    assert sentence in str(_refused(text))
