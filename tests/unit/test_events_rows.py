"""Events out of records, parts of one event put together, pages."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from citysense import wire
from citysense_platform.events.paging import Place, WrongCursor, place_of
from citysense_platform.events.rows import EventRow, Merge, digest_of, events_of, merge, short_names

NOW = 1_795_190_934_423


def event(received: int = NOW, **values: object) -> EventRow:
    named = {metric.replace("__", "."): value for metric, value in values.items()}
    return EventRow(device="r", time=NOW, received=received, kind="tag.seen", tag="ab", values=named)  # type: ignore[arg-type]


def test_only_samples_with_an_event_are_rows() -> None:
    readings = wire.Readings(
        device="reader-07",
        profile="impinj/r700",
        kind="reader",
        message="events",
        received=NOW + 9,
        identity="credential",
        samples=[
            wire.SampleBody(time=NOW, values={"tag.rssi": -52.3, "tag.antenna": 1}, event="tag.seen", tag="ab12"),
            wire.SampleBody(time=NOW, values={"reader.power": 30.0}),
            wire.SampleBody(time=-1, values={}, event="tag.lost"),
        ],
    )
    rows = events_of(readings)
    assert [(row.kind, row.tag, row.time) for row in rows] == [("tag.seen", "ab12", NOW), ("tag.lost", "", NOW + 9)]
    assert rows[0].values == {"tag.rssi": -52.3, "tag.antenna": 1}


def test_names_are_short_within_their_own_word() -> None:
    assert short_names("tag.seen", {"tag.rssi": -5.0, "reader.power": 3}) == {"rssi": -5.0, "reader.power": 3}
    assert short_names("lock.event", {"lock.event": "lock", "door.open": True}) == {"event": "lock", "door.open": True}


def test_parts_of_a_frame_become_one_event() -> None:
    known = [(7, NOW, {"tag.antenna": 1})]
    assert merge(known, event(tag__rssi=-5.0)) == Merge(
        row=7, values={"tag.antenna": 1, "tag.rssi": -5.0}, changed=True
    )


def test_what_is_known_changes_nothing() -> None:
    known: list[tuple[int, int, Mapping[str, wire.Value]]] = [
        (6, NOW - 5, {"tag.antenna": 2}),
        (7, NOW - 5, {"tag.antenna": 1, "tag.rssi": -5.0}),
    ]
    assert not merge(known, event(tag__antenna=1)).changed
    assert not merge(known, event()).changed


def test_something_else_in_the_same_millisecond_is_another_event() -> None:
    known = [(7, NOW, {"lock.event": "unlock.card"})]
    assert merge(known, event(lock__event="door_open")).row is None
    assert merge([(7, NOW - 1, {"tag.antenna": 1})], event(tag__rssi=-5.0)).row is None, "of another frame"


def test_digests_tell_parts_apart() -> None:
    assert digest_of("a", "b") == digest_of("a", "b")
    assert len({digest_of("a", "b"), digest_of("ab", ""), digest_of("a", b"b"), digest_of("a", "b", 0)}) == 4


places = st.builds(Place, st.integers(-1, 2**40), st.integers(0, 2**50), st.integers(0, 2**40))


@given(places)
def test_a_cursor_says_its_place(place: Place) -> None:
    assert place_of(place.text) == place


@given(places, st.lists(st.integers(-1, 100), max_size=8))
def test_a_page_goes_on_with_the_same_day_and_older_ones(place: Place, days: list[int]) -> None:
    following = place.days(days)
    assert following == sorted((day for day in days if day <= place.day), reverse=True)
    for day in following:
        assert (place.before(day) == (place.time, place.row)) == (day == place.day)


@pytest.mark.parametrize("cursor", ["", "1.2", "1.2.3.4", "a.b.c", "1.2.99999999999999999999", "1.2.3 OR 1=1"])
def test_a_cursor_of_somebody_else_is_refused(cursor: str) -> None:
    with pytest.raises(WrongCursor, match="none of ours"):
        place_of(cursor)
