"""Receipts and repeats of counted frames, against a model that keeps every number."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from citysense_gateway.sequence import MAX_RANGES, Sequence, pack_ranges, receive, unpack_ranges

FRAMES = st.lists(st.tuples(st.integers(0, 40), st.none() | st.integers(0, 60)), max_size=80)


class Model:
    """The same in the plainest way: a set of what came, and the highest base that was believed."""

    def __init__(self) -> None:
        self.came: set[int] = set()
        self.given_up = 0

    def receive(self, seq: int, base: int | None) -> tuple[bool, int | None]:
        is_new = seq not in self.came
        self.came.add(seq)
        before = self.next()
        if base is not None:
            self.given_up = max(self.given_up, before, min(base, seq))
        following = self.next()
        return is_new, following - 1 if following else None

    def next(self) -> int:
        following = self.given_up
        while following in self.came:
            following += 1
        return following


@given(frames=FRAMES)
def test_any_order_with_repeats_gives_the_models_receipts(frames: list[tuple[int, int | None]]) -> None:
    state, model = Sequence(), Model()
    for seq, base in frames:
        state, is_new = receive(state, seq, base)
        # A restart between any two frames changes nothing.
        state = Sequence(next=state.next, received=unpack_ranges(pack_ranges(state.received)))
        assert (is_new, state.contiguous) == model.receive(seq, base)


@given(order=st.permutations(range(25)))
def test_all_of_a_boot_in_any_order_end_in_one_range(order: list[int]) -> None:
    state = Sequence()
    for seq in order:
        state, is_new = receive(state, seq, None)
        assert is_new
    assert state == Sequence(next=25, received=((0, 24),))


def test_a_base_lets_the_receipt_pass_a_gap_but_a_late_frame_is_still_new() -> None:
    state, _ = receive(Sequence(), 0, None)
    state, _ = receive(state, 41, 39)
    assert state.contiguous == 38
    state, is_new = receive(state, 40, 40)
    assert (state.contiguous, is_new) == (41, True)
    state, is_new = receive(state, 7, None)
    assert (state.contiguous, is_new) == (41, True), "given up is not received: it must be stored"
    assert receive(state, 7, None)[1] is False


def test_no_receipt_before_the_first_number() -> None:
    state, _ = receive(Sequence(), 5, None)
    assert state.contiguous is None


def test_a_base_beyond_the_frame_itself_acknowledges_nothing_that_never_came() -> None:
    state, _ = receive(Sequence(), 3, 1_000_000)
    assert state.contiguous == 3


def test_ranges_are_bounded_and_forgetting_never_claims_a_receipt() -> None:
    state, _ = receive(Sequence(), 0, None)
    for seq in range(2, 4 * MAX_RANGES, 2):
        state, is_new = receive(state, seq, None)
        assert is_new
    assert len(state.received) == MAX_RANGES
    assert state.contiguous == 0
    assert receive(state, 0, None)[1] is False
    assert receive(state, 2, None)[1] is True, "forgotten: stored a second time, never lost"
