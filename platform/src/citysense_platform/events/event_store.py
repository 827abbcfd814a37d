"""The event store: rows of what happened, what was not usable and what was given up, in SQLite day files.

Owns the tables of events and tombstones, and reading pages. Files, thread and cursors are the matter of
`store.day_files`. Personal ids are here only as HMAC, raw frames of personal profiles only sealed.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import msgspec

from citysense import wire
from citysense.clock import Clock
from citysense.crash_points import CrashPoints
from citysense_platform.events import dead_letters
from citysense_platform.events.dead_letters import DeadLetter, LetterFilter, ReasonCount, keep_letter
from citysense_platform.events.paging import Place, WrongCursor, place_of
from citysense_platform.events.rows import EventRow, digest_of, events_of, merge, storable_int
from citysense_platform.store.day_file import DAY_MS, ODD_DAY, DayFile, day_of
from citysense_platform.store.day_files import DayFiles, Job
from citysense_platform.store.follower import Taken
from citysense_platform.store.points import END_OF_TIME, Value
from citysense_profiles.reading import ReadingClass

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS event(id INTEGER PRIMARY KEY, device TEXT, time INTEGER, received INTEGER, kind TEXT,"
    " tag TEXT, metrics TEXT)",
    "CREATE INDEX IF NOT EXISTS event_by_device ON event(device, time)",
    "CREATE TABLE IF NOT EXISTS tombstone(key BLOB PRIMARY KEY, device TEXT, class TEXT, reason TEXT, first INTEGER,"
    " last INTEGER, count INTEGER) WITHOUT ROWID",
    *dead_letters.SCHEMA,
)
READER = "events"
"""The name under which the log knows the reader that fills this store."""
_ALL = 1 << 62
"""More rows than there are: read every file."""

_EVERY_LETTER = LetterFilter()

Piece = tuple[Taken, EventRow | None]
"""A record and, if it is one sample of readings, the event in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An event as it is read back; `time` in ms, `values` by metric, `tag` an HMAC or empty."""

    id: str
    device: str
    time: int
    kind: str
    tag: str
    values: Mapping[str, Value]


class EventStore:
    """Events in `folder`: `events-YYYY-MM-DD.db`, one per UTC day of event time (dead letters: of reception).

    A `store.follower.Sink`: a LogFollower named READER keeps it filled.
    """

    def __init__(
        self,
        folder: Path,
        *,
        clock: Clock,
        keep_days: int | None = None,
        max_open: int = 8,
        crash: CrashPoints | None = None,
    ) -> None:
        self._files = DayFiles(
            folder,
            "events",
            schema=_prepare,
            index_schema=_no_tables,
            clock=clock,
            max_open=max_open,
            keep_days=keep_days,
            crash=crash,
        )
        self._log_id = ""

    async def open(self, *, log_id: str) -> None:
        """Open or create the files. Raises StorageError."""
        self._log_id = log_id
        await self._files.open(log_id)

    async def close(self) -> None:
        """Put everything on the disk and close."""
        await self._files.close()

    # -- writing ------------------------------------------------------------------------------------------------------

    async def take(self, records: Sequence[Taken], cursors: Mapping[ReadingClass, int]) -> None:
        """Keep events, dead letters and tombstones among `records`, then move the cursors. Raises StorageError."""
        by_day: dict[int, list[Piece]] = {}
        for record in records:
            match record.body:
                case wire.Readings():
                    for event in events_of(record.body):
                        by_day.setdefault(day_of(event.time, event.received), []).append((record, event))
                case wire.DeadLetter(received=moment) | wire.Tombstone(last=moment):
                    by_day.setdefault(_day_received(moment), []).append((record, None))
        jobs: dict[int, Job] = {day: partial(self._apply, pieces) for day, pieces in by_day.items()}
        await self._files.write(jobs, cursors)

    async def keep(self, letter: wire.DeadLetter) -> None:
        """Keep a dead letter that does not come from the log, on the disk when this returns; the same again changes nothing.

        Raises StorageError.
        """
        job = partial(keep_letter, letter, digest_of("kept", letter))
        await self._files.write({_day_received(letter.received): job}, None, synced=True)

    def _apply(self, pieces: Sequence[Piece], file: DayFile) -> None:
        for record, event in pieces:
            if file.applied(record.cls, record.offset):
                continue  # read again after a restart; counting it twice would be wrong
            if event is not None:
                _merge_event(event, file)
                continue
            key = digest_of(self._log_id, record.cls.value, record.offset)
            if isinstance(record.body, wire.DeadLetter):
                keep_letter(record.body, key, file)
            elif isinstance(record.body, wire.Tombstone):
                _keep_tombstone(record.body, key, file)

    async def cursors(self) -> Mapping[ReadingClass, int]:
        """Where reading the log goes on."""
        return self._files.cursors

    async def sync(self) -> Mapping[ReadingClass, int]:
        """Put on the disk what was written, and say up to where that is."""
        return await self._files.sync()

    async def upkeep(self) -> None:
        """Close idle files, delete days beyond the retention."""
        await self._files.upkeep()

    # -- reading ------------------------------------------------------------------------------------------------------

    async def events(
        self, device: str, start_ms: int, end_ms: int, limit: int, cursor: str | None = None
    ) -> tuple[list[Event], str | None]:
        """Up to `limit` events of a device in [start, end), newest first, and the cursor of the next page.

        Raises WrongCursor, StorageError.
        """
        place = place_of(cursor)

        def query(day: int, connection: sqlite3.Connection) -> list[Event]:
            rows = connection.execute(
                "SELECT id, time, kind, tag, metrics FROM event WHERE device=? AND time>=? AND time<? AND (time, id)<(?, ?)"
                " ORDER BY time DESC, id DESC LIMIT ?",
                (device, start_ms, end_ms, *place.before(day), limit + 1),
            )
            return [
                Event(
                    id=Place(day, time, row).text,
                    device=device,
                    time=time,
                    kind=kind,
                    tag=tag,
                    values=msgspec.json.decode(text),
                )
                for row, time, kind, tag, text in rows
            ]

        days = place.days(self._files.days(start_ms, end_ms))
        found = await self._files.read(days, query, enough=limit + 1)
        return found[:limit], found[limit - 1].id if len(found) > limit else None

    async def dead_letters(
        self, limit: int, cursor: str | None = None, *, wanted: LetterFilter = _EVERY_LETTER
    ) -> tuple[list[DeadLetter], str | None]:
        """Up to `limit` dead letters, newest first, and the cursor of the next page. Raises WrongCursor, StorageError."""
        place = place_of(cursor)

        def query(day: int, connection: sqlite3.Connection) -> list[DeadLetter]:
            rows = dead_letters.read_letters(connection, place.before(day), wanted, limit + 1)
            return [DeadLetter(id=Place(day, one.received, row).text, letter=one) for row, one in rows]

        days = place.days(self._files.days(wanted.after or 0, END_OF_TIME if wanted.before is None else wanted.before))
        found = await self._files.read(days, query, enough=limit + 1)
        return found[:limit], found[limit - 1].id if len(found) > limit else None

    async def letters(self, ids: Sequence[str]) -> list[DeadLetter]:
        """The dead letters of those ids, as far as they are there. Raises StorageError."""
        wanted: dict[int, list[tuple[str, Place]]] = {}
        for id_ in ids:
            try:
                place = place_of(id_)
            except WrongCursor:
                continue  # no id of ours, so nobody has it
            wanted.setdefault(place.day, []).append((id_, place))

        def query(day: int, connection: sqlite3.Connection) -> list[DeadLetter]:
            found = [(id_, dead_letters.read_letter(connection, at.row, at.time)) for id_, at in wanted[day]]
            return [DeadLetter(id=id_, letter=letter) for id_, letter in found if letter is not None]

        days = [day for day in self._all_days() if day in wanted]
        return await self._files.read(days, query, enough=_ALL)

    async def dead_letter_counts(self) -> list[ReasonCount]:
        """Dead letters by reason over all days that are kept, the most frequent first."""

        def query(_day: int, connection: sqlite3.Connection) -> list[tuple[str, int, int]]:
            return connection.execute("SELECT reason, kept, beyond FROM dead_letter_tally").fetchall()

        kept: Counter[str] = Counter()
        beyond: Counter[str] = Counter()
        for reason, in_file, not_in_file in await self._files.read(self._all_days(), query, enough=_ALL):
            kept[reason] += in_file
            beyond[reason] += not_in_file
        counts = [ReasonCount(reason=reason, kept=kept[reason], beyond=beyond[reason]) for reason in kept]
        return sorted(counts, key=lambda count: (-count.kept - count.beyond, count.reason))

    async def tombstones(
        self, limit: int, cursor: str | None = None, *, device: str | None = None
    ) -> tuple[list[wire.Tombstone], str | None]:
        """Up to `limit` times that something acknowledged was given up, newest first, and the cursor of the next page.

        Raises WrongCursor, StorageError.
        """
        place = place_of(cursor)

        def query(day: int, connection: sqlite3.Connection) -> list[tuple[Place, wire.Tombstone]]:
            before = place.before(day)
            rows = connection.execute(
                "SELECT key, device, class, reason, first, last, count FROM tombstone"
                " WHERE last<=?1 AND (?2 IS NULL OR device=?2) ORDER BY last DESC, key DESC",
                (before[0], device),
            )
            # A file has a few of them at most: the place within a moment is taken from the key, here and not in SQL.
            found = (
                (Place(day, row[5], int.from_bytes(row[0][:8], "big") >> 1), wire.Tombstone(*row[1:])) for row in rows
            )
            return list(islice((one for one in found if (one[0].time, one[0].row) < before), limit + 1))

        found = await self._files.read(place.days(self._all_days()), query, enough=limit + 1)
        return [stone for _, stone in found[:limit]], found[limit - 1][0].text if len(found) > limit else None

    def _all_days(self) -> list[int]:
        return self._files.days(0, END_OF_TIME)


def _day_received(received: int) -> int:
    # A gateway's clock may be wrong, but there are few gateways: no window around it is needed, only a calendar.
    return received // DAY_MS if 0 <= received < END_OF_TIME else ODD_DAY


def _prepare(connection: sqlite3.Connection) -> None:
    for statement in _SCHEMA:
        connection.execute(statement)
    dead_letters.add_later_columns(connection)


def _no_tables(_connection: sqlite3.Connection) -> None:
    """The index of the event files holds nothing but the cursor."""


def _merge_event(event: EventRow, file: DayFile) -> None:
    rows = file.connection.execute(
        "SELECT id, received, metrics FROM event WHERE device=? AND time=? AND kind=? AND tag=?",
        (event.device, event.time, event.kind, event.tag),
    )
    decided = merge([(row, received, msgspec.json.decode(text)) for row, received, text in rows], event)
    if not decided.changed:
        return
    text = msgspec.json.encode(decided.values).decode()
    if decided.row is not None:
        file.connection.execute("UPDATE event SET metrics=? WHERE id=?", (text, decided.row))
        return
    file.connection.execute(
        "INSERT INTO event(device, time, received, kind, tag, metrics) VALUES(?, ?, ?, ?, ?, ?)",
        (event.device, event.time, event.received, event.kind, event.tag, text),
    )


def _keep_tombstone(stone: wire.Tombstone, key: bytes, file: DayFile) -> None:
    moments = (storable_int(number) for number in (stone.first, stone.last, stone.count))
    file.connection.execute(
        "INSERT OR IGNORE INTO tombstone VALUES(?, ?, ?, ?, ?, ?, ?)",
        (key, stone.device, stone.cls, stone.reason, *moments),
    )
