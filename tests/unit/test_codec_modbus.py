"""Register maps: what words say in every type and order, which requests read and write them, and what is refused."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from citysense_profiles.codecs.contract import NO_SETTINGS, Finish, Place, Read, Write
from citysense_profiles.codecs.field import FieldFault, Outgoing, by_name
from citysense_profiles.codecs.frames.checksum import crc16_modbus
from citysense_profiles.codecs.modbus.codec import ModbusCodec
from citysense_profiles.codecs.modbus.plan import Key
from citysense_profiles.codecs.modbus.wire import (
    ReadRequest,
    RequestFault,
    function_of,
    parse_rtu_request,
    table_of,
)
from citysense_profiles.compiler import parse_profile
from citysense_profiles.errors import DecodeError, EncodeError
from citysense_profiles.format.profile_file import ModbusMessage
from citysense_profiles.reading import Decoded
from citysense_profiles.vocabulary import load_vocabulary

VOCABULARY = load_vocabulary()
FINISH = Finish(event=None, event_metrics=frozenset(), derivations=())


def _map(*fields: str, codec: str = "", direction: str = "up") -> ModbusCodec:
    text = f"direction: {direction}\ncodec: {{type: modbus{codec}}}\nfields:\n" + "".join(
        f"- {{{f}}}\n" for f in fields
    )
    return ModbusCodec(
        Place("acme/x", "status"), FINISH, ModbusMessage.model_validate(yaml.safe_load(text)), VOCABULARY
    )


def _words(first: int, *words: int, table: str = "holding") -> dict[Key, int]:
    return {(table, first + step): word for step, word in enumerate(words)}


def _named(codec: ModbusCodec, registers: Mapping[Key, int]) -> Mapping[str, Any]:
    return codec.decode_fields(registers, NO_SETTINGS).values


def _values(codec: ModbusCodec, registers: Mapping[Key, int]) -> Mapping[str, Any]:
    (sample,) = codec.decode(registers, NO_SETTINGS).samples
    return sample.values


def _careful(codec: ModbusCodec, registers: Mapping[Key, int]) -> Decoded:
    """What the readings are without the short cut."""
    short_cut, codec._fast = codec._fast, None
    try:
        return codec.decode(registers, NO_SETTINGS)
    finally:
        codec._fast = short_cut


# --- types and orders


@pytest.mark.parametrize(
    ("kind", "order", "words", "value"),
    [
        ("u32", "high_first", [4660, 22136], 305419896),
        ("u32", "low_first", [22136, 4660], 305419896),
        ("u64", "high_first", [4660, 22136, 57005, 48879], 1311768468603649775),
        ("u64", "low_first", [48879, 57005, 22136, 4660], 1311768468603649775),
        ("f16", "high_first", [15606], 1.240234375),
        ("f32", "high_first", [16818, 47186], 22.34000015258789),
        ("f32", "low_first", [20118, 18522], 223546.34375),
        ("f64", "high_first", [49246, 56524, 52428, 52429], -123.45),
        ("f64", "low_first", [52429, 52428, 56524, 49246], -123.45),
        ("i32", "high_first", [65535, 60876], -4660),
        ("i64", "high_first", [65535, 65535, 8530, 16657], -3735928559),
        ("i16", "high_first", [43400], -22136),
        ("u16", "high_first", [43400], 43400),
    ],
)
@pytest.mark.parametrize("by_field", [True, False])
def test_published_register_values(kind: str, order: str, words: list[int], value: float, *, by_field: bool) -> None:
    own = f", word_order: {order}" if by_field else ""
    codec = _map(
        f"name: level, table: holding, address: 10, type: {kind}, unit: cm, metric: water.level{own}",
        codec="" if by_field else f", word_order: {order}",
    )
    registers = _words(10, *words)
    assert _named(codec, registers) == {"level": value}
    assert type(_named(codec, registers)["level"]) is type(value)
    assert _values(codec, registers) == {"water.level": float(value)}
    assert codec.encode_fields({"level": value}, NO_SETTINGS) == registers


@pytest.mark.parametrize(
    ("kind", "words", "value"),
    [
        ("ascii, count: 3", [0x4131, 0x2D42, 0x2000], "A1-B"),
        ("ascii, count: 3, byte_order: little", [0x3141, 0x422D, 0x0020], "A1-B"),
        ("ascii, count: 2", [0, 0], ""),
        ("utf16, count: 4", [0x0045, 0x7535, 0x6869, 0], "E电桩"),
        ("hex, count: 4", [0, 43707, 52445, 61183], "0000AABBCCDDEEFF"),
        ("hex, count: 1, byte_order: little", [0x4100], "0041"),
        ("dotted, count: 2", [0x0106, 0x05FF], "1.6.5.255"),
        ("bcd, count: 2", [0x0012, 0x3456], 123456),
        ("bcd, count: 2, word_order: low_first", [0x3456, 0x0012], 123456),
        ("bcd, count: 2", [0xFFFF, 0xFFFF], None),
        ("u16, byte_order: little", [0x3412], 0x1234),
        ("i32, byte_order: little", [0xFFFF, 0xFEFF], -2),
        (
            "f32, byte_order: little, word_order: low_first",
            [0x5C8F, 0xB241],
            struct.unpack(">f", b"\x41\xb2\x8f\x5c")[0],
        ),
    ],
)
def test_text_bcd_and_bytes_in_little_order(kind: str, words: list[int], value: object) -> None:
    codec = _map(f"name: it, table: holding, address: 7, type: {kind}")
    registers = _words(7, *words)
    assert _named(codec, registers) == {"it": value}
    again = codec.encode_fields({"it": value}, NO_SETTINGS)
    assert _named(codec, again) == {"it": value}
    if "ascii" not in kind:
        assert again == registers


def test_a_maps_word_order_leaves_text_alone() -> None:
    fields = (
        "name: text, table: input, address: 0, type: ascii, count: 2",
        "name: n, table: input, address: 2, type: u32",
    )
    codec = _map(*fields, codec=", word_order: low_first")
    registers = _words(0, 0x4142, 0x4344, 1, 0, table="input")
    assert _named(codec, registers) == {"text": "ABCD", "n": 1}
    turned = _map(fields[0] + ", word_order: low_first")
    assert _named(turned, registers) == {"text": "CDAB"}


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("ascii, count: 1", [0xC341]),
        ("ascii, count: 1", [0x0741]),
        ("utf16, count: 1", [0xD800]),
        ("bcd, count: 1", [0x12A4]),
        ("bcd, count: 2", [0xFFFF, 0x1234]),
        ("f32", [0x7FC0, 0]),
        ("f64", [0x7FF0, 0, 0, 0]),
    ],
)
def test_words_that_say_nothing_readable(kind: str, words: list[int]) -> None:
    codec = _map(f"name: it, table: holding, address: 0, type: {kind}")
    for read in (codec.decode, codec.decode_fields):
        with pytest.raises(DecodeError) as caught:
            read(_words(0, *words), NO_SETTINGS)
        assert (caught.value.code, caught.value.field) == ("value", "it")


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("u16", 65536),
        ("u16", -1),
        ("i16", 40000),
        ("u16", 1.0e300),
        ("f16", 70000.0),
        ("f32", 1e39),
        ("f32", math.inf),
        ("u16", None),
        ("u16", "1"),
        ("ascii, count: 1", "ABC"),
        ("ascii, count: 2", "AB "),
        ("ascii, count: 2", "A\n"),
        ("ascii, count: 2", "é"),
        ("ascii, count: 2", 5),
        ("utf16, count: 1", "AB"),
        ("hex, count: 1", "ABCDEF"),
        ("hex, count: 1", "XY"),
        ("dotted, count: 1", "1.256"),
        ("dotted, count: 1", "1.2.3"),
        ("dotted, count: 1", "1.²"),
        ("bcd, count: 1", 10000),
        ("bcd, count: 1", -1),
        ("u16, byte_order: little", 65536),
    ],
)
def test_values_that_do_not_fit_are_not_written(kind: str, value: object) -> None:
    codec = _map(f"name: it, table: holding, address: 0, type: {kind}, access: rw")
    for write in (codec.encode_fields, codec.plan_writes):
        with pytest.raises(EncodeError) as caught:
            write({"it": value}, NO_SETTINGS)
        assert caught.value.field == "it"


def test_marks_of_no_value() -> None:
    codec = _map(
        "name: power, table: input, address: 0, type: u32, unit: W, metric: electric.power, invalid: [0xFFFFFFFF]",
        "name: volts, table: input, address: 2, type: f32, unit: V, metric: electric.voltage, invalid: [.nan]",
        "name: cable, table: input, address: 4, type: u16, invalid: [0xFFFF]",
    )
    gone = {"power": None, "volts": None, "cable": None}
    registers = _words(0, 0xFFFF, 0xFFFF, 0x7FC0, 0, 0xFFFF, table="input")
    assert _named(codec, registers) == gone
    assert codec.encode_fields(gone, NO_SETTINGS) == registers
    (sample,) = codec.decode(registers, NO_SETTINGS).samples
    assert (sample.values, sample.missing) == ({}, ("electric.power", "electric.voltage"))
    there = _words(0, 0, 7000, 0x4366, 0, 3, table="input")
    assert _values(codec, there) == {"electric.power": 7000.0, "electric.voltage": 230.0}


def test_coils_bits_and_letters_in_either_byte() -> None:
    codec = _map(
        "name: door, table: coil, address: 1, type: bit, metric: door.open",
        "name: lock, table: discrete, address: 1, type: bit, map: {0: free, 1: locked}",
        "name: pilot, table: input, address: 100, type: u16, bits: [{name: letter, bit: 0, width: 8, map: {65: A, 67: C},"
        " metric: pile.state, means: {A: available, C: charging}}, {name: digit, bit: 8, width: 4, signed: true},"
        " {name: fault, bit: 15, metric: pile.fault}]",
    )
    registers = {("coil", 1): 1, ("discrete", 1): 0, ("input", 100): 0x8F43}
    named = codec.decode_fields(registers, NO_SETTINGS)
    assert named.values == {"door": True, "lock": "free", "letter": "C", "digit": -1, "fault": True}
    assert named.where == {
        "door": "coil:1",
        "lock": "discrete:1",
        "letter": "input:100",
        "digit": "input:100",
        "fault": "input:100",
    }
    assert _values(codec, registers) == {"door.open": True, "pile.state": "charging", "pile.fault": True}
    assert codec.encode_fields(named.values, NO_SETTINGS) == registers
    for change, field in (({("coil", 1): 2}, "door"), ({("input", 100): 0x42}, "letter")):
        for read in (codec.decode, codec.decode_fields):
            with pytest.raises(DecodeError) as caught:
                read({**registers, **change}, NO_SETTINGS)
            assert (caught.value.code, caught.value.field) == ("value", field)
    with pytest.raises(EncodeError, match="does not fit the bits") as refused:
        codec.encode_fields({**named.values, "digit": 8}, NO_SETTINGS)
    assert refused.value.field == "digit"


def test_decimals_from_another_register() -> None:
    codec = _map(
        "name: places, table: holding, address: 3, type: u16",
        "name: level, table: holding, address: 4, type: i16, unit: m, decimals: {field: places}, metric: river.level",
    )
    assert _values(codec, _words(3, 2, 65536 - 1234 & 0xFFFF)) == {"river.level": -12.34}
    assert codec.encode_fields({"places": 2, "level": -12.34}, NO_SETTINGS) == _words(3, 2, -1234 & 0xFFFF)
    # What a value is computed with may not have been read; then there is no value.
    assert _named(codec, _words(4, 1234)) == {}
    with pytest.raises(DecodeError, match="decimals") as caught:
        codec.decode(_words(3, 99, 1), NO_SETTINGS)
    assert caught.value.field == "level"
    with pytest.raises(EncodeError, match="places, which this is computed with"):
        codec.encode_fields({"level": 1.0}, NO_SETTINGS)


def test_roles_and_settings() -> None:
    codec = _map(
        "name: clock, table: input, address: 0, type: u32, role: time, form: unix_s",
        "name: maker_id, table: input, address: 6, type: ascii, count: 2, role: serial",
        "name: load, table: input, address: 10, type: u16, unit: W, times: {setting: ratio}, metric: electric.power",
    )
    registers = {**_words(0, 0x6B00, 0, table="input"), **_words(6, 0x4131, 0, table="input"), ("input", 10): 5}
    decoded = codec.decode(registers, {"ratio": 2.5})
    assert (decoded.serial, decoded.samples[0].time) == ("A1", 0x6B000000 * 1000)
    assert decoded.samples[0].values == {"electric.power": 12.5}
    outgoing = Outgoing(values={"electric.power": 12.5}, time=0x6B000000 * 1000, serial="A1")
    assert codec.encode_fields(by_name(outgoing, codec.fields), {"ratio": 2.5}) == registers
    with pytest.raises(DecodeError, match="setting ratio"):
        codec.decode(registers, NO_SETTINGS)


# --- what was read, and what not


def test_partial_reads_and_strange_words() -> None:
    codec = _map(
        "name: state, table: input, address: 100, type: u16, map: {3: charging}, metric: pile.state",
        "name: power, table: input, address: 104, type: u32, unit: W, metric: electric.power",
        "name: start, table: holding, address: 5, type: u16, access: w",
    )
    half: dict[Key, Any] = {("input", 100): 3, ("input", 104): 0}
    assert _values(codec, half) == {"pile.state": "charging"}
    assert _named(codec, half) == {"state": "charging"}
    for registers in ({}, {("holding", 100): 3}, {("holding", 5): 1}):
        with pytest.raises(DecodeError, match="no_match"):
            codec.decode(registers, NO_SETTINGS)
    for word in (-1, 65536, 1.5, "3", 4):
        strange: dict[Key, Any] = {("input", 100): word, **_words(104, 1, 2, table="input")}
        for read in (codec.decode, codec.decode_fields):
            with pytest.raises(DecodeError) as caught:
                read(strange, NO_SETTINGS)
            assert (caught.value.code, caught.value.field) == ("value", "state")


def test_reads_are_merged_and_never_tear_a_value() -> None:
    fields = (
        "name: a, table: input, address: 9, type: u16",
        "name: b, table: input, address: 0, type: u32",
        "name: c, table: input, address: 4, type: u64",
        "name: d, table: holding, address: 3, type: u16, access: rw",
        "name: e, table: coil, address: 7, type: bit",
        "name: f, table: input, address: 300, type: u16",
        "name: g, table: holding, address: 4, type: u16, access: w",
    )

    def reads(codec: str) -> list[tuple[str, int, int]]:
        return [(read.table, read.address, read.count) for read in _map(*fields, codec=codec).reads]

    others = [("coil", 7, 1), ("holding", 3, 1)]
    assert reads("") == [*others, ("input", 0, 2), ("input", 4, 4), ("input", 9, 1), ("input", 300, 1)]
    assert reads(", max_gap: 1") == [*others, ("input", 0, 2), ("input", 4, 6), ("input", 300, 1)]
    assert reads(", max_gap: 2") == [*others, ("input", 0, 10), ("input", 300, 1)]
    assert reads(", max_gap: 2, max_count: 8") == [*others, ("input", 0, 8), ("input", 9, 1), ("input", 300, 1)]


def test_one_value_devices_get_a_request_for_each() -> None:
    fields = ("name: a, table: holding, address: 1000, type: u32", "name: b, table: holding, address: 1002, type: u32")
    assert [(read.address, read.count) for read in _map(*fields).reads] == [(1000, 4)]
    assert [(read.address, read.count) for read in _map(*fields, codec=", one_value: true").reads] == [
        (1000, 2),
        (1002, 2),
    ]


def test_shift_moves_every_address() -> None:
    codec = _map("name: a, table: input, address: 306, type: u16", codec=", shift: -1")
    assert codec.reads[0].address == 305
    named = codec.decode_fields({("input", 305): 7}, NO_SETTINGS)
    assert (named.values, named.where) == ({"a": 7}, {"a": "input:305"})
    for shift, address in ((-1, 0), (1, 65534)):
        with pytest.raises(FieldFault, match="is not within 0 to 65535"):
            _map(f"name: a, table: input, address: {address}, type: u32", codec=f", shift: {shift}")


# --- writing


def test_one_word_goes_alone_and_neighbours_together() -> None:
    limits = (
        "name: watchdog, table: holding, address: 257, type: u16",
        "name: standby, table: holding, address: 258, type: u16, default: 4",
        "name: unlocked, table: holding, address: 260, type: u16",
        "name: enable, table: coil, address: 400, type: bit",
    )
    codec = _map(*limits, direction="down")
    assert codec.reads == ()
    assert codec.plan_writes({"unlocked": 1}, NO_SETTINGS) == (
        Write(function=6, table="holding", address=258, words=(4,)),
        Write(function=6, table="holding", address=260, words=(1,)),
    )
    assert codec.plan_writes({"enable": True, "watchdog": 9, "unlocked": 1}, NO_SETTINGS) == (
        Write(function=5, table="coil", address=400, words=(1,)),
        Write(function=16, table="holding", address=257, words=(9, 4)),
        Write(function=6, table="holding", address=260, words=(1,)),
    )
    many = _map(*limits, direction="down", codec=", write: many")
    assert [write.function for write in many.plan_writes({"enable": True, "unlocked": 1}, NO_SETTINGS)] == [15, 16, 16]
    apart = _map(*limits, direction="down", codec=", one_value: true")
    assert [write.words for write in apart.plan_writes({"watchdog": 9}, NO_SETTINGS)] == [(9,), (4,)]


def test_published_limits_are_written_as_published() -> None:
    codec = _map(
        "name: limit.current, table: holding, address: 100, type: u32, unit: A, scale: 1/690, metric: pile.current_limit",
        "name: limit.power, table: holding, address: 100, type: u32, unit: W, metric: pile.power_limit",
        direction="down",
    )

    def written(**values: float) -> tuple[Write, ...]:
        return codec.plan_writes({f"limit.{name}": value for name, value in values.items()}, NO_SETTINGS)

    assert written(current=6) == (Write(function=16, table="holding", address=100, words=(0, 4140)),)
    assert written(current=16) == (Write(function=16, table="holding", address=100, words=(0, 11040)),)
    assert written(power=1547) == (Write(function=16, table="holding", address=100, words=(0, 1547)),)
    assert written(power=4140, current=6) == written(current=6)
    with pytest.raises(EncodeError, match="give one of them"):
        written(power=4141, current=6)
    assert _named(codec, _words(100, 0, 4140)) == {"limit.current": 6.0, "limit.power": 4140}


def test_no_request_is_larger_than_the_protocol_allows() -> None:
    fields = [f"name: f{number}, table: holding, address: {number * 2}, type: u32" for number in range(63)]
    writes = _map(*fields, direction="down").plan_writes({f"f{number}": number for number in range(63)}, NO_SETTINGS)
    assert [(write.address, len(write.words)) for write in writes] == [(0, 122), (122, 4)]
    with pytest.raises(FieldFault, match="more than one request writes"):
        _map("name: a, table: holding, address: 0, type: hex, count: 124, access: rw")


def test_life_bits_are_written_by_default_and_named_for_repetition() -> None:
    codec = _map(
        "name: alive, table: holding, address: 6000, type: u16, default: 1",
        direction="down",
        codec=", resend_every: 10s, unit: 255",
    )
    assert codec.plan_writes({}, NO_SETTINGS) == (Write(function=6, table="holding", address=6000, words=(1,)),)
    assert (codec.resend_every, codec.unit) == (10.0, 255)
    assert _map("name: a, table: input, address: 0, type: u16").resend_every is None


def test_a_default_gives_way_to_another_value_for_its_register() -> None:
    codec = _map(
        "name: limit, table: holding, address: 5, type: u16, default: 6",
        "name: tenths, table: holding, address: 5, type: u16, scale: 0.1",
        direction="down",
    )
    assert [write.words for write in codec.plan_writes({}, NO_SETTINGS)] == [(6,)]
    assert [write.words for write in codec.plan_writes({"tenths": 3.2}, NO_SETTINGS)] == [(32,)]


def test_what_cannot_be_written() -> None:
    codec = _map(
        "name: height, table: holding, address: 5, type: u16, access: rw",
        "name: level, table: holding, address: 6, type: u16",
    )
    assert [write.address for write in codec.plan_writes({"height": 3}, NO_SETTINGS)] == [5]
    with pytest.raises(EncodeError, match="can only be read") as caught:
        codec.plan_writes({"height": 3, "level": 1}, NO_SETTINGS)
    assert caught.value.field == "level"
    with pytest.raises(EncodeError, match="nothing to write; this message writes height"):
        codec.plan_writes({}, NO_SETTINGS)
    with pytest.raises(EncodeError, match="nothing at all"):
        _map("name: a, table: input, address: 0, type: u16").plan_writes({}, NO_SETTINGS)


def test_bits_are_written_whole() -> None:
    codec = _map(
        "name: flags, table: holding, address: 2, type: u16,"
        " bits: [{name: enable, bit: 0}, {name: mode, bit: 4, width: 3, default: 2}]",
        direction="down",
    )
    assert codec.plan_writes({"enable": True}, NO_SETTINGS)[0].words == (0x21,)
    with pytest.raises(EncodeError, match="enable is needed"):
        codec.plan_writes({"mode": 1}, NO_SETTINGS)
    with pytest.raises(EncodeError, match="nothing to write"):
        codec.plan_writes({}, NO_SETTINGS)


# --- behind a profile


def test_what_is_polled_is_not_sent_and_maps_are_found_by_name() -> None:
    profile = parse_profile(
        "schema: 1\nid: acme/x\nkind: charging_pile\ntitle: X\nproduct: {vendor: A, model: X, source: S}\n"
        "transport: {modbus: {}}\nreport_every: 60s\nvectors: []\nmessages:\n"
        "  limit:\n    direction: down\n    codec: {type: modbus, unit: 255, resend_every: 25s}\n    fields:\n"
        "      - {name: amps, table: holding, address: 5, type: u16, unit: A, metric: pile.current_limit}\n"
        "  status:\n    codec: {type: modbus}\n    fields:\n"
        "      - {name: watts, table: input, address: 1, type: u16, unit: W, metric: electric.power}\n",
        "acme/x.yaml",
        VOCABULARY,
    )
    assert profile.plan_reads() == (Read(table="input", address=1, count=1),)
    assert profile.decode_registers({("input", 1): 7}).message == "status"
    assert profile.plan_writes("limit", {"amps": 16}) == (Write(function=6, table="holding", address=5, words=(16,)),)
    assert (profile.unit("limit"), profile.resend_every("limit"), profile.resend_every("status")) == (255, 25.0, None)
    with pytest.raises(DecodeError, match="no_match"):
        profile.decode(b"\x00\x07")
    with pytest.raises(EncodeError, match="watts not in this message"):
        profile.plan_writes("limit", {"watts": 1})
    with pytest.raises(EncodeError, match="can only be read"):
        profile.plan_writes("status", {"watts": 1})


# --- descriptions that mean nothing


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (["name: a, table: input, address: 0, type: u32", "name: b, table: input, address: 1, type: u16"], "use bits"),
        (
            [
                "name: a, table: input, address: 0, type: u16, unit: W, metric: electric.power",
                "name: b, table: input, address: 1, type: u16, unit: W, metric: electric.power",
            ],
            "electric.power stands twice",
        ),
        (
            [
                "name: a, table: input, address: 0, type: u16,"
                " bits: [{name: b, bit: 0, metric: pile.fault}, {name: c, bit: 1, metric: pile.fault}]"
            ],
            "pile.fault stands twice",
        ),
        (["name: a, table: input, address: 0, type: u16, access: rw"], "input can only be read"),
        (["name: a, table: input, address: 0, type: i16, bits: [{name: b, bit: 0}]"], "bits need u16"),
        (["name: a, table: input, address: 0, type: u16, bits: [{name: b, bit: 16}]"], "outside 16 bits"),
        (["name: a, table: input, address: 0, type: u16, unit: W, metric: electric.nothing"], "electric.nothing"),
        (["name: a, table: input, address: 0, type: ascii, count: 2, unit: W, metric: electric.power"], "raw text"),
    ],
)
def test_descriptions_that_mean_nothing(fields: list[str], said: str) -> None:
    with pytest.raises(FieldFault, match=said):
        _map(*fields)


def test_a_field_must_fit_one_request() -> None:
    with pytest.raises(FieldFault, match="max_count 1"):
        _map("name: a, table: input, address: 0, type: u32", codec=", max_count: 1")


# --- properties

SIZES = {"u16": 1, "i16": 1, "u32": 2, "i32": 2, "u64": 4, "i64": 4, "f16": 1, "f32": 2, "f64": 4}
FORMATS = {"u16": "H", "i16": "h", "u32": "I", "i32": "i", "u64": "Q", "i64": "q", "f16": "e", "f32": "f", "f64": "d"}


@pytest.mark.parametrize("byte_order", ["big", "little"])
@pytest.mark.parametrize("word_order", ["high_first", "low_first"])
@pytest.mark.parametrize("kind", SIZES)
@settings(max_examples=25)
@given(data=st.data())
def test_every_number_comes_back(kind: str, word_order: str, byte_order: str, data: st.DataObject) -> None:
    raw = data.draw(st.binary(min_size=2 * SIZES[kind], max_size=2 * SIZES[kind]))
    (number,) = struct.unpack(f">{FORMATS[kind]}", raw)
    words = list(struct.unpack(f">{SIZES[kind]}H", raw))
    if byte_order == "little":
        words = [word >> 8 | (word & 0xFF) << 8 for word in words]
    if word_order == "low_first":
        words.reverse()
    codec = _map(
        f"name: n, table: holding, address: 0, type: {kind}, word_order: {word_order}, byte_order: {byte_order}"
    )
    if isinstance(number, float) and not math.isfinite(number):
        with pytest.raises(DecodeError, match="finite"):
            codec.decode_fields(_words(0, *words), NO_SETTINGS)
        return
    assert _named(codec, _words(0, *words)) == {"n": number}
    assert codec.encode_fields({"n": number}, NO_SETTINGS) == _words(0, *words)


WIDE = _map(
    "name: state, table: input, address: 0, type: u16, map: {0: idle, 1: on, 2: odd}, others: pass, metric: pile.state,"
    " means: {idle: available, on: charging}",
    "name: volts, table: input, address: 1, type: u16, scale: 0.1, unit: V, metric: electric.voltage",
    "name: warm, table: input, address: 2, type: i16, scale: 0.1, offset: -40, unit: Cel, metric: device.temperature,"
    " invalid: [-32768]",
    "name: power, table: input, address: 3, type: u32, unit: W, metric: electric.power, word_order: low_first",
    "name: energy, table: input, address: 5, type: u64, unit: W.h, metric: electric.energy",
    "name: amps, table: input, address: 9, type: f32, unit: A, metric: electric.current, invalid: [.nan]",
    "name: hertz, table: input, address: 11, type: f32, scale: 0.01, unit: Hz, metric: electric.frequency",
    "name: limit, table: input, address: 13, type: f32, scale: 0.3, unit: A, metric: pile.current_limit",
    "name: ratio, table: input, address: 15, type: f16",
    "name: flags, table: input, address: 16, type: u16, bits: [{name: fault, bit: 0, metric: pile.fault},"
    " {name: spare, bit: 1}, {name: tilt, bit: 4, width: 6, signed: true, unit: deg, metric: gauge.tilt},"
    " {name: mode, bit: 10, width: 2, map: {0: a, 1: b, 2: c}}]",
    "name: text, table: input, address: 17, type: hex, count: 2, metric: device.firmware",
    "name: count, table: input, address: 19, type: bcd, count: 1, unit: '1', metric: device.frame_counter",
    "name: door, table: coil, address: 0, type: bit, metric: door.open",
    "name: connector, table: holding, address: 0, type: u16, metric: pile.connector",
    "name: spare_text, table: holding, address: 1, type: ascii, count: 1",
    "name: cable, table: holding, address: 2, type: u16, offset: -50, unit: Cel, metric: pile.cable_temperature",
)
KEYS: list[Key] = [("input", number) for number in range(20)] + [
    ("coil", 0),
    *(("holding", number) for number in range(3)),
]
ANY = st.integers(0, 65535)
READABLE: dict[Key, st.SearchStrategy[int]] = {
    **dict.fromkeys(KEYS, ANY),
    **{("input", high): st.integers(0, 0x7F7F) | st.just(0x7FC0) for high in (9, 11, 13)},
    ("input", 15): st.integers(0x8000, 0xFBFF),
    ("input", 16): st.integers(0, 0xBFFF),
    ("input", 19): st.sampled_from([0, 0x1234, 0xFFFF]),
    ("coil", 0): st.integers(0, 1),
    ("holding", 1): st.sampled_from([0, 0x4100, 0x4142]),
}


@given(
    readable=st.fixed_dictionaries(READABLE),
    changed=st.dictionaries(st.sampled_from(KEYS), ANY | st.just(-1), max_size=2),
    unread=st.just(set[Key]()) | st.sets(st.sampled_from(KEYS)),
)
def test_any_registers_are_read_or_refused_alike_in_every_way(
    readable: dict[Key, int], changed: dict[Key, int], unread: set[Key]
) -> None:
    words = {key: word for key, word in (readable | changed).items() if key not in unread}

    def outcome(read: Any) -> object:
        try:
            return read()
        except DecodeError as error:
            return error.code, error.field, error.text

    by_short_cut = outcome(lambda: WIDE.decode(words, NO_SETTINGS))
    assert by_short_cut == outcome(lambda: _careful(WIDE, words))
    named = outcome(lambda: WIDE.decode_fields(words, NO_SETTINGS).values)
    if isinstance(by_short_cut, tuple):
        assert named == by_short_cut
        return
    assert isinstance(named, dict)
    again = WIDE.encode_fields(named, NO_SETTINGS)
    assert WIDE.decode_fields(again, NO_SETTINGS).values == named


@pytest.mark.parametrize(
    "field",
    [
        "name: x, table: input, address: 0, type: i16, unit: W, metric: electric.power, valid: [-5, 100]",
        "name: x, table: input, address: 0, type: i16, unit: W, metric: electric.power, valid: [-5, 100], invalid: [7]",
    ],
)
def test_codes_outside_the_valid_ones_are_missing_in_every_way(field: str) -> None:
    codec = _map(field)
    for word, shown in ((100, 100), (0xFFFB, -5), (101, None), (0xFFFA, None)):
        registers = _words(0, word, table="input")
        decoded = codec.decode(registers, NO_SETTINGS)
        assert decoded == _careful(codec, registers)
        assert decoded.samples[0].missing == (() if shown is not None else ("electric.power",))
        assert _named(codec, registers) == {"x": shown}


def test_the_short_cut_is_taken() -> None:
    registers = dict.fromkeys(KEYS, 0)
    assert WIDE._fast is not None
    assert WIDE._fast(registers) is not None
    assert list(_values(WIDE, registers)) == list(_careful(WIDE, registers).samples[0].values)


# --- requests on a serial line


@pytest.mark.parametrize(
    ("frame", "unit", "address"),
    [
        ("010300010001d5ca", 1, 1),
        ("010300030001740a", 1, 3),
        ("010300050001940b", 1, 5),
        ("010303f40001c5bc", 1, 1012),
        ("010303f60001647c", 1, 1014),
        ("010307d40001c546", 1, 2004),
        ("03030000000185e8", 3, 0),
        ("010300000001840a", 1, 0),
    ],
)
def test_published_requests(frame: str, unit: int, address: int) -> None:
    assert parse_rtu_request(bytes.fromhex(frame)) == (unit, 3, address, 1)
    assert function_of("holding") == 3


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"", "truncated"),
        (bytes.fromhex("010300010001d5"), "truncated"),
        (bytes.fromhex("010300010001d5ca00"), "trailing"),
        (bytes.fromhex("010300010001d5cb"), "checksum"),
        (bytes.fromhex("010300010002d5ca"), "checksum"),
    ],
)
def test_frames_that_are_no_request(frame: bytes, code: str) -> None:
    with pytest.raises(RequestFault) as caught:
        parse_rtu_request(frame)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (ReadRequest(1, 6, 0, 1), "shape"),
        (ReadRequest(1, 3, 65535, 2), "value"),
        (ReadRequest(1, 3, 0, 0), "value"),
        (ReadRequest(1, 3, 0, 126), "value"),
        (ReadRequest(1, 1, 0, 2001), "value"),
    ],
)
def test_requests_that_the_protocol_does_not_know(request_: ReadRequest, code: str) -> None:
    with pytest.raises(RequestFault) as caught:
        parse_rtu_request(_on_the_line(request_))
    assert caught.value.code == code


def _on_the_line(request: ReadRequest) -> bytes:
    body = struct.pack(">BBHH", *request)
    return body + crc16_modbus(body).to_bytes(2, "little")


@pytest.mark.parametrize(("table", "most"), [("coil", 2000), ("discrete", 2000), ("holding", 125), ("input", 125)])
def test_every_table_is_asked_for_up_to_its_end(table: str, most: int) -> None:
    request = ReadRequest(255, function_of(table), 65536 - most, most)
    assert parse_rtu_request(_on_the_line(request)) == request
    assert table_of(request.function) == table
