"""An order to a gateway and its life: what an outcome changes, and when the platform closes it by itself. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

OUTCOME_GRACE_MS = 60_000
"""After the end of an order that a gateway holds, before the platform closes it: an outcome on its way gets the time to
arrive. One that comes later still counts."""


class OrderKind(StrEnum):
    """What is asked for."""

    DOWNLINK = "downlink"
    LETTER = "letter"


class State(StrEnum):
    """Where an order stands; see `wire.Outcome`. Cancelled is said by a person only."""

    WAITING = "waiting"
    SENT = "sent"
    DELIVERED = "delivered"
    EXPIRED = "expired"
    SUPERSEDED = "superseded"
    UNKNOWN = "unknown"
    REFUSED = "refused"
    CANCELLED = "cancelled"
    STORED = "stored"
    DUPLICATE = "duplicate"
    REJECTED = "rejected"


class By(StrEnum):
    """Who says so."""

    GATEWAY = "gateway"
    PLATFORM = "platform"
    PERSON = "person"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """An order as it is kept. Times in ms since 1970 UTC; `closed` is who said the last word, None while it is open."""

    number: int
    id: str
    kind: OrderKind
    gateway: str
    device: str
    letter: str | None
    once: bool
    created: int
    expires: int | None
    handed: int | None
    state: State
    detail: str
    changed: int
    closed: By | None
    body: bytes


_OPEN = frozenset({State.WAITING, State.SENT})
_SAID = {
    OrderKind.DOWNLINK: _OPEN | {State.DELIVERED, State.EXPIRED, State.SUPERSEDED, State.UNKNOWN, State.REFUSED},
    OrderKind.LETTER: _OPEN | {State.STORED, State.DUPLICATE, State.REJECTED, State.REFUSED},
}


class Ignored(StrEnum):
    """Why an outcome changes nothing."""

    NO_SUCH_ORDER = "no_such_order"
    OTHER_GATEWAY = "other_gateway"
    STRANGE_STATE = "strange_state"
    REPEATED = "repeated"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Follow:
    """What an order becomes; `closed` None leaves it open."""

    state: State
    closed: By | None


def follow(order: Order | None, gateway: str, said: str) -> Follow | Ignored:
    """What the outcome `said` by `gateway` makes of `order`.

    A gateway knows better than the platform's own closing for want of news, and a confirmation may still come for what
    was handed over without one. Everything else that is closed stays so: outcomes are sent again until they were heard.
    """
    if order is None:
        return Ignored.NO_SUCH_ORDER
    if order.gateway != gateway:
        return Ignored.OTHER_GATEWAY
    if said not in {str(state) for state in _SAID[order.kind]}:
        return Ignored.STRANGE_STATE
    state = State(said)
    closed = None if state in _OPEN else By.GATEWAY
    if order.closed is None:
        return Ignored.REPEATED if state is order.state else Follow(state=state, closed=closed)
    if order.closed is By.PLATFORM and closed is not None and order.state is not State.SUPERSEDED:
        return Follow(state=state, closed=closed)
    if order.closed is By.GATEWAY and order.state is State.UNKNOWN and state is State.DELIVERED:
        return Follow(state=state, closed=closed)
    return Ignored.REPEATED if state is order.state else Ignored.CLOSED


def overdue(order: Order, *, now: int) -> State | None:
    """What the platform closes an open order with, for want of an outcome; None: not yet."""
    if order.closed is not None or order.expires is None:
        return None
    if order.handed is None:
        return State.EXPIRED if now >= order.expires else None
    if now < order.expires + OUTCOME_GRACE_MS:
        return None
    # Handed over once and never confirmed: it may have worked.
    return State.UNKNOWN if order.once and order.state is State.SENT else State.EXPIRED
