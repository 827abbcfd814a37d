"""SenML packs by example and at random: RFC 8428's own, times, units, senders, both faces and both ways."""

from __future__ import annotations

import json
from time import process_time
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from citysense_profiles.codecs.contract import Finish, Place
from citysense_profiles.codecs.field import FieldFault, Outgoing, by_name
from citysense_profiles.codecs.senml.codec import SenmlCodec
from citysense_profiles.errors import DecodeError, EncodeError, RefusedError
from citysense_profiles.format.profile_file import SenmlMessage
from citysense_profiles.vocabulary import load_vocabulary

FINISH = Finish(event=None, event_metrics=frozenset({"lock.event"}), derivations=())
LABELS = {
    "bver": -1,
    "bn": -2,
    "bt": -3,
    "bu": -4,
    "bv": -5,
    "n": 0,
    "u": 1,
    "v": 2,
    "vs": 3,
    "vb": 4,
    "s": 5,
    "t": 6,
    "vd": 8,
}


def _codec(*fields: dict[str, Any], base_names: list[str] | None = None) -> SenmlCodec:
    entry = {"codec": {"type": "senml", "base_names": base_names or []}, "fields": list(fields)}
    return SenmlCodec(Place("acme/box", "report"), FINISH, SenmlMessage.model_validate(entry), load_vocabulary())


def _field(name: str, senml: str, value: str = "v", **more: Any) -> dict[str, Any]:
    return {"name": name, "senml": senml, "value": value, **more}


METER = _codec(
    _field("voltage", "voltage", unit="V", units=["V"], metric="electric.voltage"),
    _field("current", "current", unit="A", units=["A"], metric="electric.current"),
    base_names=["urn:dev:ow:{serial}:"],
)
PROBE = _codec(
    _field("temperature", "", unit="Cel", units=["Cel"], metric="device.temperature"),
    _field("humidity", "", unit="%", units=["%RH"], metric="air.humidity"),
    base_names=["urn:dev:ow:{serial}", "urn:dev:ow:{serial}:"],
)
LOCK = _codec(
    _field("event", "event", "vs", metric="lock.event"),
    _field("open", "/10351/0/50", "vb", metric="door.open"),
    _field("battery", "/3/0/9", unit="%", units=["", "%", "%EL"], metric="battery.level"),
    _field("cell", "/3/0/7", unit="mV", units=["mV"], metric="battery.voltage"),
    _field("key", "key", "vd"),
    _field("coverage", "/4/0/13", map={0: "none", 1: "level_0"}, metric="link.coverage_level"),
    base_names=["urn:dev:imei:{serial}:", "{serial}:"],
)
EVENTS = ("lock", "door_open", "forced", "ajar")


def _named(codec: SenmlCodec, pack: Any) -> dict[str, Any]:
    return dict(codec.decode_fields(json.dumps(pack).encode(), None, {}).values)


def _pack(codec: SenmlCodec, values: Any) -> Any:
    return json.loads(codec.encode_fields(values, None, {}))


def _refused(codec: SenmlCodec, payload: bytes, content: int | None = None) -> DecodeError:
    with pytest.raises(DecodeError) as caught:
        codec.decode(payload, content, {})
    with pytest.raises(DecodeError) as named:
        codec.decode_fields(payload, content, {})
    assert str(named.value) == str(caught.value)
    return caught.value


def _cbor(pack: list[dict[str, Any]]) -> bytes:
    return cbor2.dumps([{LABELS[key]: value for key, value in record.items()} for record in pack])


# --- the examples of RFC 8428


def test_one_value() -> None:
    pack = [{"n": "urn:dev:ow:10e2073a01080063", "v": 23.1, "u": "Cel"}]
    named = PROBE.decode_fields(json.dumps(pack).encode(), 110, {})
    assert named.values == {"serial": "10e2073a01080063", "temperature": 23.1}
    assert named.where == {"serial": "/0", "temperature": "/0/v"}
    assert _pack(PROBE, named.values) == [{"bn": "urn:dev:ow:10e2073a01080063", "v": 23.1, "u": "Cel"}]


def test_two_values_of_one_moment() -> None:
    pack = [
        {"bn": "urn:dev:ow:10e2073a01080063:", "n": "voltage", "t": 0, "u": "V", "v": 120.1},
        {"n": "current", "t": 0, "u": "A", "v": 1.2},
    ]
    named = _named(METER, pack)
    assert named == {"serial": "10e2073a01080063", "time": 0, "voltage": 120.1, "current": 1.2}
    assert _named(METER, _pack(METER, named)) == named
    (sample,) = METER.decode(json.dumps(pack).encode(), None, {}).samples
    assert (sample.time, sample.values) == (None, {"electric.voltage": 120.1, "electric.current": 1.2})


def test_several_moments_are_lists() -> None:
    pack = [
        {"bn": "urn:dev:ow:10e2073a01080063", "bt": 1320067464, "bu": "%RH", "v": 21.2, "t": 0},
        {"v": 21.3, "t": 10},
        {"v": 21.4, "t": 20},
    ]
    named = _named(PROBE, pack)
    assert named == {
        "serial": "10e2073a01080063",
        "time": [1320067464, 1320067474, 1320067484],
        "humidity": [21.2, 21.3, 21.4],
    }
    assert _pack(PROBE, named) == [
        {"bn": "urn:dev:ow:10e2073a01080063", "bt": 1320067464, "u": "%RH", "v": 21.2},
        {"u": "%RH", "v": 21.3, "t": 10},
        {"u": "%RH", "v": 21.4, "t": 20},
    ]
    decoded = PROBE.decode(json.dumps(pack).encode(), None, {})
    assert [(sample.time, sample.values) for sample in decoded.samples] == [
        (1320067464000, {"air.humidity": 21.2}),
        (1320067474000, {"air.humidity": 21.3}),
        (1320067484000, {"air.humidity": 21.4}),
    ]


def test_times_without_a_base() -> None:
    name = "urn:dev:ow:10e2073a01080063"
    pack = [{"n": name, "t": 1276020076, "v": 23.5, "u": "Cel"}, {"n": name, "t": 1276020091, "v": 23.6, "u": "Cel"}]
    named = _named(PROBE, pack)
    assert (named["time"], named["temperature"]) == ([1276020076, 1276020091], [23.5, 23.6])
    assert _named(PROBE, _pack(PROBE, named)) == named


def test_base_value_and_base_unit() -> None:
    pack = [
        {"bn": "urn:dev:ow:10e2:", "bt": 1.276020076e9, "bu": "A", "bver": 5, "bv": 100, "n": "current", "v": -98.8},
        {"n": "voltage", "u": "V", "v": 20.1},
        {"n": "current", "t": -5, "v": -98.5},
        {"n": "current", "t": -4},
    ]
    named = _named(METER, pack)
    assert named == {
        "serial": "10e2",
        "time": [1276020076, 1276020071, 1276020072],
        "voltage": [120.1, None, None],
        "current": [1.2, 1.5, 100],
    }
    assert _named(METER, _pack(METER, named)) == named


# --- names, units, kinds


def test_names_shared_by_two_units() -> None:
    pack = [{"bn": "urn:dev:ow:10e2:", "v": 20.5, "u": "Cel"}, {"v": 55, "u": "%RH"}]
    assert _named(PROBE, pack) == {"serial": "10e2", "temperature": 20.5, "humidity": 55}
    assert _refused(PROBE, json.dumps([{"bn": "urn:dev:ow:10e2", "v": 1}]).encode()).code == "unit"
    assert _refused(PROBE, json.dumps([{"bn": "urn:dev:ow:10e2", "v": 1, "u": "K"}]).encode()).code == "unit"


@pytest.mark.parametrize(
    ("base", "name", "serial"),
    [
        ("urn:dev:imei:8625:", "event", "8625"),
        ("urn:dev:imei:86", "25:event", "8625"),
        ("", "urn:dev:imei:8625:event", "8625"),
        ("8625:", "event", "8625"),
        ("", "event", None),
        ("ev", "ent", None),
    ],
)
def test_where_a_name_ends_and_a_sender_begins(base: str, name: str, serial: str | None) -> None:
    pack = [{"bn": base, "n": name, "vs": "lock"}, {"n": name, "vs": "forced"}]
    decoded = LOCK.decode(json.dumps(pack).encode(), None, {})
    assert (decoded.serial, [sample.values["lock.event"] for sample in decoded.samples]) == (serial, ["lock", "forced"])


def test_objects_as_base_names_and_resources_that_nobody_asked_for() -> None:
    pack = [
        {"bn": "/10351/0/", "n": "50", "vb": False},
        {"bn": "/3/0/", "n": "7", "v": 3610, "u": "mV"},
        {"n": "0", "vs": "a maker's name"},
        {"bn": "8625:/4/0/", "n": "13", "v": 1},
    ]
    assert _named(LOCK, pack) == {"serial": "8625", "open": False, "cell": 3610, "coverage": "level_0"}


def test_bytes_in_both_forms() -> None:
    values = {"key": "DEADBEEF"}
    assert _pack(LOCK, values) == [{"n": "key", "vd": "3q2-7w"}]
    cbor = LOCK.encode_fields(values, 112, {})
    assert cbor2.loads(cbor) == [{0: "key", 8: b"\xde\xad\xbe\xef"}]
    assert LOCK.decode_fields(cbor, None, {}).values == _named(LOCK, [{"n": "key", "vd": "3q2-7w=="}]) == values
    assert _refused(LOCK, b'[{"n":"key","vd":"!"}]').code == "shape"


def test_units_that_are_written_and_units_that_are_only_read() -> None:
    assert _pack(LOCK, {"battery": 87, "cell": 3610}) == [
        {"n": "/3/0/9", "v": 87},
        {"n": "/3/0/7", "u": "mV", "v": 3610},
    ]
    for unit in ({}, {"u": "%"}, {"u": "%EL"}):
        assert _named(LOCK, [{"n": "/3/0/9", "v": 87} | unit]) == {"battery": 87}


def test_sums_are_not_read() -> None:
    pack = [{"n": "/3/0/9", "s": 5}, {"n": "/3/0/7", "v": 3610, "s": 7}]
    assert _named(LOCK, pack) == {"cell": 3610}
    assert LOCK.decode(b'[{"n":"/3/0/9","s":5}]', None, {}).samples == ()


# --- times


def test_small_times_are_relative_and_come_without_one() -> None:
    def times(*records: tuple[float, str]) -> list[tuple[int | None, object]]:
        pack = [{"n": "event", "t": at, "vs": event} for at, event in records]
        samples = LOCK.decode(json.dumps(pack).encode(), None, {}).samples
        named = _named(LOCK, pack)
        assert _named(LOCK, _pack(LOCK, named)) == named
        return [(sample.time, sample.values["lock.event"]) for sample in samples]

    assert times((2**28, "lock")) == [(2**28 * 1000, "lock")]
    assert times((2**28 - 1, "lock")) == [(None, "lock")]
    assert times((0, "ajar"), (-9.5, "lock"), (1795190934, "forced")) == [
        (1795190934000, "forced"),
        (None, "lock"),
        (None, "ajar"),
    ]


def test_two_events_of_one_moment_and_what_belongs_to_them() -> None:
    pack = [
        {"n": "event", "vs": "lock"},
        {"n": "/3/0/9", "v": 80},
        {"n": "event", "vs": "forced"},
        {"n": "/10351/0/50", "vb": True},
    ]
    named = _named(LOCK, pack)
    assert named == {"event": ["lock", "forced"], "open": [None, True], "battery": [80, None]}
    assert _named(LOCK, _pack(LOCK, named)) == named


# --- JSON and CBOR


def test_cbor_and_json_say_the_same() -> None:
    outgoing = Outgoing(values={"lock.event": "forced", "battery.level": 87.0}, time=1795190934423, serial="8625")
    values = by_name(outgoing, LOCK.fields)
    assert values == {"serial": "8625", "time": 1795190934.423, "event": "forced", "battery": 87.0}
    for content, begin in ((110, b"["), (112, b"\x82")):
        frame = LOCK.encode_fields(values, content, {})
        assert frame.startswith(begin)
        for told in (content, None):
            assert LOCK.decode_fields(frame, told, {}).values == values
            decoded = LOCK.decode(frame, told, {})
            (sample,) = decoded.samples
            assert (decoded.serial, sample.time, sample.event) == ("8625", 1795190934423, "lock.event")
            assert sample.values == {"lock.event": "forced", "battery.level": 87.0}


# --- what is refused


@pytest.mark.parametrize(
    ("record", "code"),
    [
        ({"n": 1, "vs": "lock"}, "shape"),
        ({"n": "event", "vs": 1}, "shape"),
        ({"n": "event", "vs": "opened"}, "value"),
        ({"n": "event", "vs": "lock", "t": "now"}, "shape"),
        ({"n": "event", "vs": "lock", "t": 1e300}, "shape"),
        ({"n": "event", "vs": "lock", "t": 999_999_999_999}, "value"),
        ({"n": "event", "vs": "lock", "bver": 11}, "shape"),
        ({"n": "event", "vs": "lock", "v": 1}, "shape"),
        ({"n": "event", "vs": "lock", "x_": 1}, "shape"),
        ({"n": "event"}, "shape"),
        ({"n": "event", "v": 1}, "shape"),
        ({"n": "/10351/0/50", "vb": 1}, "shape"),
        ({"n": "/4/0/13", "v": 9}, "value"),
        ({"n": "/3/0/7", "v": 3.6, "u": "V"}, "unit"),
        ({"n": "/3303/0/5700", "v": 20}, "no_match"),
        ({}, "shape"),
        (3, "shape"),
    ],
)
def test_records_that_are_none(record: object, code: str) -> None:
    assert _refused(LOCK, json.dumps([record]).encode()).code == code


@pytest.mark.parametrize(
    ("payload", "content", "code"),
    [
        (b"[]", None, "shape"),
        (b'{"n":"event","vs":"lock"}', None, "shape"),
        (bytes.fromhex("82a2"), 112, "encoding"),
        (b"", None, "encoding"),
        (b'[{"n":"event","vs":"lock"}]', 112, "encoding"),
        (bytes.fromhex("81a2") + b"\x00\x65event" + b"\xf5\x01", None, "no_match"),  # True is no label
        (b"[" + b",".join([b'{"n":"x","v":1}'] * 1_001) + b"]", None, "shape"),
        (b'[{"bn":"' + b"x" * 300 + b'","n":"/3/0/9","v":50}]', None, "shape"),
        (
            b'[{"bn":"urn:dev:imei:1:","n":"event","vs":"lock"},{"bn":"urn:dev:imei:2:","n":"event","vs":"lock"}]',
            None,
            "value",
        ),
    ],
)
def test_packs_that_are_none(payload: bytes, content: int | None, code: str) -> None:
    if code == "no_match":
        payload = cbor2.dumps([{True: "V", 0: "other", 2: 1}])
    assert _refused(LOCK, payload, content).code == code


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"event": None}, "nothing to send"),
        ({"time": [], "event": []}, "nothing to send"),
        ({"event": "lock", "serial": "a:b"}, "base name"),
        ({"event": "lock", "serial": 5}, "base name"),
        ({"event": "lock", "time": "now"}, "not a number"),
        ({"event": "lock", "time": 10**13}, "no time"),
        ({"event": ["lock"], "time": 5}, "lists of one length"),
        ({"event": ["lock", "lock"], "time": [5]}, "lists of one length"),
        ({"coverage": "level_9"}, "level_9"),
        ({"key": "XY"}, "hex digits"),
        ({"event": "lock", "serial": "9" * 300}, "256 characters"),
    ],
)
def test_what_cannot_be_written(values: dict[str, Any], said: str) -> None:
    with pytest.raises(EncodeError, match=said):
        _pack(LOCK, values)


def test_a_record_needs_a_name() -> None:
    with pytest.raises(EncodeError, match="serial"):
        _pack(PROBE, {"temperature": 20})


def test_a_time_that_would_read_as_relative() -> None:
    with pytest.raises(RefusedError, match="relative"):
        by_name(Outgoing(values={"lock.event": "lock"}, time=5), LOCK.fields)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ([{"senml": "x", "value": "v"}], "needs a name"),
        ([_field("time", "x")], "base field"),
        ([_field("x", "x"), _field("x", "y")], "twice"),
        ([_field("x", "x"), _field("y", "x")], "units"),
        ([_field("x", "x", units=["V"]), _field("y", "x", units=["V", "mV"])], "units"),
        ([_field("x", "")], "base_names"),
        ([_field("x", "x", role="time", form="unix_s")], "base fields"),
        ([_field("d", "d"), _field("x", "x", decimals={"field": "d"})], "any order"),
    ],
)
def test_descriptions_that_mean_nothing(fields: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(FieldFault, match=said):
        _codec(*fields)


# --- at random

TIMES = st.integers(-1000, 2**28 + 5) | st.integers(0, 2**41).map(lambda ms: ms / 1000)
ROWS = st.lists(
    st.tuples(
        TIMES,
        st.sampled_from(EVENTS),
        st.none() | st.booleans(),
        st.none() | st.integers(0, 100),
        st.none() | st.binary(max_size=4),
    ),
    min_size=2,
    max_size=6,
    unique_by=lambda row: row[0],
)


@given(ROWS, st.booleans(), st.sampled_from([110, 112]))
def test_lists_of_moments_come_back(rows: list[Any], named_sender: bool, content: int) -> None:
    rows = [row for row in rows if row[0] >= 2**28] + sorted(row for row in rows if row[0] < 2**28)
    columns = dict(zip(("time", "event", "open", "battery"), zip(*(row[:4] for row in rows), strict=True), strict=True))
    values: dict[str, Any] = {name: list(column) for name, column in columns.items()}
    values["key"] = [None if row[4] is None else row[4].hex().upper() for row in rows]
    values = {name: column for name, column in values.items() if any(value is not None for value in column)}
    if named_sender:
        values["serial"] = "8625"
    frame = LOCK.encode_fields(values, content, {})
    assert LOCK.decode_fields(frame, content, {}).values == values
    samples = LOCK.decode(frame, content, {}).samples
    assert [sample.values["lock.event"] for sample in samples] == values["event"]
    assert [sample.time for sample in samples] == [
        None if time < 2**28 else round(time * 1000) for time in values["time"]
    ]


SCRAPS = st.fixed_dictionaries(
    {},
    optional={
        "bn": st.sampled_from(["", "8625:", "urn:dev:imei:8625:", "/3/0/", "/10351"]),
        "bt": TIMES | st.none(),
        "bv": st.integers(-3, 3),
        "n": st.sampled_from(["event", "7", "9", "/3/0/9", "/10351/0/50", "key", "x"]),
        "u": st.sampled_from(["%", "mV", "V"]),
        "v": st.integers(0, 3) | st.floats(allow_nan=False, allow_infinity=False, width=16),
        "vs": st.sampled_from([*EVENTS, "opened"]),
        "vb": st.booleans(),
        "t": TIMES,
        "s": st.just(1),
    },
)


@given(st.lists(SCRAPS, max_size=6))
def test_both_faces_agree_on_any_pack(pack: list[dict[str, Any]]) -> None:
    payload = json.dumps(pack).encode()
    try:
        decoded = LOCK.decode(payload, None, {})
    except DecodeError:
        _refused(LOCK, payload)
        return
    named = dict(LOCK.decode_fields(payload, None, {}).values)
    cbor = _cbor(pack)
    assert LOCK.decode(cbor, None, {}) == decoded
    assert LOCK.decode_fields(cbor, None, {}).values == named
    if named.keys() - {"serial", "time"}:
        again = LOCK.encode_fields(named, None, {})
        assert LOCK.decode_fields(again, None, {}).values == named
        assert LOCK.decode(again, None, {}) == decoded


@given(
    st.binary(max_size=40) | st.binary(max_size=30).map(lambda rest: b"\x82\xa2" + rest),
    st.sampled_from([None, 110, 112]),
)
def test_any_bytes_are_read_or_refused(payload: bytes, content: int | None) -> None:
    try:
        LOCK.decode(payload, content, {})
    except DecodeError as error:
        assert _refused(LOCK, payload, content).code == error.code


@pytest.mark.parametrize(
    "pack",
    [
        [{-2: "urn:dev:ow:1:", -4: "Cel", 2: 1}] + [{2: 1}] * 999,
        [{-2: "urn:dev:ow:1:" + "x" * 240, -4: "Cel", 2: 1}] + [{2: 1}] * 999,
        [{-2: "urn:dev:ow:" + "1" * 240, -4: "Cel", 2: 1}] + [{2: 1}] * 999,
        [{-2: "urn:dev:ow:1", -4: "Cel", 2: 1}] + [{2: 1, 6: at} for at in range(999)],
        [{-2: "urn:dev:ow:1", -4: "Cel", -5: 0.5, 2: 1}] + [{2: 1}] * 999,
    ],
)
def test_small_records_are_cheap(pack: list[dict[int, Any]]) -> None:
    """Three times as many as fit a kilobyte. The bound is ten times what they take: no work may grow as a square."""
    payload = cbor2.dumps(pack)
    best = 1.0
    for _ in range(3):
        begin = process_time()
        try:
            PROBE.decode(payload, None, {})
        except DecodeError as error:
            assert error.code == "no_match"
        best = min(best, process_time() - begin)
    assert best < 0.05
