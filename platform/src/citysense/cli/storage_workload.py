"""A process that writes a durable log and says what it was promised: `python -m citysense.cli.storage_workload FOLDER …`.

For those who cut its power, fail its system calls or kill it. Each line on stdout is one write: `SENT n…` before numbers
are appended, `ACK n…` after the log has confirmed them, `DONE c n` before a reader of class c says that it has finished up
to number n. A number is the body of one record. Owns the ledger's form; judges nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from citysense.clock import SetClock
from citysense.durable_log import DurableLog, Entry
from citysense.errors import StorageError
from citysense_profiles.reading import ReadingClass

FILE = "spool.db"
READER = "uplink"
RESERVE_BYTES = 4096
NOW_MS = 1_800_000_000_000
LANES = (ReadingClass.SAFETY, ReadingClass.STATE, ReadingClass.BULK)
GROUP = 4
"""Records of one round; the log may put them into one commit or several."""


@dataclass(slots=True)
class Promised:
    """What the lines of a ledger say. Numbers by record; `done` is per lane the last number a reader has finished."""

    sent: set[int] = field(default_factory=set)
    acked: set[int] = field(default_factory=set)
    done: dict[ReadingClass, int] = field(default_factory=dict)

    def note(self, line: str) -> None:
        """Take in one line."""
        word, *rest = line.split()
        match word:
            case "SENT":
                self.sent.update(map(int, rest))
            case "ACK":
                self.acked.update(map(int, rest))
            case "DONE":
                self.done[LANES[int(rest[0])]] = int(rest[1])

    def owed(self) -> set[int]:
        """Numbers that were confirmed and that nobody has finished."""
        return {number for number in self.acked if number > self.done.get(lane_of(number), -1)}


def lane_of(number: int) -> ReadingClass:
    """The class of the record with this number."""
    return LANES[number % 3]


def body_of(number: int) -> bytes:
    """The body of the record with this number: mostly small, now and then larger than a page."""
    filler = random.Random(number)  # noqa: S311 - bytes that both sides can make, nothing secret
    return b"%d:" % number + filler.randbytes(5_000 if number % 61 == 60 else 20 + number % 200)


def number_of(body: bytes) -> int | None:
    """The number of a record whose body is whole; None for any other body."""
    digits, colon, _ = body.partition(b":")
    if not (colon and digits.isdigit()):
        return None
    number = int(digits)
    return number if body == body_of(number) else None


def read_promises(lines: Iterable[str]) -> Promised:
    """The ledger of one run."""
    promised = Promised()
    for line in lines:
        if line.strip():
            promised.note(line)
    return promised


def _say(word: str, numbers: Iterable[int]) -> None:
    os.write(1, f"{word} {' '.join(map(str, numbers))}\n".encode())


async def work(folder: Path, *, rounds: int, synchronous: str, trims: bool, first: int = 0) -> None:
    """Append `rounds` groups of records, numbered from `first`, and finish some of them."""
    log = DurableLog(folder / FILE, clock=SetClock(NOW_MS), reserve_bytes=RESERVE_BYTES, synchronous=synchronous)
    log.open()
    try:
        for turn in range(rounds):
            numbers = range(first + turn * GROUP, first + (turn + 1) * GROUP)
            _say("SENT", numbers)
            await asyncio.gather(*(_append(log, number) for number in numbers))
            if trims and turn % 7 == 6:
                cls = LANES[turn // 7 % 3]
                await _finish_half(log, cls)
    finally:
        log.close()


async def _append(log: DurableLog, number: int) -> None:
    cls = lane_of(number)
    entry = Entry(cls=cls, body=body_of(number), device="gauge-1", time=NOW_MS)
    try:
        await log.append_entries([entry], urgent=cls is ReadingClass.SAFETY)
    except StorageError:
        return  # a refusal is no promise
    _say("ACK", [number])


async def _finish_half(log: DurableLog, cls: ReadingClass) -> None:
    try:
        records = log.read(cls, after=log.cursor(READER, cls), limit=1_000)
        half = records[: len(records) // 2]
        number = number_of(half[-1].body) if half else None
        if number is not None:
            _say("DONE", [LANES.index(cls), number])
            await log.advance(READER, cls, half[-1].offset, trim=True)
    except StorageError:
        return


def main(arguments: Sequence[str]) -> int:
    """The process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--synchronous", default="FULL")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--keep-all", action="store_true")
    options = parser.parse_args(arguments)
    try:
        asyncio.run(
            work(
                options.folder,
                rounds=options.rounds,
                synchronous=options.synchronous,
                trims=not options.keep_all,
                first=options.first,
            )
        )
    except StorageError as e:
        sys.stderr.write(f"{e}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
