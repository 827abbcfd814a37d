"""What became of the records of each lane, counted in the very transactions in which it became so.

Owns the table `tally` and the table `tombstone`: how many records a lane was given, and how many have left it, and why.
The sums must agree with what is there; where they do not, records have vanished, which is told like any other loss.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

from citysense import wire
from citysense.record_format import CLASS_CODES
from citysense_profiles.reading import ReadingClass

APPENDED, FINISHED, EVICTED, SET_ASIDE = "appended", "finished", "evicted", "set_aside"
CLASSES: Mapping[int, ReadingClass] = {code: cls for cls, code in CLASS_CODES.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneAccount:
    """Records of one lane since the file was made; `present` are in it now."""

    appended: int
    finished: int
    evicted: int
    set_aside: int
    present: int

    @property
    def missing(self) -> int:
        """Records that nothing accounts for; below 0 where there are more than there can be."""
        return self.appended - self.finished - self.evicted - self.set_aside - self.present


def count(connection: sqlite3.Connection, fate: str, code: int, records: int) -> None:
    """Add to the account of a lane."""
    if records:
        connection.execute(
            "INSERT INTO tally VALUES(?, ?, ?) ON CONFLICT DO UPDATE SET count=count+excluded.count",
            (fate, code, records),
        )


def delete(connection: sqlite3.Connection, fate: str, code: int, first: int, last: int) -> int:
    """Take the records of a closed interval out of a lane, on the account; how many there were."""
    records = connection.execute(
        "DELETE FROM record WHERE class=? AND offset BETWEEN ? AND ?", (code, first, last)
    ).rowcount
    count(connection, fate, code, records)
    return records


ACCOUNTS = (
    "SELECT class, sum(CASE fate WHEN 'appended' THEN count ELSE 0 END), sum(CASE fate WHEN 'finished' THEN count ELSE 0 END),"
    " sum(CASE fate WHEN 'evicted' THEN count ELSE 0 END), sum(CASE fate WHEN 'set_aside' THEN count ELSE 0 END),"
    " (SELECT count(*) FROM record WHERE record.class=tally.class) FROM tally GROUP BY class"
)
"""One statement, so that all numbers are of one moment. Reads every page of the lanes: about 0.1 s for a million records."""


def accounts(rows: list[tuple[int, int, int, int, int, int]]) -> dict[ReadingClass, LaneAccount]:
    """`rows` of ACCOUNTS by lane."""
    return {
        CLASSES[code]: LaneAccount(
            appended=appended, finished=finished, evicted=evicted, set_aside=set_aside, present=present
        )
        for code, appended, finished, evicted, set_aside, present in rows
        if code in CLASSES
    }


def entomb(
    connection: sqlite3.Connection, *, device: str, code: int, reason: str, first: int, last: int, records: int = 1
) -> None:
    """Write down that readings were given up, in one row per device, class and reason. Times in ms."""
    connection.execute(
        "INSERT INTO tombstone VALUES(?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
        " first=min(first, excluded.first), last=max(last, excluded.last), count=count+excluded.count",
        (device, code, reason, first, last, records),
    )


def take_tombstones(connection: sqlite3.Connection) -> list[wire.Tombstone]:
    """All tombstones, taken out of their table: to be appended as records in the same transaction."""
    rows = connection.execute("SELECT device, class, reason, first, last, count FROM tombstone").fetchall()
    connection.execute("DELETE FROM tombstone")
    return [
        wire.Tombstone(device=device, cls=CLASSES[code].value, reason=reason, first=first, last=last, count=records)
        for device, code, reason, first, last, records in rows
        # Numbers that are none come from a damaged file.
        if code in CLASSES and all(isinstance(number, int) for number in (first, last, records))
    ]
