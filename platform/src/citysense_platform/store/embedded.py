"""The embedded telemetry store: SQLite day files by event time, and the latest values in their index file.

Owns the layout of the rows. The files, their thread and their cursors are `day_files`' matter.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from citysense.clock import Clock
from citysense.crash_points import CrashPoints
from citysense_platform.store.day_file import DayFile, day_of
from citysense_platform.store.day_files import DayFiles
from citysense_platform.store.points import Point, Value
from citysense_platform.store.port import Latest, SeriesPoint
from citysense_profiles.reading import Quality, ReadingClass

_SUSPECT = 1
_BOOL = 2
"""SQLite has no boolean: it gives 1 back where True was stored."""

_SERIES = "CREATE TABLE IF NOT EXISTS series(id INTEGER PRIMARY KEY, device TEXT, metric TEXT, UNIQUE(device, metric))"
_READING = (
    "CREATE TABLE IF NOT EXISTS reading(series INTEGER, time INTEGER, value, received INTEGER, flags INTEGER,"
    " PRIMARY KEY(series, time)) WITHOUT ROWID"
)
_LATEST = (
    "CREATE TABLE IF NOT EXISTS latest(device TEXT, metric TEXT, time INTEGER, value, received INTEGER, flags INTEGER,"
    " PRIMARY KEY(device, metric)) WITHOUT ROWID"
)
_INSERT = "INSERT OR IGNORE INTO reading VALUES(?, ?, ?, ?, ?)"
_REVISE = (
    "UPDATE reading SET value=?3, received=?4, flags=?5"
    " WHERE series=?1 AND time=?2 AND (value IS NOT ?3 OR flags IS NOT ?5)"
)
_UPSERT_LATEST = (
    "INSERT INTO latest VALUES(?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET time=excluded.time, value=excluded.value,"
    " received=excluded.received, flags=excluded.flags WHERE excluded.time>=time"
)

Row = tuple[int, int, Value, int, int]
LatestRow = tuple[str, str, int, Value, int, int]


class EmbeddedStore:
    """Telemetry in `folder`: `telemetry-YYYY-MM-DD.db`, one per UTC day of event time."""

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
            "telemetry",
            schema=_prepare_day,
            index_schema=_prepare_index,
            clock=clock,
            max_open=max_open,
            keep_days=keep_days,
            crash=crash,
            crash_point="store.before_cursor",
        )
        self.conflicts = 0
        """Values since the start that replaced another value of the same device, metric and event time."""

    async def open(self, *, log_id: str) -> None:
        """Open or create the files. Raises StorageError."""
        await self._files.open(log_id)

    async def close(self) -> None:
        """Put everything on the disk and close."""
        await self._files.close()

    async def write(self, points: Sequence[Point], *, lane_cursors: Mapping[ReadingClass, int]) -> None:
        """Keep `points`, then move the cursors. Raises StorageError."""
        by_day: dict[int, list[Point]] = {}
        for point in points:
            by_day.setdefault(day_of(point.time, point.received), []).append(point)
        jobs = {day: partial(self._insert, of_day) for day, of_day in by_day.items()}
        latest = newest(points)
        await self._files.write(jobs, lane_cursors, index_job=partial(_upsert_latest, latest) if latest else None)

    def _insert(self, points: Sequence[Point], file: DayFile) -> None:
        ids: dict[tuple[str, str], int] = file.memo
        rows: list[Row] = []
        for point in points:
            device, time, received, suspect = point.device, point.time, point.received, point.suspect
            for metric, value in point.values.items():
                key = (device, metric)
                series = ids.get(key) or _series_id(file, key)
                rows.append((series, time, value, received, _flags(value, metric in suspect)))
        connection = file.connection
        before = connection.total_changes
        connection.executemany(_INSERT, rows)
        if connection.total_changes - before < len(rows):
            # Something was here before: the same again, or another value for the same moment.
            before = connection.total_changes
            connection.executemany(_REVISE, rows)
            self.conflicts += connection.total_changes - before

    async def cursors(self) -> Mapping[ReadingClass, int]:
        """Where reading the log goes on."""
        return self._files.cursors

    async def sync(self) -> Mapping[ReadingClass, int]:
        """Put on the disk what was written, and say up to where that is."""
        return await self._files.sync()

    async def upkeep(self) -> None:
        """Close idle files, delete days beyond the retention."""
        await self._files.upkeep()

    async def latest(self, device: str) -> Sequence[Latest]:
        """The newest value of every metric of a device, by metric name."""

        def query(connection: sqlite3.Connection) -> list[Latest]:
            return [
                Latest(metric=metric, value=_value(value, flags), time=time, received=received, quality=_quality(flags))
                for metric, time, value, received, flags in connection.execute(
                    "SELECT metric, time, value, received, flags FROM latest WHERE device=? ORDER BY metric", (device,)
                )
            ]

        return await self._files.read_index(query)

    async def series(self, device: str, metric: str, start_ms: int, end_ms: int, limit: int) -> Sequence[SeriesPoint]:
        """Up to `limit` points from `start_ms` up to, not including, `end_ms`, oldest first."""

        def query(_day: int, connection: sqlite3.Connection) -> list[SeriesPoint]:
            return [
                SeriesPoint(time=time, value=_value(value, flags), quality=_quality(flags))
                for time, value, flags in connection.execute(
                    "SELECT time, value, flags FROM reading WHERE series=(SELECT id FROM series WHERE device=? AND metric=?)"
                    " AND time>=? AND time<? ORDER BY time LIMIT ?",
                    (device, metric, start_ms, end_ms, limit),
                )
            ]

        days = self._files.days(start_ms, end_ms)
        odd = [day for day in days if day < 0]
        # The odd file's moments may fall between those of the days, so it cannot count towards the limit.
        points = await self._files.read(odd, query, enough=limit) if odd else []
        points += await self._files.read(days[len(odd) :], query, enough=limit)
        return sorted(points, key=_time)[:limit]


def newest(points: Sequence[Point]) -> list[LatestRow]:
    """The newest row of each device and metric; of two with the same time the later one."""
    rows: dict[tuple[str, str], LatestRow] = {}
    for point in points:
        for metric, value in point.values.items():
            known = rows.get((point.device, metric))
            if known is None or known[2] <= point.time:
                flags = _flags(value, metric in point.suspect)
                rows[point.device, metric] = (point.device, metric, point.time, value, point.received, flags)
    return list(rows.values())


def _prepare_day(connection: sqlite3.Connection) -> None:
    connection.execute(_SERIES)
    connection.execute(_READING)


def _prepare_index(connection: sqlite3.Connection) -> None:
    connection.execute(_LATEST)


def _upsert_latest(rows: Sequence[LatestRow], index: DayFile) -> None:
    index.connection.executemany(_UPSERT_LATEST, rows)


def _series_id(file: DayFile, key: tuple[str, str]) -> int:
    connection = file.connection
    row = connection.execute("SELECT id FROM series WHERE device=? AND metric=?", key).fetchone()
    if row is None:
        row = connection.execute("INSERT INTO series(device, metric) VALUES(?, ?) RETURNING id", key).fetchone()
    number = int(row[0])
    file.memo[key] = number
    return number


def _flags(value: Value, suspect: bool) -> int:
    return (_SUSPECT if suspect else 0) | (_BOOL if value is True or value is False else 0)


def _value(value: Value, flags: int) -> Value:
    return bool(value) if flags & _BOOL else value


def _quality(flags: int) -> Quality:
    return Quality.SUSPECT if flags & _SUSPECT else Quality.GOOD


def _time(point: SeriesPoint) -> int:
    return point.time
