"""Sites, devices, credentials, gateways and the registry's version."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables and start counting versions at 0."""
    op.create_table(
        "site",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("lon", sa.Float, nullable=False),
        sa.Column("lat", sa.Float, nullable=False),
        sa.Column("datum", sa.String, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_site"),
        sa.UniqueConstraint("name", "lon", "lat", "datum", name="uq_site_name_lon_lat_datum"),
        sa.CheckConstraint("datum IN ('wgs84', 'gcj02', 'bd09')", name=op.f("ck_site_datum")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "device",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("profile", sa.String, nullable=False),
        sa.Column("site_id", sa.Integer, sa.ForeignKey("site.id", name="fk_device_site_id_site")),
        sa.Column("gateway_id", sa.String, nullable=False),
        sa.Column("endpoint", sa.String),
        sa.Column("serial", sa.String),
        sa.Column("settings", sa.JSON, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("revoked", sa.BigInteger),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_device"),
    )
    op.create_index("ix_device_gateway_id", "device", ["gateway_id"])
    op.create_index(
        "uq_device_profile_serial",
        "device",
        ["profile", "serial"],
        unique=True,
        sqlite_where=sa.text("revoked IS NULL AND serial IS NOT NULL"),
    )
    op.create_table(
        "credential",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("device", sa.String, sa.ForeignKey("device.id", name="fk_credential_device_device"), nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("salt", sa.LargeBinary, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("revoked", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_credential"),
    )
    op.create_index("ix_credential_device", "credential", ["device"])
    op.create_table(
        "gateway",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("token_digest", sa.LargeBinary, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_gateway"),
    )
    counter = op.create_table(
        "registry_version",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_registry_version"),
    )
    op.bulk_insert(counter, [{"id": 1, "version": 0}])
