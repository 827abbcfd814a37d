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
    KEEP_INTERVALS,
    BatchMalformed,
    Examined,
    Reason,
    decide,
    examine,
)
from citysense_platform.ingest.intervals import Interval, covers, fuse_oldest, union
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


@given(INTERVALS, st.integers(1, 5))
def test_fusing_loses_no_offset_and_leaves_the_newest_alone(intervals: list[Interval], keep: int) -> None:
    merged = union(intervals)
    fused = fuse_oldest(merged, keep)
    assert len(fused) <= keep
    assert offsets(merged) <= offsets(fused)
    assert fused[1:] == merged[len(merged) - len(fused) + 1 :]


def new(offset: int) -> Examined:
    return Examined(offset=offset, outcome=Entry(cls=ReadingClass.STATE, body=b"%d" % offset, device="d", time=offset))


@given(st.data())
def test_any_splitting_and_repeating_of_a_lane_stores_each_record_once(data: st.DataObject) -> None:
    lane = sorted(data.draw(st.sets(st.integers(1, 400), min_size=1, max_size=60)))
    refused = data.draw(st.sets(st.sampled_from(lane), max_size=5))
    stored: list[bytes] = []
    seen: list[Interval] = []
    place = 0
    while place < len(lane):
        # The answer to what was sent before may have been lost: the gateway starts again from any earlier place.
        start = data.draw(st.integers(max(0, place - 10), place))
        end = data.draw(st.integers(place + 1, len(lane)))
        batch = [
            Examined(offset=offset, outcome=Reason.NOT_ASSIGNED) if offset in refused else new(offset)
            for offset in lane[start:end]
        ]
        decision = decide(batch, seen)
        stored += [entry.body for entry in decision.entries]
        seen = list(decision.seen)
        accepted = {offset for offset in lane[start:end] if covers(decision.answer.accepted, offset)}
        assert accepted == set(lane[start:end]) - refused
        assert {offset for offset, _ in decision.answer.rejected} == refused & set(lane[start:end])
        assert decision.answer.keep == []
        assert decision.duplicates == len(accepted) - len(decision.entries)
        place = end
    assert stored == [b"%d" % offset for offset in lane if offset not in refused]


def test_memory_of_a_lane_with_gaps_stays_small() -> None:
    seen: list[Interval] = []
    for offset in range(1, 2_000, 2):
        decision = decide([new(offset)], seen)
        assert len(decision.entries) == 1
        seen = list(decision.seen)
        assert len(seen) <= KEEP_INTERVALS
    assert decide([new(1_999), new(2_001)], seen).duplicates == 1


def test_what_was_accepted_stays_accepted_after_the_device_has_left() -> None:
    decision = decide([Examined(offset=5, outcome=Reason.NOT_ASSIGNED)], [(1, 9)])
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


def test_readings_get_site_kind_and_gateway_from_the_registry() -> None:
    batch = wire.Batch(spool="s", items=[(1, wire.encode(readings(site="99", gateway="other")))])
    (item,) = examine(batch, ReadingClass.SAFETY, "gw-1", assignment)
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
    assert examine(batch, ReadingClass.STATE, gateway, assignment) == [Examined(offset=3, outcome=reason)]


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
    kept = [item.outcome for item in examine(batch, ReadingClass.STATE, "gw-1", assignment)]
    bodies = [wire.decode_body(entry.body) for entry in kept if isinstance(entry, Entry)]
    assert bodies == [tombstone, msgspec.structs.replace(letter, gateway="gw-1")]


@pytest.mark.parametrize("items", [[0], [-3], [2, 2], [5, 4]])
def test_offsets_that_do_not_rise_are_no_batch(items: list[int]) -> None:
    batch = wire.Batch(spool="s", items=[(offset, b"") for offset in items])
    with pytest.raises(BatchMalformed, match="rising order"):
        examine(batch, ReadingClass.BULK, "gw-1", assignment)


@pytest.mark.parametrize(
    ("spool", "offset", "words"),
    [("s", 2**63, "larger than"), ("", 1, "name"), ("s" * 65, 1, "name"), ("\0", 1, "name")],
)
def test_what_the_database_cannot_hold_is_no_batch(spool: str, offset: int, words: str) -> None:
    with pytest.raises(BatchMalformed, match=words):
        examine(wire.Batch(spool=spool, items=[(offset, b"")]), ReadingClass.BULK, "gw-1", assignment)
