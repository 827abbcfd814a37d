"""Whether a log's file is whole, looked at each time it is opened, and what small faults are put right in place.

A flipped bit in a record is found by the record's own check sum when it is read. This is for all else: pages whose bytes
contradict each other, numbers that cannot be, records that have vanished. Owns no table. What cannot be put right in
place raises StorageDamaged, and the file is salvaged.
"""

from __future__ import annotations

import logging
import secrets
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import google_crc32c

from citysense import lane_account
from citysense.errors import StorageDamaged
from citysense.lane_account import CLASSES
from citysense.log_schema import Owner, bring_up
from citysense.record_format import CLASS_CODES

log = logging.getLogger(__name__)

DAMAGED = "damaged"
"""Why readings were given up whose bytes are not what was written; the word stands in tombstones."""
MOST_CHECKED_BYTES = 1 << 30
"""Larger files are not read through at the start, which takes 0.2 s for a million records from memory and some seconds from
a slow disk; their faults are found as their records are read."""
_LARGEST_OFFSET = 1 << 62


def head_is_whole(path: Path) -> bool:
    """Whether the first 100 bytes are those of a file of ours (SQLite, "The Database Header"); True for an empty file.

    SQLite takes some wrong numbers there for a file that it may not write, and would say so for ever.
    """
    try:
        with path.open("rb") as file:
            head = file.read(100)
    except FileNotFoundError:
        return True
    if not head:
        return True
    versions, payload, formats = head[18:20], head[20:24], (head[44:48], head[56:60])
    return (
        len(head) == 100
        and head.startswith(b"SQLite format 3\0")
        and all(version in (1, 2) for version in versions)
        and payload == bytes((0, 64, 32, 32))
        and formats[0] in (bytes(4), b"\0\0\0\4")
        and formats[1] in (bytes(4), b"\0\0\0\1")
    )


def ask_for_check(path: Path) -> None:
    """Have the next start read the file through, however large it is: a fault was met while running."""
    _marker(path).touch()


def read_through(connection: sqlite3.Connection, path: Path) -> bool:
    """Look at every page and every key, if the file is not large or a fault was met; whether it did. Raises
    StorageDamaged."""
    pages, size = connection.execute("SELECT page_count, page_size FROM pragma_page_count, pragma_page_size").fetchone()
    if pages * size > MOST_CHECKED_BYTES and not _marker(path).exists():
        return False
    said = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if said != "ok":
        raise StorageDamaged(said.replace("\n", " "))
    if connection.execute("SELECT 1 FROM sqlite_schema WHERE name='record'").fetchone():
        _keys_are_in_order(connection)
    _marker(path).unlink(missing_ok=True)
    return True


def tables_are_whole(connection: sqlite3.Connection, owners: Sequence[Owner]) -> None:
    """Whether the tables have the columns that the steps make. A change of one letter in a definition makes another table,
    which takes everything and gives nothing back. Raises StorageDamaged."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as fresh:
        fresh.execute("BEGIN IMMEDIATE")
        bring_up(fresh, owners)
        expected = _columns(fresh)
    found = _columns(connection)
    changed = sorted(table for table, columns in expected.items() if found.get(table) != columns)
    if changed:
        raise StorageDamaged(f"the columns of {', '.join(changed)} have changed by themselves")


def _columns(connection: sqlite3.Connection) -> dict[str, list[tuple[str, str, int]]]:
    """Name, type and place in the key of every column, by table."""
    columns: dict[str, list[tuple[str, str, int]]] = {}
    for table, name, kind, key in connection.execute(
        "SELECT t.name, c.name, c.type, c.pk FROM sqlite_schema AS t, pragma_table_info(t.name) AS c"
        " WHERE t.type='table' AND t.name NOT LIKE 'sqlite_%' ORDER BY t.name, c.cid"
    ):
        columns.setdefault(table, []).append((name, kind, key))
    return columns


def put_right(connection: sqlite3.Connection, name: str) -> None:
    """Mend in place what the records say of themselves and one another."""
    _mend_id(connection, name)
    _mend_next_offset(connection, name)
    _mend_cursors(connection, name)


def cursor_checksum(name: str, code: int, offset: int) -> int:
    """What stands beside a cursor: a cursor that has jumped ahead by itself would pass records over in silence."""
    return int(google_crc32c.value(f"{name}/{code}/{offset}".encode()))


def _marker(path: Path) -> Path:
    return path.with_name(path.name + ".check")


def _keys_are_in_order(connection: sqlite3.Connection) -> None:
    """A key that has changed is not found again by looking it up, and hides others; quick_check does not see it in the
    SQLite of Debian 12. Raises StorageDamaged."""
    before = (0, 0)
    for code, offset in connection.execute("SELECT class, offset FROM record"):
        if code not in CLASSES or not isinstance(offset, int) or offset < 1 or (code, offset) <= before:
            raise StorageDamaged(f"the record with offset {offset!r} of class {code!r} stands behind {before}")
        before = (code, offset)


def _mend_id(connection: sqlite3.Connection, name: str) -> None:
    """Under a new id at worst what was not yet answered for is delivered twice."""
    row = connection.execute("SELECT value FROM meta WHERE key='spool_id'").fetchone()
    if row is None or not isinstance(row[0], str) or not row[0].isalnum():
        log.error("%s: its id is damaged; it gets a new one", name)
        connection.execute("INSERT OR REPLACE INTO meta VALUES('spool_id', ?)", (secrets.token_hex(16),))


def _mend_next_offset(connection: sqlite3.Connection, name: str) -> None:
    """An offset must never be used twice: the next one lies behind all that can be seen."""
    row = connection.execute("SELECT value FROM meta WHERE key='next_offset'").fetchone()
    highest = connection.execute(
        "SELECT max((SELECT coalesce(max(offset), 0) FROM record WHERE class=0),"
        " (SELECT coalesce(max(offset), 0) FROM record WHERE class=1),"
        " (SELECT coalesce(max(offset), 0) FROM record WHERE class=2),"
        " (SELECT coalesce(max(offset), 0) FROM damaged WHERE offset<?1),"
        " (SELECT coalesce(max(offset), 0) FROM cursor WHERE offset<?1),"
        " (SELECT coalesce(sum(count), 0) FROM tally WHERE fate='appended' AND count<?1))",
        (_LARGEST_OFFSET,),
    ).fetchone()[0]
    value = row[0] if row else None
    if isinstance(value, int) and highest < value < _LARGEST_OFFSET:
        return
    log.error("%s: the next offset was %r behind %d; mended", name, value, highest)
    connection.execute("INSERT OR REPLACE INTO meta VALUES('next_offset', ?)", (highest + 1,))


def _mend_cursors(connection: sqlite3.Connection, name: str) -> None:
    """A cursor that is not what was written starts again: repeats are recognised behind every reader, gaps are not."""
    rows = connection.execute("SELECT name, class, offset, checksum FROM cursor").fetchall()
    for reader, code, offset, checksum in rows:
        # Empty in rows of the release before, which had no check sum.
        if checksum is None or checksum == cursor_checksum(reader, code, offset):
            continue
        log.error("%s: the cursor of %r in class %r is damaged; its reader starts again", name, reader, code)
        connection.execute("DELETE FROM cursor WHERE name IS ? AND class IS ?", (reader, code))


def entomb_vanished(connection: sqlite3.Connection, name: str, now_ms: int) -> int:
    """Hold the account of each lane against what is there; the number of records that are missing, which are entombed."""
    vanished = 0
    rows = connection.execute(lane_account.ACCOUNTS).fetchall()
    for cls, account in lane_account.accounts(rows).items():
        code = CLASS_CODES[cls]
        if account.missing == 0:
            continue
        if 0 < account.missing <= account.appended < _LARGEST_OFFSET:
            log.error("%s: %d records of class %s have vanished", name, account.missing, cls)
            lane_account.entomb(
                connection, device="", code=code, reason=DAMAGED, first=0, last=now_ms, records=account.missing
            )
            lane_account.count(connection, lane_account.SET_ASIDE, code, account.missing)
            vanished += account.missing
        else:
            log.error("%s: the account of class %s contradicts itself; it begins anew", name, cls)
            connection.execute("DELETE FROM tally WHERE class=?", (code,))
            lane_account.count(connection, lane_account.APPENDED, code, account.present)
    return vanished
