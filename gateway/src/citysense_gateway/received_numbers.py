"""Which sequence numbers of each device and boot are in the spool: the table, and a memory of what it says.

Lives on the writer's thread, inside its transactions. The memory saves a look-up per frame; it may only ever say what
the file will say after the commit, so whoever owns the transaction calls `forget` when one is undone.
"""

from __future__ import annotations

import sqlite3

from citysense_gateway.fingerprint import Counted
from citysense_gateway.sequence import Sequence, pack_ranges, receive, unpack_ranges

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS sequence(device TEXT, boot INTEGER, next INTEGER, received BLOB,"
    " PRIMARY KEY(device, boot)) WITHOUT ROWID"
)
BOOTS_KEPT = 16
"""Boots whose sequence numbers are remembered per device; the last one for as long as the device is silent."""
MOST_REMEMBERED = 50_000
"""Boots in memory, some 15 MB; the devices of a county. One that is not there is read from the file."""

_Key = tuple[str, int]


class ReceivedNumbers:
    """Counts frames. Call `write` before the transaction ends, and `forget` if anything of it goes wrong."""

    def __init__(self, *, most: int = MOST_REMEMBERED) -> None:
        self._most = most
        self._states: dict[_Key, Sequence] = {}
        self._changed: set[_Key] = set()

    def count(self, connection: sqlite3.Connection, device: str, frame: Counted) -> tuple[bool, int | None]:
        """Whether the frame is new, and the highest number up to which nothing is open; remembers the frame."""
        key = (device, frame.boot)
        before = self._states.get(key)
        if before is None:
            before = self._read(connection, key)
        after, is_new = receive(before, frame.seq, frame.base)
        if after is not before and after != before:
            self._states[key] = after
            self._changed.add(key)
        return is_new, after.contiguous

    def write(self, connection: sqlite3.Connection) -> None:
        """Bring the changes of this transaction into the file."""
        if not self._changed:
            return
        connection.executemany(
            "INSERT INTO sequence VALUES(?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET next=excluded.next, received=excluded.received",
            [
                (*key, state.next, pack_ranges(state.received))
                for key in self._changed
                for state in (self._states[key],)
            ],
        )
        self._changed.clear()
        while len(self._states) > self._most:
            del self._states[next(iter(self._states))]

    def forget(self) -> None:
        """The transaction is undone: what was counted in it is not so."""
        self._states.clear()
        self._changed.clear()

    def _read(self, connection: sqlite3.Connection, key: _Key) -> Sequence:
        row = connection.execute("SELECT next, received FROM sequence WHERE device=? AND boot=?", key).fetchone()
        if row is not None:
            state = Sequence(next=row[0], received=unpack_ranges(row[1]))
            self._states[key] = state
            return state
        connection.execute(
            # Never the present one: a device whose counter was reset would be counted from nothing with each frame.
            "DELETE FROM sequence WHERE device=?1 AND boot<>?3 AND boot<"
            "(SELECT boot FROM sequence WHERE device=?1 ORDER BY boot DESC LIMIT 1 OFFSET ?2)",
            # The present one comes beside them.
            (key[0], BOOTS_KEPT - 2, key[1]),
        )
        return Sequence()
