"""Aligned columns and folded text for terminals and pipes. Owns nothing else.

A pipe gets what a terminal of 100 columns would show.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from citysense_profiles.sheet.widths import cut, display_width, padded

GAP = "  "
WIDE = 36
"""A cell of more places does not widen its column: it runs over, and only its own line is pushed aside."""
_NARROW = 24
"""With less room than this beside the other columns, the last one goes onto lines of its own."""
_UNDER = 8


def screen_width() -> int:
    """Columns of the terminal; 100 where the output is none."""
    return shutil.get_terminal_size((100, 24)).columns


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]], width: int | None = None) -> list[str]:
    """The lines; columns (but the first) in which nothing stands are left out. `width` cuts the last column."""
    lines, taken = _columns(head, rows)
    if width is None:
        return [(before + last).rstrip() for before, last in lines]
    return [(before + cut(last, max(width - taken, 1))).rstrip() for before, last in lines]


def folded(head: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[list[str]]:
    """As `aligned`, but the last column is folded into `width`: for the head and each row its lines."""
    lines, taken = _columns(head, rows)
    if width - taken >= _NARROW:
        return [_beside(before, wrapped(last, width - display_width(before)), " " * taken) for before, last in lines]
    (top, name), *below = lines
    under = " " * _UNDER
    shown = [[(top + name).rstrip()]]
    for before, last in below:
        fits = not last or display_width(before + last) <= width
        parts = [before + last] if fits else [before, *(under + part for part in wrapped(last, width - _UNDER))]
        shown.append([part.rstrip() for part in parts])
    return shown


def hanging(lead: str, text: str, width: int) -> list[str]:
    """`lead` and the text, folded into `width`; the lines after the first begin where the text begins."""
    room = display_width(lead)
    return _beside(lead, wrapped(text, width - room), " " * room)


def wrapped(text: str, room: int) -> list[str]:
    """The text in lines of at most `room` places, broken at blanks; a longer word stays whole."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if lines[-1] and display_width(longer) > room:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _beside(before: str, parts: Sequence[str], under: str) -> list[str]:
    return [((under if place else before) + part).rstrip() for place, part in enumerate(parts)]


def _columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[list[tuple[str, str]], int]:
    """Each line as its padded columns and its last one, and the place where that begins."""
    kept = [column for column in range(len(head)) if column == 0 or any(row[column] for row in rows)]
    lines = [[row[column] for column in kept] for row in (head, *rows)]
    widths = [[display_width(line[column]) for line in lines] for column in range(len(kept) - 1)]
    rooms = [max((width for width in column if width <= WIDE), default=0) for column in widths]
    shown = [
        ("".join(padded(cell, room) + GAP for cell, room in zip(line, rooms, strict=False)), line[-1]) for line in lines
    ]
    return shown, sum(rooms) + len(GAP) * len(rooms)
