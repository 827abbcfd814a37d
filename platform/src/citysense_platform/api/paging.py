"""Lists of the API: `{"items": [...], "next": cursor | null}`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Query
from pydantic import BaseModel

T = TypeVar("T")

Limit = Annotated[int, Query(ge=1, le=1000, description="How many items at most.")]
Cursor = Annotated[
    str | None, Query(max_length=200, description="`next` of the page before; leave out for the first page.")
]
DEFAULT_LIMIT = 100


class Page(BaseModel, Generic[T]):
    """One page of a list. `next` is the cursor of the page that follows, null on the last one."""

    items: list[T]
    next: str | None


def page(rows: Sequence[T], limit: int, cursor_of: Callable[[T], str]) -> dict[str, Any]:
    """A page out of up to `limit + 1` rows: the one too many says that there is more."""
    items = list(rows[:limit])
    return {"items": items, "next": cursor_of(items[-1]) if len(rows) > limit else None}
