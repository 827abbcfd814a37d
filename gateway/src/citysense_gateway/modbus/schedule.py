"""When a device is polled next. Pure; times in seconds of a monotonic clock, chance is handed in."""

from __future__ import annotations

import math
import random

START_WITHIN = 10.0
"""A gateway's first polls are spread over this time: a thousand devices at once would be a burst that nobody needs,
and a device with a long period should still show early that it is there."""
LONGEST_PAUSE = 60.0


def first_poll(now: float, every: float, chance: random.Random) -> float:
    """A moment within the first period, at most START_WITHIN from `now`."""
    return now + chance.uniform(0.0, min(every, START_WITHIN))


def next_poll(due: float, every: float, now: float) -> float:
    """The next moment in the beat of `due` that lies after `now`: polls that were missed are not made up for."""
    if due + every > now:
        return due + every
    return due + every * (math.floor((now - due) / every) + 1)


def pause_after(failures: int, chance: random.Random) -> float:
    """How long to leave a device alone after `failures` failed polls in a row (1 or more): 1 to 60 s, growing.

    With jitter, so that the devices behind one dead converter do not all come back at once.
    """
    longest = min(LONGEST_PAUSE, 2.0 ** min(failures, 6))
    return chance.uniform(longest / 2, longest)
