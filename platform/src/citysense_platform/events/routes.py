"""GET /api/v1/devices/{id}/events and /api/v1/dead-letters.

Owns the bodies of reading events; a sealed raw frame is never shown here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query

from citysense.clock import rfc3339
from citysense_platform.api.problems import Problem
from citysense_platform.events.dead_letters import DeadLetter
from citysense_platform.events.event_store import EventStore
from citysense_platform.events.paging import WrongCursor
from citysense_platform.events.rows import short_names
from citysense_platform.store.points import END_OF_TIME
from citysense_platform.store.routes import Known, require_device, span

Limit = Annotated[int, Query(ge=1, le=1000)]
Cursor = Annotated[str | None, Query(description="`next` of the page before")]


def event_routes(store: EventStore, known: Known) -> APIRouter:
    """Routes that read events and dead letters."""
    router = APIRouter(tags=["events"])

    @router.get("/api/v1/devices/{device}/events")
    async def events(
        device: str,
        start: Annotated[str, Query(description="RFC 3339, inclusive; all by default")] = rfc3339(0),
        end: Annotated[str, Query(description="RFC 3339, exclusive; all by default")] = rfc3339(END_OF_TIME - 1),
        limit: Limit = 100,
        cursor: Cursor = None,
    ) -> dict[str, Any]:
        """What happened at a device in [start, end), newest first."""
        start_ms, end_ms = span(start, end)
        await require_device(known, device)
        try:
            found, following = await store.events(device, start_ms, end_ms, limit, cursor)
        except WrongCursor as e:
            raise _wrong(e) from e
        items = [
            {
                "time": rfc3339(event.time),
                "kind": event.kind,
                "values": short_names(event.kind, event.values),
                "tag": event.tag or None,
            }
            for event in found
        ]
        return {"items": items, "next": following}

    @router.get("/api/v1/dead-letters")
    async def dead_letters(
        reason: str | None = None, device: str | None = None, limit: Limit = 100, cursor: Cursor = None
    ) -> dict[str, Any]:
        """Frames that were not usable, newest first."""
        try:
            found, following = await store.dead_letters(limit, cursor, reason=reason, device=device)
        except WrongCursor as e:
            raise _wrong(e) from e
        return {"items": [_shown(one) for one in found], "next": following}

    @router.get("/api/v1/dead-letters/counts")
    async def counts() -> dict[str, Any]:
        """How many there are of each reason; `beyond` those that were only counted."""
        found = await store.dead_letter_counts()
        return {
            "items": [{"reason": one.reason, "kept": one.kept, "beyond": one.beyond} for one in found],
            "next": None,
        }

    return router


def _shown(one: DeadLetter) -> Mapping[str, Any]:
    letter = one.letter
    return {
        "id": one.id,
        "received": rfc3339(min(max(letter.received, 0), END_OF_TIME - 1)),
        "transport": letter.transport,
        "source": letter.source,
        "device": letter.device or None,
        "reason": letter.reason,
        "detail": letter.detail,
        "size": letter.size,
        "raw": None if letter.seal else letter.raw.hex(),
        "channel": letter.channel,
        "profile": letter.profile or None,
        "gateway": letter.gateway or None,
    }


def _wrong(error: WrongCursor) -> Problem:
    return Problem(422, "bad_cursor", str(error))
