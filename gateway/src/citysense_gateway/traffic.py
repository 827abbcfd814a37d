"""What became of the calls to the platform, by kind: how many, when the last one worked, how long they took.

Owns these numbers only. Whoever asks whether the uplink makes progress looks here, and not at whether something is
connected.
"""

from __future__ import annotations

from collections import defaultdict

BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the histograms: from a commit on a good disk to the longest that a request may take."""


class Durations:
    """A histogram of seconds, as Prometheus counts it. `counts` has one place more than `BOUNDS_S`, for what is longer."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        place = next((place for place, bound in enumerate(BOUNDS_S) if seconds <= bound), len(BOUNDS_S))
        self.counts[place] += 1
        self.total += seconds


class Calls:
    """Calls of one kind since the start. `last_worked` is a monotonic second, None before the first."""

    __slots__ = ("begun", "durations", "failed", "last_worked")

    def __init__(self) -> None:
        self.begun = 0
        self.failed = 0
        self.last_worked: float | None = None
        self.durations = Durations()

    def worked(self, *, began: float, now: float) -> None:
        """One was answered as it should."""
        self.last_worked = now
        self.durations.add(now - began)


class Traffic:
    """Calls by kind; a kind that never was called has counted nothing."""

    def __init__(self) -> None:
        self.calls: defaultdict[str, Calls] = defaultdict(Calls)

    def worked_since(self, kind: str, now: float) -> float | None:
        """Seconds since a call of this kind last worked; None if none ever did."""
        last = self.calls[kind].last_worked
        return None if last is None else now - last
