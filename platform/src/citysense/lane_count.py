"""Counting what really stands in the lanes, beside everything else that the process does.

Counting reads every page of a lane: 7 s for 8 GB from memory, half a minute from a disk. So it is done in threads, with
connections of its own, a slice of a lane at a time: the event loop goes on, and no snapshot is held for long, which
would keep the write-ahead log from being folded back. Owns no table; compares nothing.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from citysense import lane_account
from citysense.lane_account import CLASSES, LaneAccount
from citysense.single_writer import open_for_reading
from citysense_profiles.reading import ReadingClass

SLICE = 100_000
"""Records of one slice: some 20 ms."""

_Tally = dict[int, dict[str, int]]
"""Records by class code and fate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Begun:
    """The accounts of one moment; `first` is what the first slice of each lane held then, and its last offset."""

    tally: _Tally
    next_offset: int
    first: Mapping[int, tuple[int, int | None]]


async def count_lanes(path: Path) -> dict[ReadingClass, LaneAccount]:
    """The account of each lane that ever had a record, as of the moment of the call.

    A lane of one slice is counted to the last record. While a longer one is counted records leave it: as many as did are
    taken as present where they were not met. Raises StorageError or sqlite3.Error.
    """
    begun = await asyncio.to_thread(_begin, path)
    found: dict[int, int] = {}
    for code, (count, last) in begun.first.items():
        found[code] = count
        while last is not None:
            count, last = await asyncio.to_thread(_next_slice, path, code, last, begun.next_offset)
            found[code] += count
    after = await asyncio.to_thread(_tally_now, path)
    return {
        CLASSES[code]: settle(_account(fates, found[code]), _account(after.get(code, {}), 0), exact=_exact(begun, code))
        for code, fates in begun.tally.items()
    }


def settle(begun: LaneAccount, ended: LaneAccount, *, exact: bool) -> LaneAccount:
    """`begun`, with what left its lane until `ended` added to what was found, as far as that much was not met."""
    if exact:
        return begun
    left = sum(getattr(ended, fate) - getattr(begun, fate) for fate in ("finished", "evicted", "set_aside"))
    return replace(begun, present=begun.present + min(max(begun.missing, 0), left))


def _exact(begun: _Begun, code: int) -> bool:
    return begun.first[code][1] is None


def _account(fates: Mapping[str, int], present: int) -> LaneAccount:
    return LaneAccount(
        appended=fates.get(lane_account.APPENDED, 0),
        finished=fates.get(lane_account.FINISHED, 0),
        evicted=fates.get(lane_account.EVICTED, 0),
        set_aside=fates.get(lane_account.SET_ASIDE, 0),
        present=present,
    )


def _begin(path: Path) -> _Begun:
    with closing(open_for_reading(path)) as connection:
        connection.execute("BEGIN")
        next_offset = connection.execute("SELECT value FROM meta WHERE key='next_offset'").fetchone()[0]
        tally = _tally(connection)
        return _Begun(
            tally=tally,
            next_offset=next_offset,
            first={code: _slice(connection, code, 0, next_offset) for code in tally},
        )


def _next_slice(path: Path, code: int, after: int, before: int) -> tuple[int, int | None]:
    with closing(open_for_reading(path)) as connection:
        return _slice(connection, code, after, before)


def _tally_now(path: Path) -> _Tally:
    with closing(open_for_reading(path)) as connection:
        return _tally(connection)


def _slice(connection: sqlite3.Connection, code: int, after: int, before: int) -> tuple[int, int | None]:
    """Records of the next slice behind `after`, and the last one's offset; None with the lane's last slice."""
    count, last = connection.execute(
        "SELECT count(*), max(offset) FROM"
        " (SELECT offset FROM record WHERE class=? AND offset>? AND offset<? ORDER BY offset LIMIT ?)",
        (code, after, before, SLICE),
    ).fetchone()
    return count, last if count == SLICE else None


def _tally(connection: sqlite3.Connection) -> _Tally:
    tally: _Tally = {}
    for fate, code, count in connection.execute("SELECT fate, class, count FROM tally"):
        if code in CLASSES:
            tally.setdefault(code, {})[fate] = count
    return tally
