"""The clock that every stage is handed; nothing below an `app.py` reads the time itself."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Wall time for records, monotonic time for waiting."""

    def now_ms(self) -> int:
        """Milliseconds since 1970 UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back; only differences mean something."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now_ms(self) -> int:
        """Milliseconds since 1970 UTC."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()


class SetClock:
    """A clock that stands still until it is moved; for tests, backtests and replays."""

    def __init__(self, now_ms: int = 0) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> int:
        """Milliseconds since 1970 UTC, as set."""
        return self._now_ms

    def monotonic(self) -> float:
        """The same moment in seconds."""
        return self._now_ms / 1000

    def advance(self, ms: int) -> None:
        """Move forward by `ms` milliseconds."""
        self._now_ms += ms


def rfc3339(ms: int) -> str:
    """`ms` since 1970 as RFC 3339 in UTC with milliseconds: 2026-11-20T03:00:00.123Z."""
    moment = datetime.fromtimestamp(ms / 1000, tz=UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{ms % 1000:03d}Z"


def parse_rfc3339(text: str) -> int:
    """Milliseconds since 1970 UTC of an RFC 3339 time with any offset.

    Raises ValueError for anything else, also for a time without an offset: a local time is no moment.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone; write 2026-11-20T03:00:00Z or …+08:00")
    return round(moment.timestamp() * 1000)
