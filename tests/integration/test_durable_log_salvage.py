"""A damaged file never keeps a process from starting: what can be read is saved, and what is missing is told."""

from __future__ import annotations

import shutil
import sqlite3
import tracemalloc
from contextlib import closing
from pathlib import Path

import pytest

from citysense import salvage as salvaging
from citysense import wire
from citysense.clock import SetClock
from citysense.durable_log import DAMAGED, DurableLog, Entry
from citysense.errors import StorageClosed
from citysense.log_schema import Owner, step
from citysense_profiles.reading import ReadingClass

STATE, BULK = ReadingClass.STATE, ReadingClass.BULK
OWNER = Owner(name="mail", steps=(step(1, "boxes", "CREATE TABLE mail(id INTEGER PRIMARY KEY, text TEXT)"),))
PAGE = 4_096
RECORDS = 400


def make(folder: Path) -> DurableLog:
    return DurableLog(folder / "a.db", clock=SetClock(1_000), reserve_bytes=4096, owners=[OWNER])


def body(number: int) -> bytes:
    return b"body %d " % number + bytes(100 + number % 50)


def write_mail(connection: sqlite3.Connection) -> None:
    connection.executemany("INSERT INTO mail(text) VALUES(?)", [(f"mail {n}",) for n in range(50)])


async def fill(folder: Path) -> str:
    """A file with records, a cursor, and mail; the log's id."""
    log = make(folder)
    log.open()
    entries = [Entry(cls=BULK, body=body(number), device="d", time=1) for number in range(RECORDS)]
    await log.append_entries(entries, urgent=True)
    await log.advance("uplink", BULK, 100, trim=True)
    await log.tidy(write_mail)
    log.close()
    return log.spool_id


def bodies(log: DurableLog) -> list[bytes]:
    return [record.body for record in log.read(BULK, after=0, limit=10_000)]


def leaf_pages(path: Path) -> list[int]:
    """Page numbers (from 0) of the leaves of the table of records."""
    content = path.read_bytes()
    return [
        number
        for number in range(1, len(content) // PAGE)
        if content[number * PAGE] == 10 and content[number * PAGE :][:PAGE].count(b"body ") > 10
    ]


def damage(path: Path, page: int, content: bytes, at: int = 0) -> None:
    with path.open("r+b") as file:
        file.seek(page * PAGE + at)
        file.write(content)


async def test_a_page_of_nonsense_costs_its_records_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spool_id = await fill(tmp_path)
    pages = leaf_pages(tmp_path / "a.db")
    hidden = (tmp_path / "a.db").read_bytes()[pages[4] * PAGE :][:PAGE].count(b"body ")
    damage(tmp_path / "a.db", pages[4], b"\xa5" * PAGE)
    log = make(tmp_path)
    log.open()
    try:
        assert log.salvaged is not None
        assert log.salvaged.same_id
        assert log.salvaged.rows == 50
        assert log.spool_id == spool_id
        kept = bodies(log)
        assert kept == [body(n) for n in range(100, RECORDS) if body(n) in set(kept)], "in order, unaltered"
        assert hidden - 2 <= RECORDS - 100 - len(kept) <= hidden + 2
        assert log.cursor("uplink", BULK) == 100
        assert log.select("SELECT count(*) FROM mail") == [(50,)]
        await log.tend()
        (told,) = [wire.decode_body(record.body) for record in log.read(STATE, after=0, limit=10)]
        missing = RECORDS - 100 - len(kept)
        assert told == wire.Tombstone(device="", cls="bulk", reason=DAMAGED, first=0, last=1_000, count=missing)
        (report,) = [record.offset for record in log.read(STATE, after=0, limit=10)]
        assert report > RECORDS, "no offset is used again"
        assert log.salvaged.kept_as.read_bytes()[pages[4] * PAGE :][:PAGE] == b"\xa5" * PAGE
    finally:
        log.close()
    assert "saved" in caplog.text
    again = make(tmp_path)
    again.open()
    assert again.salvaged is None
    again.close()


@pytest.mark.parametrize(
    ("page", "content"),
    [(0, b"\0" * PAGE), (0, b"no database"), (1, b"\0" * PAGE), (0, b"\xff" * 100)],
    ids=["first page gone", "head gone", "second page gone", "head all ones"],
)
@pytest.mark.parametrize("at_once", [16 << 20, 1_000])
async def test_records_are_found_by_their_own_check_sums_where_sqlite_finds_nothing(
    tmp_path: Path, page: int, content: bytes, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("citysense.salvage.SCANNED_AT_ONCE", at_once)
    monkeypatch.setattr("citysense.salvage.LONGEST", 1_000)
    await fill(tmp_path)
    damage(tmp_path / "a.db", page, content)
    log = make(tmp_path)
    log.open()
    try:
        assert log.salvaged is not None
        kept = bodies(log)
        # The second page is the table's root, on which a few records stand themselves.
        assert len({body(n) for n in range(100, RECORDS)} - set(kept)) < 20
        assert kept == [body(n) for n in range(RECORDS) if body(n) in set(kept)]
        await log.append_entries([Entry(cls=BULK, body=b"new", device="d", time=1)], urgent=True)
        assert bodies(log)[-1] == b"new"
    finally:
        log.close()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE record SET offset=-125 WHERE offset=101",
        "UPDATE record SET class=77 WHERE offset=400",
        "INSERT INTO migration VALUES('mail', 9)",
        "ALTER TABLE tombstone RENAME COLUMN device TO devicf",
        "ALTER TABLE mail RENAME COLUMN text TO texu",
        "DROP TABLE tally",
    ],
)
async def test_what_sqlite_takes_for_whole_and_cannot_be_is_salvaged(tmp_path: Path, change: str) -> None:
    await fill(tmp_path)
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection, connection:
        connection.execute(change)
    log = make(tmp_path)
    log.open()
    try:
        assert log.salvaged is not None
        assert bodies(log) == [body(n) for n in range(100, RECORDS)]
        assert log.entombed == 0
    finally:
        log.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("UPDATE meta SET value='1' WHERE key='next_offset'", "next offset"),
        ("UPDATE meta SET value=7 WHERE key='next_offset'", "next offset"),
        ("DELETE FROM meta WHERE key='spool_id'", "its id"),
        ("UPDATE cursor SET offset=350", "starts again"),
        ("UPDATE tally SET count=-9 WHERE fate='appended'", "begins anew"),
        ("DELETE FROM record WHERE offset=200", "1 records of class bulk have vanished"),
    ],
)
async def test_small_faults_are_put_right_in_place_and_told(
    tmp_path: Path, change: str, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    await fill(tmp_path)
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection, connection:
        connection.execute(change)
    log = make(tmp_path)
    log.open()
    try:
        assert log.salvaged is None
        left = {body(n) for n in range(100, RECORDS)} - ({body(199)} if "vanished" in words else set())
        assert set(bodies(log)) == left
        assert log.cursor("uplink", BULK) in (100, 0)
        await log.append_entries([Entry(cls=BULK, body=b"new", device="d", time=1)], urgent=True)
        assert log.read(BULK, after=0, limit=10_000)[-1].offset > RECORDS
        assert log.entombed == ("vanished" in words)
    finally:
        log.close()
    assert words in caplog.text
    again = make(tmp_path)
    again.open()
    assert len([record for record in caplog.records if words in record.getMessage()]) == 1, "told once"
    again.close()


async def test_nothing_that_is_a_database_starts_empty_and_is_kept(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_bytes(b"no database at all, but long enough" * 100)
    log = make(tmp_path)
    log.open()
    assert bodies(log) == []
    assert log.salvaged is not None
    assert log.salvaged.kept_as.read_bytes().startswith(b"no database")
    log.close()


@pytest.mark.parametrize("at", ["a.db.salvage", "a.db-wal", "a.db", "a.db.salvaged-19700101T000001Z"])
async def test_a_salvage_that_is_killed_before_any_renaming_is_done_again_or_finished(
    tmp_path: Path, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = await left_with_a_write_ahead_log(tmp_path)
    rename = Path.rename

    class Killed(BaseException):
        pass

    def dying(self: Path, target: Path) -> Path:
        if self.name == at:
            raise Killed
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", dying)
    with closing(sqlite3.connect(left / "a.db")) as onlooker:
        # While someone else has the file open, SQLite does not fold the write-ahead log into it.
        onlooker.execute("SELECT count(*) FROM record").fetchone()
        damage(left / "a.db", 0, b"no database")
        with pytest.raises(Killed):
            make(left).open()
        monkeypatch.undo()
        again = tmp_path / "again"
        shutil.copytree(left, again)
    log = make(again)
    log.open()
    assert bodies(log)[-1] == b"in the WAL"
    assert len(bodies(log)) > 200
    log.close()
    assert not list(again.glob("*.salvage*"))
    if at != "a.db.salvage":
        aside = sorted(path.name for path in again.glob("*.damaged*"))
        assert aside == ["a.db.damaged-19700101T000001Z", "a.db.damaged-19700101T000001Z-wal"]


async def left_with_a_write_ahead_log(folder: Path) -> Path:
    """A folder as a killed process leaves it: the last commit is in the write-ahead log only."""
    (folder / "live").mkdir()
    await fill(folder / "live")
    log = make(folder / "live")
    log.open()
    await log.append_entries([Entry(cls=BULK, body=b"in the WAL", device="d", time=1)], urgent=True)
    left = folder / "left"
    shutil.copytree(folder / "live", left)
    log.close()
    return left


async def test_memory_stays_bounded_however_large_the_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("citysense.salvage.SCANNED_AT_ONCE", 1 << 18)
    monkeypatch.setattr("citysense.salvage.LONGEST", 1 << 18)
    log = make(tmp_path)
    log.open()
    for first in range(0, 12_000, 1_000):
        entries = [Entry(cls=BULK, body=b"%d" % (first + n) * 200, device="d", time=1) for n in range(1_000)]
        await log.append_entries(entries, urgent=True)
    log.close()
    size = (tmp_path / "a.db").stat().st_size
    # The lane is read to its end, and a table behind it cannot be.
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection, connection:
        connection.execute("ALTER TABLE tombstone RENAME COLUMN device TO devicf")
    tracemalloc.start()
    try:
        found = salvaging.salvage(tmp_path / "a.db", owners=[OWNER], clock=SetClock(1_000))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.records == 12_000
    assert peak < 3 << 20 < size // 2


async def test_a_page_that_goes_bad_while_running_ends_the_process_and_the_next_saves(tmp_path: Path) -> None:
    await fill(tmp_path)
    log = make(tmp_path)
    log.open()
    damage(tmp_path / "a.db", leaf_pages(tmp_path / "a.db")[4], b"\xa5" * PAGE)
    with pytest.raises(StorageClosed, match="next start"):
        bodies(log)
    log.close()
    again = make(tmp_path)
    again.open()
    assert again.salvaged is not None
    again.close()


async def test_a_large_file_is_read_through_only_after_a_fault_was_met(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(tmp_path)
    monkeypatch.setattr("citysense.log_check.MOST_CHECKED_BYTES", PAGE)
    damage(tmp_path / "a.db", leaf_pages(tmp_path / "a.db")[4], b"\xa5" * PAGE)
    for salvaged in (False, True, False):
        log = make(tmp_path)
        log.open()
        assert (log.salvaged is not None) is salvaged
        if log.salvaged is None and not list(tmp_path.glob("*.damaged-*")):
            with pytest.raises(StorageClosed):
                bodies(log)
        log.close()
    assert sorted(path.suffix for path in tmp_path.iterdir() if "damaged" not in path.name) == [".db", ".reserve"]


async def test_what_is_only_in_the_write_ahead_log_is_saved_too(tmp_path: Path) -> None:
    left = await left_with_a_write_ahead_log(tmp_path)
    damage(left / "a.db", leaf_pages(left / "a.db")[1], b"\xa5" * PAGE)
    log = make(left)
    log.open()
    assert log.salvaged is not None
    assert bodies(log)[-1] == b"in the WAL"
    log.close()


def test_two_salvages_of_one_second_keep_both_files(tmp_path: Path) -> None:
    for _ in range(2):
        (tmp_path / "a.db").write_bytes(b"nothing" * 100)
        log = make(tmp_path)
        log.open()
        log.close()
    assert len(list(tmp_path.glob("a.db.damaged-*Z*"))) == 2
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    salvaging.finish_interrupted(tmp_path / "a.db")
