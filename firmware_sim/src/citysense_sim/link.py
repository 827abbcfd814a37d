"""The contract between a virtual device and the wire under it.

Owns the words only: a link takes encoded messages, keeps them until they are acknowledged, and says so. It never knows
what a message means.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Protocol


class Fate(StrEnum):
    """How a message ended."""

    ACKED = "acked"
    """PUBACK or 2.04: the gateway answers for it from here on."""
    REFUSED = "refused"
    """The gateway understood and will never take it (4.00): sending again would not help."""
    DROPPED = "dropped"
    """The device's own memory was full."""


OnFate = Callable[[int, Fate], None]
"""Called with the message's number, at most once a message."""


class Link(Protocol):
    """One device's connection. `run` does the work; the rest only hands over."""

    @property
    def unacked(self) -> int:
        """Messages given to `push` whose fate is open."""
        ...

    @property
    def ready(self) -> bool:
        """True once the gateway has let this device in (for CoAP: always, it is not asked before)."""
        ...

    def base(self, following: int) -> int:
        """Lowest number that can still be sent again; `following` when nothing waits."""
        ...

    def push(self, number: int, payload: bytes) -> None:
        """Send, and send again until the fate is known. Numbers grow."""
        ...

    async def run(self) -> None:
        """Connect, and connect again whenever it breaks. Ends only by cancellation."""
        ...
