"""The gateway's sign of life, once a second, with its counters.

Owns the pace and what is in it. A beat that does not get through is not sent again: the next one says the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from citysense import wire
from citysense.clock import Clock
from citysense.progress import Pulse
from citysense_gateway.outage import Outage
from citysense_gateway.platform_client import BatchRefused, PlatformClient, Unreachable

EVERY_S = 1.0


class Heartbeat:
    """Tells the platform that this gateway lives. `figures` gives the counters of the moment."""

    def __init__(
        self,
        gateway: str,
        *,
        client: PlatformClient,
        clock: Clock,
        random: Callable[[], float],
        figures: Callable[[], Mapping[str, float]],
        every: float = EVERY_S,
        pulse: Pulse | None = None,
    ) -> None:
        self._gateway = gateway
        self._client = client
        self._clock = clock
        self._figures = figures
        self._every = every
        self._pulse = pulse or Pulse()
        self._outage = Outage("heartbeat", random)

    async def run(self) -> None:
        """Beat until cancelled. A slow answer delays the next beat; none are made up for."""
        while True:
            self._pulse.beat()
            began = self._clock.monotonic()
            sign = wire.Heartbeat(gateway=self._gateway, time=self._clock.now_ms(), counters=dict(self._figures()))
            try:
                await self._client.heartbeat(sign)
            except (Unreachable, BatchRefused) as e:
                self._outage.failed(e)
            else:
                self._outage.worked()
            await asyncio.sleep(max(0.0, began + self._every - self._clock.monotonic()))
