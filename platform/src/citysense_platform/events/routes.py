"""GET /api/v1/devices/{id}/events, /api/v1/dead-letters and /api/v1/tombstones: reading what the event store keeps."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from citysense.clock import rfc3339
from citysense_platform.api.openapi import problem_responses
from citysense_platform.api.paging import DEFAULT_LIMIT, Cursor, Limit, Page
from citysense_platform.api.problems import Problem
from citysense_platform.events.bodies import (
    DeadLetterBody,
    EventBody,
    ReasonCountBody,
    TombstoneBody,
    dead_letter_body,
    event_body,
    tombstone_body,
)
from citysense_platform.events.event_store import EventStore
from citysense_platform.events.paging import WrongCursor
from citysense_platform.store.points import END_OF_TIME
from citysense_platform.store.routes import NOT_FOUND, Known, require_device, span

Device = Annotated[str | None, Query(max_length=64, description="Of this device only.")]


def event_routes(store: EventStore, known: Known) -> APIRouter:
    """Routes that read events, dead letters and tombstones."""
    router = APIRouter(prefix="/api/v1", tags=["events"])

    @router.get(
        "/devices/{device}/events",
        summary="List what happened at a device, newest first",
        response_model=Page[EventBody],
        responses=problem_responses({404: NOT_FOUND}),
    )
    async def events(
        device: str,
        start: Annotated[str, Query(description="RFC 3339, inclusive; all by default")] = rfc3339(0),
        end: Annotated[str, Query(description="RFC 3339, exclusive; all by default")] = rfc3339(END_OF_TIME - 1),
        limit: Limit = DEFAULT_LIMIT,
        cursor: Cursor = None,
    ) -> dict[str, Any]:
        start_ms, end_ms = span(start, end)
        await require_device(known, device)
        try:
            found, following = await store.events(device, start_ms, end_ms, limit, cursor)
        except WrongCursor as e:
            raise _wrong(e) from e
        return {"items": [event_body(event) for event in found], "next": following}

    @router.get(
        "/dead-letters", summary="List frames that were not usable, newest first", response_model=Page[DeadLetterBody]
    )
    async def dead_letters(
        reason: Annotated[str | None, Query(max_length=64, description="With this reason only.")] = None,
        device: Device = None,
        limit: Limit = DEFAULT_LIMIT,
        cursor: Cursor = None,
    ) -> dict[str, Any]:
        try:
            found, following = await store.dead_letters(limit, cursor, reason=reason, device=device)
        except WrongCursor as e:
            raise _wrong(e) from e
        return {"items": [dead_letter_body(one) for one in found], "next": following}

    @router.get(
        "/dead-letters/counts",
        summary="Count dead letters by reason, the most frequent first",
        response_model=Page[ReasonCountBody],
    )
    async def counts() -> dict[str, Any]:
        found = await store.dead_letter_counts()
        items = [{"reason": one.reason, "kept": one.kept, "beyond": one.beyond} for one in found]
        return {"items": items, "next": None}

    @router.get(
        "/tombstones",
        summary="List readings that were acknowledged and given up, newest first",
        response_model=Page[TombstoneBody],
    )
    async def tombstones(device: Device = None, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None) -> dict[str, Any]:
        try:
            found, following = await store.tombstones(limit, cursor, device=device)
        except WrongCursor as e:
            raise _wrong(e) from e
        return {"items": [tombstone_body(stone) for stone in found], "next": following}

    return router


def _wrong(error: WrongCursor) -> Problem:
    return Problem(422, "bad_cursor", str(error))
