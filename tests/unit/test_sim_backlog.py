"""A device's memory of unacknowledged messages."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from citysense_sim.backlog import Backlog


def test_the_oldest_goes_when_the_memory_is_full_and_base_moves() -> None:
    backlog = Backlog(bound=2)
    assert backlog.base(0) == 0
    assert [backlog.add(number, b"x") for number in range(3)] == [None, None, 0]
    assert backlog.base(3) == 1
    assert backlog.dropped == 1
    assert backlog.oldest() == (1, b"x")


def test_an_acknowledgement_out_of_order_leaves_the_base() -> None:
    backlog = Backlog()
    for number in range(3):
        backlog.add(number, b"")
    assert backlog.acked(1)
    assert not backlog.acked(1)
    assert backlog.base(3) == 0
    assert backlog.acked(0)
    assert backlog.base(3) == 2
    assert backlog.acked(2)
    assert backlog.base(3) == 3
    assert backlog.oldest() is None


@given(st.lists(st.one_of(st.just("add"), st.integers(0, 30)), max_size=60), st.integers(1, 8))
def test_it_is_the_newest_unacknowledged_ones_whatever_happens(steps: list[str | int], bound: int) -> None:
    backlog, model, following = Backlog(bound), [], 0
    for step in steps:
        if step == "add":
            lost = backlog.add(following, b"")
            model.append(following)
            following += 1
            expected = model.pop(0) if len(model) > bound else None
            assert lost == expected
        else:
            assert backlog.acked(int(step)) == (step in model)
            model = [number for number in model if number != step]
        assert len(backlog) == len(model)
        assert backlog.base(following) == (model[0] if model else following)
