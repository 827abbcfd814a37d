"""The four warning colours and their order."""

from __future__ import annotations

from enum import StrEnum


class Colour(StrEnum):
    """Blue is the lowest, red the highest."""

    BLUE = "blue"
    YELLOW = "yellow"
    ORANGE = "orange"
    RED = "red"

    @property
    def rank(self) -> int:
        """0 for blue to 3 for red. The enum's own comparison is alphabetical; never use it for order."""
        return _RANKS[self]

    @property
    def zh(self) -> str:
        """The colour in Chinese, as warnings name it."""
        return _ZH[self]


COLOURS = tuple(Colour)
"""In rising order."""

_RANKS = {colour: rank for rank, colour in enumerate(COLOURS)}
_ZH = {Colour.BLUE: "蓝色", Colour.YELLOW: "黄色", Colour.ORANGE: "橙色", Colour.RED: "红色"}
