"""Tables of the orders to gateways in city.db. Times are ms since 1970 UTC. `gateway_order` holds the present,
`gateway_order_history` all of it."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    text,
)

from citysense_platform.city.metadata import metadata

gateway_order = Table(
    "gateway_order",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("id", String, nullable=False, unique=True),
    Column("kind", String, nullable=False),
    Column("gateway", String, nullable=False),
    # The device it is about; empty for a letter of no known device.
    Column("device", String, nullable=False),
    # The dead letter's id, for an order to read one again.
    Column("letter", String, index=True),
    Column("once", Boolean, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("expires", BigInteger),
    # When the gateway was first given it.
    Column("handed", BigInteger),
    Column("state", String, nullable=False),
    Column("detail", String, nullable=False),
    Column("changed", BigInteger, nullable=False),
    # Who said the last word on it; null while it is open.
    Column("closed", String),
    # The order as the gateway gets it, in MessagePack; a letter's is emptied once it is closed.
    Column("body", LargeBinary, nullable=False),
    CheckConstraint("kind IN ('downlink', 'letter')", name="kind"),
    CheckConstraint("closed IN ('gateway', 'platform', 'person')", name="closed"),
    Index("ix_gateway_order_device", "device", "number"),
    Index("ix_gateway_order_open", "gateway", "number", sqlite_where=text("closed IS NULL")),
)

gateway_order_history = Table(
    "gateway_order_history",
    metadata,
    # Rows are added, never changed or removed.
    Column("id", Integer, primary_key=True),
    Column("number", BigInteger, ForeignKey("gateway_order.number"), nullable=False, index=True),
    # When it happened: for what a gateway reports, by that gateway's clock.
    Column("at", BigInteger, nullable=False),
    Column("state", String, nullable=False),
    Column("detail", String, nullable=False),
    # gateway, platform or person.
    Column("by", String, nullable=False),
    sqlite_autoincrement=True,
)
