"""Writes alerts, their history and their cases, for the transitions that the rules found.

Owns the rows of `alert` and `alert_history`. Works on the connection it is handed, so that alert, case and rule state
stand or fall together. Every decision is stored with its reason, also that to do nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from sqlalchemy import Connection, insert, select, update

from citysense.clock import Clock
from citysense_platform.alerts.decide import Action, AlertState, Decision, StandingAlert, decide
from citysense_platform.alerts.tables import alert, alert_history
from citysense_platform.dispatch import cases
from citysense_platform.dispatch.cases import CaseEvent, NewCase
from citysense_platform.dispatch.titles import title
from citysense_platform.rules.colour import Colour
from citysense_platform.rules.rule import Words
from citysense_platform.rules.runner import Opened
from citysense_platform.rules.state import Transition
from citysense_platform.rules.wording import amount

log = logging.getLogger(__name__)

SOURCE = "alert"


class AlertBook:
    """Turns transitions into alerts and cases. `site_name` gives the name for a site's id, '' if it has none."""

    def __init__(self, *, clock: Clock, site_name: Callable[[str], str], responsible_unit: str) -> None:
        self._clock = clock
        self._site_name = site_name
        self._unit = responsible_unit

    def settle(self, connection: Connection, transitions: Sequence[Transition]) -> list[Opened]:
        """Decide on each transition in turn, and write; the cases that were opened."""
        now = self._clock.now_ms()
        opened: list[Opened] = []
        for transition in transitions:
            standing = _standing(connection, transition)
            decision = decide(transition, standing)
            if decision.action is Action.OPEN_CASE:
                opened.append(self._open(connection, transition, decision, now))
            elif standing is None:
                log.info("alerts: %s of %s: %s", transition.kind, transition.key, decision.reason)
            else:
                self._follow(connection, transition, decision, standing, now)
        return opened

    def _open(self, connection: Connection, transition: Transition, decision: Decision, now: int) -> Opened:
        alert_id = _insert(connection, transition, now)
        _record(connection, alert_id, transition, decision, now)
        case_id = cases.open_case(
            connection,
            NewCase(
                source=SOURCE,
                alert=alert_id,
                key=transition.key,
                title=self._title(transition),
                colour=transition.colour,
                responsible_unit=self._unit,
                site=transition.site,
                device=transition.device,
                data_time=transition.data_time,
                received=transition.received,
                note=transition.reason,
            ),
            now=now,
        )
        return Opened(case=case_id, received=transition.received, silent=transition.silent)

    def _follow(
        self, connection: Connection, transition: Transition, decision: Decision, standing: StandingAlert, now: int
    ) -> None:
        _record(connection, standing.id, transition, decision, now)
        if decision.action is Action.IGNORE:
            return
        _update(connection, transition, decision, standing, now)
        match decision.action:
            case Action.ESCALATE:
                if transition.colour.rank > standing.peak_colour.rank:
                    cases.escalate(
                        connection,
                        standing.id,
                        transition.colour,
                        self._title(transition),
                        transition.reason,
                        now=now,
                    )
                else:
                    # Risen again, but not above what the case says already.
                    cases.note_sensor(connection, standing.id, CaseEvent.ESCALATED, transition.reason, now=now)
            case Action.DEESCALATE:
                cases.note_sensor(connection, standing.id, CaseEvent.DEESCALATED, transition.reason, now=now)
            case Action.RESOLVE:
                cases.note_sensor(connection, standing.id, CaseEvent.SENSOR_CLEARED, transition.reason, now=now)

    def _title(self, transition: Transition) -> Words:
        return title(
            transition.title,
            colour=transition.colour,
            site=self._site_name(transition.site) or transition.device,
            value=amount(transition.value, transition.unit),
        )


def _standing(connection: Connection, transition: Transition) -> StandingAlert | None:
    row = connection.execute(
        select(alert.c.id, alert.c.state, alert.c.colour, alert.c.peak_colour).where(
            alert.c.rule == transition.rule,
            alert.c.device == transition.device,
            alert.c.episode == transition.episode,
        )
    ).one_or_none()
    if row is None:
        return None
    return StandingAlert(
        id=row.id, state=AlertState(row.state), colour=Colour(row.colour), peak_colour=Colour(row.peak_colour)
    )


def _insert(connection: Connection, transition: Transition, now: int) -> int:
    inserted = connection.execute(
        insert(alert).values(
            rule=transition.rule,
            rule_version=transition.rule_version,
            device=transition.device,
            site=transition.site,
            episode=transition.episode,
            colour=str(transition.colour),
            peak_colour=str(transition.colour),
            state=str(AlertState.FIRING),
            value=transition.value,
            unit=transition.unit,
            data_time=transition.data_time,
            received=transition.received,
            opened=now,
            reason=_json(transition.reason),
        )
    )
    assert inserted.inserted_primary_key is not None, "a single row was inserted"
    return int(inserted.inserted_primary_key[0])


def _update(
    connection: Connection, transition: Transition, decision: Decision, standing: StandingAlert, now: int
) -> None:
    peak = max(standing.peak_colour, transition.colour, key=lambda colour: colour.rank)
    over = decision.action is Action.RESOLVE
    connection.execute(
        update(alert)
        .where(alert.c.id == standing.id)
        .values(
            colour=str(transition.colour),
            peak_colour=str(peak),
            value=transition.value,
            data_time=transition.data_time,
            received=transition.received,
            reason=_json(transition.reason),
            **({"state": str(AlertState.RESOLVED), "resolved": now} if over else {}),
        )
    )


def _record(connection: Connection, alert_id: int, transition: Transition, decision: Decision, now: int) -> None:
    connection.execute(
        insert(alert_history).values(
            alert_id=alert_id,
            at=now,
            kind=str(transition.kind),
            colour=str(transition.colour),
            value=transition.value,
            data_time=transition.data_time,
            received=transition.received,
            decision=str(decision.action),
            decision_reason=str(decision.reason),
            reason=_json(transition.reason),
        )
    )


def _json(words: Words) -> dict[str, str]:
    return {"zh": words.zh, "en": words.en}
