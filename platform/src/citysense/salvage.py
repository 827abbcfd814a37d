"""Saving what can be read of a damaged log into a new file, so that a process starts whatever happened to its disk.

The damaged file is kept beside it as NAME.damaged-TIME. Records are taken as SQLite gives them, from both ends of each
lane, and what is behind the damage is found by the records' own check sums in the bytes of the file. The new file keeps
the log's id and the records' offsets, so that what had been delivered before is recognised as a repeat. What is missing
is told in tombstones; their count is 0 where nobody can say how many it was. A kill at any moment leaves either the
damaged file where it was, with all that belongs to it, or the finished new one, which then takes its place. However
large the file is, no more than a slice of it is in memory.
"""

from __future__ import annotations

import logging
import os
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from citysense import lane_account
from citysense.clock import Clock
from citysense.lane_reader import as_text
from citysense.log_check import DAMAGED, cursor_checksum
from citysense.log_schema import Owner, bring_up
from citysense.record_format import CLASS_CODES, RecordDamaged, unpack
from citysense.single_writer import storage_error

log = logging.getLogger(__name__)

OFFSETS_LEFT_OUT = 1 << 20
"""Between the highest offset found and the next one: some above it may have been used and be unreadable now."""
MOST_SCANNED_BYTES = 1 << 30
"""Of each file; more takes minutes, during which nobody is served."""
SCANNED_AT_ONCE = 16 << 20
"""Bytes of a file that are looked at together, and then those behind them."""
LONGEST = 1 << 20
"""Bytes of the longest record that is looked for."""
_LIKELY_HEAD = re.compile(rb"\x00(?=[\x00-\x0f]..(?<!\x00\x00\x00[\x00-\x10])....\x00\x00.{6}[\x00-\x02])", re.DOTALL)
"""Length of 17 bytes to 1 MB, any check sum, offset below 2^48, class: how a record begins; see `record_format`. It begins
with one certain byte, for which the bytes are searched ten times as fast as with a pattern that only looks ahead."""
_FINISHED = ".salvaged-"
_OWN = ("record", "meta", "cursor", "tombstone", "damaged", "tally", "migration")

_KINDS: Mapping[str, tuple[type, ...]] = {
    "INTEGER": (int, type(None)),
    "TEXT": (str, type(None)),
    "BLOB": (bytes, type(None)),
}
_Row = tuple[int, int, bytes]
"""Class code, offset and bytes of a record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Salvage:
    """What was saved: records, and rows of the owners' tables; `lost` tables could not be read to their end."""

    kept_as: Path
    records: int
    rows: int
    same_id: bool
    lost: tuple[str, ...]


def finish_interrupted(path: Path) -> None:
    """Give the new file of a salvage that was killed after it was finished its place; throw away one that was not."""
    _remove(_new_path(path))
    for finished in path.parent.glob(f"{path.name}{_FINISHED}*"):
        _replace(path, finished)


def salvage(
    path: Path,
    *,
    owners: Sequence[Owner],
    clock: Clock,
) -> Salvage:
    """Replace the file at `path` by a new one that holds what could be read. Raises StorageError."""
    new, moment = _new_path(path), _free_moment(path, clock)
    old = _Damaged(path)
    try:
        with closing(sqlite3.connect(new, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("BEGIN IMMEDIATE")
            bring_up(connection, owners)
            found = _fill(connection, old, now_ms=clock.now_ms(), aside=_aside_path(path, moment))
            connection.execute("COMMIT")
        old.close()
        # From here on the old file is not needed any more, and no start begins again from it: its parts are moved one by
        # one, and without its write-ahead log it would lack its last commits.
        finished = path.with_name(f"{path.name}{_FINISHED}{moment}")
        new.rename(finished)
        _sync_folder(path.parent)
        _replace(path, finished)
    except (sqlite3.Error, OSError) as e:
        raise storage_error(path, e) from e
    finally:
        old.close()
    log.error(
        "%s: saved %d records and %d other rows; the damaged file is kept as %s%s",
        path,
        found.records,
        found.rows,
        found.kept_as.name,
        f"; not read to the end: {', '.join(found.lost)}" if found.lost else "",
    )
    return found


def _replace(path: Path, finished: Path) -> None:
    """Move the parts of the old file aside, as far as that is not done yet, and the finished one into its place."""
    aside = _aside_path(path, finished.name.removeprefix(path.name + _FINISHED))
    for suffix in ("-wal", ""):
        if path.with_name(path.name + suffix).exists():
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    path.with_name(path.name + "-shm").unlink(missing_ok=True)
    finished.rename(path)
    _sync_folder(path.parent)


class _Damaged:
    """The old file, read as far as it lets itself be read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = sqlite3.connect(path, isolation_level=None)
        # No statement of ours changes it. SQLite may fold the write-ahead log into it, after its bytes were scanned.
        self._connection.execute("PRAGMA query_only=ON")
        self._connection.text_factory = as_text
        self.unreadable: list[str] = []

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def rows(self, table: str, statement: str) -> Iterator[tuple[object, ...]]:
        """Rows until the first one that cannot be read."""
        assert self._connection is not None
        try:
            yield from self._connection.execute(statement)
        except (sqlite3.Error, UnicodeDecodeError, OverflowError):
            # SQLite quotes damaged bytes in its errors, and a size from nowhere may be an OverflowError.
            if table not in self.unreadable:
                self.unreadable.append(table)

    def bytes(self) -> Iterator[bytes]:
        """The content of the file and of its write-ahead log, slice by slice; each begins with the last 1 MB of the one
        before, so that no record is cut in all of them."""
        for suffix in ("", "-wal"):
            try:
                with self._path.with_name(self._path.name + suffix).open("rb") as file:
                    content = b""
                    while file.tell() < MOST_SCANNED_BYTES and (more := file.read(SCANNED_AT_ONCE)):
                        content = content[-LONGEST:] + more
                        yield content
            except FileNotFoundError:
                continue


def _fill(connection: sqlite3.Connection, old: _Damaged, *, now_ms: int, aside: Path) -> Salvage:
    meta: dict[object, object] = {}
    for key, value in old.rows("meta", "SELECT key, value FROM meta"):
        meta[key] = value
    same_id = isinstance(meta.get("spool_id"), str)
    if same_id:
        connection.execute("UPDATE meta SET value=? WHERE key='spool_id'", (meta["spool_id"],))
    finished = _cursors(connection, old)
    connection.executemany("INSERT OR IGNORE INTO record VALUES(?, ?, ?)", _records(old, finished))
    _copy(connection, old, "tombstone")
    next_offset = meta.get("next_offset")
    highest = connection.execute("SELECT coalesce(max(offset), 0) FROM record").fetchone()[0]
    highest = max([highest, *finished.values()])
    if isinstance(next_offset, int) and highest < next_offset < 1 << 48:
        highest = next_offset
    connection.execute("UPDATE meta SET value=? WHERE key='next_offset'", (highest + OFFSETS_LEFT_OUT,))
    connection.execute("DELETE FROM tally")
    connection.execute("INSERT INTO tally SELECT 'appended', class, count(*) FROM record GROUP BY class")
    present = dict(connection.execute("SELECT class, count FROM tally").fetchall())
    _tell_loss(connection, old, present, now_ms)
    rows = sum(_copy(connection, old, table) for table in _owners_tables(connection))
    return Salvage(kept_as=aside, records=sum(present.values()), rows=rows, same_id=same_id, lost=tuple(old.unreadable))


def _cursors(connection: sqlite3.Connection, old: _Damaged) -> dict[int, int]:
    """Copy the cursors that are whole; per class, up to where all readers have finished."""
    finished: dict[int, int] = {}
    for name, code, offset, checksum in old.rows("cursor", "SELECT name, class, offset, checksum FROM cursor"):
        if not (isinstance(name, str) and isinstance(code, int) and isinstance(offset, int)):
            continue
        if checksum is not None and checksum != cursor_checksum(name, code, offset):
            continue
        connection.execute(
            "INSERT OR REPLACE INTO cursor VALUES(?, ?, ?, ?)",
            (name, code, offset, cursor_checksum(name, code, offset)),
        )
        finished[code] = min(offset, finished.get(code, offset))
    return finished


def _records(old: _Damaged, finished: Mapping[int, int]) -> Iterator[_Row]:
    """All whole records that some reader has not finished; one may come more than once."""
    for code in CLASS_CODES.values():
        for order in ("ASC", "DESC"):
            statement = f"SELECT blob FROM record WHERE class={code} ORDER BY offset {order}"  # noqa: S608
            for (blob,) in old.rows("record", statement):
                yield from _whole(blob)
            if "record" not in old.unreadable:
                break
    for content in old.bytes():
        for match in _LIKELY_HEAD.finditer(content):
            start = match.start()
            length = int.from_bytes(content[start : start + 4], "big")
            if length <= len(content) - start:
                for code, offset, blob in _whole(content[start : start + length]):
                    # Also one that was deleted, if it is above the cursors: the platform recognises it as a repeat.
                    if offset > finished.get(code, 0):
                        yield code, offset, blob


def _whole(blob: object) -> Iterator[_Row]:
    """The row of the record in `blob`, if it is whole."""
    if not isinstance(blob, bytes):
        return
    try:
        record = unpack(blob)
    except RecordDamaged:
        return
    yield CLASS_CODES[record.cls], record.offset, blob


def _tell_loss(connection: sqlite3.Connection, old: _Damaged, present: Mapping[int, int], now_ms: int) -> None:
    """A tombstone per class that misses something, or that might. `present` is what was found, by class."""
    tally = list(old.rows("tally", "SELECT class, fate, count FROM tally"))
    for code in CLASS_CODES.values():
        of_class = {fate: count for of, fate, count in tally if of == code and isinstance(count, int)}
        known = "tally" not in old.unreadable
        expected = 2 * of_class.get(lane_account.APPENDED, 0) - sum(of_class.values())
        missing = expected - present.get(code, 0) if known else 0
        if missing > 0 or ("record" in old.unreadable and not known):
            lane_account.entomb(
                connection, device="", code=code, reason=DAMAGED, first=0, last=now_ms, records=max(missing, 0)
            )


def _owners_tables(connection: sqlite3.Connection) -> list[str]:
    rows = connection.execute("SELECT name FROM sqlite_schema WHERE type='table' AND name NOT LIKE 'sqlite_%'")
    return [name for (name,) in rows.fetchall() if name not in _OWN]


def _copy(connection: sqlite3.Connection, old: _Damaged, table: str) -> int:
    """Rows of a table as far as they can be read; how many.

    A row whose values are not of the columns' types is none of this table: a damaged file may show another's in its place.
    """
    info = connection.execute(f"PRAGMA table_info({table})").fetchall()
    columns, kinds = ", ".join(row[1] for row in info), [_KINDS.get(row[2], (object,)) for row in info]
    places = ", ".join("?" * len(info))
    copied = 0
    for row in old.rows(table, f"SELECT {columns} FROM {table}"):  # noqa: S608 - names are from our own schema
        if all(isinstance(value, kind) for value, kind in zip(row, kinds, strict=True)):
            connection.execute(f"INSERT OR IGNORE INTO {table}({columns}) VALUES({places})", row)
            copied += 1
    return copied


def _new_path(path: Path) -> Path:
    return path.with_name(path.name + ".salvage")


def _aside_path(path: Path, moment: str) -> Path:
    return path.with_name(f"{path.name}.damaged-{moment}")


def _free_moment(path: Path, clock: Clock) -> str:
    """The moment as part of a name that is free: several salvages may fall into one second."""
    second = f"{datetime.fromtimestamp(clock.now_ms() / 1000, tz=UTC):%Y%m%dT%H%M%SZ}"
    moment, number = second, 1
    while _aside_path(path, moment).exists():
        moment, number = f"{second}-{number}", number + 1
    return moment


def _remove(new: Path) -> None:
    for suffix in ("", "-journal"):
        new.with_name(new.name + suffix).unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
