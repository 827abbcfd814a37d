"""How wide text is in a fixed-width drawing: Chinese characters take two places. Owns nothing else."""

from __future__ import annotations

import unicodedata


def display_width(text: str) -> int:
    """Places that the text takes."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def cut(text: str, room: int) -> str:
    """The text, or its beginning and a mark that it was cut, in at most `room` places."""
    if display_width(text) <= room:
        return text
    while display_width(text) > room - 1:
        text = text[:-1]
    return f"{text}~"


def padded(text: str, room: int) -> str:
    """The text with blanks up to `room` places."""
    return text + " " * (room - display_width(text))
