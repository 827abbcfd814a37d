"""The messages of one device that nobody has acknowledged yet: bounded, oldest first.

Owns numbers and bytes only; sending is the link's work. Pure.
"""

from __future__ import annotations

from collections import OrderedDict

BOUND = 1_000
"""Messages a device can keep: an hour of outage at the shortest report period of a few seconds, some 100 kB of flash."""


class Backlog:
    """Unacknowledged messages by their number (a native device's `seq`), which only grows."""

    def __init__(self, bound: int = BOUND) -> None:
        self._bound = bound
        self._waiting: OrderedDict[int, bytes] = OrderedDict()
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, number: int) -> bool:
        return number in self._waiting

    def add(self, number: int, payload: bytes) -> int | None:
        """Keep one more; returns the number that had to go for it, the oldest, if the bound was reached."""
        lost = None
        if len(self._waiting) >= self._bound:
            lost, _ = self._waiting.popitem(last=False)
            self.dropped += 1
        self._waiting[number] = payload
        return lost

    def acked(self, number: int) -> bool:
        """Forget an acknowledged message; False if it is not (or no longer) here."""
        return self._waiting.pop(number, None) is not None

    def oldest(self) -> tuple[int, bytes] | None:
        """The message to send next."""
        return next(iter(self._waiting.items()), None)

    def base(self, following: int) -> int:
        """Lowest number that can still be sent again; `following` (the next new number) when nothing waits."""
        return next(iter(self._waiting), following)
