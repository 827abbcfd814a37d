"""What the gateway counts, and how it tells the platform once a second.

Every frame ends in exactly one of: stored, duplicate, unavailable, rejected.<reason>; what a door refused before there
was a frame is in the door's own figures.
"""

from __future__ import annotations

from collections import Counter

from citysense_gateway.frame import Kind, Reason, Transport, Verdict

_CAME_IN = {transport: f"frames.{transport.value}" for transport in Transport}


class FrameCounters:
    """Totals since the start of the process."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        for name in _CAME_IN.values():
            self._counts[name] = 0
        for kind in (Kind.STORED, Kind.DUPLICATE, Kind.UNAVAILABLE):
            self._counts[kind.value] = 0

    def came_in(self, transport: Transport) -> None:
        """A frame was handed over by a door."""
        self._counts[_CAME_IN[transport]] += 1

    def ended(self, verdict: Verdict) -> None:
        """A frame has its verdict."""
        if verdict.kind is Kind.REJECTED and verdict.reason is not None:
            self._counts[f"rejected.{verdict.reason.value}"] += 1
        else:
            self._counts[verdict.kind] += 1

    def broke(self) -> None:
        """A frame met a defect of ours instead of a verdict."""
        self._counts[f"rejected.{Reason.INTERNAL.value}"] += 1

    def add(self, name: str, times: int = 1) -> None:
        """Count events of another kind."""
        self._counts[name] += times

    def snapshot(self) -> dict[str, float]:
        """All counters by name."""
        return {name: float(value) for name, value in self._counts.items()}
