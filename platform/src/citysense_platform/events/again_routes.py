"""POST /api/v1/dead-letters/reprocess: have dead letters read again."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from citysense_platform.api.problems import Problem
from citysense_platform.events.again import LettersAgain, Refused
from citysense_platform.events.dead_letters import DeadLetter
from citysense_platform.events.event_store import EventStore
from citysense_platform.events.paging import WrongCursor
from citysense_platform.events.routes import END, START, letter_filter

AT_ONCE = 200
"""Letters of one request: 12 MB of frames at most, written in one transaction."""

LetterId = Annotated[str, StringConstraints(min_length=1, max_length=60)]


class ReprocessRequest(BaseModel):
    """Which letters: by `ids`, or all with this reason, device, profile or time of reception, the newest first."""

    model_config = ConfigDict(extra="forbid")

    ids: list[LetterId] | None = Field(None, min_length=1, max_length=AT_ONCE)
    reason: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None
    device: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None
    profile: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    start: str = Field(START, description="Received then or later, RFC 3339.")
    end: str = Field(END, description="Received before, RFC 3339.")
    cursor: Annotated[str, StringConstraints(max_length=200)] | None = Field(
        None, description="`next` of the answer before, to go on with the same filter."
    )

    @model_validator(mode="after")
    def _one_of_two(self) -> ReprocessRequest:
        others = self.model_fields_set - {"ids"}
        if self.ids is not None and others:
            raise ValueError(f"has ids and {', '.join(sorted(others))}; give one of the two")
        if self.ids is None and not others - {"cursor"}:
            raise ValueError("names nothing; give ids, or a reason, device, profile, start or end")
        return self


class ReprocessOrderBody(BaseModel):
    """A letter on its way to its gateway; what becomes of it stands in the list of dead letters."""

    letter: str
    order: str


class ReprocessRefusalBody(BaseModel):
    """A letter that cannot be read again."""

    letter: str
    reason: Refused
    detail: str


class ReprocessBody(BaseModel):
    """What became of the request; `next` is not null where more letters fit the filter."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "orders": [{"letter": "20777.1795190934423.1", "order": "r1795190999000"}],
                    "refused": [
                        {"letter": "20777.1795190934423.2", "reason": "no_raw", "detail": Refused.NO_RAW.sentence}
                    ],
                    "next": None,
                }
            ]
        }
    )

    orders: list[ReprocessOrderBody]
    refused: list[ReprocessRefusalBody]
    next: str | None


def again_routes(store: EventStore, again: LettersAgain) -> APIRouter:
    """The route that has letters read again."""
    router = APIRouter(prefix="/api/v1", tags=["events"])

    @router.post(
        "/dead-letters/reprocess",
        status_code=202,
        summary="Have dead letters read again",
        response_model=ReprocessBody,
    )
    async def reprocess(
        body: Annotated[ReprocessRequest, Body(examples=[{"reason": "undecodable", "profile": "vendor/model"}])],
    ) -> dict[str, Any]:
        """The gateway that kept a letter takes its frame in once more, with the time at which it came first.

        At most 200 letters per request. A letter that fails again stays one letter.
        """
        letters, missing, following = await _chosen(store, body)
        asked = await again.ask(letters)
        refused = [*asked.refused, *((id_, Refused.NOT_FOUND) for id_ in missing)]
        return {
            "orders": [{"letter": letter, "order": order} for letter, order in asked.orders],
            "refused": [{"letter": id_, "reason": why, "detail": why.sentence} for id_, why in refused],
            "next": following,
        }

    return router


async def _chosen(store: EventStore, body: ReprocessRequest) -> tuple[list[DeadLetter], list[str], str | None]:
    """The letters meant, the ids that nobody has, and where the filter goes on."""
    if body.ids is not None:
        ids = list(dict.fromkeys(body.ids))
        found = await store.letters(ids)
        known = {one.id for one in found}
        return found, [id_ for id_ in ids if id_ not in known], None
    wanted = letter_filter(reason=body.reason, device=body.device, profile=body.profile, start=body.start, end=body.end)
    try:
        found, following = await store.dead_letters(AT_ONCE, body.cursor, wanted=wanted)
    except WrongCursor as e:
        raise Problem(422, "bad_cursor", str(e)) from e
    return found, [], following
