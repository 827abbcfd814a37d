"""Work beside a loop that must not wait for it: one piece at a time, whose failure the loop hears of.

Owns the task and its end. Must not know what is done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from citysense.errors import CitysenseError


class Beside:
    """`start` it, `check` it in each round of the loop, `end` it with the loop."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    @property
    def busy(self) -> bool:
        """True from `start` until the end was seen by `check`."""
        return self._task is not None

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin; only while not `busy`."""
        assert self._task is None
        self._task = asyncio.get_running_loop().create_task(work)

    def check(self) -> None:
        """Raises what ended the work, once."""
        task = self._task
        if task is not None and task.done():
            self._task = None
            task.result()

    async def end(self, *, cancel: bool) -> None:
        """Return when it has ended. Trouble with the world is no news any more; a defect is raised."""
        task, self._task = self._task, None
        if task is None:
            return
        if cancel:
            task.cancel()
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait({task})
            raise
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, CitysenseError):
            raise error
