"""JSON and CBOR documents by example and at random: both faces, both ways, and what is refused with which code."""

from __future__ import annotations

import json
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from citysense_profiles.codecs.contract import Finish, Named, Place
from citysense_profiles.codecs.documents.codec import DocumentCodec
from citysense_profiles.codecs.documents.pointer import ABSENT, Shape, parse, put, walk
from citysense_profiles.codecs.field import FieldFault, Outgoing, by_name
from citysense_profiles.errors import DecodeError, EncodeError
from citysense_profiles.format.profile_file import DocumentMessage
from citysense_profiles.reading import Decoded
from citysense_profiles.vocabulary import load_vocabulary

VOCABULARY = load_vocabulary()
FINISH = Finish(event=None, event_metrics=frozenset(), derivations=())

FLAT = [
    {"name": "level", "pointer": "/l", "type": "int", "scale": 0.1, "unit": "cm", "metric": "water.level"},
    {"name": "voltage", "pointer": "/u", "type": "number", "unit": "V", "metric": "battery.voltage"},
    {"name": "tilted", "pointer": "/k", "type": "bool", "metric": "gauge.tilted"},
    {"name": "plug", "pointer": "/p", "type": "int", "invalid": [255], "metric": "pile.connector"},
    {"name": "mode", "pointer": "/m", "type": "int", "map": {0: "idle", 1: "busy"}, "others": "pass"},
    {"name": "at", "pointer": "/t", "type": "int", "role": "time", "form": "unix_ms"},
    {"name": "imei", "pointer": "/i", "type": "text", "role": "serial"},
]
READER = [
    {"name": "seen", "pointer": "/e/lastSeenTime", "type": "text", "role": "time", "form": "rfc3339"},
    {"name": "sent", "pointer": "/timestamp", "type": "text", "role": "time", "form": "rfc3339"},
    {"name": "epc", "pointer": "/e/epcHex", "type": "hex", "role": "tag", "required": True},
    {"name": "epc64", "pointer": "/e/epc", "type": "base64url", "role": "tag"},
    {"name": "pc", "pointer": "/e/pc", "type": "base64"},
    {"name": "host", "pointer": "/hostname", "type": "text", "role": "serial"},
    {"name": "antenna", "pointer": "/e/antennaPort", "type": "int", "metric": "tag.antenna"},
    {"name": "rssi", "pointer": "/e/peak", "type": "int", "scale": 0.01, "unit": "dBm", "metric": "tag.rssi"},
]
EVENTS = {"type": "json", "each": "", "only": {"pointer": "/eventType", "equals": "tagInventory"}}
LOG = [
    {"name": "lock", "pointer": "/lockId", "type": "int"},
    {
        "each": "events",
        "pointer": "/records",
        "text": True,
        "fields": [
            {"name": "battery", "pointer": "/q", "type": "int", "unit": "%", "metric": "battery.level"},
            {"name": "date", "pointer": "/d", "type": "int", "role": "time", "form": "unix_ms"},
            {"each": "keys", "pointer": "/k", "fields": [{"name": "id", "pointer": "/id", "type": "int_text"}]},
        ],
    },
]


def _codec(fields: list[Any], codec: dict[str, Any] | None = None, **more: Any) -> DocumentCodec:
    entry = DocumentMessage.model_validate({"codec": codec or {"type": "json"}, "fields": fields, **more})
    return DocumentCodec(Place("acme/box", "report"), FINISH, entry, VOCABULARY)


def _bytes(codec: DocumentCodec, document: Any) -> bytes:
    return cbor2.dumps(document) if codec.fits(b"\xa0", None) else json.dumps(document).encode()


def _decoded(codec: DocumentCodec, document: Any, settings: dict[str, float] | None = None) -> Decoded:
    return codec.decode(_bytes(codec, document), None, settings or {})


def _named(codec: DocumentCodec, document: Any, settings: dict[str, float] | None = None) -> Named:
    return codec.decode_fields(_bytes(codec, document), None, settings or {})


def _document(codec: DocumentCodec, values: Any, settings: dict[str, float] | None = None) -> Any:
    frame = codec.encode_fields(values, None, settings or {})
    return cbor2.loads(frame) if codec.fits(b"\xa0", None) else json.loads(frame)


def _refused(codec: DocumentCodec, payload: bytes) -> DecodeError:
    """The error, which is the same both ways."""
    with pytest.raises(DecodeError) as caught:
        codec.decode(payload, None, {})
    with pytest.raises(DecodeError) as named:
        codec.decode_fields(payload, None, {})
    assert (named.value.code, named.value.field, named.value.text) == (
        caught.value.code,
        caught.value.field,
        caught.value.text,
    )
    return caught.value


# --- pointers


@pytest.mark.parametrize(
    ("pointer", "found"),
    [
        ("", {"a": [1, {"b/c": 2, "~1": 3}], "0": 4}),
        ("/a/0", 1),
        ("/a/1/b~1c", 2),
        ("/a/1/~01", 3),
        ("/0", 4),
        ("/a/2", ABSENT),
        ("/a/00", ABSENT),
        ("/a/-", ABSENT),
        ("/a/0/x", ABSENT),
        ("/b", ABSENT),
    ],
)
def test_pointers_lead_somewhere_or_nowhere(pointer: str, found: object) -> None:
    document = {"a": [1, {"b/c": 2, "~1": 3}], "0": 4}
    assert walk(document, parse(pointer)) == found


@pytest.mark.parametrize("pointer", ["a", "/a~2", "/a/256"])
def test_pointers_that_are_none(pointer: str) -> None:
    with pytest.raises(ValueError, match="pointer"):
        parse(pointer)


@given(st.lists(st.lists(st.sampled_from(["a", "b", "0", "2"]), min_size=1, max_size=3), min_size=1, max_size=5))
def test_what_is_put_along_pointers_is_found_along_them(written: list[list[str]]) -> None:
    paths = {parse("/" + "/".join(path)) for path in written}
    try:
        shape = Shape(paths)
    except ValueError:
        assert any(one != other and one == other[: len(one)] for one in paths for other in paths)
        return
    root = shape.root()
    for path in paths:
        put(root, shape.steps(path), path)
    assert all(walk(root, path) == path for path in paths)
    assert json.loads(json.dumps(root)) is not None


def test_lists_are_built_with_nulls() -> None:
    codec = _codec(
        [
            {"name": "power", "pointer": "/nrg/2", "type": "int"},
            {"name": "phase", "pointer": "/nrg/0/x", "type": "int"},
            {"name": "car", "pointer": "/car", "type": "int"},
        ]
    )
    assert _document(codec, {"power": 7, "car": 2}) == {"nrg": [None, None, 7], "car": 2}
    assert _document(codec, {"phase": 1, "power": 7}) == {"nrg": [{"x": 1}, None, 7]}
    assert _named(codec, {"nrg": [{"x": 1}, 5, 7, 9]}).values == {"phase": 1, "power": 7}


def test_a_document_may_be_a_list_by_itself() -> None:
    when = {"match": [{"pointer": "/2", "equals": "Heartbeat"}]}
    codec = _codec([{"name": "id", "pointer": "/1", "type": "text"}], when=when)
    assert codec.fits(b'[2,"a","Heartbeat"]', None)
    assert not codec.fits(b'[2,"a","Other"]', None)
    assert _document(codec, {"id": "a"}) == [None, "a", "Heartbeat"]
    assert _named(codec, [2, "a", "Heartbeat"]).where == {"id": "/1"}
    assert _refused(codec, b"{}").code == "shape"


# --- single values


@pytest.mark.parametrize("kind", ["json", "cbor"])
def test_flat_objects_both_ways(kind: str) -> None:
    codec = _codec(FLAT, {"type": kind})
    document = {"l": 123, "u": 3.6, "k": True, "p": 255, "m": 7, "t": 1795190934423, "i": "8625", "more": [1]}
    named = _named(codec, document)
    assert named.values == {
        "level": 12.3,
        "voltage": 3.6,
        "tilted": True,
        "plug": None,
        "mode": 7,
        "at": 1795190934423,
        "imei": "8625",
    }
    assert named.where["level"] == "/l"
    decoded = _decoded(codec, document)
    (sample,) = decoded.samples
    assert (sample.time, sample.missing, decoded.serial) == (1795190934423, ("pile.connector",), "8625")
    assert sample.values == {"water.level": 12.3, "battery.voltage": 3.6, "gauge.tilted": True}
    del document["more"]
    assert _document(codec, named.values) == document
    outgoing = Outgoing(values={**sample.values, "pile.connector": None}, time=sample.time, serial=decoded.serial)
    assert _decoded(codec, _document(codec, by_name(outgoing, codec.fields))) == decoded


def test_absent_is_no_key_and_null_is_no_value() -> None:
    codec = _codec(FLAT)
    assert _named(codec, {"l": None}).values == {"level": None}
    assert _document(codec, {"level": None}) == {"l": None}
    assert _decoded(codec, {"l": None}).samples[0].missing == ("water.level",)
    assert _decoded(codec, {"i": None}) == Decoded(message="report", samples=())
    assert _named(codec, {}).values == {}
    assert _document(codec, {}) == {}


def test_a_default_is_written_where_nothing_is_given() -> None:
    codec = _codec(
        [{"name": "v", "pointer": "/v", "type": "int", "default": 2}, {"name": "x", "pointer": "/x", "type": "int"}]
    )
    assert _document(codec, {}) == {"v": 2}
    assert _document(codec, {"v": 3, "x": 1}) == {"v": 3, "x": 1}


@pytest.mark.parametrize(
    ("kind", "written", "shown", "back"),
    [
        ("hex", "7eda", "7EDA", "7EDA"),
        ("base64", "NAA=", "3400", "NAA="),
        ("base64", "NAA", "3400", "NAA="),
        ("base64url", "4oARYGAAAgpmgfI_", "E28011606000020A6681F23F", "4oARYGAAAgpmgfI_"),
        ("base64url", "4oARYGAAAgpmgfI/", "E28011606000020A6681F23F", "4oARYGAAAgpmgfI_"),
        ("base64url", "NAA=", "3400", "NAA"),
        ("int_text", "38848339", 38848339, "38848339"),
        ("int_text", "-007", -7, "-7"),
        ("number_text", "25", 25, "25"),
        ("number_text", "-0.5", -0.5, "-0.5"),
        ("number_text", "25.00", 25.0, "25.0"),
        ("number_text", "1e3", 1000.0, "1000.0"),
        ("any_number", "25", 25, 25),
        ("any_number", "-0.5", -0.5, -0.5),
        ("any_number", 25, 25, 25),
        ("any_number", 2.5, 2.5, 2.5),
        ("text", "ÄÖ", "ÄÖ", "ÄÖ"),
        ("number", 12, 12, 12),
        ("number", 1.5, 1.5, 1.5),
        ("bool", False, False, False),
    ],
)
def test_how_values_travel(kind: str, written: object, shown: object, back: object) -> None:
    codec = _codec([{"name": "x", "pointer": "/x", "type": kind}])
    named = _named(codec, {"x": written}).values
    assert (named, type(named["x"])) == ({"x": shown}, type(shown))
    assert _document(codec, named) == {"x": back}


@pytest.mark.parametrize(
    ("kind", "written"),
    [
        ("int", "1"), ("int", 1.5), ("int", True), ("int", 2**64), ("int", -(2**63) - 1), ("int", [1]), ("int", {}),
        ("number", "1"), ("number", True), ("number", 2**64), ("bool", 1), ("bool", "true"), ("text", 1), ("hex", "XYZ"),
        ("hex", "123"), ("hex", 5), ("base64", "!"), ("base64", "a"), ("base64url", "\u00e4"), ("int_text", 1), ("int_text", ""),
        ("int_text", "1.5"), ("int_text", "1_0"), ("int_text", "9" * 30), ("int_text", "9" * 5000), ("int_text", "\u0663"),
        ("number_text", "nan"), ("number_text", "0x1"), ("number_text", "1."), ("number_text", 1), ("number_text", " 1"),
        ("any_number", "1."), ("any_number", " 1"), ("any_number", True), ("any_number", []),
    ],
)  # fmt: skip
def test_types_are_held_to(kind: str, written: object) -> None:
    error = _refused(_codec([{"name": "x", "pointer": "/x", "type": kind}]), json.dumps({"x": written}).encode())
    assert (error.code, error.field) == ("shape", "x")
    assert "/x" in error.text


@pytest.mark.parametrize(
    ("document", "field"),
    [
        (b'{"t":-1}', "at"),
        (b'{"t":99999999999999999}', "at"),
        (b'{"p":9223372036854775808}', "plug"),
    ],
)
def test_values_that_a_field_cannot_carry(document: bytes, field: str) -> None:
    error = _refused(_codec(FLAT), document)
    assert (error.code, error.field) == ("value", field)


def test_cbor_byte_strings_are_hex() -> None:
    codec = _codec([{"name": "x", "pointer": "/x", "type": "hex"}], {"type": "cbor"})
    assert _named(codec, {"x": b"\x7e\xda"}).values == _named(codec, {"x": "7eda"}).values == {"x": "7EDA"}
    assert _document(codec, {"x": "7EDA"}) == {"x": b"\x7e\xda"}
    assert _refused(_codec([{"name": "x", "pointer": "/x", "type": "number"}], {"type": "cbor"}),
                    cbor2.dumps({"x": float("nan")})).code == "value"  # fmt: skip


def test_settings_and_earlier_fields_take_part() -> None:
    codec = _codec(
        [
            {"name": "places", "pointer": "/d", "type": "int"},
            {"name": "level", "pointer": "/l", "type": "int", "unit": "cm", "metric": "water.level"}
            | {"decimals": {"field": "places"}},
            {"name": "voltage", "pointer": "/u", "type": "int", "unit": "V", "times": {"setting": "ratio"}},
        ]
    )  # fmt: skip
    document, settings = {"d": 1, "l": 123, "u": 23}, {"ratio": 10.0}
    assert _named(codec, document, settings).values == {"places": 1, "level": 12.3, "voltage": 230.0}
    assert _decoded(codec, document, settings).samples[0].values == {"water.level": 12.3}
    assert _document(codec, {"places": 1, "level": 12.3, "voltage": 230.0}, settings) == document
    assert _refused(codec, b'{"u":1}').field == "voltage"
    assert "places" in _refused(codec, b'{"l":1}').text
    with pytest.raises(EncodeError, match="setting ratio"):
        _document(codec, {"voltage": 230.0})


# --- lists of objects


def test_a_list_gives_lists_and_a_single_object_does_not() -> None:
    codec = _codec(READER, EVENTS)
    one = {"eventType": "tagInventory", "hostname": "r-1", "e": {"epcHex": "7EDA", "antennaPort": 1}}
    two = {"eventType": "tagInventory", "hostname": "r-1", "e": {"epcHex": "7EDB", "peak": -5230}}
    named = _named(codec, one)
    assert named.values == {"epc": "7EDA", "host": "r-1", "antenna": 1}
    assert named.where["antenna"] == "/e/antennaPort"
    assert _document(codec, named.values) == one
    both = _named(codec, [one, {"eventType": "other"}, two])
    assert both.values == {
        "epc": ["7EDA", "7EDB"],
        "host": ["r-1", "r-1"],
        "antenna": [1, None],
        "rssi": [None, -52.3],
    }
    assert both.where["rssi"] == [None, "/2/e/peak"]
    assert _document(codec, both.values) == [one, two]
    decoded = _decoded(codec, [one, {"eventType": "other"}, two])
    assert [sample.tag for sample in decoded.samples] == ["7EDA", "7EDB"]
    assert decoded.serial == "r-1"


@pytest.mark.parametrize("items", [0, 1, 3])
def test_how_many_objects_there_were_is_kept(items: int) -> None:
    codec = _codec([{"name": "x", "pointer": "/x", "type": "int"}], {"type": "json", "each": ""})
    document = [{"x": 1}] * items
    assert _document(codec, _named(codec, document).values) == document
    nulls = [{"x": None}] * items
    assert _document(codec, _named(codec, nulls).values) == nulls


def test_objects_of_no_interest_say_nothing() -> None:
    codec = _codec(READER, EVENTS)
    for document in ({"eventType": "other"}, [], [{"eventType": "other"}, {"eventType": True}]):
        assert _decoded(codec, document).samples == ()
    assert _named(codec, {"eventType": "other"}).values == {}


def test_the_first_of_two_fields_of_one_role_counts() -> None:
    codec = _codec(READER, EVENTS)
    event = {"eventType": "tagInventory", "e": {"epc": "ftqQOAUQAnEAAsCu"}, "timestamp": "2021-02-02T22:18:36Z"}
    (sample,) = _decoded(codec, event).samples
    assert (sample.tag, sample.time) == ("7EDA9038051002710002C0AE", 1612304316000)
    event["e"] |= {"lastSeenTime": "2021-02-02T22:18:35Z", "epcHex": "AA"}  # type: ignore[operator]
    (sample,) = _decoded(codec, event).samples
    assert (sample.tag, sample.time) == ("AA", 1612304315000)
    assert {"seen", "sent", "epc", "epc64"} <= _named(codec, event).values.keys()


@pytest.mark.parametrize(
    "document",
    [
        {"eventType": "tagInventory", "e": {"antennaPort": 1}},
        {"eventType": "tagInventory", "e": {"epcHex": None}},
        [{"eventType": "tagInventory"}],
        [{"eventType": "tagInventory", "e": {"epcHex": "AA"}, "hostname": name} for name in ("r-1", "r-2")],
        [1, 2],
        3,
        "text",
    ],
)
def test_what_is_no_event(document: Any) -> None:
    assert _refused(_codec(READER, EVENTS), json.dumps(document).encode()).code == "shape"


def test_what_is_required_must_be_given() -> None:
    codec = _codec(READER, EVENTS)
    for values in ({"antenna": 1}, {"epc": None}, {"antenna": [1], "epc": [None]}):
        with pytest.raises(EncodeError, match="epc is needed"):
            _document(codec, values)
    assert _document(codec, {"epc64": "7EDA"})["e"] == {"epc": "fto"}


def test_one_of_several_alternatives_is_enough() -> None:
    level = {"unit": "cm", "metric": "water.level", "type": "number"}
    codec = _codec(
        [{"name": "new", "pointer": "/n", "required": True, **level}, {"name": "old", "pointer": "/o", **level}]
    )
    for document, value in (({"n": 1}, 1.0), ({"o": 2}, 2.0)):
        assert _decoded(codec, document).samples[0].values == {"water.level": value}
    error = _refused(codec, b'{"x":1}')
    assert (error.code, error.field) == ("shape", "new")


def test_each_below_a_pointer() -> None:
    codec = _codec(
        [
            {"name": "at", "pointer": "/at", "type": "number", "role": "time", "form": "unix_s"},
            {"name": "battery", "pointer": "/bat~1v", "type": "number", "scale": 0.1, "unit": "V", "metric": "battery.voltage"},
        ],
        {"type": "json", "each": "/data/list"},
        when={"match": [{"pointer": "/kind", "equals": "log"}]},
    )  # fmt: skip
    document = {
        "kind": "log",
        "data": {"list": [{"at": 1795190934.423, "bat/v": 33.3}, {"at": 1795190935, "bat/v": 33}]},
    }
    assert [(sample.time, sample.values["battery.voltage"]) for sample in _decoded(codec, document).samples] == [
        (1795190934423, 3.33),
        (1795190935000, 3.3),
    ]
    named = _named(codec, document)
    assert named.where["battery"] == ["/data/list/0/bat~1v", "/data/list/1/bat~1v"]
    assert _document(codec, named.values) == document
    single = {"kind": "log", "data": {"list": {"at": 5, "bat/v": 33.3}}}
    assert _document(codec, _named(codec, single).values) == single
    for payload in (b'{"data":{}}', b'{"data":{"list":[3]}}', b'{"data":{"list":3}}'):
        assert _refused(codec, payload).code == "shape"


def test_lists_inside_and_text_inside() -> None:
    codec = _codec(LOG)
    records = [{"q": 85, "d": 1625025703000, "k": [{"id": "1"}, {"id": "2"}]}, {"q": 84, "d": 1625025704000, "k": []}]
    document = {"lockId": 163377, "records": json.dumps(records, separators=(",", ":"))}
    named = _named(codec, document)
    assert named.values == {
        "lock": 163377,
        "events.battery": [85, 84],
        "events.date": [1625025703000, 1625025704000],
        "events.keys.id": [[1, 2], []],
    }
    assert named.where["events.keys.id"] == [["/records#/0/k/0/id", "/records#/0/k/1/id"], []]
    assert _document(codec, named.values) == document
    assert _named(codec, document | {"records": records}).values == named.values
    assert [(sample.time, sample.values) for sample in _decoded(codec, document).samples] == [
        (1625025703000, {"battery.level": 85.0}),
        (1625025704000, {"battery.level": 84.0}),
    ]
    empty: dict[str, Any] = {"records": [{}, {}]}
    assert _named(codec, empty).values == {"events.battery": [None, None], "events.date": [None, None]}
    assert _named(codec, _document(codec, _named(codec, empty).values)).values == _named(codec, empty).values
    for absent in ({}, {"records": None}):
        assert _named(codec, {"lockId": 1} | absent).values == {"lock": 1}
    assert _named(codec, {"records": {"q": 1}}).values == {"events.battery": [1]}
    assert _named(codec, {"records": "[]"}).values["events.keys.id"] == []


@pytest.mark.parametrize("records", ['"{"', '"[1]"', "3", "[3]", '"3"', '"\\ud800"', json.dumps("[" * 5000)])
def test_text_that_holds_no_list(records: str) -> None:
    error = _refused(_codec(LOG), f'{{"records":{records}}}'.encode())
    assert error.code in ("shape", "encoding")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"events.battery": 85}, "a list of them"),
        ({"events.battery": [1, 2], "events.date": [1]}, "lists of one length"),
        ({"events.keys.id": [1]}, "a list of them"),
        ({"lock": [1]}, r"\[1\]"),
        ({"events.battery": ["x"]}, "not a number"),
    ],
)
def test_lists_by_name_are_checked(values: dict[str, Any], said: str) -> None:
    with pytest.raises(EncodeError, match=said):
        _document(_codec(LOG), values)


# --- bytes inside strings


@pytest.mark.parametrize(("coding", "text"), [("hex", "017501"), ("base64", "AXUB"), ("base64url", "AXUB")])
def test_bytes_inside_a_string(coding: str, text: str) -> None:
    part = {
        "bytes": "/payload/data",
        "coding": coding,
        "group": "frame",
        "fields": [
            {"name": "kind", "type": "u8"},
            {"name": "level", "type": "u16", "unit": "mm", "metric": "water.level"},
        ],
    }
    codec = _codec([{"name": "imei", "pointer": "/imei", "type": "text", "role": "serial"}, part])
    document = {"imei": "8625", "payload": {"data": text}}
    named = _named(codec, document)
    assert named.values == {"imei": "8625", "frame.kind": 1, "frame.level": 29953}
    assert named.where["frame.level"] == "/payload/data#1"
    assert _document(codec, named.values) == document
    assert _decoded(codec, document).samples[0].values == {"water.level": 2995.3}
    assert _named(codec, {"imei": "1"}).values == {"imei": "1"}
    assert _document(codec, {"imei": "1"}) == {"imei": "1"}
    for payload, code in (("!", "shape"), (3, "shape")):
        assert _refused(codec, json.dumps({"payload": {"data": payload}}).encode()).code == code
    short, long = (_document(codec, named.values), _document(codec, named.values))
    short["payload"]["data"], long["payload"]["data"] = (
        ("0175", "01750100") if coding == "hex" else ("AXU=", "AXUBAA==")
    )
    assert _refused(codec, json.dumps(short).encode()).code == "truncated"
    assert _refused(codec, json.dumps(long).encode()).code == "trailing"


def test_bytes_in_each_of_a_list() -> None:
    frames = {"bytes": "/b", "coding": "hex", "fields": [{"name": "x", "type": "u8", "invalid": [255]}]}
    codec = _codec([{"each": "log", "pointer": "/log", "fields": [frames]}])
    document = {"log": [{"b": "01"}, {"b": "FF"}]}
    assert _named(codec, document).values == {"log.x": [1, None]}
    assert _named(codec, document).where == {"log.x": ["/log/0/b#0", "/log/1/b#0"]}
    assert _document(codec, {"log.x": [1, None]}) == document


def test_required_bytes() -> None:
    codec = _codec([{"bytes": "/b", "coding": "hex", "required": True, "fields": [{"name": "x", "type": "u8"}]}])
    assert _refused(codec, b"{}").code == "shape"
    with pytest.raises(EncodeError):
        _document(codec, {})


# --- which message it is


def test_when_tells_messages_apart() -> None:
    when = {"match": [{"pointer": "/type", "equals": ["a", 1]}], "present": ["/payload/x"], "port": [2, 3]}
    codec = _codec([{"name": "x", "pointer": "/payload/x", "type": "int"}], when=when)
    assert codec.fits(b' {"type":"a","payload":{"x":0}}', None)
    assert codec.fits(b'{"type":1,"payload":{"x":0}}', 2)
    for payload, port in (
        (b'{"type":true,"payload":{"x":0}}', None),
        (b'{"type":"b","payload":{"x":0}}', None),
        (b'{"type":"a","payload":{}}', None),
        (b'{"type":"a","payload":{"x":null}}', None),
        (b'{"type":"a","payload":{"x":0}}', 4),
        (b"\x00\x01", None),
        (b"", None),
    ):
        assert not codec.fits(payload, port)
    assert _document(codec, {"x": 5}) == {"type": "a", "payload": {"x": 5}}
    half = b'{"type":"a'
    assert codec.fits(half, None)
    assert _refused(codec, half).code == "encoding"


@pytest.mark.parametrize(
    ("payload", "fits"), [(b"\xa0", True), (b"\x80", True), (b"{}", False), (b"", False), (b"\x01", False)]
)
def test_cbor_begins_with_a_map_or_a_list(payload: bytes, fits: bool) -> None:
    assert _codec(FLAT, {"type": "cbor"}).fits(payload, None) is fits


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ([{"pointer": "/x", "type": "int"}], "needs a name"),
        ([{"name": "x", "pointer": "", "type": "int"}], "into the object"),
        ([{"name": "x", "pointer": "/x", "type": "int"}] * 2, "twice"),
        ([{"name": "x", "pointer": "/x", "type": "text", "scale": 2}], "mean nothing"),
        ([{"name": "x", "pointer": "/x", "type": "int", "metric": "no.such"}], "no.such"),
        ([{"name": "x", "pointer": "/x", "type": "int", "decimals": {"field": "y"}}], "no earlier field"),
        ([{"each": "x", "pointer": "", "fields": [{"name": "x", "pointer": "/x", "type": "int"}]}], "into the object"),
    ],
)
def test_descriptions_that_mean_nothing(fields: list[Any], said: str) -> None:
    with pytest.raises(FieldFault, match=said):
        _codec(fields)


def test_one_pointer_inside_another() -> None:
    with pytest.raises(ValueError, match="another one inside"):
        _codec([{"name": "x", "pointer": "/a", "type": "int"}, {"name": "y", "pointer": "/a/b", "type": "int"}])


# --- at random

VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**65), 2**65)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "7EDA", "12", "1.5", "AXUB", "[]", '[{"q":1}]', "2021-02-02T22:18:36Z", "tagInventory"])
)
KEYS = st.sampled_from([*"lukpmtieqdx", "lockId", "records", "eventType", "epcHex", "epc", "timestamp", "hostname"])
DOCUMENTS = st.recursive(
    VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=7), max_leaves=12
)
CODECS = [_codec(FLAT), _codec(FLAT, {"type": "cbor"}), _codec(READER, EVENTS), _codec(LOG)]
# Hypothesis' own alphabet takes seconds to build in a fresh checkout, which its health check then holds against us.
LETTERS = st.integers(0, 0xD7FF).map(chr)
PLAIN = st.fixed_dictionaries(
    {},
    optional={
        "l": VALUES,
        "u": st.floats(0, 50) | st.integers(0, 50) | VALUES,
        "k": st.booleans() | VALUES,
        "p": st.integers(0, 300),
        "m": st.integers(-1, 3),
        "t": st.integers(0, 2**48),
        "i": st.text(LETTERS, max_size=4),
    },
)


def _faces(codec: DocumentCodec, payload: bytes) -> tuple[Decoded, Named] | None:
    """Both faces of a frame, None where both refuse it with one code."""
    try:
        decoded = codec.decode(payload, None, {})
    except DecodeError:
        _refused(codec, payload)
        return None
    return decoded, codec.decode_fields(payload, None, {})


@given(st.sampled_from(CODECS), st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(codec: DocumentCodec, payload: bytes) -> None:
    faces = _faces(codec, payload)
    assert faces is None or faces[0].message == faces[1].message == "report"


@given(st.sampled_from(CODECS), DOCUMENTS | PLAIN)
def test_any_document_is_read_or_refused_and_what_is_read_leads_back(codec: DocumentCodec, document: Any) -> None:
    payload = _bytes(codec, document) if not _is_wide(document) else json.dumps(document).encode()
    faces = _faces(codec, payload)
    if faces is None:
        return
    decoded, named = faces
    try:
        again = codec.encode_fields(named.values, None, {})
    except EncodeError as error:
        assert "is needed" in error.text or "epc" in (error.field or "")  # objects of no interest only
        return
    assert codec.decode_fields(again, None, {}).values == named.values
    if not any(isinstance(value, list) and "None" in repr(value) for value in named.values.values()):
        assert codec.decode(again, None, {}) == decoded  # in lists, null and absent are both None


def _is_wide(document: Any) -> bool:
    """Whether it holds integers that CBOR can only write with a tag."""
    if isinstance(document, dict | list):
        return any(map(_is_wide, document.values() if isinstance(document, dict) else document))
    return type(document) is int and not -(2**64) <= document < 2**64


SHORT = CODECS[0]
LONG = _codec([*FLAT, {"each": "none", "pointer": "/none", "fields": [{"name": "x", "pointer": "/x", "type": "int"}]}])


@given(PLAIN)
def test_the_short_way_says_what_the_long_way_says(document: dict[str, Any]) -> None:
    payload = json.dumps(document).encode()
    outcomes: list[object] = []
    for codec in (SHORT, LONG):
        try:
            outcomes.append(codec.decode(payload, None, {}))
        except DecodeError as error:
            outcomes.append((error.code, error.field, error.text))
    assert outcomes[0] == outcomes[1]


def test_numbers_that_no_field_holds_are_refused_on_the_short_way_too() -> None:
    fields = [
        {"name": "power", "pointer": "/p", "type": "int", "unit": "W", "metric": "electric.power"},
        {"name": "at", "pointer": "/t", "type": "int", "role": "time", "form": "unix_s"},
    ]
    concise = _codec(fields, {"type": "cbor"})
    assert concise.decode(cbor2.dumps({"p": -(2**63)}), None, {}).samples
    with pytest.raises(DecodeError, match="64 bits"):
        concise.decode(cbor2.dumps({"p": -(2**63) - 1}), None, {})
    with pytest.raises(DecodeError) as caught:
        _codec(fields).decode(b'{"p": 1, "t": 99999999999999}', None, {})
    assert caught.value.code == "value"
