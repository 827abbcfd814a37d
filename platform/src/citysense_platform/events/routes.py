"""GET /api/v1/devices/{id}/events, /api/v1/dead-letters and /api/v1/tombstones: reading what the event store keeps.

Having dead letters read again is in `again_routes`.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from citysense.clock import rfc3339
from citysense_platform.api.openapi import problem_responses
from citysense_platform.api.paging import DEFAULT_LIMIT, Cursor, Limit, Page
from citysense_platform.api.problems import Problem
from citysense_platform.events.again import LettersAgain
from citysense_platform.events.bodies import (
    DeadLetterBody,
    EventBody,
    ReasonCountBody,
    TombstoneBody,
    dead_letter_body,
    event_body,
    tombstone_body,
)
from citysense_platform.events.dead_letters import LetterFilter
from citysense_platform.events.event_store import EventStore
from citysense_platform.events.paging import WrongCursor
from citysense_platform.store.points import END_OF_TIME
from citysense_platform.store.routes import NOT_FOUND, Known, require_device, span

START = rfc3339(0)
END = rfc3339(END_OF_TIME - 1)
Device = Annotated[str | None, Query(max_length=64, description="Of this device only.")]


def event_routes(store: EventStore, known: Known, again: LettersAgain) -> APIRouter:
    """Routes that read events, dead letters and tombstones. `again` knows which letters were read again."""
    router = APIRouter(prefix="/api/v1", tags=["events"])

    @router.get(
        "/devices/{device}/events",
        summary="List what happened at a device, newest first",
        response_model=Page[EventBody],
        responses=problem_responses({404: NOT_FOUND}),
    )
    async def events(
        device: str,
        start: Annotated[str, Query(description="RFC 3339, inclusive; all by default")] = START,
        end: Annotated[str, Query(description="RFC 3339, exclusive; all by default")] = END,
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
        profile: Annotated[str | None, Query(max_length=200, description="Of devices of this profile only.")] = None,
        start: Annotated[str, Query(description="Received then or later, RFC 3339; all by default")] = START,
        end: Annotated[str, Query(description="Received before, RFC 3339; all by default")] = END,
        limit: Limit = DEFAULT_LIMIT,
        cursor: Cursor = None,
    ) -> dict[str, Any]:
        wanted = letter_filter(reason=reason, device=device, profile=profile, start=start, end=end)
        try:
            found, following = await store.dead_letters(limit, cursor, wanted=wanted)
        except WrongCursor as e:
            raise _wrong(e) from e
        orders = await again.orders([one.id for one in found])
        return {"items": [dead_letter_body(one, orders.get(one.id)) for one in found], "next": following}

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


def letter_filter(*, reason: str | None, device: str | None, profile: str | None, start: str, end: str) -> LetterFilter:
    """What a request narrows dead letters to. Raises Problem 422 for what is no range of times."""
    after, before = span(start, end)
    # The defaults leave none out, not even what a gateway with a broken clock received before 1970.
    return LetterFilter(
        reason=reason,
        device=device,
        profile=profile,
        after=None if start == START else after,
        before=None if end == END else before,
    )


def _wrong(error: WrongCursor) -> Problem:
    return Problem(422, "bad_cursor", str(error))
