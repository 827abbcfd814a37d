"""Making room in a log that has grown to its bound: the oldest readings of the least class go, and are counted.

The newest are worth more than the oldest: rules judge by them, and people look at them. Bulk goes first, then state;
safety never. Each device's loss stands in a tombstone. Knows of bodies only whose they are and of when.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

from citysense import lane_account, record_format, wire
from citysense.record_format import CLASS_CODES, RecordDamaged
from citysense_profiles.reading import ReadingClass

EXPENDABLE = (ReadingClass.BULK, ReadingClass.STATE)
"""In the order in which they go."""
DOWN_TO = 0.95
"""Share of its bound to which one run of evictions may bring a log: so not every batch evicts, and not much goes at once.
A run is CHUNK records at most, and no other follows once the log is within its bound: it ends between the two."""
CHUNK = 2_000
"""Records of one transaction: about 20 ms, for which an alarm may have to wait."""

Lost = tuple[str, int, str, int, int, int]
"""Device, class code, reason, first and last time (ms), number of readings: a row of the table `tombstone`."""


def choose(
    records: Sequence[tuple[int, int]], held: Iterable[tuple[int, int]], *, enough: int
) -> tuple[int, int] | None:
    """Of a lane's oldest `records` (offset and bytes, offsets rising), the first run that lies in none of the intervals
    `held`; no more of them than `enough` bytes need."""
    first = last = freed = 0
    intervals = tuple(held)
    for offset, size in records:
        if any(low <= offset <= high for low, high in intervals):
            if first:
                break
            continue
        # A run may not reach across what is held, also where no offset of this lane was found inside.
        if first and any(last < low and high < offset for low, high in intervals):
            break
        first, last, freed = first or offset, offset, freed + size
        if freed >= enough:
            break
    return (first, last) if first else None


def evict(connection: sqlite3.Connection, cls: ReadingClass, first: int, last: int, *, reason: str, now_ms: int) -> int:
    """Replace the records of a closed interval by tombstones; how many readings were lost."""
    code = CLASS_CODES[cls]
    rows = connection.execute(
        "SELECT blob FROM record WHERE class=? AND offset BETWEEN ? AND ?", (code, first, last)
    ).fetchall()
    lost: dict[tuple[str, int, str], tuple[int, int, int]] = {}
    for (blob,) in rows:
        loss = _loss(blob, code, reason, now_ms)
        if loss is None:
            continue
        device, of_class, why, begin, end, count = loss
        before = lost.get((device, of_class, why), (begin, end, 0))
        lost[device, of_class, why] = (min(before[0], begin), max(before[1], end), before[2] + count)
    for (device, of_class, why), (begin, end, count) in lost.items():
        lane_account.entomb(connection, device=device, code=of_class, reason=why, first=begin, last=end, records=count)
    lane_account.delete(connection, lane_account.EVICTED, code, first, last)
    return sum(count for *_, count in lost.values())


def _loss(blob: bytes, code: int, reason: str, now_ms: int) -> Lost | None:
    """What is lost with one record; None with a tick, which is nobody's reading. A tombstone's own numbers are kept: it
    stands for readings, and is none."""
    try:
        body = wire.decode_body(record_format.unpack(blob).body)
    except (RecordDamaged, ValueError):
        return "", code, reason, now_ms, now_ms, 1
    match body:
        case wire.Tombstone():
            of_class = next((known for known, cls in lane_account.CLASSES.items() if cls.value == body.cls), code)
            return body.device, of_class, body.reason, body.first, body.last, body.count
        case wire.Tick():
            return None
        case wire.DeadLetter() | wire.Readings():
            return body.device, code, reason, body.received, body.received, 1
