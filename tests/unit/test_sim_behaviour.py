"""Curves, steps and plans of the simulator."""

from __future__ import annotations

from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from citysense_profiles.catalogue import load_catalogue
from citysense_sim.behaviour import SHORTEST_REPORT_S, Planned, curve_at, plan, step_at, values_at
from citysense_sim.scenario import Device, Scenario, Value, find_scenario, load_scenario

STORM = load_scenario(find_scenario("storm"))
BLUE_CM = 15.0


def device(name: str) -> Device:
    return next(device for device in STORM.devices if device.id == name)


def scenario(**entry: object) -> Scenario:
    base = {
        "id": "d-1",
        "profile": "a/b",
        "message": "report",
        "transport": "coap",
        "site": {"name": "x", "lon": 1, "lat": 2, "datum": "wgs84"},
    }
    return Scenario.model_validate(
        {
            "schema": 1,
            "title": "t",
            "length_min": 10,
            "curves": {"c": [[0, 0], [5, 10], [10, 0]]},
            "devices": [base | entry],
        }
    )


def test_curve_is_straight_between_points_and_level_outside() -> None:
    points = [(1.0, 10.0), (3.0, 20.0)]
    assert [curve_at(points, minute) for minute in (0, 1, 2, 3, 9)] == [10, 10, 15, 20, 20]


@given(st.floats(0, 60))
def test_curve_never_leaves_its_points(minute: float) -> None:
    points = STORM.curves["underpass_1"]
    levels = [level for _, level in points]
    assert min(levels) <= curve_at(points, minute) <= max(levels)


def test_step_holds_until_the_next_and_the_last_one_from_the_round_before() -> None:
    steps: list[tuple[float, Value]] = [(2.0, "a"), (5.0, "b")]
    assert [step_at(steps, minute) for minute in (0, 2, 4.9, 5, 9)] == ["b", "a", "a", "b", "b"]


def test_storm_is_dry_then_blue_then_at_its_peak_then_dry_again() -> None:
    def level(minute: float) -> float:
        return curve_at(STORM.curves["underpass_1"], minute)

    assert all(level(second / 60) < 2 for second in range(121))
    crossing = next(second / 60 for second in range(3600) if level(second / 60) >= BLUE_CM)
    assert 4 < crossing <= 5
    assert level(25) == max(level(minute) for minute in range(60)) == 55
    assert all(level(minute) < 2 for minute in range(50, 61))


def test_first_level_is_reported_within_six_seconds_at_speed_60() -> None:
    first = next(due for due in plan(STORM, device("gauge-001"), 60) if float(due.values["water.level"]) >= BLUE_CM)
    assert first.at_s <= 6


def test_the_same_moment_gives_the_same_values() -> None:
    gauge = device("gauge-001")
    assert values_at(STORM, gauge, 321.0, 1) == values_at(STORM, gauge, 321.0, 1)
    assert len({values_at(STORM, gauge, second, 1)["water.level"] for second in range(60)}) > 3, "no noise at all"


def test_below_is_what_a_sensor_sees_that_looks_down() -> None:
    played = scenario(transport="modbus", values={"water.distance": {"curve": "c", "below": 250, "digits": 1}})
    assert values_at(played, played.devices[0], 300, 1) == {"water.distance": 240.0}


def test_noise_does_not_make_a_dry_gauge_negative() -> None:
    played = scenario(report_s=60, values={"water.level": {"curve": "c", "noise": 5}})
    levels = [float(values_at(played, played.devices[0], second, 1e-6)["water.level"]) for second in range(200)]
    assert min(levels) == 0 < max(levels)


@pytest.mark.parametrize("speed", [1, 60, 600])
def test_plans_run_in_order_of_time_and_never_too_fast(speed: float) -> None:
    lock = device("lock-001")
    due = list(islice(plan(STORM, lock, speed), 60))
    assert all(later.at_s >= earlier.at_s for earlier, later in pairwise(due))
    regular = [one.at_s for one in due if "battery.level" in one.values]
    assert all(later - earlier >= SHORTEST_REPORT_S - 1e-9 for earlier, later in pairwise(regular))


def test_events_come_back_every_round() -> None:
    played = scenario(
        events=[{"minute": 2, "values": {"lock.event": "lock"}}, {"minute": 1, "values": {"lock.event": "forced"}}]
    )
    due = list(islice(plan(played, played.devices[0], 60), 4))
    assert [(one.at_s, one.values["lock.event"]) for one in due] == [
        (1, "forced"),
        (2, "lock"),
        (11, "forced"),
        (12, "lock"),
    ]


def test_a_polled_device_plans_nothing() -> None:
    assert list(plan(STORM, device("gauge-002"), 1)) == []


def test_every_report_of_the_storm_can_be_said_by_its_profile() -> None:
    catalogue = load_catalogue()
    for entry in STORM.devices:
        profile = catalogue[entry.profile]
        if entry.transport == "modbus":
            for second in range(0, 3600, 7):
                values = values_at(STORM, entry, second, 1)
                decoded = profile.decode_registers(profile.encode_registers(values, message=entry.message))
                assert (
                    decoded.samples[0].values == pytest.approx(values)
                    if all(isinstance(value, float) for value in values.values())
                    else decoded.samples[0].values.keys() == values.keys()
                )
            continue
        one_round: list[Planned] = [due for due in islice(plan(STORM, entry, 1), 100) if due.at_s < 3600]
        assert one_round
        for due in one_round:
            numbers = {"boot": 1, "seq": 0} if profile.native else {"tag": due.tag, "serial": entry.serial}
            payload = profile.encode(
                entry.message, due.values, content=entry.content, time=1_795_190_934_423, **numbers
            )
            sample = profile.decode(payload, message=entry.message, content=entry.content).samples[0]
            assert dict(sample.values) == due.values
            assert sample.time == 1_795_190_934_423
            assert sample.tag == due.tag
