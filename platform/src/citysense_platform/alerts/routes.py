"""GET /api/v1/alerts: what stands, what was, and why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel
from sqlalchemy import RowMapping

from citysense.clock import rfc3339
from citysense.wire import Value
from citysense_platform.alerts.decide import Action, AlertState, Why
from citysense_platform.alerts.queries import Alerts
from citysense_platform.api.openapi import problem_responses
from citysense_platform.api.paging import DEFAULT_LIMIT, Cursor, Limit, Page, page
from citysense_platform.api.problems import Problem
from citysense_platform.dispatch.listing import MAX_ID, BilingualBody, id_in_cursor
from citysense_platform.rules.colour import Colour
from citysense_platform.rules.state import TransitionKind


class AlertBody(BaseModel):
    """An alert as it stands: colour, value, times and reason are those of its last change.

    `site` is the site's id as text, null for a device without one. `data_time` is when the device measured, `received`
    when the gateway had it, `opened` when the alert came to be.
    """

    id: int
    rule: str
    rule_version: str
    device: str
    site: str | None
    site_name: str | None
    colour: Colour
    peak_colour: Colour
    state: AlertState
    episode: int
    value: Value
    unit: str
    data_time: str
    received: str
    opened: str
    resolved: str | None
    reason: BilingualBody


class AlertChangeBody(BaseModel):
    """One change that the rule found, what was done about it, and why."""

    at: str
    kind: TransitionKind
    colour: Colour
    value: Value
    data_time: str
    received: str
    decision: Action
    decision_reason: Why
    reason: BilingualBody


class AlertHistoryBody(AlertBody):
    """An alert with all that happened to it, the oldest first."""

    history: list[AlertChangeBody]


def alerts_routes(alerts: Alerts, *, site_name: Callable[[str], str]) -> APIRouter:
    """The routes of alerts. `site_name` gives the name for a site's id, '' if it has none."""
    router = APIRouter(prefix="/api/v1", tags=["alerts"])

    @router.get("/alerts", summary="List alerts, the newest first", response_model=Page[AlertBody])
    async def listed(
        state: AlertState | None = None,
        colour: Annotated[Colour | None, Query(description="The colour in force now.")] = None,
        device: Annotated[str | None, Query(max_length=64)] = None,
        limit: Limit = DEFAULT_LIMIT,
        cursor: Cursor = None,
    ) -> dict[str, Any]:
        rows = await alerts.newest(
            state=state, colour=colour, device=device, before=id_in_cursor(cursor), limit=limit + 1
        )
        found = page(rows, limit, lambda row: str(row["id"]))
        return {**found, "items": [_alert_body(row, site_name) for row in found["items"]]}

    @router.get(
        "/alerts/{alert_id}",
        summary="Show an alert with its history",
        response_model=AlertHistoryBody,
        responses=problem_responses({404: ("not_found", "there is no alert 7")}),
    )
    async def one(alert_id: Annotated[int, Path(ge=1, le=MAX_ID)]) -> dict[str, Any]:
        found = await alerts.one(alert_id)
        if found is None:
            raise Problem(404, "not_found", f"there is no alert {alert_id}")
        row, history = found
        return {**_alert_body(row, site_name), "history": [_change_body(change) for change in history]}

    return router


def _alert_body(row: RowMapping, site_name: Callable[[str], str]) -> dict[str, Any]:
    return {
        "id": row["id"],
        "rule": row["rule"],
        "rule_version": row["rule_version"],
        "device": row["device"],
        "site": row["site"] or None,
        "site_name": site_name(row["site"]) or None,
        "colour": row["colour"],
        "peak_colour": row["peak_colour"],
        "state": row["state"],
        "episode": row["episode"],
        "value": row["value"],
        "unit": row["unit"],
        "data_time": rfc3339(row["data_time"]),
        "received": rfc3339(row["received"]),
        "opened": rfc3339(row["opened"]),
        "resolved": None if row["resolved"] is None else rfc3339(row["resolved"]),
        "reason": row["reason"],
    }


def _change_body(row: RowMapping) -> dict[str, Any]:
    return {
        "at": rfc3339(row["at"]),
        "kind": row["kind"],
        "colour": row["colour"],
        "value": row["value"],
        "data_time": rfc3339(row["data_time"]),
        "received": rfc3339(row["received"]),
        "decision": row["decision"],
        "decision_reason": row["decision_reason"],
        "reason": row["reason"],
    }
