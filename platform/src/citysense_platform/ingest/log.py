"""The platform's log and how batches enter it: each record once, in one transaction with the memory of it.

Owns the table `submitted` in log.db and the making of the log. Decides nothing about items; see `accept`.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from citysense import wire
from citysense.clock import Clock
from citysense.crash_points import CrashPoints
from citysense.durable_log import DurableLog, Entry
from citysense.log_schema import Owner, step
from citysense_platform.ingest.accept import Assignment, Decision, Examined, Foreign, Place, decide, examine, place
from citysense_platform.ingest.intervals import Interval
from citysense_profiles.reading import ReadingClass

OWNER = Owner(
    name="ingest",
    steps=(
        step(
            1,
            "what gateways have submitted",
            "CREATE TABLE IF NOT EXISTS submitted(gateway TEXT, spool TEXT, class TEXT, low INTEGER, high INTEGER,"
            " PRIMARY KEY(gateway, spool, class, low)) WITHOUT ROWID",
        ),
    ),
)


def platform_log(
    path: Path,
    *,
    clock: Clock,
    crash: CrashPoints | None = None,
    synchronous: str = "FULL",
    readers: Mapping[ReadingClass, Sequence[str]] | None = None,
) -> DurableLog:
    """The log of the platform in `path`, not yet open. `readers` as in `DurableLog`."""
    return DurableLog(
        path,
        clock=clock,
        crash=crash,
        crash_prefix="ingest",
        synchronous=synchronous,
        owners=(OWNER,),
        readers=readers,
    )


class IngestLog:
    """The way from a gateway's batch into the log."""

    def __init__(self, log: DurableLog, assignment: Assignment, foreign: Foreign) -> None:
        self._log = log
        self._assignment = assignment
        self._foreign = foreign
        self._lanes: dict[tuple[str, ReadingClass], asyncio.Lock] = {}
        self.counters: Counter[str] = Counter()
        """Since the start: batches, records, duplicates, refused.<reason>."""

    async def submit(self, gateway: str, cls: ReadingClass, batch: wire.Batch) -> wire.Answer:
        """Take a batch of one lane; the answer comes after the commit and holds for what was submitted before, too.

        Batches of one gateway and lane go one after another. Raises BatchMalformed, StorageFull, Overloaded,
        StorageError; then nothing of the batch was taken.
        """
        items, at = examine(batch, cls, gateway, self._assignment, self._foreign), place(batch)
        # One lock per known gateway and lane; who asks has been authenticated.
        async with self._lanes.setdefault((gateway, cls), asyncio.Lock()):
            decision = await self._log.append(
                lambda connection: _plan(connection, gateway, batch.spool, cls, items, at),
                urgent=cls is ReadingClass.SAFETY,
            )
        self._count(decision)
        return decision.answer

    def _count(self, decision: Decision) -> None:
        self.counters["batches"] += 1
        self.counters["records"] += len(decision.entries)
        self.counters["duplicates"] += decision.duplicates
        for _, reason in decision.answer.rejected:
            self.counters[f"refused.{reason}"] += 1


def _plan(
    connection: sqlite3.Connection, gateway: str, spool: str, cls: ReadingClass, items: list[Examined], at: Place
) -> tuple[list[Entry], Decision]:
    lane = (gateway, spool, str(cls))
    before: list[Interval] = connection.execute(
        "SELECT low, high FROM submitted WHERE gateway=? AND spool=? AND class=? ORDER BY low", lane
    ).fetchall()
    decision = decide(items, before, at)
    gone, come = set(before) - set(decision.seen), set(decision.seen) - set(before)
    connection.executemany(
        "DELETE FROM submitted WHERE gateway=? AND spool=? AND class=? AND low=?", [(*lane, low) for low, _ in gone]
    )
    connection.executemany("INSERT INTO submitted VALUES(?, ?, ?, ?, ?)", [(*lane, *interval) for interval in come])
    return list(decision.entries), decision
