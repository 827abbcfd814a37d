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
    " gateway TEXT)",
    "CREATE INDEX IF NOT EXISTS dead_letter_by_time ON dead_letter(received)",
    "CREATE INDEX IF NOT EXISTS dead_letter_by_device ON dead_letter(device, received)",
    "CREATE TABLE IF NOT EXISTS dead_letter_tally(reason TEXT PRIMARY KEY, kept INTEGER, beyond INTEGER, bytes INTEGER)"
    " WITHOUT ROWID",
)
# After the id in the order of `wire.DeadLetter`.
SELECT = (
    "SELECT id, received, transport, source, channel, device, profile, reason, detail, size, raw, seal, gateway"
    " FROM dead_letter WHERE (received, id)<(?1, ?2) AND (?3 IS NULL OR reason=?3) AND (?4 IS NULL OR device=?4)"
    " ORDER BY received DESC, id DESC LIMIT ?5"
)
_INSERT = (
    "INSERT INTO dead_letter(key, received, transport, source, channel, device, profile, reason, detail, size, raw, seal,"
    " gateway) VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
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
