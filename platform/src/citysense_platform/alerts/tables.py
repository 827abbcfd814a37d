"""Tables of the alerts in city.db. Times are ms since 1970 UTC. `alert` holds the present, `alert_history` all of it."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    UniqueConstraint,
)

from citysense_platform.city.metadata import metadata

alert = Table(
    "alert",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("rule", String, nullable=False),
    Column("rule_version", String, nullable=False),
    Column("device", String, nullable=False),
    Column("site", String, nullable=False),
    Column("episode", Integer, nullable=False),
    Column("colour", String, nullable=False),
    Column("peak_colour", String, nullable=False),
    Column("state", String, nullable=False),
    # A number, a text or a truth value, as the reading had it.
    Column("value", JSON, nullable=False),
    Column("unit", String, nullable=False),
    Column("data_time", BigInteger, nullable=False),
    Column("received", BigInteger, nullable=False),
    Column("opened", BigInteger, nullable=False),
    Column("resolved", BigInteger),
    # {"zh", "en"}: why it has the colour it has.
    Column("reason", JSON, nullable=False),
    UniqueConstraint("rule", "device", "episode"),
    CheckConstraint("state IN ('firing', 'acknowledged', 'resolved')", name="state"),
    CheckConstraint("colour IN ('blue', 'yellow', 'orange', 'red')", name="colour"),
    Index(None, "state", "colour"),
    Index(None, "device"),
    # People name alerts by number: one is not given out twice.
    sqlite_autoincrement=True,
)

alert_history = Table(
    "alert_history",
    metadata,
    # Rows are added, never changed or removed.
    Column("id", Integer, primary_key=True),
    Column("alert_id", Integer, ForeignKey("alert.id"), nullable=False, index=True),
    Column("at", BigInteger, nullable=False),
    Column("kind", String, nullable=False),
    Column("colour", String, nullable=False),
    Column("value", JSON, nullable=False),
    Column("data_time", BigInteger, nullable=False),
    Column("received", BigInteger, nullable=False),
    Column("decision", String, nullable=False),
    Column("decision_reason", String, nullable=False),
    Column("reason", JSON, nullable=False),
    sqlite_autoincrement=True,
)
