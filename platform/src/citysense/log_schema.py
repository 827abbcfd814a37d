"""The tables of a durable log, as numbered steps, and how a file is brought up to the newest of them.

Each step commits by itself together with its number: who is killed midway finds the file as it was before that step, and
the next start goes on from there. Steps only ever add (tables, columns that may be empty), so that the release before
can still read a file; it does not write one, because it does not know what else has to be kept right. Each owner of
further tables in the file has steps and a count of its own. Owns the numbers; knows nothing of records.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from citysense.errors import StorageDamaged, StorageError

LOG = "log"
"""Owner of the log's own tables; its number also stands in the file's head, as PRAGMA user_version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One change of the tables. `number` counts from 1 without gaps; `apply` runs in a transaction of its own."""

    number: int
    name: str
    apply: Callable[[sqlite3.Connection], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Someone with tables in a log's file, and the steps that made them what they are, in order."""

    name: str
    steps: Sequence[Step]


def step(number: int, name: str, *statements: str) -> Step:
    """A step that runs `statements`."""

    def apply(connection: sqlite3.Connection) -> None:
        for statement in statements:
            connection.execute(statement)

    return Step(number=number, name=name, apply=apply)


def bring_up(connection: sqlite3.Connection, owners: Sequence[Owner]) -> None:
    """Take every step that is missing, the log's own first. Called in a transaction, and returns in another.

    Raises StorageError when the file was written by a newer release; then nothing was changed.
    """
    done = versions(connection)
    everyone = (LOG_OWNER, *owners)
    for owner in everyone:
        if done.get(owner.name, 0) > len(owner.steps):
            raise StorageError(
                f"the file was written by a newer release (tables of {owner.name!r} at number {done[owner.name]}, this"
                f" release knows {len(owner.steps)}); start that release, or restore an older copy of the file"
            )
    for owner in everyone:
        for missing in owner.steps[done.get(owner.name, 0) :]:
            _take(connection, owner, missing)


def _take(connection: sqlite3.Connection, owner: Owner, missing: Step) -> None:
    try:
        missing.apply(connection)
        connection.execute("INSERT INTO migration VALUES(?, ?)", (owner.name, missing.number))
    except sqlite3.IntegrityError as e:
        raise StorageDamaged(f"its steps are not what their numbers say ({e})") from e
    except sqlite3.OperationalError as e:
        if any(words in str(e) for words in ("already exists", "no such table", "no such column", "duplicate column")):
            raise StorageDamaged(f"its tables are not what its numbers say ({e})") from e
        raise
    if owner is LOG_OWNER:
        connection.execute(f"PRAGMA user_version={missing.number}")
    connection.execute("COMMIT")
    connection.execute("BEGIN IMMEDIATE")


def versions(connection: sqlite3.Connection) -> dict[str, int]:
    """Number of the last step of each owner. Raises StorageDamaged when steps are missing between the first and the last:
    a damaged number must not be taken for a newer release."""
    if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name='migration'").fetchone():
        return {}
    rows = connection.execute("SELECT owner, count(*), max(number) FROM migration GROUP BY owner").fetchall()
    for owner, steps, last in rows:
        if steps != last:
            raise StorageDamaged(f"{steps} steps of {owner!r} were taken, the last with number {last}")
    return {owner: last for owner, _, last in rows}


def _first_tables(connection: sqlite3.Connection) -> None:
    for statement in (
        # Files of the time before the numbers have the first five of these.
        "CREATE TABLE IF NOT EXISTS record(class INTEGER, offset INTEGER, blob BLOB, PRIMARY KEY(class, offset)) WITHOUT ROWID",
        "CREATE TABLE IF NOT EXISTS meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID",
        "CREATE TABLE IF NOT EXISTS cursor(name TEXT, class INTEGER, offset INTEGER, PRIMARY KEY(name, class)) WITHOUT ROWID",
        "CREATE TABLE IF NOT EXISTS tombstone(device TEXT, class INTEGER, reason TEXT, first INTEGER, last INTEGER,"
        " count INTEGER, PRIMARY KEY(device, class, reason)) WITHOUT ROWID",
        "CREATE TABLE IF NOT EXISTS damaged(class INTEGER, offset INTEGER, blob BLOB, PRIMARY KEY(class, offset)) WITHOUT ROWID",
        "CREATE TABLE IF NOT EXISTS migration(owner TEXT, number INTEGER, PRIMARY KEY(owner, number)) WITHOUT ROWID",
    ):
        connection.execute(statement)
    connection.execute("INSERT OR IGNORE INTO meta VALUES('spool_id', ?)", (secrets.token_hex(16),))
    connection.execute("INSERT OR IGNORE INTO meta VALUES('next_offset', 1)")


def _tally(connection: sqlite3.Connection) -> None:
    connection.execute(
        "CREATE TABLE tally(fate TEXT, class INTEGER, count INTEGER, PRIMARY KEY(fate, class)) WITHOUT ROWID"
    )
    # What was appended and handed over before nobody counted; the account begins with what is there.
    connection.execute("INSERT INTO tally SELECT 'appended', class, count(*) FROM record GROUP BY class")
    connection.execute("ALTER TABLE cursor ADD COLUMN checksum INTEGER")


LOG_OWNER = Owner(
    name=LOG,
    steps=(
        Step(number=1, name="records, cursors and tombstones", apply=_first_tables),
        Step(number=2, name="an account of every lane, and a check sum of cursors", apply=_tally),
    ),
)
