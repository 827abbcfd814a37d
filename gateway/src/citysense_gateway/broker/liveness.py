"""Whether readings really come through: the gateway's own message has to come back, or others do.

A library that says "connected" says nothing (measured: it does with a dead reader). Pure; the clock is the caller's.
"""

from __future__ import annotations

ECHO_EVERY_S = 2.5
SILENT_S = 7.5
"""Three echoes missed, and nothing else came either: within 10 s of the last sign of life there is a new connection."""


class Liveness:
    """Of one connection, which begins at monotonic `now`."""

    def __init__(self, now: float) -> None:
        self._echo_at = now
        self._came_at = now
        self._echoed = False

    def came(self, now: float) -> None:
        """A message came in, whichever."""
        self._came_at = now

    def echo_came(self, now: float) -> None:
        """The gateway's own message came back."""
        self._came_at = now
        self._echoed = True

    def echo_due(self, now: float) -> bool:
        """True when the next echo is to be sent; it counts as sent."""
        if now < self._echo_at:
            return False
        self._echo_at = now + ECHO_EVERY_S
        return True

    def hold(self, now: float) -> None:
        """Nothing is read on purpose, so nothing can come."""
        self._came_at = now

    def verdict(self, now: float, echo_topic: str) -> str | None:
        """Why the connection is given up, for a person; None while it lives."""
        silent = now - self._came_at
        if silent < SILENT_S:
            return None
        if self._echoed:
            return f"nothing has come through for {silent:.0f} s, not even the gateway's own message"
        return (
            f"the gateway's own message to {echo_topic} does not come back; let its account write and read this topic"
        )
