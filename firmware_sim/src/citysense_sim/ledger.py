"""The sender's own book: what it sent, and what was acknowledged to it. The oracle of every kill test.

Owns an append-only text file, one row a line, synced before the frames of a row go out. It says what the devices know and
never looks at the product.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import IO, NamedTuple

from citysense.errors import StorageError


class Key(NamedTuple):
    """A native message's name."""

    device: str
    boot: int
    seq: int


class Sent(NamedTuple):
    """A reading as its device made it. `time` is event time in ms since 1970 UTC, unique within a device."""

    device: str
    boot: int
    seq: int
    time: int
    value: float

    @property
    def key(self) -> Key:
        """Which message carried it."""
        return Key(self.device, self.boot, self.seq)


class Ledger:
    """Writes the book. Rows are collected by `sent` and `acked` and are on the disk once `sync` has returned."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: list[str] = []
        self._file: IO[str] | None = None
        self._syncing = asyncio.Lock()

    def open(self) -> None:
        """Begin a new book; one that exists is not overwritten. Raises StorageError."""
        try:
            self._file = self.path.open("x", encoding="ascii")
        except OSError as e:
            raise StorageError(f"ledger {self.path} cannot be made ({e.strerror})") from e

    def sent(self, row: Sent) -> None:
        """About to be sent."""
        # repr of a float reads back as the same float.
        self._lines.append(f"s {row.device} {row.boot} {row.seq} {row.time} {row.value!r}\n")

    def acked(self, key: Key) -> None:
        """PUBACK or 2.04 has come."""
        self._lines.append(f"a {key.device} {key.boot} {key.seq}\n")

    async def sync(self) -> None:
        """Write and sync what was collected. Raises StorageError."""
        async with self._syncing:
            lines, self._lines = self._lines, []
            await asyncio.to_thread(self._write, lines)

    def _write(self, lines: list[str]) -> None:
        if self._file is None:
            raise StorageError(f"ledger {self.path} is not open")
        try:
            self._file.writelines(lines)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as e:
            raise StorageError(f"ledger {self.path} cannot be written ({e.strerror})") from e

    def close(self) -> None:
        """Close the file; what was not synced is not in it."""
        if self._file is not None:
            self._file.close()
            self._file = None


def read_ledger(path: Path) -> tuple[list[Sent], set[Key]]:
    """All rows of a book: sent, in order, and the keys that were acknowledged.

    A last line without its end was being written when the machine stopped and does not count. Raises StorageError for
    any other line that is no row.
    """
    sent: list[Sent] = []
    acked: set[Key] = set()
    try:
        with path.open(encoding="ascii") as file:
            for number, line in enumerate(file, 1):
                if line.endswith("\n"):
                    _read_row(line, sent, acked, f"{path}:{number}")
    except (OSError, UnicodeDecodeError) as e:
        raise StorageError(f"ledger {path} cannot be read ({e})") from e
    return sent, acked


def _read_row(line: str, sent: list[Sent], acked: set[Key], where: str) -> None:
    match line.split():
        case ["s", device, boot, seq, time, value]:
            sent.append(Sent(device, int(boot), int(seq), int(time), float(value)))
        case ["a", device, boot, seq]:
            acked.add(Key(device, int(boot), int(seq)))
        case _:
            raise StorageError(f"{where}: {line.strip()!r} is no row of a ledger")
