"""The one SQLAlchemy metadata of city.db; each feature adds its tables in its own `tables.py`."""

from __future__ import annotations

from sqlalchemy import MetaData

# Named constraints, so that a migration can drop one by its name on every database.
metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_N_label)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)
