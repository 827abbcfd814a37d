"""Tables of the rules in city.db: what each rule remembers of each device, and how far the log has been judged."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, LargeBinary, String, Table

from citysense_platform.city.metadata import metadata

rule_state = Table(
    "rule_state",
    metadata,
    Column("rule", String, primary_key=True),
    Column("device", String, primary_key=True),
    # MessagePack of `state.RuleState`.
    Column("body", LargeBinary, nullable=False),
)

rule_cursor = Table(
    "rule_cursor",
    metadata,
    Column("lane", String, primary_key=True),
    # Id of the log that `offset` belongs to: offsets of a log that was made anew start over.
    Column("log", String, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("ticked", BigInteger, nullable=False),
    Column("awake", BigInteger, nullable=False),
)
