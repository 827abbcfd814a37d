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
    # The device that speaks for this one; devices are never deleted, so it stays readable.
    Column("concentrator", String, index=True),
    # The gateway it was moved away from last, and when.
    Column("former_gateway_id", String),
    Column("moved", BigInteger),
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
    # SHA-256 of a certificate in DER, and when it ends.
    Column("fingerprint", LargeBinary),
    Column("expires", BigInteger),
    # Keys that the gateway needs in clear, under the platform's own key.
    Column("sealed", LargeBinary),
)

gateway = Table(
    "gateway",
    metadata,
    Column("id", String, primary_key=True),
    Column("token_digest", LargeBinary, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("revoked", BigInteger),
)

registry_version = Table(
    "registry_version",
    metadata,
    # One row, id 1.
    Column("id", Integer, primary_key=True),
    Column("version", BigInteger, nullable=False),
)
