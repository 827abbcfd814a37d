"""Which items of a batch are new: intervals, and the decision over any splitting and repeating of a lane."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from citysense import wire
from citysense.durable_log import Entry
from citysense_platform.ingest.accept import (
    MAX_INTERVALS,
    BatchMalformed,
    Examined,
    Place,
    Reason,
    decide,
    examine,
    place,
)
from citysense_platform.ingest.intervals import Interval, covers, union
from citysense_platform.registry.roster import Assigned
from citysense_profiles.reading import ReadingClass

INTERVALS = st.lists(
    st.tuples(st.integers(1, 60), st.integers(0, 8)).map(lambda pair: (pair[0], pair[0] + pair[1])), max_size=12
)


def offsets(intervals: list[Interval]) -> set[int]:
    return {offset for low, high in intervals for offset in range(low, high + 1)}


@given(INTERVALS)
def test_union_keeps_the_set_in_the_fewest_intervals(intervals: list[Interval]) -> None:
    merged = union(intervals)
    assert offsets(merged) == offsets(intervals)
    assert all(high + 1 < low for (_, high), (low, _) in pairwise(merged))
    assert union(merged) == merged


@given(INTERVALS, st.integers(0, 80))
def test_covers_is_membership(intervals: list[Interval], offset: int) -> None:
    assert covers(union(intervals), offset) == (offset in offsets(intervals))


def new(offset: int) -> Examined:
    return Examined(offset=offset, outcome=Entry(cls=ReadingClass.STATE, body=b"%d" % offset, device="d", time=offset))


FIRST = Place(settled=0, after=0)


@given(st.data())
def test_any_splitting_and_repeating_of_a_lane_stores_each_record_once(data: st.DataObject) -> None:
    lane = sorted(data.draw(st.sets(st.integers(1, 400), min_size=1, max_size=60)))
    refused = data.draw(st.sets(st.sampled_from(lane), max_size=5))
    stored: list[bytes] = []
    seen: list[Interval] = []
    sent = settled = 0
    while sent < len(lane):
        # The answer to what was sent before may have been lost: the gateway starts again from what it knows is settled.
        start = data.draw(st.integers(settled, sent))
        settled = data.draw(st.integers(settled, start))
        end = data.draw(st.integers(sent + 1, len(lane)))
        batch = [
            Examined(offset=offset, outcome=Reason.NOT_ASSIGNED) if offset in refused else new(offset)
            for offset in lane[start:end]
        ]
        at = Place(settled=lane[settled - 1] if settled else 0, after=lane[start - 1] if start else 0)
        decision = decide(batch, seen, at)
        stored += [entry.body for entry in decision.entries]
        seen = list(decision.seen)
        accepted = {offset for offset in lane[start:end] if covers(decision.answer.accepted, offset)}
        assert accepted == set(lane[start:end]) - refused
        assert {offset for offset, _ in decision.answer.rejected} == refused & set(lane[start:end])
        assert decision.answer.keep == []
        assert decision.duplicates == len(accepted) - len(decision.entries)
        sent = end
    assert stored == [b"%d" % offset for offset in lane if offset not in refused]


@given(st.data())
def test_two_chains_at_both_ends_of_a_lane_store_each_record_once(data: st.DataObject) -> None:
    """The newest are sent ahead, with gaps that belong to other lanes; no gap that is still to be filled is closed."""
    lane = sorted(data.draw(st.sets(st.integers(1, 300), min_size=4, max_size=60)))
    size = data.draw(st.integers(1, 7))
    oldest, newest = 0, data.draw(st.integers(1, len(lane) - 1))
    meeting = newest
    stored: list[bytes] = []
    seen: list[Interval] = []
    while oldest < meeting or newest < len(lane):
        ahead = oldest == meeting or (newest < len(lane) and data.draw(st.booleans()))
        first, bound = (newest, len(lane)) if ahead else (oldest, meeting)
        batch = lane[first : min(first + size, bound)]
        at = Place(settled=lane[oldest - 1] if oldest else 0, after=lane[first - 1] if first else 0)
        for _ in range(data.draw(st.integers(1, 2))):  # an answer is lost, and all is said once more
            decision = decide([new(offset) for offset in batch], seen, at)
            stored += [entry.body for entry in decision.entries]
            seen = list(decision.seen)
            assert decision.answer.accepted == [(batch[0], batch[-1])]
        assert len(seen) <= 3, "what has been told is remembered in one piece for each chain"
        oldest, newest = (oldest, newest + len(batch)) if ahead else (oldest + len(batch), newest)
    assert sorted(stored) == sorted(b"%d" % offset for offset in lane)
    assert len(stored) == len(lane)


def test_a_gateway_that_says_nothing_of_its_place_sends_in_order() -> None:
    seen: list[Interval] = []
    for offset in range(1, 2_000, 2):
        batch = wire.Batch(spool="s", items=[(offset, b"")])
        decision = decide([new(offset)], seen, place(batch))
        assert len(decision.entries) == 1
        seen = list(decision.seen)
        assert seen == [(1, offset)]
    assert decide([new(1_999), new(2_001)], seen, Place(settled=1_998, after=1_998)).duplicates == 1


def test_memory_is_bounded_by_asking_for_it_later_and_never_by_closing_a_gap() -> None:
    """A lane whose newest records are refused, one by one: each leaves a gap that its owner may still fill."""
    seen: list[Interval] = []
    behind, offset = 1_000, 1_001
    answer = wire.Answer(accepted=[])
    while not answer.keep:
        items = [new(offset), Examined(offset=offset + 1, outcome=Reason.NOT_ASSIGNED)]
        decision = decide(items, seen, Place(settled=0, after=behind))
        seen, answer, behind, offset = list(decision.seen), decision.answer, offset + 1, offset + 2
    assert len(seen) == MAX_INTERVALS
    assert (answer.accepted, answer.rejected, answer.keep) == ([], [], [offset - 2, offset - 1])
    assert not covers(seen, 5)
    in_order = decide([new(5)], seen, Place(settled=4, after=4))
    assert in_order.answer.accepted == [(5, 5)], "the oldest are never held up"
    caught_up = decide([new(offset - 2)], in_order.seen, Place(settled=offset - 3, after=offset - 3))
    assert caught_up.seen == [(1, offset - 2)]


@pytest.mark.parametrize(("settled", "after"), [(7, 7), (0, 7), (5, 4), (2**63, 2**63)])
def test_a_place_behind_its_own_items_is_no_batch(settled: int, after: int) -> None:
    with pytest.raises(BatchMalformed, match="first item"):
        place(wire.Batch(spool="s", items=[(7, b"")], settled=settled, after=after))


def test_what_was_accepted_stays_accepted_after_the_device_has_left() -> None:
    decision = decide([Examined(offset=5, outcome=Reason.NOT_ASSIGNED)], [(1, 9)], FIRST)
    assert decision.answer == wire.Answer(accepted=[(5, 5)])
    assert decision.entries == []


def readings(device: str = "gauge-001", **more: object) -> wire.Readings:
    fields: dict[str, object] = {
        "device": device,
        "profile": "p",
        "kind": "claimed_kind",
        "message": "report",
        "received": 2_000,
        "identity": "credential",
        "samples": [wire.SampleBody(time=1_000, values={"water.level": 12.3})],
        **more,
    }
    return wire.Readings(**fields)  # type: ignore[arg-type]


def assignment(gateway: str, device: str) -> Assigned | None:
    known = {("gw-1", "gauge-001"): Assigned(site="7", kind="waterlogging_gauge")}
    return known.get((gateway, device))


def foreign(gateway: str, device: str) -> bool:
    return device in ("gauge-001", "elsewhere") and (gateway, device) != ("gw-1", "gauge-001")


def test_readings_get_site_kind_and_gateway_from_the_registry() -> None:
    batch = wire.Batch(spool="s", items=[(1, wire.encode(readings(site="99", gateway="other")))])
    (item,) = examine(batch, ReadingClass.SAFETY, "gw-1", assignment, foreign)
    assert isinstance(item.outcome, Entry)
    body = wire.decode_body(item.outcome.body)
    assert body == readings(site="7", kind="waterlogging_gauge", gateway="gw-1")
    assert (item.outcome.cls, item.outcome.device, item.outcome.time) == (ReadingClass.SAFETY, "gauge-001", 1_000)


@pytest.mark.parametrize(
    ("body", "gateway", "reason"),
    [
        (b"\xc1 nonsense", "gw-1", Reason.UNDECODABLE),
        (b"", "gw-1", Reason.UNDECODABLE),
        (wire.encode(readings("gauge-002")), "gw-1", Reason.NOT_ASSIGNED),
        (wire.encode(readings()), "gw-2", Reason.NOT_ASSIGNED),
        (wire.encode(wire.Tick(time=1)), "gw-1", Reason.NOT_FOR_GATEWAYS),
    ],
)
def test_refusals_have_a_name(body: bytes, gateway: str, reason: Reason) -> None:
    batch = wire.Batch(spool="s", items=[(3, body)])
    assert examine(batch, ReadingClass.STATE, gateway, assignment, foreign) == [Examined(offset=3, outcome=reason)]


def test_a_loss_on_record_is_taken_from_any_gateway() -> None:
    tombstone = wire.Tombstone(device="gone", cls="bulk", reason="disk_full", first=1, last=9, count=4)
    letter = wire.DeadLetter(
        received=5,
        transport="mqtt",
        source="",
        channel="",
        device="",
        profile="",
        reason="r",
        detail="",
        size=0,
        raw=b"",
    )
    batch = wire.Batch(spool="s", items=[(1, wire.encode(tombstone)), (2, wire.encode(letter))])
    kept = [item.outcome for item in examine(batch, ReadingClass.STATE, "gw-1", assignment, foreign)]
    bodies = [wire.decode_body(entry.body) for entry in kept if isinstance(entry, Entry)]
    assert bodies == [tombstone, msgspec.structs.replace(letter, gateway="gw-1")]


def kept(*bodies: wire.Body, gateway: str = "gw-1") -> list[wire.Body | Reason]:
    batch = wire.Batch(spool="s", items=[(offset, wire.encode(body)) for offset, body in enumerate(bodies, 1)])
    found = [item.outcome for item in examine(batch, ReadingClass.STATE, gateway, assignment, foreign)]
    for outcome in found:
        if isinstance(outcome, Entry):
            assert wire.decode_body(outcome.body).device == outcome.device  # type: ignore[union-attr]
    return [wire.decode_body(outcome.body) if isinstance(outcome, Entry) else outcome for outcome in found]


def test_a_gateway_puts_nothing_on_the_record_of_anothers_device() -> None:
    letter = wire.DeadLetter(
        received=5,
        transport="mqtt",
        source="192.0.2.1:5",
        channel="",
        device="elsewhere",
        profile="",
        reason="unknown_device",
        detail="no such device",
        size=0,
        raw=b"",
    )
    lost = wire.Tombstone(device="elsewhere", cls="bulk", reason="disk_full", first=1, last=9, count=4)
    [of_nobody, loss] = kept(letter, lost)
    assert isinstance(of_nobody, wire.DeadLetter)
    assert (of_nobody.device, of_nobody.gateway) == ("", "gw-1")
    assert of_nobody.detail == "says it is elsewhere, which belongs to another gateway; no such device"
    assert loss == msgspec.structs.replace(lost, device=""), "the loss itself stays on record"
    # Its own device, and a stranger that is registered nowhere: the installer looks for it by that id.
    for device in ("gauge-001", "new-in-the-street"):
        claimed = msgspec.structs.replace(letter, device=device)
        named = msgspec.structs.replace(lost, device=device)
        assert kept(claimed, named) == [msgspec.structs.replace(claimed, gateway="gw-1"), named]


SOUND_LOSS = wire.Tombstone(device="gauge-001", cls="bulk", reason="disk_full", first=1, last=9, count=4)
LATE = 4_102_444_800_000


@pytest.mark.parametrize(
    "change",
    [
        {"cls": "zz"},
        {"count": -1},
        {"count": 2**62},
        {"first": 10},
        {"first": -1},
        {"last": LATE},
        {"device": "d" * 101},
        {"reason": "r" * 101},
    ],
)
def test_a_loss_that_cannot_be_is_refused(change: dict[str, object]) -> None:
    assert kept(msgspec.structs.replace(SOUND_LOSS, **change), SOUND_LOSS) == [Reason.UNDECODABLE, SOUND_LOSS]


@pytest.mark.parametrize(
    "sample",
    [
        wire.SampleBody(time=-1, values={"water.level": 1.0}),
        wire.SampleBody(time=LATE, values={"water.level": 1.0}),
        *(
            wire.SampleBody(time=1, values={name: 1.0})
            for name in ("", "level", "Water.level", "water.", "water.1", "a b.c")
        ),
        wire.SampleBody(time=1, values={"water.level\n": 1.0}),
        wire.SampleBody(time=1, values={"a." + "b" * 99: 1.0}),
        *(
            wire.SampleBody(time=1, values={"water.level": value})
            for value in (float("nan"), float("inf"), -float("inf"))
        ),
        wire.SampleBody(time=1, values={"lock.state": "x" * 1_001}),
        wire.SampleBody(time=1, values={"water.level": 1.0}, suspect=["<b>"]),
        wire.SampleBody(time=1, values={}, missing=["level"]),
        wire.SampleBody(time=1, values={}, event="e" * 101),
        wire.SampleBody(time=1, values={}, tag="e" * 101),
    ],
)
def test_nonsense_is_no_reading_and_concerns_no_other(sample: wire.SampleBody) -> None:
    good = readings(site="7", kind="waterlogging_gauge", gateway="gw-1")
    assert kept(good, readings(samples=[*good.samples, sample]), good) == [good, Reason.UNDECODABLE, good]


@pytest.mark.parametrize("more", [{"received": -1}, {"received": LATE}, {"message": "m" * 1_001}])
def test_nonsense_around_the_samples_is_refused_too(more: dict[str, object]) -> None:
    assert kept(msgspec.structs.replace(readings(), **more)) == [Reason.UNDECODABLE]


def test_all_that_gateways_say_of_a_sample_is_taken() -> None:
    sample = wire.SampleBody(
        time=LATE - 1,
        values={"water.level": -1.5, "lock.state": "x" * 1_000, "lock.open": True, "meter.total": 2**63},
        suspect=["time", "water.level"],
        missing=["device.battery_level"],
        event="tag.seen",
        tag="5b1f0c2a9d3e4f60718293a4b5c6d7e8" * 2,
    )
    sound = readings(samples=[sample], site="7", kind="waterlogging_gauge", gateway="gw-1", received=0)
    assert kept(sound) == [sound]


@pytest.mark.parametrize("items", [[0], [-3], [2, 2], [5, 4]])
def test_offsets_that_do_not_rise_are_no_batch(items: list[int]) -> None:
    batch = wire.Batch(spool="s", items=[(offset, b"") for offset in items])
    with pytest.raises(BatchMalformed, match="rising order"):
        examine(batch, ReadingClass.BULK, "gw-1", assignment, foreign)


@pytest.mark.parametrize(
    ("spool", "offset", "words"),
    [("s", 2**63, "larger than"), ("", 1, "name"), ("s" * 65, 1, "name"), ("\0", 1, "name")],
)
def test_what_the_database_cannot_hold_is_no_batch(spool: str, offset: int, words: str) -> None:
    with pytest.raises(BatchMalformed, match=words):
        examine(wire.Batch(spool=spool, items=[(offset, b"")]), ReadingClass.BULK, "gw-1", assignment, foreign)
