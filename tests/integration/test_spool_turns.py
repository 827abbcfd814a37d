"""Frames that come together share a job of the writer: what that must not mix up."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from citysense import wire
from citysense.clock import SetClock
from citysense.crash_points import CrashPoints
from citysense.errors import StorageFull
from citysense_gateway.fingerprint import Counted, Fingerprint, Keyed
from citysense_gateway.frame import Receipt
from citysense_gateway.spool import JOB_BOUND, Put, Spool, Stored
from citysense_profiles.reading import ReadingClass

NOW = 1_790_000_000_000
Told = Stored | BaseException


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    made = Spool(tmp_path / "spool.db", clock=SetClock(NOW), crash=CrashPoints(), reserve_bytes=1 << 16)
    made.open()
    yield made
    made.close()


def readings(device: str) -> wire.Readings:
    return wire.Readings(
        device=device,
        profile="generic/water-gauge",
        kind="water_gauge",
        message="report",
        received=NOW,
        identity="credential",
        samples=[wire.SampleBody(time=NOW, values={"device.temperature": 21.5})],
    )


def counted(seq: int) -> Counted:
    return Counted(boot=1, seq=seq, base=None)


class Turn:
    """Frames put in one turn, and what each was told, in the order of telling."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self.told: list[tuple[int, Told]] = []
        self._all = asyncio.Event()
        self._put = 0

    def put(self, fingerprint: Fingerprint, *, device: str = "g-1", cls: ReadingClass = ReadingClass.BULK) -> None:
        number, self._put = self._put, self._put + 1

        def told(outcome: Told) -> None:
            self.told.append((number, outcome))
            if len(self.told) == self._put:
                self._all.set()

        self.spool.put(
            Put(device=device, readings={cls: readings(device)}, fingerprint=fingerprint, received=NOW, told=told)
        )

    async def ended(self) -> dict[int, Told]:
        await asyncio.wait_for(self._all.wait(), 10)
        return dict(self.told)


def rows(spool: Spool) -> int:
    return int(spool.log.select("SELECT count(*) FROM record")[0][0])


async def test_frames_of_a_turn_are_told_in_their_order_after_one_commit(spool: Spool) -> None:
    turn = Turn(spool)
    for seq in range(20):
        turn.put(counted(seq))
    await turn.ended()
    assert turn.told == [(seq, Stored(duplicate=False, receipt=Receipt(boot=1, seq=seq))) for seq in range(20)]


async def test_a_repeat_within_a_turn_is_one_frame(spool: Spool) -> None:
    turn = Turn(spool)
    key = Keyed(key=b"k" * 16, may_repeat=True, lifetime_ms=1_000)
    for fingerprint in (counted(0), counted(0), key, key):
        turn.put(fingerprint)
    ended = await turn.ended()
    assert [outcome.duplicate for outcome in ended.values() if isinstance(outcome, Stored)] == [False, True] * 2
    assert rows(spool) == 2


async def test_more_frames_than_one_job_takes_are_is_stored_whole(spool: Spool) -> None:
    turn = Turn(spool)
    for seq in range(2 * JOB_BOUND + 7):
        turn.put(counted(seq))
    ended = await turn.ended()
    assert {outcome.duplicate for outcome in ended.values() if isinstance(outcome, Stored)} == {False}
    assert rows(spool) == len(ended) == 2 * JOB_BOUND + 7


def fails_once(real: Callable[..., object], error: Exception) -> Callable[..., object]:
    failures = iter([error])

    def failing(*arguments: object, **named: object) -> object:
        for failure in failures:
            raise failure
        return real(*arguments, **named)

    return failing


@pytest.mark.parametrize(
    "error", [StorageFull("no space left"), sqlite3.OperationalError("disk I/O error"), ValueError()]
)
async def test_what_an_undone_transaction_had_counted_is_not_taken_for_a_repeat(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    first = Turn(spool)
    first.put(counted(0))
    await first.ended()
    monkeypatch.setattr(spool.log, "_write", fails_once(spool.log._write, error))
    turn = Turn(spool)
    for seq in (1, 2, 3):
        turn.put(counted(seq))
    await turn.ended()
    again = Turn(spool)
    for seq in (1, 2, 3):
        again.put(counted(seq))
    await again.ended()
    assert rows(spool) == 4, "each frame once, whether it was stored the first time or when it came again"


async def test_a_frame_that_cannot_be_written_does_not_stop_its_neighbours(spool: Spool) -> None:
    turn = Turn(spool)
    turn.put(counted(0), device="g-1")
    turn.put(Counted(boot=1 << 70, seq=0, base=None), device="g-2")  # no number that the file can hold
    turn.put(counted(0), device="g-3")
    ended = await turn.ended()
    assert isinstance(ended[0], Stored)
    assert isinstance(ended[1], OverflowError)
    assert isinstance(ended[2], Stored)
    assert rows(spool) == 2


async def test_a_closed_spool_tells_every_frame(spool: Spool) -> None:
    spool.close()
    turn = Turn(spool)
    turn.put(counted(0))
    turn.put(counted(1))
    assert len(await turn.ended()) == 2
    assert all(isinstance(outcome, BaseException) for _, outcome in turn.told)


async def test_numbers_are_remembered_over_a_restart(tmp_path: Path) -> None:
    for expected in (False, True):
        spool = Spool(tmp_path / "spool.db", clock=SetClock(NOW), crash=CrashPoints(), reserve_bytes=1 << 16)
        spool.open()
        try:
            turn = Turn(spool)
            turn.put(counted(0))
            (outcome,) = (await turn.ended()).values()
            assert isinstance(outcome, Stored)
            assert outcome.duplicate is expected
        finally:
            spool.close()
