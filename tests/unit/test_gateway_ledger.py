"""The ledger balances while every frame has its end, and says so when one has not."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace

import pytest

from citysense_gateway.counters import FrameCounters
from citysense_gateway.frame import Done, Frame, Identity, Kind, Reason, Transport, Verdict
from citysense_gateway.ledger import (
    MINUTE_MS,
    CountedSink,
    FrameBook,
    LaneBook,
    Ledger,
    balance,
    frame_gaps,
    record_gaps,
)

FRAME = Frame(
    transport=Transport.MQTT, channel="c", device="d", identity=Identity.CREDENTIAL, source="192.0.2.1:1", received_at=0
)
STORED = Verdict(kind=Kind.STORED)
REJECTED = Verdict(kind=Kind.REJECTED, reason=Reason.NO_MATCH)


class FrailPipeline:
    """Gives the verdicts it is told to. `lose` drops the next frame, `miscount` forgets its bin."""

    def __init__(self, counters: FrameCounters) -> None:
        self.counters = counters
        self.lose = self.miscount = self.overlook = False
        self.held: list[Done] = []
        self.hold = False

    def deliver(self, frame: Frame, done: Done, *, reason: Reason | None = None, detail: str = "") -> None:
        if not self.overlook:
            self.counters.came_in(frame.transport)
        if self.lose:
            return
        if self.hold:
            self.held.append(done)
            return
        self.end(done, STORED if reason is None else REJECTED)

    def end(self, done: Done, verdict: Verdict) -> None:
        if not self.miscount:
            self.counters.ended(verdict)
        done(verdict)

    async def accept(self, frame: Frame) -> Verdict:
        self.counters.came_in(frame.transport)
        self.counters.ended(STORED)
        return STORED

    async def read_again(self, frame: Frame) -> Verdict:
        return await self.accept(frame)

    async def refuse(self, frame: Frame, reason: Reason, detail: str) -> Verdict:
        self.counters.came_in(frame.transport)
        self.counters.ended(REJECTED)
        return REJECTED


class Bench:
    def __init__(self) -> None:
        self.pipeline = FrailPipeline(FrameCounters())
        self.sink = CountedSink(self.pipeline)
        self.lanes: list[LaneBook] = []
        self.ledger = Ledger(sink=self.sink, counters=self.pipeline.counters.snapshot, lanes=lambda: self.lanes)
        self.now = 100 * MINUTE_MS
        self.told: Counter[Kind] = Counter()
        self.ledger.look(self.now)

    def frame(self, times: int = 1, **how: Reason) -> None:
        for _ in range(times):
            self.sink.deliver(FRAME, lambda verdict: self.told.update([verdict.kind]), **how)

    def minute(self) -> int:
        """A minute goes by; what the ledger says of it."""
        for _ in range(3):
            self.now += MINUTE_MS // 3
            self.ledger.look(self.now)
        return self.ledger.unbalanced


async def test_frames_with_an_end_balance() -> None:
    bench = Bench()
    for _ in range(3):
        bench.frame(5)
        bench.frame(2, reason=Reason.FOREIGN_TOPIC)
        await bench.sink.accept(FRAME)
        await bench.sink.refuse(FRAME, Reason.BAD_CREDENTIAL, "")
        assert bench.minute() == 0
    book = bench.ledger.book()
    assert (book.handed, book.answered, book.came_in, book.ended, book.overdue) == (27, 27, 27, 27, 0)
    assert bench.told == {Kind.STORED: 15, Kind.REJECTED: 6}
    assert bench.ledger.minute == 102


def test_a_frame_that_vanishes_is_seen_within_two_minutes_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.frame(10)
    bench.pipeline.lose = True
    bench.frame()
    bench.pipeline.lose = False
    seen = []
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            bench.frame(10)
            seen.append(bench.minute())
    assert sorted(seen) == [0, 0, 0, 0, 1]
    assert seen.index(1) <= 2
    said = [record.message for record in caplog.records]
    assert len(said) == 2
    assert "1 frames without a verdict for more than a minute" in said[0]
    assert said[1] == "the ledger balances again"


def test_frames_that_are_only_slow_are_no_loss() -> None:
    bench = Bench()
    bench.pipeline.hold = True
    bench.frame(4)
    assert bench.minute() == 0
    for done in bench.pipeline.held:
        bench.pipeline.end(done, STORED)
    assert [bench.minute() for _ in range(3)] == [0, 0, 0]


def test_a_frame_in_no_bin_is_seen() -> None:
    bench = Bench()
    bench.pipeline.miscount = True
    bench.frame(3)
    assert bench.minute() == 3
    assert bench.minute() == 0


def test_a_frame_in_two_bins_is_seen() -> None:
    bench = Bench()
    bench.frame(3)
    bench.pipeline.counters.ended(STORED)
    assert bench.minute() == 1


def test_a_frame_that_never_came_in_is_seen() -> None:
    bench = Bench()
    bench.pipeline.overlook = True
    bench.frame(1)
    assert bench.minute() == 2  # between door and pipeline, and in a bin without having come in


def test_a_record_that_vanishes_is_seen() -> None:
    bench = Bench()
    bench.lanes = [LaneBook(lane="safety", expected=7, found=7), LaneBook(lane="bulk", expected=9, found=8)]
    assert [bench.minute(), bench.minute(), bench.minute()] == [0, 1, 0]


BOOK = FrameBook(handed=10, answered=8, overdue=0, came_in=10, bins={"stored": 6, "rejected.no_match": 2})


@pytest.mark.parametrize(
    ("book", "gap"),
    [
        (BOOK, 0),
        (replace(BOOK, bins={"stored": 10}), 0),
        (replace(BOOK, bins={"stored": 7}), 1),
        (replace(BOOK, bins={"stored": 11}), 1),
        (replace(BOOK, overdue=2), 2),
        (replace(BOOK, handed=13), 3),
    ],
)
def test_gaps(book: FrameBook, gap: int) -> None:
    assert sum(frame_gaps(book).values()) == gap


def test_only_what_is_new_is_out_of_balance() -> None:
    assert balance({}, {}) is None
    assert balance({"a": 2}, {"a": 2}) is None
    found = balance({"a": 2}, {"a": 3, "b": 1})
    assert found is not None
    assert (found.count, found.text) == (2, "1 a; 1 b")
    assert record_gaps([LaneBook(lane="x", expected=1, found=3)]) == {"records too many in lane x": 2}
