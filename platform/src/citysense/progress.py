"""Does every loop of this process still make progress? A process that does not is ended, so that it is started again.

Owns the pulses that loops give, and the thread that looks at them once a second. A loop that hangs looks healthy in
every other way; half a gateway that accepts and never delivers is worse than one that restarts in a second. The thread
counts only the time in which it was awake itself: a process that was stopped (SIGSTOP, a suspended machine) and goes on
has hung nowhere. Must not know what the loops do.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from citysense.clock import Clock

LIMIT_S = 10.0
"""Without progress for longer than this, a loop is taken for hung."""
LOOK_S = 1.0
BEAT_S = 0.5
HUNG = 70
"""Exit code of a process that hung (EX_SOFTWARE of sysexits.h): its supervisor starts it again, while 1 is a fault of the
set-up."""


class Pulse:
    """One loop's sign that it goes on. Cheap enough for each round of any loop; may be given from any thread."""

    __slots__ = ("beats", "resting")

    def __init__(self) -> None:
        self.beats = 0
        self.resting = True

    def beat(self) -> None:
        """A step was done, or a wait that has a bound of its own begins."""
        self.beats += 1
        self.resting = False

    def rest(self) -> None:
        """There is nothing to do: not watched until the next beat."""
        self.resting = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Overdue:
    """A loop without progress: its name, for how long, and how long it may be so, in seconds. Of several loops of one name
    `which` says which."""

    name: str
    seconds: float
    limit: float
    which: str = ""


@dataclass(slots=True, kw_only=True)
class _Watched:
    name: str
    which: str
    pulse: Pulse
    limit: float
    beats: int
    since: float


class Progress:
    """The pulses of one process. `age` and `overdue` are as of the last `look`."""

    def __init__(self, clock: Clock, *, limit: float = LIMIT_S, every: float = LOOK_S) -> None:
        self._clock = clock
        self._limit = limit
        self._longest_step = 2 * every
        self._watched: dict[Pulse, _Watched] = {}
        self._awake = 0.0
        self._looked: float | None = None

    def watch(self, name: str, *, limit: float | None = None, which: str | None = None) -> Pulse:
        """A new pulse, at rest. `limit` in seconds where one step may rightly take longer. `which` for loops that come and
        go and share a name; end them with `forget`. Raises ValueError for a name that another kind of loop has."""
        same = [one for one in self._watched.values() if one.name == name]
        if same and (which is None or not all(one.which for one in same)):
            raise ValueError(f"{name} is watched already")
        pulse = Pulse()
        self._watched[pulse] = _Watched(
            name=name, which=which or "", pulse=pulse, limit=limit or self._limit, beats=0, since=self._awake
        )
        return pulse

    def forget(self, pulse: Pulse) -> None:
        """The loop of this pulse has ended rightly."""
        self._watched.pop(pulse, None)

    def look(self) -> list[Overdue]:
        """Note who has moved since the last look; who has not for too long. To be called by one thread only."""
        now = self._clock.monotonic()
        if self._looked is not None:
            # More than two steps at once: it was this thread that slept, and everybody with it.
            self._awake += min(now - self._looked, self._longest_step)
        self._looked = now
        for watched in tuple(self._watched.values()):
            pulse = watched.pulse
            if pulse.resting or pulse.beats != watched.beats:
                watched.beats, watched.since = pulse.beats, self._awake
        return self.overdue()

    def ages(self) -> dict[str, float | None]:
        """Seconds since the last progress, by name; None for one at rest. Of several loops of one name the longest."""
        ages: dict[str, float | None] = {}
        for watched in tuple(self._watched.values()):
            age, other = self._age(watched), ages.get(watched.name)
            ages[watched.name] = other if age is None else max(age, other or 0.0)
        return ages

    def overdue(self) -> list[Overdue]:
        """The loops without progress for longer than their limit."""
        return [
            Overdue(name=watched.name, seconds=age, limit=watched.limit, which=watched.which)
            for watched in tuple(self._watched.values())
            if (age := self._age(watched)) is not None and age > watched.limit
        ]

    def _age(self, watched: _Watched) -> float | None:
        return None if watched.pulse.resting else self._awake - watched.since


async def keep_beating(pulse: Pulse, every: float = BEAT_S) -> None:
    """Beat for the event loop itself, until cancelled."""
    try:
        while True:
            pulse.beat()
            await asyncio.sleep(every)
    finally:
        pulse.rest()


class Watchdog:
    """The thread that looks. Use as a context manager around the event loop.

    `hung` is called in the thread with those that are overdue; the default says so on stderr and ends the process.
    """

    def __init__(
        self,
        progress: Progress,
        *,
        every: float = LOOK_S,
        hung: Callable[[Iterable[Overdue]], None] | None = None,
    ) -> None:
        self._progress = progress
        self._every = every
        self._hung = hung or end_process
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            overdue = self._progress.look()
            if overdue:
                self._hung(overdue)
                return


def end_process(overdue: Iterable[Overdue]) -> None:
    """Say who hangs and where every thread is, and end this process at once, with exit code 70."""
    faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
    who = ", ".join(
        f"{f'{one.name} {one.which}'.rstrip()} ({one.seconds:.0f} s, at most {one.limit:.0f})" for one in overdue
    )
    # Last, and by itself: whoever reads only the last line of a log must find the reason there.
    sys.stderr.write(f"no progress in {who}; ending this process so that it is started again\n")
    sys.stderr.flush()
    # Not sys.exit: it would end this thread only, and the one that hangs cannot clean up.
    os._exit(HUNG)
