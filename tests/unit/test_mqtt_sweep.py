"""The sweep of the MQTT door goes on, whatever one of its rounds comes to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest

from citysense.clock import SetClock
from citysense.progress import Pulse
from citysense_gateway.mqtt.deadlines import Deadlines
from citysense_gateway.mqtt.sweep import Sweep

EVERY = 0.001


class Timed:
    """Notes when it is looked at; fails as often as it is told."""

    def __init__(self, failures: int = 0, error: type[Exception] = ValueError) -> None:
        self.looks = 0
        self._failures = failures
        self._error = error

    def check_deadlines(self, now: float) -> None:
        self.looks += 1
        if self.looks <= self._failures:
            raise self._error("as told")


def sweep(
    things: list[Timed], chores: tuple[Callable[[], None], ...] = (), *, chunk: int = 500, pulse: Pulse | None = None
) -> Sweep[Timed]:
    clock, deadlines = SetClock(10_000), Deadlines[Timed]()
    for thing in things:
        deadlines.file(thing, clock.monotonic())
    return Sweep(chores=chores, deadlines=deadlines, clock=clock, every=EVERY, chunk=chunk, pulse=pulse)


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not done():
            await asyncio.sleep(EVERY)


async def test_a_chore_that_fails_stops_neither_the_others_nor_the_next_round(caplog: pytest.LogCaptureFixture) -> None:
    rounds: list[str] = []

    def broken() -> None:
        rounds.append("broken")
        raise LookupError("as told")

    thing = Timed()
    swept = sweep([thing], (broken, lambda: rounds.append("whole")))
    swept.start()
    await until(lambda: rounds.count("whole") >= 3)
    swept.stop()
    assert rounds[:4] == ["broken", "whole", "broken", "whole"]
    assert thing.looks == 1
    told = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(told) == 1, "a defect is told once, not each second"
    assert "stopped the MQTT door's sweep" in told[0].message


@pytest.mark.parametrize("error", [ValueError, RuntimeError])
async def test_one_connection_that_fails_takes_no_other_along_and_is_looked_at_again(error: type[Exception]) -> None:
    """RuntimeError stands for what nobody foresaw: it goes to the loop's own log."""
    unforeseen: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: unforeseen.append(context["exception"]))
    failing = Timed(failures=1, error=error)
    things = [Timed(), failing, *(Timed() for _ in range(5))]
    swept = sweep(things, chunk=2)
    swept.start()
    await until(lambda: failing.looks >= 2)
    swept.stop()
    assert all(thing.looks == 1 for thing in things if thing is not failing)
    assert len(unforeseen) == (error is RuntimeError)


async def test_each_round_gives_a_sign_of_life() -> None:
    pulse = Pulse()
    swept = sweep([], pulse=pulse)
    swept.start()
    await until(lambda: pulse.beats >= 3)
    assert not pulse.resting
    swept.stop()
    assert pulse.resting, "a door that is closed hangs nowhere"
