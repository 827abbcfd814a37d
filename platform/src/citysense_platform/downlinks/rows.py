"""The statements of orders: each takes a connection inside a transaction. No decisions, no waiting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, RowMapping, and_, func, insert, not_, or_, select, update

from citysense_platform.downlinks.order import By, Order, OrderKind, State
from citysense_platform.downlinks.tables import gateway_order, gateway_order_history
from citysense_platform.registry.tables import device as registered

_PREFIX = {OrderKind.DOWNLINK: "d", OrderKind.LETTER: "r"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Number and id of an order to come."""

    number: int
    id: str


def next_place(connection: Connection, kind: OrderKind, *, now: int) -> Place:
    """The next free one. Numbers follow the clock, so that they grow also after city.db was restored from a backup:
    gateways remember the last one they have seen."""
    last = connection.execute(select(func.max(gateway_order.c.number))).scalar() or 0
    number = max(now, int(last) + 1)
    return Place(number=number, id=f"{_PREFIX[kind]}{number}")


def add(connection: Connection, order: Order) -> None:
    """Write a new order and the start of its history."""
    values = {name: getattr(order, name) for name in gateway_order.c.keys()}  # noqa: SIM118 - columns, not a dict
    values |= {"kind": str(order.kind), "state": str(order.state)}
    connection.execute(insert(gateway_order).values(values))
    _record(connection, order.number, order.state, order.detail, By.PERSON, at=order.created)


def find(connection: Connection, order_id: str) -> Order | None:
    """The order of that id."""
    row = connection.execute(select(gateway_order).where(gateway_order.c.id == order_id)).first()
    return None if row is None else _order(row)


def to_hand(connection: Connection, gateway: str, *, after: int, now: int, limit: int) -> list[Order]:
    """Open orders of a gateway above number `after` that are worth handing over, by number.

    What was begun and may be handed over once only is not among them, nor what no gateway has yet for a revoked device.
    """
    wanted = (
        select(gateway_order)
        .where(
            gateway_order.c.gateway == gateway,
            gateway_order.c.number > after,
            gateway_order.c.closed.is_(None),
            or_(gateway_order.c.expires.is_(None), gateway_order.c.expires > now),
            or_(gateway_order.c.once.is_(False), gateway_order.c.state != str(State.SENT)),
            not_(_came_too_late()),
        )
        .order_by(gateway_order.c.number)
        .limit(limit)
    )
    return [_order(row) for row in connection.execute(wanted)]


def mark_handed(connection: Connection, numbers: Sequence[int], *, now: int) -> None:
    """Note that these were given to their gateway, the first time that they are."""
    theirs = gateway_order.c.number.in_(numbers) & gateway_order.c.handed.is_(None)
    connection.execute(update(gateway_order).where(theirs).values(handed=now))


def become(
    connection: Connection, order: Order, state: State, *, detail: str, closed: By | None, by: By, at: int
) -> Order:
    """Change an order's state and write it into its history."""
    after = replace(order, state=state, detail=detail, changed=at, closed=closed)
    values: dict[str, Any] = {
        "state": str(state),
        "detail": detail,
        "changed": at,
        "closed": None if closed is None else str(closed),
    }
    if closed is not None and order.kind is OrderKind.LETTER:
        values["body"] = b""  # the letter itself stays in the event store
    connection.execute(update(gateway_order).where(gateway_order.c.number == order.number).values(values))
    _record(connection, order.number, state, detail, by, at=at)
    return after


def open_of_device(connection: Connection, device: str, kind: OrderKind) -> list[Order]:
    """Open orders of a device, by number."""
    wanted = select(gateway_order).where(
        gateway_order.c.device == device, gateway_order.c.kind == str(kind), gateway_order.c.closed.is_(None)
    )
    return [_order(row) for row in connection.execute(wanted.order_by(gateway_order.c.number))]


def count_open(connection: Connection, kind: OrderKind, gateway: str | None = None) -> int:
    """How many orders of a kind are open, of one gateway or of all."""
    wanted = (
        select(func.count())
        .select_from(gateway_order)
        .where(gateway_order.c.kind == str(kind), gateway_order.c.closed.is_(None))
    )
    if gateway is not None:
        wanted = wanted.where(gateway_order.c.gateway == gateway)
    return int(connection.execute(wanted).scalar_one())


def past_end(connection: Connection, *, now: int, limit: int) -> list[Order]:
    """Open orders whose end has passed, the oldest first."""
    wanted = select(gateway_order).where(gateway_order.c.closed.is_(None), gateway_order.c.expires <= now)
    return [_order(row) for row in connection.execute(wanted.order_by(gateway_order.c.number).limit(limit))]


def for_revoked(connection: Connection, *, limit: int) -> list[Order]:
    """Open downlinks that no gateway has, for devices that are revoked; the oldest first."""
    wanted = select(gateway_order).where(gateway_order.c.closed.is_(None), _came_too_late())
    return [_order(row) for row in connection.execute(wanted.order_by(gateway_order.c.number).limit(limit))]


def newest_of_device(connection: Connection, device: str, *, before: int | None, limit: int) -> list[Order]:
    """Downlinks of a device, the newest first; with `before` only those with lower numbers."""
    wanted = select(gateway_order).where(
        gateway_order.c.device == device, gateway_order.c.kind == str(OrderKind.DOWNLINK)
    )
    if before is not None:
        wanted = wanted.where(gateway_order.c.number < before)
    return [_order(row) for row in connection.execute(wanted.order_by(gateway_order.c.number.desc()).limit(limit))]


def history(connection: Connection, number: int) -> Sequence[RowMapping]:
    """All that happened to an order, in order."""
    table = gateway_order_history
    return connection.execute(select(table).where(table.c.number == number).order_by(table.c.id)).mappings().all()


def newest_of_letters(connection: Connection, letters: Sequence[str]) -> dict[str, Order]:
    """For each of these dead letters the newest order to read it again, if there is one."""
    wanted = select(gateway_order).where(gateway_order.c.letter.in_(letters)).order_by(gateway_order.c.number)
    orders = (_order(row) for row in connection.execute(wanted))
    return {order.letter: order for order in orders if order.letter is not None}


def _came_too_late() -> ColumnElement[bool]:
    """True of a downlink that no gateway has yet, and whose device was revoked meanwhile."""
    revoked = select(registered.c.id).where(
        registered.c.id == gateway_order.c.device, registered.c.revoked.is_not(None)
    )
    return and_(gateway_order.c.kind == str(OrderKind.DOWNLINK), gateway_order.c.handed.is_(None), revoked.exists())


def _record(connection: Connection, number: int, state: State, detail: str, by: By, *, at: int) -> None:
    connection.execute(
        insert(gateway_order_history).values(number=number, at=at, state=str(state), detail=detail, by=str(by))
    )


def _order(row: Row[Any]) -> Order:
    return Order(
        number=row.number,
        id=row.id,
        kind=OrderKind(row.kind),
        gateway=row.gateway,
        device=row.device,
        letter=row.letter,
        once=row.once,
        created=row.created,
        expires=row.expires,
        handed=row.handed,
        state=State(row.state),
        detail=row.detail,
        changed=row.changed,
        closed=None if row.closed is None else By(row.closed),
        body=row.body,
    )
