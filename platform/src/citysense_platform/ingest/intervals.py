"""Sets of offsets as sorted, disjoint, closed intervals. Pure arithmetic."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

Interval = tuple[int, int]
"""Lowest and highest offset, both inside."""


def union(intervals: Iterable[Interval]) -> list[Interval]:
    """The same offsets in the fewest intervals, rising; neighbours (1-2 and 3-4) become one."""
    merged: list[Interval] = []
    for low, high in sorted(intervals):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], high))
        else:
            merged.append((low, high))
    return merged


def covers(intervals: Sequence[Interval], offset: int) -> bool:
    """True if `offset` lies in one of `intervals`, which must be as `union` gives them."""
    place = bisect_right(intervals, offset, key=lambda interval: interval[0])
    return place > 0 and offset <= intervals[place - 1][1]
