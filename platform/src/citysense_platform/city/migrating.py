"""Brings city.db to the schema that this version of the product needs.

Owns running the migrations that ship in `city/migrations`, without a configuration file and without printing. Must not
contain a migration.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine

from citysense.errors import SetupError, StorageError

FOLDER = Path(__file__).with_name("migrations")


def migrate(engine: Engine, path: Path) -> None:
    """Run what is missing up to the newest migration, all in one transaction; nothing if nothing is missing.

    Raises SetupError if the file is newer than this version; errors of the database pass as SQLAlchemy's.
    """
    config = Config(attributes={})
    # Config is a ConfigParser underneath: a percent sign of a folder's name must be doubled.
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    with engine.connect() as connection:
        # Rebuilding a table drops it, which would carry its children along. The switch works outside transactions only.
        _foreign_keys(connection, on=False)
        try:
            with connection.begin():
                if _is_behind(connection, ScriptDirectory.from_config(config), path):
                    config.attributes["connection"] = connection
                    command.upgrade(config, "head")
                    _check_references(connection, path)
        finally:
            _foreign_keys(connection, on=True)


def _foreign_keys(connection: Connection, *, on: bool) -> None:
    # Straight to the driver: SQLAlchemy would begin a transaction first.
    cursor = connection.connection.cursor()
    cursor.execute(f"PRAGMA foreign_keys={'ON' if on else 'OFF'}")
    cursor.close()


def _is_behind(connection: Connection, script: ScriptDirectory, path: Path) -> bool:
    heads = set(MigrationContext.configure(connection).get_current_heads())
    known = {revision.revision for revision in script.walk_revisions()}
    if strange := sorted(heads - known):
        newest = ", ".join(sorted(script.get_heads()))
        raise SetupError(
            f"{path} was written by a newer version of citysense (schema {', '.join(strange)}; this version knows up "
            f"to {newest}); install that version, or restore the backup that was made before it"
        )
    return heads != set(script.get_heads())


def _check_references(connection: Connection, path: Path) -> None:
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
    if broken:
        tables = ", ".join(sorted({str(row[0]) for row in broken}))
        raise StorageError(f"{path}: the migration left rows without their parents in {tables}; nothing was changed")
