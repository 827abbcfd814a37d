"""What the lists of alerts and of cases have in common at the HTTP edge: ids as cursors, and texts in two languages."""

from __future__ import annotations

from pydantic import BaseModel

from citysense_platform.api.problems import Problem

MAX_ID = 2**63 - 1
"""The largest id that the database can hold; a larger number is nobody's."""


class BilingualBody(BaseModel):
    """One text in both languages."""

    zh: str
    en: str


def id_in_cursor(cursor: str | None) -> int | None:
    """The id that a cursor of a list by id stands for. Raises Problem 422 for a text that was never one."""
    if cursor is None:
        return None
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) < 19):
        raise Problem(422, "invalid_cursor", "cursor is not one that this list gave out; start without it")
    return int(cursor)
