"""The uplink's place in a lane: nothing is skipped, whatever the platform answers in whatever order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from citysense.record_format import Record
from citysense.wire import Answer
from citysense_gateway.lane_progress import LaneProgress
from citysense_gateway.outage import LONGEST_WAIT_S, Outage, back_off
from citysense_gateway.platform_client import Unreachable
from citysense_profiles.reading import ReadingClass


def records(*offsets: int) -> list[Record]:
    return [Record(offset=offset, cls=ReadingClass.BULK, body=b"") for offset in offsets]


def offsets(of: list[Record]) -> list[int]:
    return [record.offset for record in of]


def test_an_interval_may_span_offsets_of_other_lanes() -> None:
    progress = LaneProgress(0)
    window = records(2, 5, 9)
    settled = progress.settle(window, [2, 5, 9], Answer(accepted=[(1, 9)]))
    assert (settled.cursor, settled.kept, settled.refused) == (9, (), ())


def test_what_is_kept_holds_the_cursor_and_is_sent_again_before_anything_new() -> None:
    progress = LaneProgress(0)
    window = records(2, 5, 9, 12)
    settled = progress.settle(window[:3], [2, 5, 9], Answer(accepted=[(2, 2), (9, 9)], keep=[5]))
    assert (settled.cursor, settled.kept) == (2, (5,))
    assert offsets(progress.open(window)) == [2, 5, 9, 12], "until it is taken, nothing has changed"
    progress.take(settled)
    rest = records(5, 9, 12)
    assert offsets(progress.open(rest)) == [5]
    progress.take(progress.settle(rest, [5], Answer(accepted=[(5, 5)])))
    assert progress.cursor == 9
    assert offsets(progress.open(records(12))) == [12]


def test_a_kept_record_that_has_left_the_lane_holds_nothing_up() -> None:
    progress = LaneProgress(0)
    progress.take(progress.settle(records(2, 5, 9), [2, 5, 9], Answer(accepted=[(2, 2), (9, 9)], keep=[5])))
    assert offsets(progress.open(records(9, 12, 15))) == [12, 15]
    assert progress.open(records(9)) == []
    settled = progress.settle(records(9), [], Answer(accepted=[]))
    assert (settled.cursor, settled.done) == (9, frozenset())


def test_what_the_answer_does_not_speak_of_is_kept() -> None:
    settled = LaneProgress(0).settle(records(1, 2), [1, 2], Answer(accepted=[(1, 1)]))
    assert (settled.cursor, settled.kept) == (1, (2,))


def test_a_refusal_passes_the_cursor_and_is_told_once() -> None:
    settled = LaneProgress(0).settle(records(1, 2), [1, 2], Answer(accepted=[(1, 1)], rejected=[(2, "no"), (7, "?")]))
    assert (settled.cursor, settled.refused) == (2, ((2, "no"),))


def test_keep_wins_over_everything_else_said_of_the_same_record() -> None:
    settled = LaneProgress(0).settle(records(1), [1], Answer(accepted=[(1, 1)], rejected=[(1, "no")], keep=[1]))
    assert (settled.cursor, settled.kept, settled.refused) == (0, (1,), ())


FATES = st.lists(
    st.lists(st.sampled_from(["accept", "keep", "reject", "silence"]), min_size=1, max_size=6), max_size=12
)


@given(lane=st.lists(st.integers(1, 200), unique=True, max_size=25), rounds=FATES, size=st.integers(1, 6))
def test_the_cursor_never_passes_a_record_without_a_fate(lane: list[int], rounds: list[list[str]], size: int) -> None:
    lane = sorted(lane)
    progress = LaneProgress(0)
    settled_for_good: set[int] = set()
    for fates in rounds:
        window = records(*[offset for offset in lane if offset > progress.cursor][:8])
        sent = offsets(progress.open(window))[:size]
        told = dict(zip(sent, fates, strict=False))
        answer = Answer(
            accepted=[(offset, offset) for offset, fate in told.items() if fate == "accept"],
            rejected=[(offset, "no") for offset, fate in told.items() if fate == "reject"],
            keep=[offset for offset, fate in told.items() if fate == "keep"],
        )
        settled = progress.settle(window, sent, answer)
        progress.take(settled)
        settled_for_good |= {offset for offset, fate in told.items() if fate in ("accept", "reject")}
        assert all(offset in settled_for_good for offset in lane if offset <= settled.cursor)
        assert set(settled.kept) == set(sent) - settled_for_good
        if not sent:
            assert not window, "while anything is open, something is sent"


@given(failures=st.integers(1, 10_000), chance=st.floats(0, 1))
def test_waits_grow_within_bounds(failures: int, chance: float) -> None:
    wait = back_off(failures, lambda: chance)
    assert 0.05 <= wait <= LONGEST_WAIT_S
    assert back_off(1, lambda: chance) <= wait


def test_an_outage_is_told_at_its_start_and_at_its_end(caplog: pytest.LogCaptureFixture) -> None:
    outage = Outage("uplink bulk", lambda: 0.5)
    outage.worked()
    for _ in range(3):
        outage.failed(Unreachable("nobody there"))
    outage.worked()
    outage.worked()
    assert [record.getMessage() for record in caplog.records] == [
        "uplink bulk: nobody there; trying again until it works",
        "uplink bulk: works again after 3 failed tries",
    ]


def test_the_platforms_own_wish_is_waited_for() -> None:
    outage = Outage("x", lambda: 1.0)
    assert outage.failed(Unreachable("busy"), 7.0) == 7.0
    assert outage.failed(Unreachable("busy"), 0.0) == 0.2
