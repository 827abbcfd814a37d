"""Opens cases and writes their history, on the connection of whoever reports.

Owns the rows of `case_` and `case_history`. A case is opened in its alert's own transaction, once per idempotency key;
what people do with it afterwards is not here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Connection, insert, select, update

from citysense_platform.dispatch.tables import case, case_history
from citysense_platform.rules.colour import Colour
from citysense_platform.rules.rule import Words

PLATFORM = "citysense"
"""Who did it, where no person did."""


class Step(StrEnum):
    """Where a case stands in the closed loop."""

    OPEN = "open"


class CaseEvent(StrEnum):
    """What happened to a case."""

    OPENED = "opened"
    ESCALATED = "escalated"
    DEESCALATED = "deescalated"
    """The alert fell to a lower colour; the case keeps the highest, a person judges."""
    SENSOR_CLEARED = "sensor_cleared"
    """The condition is over as far as the sensor can tell: closing is proposed, a person verifies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCase:
    """A case to open. Times in ms since 1970."""

    source: str
    alert: int | None
    key: str
    title: Words
    colour: Colour
    responsible_unit: str
    site: str
    device: str
    data_time: int
    received: int
    note: Words
    drill: bool = False


def open_case(connection: Connection, new: NewCase, *, now: int) -> int:
    """Id of the new case. A key that is taken raises IntegrityError, and the whole transaction is undone."""
    opened = connection.execute(
        insert(case).values(
            source=new.source,
            alert_id=new.alert,
            idempotency_key=new.key,
            title_zh=new.title.zh,
            title_en=new.title.en,
            colour=str(new.colour),
            step=str(Step.OPEN),
            responsible_unit=new.responsible_unit,
            site=new.site,
            device=new.device,
            data_time=new.data_time,
            received=new.received,
            opened=now,
            drill=new.drill,
        )
    )
    assert opened.inserted_primary_key is not None, "a single row was inserted"
    case_id = int(opened.inserted_primary_key[0])
    _record(connection, case_id, CaseEvent.OPENED, Step.OPEN, new.colour, new.note, now=now)
    return case_id


def escalate(connection: Connection, alert: int, colour: Colour, title: Words, note: Words, *, now: int) -> None:
    """Give the case of an alert its higher colour, and the title that says so."""
    known = _case_of(connection, alert)
    if known is None:
        return
    case_id, step, _ = known
    connection.execute(
        update(case).where(case.c.id == case_id).values(colour=str(colour), title_zh=title.zh, title_en=title.en)
    )
    _record(connection, case_id, CaseEvent.ESCALATED, step, colour, note, now=now)


def note_sensor(connection: Connection, alert: int, event: CaseEvent, note: Words, *, now: int) -> None:
    """Write what the sensor says into the history of an alert's case; colour and step stay."""
    known = _case_of(connection, alert)
    if known is None:
        return
    case_id, step, colour = known
    _record(connection, case_id, event, step, colour, note, now=now)


def _case_of(connection: Connection, alert: int) -> tuple[int, str, str] | None:
    row = connection.execute(
        select(case.c.id, case.c.step, case.c.colour).where(case.c.alert_id == alert)
    ).one_or_none()
    return None if row is None else (row.id, row.step, row.colour)


def _record(
    connection: Connection, case_id: int, event: CaseEvent, step: str, colour: str, note: Words, *, now: int
) -> None:
    connection.execute(
        insert(case_history).values(
            case_id=case_id,
            at=now,
            event=str(event),
            by=PLATFORM,
            step=str(step),
            colour=str(colour),
            note={"zh": note.zh, "en": note.en},
        )
    )
