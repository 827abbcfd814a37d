"""Messages for devices: asked for, looked at, called back. Decisions of `decide` carried out in city.db.

Owns one transaction per request. Which gateway gets them and what becomes of them is the order book's matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from sqlalchemy import Connection, RowMapping

from citysense import wire
from citysense.clock import Clock
from citysense_platform.city.database import City
from citysense_platform.downlinks import rows
from citysense_platform.downlinks.decide import MOST_WAITING, Fault, NewDownlink, Reason, check
from citysense_platform.downlinks.order import By, Order, OrderKind, State
from citysense_platform.downlinks.order_book import OrderBook
from citysense_platform.registry.rows import find_device
from citysense_profiles.catalogue import Catalogue
from citysense_profiles.vocabulary import Vocabulary

_downlinks = msgspec.msgpack.Decoder(wire.Downlink)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A downlink as it stands: the order and the message in it."""

    order: Order
    message: wire.Downlink


class Downlinks:
    """The messages for devices."""

    def __init__(
        self, city: City, catalogue: Catalogue, vocabulary: Vocabulary, orders: OrderBook, clock: Clock
    ) -> None:
        self._city = city
        self._catalogue = catalogue
        self._vocabulary = vocabulary
        self._orders = orders
        self._clock = clock

    async def send(self, device_id: str, new: NewDownlink) -> Sent | Fault | None:
        """Have a device's gateway bring it `new`; None if there is no such device."""
        now = self._clock.now_ms()

        def work(connection: Connection) -> Sent | Fault | None:
            device = find_device(connection, device_id)
            if device is None:
                return None
            fault = check(new, device, self._catalogue.get(device.profile), self._vocabulary)
            if fault is not None:
                return fault
            if len(_superseded(connection, device_id, new.supersedes, now)) >= MOST_WAITING:
                text = f"{MOST_WAITING} messages wait for {device_id!r} already; call some back, or let them run out"
                return Fault(reason=Reason.TOO_MANY_WAITING, field="", text=text)
            return _place(connection, device_id, device.gateway, new, now)

        outcome = await self._city.write(work)
        if isinstance(outcome, Sent):
            self._orders.wake()
        return outcome

    async def cancel(self, downlink_id: str) -> tuple[Sent, bool] | None:
        """Call a message back, and whether that came in time: its gateway must not have it yet. None if there is none."""
        now = self._clock.now_ms()

        def work(connection: Connection) -> tuple[Order, bool] | None:
            order = _find(connection, downlink_id)
            if order is None or order.state is State.CANCELLED:
                return None if order is None else (order, True)
            if order.closed is not None or order.handed is not None:
                return order, False
            return rows.become(
                connection, order, State.CANCELLED, detail="", closed=By.PERSON, by=By.PERSON, at=now
            ), True

        found = await self._city.write(work)
        return None if found is None else (_sent(found[0]), found[1])

    async def one(self, downlink_id: str) -> tuple[Sent, Sequence[RowMapping]] | None:
        """A message and its history in order; None if there is no such message."""

        def work(connection: Connection) -> tuple[Sent, Sequence[RowMapping]] | None:
            order = _find(connection, downlink_id)
            return None if order is None else (_sent(order), rows.history(connection, order.number))

        return await self._city.read(work)

    async def newest(self, device_id: str, *, before: int | None, limit: int) -> list[Sent]:
        """Up to `limit` messages for a device, the newest first; with `before` only those with lower numbers."""
        orders = await self._city.read(
            lambda connection: rows.newest_of_device(connection, device_id, before=before, limit=limit)
        )
        return [_sent(order) for order in orders]


def _superseded(connection: Connection, device: str, key: str, now: int) -> list[Order]:
    """What stays open of a device's messages after those that `key` replaces are closed.

    Only what no gateway has yet is closed here; the others are dropped by the gateway that gets the new one.
    """
    kept: list[Order] = []
    for order in rows.open_of_device(connection, device, OrderKind.DOWNLINK):
        if key and order.handed is None and _sent(order).message.supersedes == key:
            rows.become(connection, order, State.SUPERSEDED, detail="", closed=By.PLATFORM, by=By.PLATFORM, at=now)
        else:
            kept.append(order)
    return kept


def _place(connection: Connection, device: str, gateway: str, new: NewDownlink, now: int) -> Sent:
    place = rows.next_place(connection, OrderKind.DOWNLINK, now=now)
    expires = now + new.ttl * 1000
    message = wire.Downlink(
        number=place.number,
        id=place.id,
        device=device,
        message=new.message,
        values=dict(new.values),
        expires=expires,
        priority=new.priority,
        supersedes=new.supersedes,
        once=new.once,
    )
    order = Order(
        number=place.number,
        id=place.id,
        kind=OrderKind.DOWNLINK,
        gateway=gateway,
        device=device,
        letter=None,
        once=new.once,
        created=now,
        expires=expires,
        handed=None,
        state=State.WAITING,
        detail="",
        changed=now,
        closed=None,
        body=wire.encode(message),
    )
    rows.add(connection, order)
    return Sent(order=order, message=message)


def _find(connection: Connection, downlink_id: str) -> Order | None:
    order = rows.find(connection, downlink_id)
    return order if order is not None and order.kind is OrderKind.DOWNLINK else None


def _sent(order: Order) -> Sent:
    return Sent(order=order, message=_downlinks.decode(order.body))
