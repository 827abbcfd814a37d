"""What the check of a profile finds: every way in which a vector can be wrong, and what chance brings up."""

from __future__ import annotations

import textwrap
from random import Random
from typing import Any

import pytest

from citysense_profiles.checking.chance_check import check_chance
from citysense_profiles.checking.profile_check import Report, check_profile
from citysense_profiles.checking.round_trip import draw, drawn_settings, encoded
from citysense_profiles.compiler import parse_profile
from citysense_profiles.errors import EncodeError
from citysense_profiles.profile import Profile
from citysense_profiles.vocabulary import load_vocabulary

VOCABULARY = load_vocabulary()
HEAD = """
schema: 1
id: acme/x
kind: waterlogging_gauge
title: A gauge
title_zh: 水位计
product: {vendor: Acme, model: X, source: its manual}
transport: {mqtt: {}, modbus: {}}
report_every: 5min
"""
REPORT = """
messages:
  report:
    codec: {type: binary}
    when: {match: [{at: 0, equals: [1, 2]}]}
    fields:
      - {name: kind, type: u8, map: {1: hourly, 2: alarm}}
      - {name: at, type: u32, role: time, form: unix_s}
      - {name: level, type: i16, unit: mm, metric: water.level, invalid: [0x7FFF]}
      - {name: flags, type: u8, bits: [{name: tilted, bit: 0, metric: gauge.tilted}, {name: battery, bit: 4, width: 4}]}
"""
HOURLY = 'wire: {hex: "01 6aff5d80 007b 71"}'
REFUSED = '  - {name: short, basis: computed, message: report, wire: {hex: "01 02"}, error: truncated}\n'
SAID = "values: {kind: hourly, at: 1795120512, level: 123, tilted: true, battery: 7}"
READ = "samples: [{time: 1795120512000, values: {water.level: 12.3, gauge.tilted: true}}]"
REST = """
  - {name: alarm, basis: computed, message: report, wire: {hex: "02 6aff5d80 7fff 00"},
     values: {kind: alarm, at: 1795120512, level: null, tilted: false, battery: 0}}
"""


def _profile(vectors: str, messages: str = REPORT, more: str = "") -> Profile:
    text = HEAD + textwrap.dedent(more) + textwrap.dedent(messages) + "vectors:\n" + vectors
    return parse_profile(text, "acme/x.yaml", VOCABULARY)


def _vector(*keys: str, name: str = "one") -> str:
    return f"  - {{name: {name}, basis: computed, {', '.join(keys)}}}\n"


def test_a_right_profile_has_neither_faults_nor_advice() -> None:
    profile = _profile(_vector("message: report", HOURLY, SAID, READ) + REST + REFUSED)
    assert check_profile(profile) == Report()
    assert check_profile(profile, seed=7) == Report()


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ((SAID.replace("123", "124"),), "level is 123, not 124"),
        ((SAID.replace("123", '"123"'),), "level is 123, not '123'"),
        ((SAID.replace("true", "1"),), "tilted is True, not 1"),
        ((SAID.replace("123", "null"),), "level is 123, not None"),
        ((SAID.replace("level: 123, ", ""),), "level is 123, which the vector lacks"),
        ((SAID.replace("tilted", "tilt"),), "tilt is not there, True is wanted"),
        ((READ.replace("12.3", "12.4"),), "sample 0: water.level is 12.3, not 12.4"),
        ((READ.replace("1795120512000", "1795120512001"),), "sample 0: time is 1795120512000, not 1795120512001"),
        ((READ.replace("time:", "tag: A1, time:"),), "sample 0: tag is None, not 'A1'"),
        ((READ.replace("time:", "event: a, time:"),), "sample 0: event is None, not 'a'"),
        ((READ.replace("time:", "missing: [water.flow], time:"),), "sample 0: missing is [], not ['water.flow']"),
        (("samples: []",), "has 1 samples, not 0"),
        ((READ, "serial: A1"), "serial is None, not 'A1'"),
        ((READ, "seq: 0"), "seq is None, not 0"),
        ((SAID, "settings: {height: 5}"), "height is no setting and no option"),
    ],
)
def test_a_vector_that_claims_something_else(keys: tuple[str, ...], fault: str) -> None:
    report = check_profile(_profile(_vector("message: report", HOURLY, *keys) + REST + REFUSED))
    assert any(one.startswith("vector one: ") and fault in one for one in report.faults)


def test_numbers_may_differ_by_the_tolerance_and_no_more() -> None:
    near = _profile(
        _vector("message: report", HOURLY, READ.replace("12.3", "12.31"), "tolerance: 0.011") + REST + REFUSED
    )
    assert check_profile(near).faults == []
    far = _profile(
        _vector("message: report", HOURLY, READ.replace("12.3", "12.32"), "tolerance: 0.011") + REST + REFUSED
    )
    assert len(check_profile(far).faults) == 1


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ((HOURLY, "error: value"), "readings: must raise value and says Decoded"),
        (("message: report", 'wire: {hex: "01 02"}', "error: value"), "readings: raises truncated, not value"),
        (('wire: {hex: "03 02"}', "error: value"), "values by name: raises no_match, not value"),
    ],
)
def test_a_vector_that_claims_another_error(keys: tuple[str, ...], fault: str) -> None:
    report = check_profile(_profile(_vector("message: report", HOURLY, SAID) + REST + _vector(*keys, name="two")))
    assert len(report.faults) == 2  # of each face one
    assert any(one.startswith(f"vector two: {fault}") for one in report.faults)


PADDED = REPORT.replace("{name: level, type: i16", "{skip: 1}\n      - {name: level, type: i16")


def test_a_frame_of_another_form_is_marked_as_such() -> None:
    frame = 'wire: {hex: "01 6aff5d80 ee 007b 71"}'
    alarm = REST.replace("7fff", "00 7fff")
    wrong = check_profile(_profile(_vector("message: report", frame, SAID) + alarm + REFUSED, PADDED))
    assert wrong.faults == ["vector one: is encoded as 01 6a ff 5d 80 00 00 7b 71"]
    marked = _profile(_vector("message: report", frame, SAID, "canonical: false") + alarm + REFUSED, PADDED)
    assert check_profile(marked) == Report()


def test_lengths_are_others_in_a_frame_of_another_form() -> None:
    fields = """
      - {name: size, type: u8}
      - size: {field: size}
        fields: [{elements: [{lead: "39", definition: "23", name: stage, unit: m, metric: river.level}]}]
"""
    messages = f"messages:\n  report:\n    codec: {{type: binary}}\n    fields:{fields}"
    # The same level with fewer digits, and an element that nobody knows.
    frame = 'wire: {hex: "08 39 13 12 34 38 12 11 15"}'
    values = "values: {size: 8, stage: 1.234}"
    report = check_profile(_profile(_vector("message: report", frame, values) + REFUSED, messages))
    assert report.faults == [
        "vector one: comes back otherwise: size is 6, not 8",
    ]
    marked = _profile(_vector("message: report", frame, values, "canonical: false") + REFUSED, messages)
    assert check_profile(marked) == Report()


def test_a_frame_that_is_taken_for_another_message() -> None:
    both = REPORT + REPORT.replace("messages:\n", "").replace("report:", "second:")
    report = check_profile(_profile(_vector("message: second", HOURLY, SAID) + REST + REFUSED, both))
    assert "vector one: is taken for message report" in report.faults


def test_every_message_is_shown_and_a_frame_of_bytes_is_refused() -> None:
    report = check_profile(_profile(REFUSED))
    assert report.faults == ["message report has no vector that shows it"]
    report = check_profile(_profile(_vector("message: report", HOURLY, SAID) + REST))
    assert report.faults == ["no vector shows a frame that must be refused"]


def test_a_vector_of_no_message_is_named() -> None:
    report = check_profile(_profile(_vector("message: reprot", HOURLY, SAID) + REST + REFUSED))
    assert report.faults[0].startswith("vector one: no message 'reprot'; messages of this profile: report")


# --- registers


REGISTERS = """
messages:
  status:
    codec: {type: modbus, unit: 3, shift: 1, max_gap: 2}
    fields:
      - {name: level, table: input, address: 10, type: u16, unit: mm, metric: water.level}
      - {name: spare, table: input, address: 11, type: u16}
      - {name: limit, table: holding, address: 20, type: u32, unit: A, metric: pile.current_limit, access: rw}
  limit:
    direction: down
    codec: {type: modbus, unit: 3, shift: 1, write: many}
    fields:
      - {name: limit, table: holding, address: 20, type: u32, unit: A}
"""
POLLED = _vector(
    "message: status",
    "wire: {registers: {input: {11: [5, 6]}, holding: {21: [1, 2]}}}",
    "values: {level: 5, spare: 6, limit: 65538}",
)
WRITTEN = "wire: {write: [{function: 16, table: holding, address: 21, words: [0, 16]}]}"
ASKED = "03 04 000b 0001"


def _request(frame: str, *, unit: int = 3, function: int = 4, address: int = 11, field: str = "level") -> str:
    keys = f"unit: {unit}, function: {function}, address: {address}, quantity: 1, field: {field}"
    return _vector(f'wire: {{request: {{hex: "{frame}", {keys}}}}}', name="asked")


def _limit(write: str, values: str = "{limit: 16}") -> str:
    return _vector("message: limit", write, f"values: {values}", name="limit")


def test_registers_requests_and_writes_are_checked() -> None:
    good = _profile(POLLED + _limit(WRITTEN) + _request(f"{ASKED} 41ea"), REGISTERS)
    assert check_profile(good).faults == []


@pytest.mark.parametrize(
    ("vector", "fault"),
    [
        (_request(f"{ASKED} 41eb"), "the check sum is 41eb"),
        (_request(f"{ASKED} 41ea", address=12), "request: address is 11, not 12"),
        (_request(f"{ASKED} 41ea", unit=4), "request: unit is 3, not 4"),
        (_request(f"{ASKED} 41ea", function=3), "request: no message reads 1 of holding from 11"),
        (_request("04 04 000b 0001 405d", unit=4), "request: no message reads 1 of input from 11"),
        (_request("03 04 000c 0001 f02b", address=12), "request: field level does not stand at input 12"),
        (_request(f"{ASKED} 41ea", field="limit"), "request: field limit does not stand at input 11"),
    ],
)
def test_a_request_that_the_plan_does_not_make(vector: str, fault: str) -> None:
    report = check_profile(_profile(POLLED + _limit(WRITTEN) + vector, REGISTERS))
    assert any(one.startswith("vector asked: ") and fault in one for one in report.faults)


@pytest.mark.parametrize(
    ("write", "values", "fault"),
    [
        (WRITTEN, "{limit: 17}", "is planned as [(16, 'holding', 21, [0, 17])], not as [(16, 'holding', 21, [0, 16])]"),
        (WRITTEN.replace("21", "20"), "{limit: 16}", "is planned as"),
        (WRITTEN.replace("16, table", "6, table"), "{limit: 16}", "is planned as"),
        (WRITTEN, "{limit: -1}", "cannot be planned"),
    ],
)
def test_a_write_that_is_planned_otherwise(write: str, values: str, fault: str) -> None:
    report = check_profile(_profile(POLLED + _limit(write, values), REGISTERS))
    assert len(report.faults) == 1
    assert report.faults[0].startswith(f"vector limit: {fault}")


# --- options, settings, advice


OPTIONS = """
options:
  order: {title: Order of bytes, default: big, choices: {big: Big first, little: Little first}}
settings:
  full: {title: Full scale, unit: cm, required: true, range: [100, 300]}
"""
SPAN = """
messages:
  report:
    codec: {type: binary, byte_order: {option: order}}
    fields: [{name: level, type: u16, unit: cm, metric: water.level, span: {raw: [0, 1000], values: [0, {setting: full}]}}]
"""


def test_a_vector_chooses_a_variant_and_gives_settings() -> None:
    little = _vector(
        "message: report", 'wire: {hex: "f4 01"}', "values: {level: 100.0}", "settings: {full: 200, order: little}"
    )
    big = _vector(
        "message: report", 'wire: {hex: "01 f4"}', "values: {level: 50.0}", "settings: {full: 100}", name="big"
    )
    profile = _profile(little + big + REFUSED.replace('"01 02"', '"01"'), SPAN, OPTIONS)
    assert check_profile(profile).faults == []
    assert drawn_settings(profile) == {"full": 200.0}
    for given in ("order: middle", "full: tall"):
        wrong = _profile(
            little.replace("full: 200, order: little", f"full: 200, {given}".replace("200, full:", "")), SPAN, OPTIONS
        )
        assert any(fault.startswith("vector one: settings: ") for fault in check_profile(wrong).faults)


def test_advice_names_what_is_not_shown_and_not_marked() -> None:
    fields = """
      - {name: kind, type: u8, map: {1: hourly, 2: alarm}}
      - {name: level, type: u8, unit: mm, metric: water.level, invalid: [255]}
      - {name: card, type: bcd, length: 1}
      - {name: door.password, type: u8, unit: lashes}
"""
    messages = f"messages:\n  report:\n    codec: {{type: binary}}\n    fields:{fields}"
    more = "caveats: [{text: It barks}]\nsettings: {height: {title: Height, unit: cm}}\n"
    vector = _vector("message: report", 'wire: {hex: "01 02 03 04"}', "samples: [{values: {water.level: 0.2}}]")
    profile = _profile(vector + REFUSED, messages, more)
    report = check_profile(profile)
    assert report.faults == []
    assert report.advice == [
        "a caveat has no zh: It barks",
        "setting height has no title_zh",
        "message report, field kind: no vector shows 'alarm'",
        "message report, field level: no vector shows that it may have no value",
        "message report, field card: looks like something personal; mark it `personal: true`",
        "message report, field door.password: unit 'lashes' is none that we know; write it as in units.py, or leave it out",
        "message report, field door.password: looks like something secret; mark it `secret: true`",
    ]


# --- chance


def _sound() -> Profile:
    return _profile(_vector("message: report", HOURLY, SAID) + REST + REFUSED)


def test_an_encoder_that_loses_something_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    profile = _sound()
    right = profile.encode_fields

    def lossy(message: str, values: Any, **keys: Any) -> bytes:
        return right(message, {**values, "battery": min(values["battery"], 7)}, **keys)

    monkeypatch.setattr(profile, "encode_fields", lossy)
    (fault,) = check_chance(profile, Random(1), VOCABULARY)
    assert "comes back otherwise: battery is 7, not" in fault


def test_an_encoder_that_writes_one_thing_in_two_ways_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    padded = REPORT.replace("{name: level, type: i16", "{skip: 1}\n      - {name: level, type: i16")
    profile = _profile(_vector("message: report", HOURLY.replace("007b", "00 007b"), SAID), padded)
    right, fill = profile.encode_fields, iter(range(256))

    def restless(message: str, values: Any, **keys: Any) -> bytes:
        frame = right(message, values, **keys)
        return frame[:5] + bytes((next(fill),)) + frame[6:]

    monkeypatch.setattr(profile, "encode_fields", restless)
    (fault,) = check_chance(profile, Random(1), VOCABULARY)
    assert "which is written as" in fault


def test_faces_that_disagree_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    profile, blind = (
        _sound(),
        _profile(_vector("message: report", HOURLY, SAID), REPORT.replace("0x7FFF", "0x7FFF, -1")),
    )
    monkeypatch.setattr(profile, "decode_fields", lambda frame, **keys: blind.decode_fields(frame[:7], **keys))
    faults = check_chance(profile, Random(1), VOCABULARY)
    assert any("readings say None" in fault and "values by name say truncated" in fault for fault in faults)


def test_a_decoder_that_breaks_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    profile = _sound()
    monkeypatch.setattr(profile, "decode", lambda frame, **keys: frame[99])
    with pytest.raises(IndexError):
        check_chance(profile, Random(1), VOCABULARY)


def test_a_message_that_takes_no_drawing_is_named() -> None:
    messages = REPORT.replace("equals: [1, 2]", "equals: 3")
    report = check_profile(_profile(REFUSED.replace("truncated", "no_match"), messages))
    assert any("no values could be drawn that it can carry" in fault for fault in report.faults)


EVERYTHING = """
messages:
  report:
    codec: {type: binary}
    fields:
      - {name: start, type: u8, const: 0x68}
      - {name: size, type: u8}
      - {name: kind, type: u8, map: {1: short, 2: long}, others: pass}
      - {name: flags, type: u8, bits: [{name: located, bit: 0}, {name: low, bit: 1, width: 3, signed: true}]}
      - {name: count, type: u8}
      - group: position
        when: {field: located, equals: true}
        fields: [{name: lon, type: f32, unit: deg}, {name: lat, type: i32, scale: 0.000001, unit: deg}]
      - when: {field: kind, equals: long}
        fields: [{name: text, type: ascii, length: 4}, {name: number, type: digits, length: 3, role: serial}]
      - repeat: log
        to: count
        fields:
          - {name: at, type: digits, length: 6, role: time, form: digits, utc_offset: "+08:00"}
          - {name: level, type: u16, unit: mm, metric: water.level, invalid: [65535]}
      - size: {field: size}
        fields:
          - items:
              - {tag: "01", fields: [{name: door, type: u8, metric: door.open}]}
              - {tag: "02", many: true, group: peak, fields: [{name: value, type: bcd, length: 2}]}
      - elements:
          - {lead: "39", definition: "23", name: stage, unit: m, metric: river.level}
        until: "03"
      - {type: u8, const: 3}
      - {name: crc, type: u16, checksum: {kind: crc16_modbus, from: 0}}
  document:
    codec: {type: json}
    when: {match: [{pointer: /type, equals: [a, b]}]}
    fields:
      - {name: type, pointer: /type, type: text}
      - {name: rssi, pointer: /rssi, type: number, unit: dBm, metric: link.rssi}
      - each: events
        pointer: /events
        only: {pointer: /k, equals: 1}
        fields:
          - {name: k, pointer: /k, type: int}
          - {name: what, pointer: /what, type: text, metric: lock.event}
          - {bytes: /raw, coding: base64, fields: [{name: temperature, type: i8, unit: Cel, metric: device.temperature}]}
  status:
    codec: {type: modbus}
    fields:
      - {name: power, table: input, address: 1, type: f32, unit: W, metric: electric.power}
      - {name: mode, table: holding, address: 1, type: u16, bits: [{name: letter, bit: 8, width: 8, map: {65: a, 66: b}}]}
"""


def _drawn(profile: Profile, message: str, count: int, seed: int = 1) -> list[dict[str, Any]]:
    random = Random(seed)
    return [draw(profile, message, random, VOCABULARY, {}) for _ in range(count)]


def test_drawings_reach_every_branch_of_a_frame() -> None:
    profile = _profile("  []\n", EVERYTHING)
    drawn = _drawn(profile, "report", 150)
    filled = {"size", "count", "crc"}
    names = {field.name for field in profile.fields("report")}
    assert {name for values in drawn for name in values} == names - filled
    assert {values["located"] for values in drawn} == {True, False}
    assert all(("position.lon" in values) == values["located"] for values in drawn)
    assert all(("text" in values) == (values["kind"] == "long") for values in drawn)
    assert {"short", "long"} < {values["kind"] for values in drawn}
    assert any(type(values["kind"]) is int for values in drawn)
    assert {len(values.get("log.level", [])) for values in drawn} == {0, 1, 2, 3}
    assert any(None in values.get("log.level", []) for values in drawn)
    assert {len(values["peak.value"]) for values in drawn if "peak.value" in values} == {1, 2, 3}
    assert {min(values["low"], 0) for values in drawn} >= {-4, 0}
    assert any((values.get("stage") or 0) < 0 for values in drawn)


def test_drawings_reach_documents_and_registers() -> None:
    profile = _profile("  []\n", EVERYTHING)
    documents = _drawn(profile, "document", 60)
    assert {values["type"] for values in documents if "type" in values} == {"a", "b"}
    assert any(values.get("rssi", 0) is None for values in documents)
    assert any("rssi" not in values for values in documents)
    assert {k for values in documents for k in values.get("events.k", [])} == {1}
    lock_events = VOCABULARY.metric("lock.event").values or frozenset()
    assert {what for values in documents for what in values.get("events.what", [])} <= lock_events | {None}
    assert {values["letter"] for values in _drawn(profile, "status", 30)} == {"a", "b"}


@pytest.mark.parametrize("message", ["report", "document", "status"])
def test_what_is_drawn_can_be_encoded_and_comes_from_the_seed(message: str) -> None:
    profile = _profile("  []\n", EVERYTHING)
    drawn = _drawn(profile, message, 20)
    assert drawn == _drawn(profile, message, 20)
    assert drawn != _drawn(profile, message, 20, seed=2)
    assert len({str(encoded(profile, message, values, {})) for values in drawn}) > 10
    assert check_chance(profile, Random(3), VOCABULARY) == []


def test_what_cannot_be_drawn_is_refused() -> None:
    profile = _profile("  []\n", REPORT.replace("equals: [1, 2]", "equals: 3"))
    with pytest.raises(EncodeError, match="another message"):
        draw(profile, "report", Random(1), VOCABULARY, {})


@pytest.mark.parametrize(("kind", "valid", "level"), [("u16", "[500, 65535]", 63536), ("i16", "[-4000, -2000]", -2000)])
def test_chance_copes_with_valid_ranges_far_from_zero(kind: str, valid: str, level: int) -> None:
    messages = (
        "messages:\n  report:\n    codec: {type: binary}\n    fields: "
        f"[{{name: level, type: {kind}, unit: mm, metric: water.level, valid: {valid}}}]\n"
    )
    vectors = _vector("message: report", 'wire: {hex: "f8 30"}', f"values: {{level: {level}}}")
    profile = _profile(vectors + REFUSED.replace("01 02", "01"), messages)
    assert [check_profile(profile, seed=seed).faults for seed in range(5)] == [[]] * 5
