"""Frames that vendors and standards print, through small descriptions of their layout."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from citysense_profiles import DecodeError, load_vocabulary
from citysense_profiles.codecs.contract import Finish, Place
from citysense_profiles.codecs.frames.codec import BinaryCodec
from citysense_profiles.format.profile_file import BinaryMessage, TlvMessage

VOCABULARY = load_vocabulary()
FINISH = Finish(event=None, event_metrics=frozenset(), derivations=())


def _codec(message: str) -> BinaryCodec:
    document = yaml.safe_load(message)
    model = TlvMessage if "items" in document else BinaryMessage
    return BinaryCodec(Place("acme/x", "report"), FINISH, model.model_validate(document), VOCABULARY)


LEVEL_BIN = _codec(
    """
codec: {type: binary}
when: {length: [17, 25], match: [{at: 0, equals: 0x80}, {at: 3, equals: 1}, {at: -1, equals: 0x81}]}
fields:
  - {type: u16, const: 0x8000}
  - {name: kind, type: u8, const: 1}
  - {type: u8, const: 1}
  - {name: size, type: u8}
  - size: {field: size, less: 6}
    fields:
      - {name: distance, type: u16, unit: mm, metric: water.distance}
      - {name: gps, type: u8, map: {0: none, 1: fixed}}
      - when: {field: gps, equals: fixed}
        fields:
          - {name: longitude, type: f32, byte_order: little, unit: deg, metric: location.longitude}
          - {name: latitude, type: f32, byte_order: little, unit: deg, metric: location.latitude}
      - {name: temperature, type: i8, unit: Cel, metric: device.temperature}
      - {name: sign, type: u8}
      - {name: angle, type: u8, unit: deg, metric: gauge.tilt}
      - type: u8
        bits:
          - {name: full, bit: 4, width: 4, map: {0: false, 1: true}, metric: gauge.full}
          - {name: fire, bit: 0, width: 4}
      - {type: u8, bits: [{name: tilt, bit: 4, width: 4}, {name: low, bit: 0, width: 4, map: {0: ok, 1: low}}]}
      - {name: counter, type: u16, unit: "1", metric: device.frame_counter}
      - {skip: 1}
  - {name: end, type: u8, const: 0x81}
"""
)

GROUPS = _codec(
    """
codec: {type: binary}
fields:
  - {name: protocol, type: u8, const: 2}
  - {name: device_id, type: u16}
  - {type: u16, bits: [{name: has_distance, bit: 0}, {name: has_battery, bit: 1}]}
  - when: {field: has_distance, equals: true}
    group: distance
    fields:
      - {name: mean, type: u16, unit: mm, metric: water.distance}
      - {repeat: rest, to: 9, fields: [{name: value, type: u16}]}
      - {name: time, type: u16, unit: ms, scale: "1000/1024"}
  - when: {field: has_battery, equals: true}
    fields: [{name: battery, type: u16, unit: mV, metric: battery.voltage}]
"""
)

CHANNELS = _codec(
    """
codec: {type: tlv, byte_order: little}
items:
  - {tag: "01 75", fields: [{name: battery, type: u8, unit: "%", metric: battery.level}]}
  - {tag: "03 67", fields: [{name: temperature, type: i16, scale: 0.1, unit: Cel, metric: device.temperature}]}
  - {tag: "04 82", fields: [{name: distance, type: u16, unit: mm, metric: water.distance}]}
  - tag: "05 00"
    fields: [{name: position, type: u8, map: {0: normal, 1: tilt}, metric: gauge.tilted, means: {normal: false, tilt: true}}]
  - tag: "83 67"
    group: temperature_alarm
    fields: [{name: temperature, type: i16, scale: 0.1, unit: Cel, metric: device.temperature}, {name: state, type: u8}]
  - tag: "84 82"
    group: alarm
    fields:
      - {name: distance, type: u16, unit: mm, metric: water.distance}
      - {name: state, type: u8, map: {0: release, 1: alarm}, metric: gauge.full, means: {release: false, alarm: true}}
"""
)

METER = _codec(
    """
codec: {type: tlv, byte_order: big, significant: [1]}
items:
  - {tag: "01 01", fields: [{name: at, type: u32, role: time, form: unix_s}]}
  - {tag: "02 03", fields: [{name: logged, type: u32}]}
  - {tag: "03 04", fields: [{name: import_t1, type: u32, unit: W.h}]}
  - {tag: "04 05", fields: [{name: import_t2, type: u32, unit: W.h}]}
  - {tag: "05 06", fields: [{name: export_t1, type: u32, unit: W.h}]}
  - {tag: "06 07", fields: [{name: export_t2, type: u32, unit: W.h}]}
  - {tag: "01 0a", fields: [{name: reactive_export_t1, type: u32}]}
  - {tag: "0b 0a", fields: [{name: modbus_error, type: u8}]}
  - {tag: "fe 13", fields: [{name: power, type: i32, unit: W, metric: electric.power}]}
  - {tag: "fe f0", fields: [{name: year, type: digits, length: 2}]}
"""
)

STATION = _codec(
    """
codec: {type: binary}
fields:
  - {type: u16, const: 0x7E7E}
  - {name: centre, type: u8}
  - {name: station, type: digits, length: 5, role: serial}
  - {name: password, type: hex, length: 2}
  - {name: function, type: hex, length: 1}
  - {type: u16, bits: [{name: direction, bit: 12, width: 4, map: {0: up, 8: down}}, {name: length, bit: 0, width: 12}]}
  - {type: u8, const: 2}
  - size: {field: length}
    fields:
      - {name: number, type: u16}
      - {name: sent, type: digits, length: 6, role: time, form: digits, utc_offset: "+08:00"}
      - when: {field: function, equals: ["30", "32", "38"]}
        fields:
          - {type: u16, const: 0xF1F1}
          - {name: about, type: digits, length: 5}
          - {name: class, type: u8, map: {0x48: river}}
          - repeat: observed
            to: end
            fields:
              - {type: u16, const: 0xF0F0}
              - {name: at, type: digits, length: 5, role: time, form: digits, utc_offset: "+08:00"}
              - until: f0f0
                elements:
                  - {lead: "20", definition: "19", name: rain, unit: mm}
                  - {lead: "26", definition: "19", name: rain_total, unit: mm}
                  - {lead: "39", definition: "23", name: level, unit: m, metric: water.level}
                  - {lead: "38", definition: "12", name: battery, unit: V, metric: battery.voltage}
                  - {lead: "04", definition: "18", fields: [{name: step, type: digits, length: 3}]}
                  - lead: F4
                    definition: "60"
                    fields:
                      - {repeat: five, to: 12, fields: [{name: rain, type: u8, scale: 0.1, unit: mm, invalid: [255]}]}
  - {name: end, type: u8, map: {3: etx, 0x17: etb}}
  - {name: crc, type: u16, checksum: {kind: crc16_modbus, from: 0}}
"""
)

LOGIN = _codec(
    """
codec: {type: binary, byte_order: little}
fields:
  - {name: start, type: u8, const: 0x68}
  - {name: length, type: u8}
  - size: {field: length}
    fields:
      - {name: sequence, type: u16, role: seq}
      - {name: encrypted, type: u8, const: 0}
      - {name: type, type: u8, const: 2}
      - {name: pile, type: digits, length: 7, role: serial}
      - {name: result, type: u8, map: {0: accepted, 1: refused}}
  - {name: crc, type: u16, checksum: {kind: crc16_modbus, from: 2}}
"""
)

TELEMETRY = _codec(
    """
codec: {type: binary, byte_order: little}
fields:
  - {type: u8, const: 0x68}
  - {name: length, type: u8}
  - {type: u8, const: 0x68}
  - size: {field: length}
    fields:
      - {name: control, type: hex, length: 1}
      - {name: address, type: hex, length: 5}
      - {name: function, type: hex, length: 1}
      - {name: data, type: hex, length: end}
  - {name: crc, type: u8, checksum: {kind: crc8_e5, from: 3}}
  - {type: u8, const: 0x16}
"""
)


@pytest.mark.parametrize(
    ("codec", "wire", "values"),
    [
        (
            LEVEL_BIN,
            "800001011107d000190000000000010081",
            {"size": 17, "distance": 2000, "gps": "none", "temperature": 25, "sign": 0, "angle": 0, "full": False, "fire": 0,
             "tilt": 0, "low": "ok", "counter": 1},
        ),
        (
            LEVEL_BIN,
            "800001011907d001cd03e942ef272042190000000000010081",
            {"size": 25, "distance": 2000, "gps": "fixed", "longitude": pytest.approx(116.50743, abs=1e-5),
             "latitude": pytest.approx(40.038999, abs=1e-5), "temperature": 25, "sign": 0, "angle": 0, "full": False,
             "fire": 0, "tilt": 0, "low": "ok", "counter": 1},
        ),
        (
            GROUPS,
            "0211c90003119b117611bc119e118a119411a811a81194006401990abd",
            {"device_id": 4553, "has_distance": True, "has_battery": True, "distance.mean": 4507,
             "distance.rest.value": [4470, 4540, 4510, 4490, 4500, 4520, 4520, 4500, 100], "distance.time": 399.4140625,
             "battery": 2749},
        ),
        (GROUPS, "0211c900020abd", {"device_id": 4553, "has_distance": False, "has_battery": True, "battery": 2749}),
        (
            CHANNELS,
            "01755c0367010104824408050001",
            {"battery": 92, "temperature": 25.7, "distance": 2116, "position": "tilt"},
        ),
        (
            CHANNELS,
            "8367e800018482410601",
            {"temperature_alarm.temperature": 23.2, "temperature_alarm.state": 1, "alarm.distance": 1601,
             "alarm.state": "alarm"},
        ),
        (
            METER,
            "0101673b240c0203673b21b4030403080f040405000000000506000000000607000000000b0a00",
            {"at": 1731929100, "logged": 1731928500, "import_t1": 50859780, "import_t2": 0, "export_t1": 0, "export_t2": 0,
             "modbus_error": 0},
        ),
        (METER, "0101000000070b0a00", {"at": 7, "modbus_error": 0}),
        (METER, "0101000000070b0a00fe1300050e6bfef02023", {"at": 7, "modbus_error": 0, "power": 331371, "year": "2023"}),
        (
            STATION,
            "7e7e01001234567812342f0008020003591011155111036bca",
            {"centre": 1, "station": "0012345678", "password": "1234", "function": "2F", "direction": "up", "length": 8,
             "number": 3, "sent": "591011155111", "end": "etx"},
        ),
        (
            STATION,
            "7e7e010012345678123430002b020003591011154947f1f1001234567848f0f0591011154920190000052619000005392300000127"
            "381211150320fa",
            {"centre": 1, "station": "0012345678", "password": "1234", "function": "30", "direction": "up", "length": 43,
             "number": 3, "sent": "591011154947", "about": "0012345678", "class": "river", "observed.at": ["5910111549"],
             "observed.rain": [0.5], "observed.rain_total": [0.5], "observed.level": [0.127], "observed.battery": [11.15],
             "end": "etx"},
        ),
        (
            STATION,
            "7e7e05001122334403e838002a020035170718110128f1f1001122334448f0f017071810050418000005f4600500000014ffffffff"
            "ff000003e8ab",
            {"centre": 5, "station": "0011223344", "password": "03E8", "function": "38", "direction": "up", "length": 42,
             "number": 53, "sent": "170718110128", "about": "0011223344", "class": "river", "observed.at": ["1707181005"],
             "observed.step": ["000005"],
             "observed.five.rain": [[0.5, 0.0, 0.0, 0.0, 2.0, None, None, None, None, None, 0.0, 0.0]], "end": "etx"},
        ),
        (
            LOGIN,
            "680c000000025503141278230500da4c",
            {"length": 12, "sequence": 0, "pile": "55031412782305", "result": "accepted"},
        ),
        (
            TELEMETRY,
            "681a68b35303810d00c00059000000826110000001106000004508090a3516",
            {"length": 26, "control": "B3", "address": "5303810D00", "function": "C0",
             "data": "0059000000826110000001106000004508090A"},
        ),
    ],
)  # fmt: skip
def test_published_frames_are_read_and_written_again(codec: BinaryCodec, wire: str, values: dict[str, Any]) -> None:
    frame = bytes.fromhex(wire)
    assert codec.fits(frame, None)
    named = codec.decode_fields(frame, None, {})
    assert dict(named.values) == values
    json.dumps(dict(named.values), allow_nan=False)
    assert codec.encode_fields(named.values, None, {}) == frame
    # Lengths follow by themselves.
    lengths = {"size", "length"}
    given = {name: value for name, value in named.values.items() if name not in lengths}
    assert codec.encode_fields(given, None, {}) == frame


def test_readings_of_published_frames() -> None:
    (sample,) = LEVEL_BIN.decode(bytes.fromhex("800001011107d000190000000000010081"), None, {}).samples
    assert sample.values == {
        "water.distance": 200.0,
        "device.temperature": 25.0,
        "gauge.tilt": 0.0,
        "gauge.full": False,
        "device.frame_counter": 1.0,
    }
    decoded = STATION.decode(
        bytes.fromhex(
            "7e7e05001122334403e832002b020034170718110016f1f1001122334448f0f01707181100201900004026190000403923000104903812"
            "109903a421"
        ),
        None,
        {},
    )
    assert decoded.serial == "0011223344"
    assert [(sample.time, dict(sample.values)) for sample in decoded.samples] == [
        (1500346800000, {"water.level": 1049.0, "battery.voltage": 10.99})
    ]
    answer = LOGIN.decode(bytes.fromhex("680c000000025503141278230500da4c"), None, {})
    assert (answer.seq, answer.serial, answer.samples) == (0, "55031412782305", ())
    (alarm,) = CHANNELS.decode(bytes.fromhex("8367e800018482410601"), None, {}).samples
    assert alarm.values == {"device.temperature": 23.2, "water.distance": 160.1, "gauge.full": True}


@pytest.mark.parametrize(
    ("codec", "wire", "code", "field"),
    [
        (LEVEL_BIN, "800001011107d000190000000000010080", "no_match", None),
        (LEVEL_BIN, "800001011107d0001900000000000181", "truncated", None),
        (LEVEL_BIN, "800001011107d001190000000000010081", "truncated", None),
        (LEVEL_BIN, "800001011207d000190000000000010081", "truncated", None),
        (LEVEL_BIN, "800001011107d002190000000000010081", "value", "gps"),
        (GROUPS, "0211c90002", "truncated", None),
        (GROUPS, "0311c900020abd", "shape", "protocol"),
        (CHANNELS, "01755c01755c", "shape", None),
        (CHANNELS, "050002", "value", "position"),
        (STATION, "7e7e0100123456781234350011020004591011155145f2f251312e32333420034602", "checksum", "crc"),
        (LOGIN, "680c000000025503141278230500da4d", "checksum", "crc"),
        (TELEMETRY, "681a68b35303810d00c00059000000826110000001106000004508090a3517", "shape", "#5"),
    ],
)
def test_damaged_frames_are_refused(codec: BinaryCodec, wire: str, code: str, field: str | None) -> None:
    for decode in (codec.decode, codec.decode_fields):
        with pytest.raises(DecodeError) as caught:
            decode(bytes.fromhex(wire), None, {})
        assert (caught.value.code, caught.value.field) == (code, field)
