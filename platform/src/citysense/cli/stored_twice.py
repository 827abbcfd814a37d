"""Readings that stand in the platform's log more than once.

The store keeps one value for a device and a moment, so a reading that came through twice cannot be seen there; in the log it
can. Owns reading the log's file from outside, as often as one likes while it grows. Judges nothing else.
"""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from contextlib import closing
from pathlib import Path

from citysense import wire
from citysense.errors import StorageError
from citysense.record_format import CLASS_CODES, unpack
from citysense_sim.ledger import Key

Lane = tuple[str, int, int]
"""Device, boot and class: one native message makes one record a class."""


class StoredTwice:
    """`look` reads what has come since the last look. Only what the log trims in between escapes it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offsets = dict.fromkeys(CLASS_CODES.values(), 0)
        self._next: Counter[Lane] = Counter()
        self._above: dict[Lane, set[int]] = defaultdict(set)
        self.records = 0
        """Native readings seen."""
        self.twice: list[Key] = []
        """One entry for each time too many."""

    def look(self) -> None:
        """Read on. Raises StorageError."""
        try:
            with closing(sqlite3.connect(f"file:{self._path}?mode=ro", uri=True)) as connection:
                for code, after in self._offsets.items():
                    rows = connection.execute(
                        "SELECT offset, blob FROM record WHERE class=? AND offset>? ORDER BY offset", (code, after)
                    )
                    for offset, blob in rows:
                        self._offsets[code] = offset
                        self._take(code, wire.decode_body(unpack(blob).body))
        except (sqlite3.Error, ValueError) as e:
            raise StorageError(f"{self._path} cannot be read ({e})") from e

    def _take(self, code: int, body: wire.Body) -> None:
        if not isinstance(body, wire.Readings) or body.boot < 0:
            return
        self.records += 1
        lane = (body.device, body.boot, code)
        above = self._above[lane]
        if body.seq < self._next[lane] or body.seq in above:
            self.twice.append(Key(body.device, body.boot, body.seq))
            return
        above.add(body.seq)
        # All below the first number that is missing need no memory of their own.
        while self._next[lane] in above:
            above.discard(self._next[lane])
            self._next[lane] += 1
