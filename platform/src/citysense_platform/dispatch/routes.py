"""GET /dispatch/v1/cases: the cases, for people who look and for systems that poll."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel
from sqlalchemy import RowMapping

from citysense.clock import rfc3339
from citysense_platform.api.openapi import problem_responses
from citysense_platform.api.paging import DEFAULT_LIMIT, Cursor, Limit, Page, page
from citysense_platform.api.problems import Problem
from citysense_platform.dispatch.cases import CaseEvent, Step
from citysense_platform.dispatch.listing import MAX_ID, BilingualBody, id_in_cursor
from citysense_platform.dispatch.queries import CaseFilter, Cases
from citysense_platform.dispatch.titles import one_line
from citysense_platform.rules.colour import Colour
from citysense_platform.rules.rule import Words


class CaseBody(BaseModel):
    """A case as it stands. `colour` is the highest it had; `alert` is null unless `source` is "alert".

    `site` is the site's id as text, null for a device without one. `data_time` is when the device measured what opened
    the case, `received` when the gateway had it.
    """

    id: int
    source: str
    alert: int | None
    title: str
    titles: BilingualBody
    colour: Colour
    step: Step
    responsible_unit: str
    device: str
    site: str | None
    site_name: str | None
    data_time: str
    received: str
    opened: str
    drill: bool


class CaseEventBody(BaseModel):
    """Something that happened to a case, by whom ("citysense" is the platform itself), and how it stood then."""

    at: str
    event: CaseEvent
    by: str
    step: Step
    colour: Colour
    note: BilingualBody


class CaseHistoryBody(CaseBody):
    """A case with all that happened to it, the oldest first."""

    history: list[CaseEventBody]


def dispatch_routes(cases: Cases, *, site_name: Callable[[str], str]) -> APIRouter:
    """The routes of cases. `site_name` gives the name for a site's id, '' if it has none."""
    router = APIRouter(prefix="/dispatch/v1", tags=["dispatch"])

    @router.get("/cases", summary="List cases", response_model=Page[CaseBody])
    async def listed(
        colour: Colour | None = None,
        step: Step | None = None,
        device: Annotated[str | None, Query(max_length=64)] = None,
        after: Annotated[
            int | None,
            Query(ge=0, le=MAX_ID, description="Only cases opened after the one of this id, the oldest first."),
        ] = None,
        limit: Limit = DEFAULT_LIMIT,
        cursor: Cursor = None,
    ) -> dict[str, Any]:
        """The newest first. Who polls for new cases gives `after` the highest id it has, 0 at the start."""
        wanted = CaseFilter(colour=colour, step=step, device=device)
        place = id_in_cursor(cursor)
        if after is None:
            rows = await cases.newest(wanted, before=place, limit=limit + 1)
        else:
            rows = await cases.after(wanted, after=max(after, place or 0), limit=limit + 1)
        found = page(rows, limit, lambda row: str(row["id"]))
        return {**found, "items": [_case_body(row, site_name) for row in found["items"]]}

    @router.get(
        "/cases/{case_id}",
        summary="Show a case with its history",
        response_model=CaseHistoryBody,
        responses=problem_responses({404: ("not_found", "there is no case 7")}),
    )
    async def one(case_id: Annotated[int, Path(ge=1, le=MAX_ID)]) -> dict[str, Any]:
        found = await cases.one(case_id)
        if found is None:
            raise Problem(404, "not_found", f"there is no case {case_id}")
        row, history = found
        return {**_case_body(row, site_name), "history": [_event_body(event) for event in history]}

    return router


def _case_body(row: RowMapping, site_name: Callable[[str], str]) -> dict[str, Any]:
    words = Words(zh=row["title_zh"], en=row["title_en"])
    return {
        "id": row["id"],
        "source": row["source"],
        "alert": row["alert_id"],
        "title": one_line(words),
        "titles": {"zh": words.zh, "en": words.en},
        "colour": row["colour"],
        "step": row["step"],
        "responsible_unit": row["responsible_unit"],
        "device": row["device"],
        "site": row["site"] or None,
        "site_name": site_name(row["site"]) or None,
        "data_time": rfc3339(row["data_time"]),
        "received": rfc3339(row["received"]),
        "opened": rfc3339(row["opened"]),
        "drill": row["drill"],
    }


def _event_body(row: RowMapping) -> dict[str, Any]:
    return {
        "at": rfc3339(row["at"]),
        "event": row["event"],
        "by": row["by"],
        "step": row["step"],
        "colour": row["colour"],
        "note": row["note"],
    }
