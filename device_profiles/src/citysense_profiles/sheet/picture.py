"""A frame of bytes as a drawing of fixed width: eight bytes a line, one drawing for each part of fixed layout.

Owns the drawing. It takes the rows of an outline; what varies in size is drawn as a line of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from citysense_profiles.sheet.labels import Labels
from citysense_profiles.sheet.rows import Row
from citysense_profiles.sheet.widths import cut, padded

COLUMNS = 8
_CELL = 10
_MARGIN = " " * 7
_LONGEST = 3 * COLUMNS
"""A field of more bytes is one line that says how many."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """What stands in some of the eight places of a line."""

    at: int
    span: int
    text: str


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of the drawing; `offset` is the place of its first byte, empty where it is not fixed."""

    offset: str
    pieces: tuple[_Piece, ...]

    @property
    def width(self) -> int:
        """The places it fills."""
        return self.pieces[-1].at + self.pieces[-1].span


def picture(rows: Sequence[Row], labels: Labels) -> list[str]:
    """The lines of the drawing; empty where no part has bytes to draw."""
    drawn: list[str] = []
    heading = ""
    part: list[Row] = []
    for row in rows:
        if row.heading or (part and part[-1].part != row.part and not row.inside):
            done = _part(heading, part, labels)
            drawn += [*done, ""] if done else []
            heading, part = row.heading, []
        if not row.heading and not row.inside:
            part.append(row)
    drawn += _part(heading, part, labels)
    return drawn


def _part(heading: str, rows: list[Row], labels: Labels) -> list[str]:
    if not rows:
        return [heading.replace("`", "")] if heading else []
    lines = _lines(rows, labels)
    width = min(COLUMNS, max(line.width for line in lines))
    ruler = _MARGIN + "".join(f"{column:^{_CELL + 1}}" for column in range(width)).rstrip()
    drawn = [heading.replace("`", "")] if heading else []
    drawn.append(ruler)
    above: tuple[_Piece, ...] = ()
    for line in lines:
        drawn.append(_MARGIN + _border(above, line.pieces))
        drawn.append(f"{line.offset:>6} " + _cells(line.pieces))
        above = line.pieces
    drawn.append(_MARGIN + _border(above, ()))
    return drawn


def _lines(rows: list[Row], labels: Labels) -> list[_Line]:
    """The fields laid into lines of eight places."""
    lines: list[_Line] = []
    pieces: list[_Piece] = []
    first = _offset(rows[0], 0)
    place = 0

    def close(next_offset: str) -> None:
        nonlocal pieces, first, place
        if pieces:
            lines.append(_Line(first, tuple(pieces)))
        pieces, first, place = [], next_offset, 0

    for row in rows:
        text = row.name.rsplit(".", 1)[-1] if "." in row.name else row.name or _unnamed(row)
        if row.size is None or row.size > _LONGEST:
            close(_offset(row, 0))
            size = "…" if row.size is None else f"({labels('bytes_count', count=row.size)})"
            lines.append(_Line(first, (_Piece(0, COLUMNS, f"{text} {size}"),)))
            first = _offset(row, row.size or 0)
            continue
        left = row.size
        while left:
            span = min(left, COLUMNS - place)
            pieces.append(_Piece(place, span, text))
            left, place, text = left - span, place + span, ""
            if place == COLUMNS:
                close(_offset(row, row.size - left))
    close("")
    return lines


def _unnamed(row: Row) -> str:
    return row.notes[0] if row.notes else "-"


def _offset(row: Row, past: int) -> str:
    """The offset `past` bytes behind the start of the row, as the table writes it."""
    if row.start is None:
        return ""
    at = row.start + past
    return f"end{at}" if row.where.startswith("end") else f"{'+' if row.where.startswith('+') else ''}{at}"


def _cells(pieces: tuple[_Piece, ...]) -> str:
    drawn = "|"
    for piece in pieces:
        room = piece.span * (_CELL + 1) - 1
        drawn += f" {padded(cut(piece.text, room - 1), room - 1)}|"
    return drawn


def _border(above: tuple[_Piece, ...], below: tuple[_Piece, ...]) -> str:
    ends = {0}
    for piece in (*above, *below):
        ends |= {piece.at, piece.at + piece.span}
    last = max(ends)
    return "+" + "".join("-" * _CELL + ("+" if place + 1 in ends else "-") for place in range(last))
