"""What outcomes make of an order, and when the platform closes one by itself."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from citysense_platform.downlinks.order import (
    OUTCOME_GRACE_MS,
    By,
    Follow,
    Ignored,
    Order,
    OrderKind,
    State,
    follow,
    overdue,
)

END = 1_000_000
ORDER = Order(
    number=7,
    id="d7",
    kind=OrderKind.DOWNLINK,
    gateway="gw-1",
    device="gauge-1",
    letter=None,
    once=False,
    created=0,
    expires=END,
    handed=10,
    state=State.WAITING,
    detail="",
    changed=0,
    closed=None,
    body=b"",
)
ONCE_SENT = replace(ORDER, once=True, state=State.SENT)
FINAL = (State.DELIVERED, State.EXPIRED, State.SUPERSEDED, State.UNKNOWN, State.REFUSED)


@pytest.mark.parametrize("state", FINAL)
def test_a_final_outcome_closes(state: State) -> None:
    assert follow(ORDER, "gw-1", str(state)) == Follow(state=state, closed=By.GATEWAY)


def test_an_order_may_go_back_and_forth_until_it_is_confirmed() -> None:
    assert follow(ORDER, "gw-1", "sent") == Follow(state=State.SENT, closed=None)
    assert follow(replace(ORDER, state=State.SENT), "gw-1", "waiting") == Follow(state=State.WAITING, closed=None)
    assert follow(ORDER, "gw-1", "waiting") is Ignored.REPEATED


def test_outcomes_of_others_and_strange_words_change_nothing() -> None:
    assert follow(None, "gw-1", "delivered") is Ignored.NO_SUCH_ORDER
    assert follow(ORDER, "gw-2", "delivered") is Ignored.OTHER_GATEWAY
    for word in ("", "cancelled", "stored", "Delivered", "lost"):
        assert follow(ORDER, "gw-1", word) is Ignored.STRANGE_STATE
    letter = replace(ORDER, kind=OrderKind.LETTER)
    assert follow(letter, "gw-1", "delivered") is Ignored.STRANGE_STATE
    assert follow(letter, "gw-1", "stored") == Follow(state=State.STORED, closed=By.GATEWAY)


@pytest.mark.parametrize(("stands", "said"), list(product(FINAL, FINAL)))
def test_what_the_gateway_closed_stays_but_for_a_late_confirmation(stands: State, said: State) -> None:
    step = follow(replace(ORDER, state=stands, closed=By.GATEWAY), "gw-1", str(said))
    if (stands, said) == (State.UNKNOWN, State.DELIVERED):
        assert step == Follow(state=State.DELIVERED, closed=By.GATEWAY)
    else:
        assert step is (Ignored.REPEATED if stands is said else Ignored.CLOSED)


def test_the_gateway_knows_better_than_the_platforms_own_closing() -> None:
    closed = replace(ORDER, state=State.EXPIRED, closed=By.PLATFORM)
    assert follow(closed, "gw-1", "delivered") == Follow(state=State.DELIVERED, closed=By.GATEWAY)
    assert follow(closed, "gw-1", "sent") is Ignored.CLOSED
    called_back = replace(ORDER, state=State.CANCELLED, closed=By.PERSON)
    assert follow(called_back, "gw-1", "delivered") is Ignored.CLOSED


def test_an_order_runs_out_with_a_word_about_what_may_have_happened() -> None:
    assert overdue(ORDER, now=END + OUTCOME_GRACE_MS - 1) is None
    assert overdue(ORDER, now=END + OUTCOME_GRACE_MS) is State.EXPIRED
    assert overdue(ONCE_SENT, now=END + OUTCOME_GRACE_MS) is State.UNKNOWN
    assert overdue(replace(ONCE_SENT, once=False), now=END + OUTCOME_GRACE_MS) is State.EXPIRED
    never_fetched = replace(ORDER, handed=None)
    assert overdue(never_fetched, now=END - 1) is None
    assert overdue(never_fetched, now=END) is State.EXPIRED
    assert overdue(replace(ORDER, closed=By.GATEWAY), now=END * 9) is None
    assert overdue(replace(ORDER, expires=None), now=END * 9) is None
