"""Aligned columns for terminals and pipes, the same in both. Owns nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from citysense_profiles.sheet.widths import cut, display_width, padded

GAP = "  "


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]], width: int | None = None) -> list[str]:
    """The lines; columns (but the first) in which nothing stands are left out. `width` cuts the last column."""
    kept = [column for column in range(len(head)) if column == 0 or any(row[column] for row in rows)]
    lines = [[row[column] for column in kept] for row in (head, *rows)]
    widest = [max(display_width(line[column]) for line in lines) for column in range(len(kept))]
    if width is not None:
        taken = sum(widest[:-1]) + len(GAP) * (len(widest) - 1)
        widest[-1] = min(widest[-1], max(width - taken, 1))
    return [
        GAP.join(padded(cut(cell, room), room) for cell, room in zip(line, widest, strict=True)).rstrip()
        for line in lines
    ]
