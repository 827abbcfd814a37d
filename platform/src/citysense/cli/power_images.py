"""What a disk may hold after the power went away in the middle of a process's writes.

All that was synced is there; of what was written since, any sectors of 512 bytes, in any order; a name that was made or
taken away since its folder was synced, or not. Pure: from the calls of a trace to the bytes of files. Owns the model of
the disk; knows nothing of logs.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from citysense.cli.syscall_trace import Call

SECTOR = 512
KEEP = (0.0, 0.1, 0.5, 0.9, 1.0)
"""Shares of unsynced sectors that reach the disk; one is chosen for each image."""


@dataclass(slots=True)
class _File:
    synced: bytearray = field(default_factory=bytearray)
    pending: list[Call] = field(default_factory=list)
    named: bool = False
    """Whether its name is on the disk for certain."""
    unlinked: bool = False


class Disk:
    """The files below `folder`, as the calls so far leave them."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._files: dict[str, _File] = {}

    def do(self, call: Call) -> None:
        """Take in the next call. Files in subfolders, and elsewhere, do not matter here."""
        syncs = call.name in ("fsync", "fdatasync")
        if syncs and call.path == self._folder:
            self._sync_names()
        elif (name := self._name(call.path)) is None:
            return
        elif syncs:
            file = self._files.setdefault(name, _File())
            for pending in file.pending:
                _apply(file.synced, pending)
            file.pending.clear()
        elif call.name in ("pwrite64", "write", "ftruncate"):
            self._files.setdefault(name, _File()).pending.append(call)
        else:
            self._name_changes(name, call)

    def _name_changes(self, name: str, call: Call) -> None:
        there = self._files.get(name)
        if call.name == "openat" and call.creates and (there is None or there.unlinked):
            self._files[name] = _File()
        elif call.name == "unlink" and there is not None:
            there.unlinked = True
        elif call.name == "rename" and there is not None and (to := self._name(call.to)) is not None:
            self._files[to] = self._files.pop(name)

    def image(self, chance: random.Random) -> dict[str, bytes]:
        """One of the states that a power cut may leave now, by name."""
        share = chance.choice(KEEP)
        image: dict[str, bytes] = {}
        for name, file in self._files.items():
            if (file.unlinked or not file.named) and chance.random() < 0.5:
                continue
            content = bytearray(file.synced)
            for call in file.pending:
                _apply_in_part(content, call, share, chance)
            image[name] = bytes(content)
        return image

    def _sync_names(self) -> None:
        self._files = {name: file for name, file in self._files.items() if not file.unlinked}
        for file in self._files.values():
            file.named = True

    def _name(self, path: str) -> str | None:
        folder, _, name = path.rpartition("/")
        return name if folder == self._folder else None


def _apply(content: bytearray, call: Call) -> None:
    if call.name == "ftruncate":
        _resize(content, call.offset)
        return
    end = call.offset + len(call.data)
    if len(content) < end:
        _resize(content, end)
    content[call.offset : end] = call.data


def _apply_in_part(content: bytearray, call: Call, share: float, chance: random.Random) -> None:
    if call.name == "ftruncate":
        if chance.random() < share:
            _resize(content, call.offset)
        return
    for start, piece in sectors(call.offset, call.data):
        if chance.random() < share:
            _apply(content, Call(name="pwrite64", path="", data=piece, offset=start))


def sectors(offset: int, data: bytes) -> list[tuple[int, bytes]]:
    """`data` at `offset` in the pieces that a disk writes whole or not at all."""
    pieces = []
    while data:
        room = SECTOR - offset % SECTOR
        pieces.append((offset, data[:room]))
        offset, data = offset + room, data[room:]
    return pieces


def _resize(content: bytearray, size: int) -> None:
    if len(content) > size:
        del content[size:]
    else:
        content.extend(bytes(size - len(content)))


def cuts(trace: Sequence[Call], count: int, chance: random.Random) -> list[int]:
    """`count` places in `trace` at which the power goes, rising; each is the number of calls before it."""
    return sorted(chance.randrange(1, len(trace) + 1) for _ in range(count))
