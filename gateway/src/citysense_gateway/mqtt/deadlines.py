"""Things by the time at which somebody has to look at them again.

Owns coarse buckets, so that 20,000 connections cost no timers of their own and no pass over all of them: only those
whose time has come are touched. What to do about them is the caller's. Does no I/O and reads no clock.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Deadlines(Generic[T]):
    """`grain` is the width of a bucket in seconds. A thing stands in one bucket at most."""

    def __init__(self, grain: float = 1.0) -> None:
        self._grain = grain
        self._buckets: dict[int, set[T]] = {}
        self._order: list[int] = []
        self._where: dict[T, int] = {}

    def __len__(self) -> int:
        return len(self._where)

    def file(self, thing: T, due: float) -> None:
        """Have `thing` come up at `due`, in place of any other time."""
        number = int(due // self._grain)
        before = self._where.get(thing)
        if before == number:
            return
        if before is not None:
            self._buckets[before].discard(thing)
        bucket = self._buckets.get(number)
        if bucket is None:
            bucket = self._buckets[number] = set()
            heapq.heappush(self._order, number)
        bucket.add(thing)
        self._where[thing] = number

    def forget(self, thing: T) -> None:
        """Have `thing` not come up."""
        number = self._where.pop(thing, None)
        if number is not None:
            self._buckets[number].discard(thing)

    def take(self, now: float) -> list[T]:
        """Remove and return what comes up. A bucket opens as soon as its first moment has come, so that nothing is late
        by more than the time between two calls: what is early has to be filed again."""
        open_now = int(now // self._grain)
        taken: list[T] = []
        while self._order and self._order[0] <= open_now:
            bucket = self._buckets.pop(heapq.heappop(self._order))
            taken += bucket
        for thing in taken:
            del self._where[thing]
        return taken
