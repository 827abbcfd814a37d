"""The telemetry store in InfluxDB 1.x, 2.x or 3.x.

Owns how a batch gets there whole: lines are written again until the server has them (rewriting the same point changes
nothing), a refused batch is halved until the culprit stands alone, and only then the cursor moves, in a file of our
own beside the data.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from citysense.crash_points import CrashPoints
from citysense.single_writer import SingleWriter
from citysense_platform.store import influx_queries
from citysense_platform.store.influx_server import InfluxServer, Outcome, Target
from citysense_platform.store.line_protocol import line_of
from citysense_platform.store.points import Point
from citysense_platform.store.port import Latest, SeriesPoint, StoreUnavailable
from citysense_profiles.reading import ReadingClass

log = logging.getLogger(__name__)

LINES = 5_000
"""InfluxData's own advice for the size of a batch; about 1 MB before gzip, far below the server's 25 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedPoint:
    """A point that the server will never take, with the server's words.

    `personal`: a value of it is; then neither `line` nor `words`, which may quote it, may be kept or shown in clear.
    """

    point: Point
    line: bytes
    words: str
    personal: bool


Refused = Callable[[RefusedPoint], Awaitable[None]]


class InfluxStore:
    """Telemetry in `target`; the cursor in `folder`/influx-cursor.db.

    `refused` is awaited for each point that the server will never take, before the cursor passes it; it may be called
    again for the same point. `personal` says whether a metric tells something of a person.
    """

    def __init__(
        self,
        target: Target,
        folder: Path,
        *,
        refused: Refused,
        personal: Callable[[str], bool],
        crash: CrashPoints | None = None,
    ) -> None:
        self._server = InfluxServer(target)
        self._target = target
        self._folder = folder
        self._refused = refused
        self._personal = personal
        self._crash = crash or CrashPoints()
        self._writer = SingleWriter(folder / "influx-cursor.db", schema=_prepare, synchronous="FULL")
        self._log_id = ""
        self._cursors: dict[ReadingClass, int] = dict.fromkeys(ReadingClass, 0)
        self.refusals = 0
        """Points refused since the start."""

    async def open(self, *, log_id: str) -> None:
        """Open the cursor's file and greet the server; a server that is down is asked again later.

        Raises SetupError for a server of the wrong kind, StorageError for the file.
        """
        self._log_id = log_id
        self._folder.mkdir(parents=True, exist_ok=True)
        await asyncio.to_thread(self._writer.open)
        try:
            rows = await self._writer.submit(
                lambda c: c.execute("SELECT class, offset FROM cursor WHERE log=?", (log_id,)).fetchall(), urgent=True
            )
            self._cursors |= {ReadingClass(cls): offset for cls, offset in rows}
            await self._server.open()
            try:
                await self._server.prepare()
                log.info("telemetry goes to InfluxDB %s at %s", self._server.version, self._target.base)
            except StoreUnavailable as e:
                log.warning("%s; what comes in waits in the log", e)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close connections and file."""
        await self._server.close()
        await asyncio.to_thread(self._writer.close)

    async def write(self, points: Sequence[Point], *, lane_cursors: Mapping[ReadingClass, int]) -> None:
        """Write `points`, then move the cursors. Raises StoreUnavailable or StorageError."""
        for start in range(0, len(points), LINES):
            chunk = points[start : start + LINES]
            await self._send([(line_of(point), point) for point in chunk])
        self._crash.at("store.before_cursor")
        rows = [(self._log_id, cls.value, offset) for cls, offset in lane_cursors.items()]

        def job(connection: sqlite3.Connection) -> None:
            connection.executemany(
                "INSERT INTO cursor VALUES(?, ?, ?) ON CONFLICT DO UPDATE SET offset=excluded.offset", rows
            )

        await self._writer.submit(job, urgent=True)
        self._cursors = dict(lane_cursors)

    async def _send(self, lines: Sequence[tuple[bytes, Point]]) -> None:
        """Write lines; halve what the server refuses. Its count of what it dropped cannot be believed."""
        outcome, words = await self._server.write(b"\n".join(line for line, _ in lines))
        if outcome is Outcome.STORED:
            return
        if len(lines) == 1:
            line, point = lines[0]
            self.refusals += 1
            personal = any(self._personal(metric) for metric in point.values)
            await self._refused(RefusedPoint(point=point, line=line, words=words, personal=personal))
            return
        middle = len(lines) // 2
        await self._send(lines[:middle])
        await self._send(lines[middle:])

    async def cursors(self) -> Mapping[ReadingClass, int]:
        """Where reading the log goes on."""
        return dict(self._cursors)

    async def sync(self) -> Mapping[ReadingClass, int]:
        """The same: the cursor's file is synced at every commit, and what the server has confirmed is its promise."""
        return dict(self._cursors)

    async def upkeep(self) -> None:
        """Nothing: retention is the server's setting."""

    async def latest(self, device: str) -> Sequence[Latest]:
        """The newest value of every metric of a device, by metric name. Raises StoreUnavailable."""
        fields = influx_queries.fields_of(await self._server.query(influx_queries.fields_query(device)))
        if not fields:
            return []
        return influx_queries.latest_of(fields, await self._server.query(influx_queries.latest_query(device, fields)))

    async def series(self, device: str, metric: str, start_ms: int, end_ms: int, limit: int) -> Sequence[SeriesPoint]:
        """Up to `limit` points in [start, end), oldest first. Raises StoreUnavailable."""
        query = influx_queries.series_query(device, metric, start_ms, end_ms, limit)
        return influx_queries.series_of(await self._server.query(query), limit)


def _prepare(connection: sqlite3.Connection) -> None:
    connection.execute(
        "CREATE TABLE IF NOT EXISTS cursor(log TEXT, class TEXT, offset INTEGER, PRIMARY KEY(log, class)) WITHOUT ROWID"
    )
