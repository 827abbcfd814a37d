"""What rules remember, alerts, cases, and the histories of both."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_COLOURS = "colour IN ('blue', 'yellow', 'orange', 'red')"


def upgrade() -> None:
    """Make the tables."""
    _rules()
    _alerts()
    _cases()


def _rules() -> None:
    op.create_table(
        "rule_state",
        sa.Column("rule", sa.String, nullable=False),
        sa.Column("device", sa.String, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("rule", "device", name="pk_rule_state"),
    )
    op.create_table(
        "rule_cursor",
        sa.Column("lane", sa.String, nullable=False),
        sa.Column("log", sa.String, nullable=False),
        sa.Column("offset", sa.BigInteger, nullable=False),
        sa.Column("ticked", sa.BigInteger, nullable=False),
        sa.Column("awake", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("lane", name="pk_rule_cursor"),
    )


def _alerts() -> None:
    op.create_table(
        "alert",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("rule", sa.String, nullable=False),
        sa.Column("rule_version", sa.String, nullable=False),
        sa.Column("device", sa.String, nullable=False),
        sa.Column("site", sa.String, nullable=False),
        sa.Column("episode", sa.Integer, nullable=False),
        sa.Column("colour", sa.String, nullable=False),
        sa.Column("peak_colour", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("value", sa.JSON, nullable=False),
        sa.Column("unit", sa.String, nullable=False),
        sa.Column("data_time", sa.BigInteger, nullable=False),
        sa.Column("received", sa.BigInteger, nullable=False),
        sa.Column("opened", sa.BigInteger, nullable=False),
        sa.Column("resolved", sa.BigInteger),
        sa.Column("reason", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_alert"),
        sa.UniqueConstraint("rule", "device", "episode", name="uq_alert_rule_device_episode"),
        sa.CheckConstraint("state IN ('firing', 'acknowledged', 'resolved')", name=op.f("ck_alert_state")),
        sa.CheckConstraint(_COLOURS, name=op.f("ck_alert_colour")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_alert_state_alert_colour", "alert", ["state", "colour"])
    op.create_index("ix_alert_device", "alert", ["device"])
    op.create_table(
        "alert_history",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column(
            "alert_id", sa.Integer, sa.ForeignKey("alert.id", name="fk_alert_history_alert_id_alert"), nullable=False
        ),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("colour", sa.String, nullable=False),
        sa.Column("value", sa.JSON, nullable=False),
        sa.Column("data_time", sa.BigInteger, nullable=False),
        sa.Column("received", sa.BigInteger, nullable=False),
        sa.Column("decision", sa.String, nullable=False),
        sa.Column("decision_reason", sa.String, nullable=False),
        sa.Column("reason", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_alert_history"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_alert_history_alert_id", "alert_history", ["alert_id"])


def _cases() -> None:
    op.create_table(
        "case_",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("source", sa.String, nullable=False),
        sa.Column("alert_id", sa.Integer, sa.ForeignKey("alert.id", name="fk_case__alert_id_alert")),
        sa.Column("idempotency_key", sa.String, nullable=False),
        sa.Column("title_zh", sa.String, nullable=False),
        sa.Column("title_en", sa.String, nullable=False),
        sa.Column("colour", sa.String, nullable=False),
        sa.Column("step", sa.String, nullable=False),
        sa.Column("responsible_unit", sa.String, nullable=False),
        sa.Column("site", sa.String, nullable=False),
        sa.Column("device", sa.String, nullable=False),
        sa.Column("data_time", sa.BigInteger, nullable=False),
        sa.Column("received", sa.BigInteger, nullable=False),
        sa.Column("opened", sa.BigInteger, nullable=False),
        sa.Column("drill", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_case_"),
        sa.UniqueConstraint("alert_id", name="uq_case__alert_id"),
        sa.UniqueConstraint("idempotency_key", name="uq_case__idempotency_key"),
        sa.CheckConstraint(_COLOURS, name=op.f("ck_case__colour")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_case__step_case__colour", "case_", ["step", "colour"])
    op.create_index("ix_case__device", "case_", ["device"])
    op.create_table(
        "case_history",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column(
            "case_id", sa.Integer, sa.ForeignKey("case_.id", name="fk_case_history_case_id_case_"), nullable=False
        ),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("event", sa.String, nullable=False),
        sa.Column("by", sa.String, nullable=False),
        sa.Column("step", sa.String, nullable=False),
        sa.Column("colour", sa.String, nullable=False),
        sa.Column("note", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_case_history"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_case_history_case_id", "case_history", ["case_id"])
