"""How far a lane of the log has been read, and how much time has passed in it.

Pure. Rules wait in *awake time*: the sum of the steps between ticks, without steps longer than MAX_STEP. While
the platform was down no reading could arrive, so that time must neither complete a hold nor end an episode.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

MAX_STEP_MS = 5_000
"""Ticks come once a second; a few may be late on a busy machine, more means that we were not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """Place in one lane: last offset read, time of the last tick (ms since 1970), awake time (ms)."""

    offset: int = 0
    ticked: int = 0
    awake: int = 0

    def read_to(self, offset: int) -> Lane:
        """The same lane with everything up to `offset` read."""
        return replace(self, offset=offset)

    def tick(self, time: int) -> Lane:
        """The same lane after a tick; a clock set back stands still until it has caught up."""
        if self.ticked == 0 or time <= self.ticked:
            return replace(self, ticked=max(self.ticked, time))
        step = time - self.ticked
        return replace(self, ticked=time, awake=self.awake + (step if step <= MAX_STEP_MS else 0))
