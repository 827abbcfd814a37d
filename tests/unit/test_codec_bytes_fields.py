"""Single fields of a frame of bytes: types, orders, constants, bits, check sums, and the errors that name them."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from citysense_profiles import DecodeError, EncodeError, load_vocabulary
from citysense_profiles.codecs.contract import Finish, Place
from citysense_profiles.codecs.field import FieldFault
from citysense_profiles.codecs.frames.checksum import CHECKSUMS, crc8_e5, crc16_modbus, lrc8, sum8
from citysense_profiles.codecs.frames.codec import BinaryCodec
from citysense_profiles.format.profile_file import BinaryMessage

VOCABULARY = load_vocabulary()


def _codec(fields: str, *, codec: str = "{type: binary}", when: str = "{}") -> BinaryCodec:
    entry = BinaryMessage.model_validate(yaml.safe_load(f"codec: {codec}\nwhen: {when}\nfields:\n{fields}"))
    finish = Finish(event=None, event_metrics=frozenset(), derivations=())
    return BinaryCodec(Place("acme/x", "report"), finish, entry, VOCABULARY)


def _refused(codec: BinaryCodec, payload: bytes) -> DecodeError:
    """The error of both faces, which must be the same."""
    with pytest.raises(DecodeError) as by_name:
        codec.decode_fields(payload, None, {})
    with pytest.raises(DecodeError) as caught:
        codec.decode(payload, None, {})
    assert str(caught.value) == str(by_name.value)
    return caught.value


@pytest.mark.parametrize(
    ("entry", "wire", "value"),
    [
        ("type: u8", "ff", 255),
        ("type: i8", "ff", -1),
        ("type: u16", "1234", 0x1234),
        ("type: u16, byte_order: little", "3412", 0x1234),
        ("type: u24", "123456", 0x123456),
        ("type: i24, byte_order: little", "feffff", -2),
        ("type: u32", "12345678", 0x12345678),
        ("type: u32, word_order: low_first", "56781234", 0x12345678),
        ("type: u32, byte_order: little", "78563412", 0x12345678),
        ("type: u32, byte_order: little, word_order: low_first", "78563412", 0x12345678),
        ("type: u32, byte_order: little, word_order: high_first", "34127856", 0x12345678),
        ("type: i40", "fffffffffe", -2),
        ("type: u48, word_order: low_first", "ccddaabb8899", 0x8899AABBCCDD),
        ("type: u56", "01020304050607", 0x01020304050607),
        ("type: u64", "ffffffffffffffff", 2**64 - 1),
        ("type: i64, word_order: low_first", "fffeffffffffffff", -2),
        ("type: f16", "3c00", 1.0),
        ("type: f32", "41b2b852", 22.34000015258789),
        ("type: f32, word_order: low_first", "b85241b2", 22.34000015258789),
        ("type: f32, byte_order: little", "52b8b241", 22.34000015258789),
        ("type: f64", "c05edccccccccccd", -123.45),
        ("type: bcd, length: 2", "1234", 1234),
        ("type: bcd, length: 12", "000000000000000000001234", 1234),
        ("type: digits, length: 3", "001234", "001234"),
        ("type: hex, length: 2", "beef", "BEEF"),
        ("type: ascii, length: 4", "61620000", "ab"),
        ("type: utf16, length: 6", "006100e90000", "aé"),
        ("type: utf16, length: 4, byte_order: little", "6100e900", "aé"),
        ("type: dotted, length: 3", "010a00", "1.10.0"),
        ("type: cp56", "c05d0d15140b1a", "2026-11-20T21:13:24.000"),
        ("type: u16, scale: 0.1, offset: -40", "01f4", 10.0),
        ("type: u8, map: {1: open, 2: closed}", "02", "closed"),
        ("type: u8, map: {1: open}, others: pass", "07", 7),
        ("type: u8, invalid: [255]", "ff", None),
        ("type: f32, invalid: [.nan]", "7fc00000", None),
        ("type: hex, length: 3, reshape: {wire: '{2}F{3}', value: '{2}-{3}'}", "abf123", "AB-123"),
    ],
)  # fmt: skip
def test_each_type_goes_both_ways(entry: str, wire: str, value: object) -> None:
    codec = _codec(f"  - {{name: before, type: u8}}\n  - {{name: x, {entry}}}\n")
    frame = b"\x07" + bytes.fromhex(wire)
    named = codec.decode_fields(frame, None, {})
    assert named.values == {"before": 7, "x": value}
    assert type(named.values["x"]) is type(value)
    assert named.where == {"before": 0, "x": 1}
    assert codec.encode_fields(named.values, None, {}) == frame


@pytest.mark.parametrize(
    ("entry", "wire"),
    [
        ("type: bcd, length: 2", "12a4"),
        ("type: bcd, length: 11", "1234567890123456789012"),
        ("type: digits, length: 1", "1a"),
        ("type: ascii, length: 1", "c3"),
        ("type: ascii, length: 2", "6107"),
        ("type: ascii, length: 3", "610062"),
        ("type: utf16, length: 2", "d800"),
        ("type: cp56", "c05d8d15140b1a"),
        ("type: cp56, role: time, form: cp56, utc_offset: '+08:00'", "00000000000000"),
        ("type: f32, unit: mm, metric: water.distance", "7fc00000"),
        ("type: u8, map: {1: open}", "02"),
        ("type: bcd, length: 1, metric: water.distance, unit: mm", "1f"),
        ("type: digits, length: 6, role: time, form: digits, utc_offset: '+08:00'", "261320211324"),
    ],
)
def test_what_a_type_cannot_mean_is_refused_where_it_stands(entry: str, wire: str) -> None:
    codec = _codec(f"  - {{name: before, type: u8}}\n  - {{name: x, {entry}}}\n")
    error = _refused(codec, b"\x07" + bytes.fromhex(wire))
    assert (error.code, error.field, error.offset) == ("value", "x", 1)


@pytest.mark.parametrize(
    ("entry", "value", "words"),
    [
        ("type: u8", 256, "does not fit 1 byte"),
        ("type: i16", -32769, "does not fit 2 bytes"),
        ("type: f16", 1e6, "does not fit f16"),
        ("type: bcd, length: 1", 100, "does not fit 2 decimal digits"),
        ("type: bcd, length: 1", -1, "does not fit"),
        ("type: digits, length: 2", "123", "pairs of decimal digits"),
        ("type: digits, length: 2", "123456", "makes 3 bytes, the field has 2"),
        ("type: hex, length: 2", "xyz", "not pairs of hex digits"),
        ("type: ascii, length: 2", "abc", "makes 3 bytes, the field has 2"),
        ("type: ascii, length: 2", "é", "cannot be written in ASCII"),
        ("type: utf16, length: 2", "\u0007", "not printable"),
        ("type: dotted, length: 2", "1.256", "numbers up to 255"),
        ("type: dotted, length: 2", "1.02", "numbers up to 255"),
        ("type: cp56", "2026-13-32 25:61", "not a local time"),
        ("type: cp56", "2026-16-01T00:00:00.000", "not a time"),
        ("type: u8", "seven", "not a number"),
        ("type: u8", None, "no mark for a missing value"),
    ],
)
def test_what_does_not_fit_is_not_written(entry: str, value: object, words: str) -> None:
    with pytest.raises(EncodeError, match=words) as caught:
        _codec(f"  - {{name: x, {entry}}}\n").encode_fields({"x": value}, None, {})
    assert (caught.value.message, caught.value.field) == ("report", "x")


def test_a_value_that_nobody_gives_is_the_default_or_the_mark_or_missed() -> None:
    fields = "  - {name: a, type: u8, default: 7}\n  - {name: b, type: u8, invalid: [255]}\n  - {name: c, type: u8}\n"
    codec = _codec(fields)
    assert codec.encode_fields({"c": 1}, None, {}) == b"\x07\xff\x01"
    with pytest.raises(EncodeError, match="c is needed") as caught:
        codec.encode_fields({"a": 1}, None, {})
    assert caught.value.field == "c"


def test_constants_and_gaps() -> None:
    codec = _codec("  - {name: start, type: u16, const: 0x8001}\n  - {skip: 2, fill: beef}\n  - {skip: 1}\n")
    assert codec.encode_fields({}, None, {}) == bytes.fromhex("8001beef00")
    assert codec.decode_fields(bytes.fromhex("8001123456"), None, {}).values == {}
    error = _refused(codec, bytes.fromhex("8000beef00"))
    assert (error.code, error.field, error.offset) == ("shape", "start", 0)


FLAGS = """
  - type: u16
    byte_order: little
    bits:
      - {name: tilted, bit: 15, metric: gauge.tilted}
      - {name: mode, bit: 0, width: 3, map: {0: normal, 1: rain, 2: flood}}
      - {name: angle, bit: 4, width: 4, signed: true}
      - {name: count, bit: 8, width: 6, default: 0}
"""


def test_bits_are_fields() -> None:
    codec = _codec(FLAGS)
    assert [field.name for field in codec.fields] == ["tilted", "mode", "angle", "count"]
    frame = bytes.fromhex("e185")
    named = codec.decode_fields(frame, None, {})
    assert named.values == {"tilted": True, "mode": "rain", "angle": -2, "count": 5}
    assert set(named.where.values()) == {0}
    assert codec.encode_fields(named.values, None, {}) == frame
    assert codec.decode(frame, None, {}).samples[0].values == {"gauge.tilted": True}
    error = _refused(codec, bytes.fromhex("0300"))
    assert (error.code, error.field) == ("value", "mode")


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"angle": 8}, "angle", r"does not fit the bits \(-8 to 7\)"),
        ({"count": 64}, "count", r"does not fit the bits \(0 to 63\)"),
        ({"mode": "storm"}, "mode", "not in the map"),
        ({"tilted": 1}, "tilted", "not in the map"),
    ],
)
def test_bits_hold_what_they_can(change: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(EncodeError, match=words) as caught:
        _codec(FLAGS).encode_fields({"tilted": True, "mode": "rain", "angle": 0} | change, None, {})
    assert caught.value.field == field


def test_check_sums_against_published_frames() -> None:
    login_answer = bytes.fromhex("680c000000025503141278230500da4c")
    assert crc16_modbus(login_answer[2:-2]).to_bytes(2, "little") == login_answer[-2:]
    set_period = bytes.fromhex("00020e1048a4")
    assert crc16_modbus(set_period[:4]).to_bytes(2, "big") == set_period[4:]
    szy206 = bytes.fromhex("681a68b35303810d00c00059000000826110000001106000004508090a3516")
    assert crc8_e5(szy206[3:-2]) == szy206[-2]
    assert (sum8(b"\xff\x02"), lrc8(b"\xff\x02"), sum8(b""), lrc8(b"")) == (1, 255, 0, 0)


@pytest.mark.parametrize("kind", list(CHECKSUMS))
def test_a_flipped_bit_is_noticed_before_anything_is_believed(kind: str) -> None:
    width = 8 * CHECKSUMS[kind].size  # type: ignore[index]
    codec = _codec(
        "  - {type: u8, const: 0x68}\n  - {name: state, type: u16, map: {1: open}}\n"
        f"  - {{name: crc, type: u{width}, byte_order: little, checksum: {{kind: {kind}, from: 1}}}}\n"
        "  - {type: u8, const: 0x16}\n"
    )
    good = codec.encode_fields({"state": "open"}, None, {})
    assert codec.decode_fields(good, None, {}).values == {"state": "open"}
    for bit in range(8, 8 * (len(good) - 1)):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        error = _refused(codec, bytes(bad))
        assert (error.code, error.field, error.offset) == ("checksum", "crc", 3)


def test_text_of_hex_digits_counts_its_characters() -> None:
    codec = _codec(
        "  - {type: u16, const: 0x8002}\n  - {name: minutes, type: u8, map: {10: ten}}\n",
        codec="{type: binary, wrap: hex_text}",
        when="{match: [{at: 0, equals: 0x80}]}",
    )
    assert codec.encode_fields({"minutes": "ten"}, None, {}) == b"80020A"
    named = codec.decode_fields(b"80020a", None, {})
    assert (named.values, named.where) == ({"minutes": "ten"}, {"minutes": 4})
    assert codec.fits(b"80020A", None)
    assert not codec.fits(b"80020", None)
    error = _refused(codec, b"80020B")
    assert (error.code, error.offset) == ("value", 4)
    for text in (b"80020", b"80 02", b"8002 0", b"\xff\xff"):
        assert _refused(codec, text).code == "shape"


@pytest.mark.parametrize(
    ("when", "payload", "port", "fits"),
    [
        ("{}", "0102", None, True),
        ("{}", "010203", None, False),
        ("{length: 2}", "0102", None, True),
        ("{match: [{at: 0, equals: 1}]}", "0102", None, True),
        ("{match: [{at: -1, equals: [1, 2]}]}", "0102", None, True),
        ("{match: [{at: -1, equals: [1, 2]}]}", "0103", None, False),
        ("{port: 5}", "0102", 5, True),
        ("{port: [5, 6]}", "0102", 7, False),
        ("{port: 5}", "0102", None, True),
    ],
)
def test_what_tells_a_message_from_others(when: str, payload: str, port: int | None, fits: bool) -> None:
    assert _codec("  - {name: a, type: u16}\n", when=when).fits(bytes.fromhex(payload), port) is fits


def test_another_message_is_noticed_before_a_wrong_length() -> None:
    codec = _codec("  - {name: a, type: u24}\n", when="{match: [{at: 0, equals: 1}, {at: -1, equals: [2, 3]}]}")
    found = {wire: _refused(codec, bytes.fromhex(wire)).code for wire in ("05", "0107", "0102", "01000003", "")}
    assert found == {"05": "no_match", "0107": "no_match", "0102": "truncated", "01000003": "trailing", "": "truncated"}
    with pytest.raises(DecodeError, match="01, this message has 02 or 03") as caught:
        codec.decode(bytes.fromhex("010001"), None, {})
    assert (caught.value.code, caught.value.offset) == ("no_match", 2)


def test_lengths_that_a_message_may_have() -> None:
    fields = "  - {name: a, type: u8}\n  - repeat: log\n    to: end\n    fields: [{name: x, type: u8}]\n"
    codec = _codec(fields, when="{length: [3, 5]}")
    assert codec.decode_fields(bytes(3), None, {}).values == {"a": 0, "log.x": [0, 0]}
    assert [_refused(codec, bytes(size)).code for size in (2, 4, 6)] == ["truncated", "truncated", "trailing"]
    shortest = _codec(fields, when="{shortest: 3}")
    assert not shortest.fits(bytes(2), None)
    assert _refused(shortest, bytes(2)).code == "truncated"


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ("  - {name: x, type: u12}\n", "x", "type 'u12' is not known"),
        ("  - {name: x, type: bcd}\n", "x", "needs a length"),
        ("  - {name: x, type: u8, length: 2}\n", "x", "has its own length"),
        ("  - {name: x, type: u16, length: end}\n", "x", "has its own length"),
        ("  - {name: x, type: u16, word_order: low_first}\n", "x", "several 16-bit words"),
        ("  - {name: x, type: hex, length: 2, word_order: low_first}\n", "x", "word_order is for numbers"),
        ("  - {name: x, type: utf16, length: 3}\n", "x", "two bytes for each letter"),
        ("  - {type: f32, const: 1}\n", "#0", "const is a whole number"),
        ("  - {type: u8, const: 256}\n", "#0", "does not fit 1 byte"),
        ("  - {type: i8, bits: [{name: a, bit: 0}]}\n", "#0", "unsigned"),
        ("  - {type: u8, bits: [{name: a, bit: 8}]}\n", "a", "outside 8 bits"),
        ("  - {type: u8, bits: [{name: a, bit: 0, width: 2}, {name: b, bit: 1}]}\n", "b", "overlap"),
        ("  - {type: u8, bits: [{bit: 0}]}\n", "#0", "has a name"),
        ("  - {type: u8, bits: [{name: a, bit: 0, signed: true}]}\n", "a", "no sign"),
        ("  - {name: x, type: u8, metric: water.deepness}\n", "x", "not in the vocabulary"),
        ("  - {type: u8, checksum: {kind: crc16_modbus, from: 0}}\n", "#0", "type u16"),
        ("  - {type: u16, checksum: {kind: crc16_modbus, from: 0}}\n", "#0", "covers nothing"),
        ("  - {name: x, type: u16, unit: mm, metric: water.distance, times: {field: y}}\n", "x", "no earlier field"),
    ],
)
def test_what_an_author_gets_wrong(fields: str, field: str, words: str) -> None:
    with pytest.raises(FieldFault, match=words) as caught:
        _codec(fields)
    assert caught.value.field == field


@pytest.mark.parametrize("when", ["{length: 3}", "{match: [{at: 2, equals: 1}]}", "{match: [{at: -3, equals: 1}]}"])
def test_a_choice_that_no_frame_can_meet(when: str) -> None:
    with pytest.raises(ValueError, match="2 bytes"):
        _codec("  - {name: a, type: u16}\n", when=when)


def test_a_field_computed_with_an_earlier_one_or_a_setting() -> None:
    codec = _codec(
        "  - {name: places, type: u8}\n  - {name: level, type: i16, unit: m, metric: water.level, decimals: {field: places}}\n"
        "  - {name: depth, type: u16, unit: m, metric: water.distance, times: {setting: factor}}\n"
    )
    frame = bytes.fromhex("02ff850004")
    named = codec.decode_fields(frame, None, {"factor": 0.25})
    assert named.values == {"places": 2, "level": -1.23, "depth": 1.0}
    assert codec.decode(frame, None, {"factor": 0.25}).samples[0].values == {
        "water.level": -123.0,
        "water.distance": 100.0,
    }
    assert codec.encode_fields(named.values, None, {"factor": 0.25}) == frame
    error = _refused(codec, frame)
    assert (error.code, error.field, error.offset) == ("value", "depth", 3)
    with pytest.raises(EncodeError, match="setting factor is needed"):
        codec.encode_fields(named.values, None, {})
