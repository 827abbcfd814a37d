"""When a line does what: beats, pauses, shares. Pure; times in seconds of a monotonic clock, chance is handed in."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

START_WITHIN = 10.0
"""A gateway's first polls are spread over this time: a thousand devices at once would be a burst that nobody needs,
and a device with a long period should still show early that it is there."""
LONGEST_PAUSE = 60.0
LATE_TIMES = 3.0
"""A slave that did not answer is not asked again for so many times its timeout, counted from the lost request. A choice:
by then a slow slave has answered, and its reply was dropped."""
TRIAL_SHARE = 0.05
"""At most this share of a line's time goes to slaves that do not answer, while others do: with a timeout of 1 s one trial
in 20 s, however many are dead."""
SLOW_SHARE = 0.05
"""At most this share goes to a device whose replies take more than half its timeout: nobody can speak while it thinks."""
LINE_SHARE = 0.9
"""More than this of its time a line is not planned to work; the rest is for errors and writes."""
_GOLDEN = 0.618033988749895


def first_poll(now: float, every: float, chance: random.Random) -> float:
    """A moment within the first period, at most START_WITHIN from `now`."""
    return now + chance.uniform(0.0, min(every, START_WITHIN))


def phase(index: int, offset: float) -> float:
    """Where in its period the index-th poll of a line falls, 0 to 1: any number of them in a row is spread evenly."""
    return (offset + index * _GOLDEN) % 1.0


def next_poll(beat: float, every: float, now: float) -> float:
    """The first moment after `now` in the beat, which `beat` is one moment of: polls that were missed are not made up
    for."""
    following = beat + every * (math.floor((now - beat) / every) + 1)
    # Rounding may land on `now` itself.
    return following if following > now else following + every


def pause_after(failures: int, chance: random.Random) -> float:
    """How long to leave a slave alone after `failures` failures in a row (1 or more): 1 to 60 s, growing.

    With jitter, so that the devices behind one dead converter do not all come back at once.
    """
    longest = min(LONGEST_PAUSE, 2.0 ** min(failures, 6))
    return chance.uniform(longest / 2, longest)


def quarantine(timeout: float) -> float:
    """Seconds after a lost request in which its slave is not asked anything."""
    return LATE_TIMES * timeout


def trial_pause(cost: float) -> float:
    """Seconds without trials after one that took `cost` seconds of its line."""
    return cost * (1.0 / TRIAL_SHARE - 1.0)


def fair_level(demands: Sequence[float], capacity: float = LINE_SHARE) -> float:
    """The share of the line that nobody may exceed, so that all of them together fit (max-min fairness).

    `demands` are shares of the line's time. Infinite where everything fits: then nobody has to step back.
    """
    rest = capacity
    for place, demand in enumerate(sorted(demands)):
        level = rest / (len(demands) - place)
        if demand > level:
            return level
        rest -= demand
    return math.inf


def stretch(cost: float, every: float, *, level: float, slow: bool) -> float:
    """By how much a poll's period is longer than asked for (1 or more), where it takes `cost` seconds of its line.

    `level` as from `fair_level`; `slow` where others share the line and its replies take long.
    """
    share = min(level, SLOW_SHARE) if slow else level
    return max(1.0, cost / every / share)
