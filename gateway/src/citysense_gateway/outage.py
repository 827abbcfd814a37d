"""How long to wait after a failure, and how often to speak of it: once when it begins and once when it is over.

Owns the state of one connection's trouble. The clock is the caller's; randomness is passed in.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

log = logging.getLogger(__name__)

FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 5.0
"""Short enough that readings flow within 5 s of the platform's return, long enough to leave it in peace."""


def back_off(failures: int, random: Callable[[], float], longest: float = LONGEST_WAIT_S) -> float:
    """Seconds to wait after the n-th failure in a row (from 1): doubling, the upper half of it by chance, so that many
    gateways do not come back in step. `random` gives 0 to 1."""
    bound = min(FIRST_WAIT_S * 2.0 ** min(failures - 1, 16), longest)
    return bound * (0.5 + random() / 2)


class Outage:
    """Trouble with one thing, named in the log."""

    def __init__(self, name: str, random: Callable[[], float], *, longest: float = LONGEST_WAIT_S) -> None:
        self._name = name
        self._longest = longest
        self._random = random
        self.failures = 0
        """In a row, up to now."""

    def failed(self, error: Exception, retry_after: float | None = None) -> float:
        """Note a failure; the seconds to wait before the next try."""
        self.failures += 1
        if self.failures == 1:
            log.warning("%s: %s; trying again until it works", self._name, error)
        own = back_off(self.failures, self._random, self._longest)
        return own if retry_after is None else max(own, retry_after)

    def worked(self) -> None:
        """Note a success."""
        if self.failures:
            tries = "try" if self.failures == 1 else "tries"
            log.warning("%s: works again after %d failed %s", self._name, self.failures, tries)
        self.failures = 0
