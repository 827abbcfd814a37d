"""Credentials of all kinds, concentrators, revoked gateways, and orders to gateways with their history."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the columns, which are empty for what is there, and make the tables."""
    op.add_column("credential", sa.Column("fingerprint", sa.LargeBinary))
    op.add_column("credential", sa.Column("expires", sa.BigInteger))
    op.add_column("credential", sa.Column("sealed", sa.LargeBinary))
    op.add_column("device", sa.Column("concentrator", sa.String))
    op.add_column("device", sa.Column("former_gateway_id", sa.String))
    op.add_column("device", sa.Column("moved", sa.BigInteger))
    op.create_index("ix_device_concentrator", "device", ["concentrator"])
    op.add_column("gateway", sa.Column("revoked", sa.BigInteger))
    _orders()


def _orders() -> None:
    op.create_table(
        "gateway_order",
        sa.Column("number", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("id", sa.String, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("gateway", sa.String, nullable=False),
        sa.Column("device", sa.String, nullable=False),
        sa.Column("letter", sa.String),
        sa.Column("once", sa.Boolean, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("expires", sa.BigInteger),
        sa.Column("handed", sa.BigInteger),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("detail", sa.String, nullable=False),
        sa.Column("changed", sa.BigInteger, nullable=False),
        sa.Column("closed", sa.String),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_gateway_order"),
        sa.UniqueConstraint("id", name="uq_gateway_order_id"),
        sa.CheckConstraint("kind IN ('downlink', 'letter')", name=op.f("ck_gateway_order_kind")),
        sa.CheckConstraint("closed IN ('gateway', 'platform', 'person')", name=op.f("ck_gateway_order_closed")),
    )
    op.create_index("ix_gateway_order_device", "gateway_order", ["device", "number"])
    op.create_index("ix_gateway_order_letter", "gateway_order", ["letter"])
    op.create_index(
        "ix_gateway_order_open", "gateway_order", ["gateway", "number"], sqlite_where=sa.text("closed IS NULL")
    )
    op.create_table(
        "gateway_order_history",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column(
            "number",
            sa.BigInteger,
            sa.ForeignKey("gateway_order.number", name="fk_gateway_order_history_number_gateway_order"),
            nullable=False,
        ),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("detail", sa.String, nullable=False),
        sa.Column("by", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_gateway_order_history"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_gateway_order_history_number", "gateway_order_history", ["number"])
