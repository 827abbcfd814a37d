"""The vocabulary that ships, and what makes one wrong."""

from __future__ import annotations

import re

import pytest

from citysense_profiles.errors import ProfileError
from citysense_profiles.reading import ReadingClass
from citysense_profiles.vocabulary import Kind, Retention, ValueType, load_vocabulary, parse_vocabulary

VOCABULARY = load_vocabulary()
CHINESE = re.compile("[\u4e00-\u9fff]")


def test_what_others_rely_on() -> None:
    level = VOCABULARY.metric("water.level")
    assert (level.unit, level.kind, level.cls) == ("cm", Kind.MEASUREMENT, ReadingClass.SAFETY)
    assert level.low is not None
    assert level.high is not None
    assert level.low < 15 < level.high
    assert VOCABULARY.metric("tag.rssi").unit == "dBm"
    assert VOCABULARY.metric("lock.event").kind is Kind.EVENT
    assert {"forced", "tamper", "duress", "unlock.card"} <= (VOCABULARY.metric("lock.event").values or set())
    assert VOCABULARY.metric("pile.state").type is ValueType.TEXT
    assert VOCABULARY.metric("tag.sightings").kind is Kind.TOTAL


@pytest.mark.parametrize(
    ("cls", "names"),
    [
        (
            ReadingClass.SAFETY,
            ["water.level", "water.distance", "water.leak", "river.level", "lock.event", "pile.fault", "smoke.alarm"],
        ),
        # The connector qualifies the state: both are given up together or not at all.
        (ReadingClass.STATE, ["pile.state", "pile.connector", "door.open", "parking.occupied", "rain.amount"]),
        (ReadingClass.BULK, ["battery.level", "link.rssi", "device.temperature", "electric.energy.import.t1"]),
    ],
)
def test_how_hard_we_try_to_keep_a_reading(cls: ReadingClass, names: list[str]) -> None:
    assert {VOCABULARY.metric(name).cls for name in names} == {cls}


def test_every_metric_has_a_title_of_its_own_in_both_languages() -> None:
    for title in ("title", "title_zh"):
        titles = [getattr(metric, title) for metric in VOCABULARY]
        assert len(set(titles)) == len(titles)
    assert [metric.name for metric in VOCABULARY if not CHINESE.search(metric.title_zh)] == []
    assert [metric.name for metric in VOCABULARY if CHINESE.search(metric.title)] == []


def test_every_measurement_of_a_sensor_says_what_is_plausible() -> None:
    without = {metric.name for metric in VOCABULARY if metric.type is ValueType.NUMBER and metric.low is None}
    # What a device is told to do may be anything, and a count has no end.
    counts = {metric.name for metric in VOCABULARY if metric.kind is Kind.TOTAL and metric.unit == "1"}
    assert {name for name in without - counts if not name.startswith("config.")} == set()


def test_whatever_tells_when_somebody_is_there_is_personal() -> None:
    assert {metric.name for metric in VOCABULARY if metric.personal} == {"lock.event", "lock.locked", "room.occupied"}


def test_what_is_counted_for_good_is_kept_long() -> None:
    energies = [metric for metric in VOCABULARY if "energy" in metric.name and metric.kind is Kind.TOTAL]
    assert len(energies) > 10
    assert {metric.retention for metric in energies} == {Retention.LONG}


def test_every_metric_can_be_found_and_nothing_else() -> None:
    assert len(VOCABULARY) == len(list(VOCABULARY)) > 150
    assert all(metric.name in VOCABULARY and VOCABULARY.metric(metric.name) is metric for metric in VOCABULARY)
    assert "water.depth" not in VOCABULARY
    with pytest.raises(KeyError, match=r"water\.depth"):
        VOCABULARY.metric("water.depth")


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ("{title: A, kind: measurement, unit: furlong, class: bulk}", "unit 'furlong' is not known"),
        ("{title: A, kind: measurement, class: bulk}", "needs a unit"),
        ("{title: A, kind: measurement, type: text, class: bulk}", "measurements and totals are numbers"),
        ("{title: A, kind: state, class: bulk}", "measurements and totals are numbers"),
        ("{title: A, kind: measurement, unit: cm, range: [5, 5], class: bulk}", "low < high"),
        ("{title: A, kind: state, type: boolean, values: [a], class: bulk}", "values is for text"),
        ("{title: A, kind: state, type: boolean, unit: cm, class: bulk}", "only a number has a unit"),
        ("{title: A, kind: state, type: boolean, range: [0, 1], class: bulk}", "only a number has a unit"),
        ("{title: A, kind: measurement, unit: cm, class: urgent}", "Input should be 'safety'"),
        ("{title: A, kind: measurement, unit: cm, class: bulk, color: red}", "not a key"),
    ],
)
def test_a_wrong_entry_is_named(entry: str, sentence: str) -> None:
    with pytest.raises(ProfileError, match=r"v\.yaml") as caught:
        parse_vocabulary(f"schema: 1\nmetrics:\n  a.b: {entry}\n", "v.yaml")
    assert caught.value.field is not None
    assert caught.value.field.startswith("metrics.a.b")
    assert sentence in caught.value.text


def test_secret_is_personal_and_a_missing_translation_is_the_title() -> None:
    text = "schema: 1\nmetrics:\n  a.b: {title: A, kind: state, type: text, class: bulk, secret: true}\n"
    metric = parse_vocabulary(text).metric("a.b")
    assert metric.personal
    assert metric.title_zh == "A"
