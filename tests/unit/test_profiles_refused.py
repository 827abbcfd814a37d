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


LEVEL = "{metric: water.level, type: u16, unit: mm}"


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
        ("{metric: water.depth, type: u16, unit: mm}", "water.depth", "not in the vocabulary"),
        ("{metric: water.level, type: u16}", "water.level", "unit is missing"),
        ("{metric: water.level, type: u16, unit: V}", "water.level", "cannot be turned into 'cm'"),
        ("{metric: water.level, type: u16, unit: furlong}", "water.level", "unit 'furlong' is not known"),
        ("{metric: water.level, type: u12, unit: mm}", "water.level", "type 'u12' is not known"),
        ("{metric: water.level, type: u16, unit: mm, scale: 0}", "water.level", "scale must not be 0"),
        ("{metric: water.level, type: u16, unit: mm, length: 2}", "water.level", "remove length"),
        ("{metric: water.level, type: hex, length: 2, unit: mm}", "water.level", "is a number; a raw text needs a map"),
        ("{metric: water.level, type: bcd, unit: mm}", "water.level", "needs a length"),
        ("{metric: door.open, type: u8, map: {0: false, 1: 2}}", "door.open", "map: 2 is not what door.open holds"),
        ("{metric: door.open, type: u8, map: {0: false, 1: false}}", "door.open", "two raw codes give the same value"),
        ("{metric: door.open, type: u8, map: {a: false}}", "door.open", "'a' is not a raw int"),
        ("{metric: door.open, type: u8, scale: 2}", "door.open", "mean nothing"),
        ("{metric: pile.state, type: u8, map: {0: asleep}}", "pile.state", "'asleep' is not a value of pile.state"),
        ("{metric: pile.state, type: u8}", "pile.state", "needs a map"),
        ("{metric: pile.connector, type: u8, unit: cm}", "pile.connector", "mean nothing"),
        (
            "{metric: water.level, type: u16, unit: mm, invalid: [none]}",
            "water.level",
            "invalid: 'none' is not a raw int",
        ),
        ("{metric: water.level, type: u16, unit: mm, default: wet}", "water.level", "default: 'wet' is not a number"),
        ("{name: flags, type: i8, bits: [{metric: door.open, bit: 0}]}", "flags", "unsigned"),
        ("{name: flags, type: u8, bits: [{metric: door.open, bit: 8}]}", "flags", "outside 8 bits"),
        (
            "{name: flags, type: u8, bits: [{metric: door.open, bit: 0, width: 2}, {metric: device.tamper, bit: 1}]}",
            "flags",
            "overlap",
        ),
        ("{name: crc, type: u16, checksum: {kind: crc16_modbus, from: 2}}", "crc", "covers nothing"),
        ("{name: mark, type: u8, const: 256}", "mark", "does not fit 1 bytes"),
        ("{role: serial, type: u8}", "serial", "carried by text"),
        ("{role: time, type: u32, form: rfc3339}", "time", "cannot be carried"),
        ("{role: seq, type: u8, scale: 2}", "seq", "takes no scale"),
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
        ("{metric: water.level, type: u16, unit: mm, colour: blue}", "'colour' is not a key"),
        ("{metric: water.level, role: seq, type: u16}", "not both"),
        ("{metric: water.level, unit: mm}", "needs a type"),
        ("{metric: water.level, type: u16, unit: mm, const: 3}", "exactly one of"),
        ("{role: time, type: u32}", "needs form"),
        ("{skip: 2, fill: '00'}", "as many bytes"),
        ("{metric: water.level, type: u16, unit: mm, scale: twice}", "Input should be a valid decimal"),
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
        (_binary(LEVEL, extra="    when: {match: [{at: 2, equals: 1}]}\n"), "behind the last byte"),
        (_binary(LEVEL, LEVEL), "stands twice"),
        (HEAD + "messages:\n  report: {codec: {type: native}, metrics: [water.depth]}\n", "not in the vocabulary"),
        (
            HEAD + "messages:\n  report:\n    codec: {type: tlv}\n    items:\n"
            "      - {tag: '01', fields: [{skip: 1}]}\n      - {tag: '02 03', fields: [{skip: 1}]}\n",
            "same length",
        ),
        (
            HEAD
            + "messages:\n  report: {codec: {type: json}, fields: [{pointer: v, type: int, metric: pile.connector}]}\n",
            "must begin with /",
        ),
        (
            HEAD
            + "messages:\n  report: {codec: {type: senml}, fields: [{senml: a, value: vb, metric: water.level}]}\n",
            "needs a map",
        ),
        (
            HEAD + "messages:\n  report: {codec: {type: modbus}, fields: "
            "[{metric: water.level, table: input, address: 65535, type: u32, unit: mm}]}\n",
            "runs past 65535",
        ),
        (
            HEAD + "messages:\n  report: {codec: {type: modbus}, fields: "
            "[{metric: water.level, table: input, address: 1, type: u32, unit: mm},"
            " {metric: water.distance, table: input, address: 2, type: u16, unit: mm}]}\n",
            "same register",
        ),
        (
            HEAD + "messages:\n  report: {codec: {type: modbus, max_count: 1}, fields: "
            "[{metric: water.level, table: input, address: 1, type: u32, unit: mm}]}\n",
            "max_count 1 is too small",
        ),
        (
            HEAD + "messages:\n  report: {codec: {type: modbus}, fields: "
            "[{metric: water.level, table: coil, address: 1, type: u16, unit: mm}]}\n",
            "hold type bit",
        ),
    ],
)
def test_a_message_that_means_nothing(text: str, sentence: str) -> None:
    error = _refused(text)
    assert error.message == "report"
    assert sentence in str(error)


def test_messages_that_cannot_be_told_apart() -> None:
    one = "{codec: {type: json}, fields: [{pointer: /v, type: int, metric: pile.connector}]}"
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
