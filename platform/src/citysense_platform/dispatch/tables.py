"""Tables of the cases in city.db. Times are ms since 1970 UTC. `case_` holds the present, `case_history` all of it."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
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

case = Table(
    # CASE is a word of SQL.
    "case_",
    metadata,
    Column("id", Integer, primary_key=True),
    # Who reported it: 'alert' for our own rules.
    Column("source", String, nullable=False),
    Column("alert_id", Integer, ForeignKey("alert.id")),
    # One case per key: for alerts the episode, rule/device/number.
    Column("idempotency_key", String, nullable=False),
    Column("title_zh", String, nullable=False),
    Column("title_en", String, nullable=False),
    Column("colour", String, nullable=False),
    Column("step", String, nullable=False),
    Column("responsible_unit", String, nullable=False),
    Column("site", String, nullable=False),
    Column("device", String, nullable=False),
    Column("data_time", BigInteger, nullable=False),
    Column("received", BigInteger, nullable=False),
    Column("opened", BigInteger, nullable=False),
    Column("drill", Boolean, nullable=False),
    UniqueConstraint("alert_id"),
    UniqueConstraint("idempotency_key"),
    CheckConstraint("colour IN ('blue', 'yellow', 'orange', 'red')", name="colour"),
    Index(None, "step", "colour"),
    Index(None, "device"),
    # People name cases by number, and pollers ask for what comes after one: none is given out twice.
    sqlite_autoincrement=True,
)

case_history = Table(
    "case_history",
    metadata,
    # Rows are added, never changed or removed.
    Column("id", Integer, primary_key=True),
    Column("case_id", Integer, ForeignKey("case_.id"), nullable=False, index=True),
    Column("at", BigInteger, nullable=False),
    Column("event", String, nullable=False),
    # The person, or 'citysense' for the platform itself.
    Column("by", String, nullable=False),
    Column("step", String, nullable=False),
    Column("colour", String, nullable=False),
    # {"zh", "en"}
    Column("note", JSON, nullable=False),
    sqlite_autoincrement=True,
)
