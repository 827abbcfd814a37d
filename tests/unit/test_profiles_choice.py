"""Which message a frame is: by name, by its looks, by the port; and never a guess between two."""

from __future__ import annotations

import pytest

from citysense_profiles import DecodeError, EncodeError, Profile, load_vocabulary
from citysense_profiles.compiler import parse_profile

TEXT = """
schema: 1
id: acme/sensor
kind: parking_sensor
title: Sensor
product: {vendor: Acme, model: Sensor, source: manual}
transport: {mqtt: {}}
report_every: 1h
messages:
  start:
    codec: {type: binary}
    when: {port: 3}
    fields:
      - {name: firmware, type: dotted, length: 3}
      - {name: occupied, type: u8, metric: parking.occupied}
  tag:
    codec: {type: binary}
    when: {port: 10}
    fields: [{name: tag_id, type: u32}]
  level:
    codec: {type: binary}
    fields: [{name: battery, type: u16, unit: mV, metric: battery.voltage}]
  set_period:
    direction: down
    codec: {type: binary}
    fields: [{name: period, type: u8, unit: h, metric: config.report_interval}]
vectors: []
"""


@pytest.fixture(scope="module")
def profile() -> Profile:
    return parse_profile(TEXT, "acme/sensor.yaml", load_vocabulary())


def test_the_port_tells_messages_of_one_length_apart(profile: Profile) -> None:
    frame = bytes.fromhex("02040901")
    assert profile.decode(frame, port=3).samples[0].values == {"parking.occupied": True}
    assert profile.decode_fields(frame, port=10).values == {"tag_id": 0x02040901}
    assert profile.decode_fields(frame, message="start").values == {"firmware": "2.4.9", "occupied": True}


def test_without_a_port_two_that_fit_are_not_guessed_between(profile: Profile) -> None:
    with pytest.raises(DecodeError) as caught:
        profile.decode(bytes.fromhex("02040901"))
    assert caught.value.code == "no_match"
    assert "start or tag; say the port or the message" in caught.value.text


def test_a_message_without_a_port_may_come_on_any(profile: Profile) -> None:
    assert profile.decode(bytes.fromhex("0e10"), port=7).message == "level"
    assert profile.decode(bytes.fromhex("0e10")).samples[0].values == {"battery.voltage": 3.6}


def test_only_readers_of_frames_by_name_take_downward_messages_for_one(profile: Profile) -> None:
    assert profile.decode_fields(b"\x04").values == {"period": 4}
    with pytest.raises(DecodeError, match="no message fits"):
        profile.decode(b"\x04")
    assert profile.encode("set_period", {"config.report_interval": 14400.0}) == b"\x04"


def test_names_that_a_message_lacks_are_refused(profile: Profile) -> None:
    with pytest.raises(EncodeError, match="perod not in this message; it has period"):
        profile.encode_fields("set_period", {"perod": 4})
    with pytest.raises(EncodeError, match="no message 'set'"):
        profile.encode_fields("set", {})
    with pytest.raises(DecodeError, match="no message 'set'"):
        profile.decode(b"", message="set")
    with pytest.raises(DecodeError, match="no register map"):
        profile.decode_registers({})
