"""Each codec by example: what it reads, what it refuses and with which code, what it writes."""

from __future__ import annotations

import json

import cbor2
import pytest

from citysense_profiles import DecodeError, EncodeError, Profile, Read, load_catalogue, load_vocabulary
from citysense_profiles.codecs.checksum import crc16_modbus
from citysense_profiles.codecs.moment import FROM_MILLISECONDS, TO_MILLISECONDS
from citysense_profiles.compiler import parse_profile
from citysense_profiles.conversion import RefusedError

CATALOGUE = load_catalogue()
GAUGE = CATALOGUE["generic/water-gauge"]
LOCK = CATALOGUE["generic/nbiot-lock"]


def _profile(messages: str) -> Profile:
    head = (
        "schema: 1\nid: acme/gauge\nkind: waterlogging_gauge\ntitle: G\nproduct: {vendor: A, model: G, source: S}\n"
        "transport: {mqtt: {}}\nreport_every: 60s\nvectors: []\nmessages:\n"
    )
    return parse_profile(head + messages, "acme/gauge.yaml", load_vocabulary())


def _code(profile: Profile, payload: bytes, **named: object) -> str:
    with pytest.raises(DecodeError) as caught:
        profile.decode(payload, **named)  # type: ignore[arg-type]
    return caught.value.code


# --- native


def test_native_writes_the_documented_object() -> None:
    frame = GAUGE.encode(
        "report", {"water.level": 12.3, "battery.voltage": None}, boot=3, seq=41, base=39, time=1795190934423
    )
    assert json.loads(frame) == {
        "boot": 3,
        "seq": 41,
        "t": 1795190934423,
        "v": {"water.level": 12.3, "battery.voltage": None},
        "base": 39,
    }
    cbor = GAUGE.encode("report", {"water.level": 12.3}, boot=3, seq=41, content=60)
    assert cbor2.loads(cbor) == {"boot": 3, "seq": 41, "v": {"water.level": 12.3}}


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
        {"boot": 1, "seq": 1, "v": {}, "t": 1.5},
        {"boot": 1, "seq": 1, "v": {}, "t": 2**52},
        {"boot": 1, "seq": 1, "v": {}, "extra": 1},
        [1],
        3,
    ],
)
def test_native_refuses_what_has_another_shape(document: object) -> None:
    assert _code(GAUGE, json.dumps(document).encode(), content=50) == "shape"
    assert _code(GAUGE, cbor2.dumps(document), content=60) == "shape"


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_native_numbers_are_finite(number: float) -> None:
    assert _code(GAUGE, cbor2.dumps({"boot": 1, "seq": 1, "v": {"water.level": number}})) == "shape"
    assert _code(GAUGE, json.dumps({"boot": 1, "seq": 1, "v": {"water.level": number}}).encode()) == "encoding"
    assert _code(GAUGE, b'{"boot":1,"seq":1,"v":{"water.level":1e999}}') == "shape"


def test_content_format_decides_before_the_first_byte() -> None:
    frame = GAUGE.encode("report", {}, boot=1, seq=2)
    assert GAUGE.decode(frame).seq == GAUGE.decode(frame, content=50).seq == GAUGE.decode(b" \n" + frame).seq == 2
    assert _code(GAUGE, frame, content=60) == "encoding"
    assert _code(GAUGE, cbor2.dumps({"boot": 1, "seq": 2, "v": {}}), content=50) == "encoding"


def test_numbers_are_floats_and_a_message_without_values_has_no_sample() -> None:
    (sample,) = GAUGE.decode(b'{"boot":1,"seq":2,"v":{"water.level":12}}').samples
    assert type(sample.values["water.level"]) is float
    empty = GAUGE.decode(b'{"boot":1,"seq":2,"v":{}}')
    assert (empty.samples, empty.boot, empty.seq) == ((), 1, 2)


def test_a_level_is_derived_only_where_it_is_not_sent() -> None:
    frame = GAUGE.encode("report", {"water.distance": 211.6}, boot=1, seq=0)
    assert "water.level" not in GAUGE.decode(frame).samples[0].values
    assert GAUGE.decode(frame, settings={"mount.height": 250}).samples[0].values["water.level"] == 38.4
    both = GAUGE.encode("report", {"water.distance": 211.6, "water.level": 1.0}, boot=1, seq=0)
    assert GAUGE.decode(both, settings={"mount.height": 250}).samples[0].values["water.level"] == 1.0
    gone = GAUGE.encode("report", {"water.distance": None}, boot=1, seq=0)
    assert set(GAUGE.decode(gone, settings={"mount.height": 250}).samples[0].missing) == {
        "water.distance",
        "water.level",
    }


@pytest.mark.parametrize(
    "payload", [b"", b"{", b"[" * 100_000, b"\x81" * 100_000, b"\xff", b'{"boot":1,"x":' + b"[" * 100_000]
)
def test_no_document_at_all(payload: bytes) -> None:
    for profile in (GAUGE, LOCK):
        for content in (None, 50, 60):
            assert _code(profile, payload, content=content) in ("encoding", "shape")


def test_cbor_tags_and_what_follows_are_refused() -> None:
    assert _code(GAUGE, bytes.fromhex("d81c80"), content=60) == "encoding"
    assert _code(GAUGE, cbor2.dumps({"boot": 1, "seq": 2, "v": {}}) + b"\x00", content=60) == "encoding"
    assert _code(GAUGE, bytes.fromhex("a2646266f7"), content=60) == "encoding"


def test_cbor_keys_stand_once_and_nesting_is_shallow() -> None:
    twice = bytes.fromhex("a4") + b"".join(
        cbor2.dumps(key) + cbor2.dumps(value) for key, value in (("boot", 1), ("seq", 1), ("seq", 2), ("v", {}))
    )
    assert _code(GAUGE, twice, content=60) == "encoding"
    assert _code(GAUGE, b"\x81" * 31 + b"\x00", content=60) == "shape"
    assert _code(GAUGE, b"\x81" * 40 + b"\x00", content=60) == "encoding"


def test_encoding_errors_name_message_and_field() -> None:
    with pytest.raises(EncodeError, match=r"water\.depth not in this message") as caught:
        GAUGE.encode("report", {"water.depth": 1.0}, boot=1, seq=1)
    assert (caught.value.message, caught.value.field) == ("report", "water.depth")
    with pytest.raises(EncodeError, match="needs seq"):
        GAUGE.encode("report", {}, boot=1)
    with pytest.raises(EncodeError, match="no message 'alarm'; messages of this profile: report"):
        GAUGE.encode("alarm", {})
    with pytest.raises(EncodeError, match="not a finite number"):
        GAUGE.encode("report", {"water.level": float("nan")}, boot=1, seq=1)
    assert _code(GAUGE, b"{}", message="alarm") == "no_match"


# --- binary and TLV


def test_check_sum_against_published_frames() -> None:
    login_answer = bytes.fromhex("680c000000025503141278230500da4c")
    assert crc16_modbus(login_answer[2:-2]).to_bytes(2, "little") == login_answer[-2:]
    set_period = bytes.fromhex("00020e1048a4")
    assert crc16_modbus(set_period[:4]).to_bytes(2, "big") == set_period[4:]


def test_a_flipped_bit_is_noticed_wherever_it_is() -> None:
    pile = CATALOGUE["ykc/pile-v1-6"]
    good = pile.encode("heartbeat", {"pile.fault": False}, serial="55031412782305")
    assert pile.decode(good).serial == "55031412782305"
    for position in range(2, len(good)):
        for bit in range(8):
            bad = bytearray(good)
            bad[position] ^= 1 << bit
            assert _code(pile, bytes(bad), message="heartbeat") in ("checksum", "no_match")


def test_binary_errors_say_which_byte() -> None:
    gauge = CATALOGUE["dingtek/df555"]
    with pytest.raises(DecodeError) as caught:
        gauge.decode(bytes.fromhex("800001011107d000190000000000010080"))
    error = caught.value
    assert (error.code, error.profile, error.message, error.field, error.offset) == (
        "shape", "dingtek/df555", "report", "end", 16,
    )  # fmt: skip
    with pytest.raises(EncodeError, match=r"water\.distance is needed"):
        gauge.encode("report", {})
    with pytest.raises(EncodeError, match="does not fit 2 bytes"):
        gauge.encode("report", {"water.distance": 99999.0})
    with pytest.raises(EncodeError, match="no mark for a missing value"):
        gauge.encode("report", {"water.distance": None})


WIDE = """
  report:
    codec: {type: binary, byte_order: big}
    fields:
      - {metric: water.distance, type: u24, unit: mm, invalid: [0xFFFFFF]}
      - {metric: water.level, type: i40, byte_order: little, unit: mm}
      - {metric: battery.voltage, type: f32, unit: V}
      - {metric: battery.level, type: f64, byte_order: little, unit: "%", invalid: [.nan]}
      - {metric: device.temperature, type: i16, byte_order: little, scale: 0.1, unit: Cel}
      - {metric: device.frame_counter, type: bcd, length: 2, unit: "1"}
      - {role: boot, type: u8}
      - {role: seq, type: u16}
      - {role: tag, type: hex, length: 2}
      - {role: serial, type: ascii, length: 4}
      - {role: time, type: u64, form: unix_ms}
      - name: flags
        type: u16
        byte_order: little
        bits: [{metric: gauge.tilted, bit: 15}, {metric: pile.connector, bit: 0, width: 4}]
"""


def test_every_kind_of_slot_goes_both_ways() -> None:
    profile = _profile(WIDE)
    values = {
        "water.distance": 1677721.4,
        "water.level": -54975581388.8,
        "battery.voltage": 3.5,
        "battery.level": 12.345,
        "device.temperature": -12.3,
        "device.frame_counter": 1234.0,
        "gauge.tilted": True,
        "pile.connector": 11,
    }
    frame = profile.encode("report", values, boot=7, seq=513, tag="BEEF", serial="ab1", time=1795190934423)
    assert frame[:8] == bytes.fromhex("fffffe0000000080")
    assert frame[20:24] == bytes.fromhex("85ff1234")
    assert frame[-2:] == bytes.fromhex("0b80")
    decoded = profile.decode(frame)
    (sample,) = decoded.samples
    assert sample.values == values
    assert (sample.time, sample.tag, sample.missing) == (1795190934423, "BEEF", ())
    assert (decoded.boot, decoded.seq, decoded.serial) == (7, 513, "ab1")
    gone = profile.encode(
        "report",
        values | {"water.distance": None, "battery.level": None},
        boot=7,
        seq=1,
        tag="BEEF",
        serial="ab1",
        time=0,
    )
    assert profile.decode(gone).samples[0].missing == ("water.distance", "battery.level")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"tag": "BEE"}, "tag"),
        ({"tag": "BEEFED"}, "tag"),
        ({"serial": "longer"}, "serial"),
        ({"serial": None}, "serial"),
        ({"time": None}, "time"),
        ({"seq": 65536}, "seq"),
        ({"boot": -1}, "boot"),
    ],
)
def test_roles_that_do_not_fit(change: dict[str, object], named: str) -> None:
    profile = _profile(WIDE)
    values = dict.fromkeys(("water.level", "battery.voltage", "device.temperature", "device.frame_counter"), 1.0)
    roles = {"boot": 1, "seq": 1, "tag": "BEEF", "serial": "a", "time": 0}
    everything = {**values, "gauge.tilted": False, "pile.connector": 1}
    assert profile.encode("report", everything, **roles)  # type: ignore[arg-type]
    with pytest.raises(EncodeError) as caught:
        profile.encode("report", everything, **(roles | change))  # type: ignore[arg-type]
    assert caught.value.field == named


def test_bcd_and_ascii_are_checked() -> None:
    profile = _profile(WIDE)
    good = bytearray(
        profile.encode(
            "report",
            {
                **dict.fromkeys(("water.level", "battery.voltage", "device.temperature", "device.frame_counter"), 1.0),
                "gauge.tilted": False,
                "pile.connector": 1,
            },
            boot=1, seq=1, tag="BEEF", serial="a", time=0,
        )
    )  # fmt: skip
    for position, byte, field in ((22, 0x1A, "device.frame_counter"), (29, 0xC3, "serial"), (33, 0xFF, "time")):
        bad = bytes(good[:position]) + bytes([byte]) + bytes(good[position + 1 :])
        with pytest.raises(DecodeError) as caught:
            profile.decode(bad)
        assert (caught.value.code, caught.value.field) == ("value", field)
        assert caught.value.offset is not None


def test_tlv_items_come_in_any_order_and_are_written_in_one() -> None:
    gauge = CATALOGUE["milesight/em310-udl"]
    decoded = gauge.decode(bytes.fromhex("0382440801755c"))
    assert decoded.samples[0].values == {"water.distance": 211.6, "battery.level": 92.0}
    assert gauge.encode("report", {"water.distance": 211.6, "battery.level": 92.0}).hex() == "01755c03824408"
    with pytest.raises(EncodeError, match="nothing to send"):
        gauge.encode("report", {})
    with pytest.raises(DecodeError) as caught:
        gauge.decode(bytes.fromhex("01755c0999"))
    assert (caught.value.code, caught.value.offset) == ("shape", 3)


# --- JSON


def test_list_or_single_item_and_other_events() -> None:
    reader = CATALOGUE["impinj/r700"]
    one = reader.encode("events", {"tag.antenna": 1}, tag="7EDA", time=1795190934423, serial="r-1")
    assert len(reader.decode(one).samples) == 1
    many = reader.decode(b"[" + one + b"," + one + b',{"eventType":"other"}]')
    assert [sample.tag for sample in many.samples] == ["7EDA", "7EDA"]
    assert (many.samples[0].event, many.samples[0].time, many.serial) == ("tag.seen", 1795190934423, "r-1")
    assert reader.decode(b"[]").samples == ()
    assert reader.decode(b'{"eventType":"other"}').samples == ()


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("antennaPort", "1", "shape"),
        ("antennaPort", 1.5, "shape"),
        ("antennaPort", True, "shape"),
        ("antennaPort", 2**64, "shape"),
        ("antennaName", 1, "shape"),
        ("epcHex", "XYZ", "shape"),
        ("epcHex", 5, "shape"),
        ("phaseAngle", "1", "shape"),
        ("lastSeenTime", "2021-02-30T00:00:00Z", "value"),
        ("lastSeenTime", 5, "shape"),
    ],
)
def test_json_types_are_held_to(field: str, value: object, code: str) -> None:
    event = {"eventType": "tagInventory", "tagInventoryEvent": {"epcHex": "7EDA", field: value}}
    assert _code(CATALOGUE["impinj/r700"], json.dumps(event).encode()) == code


def test_each_below_a_pointer_and_numbers_with_a_scale() -> None:
    profile = _profile(
        "  report:\n    codec: {type: json, each: /data/list}\n    fields:\n"
        "      - {pointer: /at, type: number, role: time, form: unix_s}\n"
        "      - {pointer: /bat~1v, type: number, scale: 0.1, unit: V, metric: battery.voltage}\n"
    )
    decoded = profile.decode(b'{"data":{"list":[{"at":1795190934.423,"bat/v":33.3},{"at":1795190935,"bat/v":33}]}}')
    assert [(sample.time, sample.values["battery.voltage"]) for sample in decoded.samples] == [
        (1795190934423, 3.33),
        (1795190935000, 3.3),
    ]
    frame = profile.encode("report", {"battery.voltage": 3.33}, time=1795190934423)
    assert json.loads(frame) == {"data": {"list": [{"at": 1795190934.423, "bat/v": 33.3}]}}
    assert _code(profile, b'{"data":{}}') == "shape"
    assert _code(profile, b'{"data":{"list":[3]}}') == "shape"


# --- SenML


SENML = """
  report:
    codec: {type: senml, base_names: ["urn:dev:ow:{serial}:"]}
    fields:
      - {senml: voltage, value: v, unit: V, units: [V], metric: electric.voltage}
      - {senml: current, value: v, unit: A, units: [A], metric: electric.current}
      - {senml: "", value: v, unit: Cel, metric: device.temperature}
"""


def test_base_names_times_and_values() -> None:
    profile = _profile(SENML)
    pack = [
        {"bn": "urn:dev:ow:10e2073a01080063:", "bt": 1.276020076e9, "bu": "A", "bver": 5, "bv": 100},
        {"n": "voltage", "u": "V", "v": 20.1},
        {"n": "current", "t": -5, "v": -98.8},
        {"n": "current", "t": -4},
    ]
    pack[0] |= {"n": "current", "v": -98.5}
    decoded = profile.decode(json.dumps(pack).encode())
    assert decoded.serial == "10e2073a01080063"
    assert [sample.time for sample in decoded.samples] == [1276020076000, 1276020071000, 1276020072000]
    assert decoded.samples[0].values == {
        "electric.current": pytest.approx(1.5),
        "electric.voltage": pytest.approx(120.1),
    }
    assert decoded.samples[2].values == {"electric.current": 100.0}


def test_small_times_are_relative_and_come_without_one() -> None:
    def times(*records: tuple[float, str]) -> list[tuple[int | None, object]]:
        pack = [{"n": "event", "t": at, "vs": event} for at, event in records]
        samples = LOCK.decode(json.dumps(pack).encode()).samples
        return [(sample.time, sample.values["lock.event"]) for sample in samples]

    assert times((2**28, "lock")) == [(2**28 * 1000, "lock")]
    assert times((2**28 - 1, "lock")) == [(None, "lock")]
    assert times((0, "ajar"), (-9.5, "lock"), (1795190934, "forced")) == [
        (1795190934000, "forced"),
        (None, "lock"),
        (None, "ajar"),
    ]


def test_cbor_and_json_say_the_same() -> None:
    for content, alone in ((110, b"["), (112, b"\x82")):
        frame = LOCK.encode(
            "report",
            {"lock.event": "forced", "battery.level": 87.0},
            content=content,
            time=1795190934423,
            serial="8625",
        )
        assert frame.startswith(alone)
        for told in (content, None):
            decoded = LOCK.decode(frame, content=told)
            assert decoded.serial == "8625"
            (sample,) = decoded.samples
            assert (sample.time, sample.event) == (1795190934423, "lock.event")
            assert sample.values == {"lock.event": "forced", "battery.level": 87.0}


@pytest.mark.parametrize(
    ("record", "code"),
    [
        ({"n": 1, "vs": "lock"}, "shape"),
        ({"n": "event", "vs": 1}, "value"),
        ({"n": "event", "vs": "lock", "t": "now"}, "shape"),
        ({"n": "event", "vs": "lock", "t": 1e300}, "value"),
        ({"n": "event", "vs": "lock", "bver": 11}, "shape"),
        ({"n": "event", "vs": "lock", "v": 1}, "shape"),
        ({"n": "event"}, "shape"),
        (3, "shape"),
    ],
)
def test_records_that_are_none(record: object, code: str) -> None:
    expected = {code, "shape"} if code == "value" else {code}
    assert _code(LOCK, json.dumps([record]).encode()) in expected


def test_what_senml_cannot_write() -> None:
    with pytest.raises(EncodeError, match="nothing to send"):
        LOCK.encode("report", {"lock.event": None})
    with pytest.raises(EncodeError, match="relative"):
        LOCK.encode("report", {"lock.event": "lock"}, time=5)
    with pytest.raises(EncodeError, match="base name"):
        LOCK.encode("report", {"lock.event": "lock"}, serial="a:b")


# --- Modbus


def _one_register(kind: str, order: str, metric: str = "water.level, unit: cm") -> Profile:
    return _profile(
        f"  status:\n    codec: {{type: modbus, word_order: {order}}}\n    fields:\n"
        f"      - {{table: holding, address: 10, type: {kind}, metric: {metric}}}\n"
    )


@pytest.mark.parametrize(
    ("kind", "order", "words", "value"),
    [
        ("u32", "high_first", [4660, 22136], 305419896),
        ("u32", "low_first", [22136, 4660], 305419896),
        ("u64", "high_first", [4660, 22136, 57005, 48879], 1311768468603649775),
        ("f32", "high_first", [16818, 47186], 22.34000015258789),
        ("f64", "high_first", [49246, 56524, 52428, 52429], -123.45),
        ("i32", "high_first", [65535, 60876], -4660),
        ("i64", "high_first", [65535, 65535, 8530, 16657], -3735928559),
        ("i16", "high_first", [43400], -22136),
        ("u16", "high_first", [43400], 43400),
        ("f32", "low_first", [20118, 18522], 223546.34375),
    ],
)
def test_published_register_values(kind: str, order: str, words: list[int], value: float) -> None:
    profile = _one_register(kind, order)
    registers = {("holding", 10 + step): word for step, word in enumerate(words)}
    assert profile.decode_registers(registers).samples[0].values == {"water.level": float(value)}
    again = profile.encode_registers({"water.level": float(value)})
    assert again == registers or abs(value) > 2**53


def test_reads_are_merged_and_never_tear_a_value() -> None:
    fields = "".join(
        f"      - {{table: {table}, address: {address}, type: {kind}, metric: {metric}}}\n"
        for table, address, kind, metric in (
            ("input", 9, "u16", "water.level, unit: mm"),
            ("input", 0, "u32", "water.distance, unit: mm"),
            ("input", 4, "u64", "battery.voltage, unit: mV"),
            ("holding", 3, "u16", "battery.level, unit: '%'"),
            ("coil", 7, "bit", "gauge.tilted"),
            ("input", 300, "u16", "device.temperature, unit: Cel"),
        )
    )

    def reads(codec: str) -> list[tuple[str, int, int]]:
        profile = _profile(f"  status:\n    codec: {{type: modbus{codec}}}\n    fields:\n{fields}")
        return [(read.table, read.address, read.count) for read in profile.plan_reads()]

    others = [("coil", 7, 1), ("holding", 3, 1)]
    assert reads("") == [*others, ("input", 0, 2), ("input", 4, 4), ("input", 9, 1), ("input", 300, 1)]
    assert reads(", max_gap: 1") == [*others, ("input", 0, 2), ("input", 4, 6), ("input", 300, 1)]
    assert reads(", max_gap: 2") == [*others, ("input", 0, 10), ("input", 300, 1)]
    assert reads(", max_gap: 2, max_count: 8") == [*others, ("input", 0, 8), ("input", 9, 1), ("input", 300, 1)]


def test_partial_reads_and_strange_words() -> None:
    pile = CATALOGUE["alpitronic/hypercharger"]
    assert pile.plan_reads() == (Read(table="input", address=100, count=10), Read(table="input", address=132, count=4))
    half = {("input", 100): 3, ("input", 104): 0}
    assert pile.decode_registers(half).samples[0].values == {"pile.state": "charging"}
    for registers in ({}, {("holding", 100): 3}):
        with pytest.raises(DecodeError, match="no_match"):
            pile.decode_registers(registers)
    for word in (-1, 65536, 1.5, "3"):
        with pytest.raises(DecodeError) as caught:
            pile.decode_registers({("input", 100): word})  # type: ignore[dict-item]
        assert (caught.value.code, caught.value.field) == ("value", "pile.state")
    with pytest.raises(EncodeError, match="does not fit 2 bytes"):
        pile.encode_registers({"pile.charging_time": 70000.0})


def test_coils_and_packed_registers() -> None:
    coil = _one_register("u16", "high_first", "pile.connector").encode_registers({"pile.connector": 3})
    assert coil == {("holding", 10): 3}
    profile = _profile(
        "  status:\n    codec: {type: modbus}\n    fields:\n"
        "      - {table: coil, address: 1, type: bit, metric: door.open}\n"
        "      - {name: flags, table: input, address: 2, type: u16, bits: [{bit: 0, metric: gauge.tilted, default: false},"
        " {bit: 4, width: 3, metric: pile.connector, default: 0}]}\n"
    )
    assert profile.encode_registers({"door.open": True, "pile.connector": 5}) == {("coil", 1): 1, ("input", 2): 0x50}
    decoded = profile.decode_registers({("coil", 1): 0, ("input", 2): 0xFF51})
    assert decoded.samples[0].values == {"door.open": False, "gauge.tilted": True, "pile.connector": 5}
    with pytest.raises(DecodeError, match="not a bit"):
        profile.decode_registers({("coil", 1): 2})
    with pytest.raises(EncodeError, match="does not fit the bits"):
        profile.encode_registers({"pile.connector": 8})


def test_what_is_polled_is_not_sent_and_the_other_way_round() -> None:
    pile = CATALOGUE["alpitronic/hypercharger"]
    assert _code(pile, b"\x03") == "no_match"
    with pytest.raises(EncodeError):
        pile.encode("status", {})
    with pytest.raises(DecodeError, match="no_match"):
        GAUGE.decode_registers({("input", 1): 1})
    with pytest.raises(EncodeError):
        GAUGE.encode_registers({})
    with pytest.raises(DecodeError, match="no_match"):
        pile.decode_registers({("input", 100): 1}, message="other")
    assert GAUGE.plan_reads() == ()


# --- time


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2021-02-02T22:18:35.499734Z", 1612304315499),
        ("2021-02-02T22:18:35.658476625Z", 1612304315658),
        ("2021-02-03T06:18:35.4+08:00", 1612304315400),
        ("2021-02-02t22:18:35z", 1612304315000),
        ("2016-12-31T23:59:60Z", 1483228800000),
    ],
)
def test_rfc3339(text: str, milliseconds: int) -> None:
    assert TO_MILLISECONDS["rfc3339"](text) == milliseconds
    assert TO_MILLISECONDS["rfc3339"](FROM_MILLISECONDS["rfc3339"](milliseconds)) == milliseconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2021-02-02",
        "2021-02-02T22:18:35",
        "2021-13-02T22:18:35Z",
        "1969-12-31T23:59:59Z",
        "2021-02-02T22:18:61Z",
        5,
    ],
)
def test_times_that_are_none(text: object) -> None:
    with pytest.raises(RefusedError):
        TO_MILLISECONDS["rfc3339"](text)


@pytest.mark.parametrize(
    "pack",
    [
        b"[" + b",".join([b'{"n":"x"}'] * 1_001) + b"]",
        b'[{"bn":"' + b"x" * 300 + b'","n":"/3/0/9","v":50}]',
    ],
)
def test_a_pack_built_to_keep_the_decoder_busy_is_refused(pack: bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        load_catalogue()["generic/nbiot-lock"].decode(pack, message="report", content=110)
    assert caught.value.code == "shape"
    assert "at most" in str(caught.value)
