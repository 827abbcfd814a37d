"""How many records each reader of a log still has before it, without counting them again and again.

Counting a backlog of a million records reads them all from the disk. It is done once per reader; from then on the
commits are added and what the reader finishes is taken off. Owns these numbers only; no I/O.
"""

from __future__ import annotations

from dataclasses import dataclass

from citysense_profiles.reading import ReadingClass


@dataclass(slots=True, kw_only=True)
class _Depth:
    count: int
    next_offset: int
    finished: int


class LaneDepths:
    """Depth per reader and lane. All calls come from one thread, in the order of the commits."""

    def __init__(self) -> None:
        self._depths: dict[tuple[str, ReadingClass], _Depth] = {}

    def get(self, name: str, cls: ReadingClass) -> int | None:
        """Records before reader `name`; None until `counted` was told."""
        depth = self._depths.get((name, cls))
        return None if depth is None else max(depth.count, 0)

    def counted(self, name: str, cls: ReadingClass, *, count: int, next_offset: int, finished: int) -> None:
        """A count at one moment: when `next_offset` was the next and the reader had finished up to `finished`."""
        self._depths[name, cls] = _Depth(count=count, next_offset=next_offset, finished=finished)

    def appended(self, cls: ReadingClass, *, first: int, count: int) -> None:
        """A commit added `count` records of a lane, the lowest with offset `first`."""
        for (_, lane), depth in self._depths.items():
            # A commit that was on the disk when the count was taken may be told of only afterwards.
            if lane is cls and first >= depth.next_offset:
                depth.count += count

    def finished(self, name: str, cls: ReadingClass, *, offset: int, count: int) -> None:
        """A reader has finished `count` more records, up to `offset`."""
        depth = self._depths.get((name, cls))
        if depth is not None and offset > depth.finished:
            depth.finished = offset
            depth.count -= count

    def removed(self, cls: ReadingClass, first: int, last: int, *, count: int) -> None:
        """So many records from `first` to `last` have left their lane without a reader's cursor passing them."""
        for key, depth in list(self._depths.items()):
            if key[1] is not cls or last <= depth.finished:
                continue
            if first > depth.finished:
                depth.count -= count
            else:
                del self._depths[key]  # some of them only were still before this reader: count again
