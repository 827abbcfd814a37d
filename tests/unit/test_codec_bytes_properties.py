"""Any bytes, any values: both faces of a codec agree, the fast way agrees with the careful one, values come back."""

from __future__ import annotations

import time
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from citysense_profiles import Decoded, DecodeError, load_vocabulary
from citysense_profiles.codecs.contract import Finish, Named, Place
from citysense_profiles.codecs.frames.codec import BinaryCodec
from citysense_profiles.codecs.frames.parts import Parts
from citysense_profiles.codecs.sinks import Readings
from citysense_profiles.format.profile_file import BinaryMessage

VOCABULARY = load_vocabulary()
PLACE = Place("acme/x", "report")
FINISH = Finish(event=None, event_metrics=frozenset(), derivations=())


class _Slowly(Readings):
    """Readings that the fast way does not know."""


FIXED = """
codec: {type: binary}
fields:
  - {type: u8, const: 1}
  - {name: distance, type: u16, unit: mm, metric: water.distance, invalid: [0xFFFF, 0xFFFE]}
  - {name: temperature, type: i16, byte_order: little, scale: 0.1, unit: Cel, metric: device.temperature}
  - {name: outside, type: i16, scale: 0.1, offset: -40, unit: "[degF]", metric: air.temperature}
  - {name: energy, type: u24, unit: W.h, metric: electric.energy}
  - {name: size, type: u8}
  - size: {field: size}
    group: inner
    fields:
      - {name: battery, type: u8, unit: "%", metric: battery.level}
      - type: u8
        bits:
          - {name: full, bit: 0, metric: gauge.full}
          - {name: tilted, bit: 1, width: 2, map: {0: up, 1: down, 2: unknown}, metric: gauge.tilted,
             means: {up: false, down: true}}
          - {name: angle, bit: 3, width: 5, signed: true, unit: deg, metric: gauge.tilt}
  - {name: plug, type: u8, map: {0: none, 1: ccs1}, others: pass, metric: pile.plug, means: {ccs1: ccs1}}
  - type: u8
    bits:
      - {name: coverage, bit: 5, width: 2, map: {0: none, 1: good, 2: fair, 3: poor}, metric: link.coverage_level,
         means: {none: none, good: level_0, fair: level_1, poor: level_2}}
  - {name: open, type: u8, metric: door.open, invalid: [9]}
  - {name: label, type: ascii, length: 2, role: tag}
  - {name: at, type: u32, role: time, form: unix_s}
  - {name: level, type: f32, unit: m, metric: water.level, invalid: [.nan]}
  - {name: voltage, type: u16, unit: mV, metric: battery.voltage}
  - {type: u8, checksum: {kind: sum8, from: 0}}
"""

EVERYTHING = """
codec: {type: binary, byte_order: little}
fields:
  - {name: kind, type: u8, map: {0: none, 1: log, 2: items, 3: elements}}
  - {name: size, type: u8}
  - size: {field: size, less: 1}
    fields:
      - group: listed
        when: {field: kind, equals: log}
        fields:
          - {name: count, type: u8}
          - repeat: log
            to: count
            fields:
              - {type: u8, bits: [{name: wet, bit: 0}, {name: rest, bit: 4, width: 4, signed: true}]}
              - when: {field: wet, equals: true}
                fields: [{name: level, type: u16, unit: mm, metric: water.level, invalid: [0xFFFF]}]
              - {name: at, type: u16, role: time, form: unix_s}
              - {repeat: pair, to: 2, fields: [{name: x, type: i8, invalid: [-128]}]}
          - {name: text, type: ascii, length: end}
      - when: {field: kind, equals: items}
        fields:
          - byte_order: big
            length: u8
            unknown: skip
            items:
              - {tag: "01", fields: [{name: voltage, type: u16, unit: mV, metric: battery.voltage}]}
              - tag: "02"
                many: true
                group: tag
                fields: [{name: id, type: hex, length: end, role: tag}]
              - {tag: "03", fields: [{name: firmware, type: dotted, length: 2}]}
      - when: {field: kind, equals: elements}
        fields:
          - elements:
              - {lead: "39", definition: "23", name: height, unit: m, metric: water.level}
              - {lead: "38", definition: "12", name: supply, unit: V, metric: battery.voltage}
              - lead: F4
                definition: "10"
                fields: [{repeat: five, to: 2, fields: [{name: rain, type: u8, scale: 0.1, invalid: [255]}]}]
  - {name: crc, type: u16, checksum: {kind: crc16_modbus, from: 0}}
"""

TAGGED = """
codec: {type: binary, byte_order: little}
fields:
  - significant: [1]
    items:
      - {tag: "01 75", fields: [{name: battery, type: u8, unit: "%", metric: battery.level}]}
      - {tag: "03 82", fields: [{name: distance, type: u16, unit: mm, metric: water.distance, invalid: [0xFFFF]}]}
      - tag: "20 ce"
        many: true
        group: old
        fields:
          - {name: at, type: u16, role: time, form: unix_s}
          - {name: distance, type: u16, unit: mm, metric: water.distance}
      - tag: "04 00"
        fields:
          - type: u8
            bits: [{name: tilted, bit: 0, metric: gauge.tilted}, {name: full, bit: 7, metric: gauge.full, default: false}]
"""


def _entry(message: str) -> BinaryMessage:
    return BinaryMessage.model_validate(yaml.safe_load(message))


MESSAGES = {"fixed": _entry(FIXED), "everything": _entry(EVERYTHING), "tagged": _entry(TAGGED)}
CODECS = {name: BinaryCodec(PLACE, FINISH, entry, VOCABULARY) for name, entry in MESSAGES.items()}
PARTS = {name: Parts(PLACE, entry.fields, entry.codec.byte_order, VOCABULARY) for name, entry in MESSAGES.items()}
BYTES = st.integers(0, 255)
FIXED_VALUES = st.fixed_dictionaries(
    {
        "distance": st.none() | st.integers(0, 0xFFFD),
        "temperature": st.integers(-(2**15), 2**15 - 1).map(lambda code: code / 10),
        "outside": st.integers(-(2**15), 2**15 - 1).map(lambda code: (code - 400) / 10),
        "energy": st.integers(0, 2**24 - 1),
        "inner.battery": BYTES,
        "inner.full": st.booleans(),
        "inner.tilted": st.sampled_from(["up", "down", "unknown"]),
        "inner.angle": st.integers(-16, 15),
        "plug": st.sampled_from(["none", "ccs1"]) | st.integers(2, 255),
        "coverage": st.sampled_from(["none", "good", "fair", "poor"]),
        "open": st.none() | st.booleans(),
        "label": st.text("abXY 0", max_size=2),
        "at": st.integers(0, 2**32 - 1),
        "level": st.none() | st.floats(width=32, allow_nan=False, allow_infinity=False),
        "voltage": st.integers(0, 0xFFFF),
    }
)
ROUND = st.tuples(
    st.booleans(),
    st.integers(-8, 7),
    st.none() | st.integers(0, 0xFFFE),
    st.integers(0, 0xFFFF),
    st.lists(st.none() | st.integers(-127, 127), min_size=2, max_size=2),
)


def _listed(rounds: list[tuple[Any, ...]], text: str) -> dict[str, Any]:
    columns: list[list[Any]] = [list(column) for column in zip(*rounds, strict=True)] if rounds else [[]] * 5
    names = ("wet", "rest", "level", "at", "pair.x")
    values: dict[str, Any] = {f"listed.log.{name}": column for name, column in zip(names, columns, strict=True)}
    values["listed.log.level"] = [
        level if wet else None for wet, level in zip(values["listed.log.wet"], values["listed.log.level"], strict=True)
    ]
    if not any(wet for wet, *_ in rounds):
        del values["listed.log.level"]  # what stands in no round is absent
    return (values if rounds else {}) | {"kind": "log", "listed.text": text}


EVERYTHING_VALUES = st.one_of(
    st.builds(_listed, st.lists(ROUND, max_size=5), st.text("ab", max_size=3)),
    st.fixed_dictionaries(
        {"kind": st.just("items")},
        optional={
            "voltage": st.integers(0, 0xFFFF),
            "tag.id": st.lists(st.binary(max_size=5).map(lambda data: data.hex().upper()), min_size=1, max_size=4),
            "firmware": st.tuples(BYTES, BYTES).map(lambda pair: f"{pair[0]}.{pair[1]}"),
        },
    ),
    st.fixed_dictionaries(
        {"kind": st.just("elements")},
        optional={
            "height": st.none() | st.integers(-999999, 99999999).map(lambda digits: digits / 1000),
            "supply": st.none() | st.integers(0, 9999).map(lambda digits: digits / 100),
            "five.rain": st.lists(st.none() | st.integers(0, 254).map(lambda code: code / 10), min_size=2, max_size=2),
        },
    ),
    st.just({"kind": "none"}),
)
TAGGED_VALUES = st.builds(
    lambda once, rounds: (
        once | ({"old.at": [at for at, _ in rounds], "old.distance": [far for _, far in rounds]} if rounds else {})
    ),
    st.fixed_dictionaries({"battery": BYTES}, optional={"distance": st.none() | st.integers(0, 0xFFFE)})
    | st.fixed_dictionaries({"tilted": st.booleans(), "full": st.booleans()}),
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=4),
)
VALUES: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "fixed": FIXED_VALUES,
    "everything": EVERYTHING_VALUES,
    "tagged": TAGGED_VALUES,
}
SOME_VALUES = st.sampled_from(sorted(VALUES)).flatmap(lambda name: st.tuples(st.just(name), VALUES[name]))


def _outcome(codec: BinaryCodec, payload: bytes) -> tuple[Decoded, Named] | str:
    """What both faces say, or the code with which both refuse."""
    try:
        decoded = codec.decode(payload, None, {})
    except DecodeError as error:
        with pytest.raises(DecodeError) as caught:
            codec.decode_fields(payload, None, {})
        assert str(caught.value) == str(error)
        assert error.offset is not None
        assert 0 <= error.offset <= len(payload)
        return error.code
    return decoded, codec.decode_fields(payload, None, {})


@settings(max_examples=150, deadline=None)
@given(chosen=SOME_VALUES)
def test_values_come_back_as_they_were_given(chosen: tuple[str, dict[str, Any]]) -> None:
    name, values = chosen
    codec = CODECS[name]
    frame = codec.encode_fields(values, None, {})
    outcome = _outcome(codec, frame)
    assert not isinstance(outcome, str), outcome
    named = outcome[1]
    counters = {"size", "inner.size", "listed.count"}
    assert {key: value for key, value in named.values.items() if key not in counters} == values
    assert codec.encode_fields(named.values, None, {}) == frame
    assert named.values.keys() == named.where.keys()


@settings(max_examples=200, deadline=None)
@given(chosen=SOME_VALUES, damage=st.lists(st.tuples(st.integers(0, 60), BYTES), max_size=3), cut=st.integers(-3, 60))
def test_damaged_frames_say_something_or_are_refused(
    chosen: tuple[str, dict[str, Any]], damage: list[tuple[int, int]], cut: int
) -> None:
    name, values = chosen
    frame = bytearray(CODECS[name].encode_fields(values, None, {}))
    for at, byte in damage:
        if at < len(frame):
            frame[at] = byte
    _both_ways_agree(name, bytes(frame[:cut] if cut < len(frame) // 2 else frame))


@settings(max_examples=200, deadline=None)
@given(
    name=st.sampled_from(sorted(CODECS)),
    payload=st.binary(max_size=60),
    head=st.sampled_from([b"", b"\x01", b"\x00\x01"]),
)
def test_any_bytes_say_something_or_are_refused(name: str, payload: bytes, head: bytes) -> None:
    _both_ways_agree(name, head + payload)


def _both_ways_agree(name: str, payload: bytes) -> None:
    codec = CODECS[name]
    outcome = _outcome(codec, payload)
    if isinstance(outcome, str):
        return
    decoded, named = outcome
    slowly = _Slowly(FINISH, {})
    assert PARTS[name].read(payload, 0, len(payload), slowly) == len(payload)
    assert decoded == slowly.decoded("report")
    assert named.values.keys() == named.where.keys()


HOSTILE = {
    "items of one kind": ("codec: {type: binary}\nfields: [{items: [{tag: '01', many: true, fields: [{name: x, type: u16,"
                          " unit: mm, metric: water.distance}]}]}]", b"\x01\x02\x03" * 341),
    "rounds": ("codec: {type: binary}\nfields: [{repeat: log, to: end, fields: [{name: x, type: u16, unit: mm,"
               " metric: water.distance}, {name: at, type: u32, role: time, form: unix_s}]}]", b"\x00\x01\x00\x00\x00\x02" * 170),
    "digits": ("codec: {type: binary}\nfields: [{name: x, type: bcd, length: end}]", b"\x99" * 1024),
    "elements": ("codec: {type: binary}\nfields: [{elements: [{lead: '01', definition: '08', name: x}]}]", b"\x02\x00" * 512),
    "unknown items": ("codec: {type: binary}\nfields: [{length: u8, unknown: skip, items: [{tag: '01', fields: []}]}]",
                      b"\x02\x00" * 512),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_kilobyte_costs_no_more_than_its_length(name: str) -> None:
    message, payload = HOSTILE[name]
    codec = BinaryCodec(PLACE, FINISH, _entry(message), VOCABULARY)

    def cost(data: bytes) -> float:
        best = 1.0
        for _ in range(5):
            start = time.process_time()
            _outcome(codec, data)
            best = min(best, time.process_time() - start)
        return best

    # Both faces, on whatever machine: far above the usual 1 ms, far below what anything but linear work would take.
    assert cost(payload) < 0.02
    assert cost(payload * 8) < 0.16
