"""Parts that hold others: conditional blocks, windows, repeats, items, elements, values of a length written elsewhere."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
import yaml

from citysense_profiles import DecodeError, EncodeError, load_vocabulary
from citysense_profiles.codecs.contract import Finish, Place
from citysense_profiles.codecs.field import FieldFault, Outgoing, by_name
from citysense_profiles.codecs.frames.codec import BinaryCodec
from citysense_profiles.format.profile_file import BinaryMessage, TlvMessage

VOCABULARY = load_vocabulary()
FINISH = Finish(event=None, event_metrics=frozenset(), derivations=())


def _codec(fields: str) -> BinaryCodec:
    entry = BinaryMessage.model_validate(yaml.safe_load(f"codec: {{type: binary}}\nfields:\n{fields}"))
    return BinaryCodec(Place("acme/x", "report"), FINISH, entry, VOCABULARY)


def _tlv(items: str, codec: str = "{type: tlv}") -> BinaryCodec:
    entry = TlvMessage.model_validate(yaml.safe_load(f"codec: {codec}\nitems:\n{items}"))
    return BinaryCodec(Place("acme/x", "report"), FINISH, entry, VOCABULARY)


def _values(codec: BinaryCodec, wire: str) -> dict[str, Any]:
    """The values by name of a frame that is written again just so."""
    frame = bytes.fromhex(wire)
    named = codec.decode_fields(frame, None, {})
    assert codec.encode_fields(named.values, None, {}) == frame
    return dict(named.values)


def _code(codec: BinaryCodec, wire: str) -> str:
    """The code with which both faces refuse a frame."""
    with pytest.raises(DecodeError) as by_name:
        codec.decode_fields(bytes.fromhex(wire), None, {})
    with pytest.raises(DecodeError) as caught:
        codec.decode(bytes.fromhex(wire), None, {})
    assert str(caught.value) == str(by_name.value)
    return caught.value.code


def _not_written(codec: BinaryCodec, values: dict[str, Any]) -> str:
    with pytest.raises(EncodeError) as caught:
        codec.encode_fields(values, None, {})
    return str(caught.value)


# --- conditions

FLAGGED = """
  - {type: u8, bits: [{name: has_level, bit: 0}, {name: has_battery, bit: 1}]}
  - when: {field: has_level, equals: true}
    fields: [{name: level, type: u16, unit: mm, metric: water.level, invalid: [0xFFFF]}]
  - group: battery
    when: {field: has_battery, equals: true}
    fields: [{name: voltage, type: u8, scale: 0.1, unit: V, metric: battery.voltage}]
"""


def test_a_block_is_there_if_an_earlier_field_says_so() -> None:
    codec = _codec(FLAGGED)
    assert _values(codec, "00") == {"has_level": False, "has_battery": False}
    assert _values(codec, "0224") == {"has_level": False, "has_battery": True, "battery.voltage": 3.6}
    both = {"has_level": True, "has_battery": True, "level": 123, "battery.voltage": 3.6}
    assert _values(codec, "03007b24") == both
    assert (_code(codec, "0124"), _code(codec, "002400"), _code(codec, "")) == ("truncated", "trailing", "truncated")


def test_the_condition_follows_from_what_is_given() -> None:
    codec = _codec(FLAGGED)
    assert codec.encode_fields({"battery.voltage": 3.6}, None, {}).hex() == "0224"
    assert codec.encode_fields({"level": None}, None, {}).hex() == "01ffff"
    assert codec.encode_fields({}, None, {}).hex() == "00"
    assert codec.encode_fields({"has_level": True}, None, {}).hex() == "01ffff"
    assert "battery.voltage is needed" in _not_written(codec, {"has_battery": True})
    assert "level is given, but is there only if has_level is True" in _not_written(
        codec, {"has_level": False, "level": 1}
    )


WORDED = """
  - {name: kind, type: u8, map: {0: none, 1: short, 2: long}}
  - {when: {field: kind, equals: [short]}, fields: [{name: small, type: u8}]}
  - {when: {field: kind, equals: [long]}, fields: [{name: large, type: u16}, {name: more, type: ascii, length: end}]}
"""


def test_one_of_several_blocks() -> None:
    codec = _codec(WORDED)
    assert _values(codec, "0107") == {"kind": "short", "small": 7}
    assert _values(codec, "0200076162") == {"kind": "long", "large": 7, "more": "ab"}
    assert codec.encode_fields({"large": 1, "more": ""}, None, {}).hex() == "020001"
    assert codec.encode_fields({}, None, {}).hex() == "00"
    assert "only if kind is 'long'" in _not_written(codec, {"small": 1, "large": 2, "more": ""})


# --- windows

SIZED = """
  - {name: size, type: u16}
  - size: {field: size, less: 3}
    fields:
      - {name: a, type: u8}
      - {name: text, type: ascii, length: end}
  - {name: after, type: u8}
"""


def test_a_length_counts_the_bytes_of_a_block() -> None:
    codec = _codec(SIZED)
    assert _values(codec, "00060761620a") == {"size": 6, "a": 7, "text": "ab", "after": 10}
    assert codec.encode_fields({"a": 7, "text": "ab", "after": 10, "size": 99}, None, {}).hex() == "00060761620a"
    assert _code(codec, "00020a") == "truncated"
    assert _code(codec, "00020a0b") == "shape"
    assert _code(codec, "00030a0b") == "truncated"
    assert _code(codec, "00990761620a") == "truncated"
    assert _code(codec, "00050761620a") == "trailing"


def test_a_length_of_a_block_that_always_looks_the_same() -> None:
    codec = _codec(
        "  - {name: size, type: u8}\n  - size: {field: size}\n    fields: [{name: a, type: u16, unit: mm, metric: water.level}]\n"
        "  - {name: b, type: u8}\n"
    )
    assert _values(codec, "02000107") == {"size": 2, "a": 1, "b": 7}
    assert codec.decode(bytes.fromhex("02000107"), None, {}).samples[0].values == {"water.level": 0.1}
    assert (_code(codec, "03000107"), _code(codec, "01000107")) == ("truncated", "truncated")
    assert _code(codec, "0300010700") == "trailing"


def test_a_length_that_is_some_bits_of_a_number() -> None:
    codec = _codec(
        "  - {type: u16, bits: [{name: flag, bit: 12, width: 4}, {name: size, bit: 0, width: 12}]}\n"
        "  - {size: {field: size}, fields: [{name: data, type: hex, length: end}]}\n"
    )
    assert _values(codec, "8002beef") == {"flag": 8, "size": 2, "data": "BEEF"}
    assert codec.encode_fields({"flag": 3, "data": "", "size": 4095}, None, {}).hex() == "3000"
    assert "does not fit the bits" in _not_written(codec, {"flag": 0, "data": "00" * 4096})


@pytest.mark.parametrize(
    ("kind", "wire", "value"),
    [
        ("ascii", "036f6e65", "one"),
        ("hex", "02beef", "BEEF"),
        ("digits", "020012", "0012"),
        ("dotted", "03010203", "1.2.3"),
        ("utf16", "040061e0b0", "a\ue0b0"[:1] + "\ue0b0"),
        ("bcd", "021234", 1234),
        ("bcd", "0107", 7),
        ("hex", "00", ""),
    ],
)
def test_values_whose_length_stands_before_them(kind: str, wire: str, value: object) -> None:
    codec = _codec(f"  - {{name: size, type: u8}}\n  - {{name: x, type: {kind}, length: {{field: size}}}}\n")
    if kind == "utf16":
        assert _code(codec, wire) == "value"  # a private letter is not printable
        return
    assert _values(codec, wire) == {"size": len(wire) // 2 - 1, "x": value}


def test_a_length_too_large_for_its_field() -> None:
    codec = _codec("  - {name: size, type: u8}\n  - {name: x, type: hex, length: {field: size}}\n")
    assert "does not fit 1 byte" in _not_written(codec, {"x": "00" * 256})


# --- repeats

LOG = """
  - {name: count, type: u8}
  - repeat: log
    to: count
    fields:
      - {name: at, type: u32, role: time, form: unix_s}
      - {name: level, type: u16, unit: mm, metric: water.level, invalid: [0xFFFF]}
  - {name: end, type: u8}
"""


def test_rounds_are_lists_by_name_and_moments_of_their_own() -> None:
    codec = _codec(LOG)
    wire = "02" + "00000001" + "007b" + "00000002" + "ffff" + "07"
    assert _values(codec, wire) == {"count": 2, "log.at": [1, 2], "log.level": [123, None], "end": 7}
    assert codec.decode_fields(bytes.fromhex(wire), None, {}).where == {
        "count": 0, "log.at": [1, 7], "log.level": [5, 11], "end": 13,
    }  # fmt: skip
    samples = codec.decode(bytes.fromhex(wire), None, {}).samples
    assert [(sample.time, dict(sample.values), sample.missing) for sample in samples] == [
        (1000, {"water.level": 12.3}, ()),
        (2000, {}, ("water.level",)),
    ]
    assert _values(codec, "0007") == {"count": 0, "end": 7}
    assert codec.encode_fields({"end": 7, "count": 9}, None, {}).hex() == "0007"
    assert (_code(codec, "01007b07"), _code(codec, wire + "00")) == ("truncated", "trailing")


def test_lists_that_do_not_go_together() -> None:
    codec = _codec(LOG)
    assert "not equally long" in _not_written(codec, {"log.at": [1, 2], "log.level": [1], "end": 7})
    assert "log.at is a list" in _not_written(codec, {"log.at": 1, "log.level": [1], "end": 7})
    assert "log.at is needed" in _not_written(codec, {"log.level": [1], "end": 7})
    assert "does not fit 1 byte" in _not_written(codec, {"log.at": [0] * 256, "log.level": [0] * 256, "end": 7})


def test_rounds_to_the_end_leave_what_follows() -> None:
    codec = _codec(
        "  - {name: a, type: u8}\n  - {repeat: log, to: end, fields: [{name: x, type: u16}]}\n  - {name: crc, type: u16,"
        " checksum: {kind: crc16_modbus, from: 0}}\n"
    )
    frame = codec.encode_fields({"a": 1, "log.x": [2, 3]}, None, {})
    assert _values(codec, frame.hex()) == {"a": 1, "log.x": [2, 3]}
    for position in range(len(frame)):
        bad = bytearray(frame)
        bad[position] ^= 4
        assert _code(codec, bad.hex()) == "checksum"
    assert _code(codec, "010203") == "checksum"
    assert _code(codec, "01") == "truncated"


def test_a_number_of_rounds_is_the_profiles() -> None:
    codec = _codec("  - {repeat: log, to: 3, fields: [{name: x, type: u8, scale: 0.1, invalid: [255]}]}\n")
    assert _values(codec, "01ff03") == {"log.x": [0.1, None, 0.3]}
    assert codec.encode_fields({}, None, {}).hex() == "ffffff"
    assert "2 rounds are given, log has 3" in _not_written(codec, {"log.x": [1.0, 2.0]})


NESTED = """
  - repeat: gun
    to: end
    fields:
      - {name: kind, type: u8, map: {1: plain, 2: metered}}
      - {name: size, type: u8}
      - size: {field: size}
        fields:
          - {when: {field: kind, equals: metered}, fields: [{name: energy, type: u16, unit: W.h, metric: electric.energy}]}
          - {name: phases, type: u8}
          - {repeat: phase, to: phases, fields: [{name: voltage, type: u8, invalid: [255]}]}
"""


def test_rounds_within_rounds_and_what_is_there_only_in_some() -> None:
    codec = _codec(NESTED)
    assert _values(codec, "01 01 00  02 05 0102 02 e6ff  01 02 01 e7") == {
        "gun.kind": ["plain", "metered", "plain"],
        "gun.size": [1, 5, 2],
        "gun.energy": [None, 258, None],
        "gun.phases": [0, 2, 1],
        "gun.phase.voltage": [None, [230, None], [231]],
    }
    assert _code(codec, "0101000206") == "truncated"
    # The condition of one round does not hold for the next, and a length of one round is not that of another.
    assert _code(codec, "0205010202e6ff0105010201e701") == "trailing"


def test_how_many_rounds_there_were_is_kept_where_they_say_nothing() -> None:
    codec = _codec(
        "  - {name: kind, type: u8}\n"
        "  - {repeat: log, to: end, fields: [{skip: 1}, {when: {field: kind, equals: 1}, fields: [{name: x, type: u8}]}]}\n"
    )
    assert _values(codec, "020000") == {"kind": 2, "log.x": [None, None]}
    assert codec.encode_fields({"kind": 2, "log.x": [None, None]}, None, {}).hex() == "020000"
    assert _values(codec, "02") == {"kind": 2}


def test_a_round_whose_time_is_marked_as_none_is_an_empty_place() -> None:
    codec = _codec(LOG.replace("form: unix_s", "form: unix_s, invalid: [0]"))
    wire = "02" + "00000000" + "007b" + "00000002" + "007c" + "07"
    assert _values(codec, wire)["log.at"] == [None, 2]
    (sample,) = codec.decode(bytes.fromhex(wire), None, {}).samples
    assert (sample.time, dict(sample.values)) == (2000, {"water.level": 12.4})


def test_one_length_cannot_say_two_sizes() -> None:
    codec = _codec(
        "  - {name: size, type: u8}\n  - {name: a, type: hex, length: {field: size}}\n"
        "  - {name: b, type: hex, length: {field: size}}\n"
    )
    assert _values(codec, "01aabb") == {"size": 1, "a": "AA", "b": "BB"}
    assert "size would have to be 1 and 2" in _not_written(codec, {"a": "AA", "b": "BBCC"})


def test_the_first_of_two_times_counts() -> None:
    two = "  - {name: at, type: u8, role: time, form: unix_s}\n  - {name: sent, type: u8, role: time, form: unix_s}\n"
    for fields in (two, two + "  - {name: rest, type: hex, length: end}\n"):
        (sample,) = (
            _codec(fields + "  - {name: level, type: u8, unit: mm, metric: water.level}\n")
            .decode(b"\x01\x02\x03", None, {})
            .samples
        )
        assert sample.time == 1000


def test_a_time_of_five_bytes_is_written_to_the_minute() -> None:
    codec = _codec('  - {name: at, type: digits, length: 5, role: time, form: digits, utc_offset: "+00:00"}\n')
    said = by_name(Outgoing(values={}, time=1_795_190_934_423), codec.fields)
    minute = datetime.fromtimestamp(1_795_190_934, UTC).strftime("%y%m%d%H%M")
    assert codec.encode_fields(said, None, {}).hex() == minute


def test_a_condition_within_rounds_follows_from_what_is_given() -> None:
    codec = _codec(
        "  - repeat: dp\n    to: end\n    fields:\n      - {type: u8, bits: [{name: more, bit: 0}]}\n"
        "      - {when: {field: more, equals: true}, fields: [{name: x, type: u8}]}\n"
    )
    assert codec.encode_fields({"dp.x": [7, None, 8]}, None, {}).hex() == "0107000108"
    assert _values(codec, "0107000108") == {"dp.more": [True, False, True], "dp.x": [7, None, 8]}


def test_what_one_round_says_does_not_hold_for_the_next() -> None:
    codec = _codec(
        "  - repeat: dp\n    to: end\n    fields:\n      - {name: named, type: u8, map: {0: false, 1: true}}\n"
        "      - {when: {field: named, equals: true}, fields: [{name: kind, type: u8}]}\n"
        "      - {when: {field: kind, equals: 7}, fields: [{name: x, type: u8, default: 9}]}\n"
    )
    values = {"dp.named": [True, False, True], "dp.kind": [7, None, 8], "dp.x": [5, None, None]}
    assert _values(codec, "010705 00 0108") == values
    assert codec.encode_fields({"dp.named": [True], "dp.kind": [7], "dp.x": [None]}, None, {}).hex() == "010709"


def test_a_metric_that_stands_twice_has_its_last_value() -> None:
    codec = _codec(
        "  - {name: coarse, type: u8, unit: m, metric: water.level}\n  - {name: fine, type: u16, unit: mm, metric: water.level,"
        " invalid: [0xFFFF]}\n"
    )
    (sample,) = codec.decode(bytes.fromhex("02 07d8"), None, {}).samples
    assert (sample.values, sample.missing) == ({"water.level": 200.8}, ())
    (sample,) = codec.decode(bytes.fromhex("02 ffff"), None, {}).samples
    assert (sample.values, sample.missing) == ({"water.level": 200.0}, ())


# --- items

ITEMS = """
  - {tag: "01 75", fields: [{name: battery, type: u8, unit: "%", metric: battery.level}]}
  - {tag: "03 82", fields: [{name: distance, type: u16, unit: mm, metric: water.distance}]}
  - tag: "20 ce"
    many: true
    group: history
    fields:
      - {name: at, type: u32, role: time, form: unix_s}
      - {name: distance, type: u16, unit: mm, metric: water.distance}
"""


def test_items_come_in_any_order_and_are_written_in_one() -> None:
    codec = _tlv(ITEMS, "{type: tlv, byte_order: little}")
    assert codec.decode_fields(bytes.fromhex("0382440801755c"), None, {}).values == {"distance": 2116, "battery": 92}
    assert codec.encode_fields({"distance": 2116, "battery": 92}, None, {}).hex() == "01755c03824408"
    assert "nothing to send" in _not_written(codec, {})
    with pytest.raises(DecodeError) as caught:
        codec.decode(bytes.fromhex("01755c0999"), None, {})
    assert (caught.value.code, caught.value.offset) == ("shape", 3)
    assert (_code(codec, ""), _code(codec, "01755c01"), _code(codec, "038244")) == ("truncated",) * 3
    assert _code(codec, "01755c01755c") == "shape"
    assert codec.fits(bytes.fromhex("0175"), None)
    assert not codec.fits(bytes.fromhex("0999"), None)


def test_items_that_may_stand_several_times_are_rounds() -> None:
    codec = _tlv(ITEMS, "{type: tlv, byte_order: little}")
    wire = "20ce010000000a00 01755c 20ce020000000b00"
    named = codec.decode_fields(bytes.fromhex(wire), None, {})
    assert named.values == {"battery": 92, "history.at": [1, 2], "history.distance": [10, 11]}
    assert named.where == {"battery": 10, "history.at": [2, 13], "history.distance": [6, 17]}
    decoded = codec.decode(bytes.fromhex(wire), None, {})
    assert [(sample.time, dict(sample.values)) for sample in decoded.samples] == [
        (None, {"battery.level": 92.0}),
        (1000, {"water.distance": 1.0}),
        (2000, {"water.distance": 1.1}),
    ]
    assert codec.encode_fields(named.values, None, {}).hex() == "01755c20ce010000000a0020ce020000000b00"
    assert _code(codec, "20ce0100") == "truncated"


def test_some_bytes_of_a_tag_tell_the_kind_and_exact_tags_come_first() -> None:
    codec = _tlv(
        '  - {tag: "010a", fields: [{name: reactive, type: u16}]}\n  - {tag: "0b0a", fields: [{name: error, type: u8}]}\n'
        '  - {tag: "0103", fields: [{name: at, type: u8}]}\n',
        "{type: tlv, byte_order: big, significant: [1]}",
    )
    assert codec.decode_fields(bytes.fromhex("fe0a00070b0a09ff0308"), None, {}).values == {
        "reactive": 7,
        "error": 9,
        "at": 8,
    }
    assert codec.encode_fields({"at": 8, "error": 9, "reactive": 7}, None, {}).hex() == "010a00070b0a09010308"
    assert _code(codec, "fe0300ff0301") == "shape"


def test_items_whose_length_is_on_the_wire() -> None:
    codec = _tlv(
        "  - {tag: '01', fields: [{name: level, type: u16}]}\n"
        "  - {tag: '02', fields: [{name: text, type: ascii, length: end}]}\n",
        "{type: tlv, byte_order: little, length: u16, length_order: big, unknown: skip}",
    )
    assert _values(codec, "01 0002 0700 02 0003 616263") == {"level": 7, "text": "abc"}
    assert codec.decode_fields(bytes.fromhex("09000101" + "0100020700"), None, {}).values == {"level": 7}
    found = [_code(codec, wire) for wire in ("010003070000", "01000107", "09000501", "0900", "0100020700010002")]
    assert found == ["trailing", "truncated", "truncated", "truncated", "truncated"]
    assert codec.fits(b"\x09", None)


def test_an_item_too_long_for_its_length() -> None:
    codec = _tlv("  - {tag: '02', fields: [{name: x, type: hex, length: end}]}\n", "{type: tlv, length: u8}")
    assert "too many for its length" in _not_written(codec, {"x": "00" * 256})


def test_items_inside_a_frame_in_an_order_of_their_own() -> None:
    codec = _codec(
        "  - {name: size, type: u16}\n  - size: {field: size}\n    byte_order: little\n    items:\n"
        "      - {tag: '01', fields: [{name: level, type: u16}]}\n      - {tag: '02', fields: [{name: battery, type: u8}]}\n"
        "  - {name: end, type: u8, const: 0x16}\n"
    )
    assert _values(codec, "0005010700020916") == {"size": 5, "level": 7, "battery": 9}
    assert _values(codec, "000016") == {"size": 0}
    assert (_code(codec, "00020107000016"), _code(codec, "000116")) == ("truncated", "truncated")


def test_items_end_where_other_bytes_begin() -> None:
    codec = _codec(
        "  - repeat: block\n    to: end\n    fields:\n      - {type: u16, const: 0xF0F0}\n      - {name: at, type: u8}\n"
        "      - until: f0f0\n        items:\n          - {tag: '01', fields: [{name: level, type: u16}]}\n"
    )
    assert _values(codec, "f0f001 010007 f0f002 f0f003 010009") == {"block.at": [1, 2, 3], "block.level": [7, None, 9]}
    assert (_code(codec, "f0f00102"), _code(codec, "f0f001f0f1"), _code(codec, "f0f0010107")) == (
        "shape",
        "shape",
        "truncated",
    )


# --- elements

ELEMENTS = """
  - elements:
      - {lead: "39", definition: "23", name: level, unit: m, metric: water.level}
      - {lead: "20", definition: "18", name: rain, unit: mm}
      - lead: "45"
        definition: "20"
        fields: [{name: status, type: u32, bits: [{name: low, bit: 1, default: false}, {name: pump, bit: 10}]}]
  - {name: end, type: u8, const: 3}
"""


@pytest.mark.parametrize(
    ("wire", "values"),
    [
        ("3923 00010490 03", {"level": 10.49}),
        ("3923 ff001234 03", {"level": -1.234}),
        ("3923 ffffffff 03", {"level": None}),
        ("2018 000005 03", {"rain": 5}),
        ("3923 00000127 2018 000000 4520 00000402 03", {"level": 0.127, "rain": 0, "low": True, "pump": True}),
        ("03", {}),
    ],
)
def test_elements_are_bcd_with_a_definition(wire: str, values: dict[str, object]) -> None:
    assert _values(_codec(ELEMENTS), wire) == values


def test_elements_are_read_whatever_their_definition() -> None:
    codec = _codec(ELEMENTS)
    for wire, level in (("391a00104903", 10.49), ("391000 1003", 10), ("39090503", 0.5), ("3909ff03", None)):
        assert codec.decode_fields(bytes.fromhex(wire), None, {}).values == {"level": level}
    assert codec.decode_fields(bytes.fromhex("7708ee" + "2018000005" + "03"), None, {}).values == {"rain": 5}
    (sample,) = codec.decode(bytes.fromhex("3923ffffffff03"), None, {}).samples
    assert sample.missing == ("water.level",)


@pytest.mark.parametrize(
    ("wire", "code"),
    [
        ("392300a1049003", "value"),
        ("3923f000000003", "value"),
        ("390003", "value"),
        ("392300010403", "truncated"),
        ("3903", "truncated"),
        ("2018000005201800000503", "shape"),
        ("4518000402" + "03", "truncated"),
        ("45280000040200" + "03", "trailing"),
        ("2018000005", "truncated"),
        ("39f8" + "99" * 31 + "03", "value"),
    ],
)
def test_elements_that_are_none(wire: str, code: str) -> None:
    assert _code(_codec(ELEMENTS), wire) == code


def test_elements_hold_so_many_digits() -> None:
    codec = _codec(ELEMENTS)
    assert codec.encode_fields({"level": -999.999}, None, {}).hex() == "3923ff99999903"
    assert "does not fit 6 decimal digits" in _not_written(codec, {"level": -1000.0})
    assert "does not fit 8 decimal digits" in _not_written(codec, {"level": 100000.0})


# --- what an author gets wrong


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ("  - {when: {field: x, equals: 1}, fields: [{name: a, type: u8}]}", "#0", "'x' is no earlier field"),
        ("  - {name: x, type: u8}\n  - {when: {field: x, equals: two}, fields: [{name: a, type: u8}]}", "#1", "never 'two'"),
        ("  - {name: x, type: u8}\n  - {when: {field: x, equals: []}, fields: [{name: a, type: u8}]}", "#1", "no value"),
        ("  - {name: x, type: f32}\n  - {size: {field: x}, fields: [{name: a, type: u8}]}", "#1", "no plain whole number"),
        ("  - {repeat: r, to: end, fields: [{name: a, type: hex, length: end}]}", "r", "at least one byte"),
        ("  - {repeat: r, to: end, fields: [{name: a, type: digits, length: 2, role: serial}]}", "r.a", "belongs to the frame"),
        ("  - {name: a, type: hex, length: end}\n  - {name: b, type: hex, length: end}", "a", "fixed size"),
        ("  - {type: u8, const: 1, length: end}", "#0", "fixed size"),
        ("  - {items: [{tag: '01', fields: []}, {tag: '01', fields: []}]}", "#0", "stands twice"),
        ("  - {items: [{tag: '01', fields: []}, {tag: '0102', fields: []}]}", "#0", "same length"),
        ("  - {significant: [1], items: [{tag: '01', fields: []}]}", "#0", "significant counts from 0"),
        ("  - {items: [{tag: '01', many: true, fields: [{name: a, type: hex, length: end}]}]}", "#0", "several times"),
        ("  - {elements: [{lead: '01', definition: '08', fields: [{name: a, type: u16}]}]}", "#0", "the fields make 2"),
        ("  - {name: n, type: u8}\n  - {repeat: r, to: n, fields: [{name: a, type: u8}]}\n"
         "  - {when: {field: n, equals: 1}, fields: [{name: b, type: u8}]}", "#2", "known only when all is written"),
        ("  - {repeat: r, to: 2, fields: [{name: n, type: u8}]}\n  - {size: {field: r.n}, fields: [{name: b, type: u8}]}",
         "#1", "no earlier field"),
        ("  - {repeat: r, to: 2, fields: [{name: n, type: u8}, {type: u8, checksum: {kind: sum8, from: 0}}]}", "#1",
         "cannot stand in rounds"),
    ],
)  # fmt: skip
def test_what_cannot_be_compiled(fields: str, field: str, words: str) -> None:
    with pytest.raises(FieldFault, match=words) as caught:
        _codec(fields + "\n")
    assert caught.value.field == field
