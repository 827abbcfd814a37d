"""Hands orders to gateways that ask for them, takes their outcomes, and closes what ran out.

Owns the waiting of gateways and the counters. What an outcome changes is decided in `order`; who makes orders is
elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection

from citysense import wire
from citysense.clock import Clock
from citysense.errors import StorageClosed, StorageError
from citysense.progress import Pulse
from citysense_platform.city.database import City
from citysense_platform.downlinks import rows
from citysense_platform.downlinks.order import By, Follow, Ignored, Order, OrderKind, State, follow, overdue

log = logging.getLogger(__name__)

AT_ONCE = 100
"""Orders in one answer."""
BYTES_AT_ONCE = 1 << 20
"""Of one answer; a letter may carry 64 kB."""
LONGEST_DETAIL = 500
SWEEP_S = 5.0
SWEEP_AT_ONCE = 500

_orders = msgspec.msgpack.Decoder(wire.Order)
_END = (1 << 63) - 1


class OrderBook:
    """The orders of all gateways. `pulse` beats with each sweep."""

    def __init__(self, city: City, clock: Clock, pulse: Pulse | None = None) -> None:
        self._city = city
        self._clock = clock
        self._pulse = pulse or Pulse()
        self._changed = asyncio.Event()
        self._closed = False
        self._failures = 0
        self.counters: Counter[str] = Counter()
        """Since the start: handed, outcomes, ignored.<reason>, closed (for want of an outcome)."""
        self.open: dict[OrderKind, int] = dict.fromkeys(OrderKind, 0)
        """Open orders by kind, as of the last sweep."""

    def wake(self) -> None:
        """Something new is there: let the gateways that wait look."""
        self._changed.set()
        self._changed = asyncio.Event()

    def close(self) -> None:
        """Send all waiting gateways home, so that the server can stop."""
        self._closed = True
        self.wake()

    async def orders(self, gateway: str, after: int, timeout: float) -> wire.Orders | None:  # noqa: ASYNC109
        """What that gateway is to do beyond number `after`, as soon as there is something; None after `timeout` seconds.

        An order comes again until the gateway asks beyond its number or says its outcome. Raises StorageError.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while not self._closed:
            changed = self._changed
            found = await self._hand(gateway, after)
            if found:
                return wire.Orders(orders=found)
            try:
                async with asyncio.timeout_at(deadline):
                    await changed.wait()
            except TimeoutError:
                return None
        return None

    async def _hand(self, gateway: str, after: int) -> list[wire.Order]:
        now = self._clock.now_ms()

        def look(connection: Connection) -> list[Order]:
            return _cut(rows.to_hand(connection, gateway, after=after, now=now, limit=AT_ONCE))

        def hand(connection: Connection) -> list[Order]:
            # Looked at anew: what was called back since then must not leave.
            found = look(connection)
            rows.mark_handed(connection, [order.number for order in found], now=now)
            return found

        found = await self._city.read(look)
        if any(order.handed is None for order in found):
            found = await self._city.write(hand)
        self.counters["handed"] += len(found)
        return [_orders.decode(order.body) for order in found]

    async def outcomes(self, gateway: str, said: wire.Outcomes) -> None:
        """Take outcomes down; they are on record when this returns. The same again changes nothing. Raises StorageError."""

        def work(connection: Connection) -> Counter[str]:
            counted: Counter[str] = Counter()
            for outcome in said.outcomes:
                counted[_settle(connection, gateway, outcome)] += 1
            return counted

        counted = await self._city.write(work)
        self.counters.update(counted)
        strange = {why: counted[f"ignored.{why}"] for why in (Ignored.OTHER_GATEWAY, Ignored.STRANGE_STATE)}
        if any(strange.values()):
            log.warning(
                "orders: of gateway %s's outcomes %d are of another gateway's orders and %d say no state of ours; ignored",
                gateway,
                *strange.values(),
            )

    async def run(self) -> None:
        """Close what ran out or lost its device, every few seconds, until cancelled; returns when city.db has been closed."""
        while True:
            self._pulse.beat()
            try:
                await self.sweep()
            except StorageClosed:
                return
            except StorageError as e:
                self._failures += 1
                if self._failures == 1:
                    log.error("orders: what ran out cannot be closed, trying again until it can: %s", e)
            else:
                if self._failures:
                    log.warning("orders: what ran out is closed again after %d attempts", self._failures)
                self._failures = 0
            self._pulse.rest()
            await asyncio.sleep(SWEEP_S)

    async def sweep(self) -> None:
        """Close now what ran out without an outcome or is for a revoked device, and count what is open.

        Raises StorageError."""
        now = self._clock.now_ms()

        def look(connection: Connection) -> tuple[bool, dict[OrderKind, int]]:
            late = rows.past_end(connection, now=now, limit=SWEEP_AT_ONCE)
            counts = {kind: rows.count_open(connection, kind) for kind in OrderKind}
            lost = rows.for_revoked(connection, limit=1)
            return bool(lost) or any(overdue(order, now=now) for order in late), counts

        def work(connection: Connection) -> int:
            lost = rows.for_revoked(connection, limit=SWEEP_AT_ONCE)
            for order in lost:
                detail = "the device is revoked"
                rows.become(connection, order, State.REFUSED, detail=detail, closed=By.PLATFORM, by=By.PLATFORM, at=now)
            closed = len(lost)
            for order in rows.past_end(connection, now=now, limit=SWEEP_AT_ONCE):
                state = overdue(order, now=now)
                if state is not None:
                    detail = "the gateway never asked for it" if order.handed is None else "no outcome has come"
                    rows.become(connection, order, state, detail=detail, closed=By.PLATFORM, by=By.PLATFORM, at=now)
                    closed += 1
            return closed

        due, counts = await self._city.read(look)
        self.open.update(counts)
        if due:
            self.counters["closed"] += await self._city.write(work)


def _settle(connection: Connection, gateway: str, outcome: wire.Outcome) -> str:
    """Write one outcome down; the name of the counter it belongs to."""
    order = rows.find(connection, outcome.id)
    step = follow(order, gateway, outcome.state)
    if not isinstance(step, Follow) or order is None:
        return f"ignored.{step}"
    detail = "".join(sign if sign.isprintable() else "?" for sign in outcome.detail[:LONGEST_DETAIL])
    at = min(max(outcome.time, 0), _END)
    rows.become(connection, order, step.state, detail=detail, closed=step.closed, by=By.GATEWAY, at=at)
    return "outcomes"


def _cut(orders: Sequence[Order]) -> list[Order]:
    """The first of `orders` that make one answer: at least one, however long it is."""
    kept: list[Order] = []
    size = 0
    for order in orders:
        size += len(order.body)
        if kept and size > BYTES_AT_ONCE:
            break
        kept.append(order)
    return kept
