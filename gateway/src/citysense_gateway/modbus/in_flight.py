"""Frames that were handed to the store and have no verdict yet: counted, so that a stop can wait for them."""

from __future__ import annotations

import asyncio


class InFlight:
    """A count, and a wait for none."""

    def __init__(self) -> None:
        self._count = 0
        self._none: asyncio.Event | None = None

    def began(self) -> None:
        """A frame is on its way."""
        self._count += 1

    def ended(self) -> None:
        """It has its verdict."""
        self._count -= 1
        if self._count == 0 and self._none is not None:
            self._none.set()

    async def settle(self, seconds: float) -> None:
        """Return when none is on its way any more, or after so many seconds."""
        if self._count == 0:
            return
        self._none = asyncio.Event()
        try:
            async with asyncio.timeout(seconds):
                await self._none.wait()
        except TimeoutError:
            # They have their verdict later; nobody waits for it.
            return
