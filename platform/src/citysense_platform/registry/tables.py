"""The registry's tables in city.db. Times are ms since 1970 UTC. Rows are revoked, never deleted."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    UniqueConstraint,
    text,
)

from citysense_platform.city.metadata import metadata

site = Table(
    "site",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String, nullable=False),
    Column("lon", Float, nullable=False),
    Column("lat", Float, nullable=False),
    Column("datum", String, nullable=False),
    Column("created", BigInteger, nullable=False),
    UniqueConstraint("name", "lon", "lat", "datum"),
    CheckConstraint("datum IN ('wgs84', 'gcj02', 'bd09')", name="datum"),
    # A site's id stands in telemetry for ever: a number is not given out twice.
    sqlite_autoincrement=True,
)

device = Table(
    "device",
    metadata,
    Column("id", String, primary_key=True),
    Column("profile", String, nullable=False),
    Column("site_id", Integer, ForeignKey("site.id")),
    Column("gateway_id", String, nullable=False, index=True),
    Column("endpoint", String),
    Column("serial", String),
    Column("settings", JSON, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("revoked", BigInteger),
    # The registry's version that the last change of this row brought about.
    Column("version", BigInteger, nullable=False),
)

# Hardware that was revoked may come back under a new id.
Index(
    "uq_device_profile_serial",
    device.c.profile,
    device.c.serial,
    unique=True,
    sqlite_where=text("revoked IS NULL AND serial IS NOT NULL"),
)

credential = Table(
    "credential",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("device", String, ForeignKey("device.id"), nullable=False, index=True),
    Column("kind", String, nullable=False),
    Column("salt", LargeBinary, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("revoked", BigInteger),
)

gateway = Table(
    "gateway",
    metadata,
    Column("id", String, primary_key=True),
    Column("token_digest", LargeBinary, nullable=False),
    Column("created", BigInteger, nullable=False),
)

registry_version = Table(
    "registry_version",
    metadata,
    # One row, id 1.
    Column("id", Integer, primary_key=True),
    Column("version", BigInteger, nullable=False),
)
