"""Named places where a test may kill the process, so that every edge of a promise is cut once on purpose.

Off unless CITYSENSE_CRASH_AT names a point: `uplink.after_post` at its first passing, `uplink.after_post:7` at its seventh.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping

GATEWAY_POINTS = (
    "spool.before_commit",
    "spool.after_commit",
    "door.after_ack",
    "uplink.before_post",
    "uplink.after_post",
)
PLATFORM_POINTS = (
    "ingest.before_commit",
    "ingest.after_commit",
    "rules.before_commit",
    "rules.after_commit",
    "store.before_cursor",
)


def kill_self() -> None:
    """End this process the way a power cut of its memory would: at once, no handlers, no flushing."""
    os.kill(os.getpid(), signal.SIGKILL)


class CrashPoints:
    """Counts passings of named points and dies at the one that was asked for."""

    def __init__(self, armed: str | None = None, *, die: Callable[[], None] = kill_self) -> None:
        name, _, count = (armed or "").partition(":")
        if name and name not in GATEWAY_POINTS + PLATFORM_POINTS:
            known = ", ".join(GATEWAY_POINTS + PLATFORM_POINTS)
            raise ValueError(f"CITYSENSE_CRASH_AT names {name!r}, which is no crash point; known: {known}")
        self._name = name
        self._left = int(count) if count else 1
        self._die = die

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> CrashPoints:
        """The points armed by CITYSENSE_CRASH_AT, none without it."""
        return cls(environment.get("CITYSENSE_CRASH_AT"))

    def armed(self, name: str) -> bool:
        """Whether passing the point `name` can kill; where reaching it costs something, ask first."""
        return name == self._name

    def at(self, name: str) -> None:
        """Pass the point `name`."""
        if name == self._name:
            self._left -= 1
            if self._left == 0:
                self._die()
