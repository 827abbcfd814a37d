"""Message ids seen lately, and what was answered: so that a repeated datagram is answered, not processed, again.

Bounded in time and in number. The library keeps whole message objects and a timer for each request, 2.3 kB for 247 s;
this keeps the reply's bytes. It only saves work: what survives a restart is the spool's own de-duplication.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable


class RecentRequests:
    """Keys of requests with the replies to repeat. `lifetime` in seconds; at most `limit` keys, the oldest leaves."""

    def __init__(self, *, lifetime: float = 60.0, limit: int = 100_000) -> None:
        # A sender repeats itself for at most 45 s (MAX_TRANSMIT_SPAN of RFC 7252); the rest is for the network.
        self._lifetime = lifetime
        self._limit = limit
        self._replies: OrderedDict[Hashable, tuple[float, bytes]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._replies)

    def admit(self, key: Hashable, now: float) -> bytes | None:
        """None if `key` is new, and it is remembered; else the reply to repeat, empty where none was given yet."""
        self._expire(now)
        known = self._replies.get(key)
        if known is not None:
            return known[1]
        if len(self._replies) >= self._limit:
            self._replies.popitem(last=False)
        self._replies[key] = (now, b"")
        return None

    def answered(self, key: Hashable, reply: bytes) -> None:
        """Remember the reply to `key`, if the key is still remembered."""
        known = self._replies.get(key)
        if known is not None:
            self._replies[key] = (known[0], reply)

    def _expire(self, now: float) -> None:
        while self._replies:
            oldest = next(iter(self._replies))
            if now - self._replies[oldest][0] < self._lifetime:
                return
            del self._replies[oldest]
