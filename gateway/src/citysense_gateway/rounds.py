"""What a door has to do about once a second because time has passed, whether anybody sends or not.

Owns the timer, and that it runs on whatever happens in a round: for the life of the process all that ends by time hangs
on it. What is to be done is the door's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from citysense.progress import Pulse
from citysense_gateway.defects import DEFECTS, Defects


class Rounds:
    """`chores` are done in their order, each `every` seconds; `name` says in the log whose they are. `pulse` beats with
    each round and rests while there are none."""

    def __init__(
        self, name: str, chores: Sequence[Callable[[], None]], *, every: float = 1.0, pulse: Pulse | None = None
    ) -> None:
        self._name = name
        self._chores = chores
        self._every = every
        self._pulse = pulse
        self._defects = Defects()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def running(self) -> bool:
        """From `start` to `stop`."""
        return self._timer is not None

    def start(self) -> None:
        """Begin; the first round comes after `every` seconds."""
        self._timer = asyncio.get_running_loop().call_later(self._every, self._round)

    def stop(self) -> None:
        """End. What of a round is still to come does not."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._pulse is not None:
            self._pulse.rest()

    def guarded(self, do: Callable[[], None]) -> bool:
        """Do it, and say whether it was done; a defect of ours is told once and stops nothing else. What nobody foresaw
        comes through."""
        try:
            do()
        except DEFECTS as e:
            self._defects.tell(e, may_quote=False, what=self._name)
            return False
        return True

    def _round(self) -> None:
        loop = asyncio.get_running_loop()
        # Before anything that may fail; and each chore in a turn of its own, so that it stops no other.
        self._timer = loop.call_later(self._every, self._round)
        if self._pulse is not None:
            self._pulse.beat()
        for chore in self._chores:
            loop.call_soon(self._do, chore)

    def _do(self, chore: Callable[[], None]) -> None:
        if self.running:
            self.guarded(chore)
