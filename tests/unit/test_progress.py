"""Who makes progress, who does not, and who was only stopped from outside."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable

import pytest

from citysense.clock import SetClock
from citysense.progress import Overdue, Progress, Pulse, Watchdog, keep_beating


def watched(clock: SetClock, limit: float = 10.0) -> tuple[Progress, Pulse]:
    progress = Progress(clock, limit=limit)
    pulse = progress.watch("loop")
    progress.look()
    return progress, pulse


def seconds(progress: Progress, clock: SetClock, count: int, pulse: Pulse | None = None) -> list[Overdue]:
    """So many looks, a second apart."""
    found: list[Overdue] = []
    for _ in range(count):
        if pulse is not None:
            pulse.beat()
        clock.advance(1_000)
        found = progress.look()
    return found


def test_a_loop_that_beats_is_never_overdue() -> None:
    clock = SetClock()
    progress, pulse = watched(clock)
    assert seconds(progress, clock, 60, pulse) == []


def test_a_loop_that_stops_is_named_after_its_limit() -> None:
    clock = SetClock()
    progress, pulse = watched(clock)
    pulse.beat()
    assert seconds(progress, clock, 11) == []
    assert [(one.name, one.limit) for one in seconds(progress, clock, 1)] == [("loop", 10.0)]


def test_a_loop_at_rest_may_be_silent() -> None:
    clock = SetClock()
    progress, pulse = watched(clock)
    pulse.beat()
    pulse.rest()
    assert seconds(progress, clock, 100) == []
    assert progress.ages() == {"loop": None}
    pulse.beat()
    assert seconds(progress, clock, 12) != []


def test_loops_of_one_name_are_watched_each_by_itself() -> None:
    clock = SetClock()
    progress = Progress(clock)
    first, second = (progress.watch("line", which=which) for which in ("one", "two"))
    with pytest.raises(ValueError, match="watched already"):
        progress.watch("line")
    progress.look()
    assert progress.ages() == {"line": None}
    first.beat()
    second.beat()
    found = seconds(progress, clock, 12, second)
    assert [(one.name, one.which) for one in found] == [("line", "one")]
    # The one that is longest without progress stands for all.
    assert progress.ages() == {"line": 11.0}
    progress.forget(first)
    assert seconds(progress, clock, 12, second) == []
    progress.forget(second)
    assert progress.ages() == {}
    progress.watch("line")


def test_a_loop_may_have_a_limit_of_its_own() -> None:
    clock = SetClock()
    progress = Progress(clock)
    progress.look()
    progress.watch("poll", limit=45).beat()
    assert seconds(progress, clock, 45) == []
    assert seconds(progress, clock, 2) != []


def test_a_process_that_was_stopped_from_outside_has_hung_nowhere() -> None:
    clock = SetClock()
    progress, pulse = watched(clock)
    pulse.beat()
    seconds(progress, clock, 1)
    clock.advance(3_600_000)
    assert progress.look() == []
    assert seconds(progress, clock, 60, pulse) == []


def test_a_loop_that_hung_before_the_stop_is_still_found_after_it() -> None:
    clock = SetClock()
    progress, pulse = watched(clock)
    pulse.beat()
    seconds(progress, clock, 5)
    clock.advance(3_600_000)
    assert progress.look() == []
    assert seconds(progress, clock, 5) != []


def test_a_name_is_watched_once() -> None:
    progress, _ = watched(SetClock())
    with pytest.raises(ValueError, match="loop is watched already"):
        progress.watch("loop")


class StepClock(SetClock):
    """A second passes with each look at the clock."""

    def monotonic(self) -> float:
        self.advance(1_000)
        return super().monotonic()


def test_the_watchdog_tells_who_hangs_once_and_ends() -> None:
    progress = Progress(StepClock(), limit=3)
    progress.watch("writer").beat()
    told: list[list[str]] = []
    heard = threading.Event()

    def hung(overdue: Iterable[Overdue]) -> None:
        told.append([one.name for one in overdue])
        heard.set()

    with Watchdog(progress, every=0.001, hung=hung):
        assert heard.wait(10)
    assert told == [["writer"]]


async def test_the_event_loop_beats_while_it_turns() -> None:
    pulse = Pulse()
    task = asyncio.create_task(keep_beating(pulse, every=0))
    while pulse.beats < 3:
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert pulse.resting
