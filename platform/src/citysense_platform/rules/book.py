"""Reads and writes what the rules remember, in city.db.

Owns the SQL of `tables`. Every function works on the connection it is given: the caller decides what else belongs to
the same transaction.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

import msgspec
from sqlalchemy import Connection, select, text

from citysense.errors import StorageError
from citysense_platform.rules.engine import RULE_LANES, Key
from citysense_platform.rules.lanes import Lane
from citysense_platform.rules.state import RuleState
from citysense_platform.rules.tables import rule_cursor, rule_state
from citysense_profiles.reading import ReadingClass

log = logging.getLogger(__name__)

_decoder = msgspec.msgpack.Decoder(RuleState)
_encode = msgspec.msgpack.Encoder().encode

# Understood by SQLite and PostgreSQL alike.
_SAVE_STATE = text(
    "INSERT INTO rule_state(rule, device, body) VALUES(:rule, :device, :body)"
    " ON CONFLICT(rule, device) DO UPDATE SET body = excluded.body"
)
_SAVE_CURSOR = text(
    'INSERT INTO rule_cursor(lane, log, "offset", ticked, awake) VALUES(:lane, :log, :offset, :ticked, :awake)'
    " ON CONFLICT(lane) DO UPDATE SET"
    ' log = excluded.log, "offset" = excluded."offset", ticked = excluded.ticked, awake = excluded.awake'
)


def load_states(connection: Connection) -> dict[Key, RuleState]:
    """All states, by rule and device. Raises StorageError for a row that this version cannot read."""
    states: dict[Key, RuleState] = {}
    for row in connection.execute(select(rule_state.c.rule, rule_state.c.device, rule_state.c.body)):
        try:
            states[row.rule, row.device] = _decoder.decode(row.body)
        except ValueError as e:
            raise StorageError(
                f"city.db: what rule {row.rule} remembers of device {row.device} cannot be read ({e}); "
                "restore the database from a backup"
            ) from e
    return states


def load_lanes(connection: Connection, log_id: str) -> dict[ReadingClass, Lane]:
    """Where each lane was left. A lane of another log (it was lost and made anew) starts at the beginning."""
    lanes: dict[ReadingClass, Lane] = {}
    for row in connection.execute(select(rule_cursor)):
        lane = ReadingClass(row.lane)
        if lane not in RULE_LANES:
            continue
        if row.log != log_id:
            log.error(
                "rules: log.db is not the one that was read before (lane %s, up to %d); reading it from its start",
                lane,
                row.offset,
            )
            lanes[lane] = Lane(awake=row.awake)
            continue
        lanes[lane] = Lane(offset=row.offset, ticked=row.ticked, awake=row.awake)
    return lanes


def save(
    connection: Connection, states: Iterable[tuple[Key, bytes]], lanes: Mapping[ReadingClass, Lane], log_id: str
) -> None:
    """Write encoded states, and the place in each lane up to which they hold."""
    rows = [{"rule": rule, "device": device, "body": body} for (rule, device), body in states]
    if rows:
        connection.execute(_SAVE_STATE, rows)
    connection.execute(
        _SAVE_CURSOR,
        [
            {"lane": str(lane), "log": log_id, "offset": place.offset, "ticked": place.ticked, "awake": place.awake}
            for lane, place in lanes.items()
        ],
    )


def encode_state(state: RuleState) -> bytes:
    """Bytes of one state."""
    return _encode(state)
