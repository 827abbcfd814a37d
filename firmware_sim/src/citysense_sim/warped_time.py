"""An event loop whose clock jumps: where everybody waits, it is at once as late as the first of them wanted.

Owns the jump. Sockets are real, so what runs in it must have both ends in this process; a day on a serial line then
takes seconds. The clock stands still while code runs, so that a slow machine measures what a fast one does.
"""

from __future__ import annotations

import asyncio
import os
import selectors
from typing import Any

from citysense.clock import Clock

_YIELDS = 3
"""Looks at the sockets before a jump: the kernel may be handing bytes over on the other core."""


class _Jumping(selectors.DefaultSelector):
    def __init__(self) -> None:
        super().__init__()
        self.jumped = 0.0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        for _ in range(_YIELDS):
            ready = super().select(0)
            if ready:
                return ready
            os.sched_yield()
        self.jumped += timeout
        return []


class WarpedLoop(asyncio.SelectorEventLoop):
    """For `asyncio.Runner(loop_factory=WarpedLoop)`. Its time begins at 0."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Seconds that were jumped over."""
        return self._jumping.jumped


class LoopClock(Clock):
    """The clock of the running loop, warped or not; its day begins at `start_ms` (ms since 1970 UTC)."""

    def __init__(self, start_ms: int = 0) -> None:
        self._start_ms = start_ms

    def now_ms(self) -> int:
        """Milliseconds since 1970 UTC."""
        return self._start_ms + int(asyncio.get_running_loop().time() * 1000)

    def monotonic(self) -> float:
        """The loop's own seconds."""
        return asyncio.get_running_loop().time()
