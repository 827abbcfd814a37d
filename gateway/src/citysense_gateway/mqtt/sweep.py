"""The MQTT door's rounds: its small chores, and the connections whose time has come, in shares.

Owns that one connection which cannot be looked at takes no other along, and is looked at again: keep-alive and half
packets hang on it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic, Protocol, TypeVar

from citysense.clock import Clock
from citysense.progress import Pulse
from citysense_gateway.mqtt.deadlines import Deadlines
from citysense_gateway.rounds import Rounds


class Timed(Protocol):
    """What has deadlines."""

    def check_deadlines(self, now: float) -> None:
        """Act if one has passed, and have oneself filed again. Monotonic seconds."""
        ...

    def __hash__(self) -> int: ...


T = TypeVar("T", bound=Timed)


class Sweep(Generic[T]):
    """A round in `every` seconds: `chores` in their order, then what `deadlines` has for the moment, `chunk` of them in one
    turn of the loop. `pulse` beats with each round."""

    def __init__(
        self,
        *,
        chores: Sequence[Callable[[], None]],
        deadlines: Deadlines[T],
        clock: Clock,
        every: float,
        chunk: int,
        pulse: Pulse | None,
    ) -> None:
        self._deadlines = deadlines
        self._clock = clock
        self._every = every
        self._chunk = chunk
        self._rounds = Rounds("the MQTT door's sweep", (*chores, self._look), every=every, pulse=pulse)

    def start(self) -> None:
        """Begin; the first round comes after `every` seconds."""
        self._rounds.start()

    def stop(self) -> None:
        """End. What of a round is still to come does not."""
        self._rounds.stop()

    def _look(self) -> None:
        self._look_at_share(self._deadlines.take(self._clock.monotonic()), 0)

    def _look_at_share(self, things: list[T], start: int) -> None:
        if not self._rounds.running:
            return
        now, done = self._clock.monotonic(), start
        try:
            for thing in things[start : start + self._chunk]:
                done += 1
                self._look_at(thing, now)
        finally:
            if done < len(things):
                asyncio.get_running_loop().call_soon(self._look_at_share, things, done)

    def _look_at(self, thing: T, now: float) -> None:
        filed = False
        try:
            filed = self._rounds.guarded(partial(thing.check_deadlines, now))
        finally:
            if not filed:
                # It has filed itself nowhere: without this its deadlines would never be looked at again.
                self._deadlines.file(thing, now + self._every)
