"""The port behind which telemetry is kept, and its errors.

Owns the contract that the embedded store and InfluxDB both fulfil; the same tests run on each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from citysense.errors import UpstreamError
from citysense_platform.store.points import Point, Value
from citysense_profiles.reading import Quality, ReadingClass


class StoreUnavailable(UpstreamError):
    """The store's server cannot take or give anything now; the same again later may work.

    `retry_after`: seconds that the server asked for, None if it did not.
    """

    def __init__(self, text: str, *, retry_after: float | None = None) -> None:
        super().__init__(text)
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True, kw_only=True)
class Latest:
    """The value of a metric with the newest event time. Times in ms since 1970 UTC."""

    metric: str
    value: Value
    time: int
    received: int
    quality: Quality


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesPoint:
    """One value of a series. `time`: event time in ms since 1970 UTC."""

    time: int
    value: Value
    quality: Quality


class TelemetryStore(Protocol):
    """Where telemetry is kept, with the cursor up to which the log has been stored."""

    async def open(self, *, log_id: str) -> None:
        """Get ready. `log_id` names the log that the cursors refer to; cursors of another log count as 0.

        Raises SetupError or StorageError; a server that is down is no reason.
        """
        ...

    async def close(self) -> None:
        """Let go of files and connections; what was written stays."""
        ...

    async def write(self, points: Sequence[Point], *, lane_cursors: Mapping[ReadingClass, int]) -> None:
        """Keep `points`, then move the cursors. Idempotent by device, metric and event time; a later other value wins.

        Raises StoreUnavailable or StorageError; then the cursor has not moved and the same call may be repeated.
        """
        ...

    async def cursors(self) -> Mapping[ReadingClass, int]:
        """Offsets of each lane up to which everything is kept; 0 before the first."""
        ...

    async def sync(self) -> Mapping[ReadingClass, int]:
        """Offsets up to which even a power cut takes nothing: the log may be trimmed up to there."""
        ...

    async def upkeep(self) -> None:
        """Housekeeping; call every few minutes."""
        ...

    async def latest(self, device: str) -> Sequence[Latest]:
        """The newest value of every metric of a device, by metric name; empty for one that was never heard."""
        ...

    async def series(self, device: str, metric: str, start_ms: int, end_ms: int, limit: int) -> Sequence[SeriesPoint]:
        """Up to `limit` points from `start_ms` up to, not including, `end_ms`, oldest first."""
        ...
