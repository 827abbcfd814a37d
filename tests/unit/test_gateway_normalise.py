"""From decoded frames to readings per class."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from citysense import wire
from citysense.keys import TagPseudonym
from citysense_gateway.devices import Device
from citysense_gateway.frame import Frame, Identity, Transport
from citysense_gateway.normalise import NEWEST_MS, OLDEST_MS, normalise
from citysense_profiles.catalogue import load_catalogue
from citysense_profiles.reading import Decoded, ReadingClass, Sample, Value
from citysense_profiles.vocabulary import ValueType, load_vocabulary

SAFETY, STATE, BULK = ReadingClass.SAFETY, ReadingClass.STATE, ReadingClass.BULK
VOCABULARY = load_vocabulary()
NOW = 1_795_190_934_423
GAUGE = Device(id="gauge-1", profile=load_catalogue()["generic/water-gauge"], settings={}, serial=None, endpoint=None)
FRAME = Frame(
    transport=Transport.MQTT,
    channel="cs/v1/gauge-1/up/report",
    device="gauge-1",
    identity=Identity.CREDENTIAL,
    source="192.0.2.1:5000",
    received_at=NOW,
)


def readings(*samples: Sample, boot: int | None = None, seq: int | None = None) -> dict[ReadingClass, wire.Readings]:
    decoded = Decoded(message="report", samples=samples, boot=boot, seq=seq)
    return normalise(FRAME, GAUGE, decoded, vocabulary=VOCABULARY, pseudonym=TagPseudonym(bytes(32)))


def only(found: dict[ReadingClass, wire.Readings]) -> wire.SampleBody:
    (of_class,) = found.values()
    (sample,) = of_class.samples
    return sample


def test_metrics_travel_in_the_lane_of_their_class_the_most_urgent_first() -> None:
    found = readings(Sample(time=NOW - 5, values={"battery.voltage": 3.6, "water.level": 12.5}), boot=3, seq=41)
    assert list(found) == [SAFETY, BULK]
    assert found[SAFETY] == wire.Readings(
        device="gauge-1",
        profile="generic/water-gauge",
        kind="waterlogging_gauge",
        message="report",
        received=NOW,
        identity="credential",
        samples=[wire.SampleBody(time=NOW - 5, values={"water.level": 12.5})],
        boot=3,
        seq=41,
    )
    assert found[BULK].samples[0].values == {"battery.voltage": 3.6}


def test_implausible_is_flagged_and_kept() -> None:
    sample = only(readings(Sample(time=NOW, values={"water.level": -4.0})))
    assert (sample.values, sample.suspect) == ({"water.level": -4.0}, ["water.level"])


@pytest.mark.parametrize("edge", [0.0, 1_000.0])
def test_the_edges_of_the_plausible_range_are_plausible(edge: float) -> None:
    assert only(readings(Sample(time=NOW, values={"water.level": edge}))).suspect == []


def test_missing_is_listed_in_its_lane_and_is_not_zero() -> None:
    sample = only(readings(Sample(time=NOW, values={}, missing=("water.level",))))
    assert (sample.values, sample.missing) == ({}, ["water.level"])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_missing(value: float) -> None:
    sample = only(readings(Sample(time=NOW, values={"water.level": value})))
    assert (sample.values, sample.missing) == ({}, ["water.level"])


def test_without_a_time_the_time_of_arrival_stands_unflagged() -> None:
    sample = only(readings(Sample(time=None, values={"water.level": 1.0})))
    assert (sample.time, sample.suspect) == (NOW, [])


@pytest.mark.parametrize("time", [OLDEST_MS, NOW - 5 * 365 * 86_400_000, NOW + NEWEST_MS])
def test_times_within_the_span_are_kept(time: int) -> None:
    assert only(readings(Sample(time=time, values={"water.level": 1.0}))).time == time


@pytest.mark.parametrize("time", [0, OLDEST_MS - 1, NOW + NEWEST_MS + 1, NOW + 10 * 365 * 86_400_000])
def test_times_of_a_wrong_clock_are_replaced_and_flagged(time: int) -> None:
    sample = only(readings(Sample(time=time, values={"water.level": 1.0})))
    assert (sample.time, sample.suspect) == (NOW, ["time"])


def test_a_sighting_stays_whole_and_carries_no_tag_in_clear() -> None:
    found = readings(
        Sample(time=NOW, values={"tag.rssi": -52.3, "tag.antenna": 1}, event="tag.seen", tag="E28011606000020A6681F23F")
    )
    assert list(found) == [STATE], "rssi alone would be bulk"
    sample = only(found)
    assert sample.values == {"tag.rssi": -52.3, "tag.antenna": 1}
    assert sample.event == "tag.seen"
    assert len(sample.tag) == 32
    assert b"E28011606000020A6681F23F" not in wire.encode(found[STATE])


def test_an_event_without_values_is_kept() -> None:
    found = readings(Sample(time=NOW, values={}, event="tag.seen", tag="7EDA"))
    assert list(found) == [STATE]


def test_an_event_travels_in_the_lane_of_the_metric_of_its_name() -> None:
    found = readings(Sample(time=NOW, values={"lock.event": "duress", "battery.level": 3.0}, event="lock.event"))
    assert list(found) == [SAFETY]


def test_a_frame_that_says_nothing_gives_no_reading() -> None:
    assert readings() == {}
    assert readings(Sample(time=NOW, values={})) == {}


def test_secret_metrics_never_leave() -> None:
    secret = [metric.name for metric in VOCABULARY if metric.secret]
    found = readings(Sample(time=NOW, values=dict.fromkeys(secret, "1234"), missing=tuple(secret)))
    assert found == {}


NUMBERS = sorted(metric.name for metric in VOCABULARY if metric.type is ValueType.NUMBER and not metric.secret)
SAMPLES = st.builds(
    lambda time, values, missing: Sample(time=time, values=values, missing=tuple(set(missing) - set(values))),
    st.none() | st.integers(0, 2 * NOW),
    st.dictionaries(st.sampled_from(NUMBERS), st.floats(allow_nan=True, allow_infinity=True), max_size=6),
    st.lists(st.sampled_from(NUMBERS), max_size=3),
)


@given(samples=st.lists(SAMPLES, max_size=4))
def test_every_metric_arrives_exactly_once_as_value_or_as_missing(samples: list[Sample]) -> None:
    found = readings(*samples)
    said: list[tuple[str, Value | None]] = []
    for sample in samples:
        said += [(name, value if math.isfinite(value) else None) for name, value in sample.values.items()]  # type: ignore[arg-type]
        said += [(name, None) for name in sample.missing]
    heard: list[tuple[str, Value | None]] = []
    for cls, of_class in found.items():
        for body in of_class.samples:
            assert OLDEST_MS <= body.time <= NOW + NEWEST_MS
            heard += list(body.values.items())
            heard += [(name, None) for name in body.missing]
            assert all(VOCABULARY.metric(name).cls is cls for name in [*body.values, *body.missing])
            assert set(body.suspect) <= {*body.values, "time"}
    assert sorted(heard, key=repr) == sorted(said, key=repr)
