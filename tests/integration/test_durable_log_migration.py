"""Numbered steps of a log's tables: killed at any statement nothing is lost, a newer file is refused, an older release reads."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from citysense.clock import SetClock
from citysense.durable_log import DurableLog, Entry
from citysense.errors import StorageDamaged, StorageError
from citysense.log_schema import LOG_OWNER, Owner, bring_up, step, versions
from citysense_profiles.reading import ReadingClass

BULK, STATE = ReadingClass.BULK, ReadingClass.STATE

BEFORE_NUMBERS = (
    "CREATE TABLE record(class INTEGER, offset INTEGER, blob BLOB, PRIMARY KEY(class, offset)) WITHOUT ROWID",
    "CREATE TABLE meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID",
    "CREATE TABLE cursor(name TEXT, class INTEGER, offset INTEGER, PRIMARY KEY(name, class)) WITHOUT ROWID",
    "CREATE TABLE tombstone(device TEXT, class INTEGER, reason TEXT, first INTEGER, last INTEGER, count INTEGER,"
    " PRIMARY KEY(device, class, reason)) WITHOUT ROWID",
    "CREATE TABLE damaged(class INTEGER, offset INTEGER, blob BLOB, PRIMARY KEY(class, offset)) WITHOUT ROWID",
    "INSERT INTO meta VALUES('spool_id', 'abcdef0123456789abcdef0123456789')",
)
"""What the first release wrote."""
READS_OF_THE_RELEASE_BEFORE = (
    "SELECT offset, blob FROM record WHERE class=2 AND offset>0 ORDER BY offset LIMIT 500",
    "SELECT offset FROM cursor WHERE name='uplink' AND class=2",
    "SELECT device, class, reason, first, last, count FROM tombstone",
    "SELECT value FROM meta WHERE key='next_offset'",
    "SELECT value FROM meta WHERE key='spool_id'",
    "SELECT class, offset, blob FROM damaged",
)
OWNER = Owner(
    name="repeats",
    steps=(
        step(1, "keys", "CREATE TABLE key(id INTEGER PRIMARY KEY, key BLOB UNIQUE)"),
        step(2, "when", "ALTER TABLE key ADD COLUMN seen INTEGER", "UPDATE key SET seen=0"),
    ),
)

MIGRATE = """
import os, shutil, signal, sys
from pathlib import Path
from citysense.clock import SetClock
from citysense.durable_log import DurableLog
from citysense.log_schema import Owner, step
import citysense.single_writer as writer

OWNER = Owner(name="repeats", steps=(
    step(1, "keys", "CREATE TABLE key(id INTEGER PRIMARY KEY, key BLOB UNIQUE)"),
    step(2, "when", "ALTER TABLE key ADD COLUMN seen INTEGER", "UPDATE key SET seen=0"),
))
opens = writer.open_for_writing

def migrate(folder, left):
    def traced(statement):
        # Called before each statement runs, also before each of those that a statement of ours is made of.
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def opening(path, synchronous):
        connection = opens(path, synchronous)
        connection.set_trace_callback(traced)
        return connection

    writer.open_for_writing = opening
    log = DurableLog(folder / "a.db", clock=SetClock(0), reserve_bytes=4096, owners=[OWNER])
    log.open()
    log.close()

root = Path(sys.argv[1])
for place in range(1, 300):
    shutil.copytree(root / "old", root / str(place))
    child = os.fork()
    if child == 0:
        migrate(root / str(place), place)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != -signal.SIGKILL:
        break
    print(place)
"""


def open_log(folder: Path, owners: Sequence[Owner] = (OWNER,)) -> DurableLog:
    log = DurableLog(folder / "a.db", clock=SetClock(0), reserve_bytes=4096, owners=owners)
    log.open()
    return log


def sql(folder: Path, statement: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(folder / "a.db")) as connection, connection:
        return connection.execute(statement).fetchall()


async def old_file(folder: Path) -> list[bytes]:
    """A file of the first release with records in it; their bodies."""
    folder.mkdir(exist_ok=True)
    bodies = [b"%d" % number for number in range(20)]
    log = open_log(folder, ())
    await log.append_entries([Entry(cls=BULK, body=body, device="d", time=1) for body in bodies], urgent=True)
    await log.advance("uplink", BULK, 5)
    log.close()
    rows = sql(folder, "SELECT class, offset, blob FROM record")
    (folder / "a.db").unlink()
    with closing(sqlite3.connect(folder / "a.db")) as connection, connection:
        connection.execute("PRAGMA journal_mode=WAL")
        for statement in BEFORE_NUMBERS:
            connection.execute(statement)
        connection.execute("INSERT INTO meta VALUES('next_offset', 21)")
        connection.executemany("INSERT INTO record VALUES(?, ?, ?)", rows)
        connection.execute("INSERT INTO cursor VALUES('uplink', 2, 5)")
    return bodies


def read(log: DurableLog) -> list[bytes]:
    return [record.body for record in log.read(BULK, after=0, limit=100)]


async def test_a_file_of_the_first_release_is_brought_up_and_keeps_everything(tmp_path: Path) -> None:
    bodies = await old_file(tmp_path)
    log = open_log(tmp_path)
    try:
        assert read(log) == bodies
        assert log.spool_id == "abcdef0123456789abcdef0123456789"
        assert log.cursor("uplink", BULK) == 5
        assert (await log.accounts())[BULK].missing == 0
        await log.advance("uplink", BULK, 10, trim=True)
        assert read(log) == bodies[10:]
        assert (await log.accounts())[BULK].missing == 0
    finally:
        log.close()
    assert sql(tmp_path, "PRAGMA user_version") == [(len(LOG_OWNER.steps),)]
    assert sql(tmp_path, "SELECT owner, max(number) FROM migration GROUP BY owner") == [("log", 2), ("repeats", 2)]


async def test_killed_at_any_statement_of_a_migration_nothing_is_lost(tmp_path: Path) -> None:
    bodies = await old_file(tmp_path / "old")
    done = subprocess.run(
        [sys.executable, "-c", MIGRATE, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True
    )
    killed = done.stdout.split()
    assert len(killed) > 25, "every statement was one to be killed at"
    for place in killed:
        folder = tmp_path / place
        log = open_log(folder)
        try:
            assert read(log) == bodies, place
            assert log.select("SELECT count(*) FROM key WHERE seen IS NULL") == [(0,)]
            assert log.salvaged is None
            assert log.entombed == 0
        finally:
            log.close()


async def test_the_release_before_still_reads(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    await log.append_entries([Entry(cls=BULK, body=b"x", device="d", time=1)], urgent=True)
    await log.advance("uplink", BULK, 1)
    log.close()
    for statement in READS_OF_THE_RELEASE_BEFORE:
        sql(tmp_path, statement)
    assert sql(tmp_path, READS_OF_THE_RELEASE_BEFORE[1]) == [(1,)]


@pytest.mark.parametrize("owner", ["log", "repeats"])
def test_a_newer_file_is_refused_with_a_sentence_and_not_touched(tmp_path: Path, owner: str) -> None:
    open_log(tmp_path).close()
    sql(tmp_path, f"INSERT INTO migration VALUES('{owner}', 3)")
    before = (tmp_path / "a.db").read_bytes()
    with pytest.raises(StorageError, match=r"newer release .* start that release") as refused:
        open_log(tmp_path)
    assert not isinstance(refused.value, StorageDamaged)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.db", "a.reserve"]
    assert (tmp_path / "a.db").read_bytes()[100:] == before[100:]


def test_a_damaged_number_is_no_newer_release(tmp_path: Path) -> None:
    open_log(tmp_path).close()
    sql(tmp_path, "UPDATE migration SET number=66 WHERE owner='repeats' AND number=2")
    log = open_log(tmp_path)
    assert log.salvaged is not None
    log.close()


def test_an_owner_joins_and_leaves_a_file(tmp_path: Path) -> None:
    open_log(tmp_path, ()).close()
    open_log(tmp_path).close()
    open_log(tmp_path, ()).close()
    with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as connection:
        assert versions(connection) == {"log": 2, "repeats": 2}
        connection.execute("BEGIN IMMEDIATE")
        bring_up(connection, [OWNER])
        connection.execute("COMMIT")
        assert connection.execute("SELECT count(*) FROM key").fetchone() == (0,)


def test_steps_are_numbered_without_gaps() -> None:
    assert [taken.number for taken in LOG_OWNER.steps] == list(range(1, len(LOG_OWNER.steps) + 1))
