"""What the platform wants of this gateway: fetched by a long poll, and the outcomes told back.

Owns the two loops and their outages. An order counts as taken only when it, or its outcome, is durable here; until then
the platform gives it again, and its number tells that it is the same. What an order means is the business of `mailbox`
and `reprocess`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from citysense import wire
from citysense.errors import StorageClosed, StorageError
from citysense.progress import Pulse
from citysense_gateway.mailbox import Mailbox
from citysense_gateway.outage import Outage
from citysense_gateway.platform_client import BatchRefused, PlatformClient, Unreachable

log = logging.getLogger(__name__)

LONGEST_WAIT_S = 2.0
"""Between two tries. An order may be an alarm's siren; asking costs the platform next to nothing."""

ReadAgain = Callable[[wire.Reprocess], Awaitable[wire.Outcome]]
"""Reads a dead letter again; see `reprocess.Rereading`."""


class Orders:
    """Takes orders and tells outcomes. `pulse` beats with each poll, `telling` with each call, at rest while there is
    nothing to tell."""

    def __init__(
        self,
        *,
        client: PlatformClient,
        mailbox: Mailbox,
        read_again: ReadAgain,
        random: Callable[[], float],
        pulse: Pulse | None = None,
        telling: Pulse | None = None,
    ) -> None:
        self._client = client
        self._mailbox = mailbox
        self._read_again = read_again
        self._pulse = pulse or Pulse()
        self._telling = telling or Pulse()
        self._orders = Outage("orders", random, longest=LONGEST_WAIT_S)
        self._outcomes = Outage("outcomes", random)

    async def fetch(self) -> None:
        """Take orders as they come, until cancelled. Raises StorageClosed when the spool has stopped."""
        while True:
            self._pulse.beat()
            try:
                # After a failure the platform is not made to wait: its answer ends the outage, and may be 25 s away.
                trouble = self._orders.failures > 0
                await self._take(await self._client.orders(self._mailbox.taken, wait=not trouble))
            except Unreachable as e:
                await asyncio.sleep(self._orders.failed(e, e.retry_after))
            except StorageClosed:
                raise
            except (BatchRefused, StorageError) as e:
                await asyncio.sleep(self._orders.failed(e))
            else:
                self._orders.worked()

    async def tell(self) -> None:
        """Hand over outcomes as they come, until cancelled. Raises StorageClosed when the spool has stopped."""
        while True:
            self._telling.rest()
            await self._mailbox.told.wait()
            self._telling.beat()
            try:
                number, outcomes = self._mailbox.outcomes()
                if outcomes:
                    await self._client.outcomes(outcomes)
                    self._telling.beat()
                    await self._mailbox.on_record(number)
            except Unreachable as e:
                await self._pause(self._outcomes.failed(e, e.retry_after))
            except StorageClosed:
                raise
            except (BatchRefused, StorageError) as e:
                await self._pause(self._outcomes.failed(e))
            else:
                self._outcomes.worked()

    async def _pause(self, seconds: float) -> None:
        # Longer than the limit of a loop, where the platform asks for patience.
        self._telling.rest()
        await asyncio.sleep(seconds)

    async def _take(self, orders: Sequence[wire.Order]) -> None:
        """In the order of their numbers; messages that stand beside each other share a commit. Raises StorageError."""
        messages: list[wire.Downlink] = []
        for order in orders:
            if isinstance(order, wire.Downlink):
                messages.append(order)
                continue
            await self._keep(messages)
            messages = []
            if order.number > self._mailbox.taken:
                outcome = await self._read_again(order)
                await self._mailbox.record(outcome, number=order.number)
            # A thousand letters are read one after the other; each is a step.
            self._pulse.beat()
        await self._keep(messages)

    async def _keep(self, messages: Sequence[wire.Downlink]) -> None:
        if messages:
            await self._mailbox.take(messages, number=messages[-1].number)
