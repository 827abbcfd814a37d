"""city.db: its migrations, its single writer, and what callers see when the disk or the work says no."""

from __future__ import annotations

import asyncio
import importlib
import pkgutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import sqlalchemy
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text

import citysense_platform
from citysense.crash_points import CrashPoints
from citysense.errors import SetupError, StorageClosed, StorageError, StorageFull
from citysense_platform.city.database import City
from citysense_platform.city.metadata import metadata
from citysense_platform.city.migrating import FOLDER
from citysense_platform.registry import rows
from citysense_platform.registry.device import Credential, CredentialKind, Gateway


@pytest.fixture
async def city(tmp_path: Path) -> AsyncIterator[City]:
    city = City(f"sqlite:///{tmp_path}/city.db")
    city.open()
    yield city
    city.close()


def insert(name: str) -> Callable[[Connection], None]:
    def work(connection: Connection) -> None:
        connection.execute(text("INSERT INTO gateway (id, token_digest, created) VALUES (:id, x'00', 0)"), {"id": name})

    return work


def gateways(connection: Connection) -> list[str]:
    return [row[0] for row in connection.execute(text("SELECT id FROM gateway ORDER BY id"))]


async def test_what_was_written_is_read_back_after_reopening(tmp_path: Path) -> None:
    for round_ in range(2):
        city = City(f"sqlite:///{tmp_path}/city.db")
        city.open()
        await city.write(insert(f"gw-{round_}"))
        city.close()
    city.open()
    assert await city.read(gateways) == ["gw-0", "gw-1"]
    city.close()


async def test_every_promise_of_the_file_is_switched_on(city: City) -> None:
    def pragmas(connection: Connection) -> list[object]:
        names = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        return [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names]

    assert await city.write(pragmas) == ["wal", 2, 1, 5000]


def test_file_is_its_owners_only(tmp_path: Path) -> None:
    city = City(f"sqlite:///{tmp_path}/city.db")
    city.open()
    modes = {entry.name: entry.stat().st_mode & 0o777 for entry in tmp_path.iterdir()}
    city.close()
    assert modes == dict.fromkeys(("city.db", "city.db-wal", "city.db-shm"), 0o600)


async def test_work_that_raises_leaves_nothing_behind(city: City) -> None:
    def half(connection: Connection) -> None:
        insert("gw-1")(connection)
        raise LookupError("changed my mind")

    with pytest.raises(LookupError, match="changed my mind"):
        await city.write(half)
    assert await city.read(gateways) == []


async def test_work_has_the_write_lock_before_it_looks(city: City) -> None:
    def look(connection: Connection) -> None:
        other = sqlite3.connect(city.path, timeout=0, isolation_level=None)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        other.close()

    await city.write(look)


async def test_writes_run_one_after_the_other_in_the_order_asked(city: City) -> None:
    inside: list[int] = []
    most = 0

    def work(n: int) -> int:
        nonlocal most
        inside.append(n)
        most = max(most, len(inside))
        inside.remove(n)
        return n

    order: list[int] = []

    async def write(n: int) -> None:
        order.append(await city.write(lambda _: work(n)))

    await asyncio.gather(*(write(n) for n in range(50)))
    assert order == list(range(50))
    assert most == 1


async def test_a_reader_cannot_write(city: City) -> None:
    with pytest.raises(StorageError, match="readonly"):
        await city.read(insert("gw-1"))
    assert await city.read(gateways) == []


async def test_broken_reference_is_refused(city: City) -> None:
    def orphan(connection: Connection) -> None:
        columns = "device, kind, salt, digest, created"
        connection.execute(text(f"INSERT INTO credential ({columns}) VALUES ('ghost', 'password', x'', x'', 0)"))

    with pytest.raises(StorageError, match="FOREIGN KEY"):
        await city.write(orphan)


async def test_full_disk_is_told_apart_and_heals(city: City) -> None:
    def limit(connection: Connection, spare: int) -> None:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages + spare}")

    def fill(connection: Connection) -> None:
        connection.execute(text("INSERT INTO gateway (id, token_digest, created) VALUES ('big', zeroblob(1000000), 0)"))

    await city.write(lambda c: limit(c, 0))
    with pytest.raises(StorageFull, match=r"city\.db: no space left"):
        await city.write(fill)
    await city.write(lambda c: limit(c, 1000))
    await city.write(fill)
    assert await city.read(gateways) == ["big"]


@pytest.mark.parametrize(("fault", "refused"), [("database or disk is full", False), ("disk I/O error", True)])
def test_a_full_disk_stops_no_start_and_another_fault_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, refused: bool
) -> None:
    def fails(_: sqlite3.Connection) -> None:
        raise sqlite3.OperationalError(fault)

    monkeypatch.setattr("citysense_platform.city.database.write_something", fails)
    city = City(f"sqlite:///{tmp_path}/city.db")
    if refused:
        with pytest.raises(StorageError, match="I/O"):
            city.open()
    else:
        city.open()
    city.close()


async def test_crash_points_stand_on_both_sides_of_the_commit(tmp_path: Path) -> None:
    seen: dict[str, list[str]] = {}
    for point in ("rules.before_commit", "rules.after_commit"):
        file = tmp_path / f"{point}.db"

        def look(point: str = point, file: Path = file) -> None:
            with sqlite3.connect(file) as other:
                seen[point] = [row[0] for row in other.execute("SELECT id FROM gateway")]
            other.close()

        city = City(f"sqlite:///{file}", crash=CrashPoints(point, die=look))
        city.open()
        await city.write(insert("gw-1"), point="rules")
        city.close()
    assert seen == {"rules.before_commit": [], "rules.after_commit": ["gw-1"]}


async def test_closed_database_says_so(tmp_path: Path) -> None:
    city = City(f"sqlite:///{tmp_path}/city.db")
    with pytest.raises(StorageClosed):
        await city.read(gateways)
    city.open()
    city.close()
    city.close()
    with pytest.raises(StorageClosed):
        await city.write(lambda _: None)


def test_newer_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "city.db"
    city = City(f"sqlite:///{file}")
    city.open()
    city.close()
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    before = file.read_bytes()
    with pytest.raises(SetupError, match="newer version of citysense"):
        city.open()
    assert file.read_bytes() == before


def test_strange_files_and_folders_get_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"nowhere does not exist"):
        City(f"sqlite:///{tmp_path}/nowhere/city.db").open()
    (tmp_path / "text.db").write_text("this is no database, whatever its name says" * 100)
    with pytest.raises(StorageError, match="damaged"):
        City(f"sqlite:///{tmp_path}/text.db").open()
    with pytest.raises(SetupError, match="kept in a SQLite file") as refused:
        City("postgresql://someone:hush@db/city")
    assert "hush" not in str(refused.value)


def test_folder_with_a_percent_sign_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "100%").mkdir()
    city = City(f"sqlite:///{tmp_path}/100%/city.db")
    city.open()
    city.close()
    assert (tmp_path / "100%" / "city.db").stat().st_size > 0


def test_migrations_and_tables_agree(tmp_path: Path) -> None:
    for module in pkgutil.walk_packages(citysense_platform.__path__, "citysense_platform."):
        if module.name.endswith(".tables"):
            importlib.import_module(module.name)
    assert {"site", "device", "credential", "gateway"} <= metadata.tables.keys()
    city = City(f"sqlite:///{tmp_path}/city.db")
    city.open()
    city.close()
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/city.db")
    with engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata)
    engine.dispose()
    assert differences == []


def test_migrating_prints_nothing_and_twice_is_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def schema() -> list[tuple[object, ...]]:
        connection = sqlite3.connect(tmp_path / "city.db")
        rows = connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()
        connection.close()
        return rows

    city = City(f"sqlite:///{tmp_path}/city.db")
    city.open()
    city.close()
    first = schema()
    city.open()
    city.close()
    assert schema() == first
    assert capfd.readouterr() == ("", "")


async def test_devices_of_the_schema_before_keep_their_credentials(tmp_path: Path) -> None:
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/city.db")
    with engine.begin() as connection:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(FOLDER))
        config.set_main_option("path_separator", "os")
        command.upgrade(config, "0002")
        for statement in (
            "INSERT INTO device VALUES ('gauge-1', 'p', NULL, 'gw-1', NULL, NULL, '{}', 1, NULL, 1)",
            "INSERT INTO credential VALUES (1, 'gauge-1', 'password', x'01', x'02', 1, NULL)",
            "INSERT INTO gateway VALUES ('gw-1', x'03', 1)",
        ):
            connection.execute(text(statement))
    engine.dispose()
    city = City(f"sqlite:///{tmp_path}/city.db")
    city.open()
    device = await city.read(lambda connection: rows.find_device(connection, "gauge-1"))
    gateway = await city.read(lambda connection: rows.find_gateway(connection, "gw-1"))
    city.close()
    assert device is not None
    assert device.credential == Credential(kind=CredentialKind.PASSWORD, number=1, salt=b"\x01", digest=b"\x02")
    assert device.concentrator is None
    assert gateway == Gateway(id="gw-1", created=1, revoked=None, devices=1)
