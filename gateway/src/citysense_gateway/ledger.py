"""The conservation ledger: does every frame end in exactly one bin, and every record in exactly one place?

Owns the sums and their comparison, once a minute. What doors hand over and what they are answered is counted here, beside
the doors and apart from the pipeline's own bins: two counts that are taken in different places can contradict each
other, and one cannot. A frame that nobody can place is a defect of ours that no device would ever report. Must not know
how frames are stored.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from citysense.lane_account import LaneAccount
from citysense_gateway.frame import Done, Frame, FrameSink, Kind, Reason, Verdict
from citysense_profiles.reading import ReadingClass

log = logging.getLogger(__name__)

MINUTE_MS = 60_000
MOST_GENERATIONS = 1_000
"""Minutes of which frames may be without a verdict; beyond it the oldest are given up, so that memory has a bound."""
REJECTED = "rejected."
# The pipeline's counters of frames with a verdict.
_BINS = (Kind.STORED.value, Kind.DUPLICATE.value, Kind.UNAVAILABLE.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameBook:
    """Frames since the start of the process.

    `handed` is what doors and drivers handed over, `answered` how many of these have a verdict, `overdue` how many have
    none although a whole minute has passed; `came_in` and `bins` are what the pipeline counted.
    """

    handed: int
    answered: int
    overdue: int
    came_in: int
    bins: Mapping[str, int]

    @property
    def ended(self) -> int:
        """Frames in a bin."""
        return sum(self.bins.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneBook:
    """Records of one lane: what must be in the spool, by all that was appended and all that has left it; and what is."""

    lane: str
    expected: int
    found: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Imbalance:
    """Frames or records that cannot be placed: how many, and a sentence that says between which two counts."""

    count: int
    text: str


Gaps = Mapping[str, int]
"""How far sums that must be equal are apart, by what that means. Nothing stands here for sums that are equal."""


def frame_gaps(book: FrameBook) -> dict[str, int]:
    """The frames that are in no bin, or in more than one.

    A frame is counted into its bin before its door is told, so between two turns of the event loop more may be in the
    bins than answered, and never fewer.
    """
    return _those_above_zero(
        {
            "frames without a verdict for more than a minute": book.overdue,
            "frames between the doors and the pipeline": abs(book.handed - book.came_in),
            "frames that were answered and are in no bin": book.answered - book.ended,
            "frames that are in a bin and never came in": book.ended - book.came_in,
        }
    )


def record_gaps(books: Iterable[LaneBook]) -> dict[str, int]:
    """The records that are missing in the spool, or too many in it."""
    gaps: dict[str, int] = {}
    for book in books:
        gaps[f"records missing in lane {book.lane}"] = book.expected - book.found
        gaps[f"records too many in lane {book.lane}"] = book.found - book.expected
    return _those_above_zero(gaps)


def lane_books(accounts: Mapping[ReadingClass, LaneAccount]) -> list[LaneBook]:
    """The spool's own accounts of its lanes, as the ledger compares them."""
    return [
        LaneBook(
            lane=cls.value,
            expected=account.appended - account.finished - account.evicted - account.set_aside,
            found=account.present,
        )
        for cls, account in accounts.items()
    ]


def _those_above_zero(gaps: Gaps) -> dict[str, int]:
    return {what: count for what, count in gaps.items() if count > 0}


def balance(before: Gaps, after: Gaps) -> Imbalance | None:
    """What went out of balance between two looks; None where nothing did. What was told once is not told again."""
    grown = {what: count - before.get(what, 0) for what, count in after.items() if count > before.get(what, 0)}
    if not grown:
        return None
    return Imbalance(count=sum(grown.values()), text="; ".join(f"{count} {what}" for what, count in grown.items()))


class Sink(FrameSink, Protocol):
    """The pipeline, which also takes what lies in the dead letters already."""

    async def read_again(self, frame: Frame) -> Verdict:
        """`accept` without a second letter."""
        ...


class CountedSink:
    """Stands before the pipeline and counts what goes in and what is answered. See `frame.FrameSink`."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._open: list[int] = [0]
        self._generations: deque[list[int]] = deque([self._open])
        self.handed = 0

    @property
    def answered(self) -> int:
        """Frames with a verdict."""
        return self.handed - sum(generation[0] for generation in self._generations)

    @property
    def overdue(self) -> int:
        """Frames without a verdict that came in before the minute before this one began."""
        return sum(generation[0] for generation in tuple(self._generations)[:-2])

    def next_minute(self) -> None:
        """Count what comes from now on apart from what came before."""
        # What is settled is forgotten; so only minutes of which something is lost add up.
        settled = [generation for generation in self._generations if generation[0] and generation is not self._open]
        last, self._open = self._open, [0]
        self._generations = deque([*settled, last, self._open], maxlen=MOST_GENERATIONS)

    def deliver(self, frame: Frame, done: Done, *, reason: Reason | None = None, detail: str = "") -> None:
        """See `frame.FrameSink`."""
        generation = self._open
        generation[0] += 1
        self.handed += 1

        def told(verdict: Verdict) -> None:
            generation[0] -= 1
            done(verdict)

        self._sink.deliver(frame, told, reason=reason, detail=detail)

    async def accept(self, frame: Frame) -> Verdict:
        """See `frame.FrameSink`."""
        return await self._counted(self._sink.accept(frame))

    async def refuse(self, frame: Frame, reason: Reason, detail: str) -> Verdict:
        """See `frame.FrameSink`."""
        return await self._counted(self._sink.refuse(frame, reason, detail))

    async def read_again(self, frame: Frame) -> Verdict:
        """See `Sink`."""
        return await self._counted(self._sink.read_again(frame))

    async def _counted(self, verdict: Awaitable[Verdict]) -> Verdict:
        generation = self._open
        generation[0] += 1
        self.handed += 1
        try:
            return await verdict
        finally:
            generation[0] -= 1


class Ledger:
    """Compares the sums. `counters` gives the pipeline's counters by name, `lanes` the records of each lane."""

    def __init__(
        self,
        *,
        sink: CountedSink,
        counters: Callable[[], Mapping[str, float]],
        lanes: Callable[[], Sequence[LaneBook]],
    ) -> None:
        self._sink = sink
        self._counters = counters
        self._lanes = lanes
        self._open = 0
        self._before: Gaps = {}
        self._frames: dict[str, int] = {}
        self._records: dict[str, int] = {}
        self._failed = False
        self.minute = 0
        """The last minute that was closed, counted from 1970; 0 before the first."""
        self.unbalanced = 0
        """Frames and records that could not be placed in that minute."""

    def look(self, now_ms: int) -> None:
        """Call once a second; the first call after a minute closes it. Raises StorageError."""
        minute = now_ms // MINUTE_MS
        for what, count in frame_gaps(self.book()).items():
            self._frames[what] = max(count, self._frames.get(what, 0))
        if minute == self._open:
            return
        if self._open:
            self._close()
        self._open = minute
        self._records = record_gaps(self._lanes())

    def _close(self) -> None:
        after = {**self._frames, **self._records}
        found = balance(self._before, after)
        self._before, self._frames = after, {}
        self._sink.next_minute()
        self.minute = self._open
        self.unbalanced = 0 if found is None else found.count
        if found is not None:
            log.error("the ledger does not balance: %s; this is a defect, please report it with this log", found.text)
        elif self._failed:
            log.warning("the ledger balances again")
        self._failed = found is not None

    def book(self) -> FrameBook:
        """The sums of now."""
        counters = self._counters()
        bins = {name: int(counters[name]) for name in _BINS}
        bins.update((name, int(count)) for name, count in counters.items() if name.startswith(REJECTED))
        return FrameBook(
            handed=self._sink.handed,
            answered=self._sink.answered,
            overdue=self._sink.overdue,
            came_in=int(sum(count for name, count in counters.items() if name.startswith("frames."))),
            bins=bins,
        )

    def figures(self) -> dict[str, float]:
        """For the heartbeat: the last minute's outcome."""
        return {"ledger.unbalanced": float(self.unbalanced), "ledger.minute": float(self.minute)}
