"""Dead letters in a day file: frames that were not usable, with the reason, and how many there were.

Owns their tables and their bounds. Beyond a bound a letter is only counted, by reason: whoever sends nonsense must not
be able to fill the disk, nor to crowd out what other devices sent.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from citysense import wire
from citysense_platform.events.rows import storable_int
from citysense_platform.store.day_file import DayFile

OF_DEVICE = 10_000
"""Kept of one device and day: a device that sends nonsense every 10 s all day long is kept whole."""
OF_DAY = 100_000
BYTES_OF_DAY = 256 << 20

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS dead_letter(id INTEGER PRIMARY KEY, key BLOB UNIQUE, received INTEGER, transport TEXT,"
    " source TEXT, channel TEXT, device TEXT, profile TEXT, reason TEXT, detail TEXT, size INTEGER, raw BLOB, seal TEXT,"
    " gateway TEXT, message TEXT, content INTEGER, identity TEXT, via TEXT)",
    "CREATE INDEX IF NOT EXISTS dead_letter_by_time ON dead_letter(received)",
    "CREATE INDEX IF NOT EXISTS dead_letter_by_device ON dead_letter(device, received)",
    "CREATE TABLE IF NOT EXISTS dead_letter_tally(reason TEXT PRIMARY KEY, kept INTEGER, beyond INTEGER, bytes INTEGER)"
    " WITHOUT ROWID",
)
# In the order of `wire.DeadLetter`.
_COLUMNS = "received, transport, source, channel, device, profile, reason, detail, size, raw, seal, gateway"
_LATER_COLUMNS = {
    "message": ("TEXT", "''"),
    "content": ("INTEGER", "-1"),
    "identity": ("TEXT", "''"),
    "via": ("TEXT", "''"),
}
"""Columns that day files of an earlier version lack: type, and what stands for it."""
_CHOSEN = (
    " FROM dead_letter WHERE (received, id)<(?1, ?2) AND (?3 IS NULL OR reason=?3) AND (?4 IS NULL OR device=?4)"
    " AND (?5 IS NULL OR profile=?5) AND (?6 IS NULL OR received>=?6) AND (?7 IS NULL OR received<?7)"
    " ORDER BY received DESC, id DESC LIMIT ?8"
)
_INSERT = (
    "INSERT INTO dead_letter(key, received, transport, source, channel, device, profile, reason, detail, size, raw, seal,"
    " gateway, message, content, identity, via) VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_COUNT = (
    "INSERT INTO dead_letter_tally VALUES(?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE SET"
    " kept=kept+?2, beyond=beyond+?3, bytes=bytes+?4"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A dead letter as it is read back. `raw` is sealed where `seal` names a key."""

    id: str
    letter: wire.DeadLetter


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterFilter:
    """What a list of dead letters is narrowed to; None means all. Times of reception in ms: [after, before)."""

    reason: str | None = None
    device: str | None = None
    profile: str | None = None
    after: int | None = None
    before: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasonCount:
    """Dead letters of one reason: those kept, and those beyond the bounds, which were only counted."""

    reason: str
    kept: int
    beyond: int


@dataclass(slots=True)
class _Kept:
    """What a file holds, remembered between commits."""

    letters: int
    bytes: int
    by_device: dict[str, int]


def add_later_columns(connection: sqlite3.Connection) -> None:
    """Give a file of an earlier version the columns that it lacks."""
    present = _present(connection)
    for name, (kind, _) in _LATER_COLUMNS.items():
        if name not in present:
            connection.execute(f"ALTER TABLE dead_letter ADD COLUMN {name} {kind}")


def read_letters(
    connection: sqlite3.Connection, before: tuple[int, int], wanted: LetterFilter, limit: int
) -> list[tuple[int, wire.DeadLetter]]:
    """Row id and letter of up to `limit` letters of a file that come before (received, id), the newest first."""
    parameters = (*before, wanted.reason, wanted.device, wanted.profile, wanted.after, wanted.before, limit)
    rows = connection.execute(_select(connection) + _CHOSEN, parameters)
    return [(row[0], wire.DeadLetter(*row[1:])) for row in rows]


def read_letter(connection: sqlite3.Connection, row_id: int, received: int) -> wire.DeadLetter | None:
    """The letter of that row, if it was received then."""
    query = _select(connection) + " FROM dead_letter WHERE id=? AND received=?"
    row = connection.execute(query, (row_id, received)).fetchone()
    return None if row is None else wire.DeadLetter(*row[1:])


def _select(connection: sqlite3.Connection) -> str:
    present = _present(connection)
    later = [
        f"coalesce({name}, {stands})" if name in present else stands for name, (_, stands) in _LATER_COLUMNS.items()
    ]
    return f"SELECT id, {_COLUMNS}, {', '.join(later)}"


def _present(connection: sqlite3.Connection) -> set[str]:
    return {row[1] for row in connection.execute("PRAGMA table_info(dead_letter)")}


def keep_letter(letter: wire.DeadLetter, key: bytes, file: DayFile) -> None:
    """Keep or count `letter`; one with the same `key` as a kept one changes nothing."""
    connection = file.connection
    if connection.execute("SELECT 1 FROM dead_letter WHERE key=?", (key,)).fetchone():
        return
    kept = _kept(file)
    room = (
        kept.letters < OF_DAY
        and kept.bytes + len(letter.raw) <= BYTES_OF_DAY
        and _of_device(letter.device, kept, connection) < OF_DEVICE
    )
    if room:
        kept.letters += 1
        kept.bytes += len(letter.raw)
        kept.by_device[letter.device] += 1
        connection.execute(_INSERT, (key, *_values(letter)))
    connection.execute(_COUNT, (letter.reason, int(room), int(not room), len(letter.raw) if room else 0))


def _values(letter: wire.DeadLetter) -> tuple[object, ...]:
    return (
        storable_int(letter.received),
        *(letter.transport, letter.source, letter.channel, letter.device, letter.profile, letter.reason, letter.detail),
        storable_int(letter.size),
        *(letter.raw, letter.seal, letter.gateway),
        *(letter.message, storable_int(letter.content), letter.identity, letter.via),
    )


def _kept(file: DayFile) -> _Kept:
    kept: _Kept | None = file.memo.get("dead letters")
    if kept is None:
        row = file.connection.execute(
            "SELECT coalesce(sum(kept), 0), coalesce(sum(bytes), 0) FROM dead_letter_tally"
        ).fetchone()
        kept = file.memo["dead letters"] = _Kept(row[0], row[1], {})
    return kept


def _of_device(device: str, kept: _Kept, connection: sqlite3.Connection) -> int:
    if device not in kept.by_device:
        row = connection.execute("SELECT count(*) FROM dead_letter WHERE device=?", (device,)).fetchone()
        kept.by_device[device] = row[0]
    return kept.by_device[device]
