"""Markdown: tables, code and text that a profile's words cannot break.

Owns the syntax only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table; columns (but the first) in which nothing stands are left out."""
    kept = [column for column in range(len(head)) if column == 0 or any(row[column] for row in rows)]

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells[column].replace('|', chr(92) + '|') for column in kept)} |"

    return [line(head), f"|{'---|' * len(kept)}", *(line(row) for row in rows), ""]


def code(text: str) -> str:
    """Text in code type, whatever back ticks it holds; nothing stays nothing."""
    if not text:
        return ""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence, space = "`" * (longest + 1), " " if longest else ""
    return f"{fence}{space}{text}{space}{fence}"


def block(text: str, language: str = "text") -> list[str]:
    """The lines of a code block."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}{language}", *text.splitlines(), fence, ""]


def plain(text: str) -> str:
    """One line of text in which nothing is taken for mark-up but pairs of back ticks, which authors put around names."""
    parts = " ".join(text.split()).split("`")
    if len(parts) % 2 == 0:
        return _escaped("`".join(parts))
    return "".join(code(part) if odd % 2 else _escaped(part) for odd, part in enumerate(parts))


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*<>\[\]]|(?<!\w)_|_(?!\w))", r"\\\1", text)
