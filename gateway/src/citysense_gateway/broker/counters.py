"""What the broker's driver counts, under the names of the heartbeat. The fates of frames are in `counters`."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum


class Standing(StrEnum):
    """How it stands with the city's broker."""

    READING = "reading"
    AWAY = "away"
    """Not connected, or not yet."""
    MISTRUSTED = "mistrusted"
    """It does not keep devices apart, as far as was shown: nothing is read until its rules are changed."""
    UNUSABLE = "unusable"
    """What we were told of it cannot be used (a file, a topic): nothing is read until that is put right."""


class BrokerCounters:
    """Totals since start; `connected` and `proved` are now."""

    def __init__(self) -> None:
        self.connected = False
        self.proved = False
        self._counts: Counter[str] = Counter(
            dict.fromkeys(
                (
                    "connections",  # that were let in
                    "sessions_lost",  # where the broker no longer knew us: what it had kept for us is gone
                    "messages",
                    "again",  # sent again by the broker (DUP)
                    "retained",  # acknowledged and dropped
                    "foreign",
                    "unavailable",  # tries that could not be stored; the broker keeps the message
                    "receipts",
                    "receipts_again",
                    "downlinks",
                    "downlinks_refused",
                ),
                0,
            )
        )

    def add(self, name: str, times: int = 1) -> None:
        """Count."""
        self._counts[name] += times

    def figures(self) -> dict[str, float]:
        """All of it by flat names."""
        found = {f"broker.{name}": float(value) for name, value in self._counts.items()}
        return {"broker.connected": float(self.connected), "broker.proved": float(self.proved), **found}
