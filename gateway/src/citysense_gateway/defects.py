"""Defects of our own that a frame brings to light: which errors count as such, and how they are told.

Owns the families of errors that code without I/O can raise, and the memory of which places were told. A defect must be
seen by whoever can mend it; but at two hundred frames a second one traceback for each would fill the disk.
"""

from __future__ import annotations

import logging
import traceback

log = logging.getLogger(__name__)

DEFECTS = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""By name, and not everything: memory that runs out, a cancelled task, a stopped writer have owners of their own."""
MAX_PLACES = 100
"""Places of the code told with a traceback; a number that no gateway reaches bounds the memory and the log."""


class Defects:
    """Tells each defect once, with the way to it."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def tell(self, error: BaseException, *, may_quote: bool, what: str = "a frame") -> str:
        """Log `error` unless its place was told before; returns kind and place, without any value.

        `what` it stopped. `may_quote`: whether the error's own text, which may hold a value of the frame, may stand in the log.
        """
        frames = traceback.extract_tb(error.__traceback__)
        last = frames[-1]
        where = f"{type(error).__name__} in {last.name}, line {last.lineno} of {last.filename.rpartition('/')[2]}"
        if where not in self._told and len(self._told) < MAX_PLACES:
            self._told.add(where)
            text = f": {error}" if may_quote else ""
            way = "".join(traceback.format_list(frames[-20:]))
            log.error("a defect stopped %s: %s%s\n%s", what, where, text, way.rstrip())
        return where
