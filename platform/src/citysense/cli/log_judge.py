"""Open a log after a misfortune, read all of it, and hold it against what had been promised.

Owns the judgement only: what is lost, what was made up, what is told as lost. Who brings the misfortune about is others'.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from citysense import wire
from citysense.cli.storage_workload import FILE, LANES, NOW_MS, RESERVE_BYTES, Promised, lane_of, number_of
from citysense.clock import SetClock
from citysense.durable_log import DurableLog
from citysense.errors import StorageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Numbers of records: `lost` were promised and are not there; `phantom` are there and were never sent, or stand in
    another lane or order. `told` is how many are said to be lost, None where nobody can say how many."""

    present: int
    lost: int
    phantom: int
    told: int | None
    salvaged: bool
    refusal: str = ""

    @property
    def silent(self) -> bool:
        """Something is missing that nobody says is missing, or nothing starts any more."""
        return bool(self.refusal) or self.phantom > 0 or (self.told is not None and self.lost > self.told)


async def judge(folder: Path, promised: Promised) -> Judged:
    """Open the log in `folder`, as its process would, and read every lane to its end."""
    log = DurableLog(folder / FILE, clock=SetClock(NOW_MS), reserve_bytes=RESERVE_BYTES, synchronous="OFF")
    try:
        log.open()
    except StorageError as e:
        return Judged(present=0, lost=len(promised.owed()), phantom=0, told=0, salvaged=False, refusal=str(e))
    try:
        found, phantom = _read(log, promised)
        # What was found damaged is being set aside; one more write stands behind it.
        await log.append_entries([], urgent=True)
        told = _told(log)
    finally:
        log.close()
    return Judged(
        present=len(found),
        lost=len(promised.owed() - found),
        phantom=phantom,
        told=told,
        salvaged=log.salvaged is not None,
    )


def _read(log: DurableLog, promised: Promised) -> tuple[set[int], int]:
    found: set[int] = set()
    phantom = 0
    for cls in LANES:
        last = -1
        for record in log.read(cls, after=0, limit=1_000_000):
            number = number_of(record.body)
            if number is None and _is_tombstone(record.body):
                continue
            if number is None or number not in promised.sent or lane_of(number) is not cls or number <= last:
                phantom += 1
                continue
            found.add(number)
            last = number
    return found, phantom


def _is_tombstone(body: bytes) -> bool:
    try:
        return isinstance(wire.decode_body(body), wire.Tombstone)
    except msgspec.DecodeError:
        return False


def _told(log: DurableLog) -> int | None:
    counts = [count for (count,) in log.select("SELECT count FROM tombstone")]
    return None if any(count == 0 for count in counts) else sum(counts)


def judge_image(image: Mapping[str, bytes], promised: Promised) -> Judged:
    """Judge files given by name, in a folder of their own in memory where the machine has one."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - a folder of our own is made in it
    with tempfile.TemporaryDirectory(prefix="citysense-image-", dir=place) as folder:
        for name, content in image.items():
            if not name.endswith((".reserve", "-shm")):
                (Path(folder) / name).write_bytes(content)
        return asyncio.run(judge(Path(folder), promised))
