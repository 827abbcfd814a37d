"""A simulated device moves within what its profile says, and every report can be sent."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest

from citysense_profiles import Profile, load_catalogue, load_vocabulary
from citysense_profiles.compiler import parse_profile
from citysense_profiles.simulation import Simulation

VOCABULARY = load_vocabulary()
TEXT = """
schema: 1
id: acme/gauge
kind: waterlogging_gauge
title: Gauge
product: {vendor: Acme, model: Gauge, source: manual}
transport: {mqtt: {}}
report_every: 60s
messages:
  report:
    codec: {type: binary}
    fields:
      - {name: level, type: u16, scale: 0.1, unit: cm, metric: water.level}
      - {name: battery, type: u16, unit: mV, metric: battery.voltage}
      - {name: mode, type: u8, map: {0: dry, 1: rain}}
      - {name: kind, type: u8}
      - {name: left, type: u8}
sim:
  level: {walk: {from: 2, to: 60, step: 1.5}}
  battery: {drain: {from: 3600, per_day: 24}}
  mode: {cycle: [dry, rain, rain]}
  kind: {constant: 7}
vectors: []
"""


def test_each_field_moves_as_it_says() -> None:
    profile = parse_profile(TEXT, "acme/gauge.yaml", VOCABULARY)
    device = Simulation(profile, "report", random=Random(1), vocabulary=VOCABULARY)
    reports = [device.report(3600.0 * hour) for hour in range(200)]
    levels = [report["level"] for report in reports]
    assert levels[0] == 2
    assert all(2 <= level <= 60 for level in levels)
    assert all(abs(after - before) <= 1.5 for before, after in pairwise(levels))
    assert len(set(levels)) > 100
    assert [report["battery"] for report in reports[:3]] == [3600, 3599, 3598]
    assert [report["mode"] for report in reports[:5]] == ["dry", "rain", "rain", "dry", "rain"]
    assert {report["kind"] for report in reports} == {7}
    assert len({report["left"] for report in reports}) == 1
    for report in reports:
        assert profile.decode_fields(profile.encode_fields("report", report)).values["mode"] == report["mode"]


def test_the_same_chance_gives_the_same_device() -> None:
    profile = parse_profile(TEXT, "acme/gauge.yaml", VOCABULARY)
    one, other = (Simulation(profile, "report", random=Random(5), vocabulary=VOCABULARY) for _ in range(2))
    assert [one.report(60.0 * n) for n in range(9)] == [other.report(60.0 * n) for n in range(9)]


def test_frame_numbers_and_times_go_on() -> None:
    profile = load_catalogue()["generic/water-gauge"]
    device = Simulation(profile, "report", random=Random(1), vocabulary=VOCABULARY)
    first, second = device.report(0.0), device.report(60.0)
    assert (second["seq"] - first["seq"], second["t"] - first["t"]) == (1, 60_000)


SIMULATED = [profile for profile in load_catalogue() if profile.file.sim]


@pytest.mark.parametrize("profile", SIMULATED, ids=lambda profile: profile.id)
def test_every_simulated_device_of_the_catalogue_can_speak(profile: Profile) -> None:
    for message, entry in profile.file.messages.items():
        if entry.direction == "down":
            continue
        device = Simulation(profile, message, random=Random(3), vocabulary=VOCABULARY)
        for hour in range(0, 24 * 60, 7):
            values = device.report(3600.0 * hour)
            if profile.is_sent(message):
                assert profile.encode_fields(message, values, settings=device.settings)
            else:
                assert profile.encode_register_fields(message, values, settings=device.settings)


def test_there_are_simulated_devices() -> None:
    assert len(SIMULATED) > 20
