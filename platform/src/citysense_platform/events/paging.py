"""Pages over day files, newest first: where a page ended, as a cursor, and what comes after it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_END = (1 << 63) - 1
"""The greatest integer of SQLite."""


class WrongCursor(ValueError):
    """The text is no cursor of ours."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page ended: in the file of which day, at which moment (ms), at which row."""

    day: int = _END
    time: int = _END
    row: int = 0

    @property
    def text(self) -> str:
        """The place as a cursor."""
        return f"{self.day}.{self.time}.{self.row}"

    def days(self, days: Sequence[int]) -> list[int]:
        """Of `days` those that may hold more, newest first."""
        return sorted((day for day in days if day <= self.day), reverse=True)

    def before(self, day: int) -> tuple[int, int]:
        """(time, row) that the rows of `day` still to come are less than."""
        return (self.time, self.row) if day == self.day else (_END, _END)


def place_of(cursor: str | None) -> Place:
    """The place that a cursor names; None is the start. Raises WrongCursor."""
    if cursor is None:
        return Place()
    try:
        day, time, row = (int(part) for part in cursor.split("."))
    except ValueError as e:
        raise WrongCursor(_WRONG) from e
    if any(abs(number) > _END for number in (day, time, row)):
        raise WrongCursor(_WRONG)
    return Place(day, time, row)


_WRONG = "this cursor is none of ours; send the text that `next` held"
