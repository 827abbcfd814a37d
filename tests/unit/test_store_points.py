"""What of a record becomes telemetry."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from citysense import wire
from citysense_platform.store.day_file import DAY_MS, ODD_DAY, day_in_name, day_of, file_name
from citysense_platform.store.points import END_OF_TIME, points_of

NOW = 1_795_190_934_423


def readings(*samples: wire.SampleBody, received: int = NOW) -> wire.Readings:
    return wire.Readings(
        device="lock-1",
        profile="generic/nbiot-lock",
        kind="door_lock",
        message="report",
        received=received,
        identity="credential",
        samples=list(samples),
        site="site-1",
    )


def test_a_sample_becomes_a_point() -> None:
    sample = wire.SampleBody(time=NOW - 5, values={"door.open": True, "battery.level": 80.0}, suspect=["battery.level"])
    (point,) = points_of(readings(sample))
    assert (point.device, point.site, point.kind) == ("lock-1", "site-1", "door_lock")
    assert (point.time, point.received) == (NOW - 5, NOW)
    assert point.values == {"door.open": True, "battery.level": 80.0}
    assert point.suspect == {"battery.level"}


def test_missing_is_not_zero_and_nothing_is_no_point() -> None:
    assert points_of(readings(wire.SampleBody(time=NOW, values={}, missing=["battery.level"]))) == []


def test_no_number_is_left_out() -> None:
    sample = wire.SampleBody(time=NOW, values={"a.b": float("nan"), "a.c": float("-inf"), "a.d": 1.0})
    assert points_of(readings(sample))[0].values == {"a.d": 1.0}


def test_an_integer_that_no_store_can_hold_becomes_a_float() -> None:
    sample = wire.SampleBody(time=NOW, values={"a.b": 2**64 - 1, "a.c": -(2**63)})
    values = points_of(readings(sample))[0].values
    assert values == {"a.b": float(2**64 - 1), "a.c": -(2**63)}
    assert type(values["a.b"]) is float


def test_sightings_of_a_tag_are_no_telemetry_but_lock_events_are() -> None:
    seen = wire.SampleBody(time=NOW, values={"tag.rssi": -52.0}, event="tag.seen", tag="ab12")
    lock = wire.SampleBody(time=NOW, values={"lock.event": "unlock.card"}, event="lock.event")
    assert [point.values for point in points_of(readings(seen, lock))] == [{"lock.event": "unlock.card"}]


@given(st.integers(-(2**63), 2**64 - 1), st.integers(-(2**63), 2**64 - 1))
def test_a_time_that_no_calendar_can_write_is_replaced_and_suspected(time: int, received: int) -> None:
    (point,) = points_of(readings(wire.SampleBody(time=time, values={"a.b": 1.0}), received=received))
    assert 0 <= point.time < END_OF_TIME
    assert 0 <= point.received < END_OF_TIME
    believed = 0 <= time < END_OF_TIME
    assert point.time == (time if believed else point.received)
    assert point.suspect == (frozenset() if believed else {"a.b"})


def test_days() -> None:
    today = NOW // DAY_MS
    assert file_name("telemetry", day_of(NOW, NOW)) == "telemetry-2026-11-20.db"
    assert day_of(NOW - 300 * DAY_MS, NOW) == today - 300
    assert day_of(NOW + DAY_MS, NOW) == today + 1
    assert day_of(0, NOW) == ODD_DAY
    assert day_of(NOW + 10 * DAY_MS, NOW) == ODD_DAY
    assert file_name("telemetry", ODD_DAY) == "telemetry-odd.db"


@given(st.integers(0, END_OF_TIME // DAY_MS - 1) | st.just(ODD_DAY))
def test_a_file_name_says_its_day(day: int) -> None:
    assert day_in_name("events", file_name("events", day)) == day
    assert day_in_name("telemetry", file_name("events", day)) in (None, ODD_DAY)


def test_other_files_are_none_of_ours() -> None:
    for name in ("telemetry-index.db", "telemetry-2026-1-2.db", "telemetry-2026-11-20.db-wal", "influx-cursor.db"):
        assert day_in_name("telemetry", name) is None
