"""The vocabulary that ships, and what makes one wrong."""

from __future__ import annotations

import pytest

from citysense_profiles import ProfileError, ReadingClass, load_vocabulary
from citysense_profiles.vocabulary import Kind, ValueType, parse_vocabulary


def test_what_others_rely_on() -> None:
    vocabulary = load_vocabulary()
    level = vocabulary.metric("water.level")
    assert (level.unit, level.kind, level.cls) == ("cm", Kind.MEASUREMENT, ReadingClass.SAFETY)
    assert level.low is not None
    assert level.high is not None
    assert level.low < 15 < level.high
    classes = {name: vocabulary.metric(name).cls.value for name in (
        "water.distance", "lock.event", "pile.fault", "pile.state", "battery.level", "link.rssi", "device.temperature"
    )}  # fmt: skip
    assert classes == {
        "water.distance": "safety",
        "lock.event": "safety",
        "pile.fault": "safety",
        "pile.state": "state",
        "battery.level": "bulk",
        "link.rssi": "bulk",
        "device.temperature": "bulk",
    }
    assert vocabulary.metric("tag.rssi").unit == "dBm"
    assert vocabulary.metric("lock.event").kind is Kind.EVENT
    assert vocabulary.metric("lock.event").values is not None
    assert {"forced", "tamper", "duress", "unlock.card"} <= (vocabulary.metric("lock.event").values or set())
    assert vocabulary.metric("pile.state").type is ValueType.TEXT


def test_every_metric_can_be_found_and_nothing_else() -> None:
    vocabulary = load_vocabulary()
    assert len(vocabulary) == len(list(vocabulary)) > 40
    assert all(metric.name in vocabulary and vocabulary.metric(metric.name) is metric for metric in vocabulary)
    assert "water.depth" not in vocabulary
    with pytest.raises(KeyError, match=r"water\.depth"):
        vocabulary.metric("water.depth")


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ("{title: A, kind: measurement, unit: furlong, class: bulk}", "unit 'furlong' is not known"),
        ("{title: A, kind: measurement, class: bulk}", "needs a unit"),
        ("{title: A, kind: measurement, type: text, class: bulk}", "measurements and totals are numbers"),
        ("{title: A, kind: state, class: bulk}", "measurements and totals are numbers"),
        ("{title: A, kind: measurement, unit: cm, range: [5, 5], class: bulk}", "low < high"),
        ("{title: A, kind: state, type: boolean, values: [a], class: bulk}", "values is for text"),
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


def test_secret_is_personal() -> None:
    text = "schema: 1\nmetrics:\n  a.b: {title: A, kind: state, type: text, class: bulk, secret: true}\n"
    assert parse_vocabulary(text).metric("a.b").personal
