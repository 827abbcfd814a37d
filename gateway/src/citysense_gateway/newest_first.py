"""The newest records of a long lane, sent ahead of the others on a chain of requests of their own.

After an outage live readings must not wait behind hours of backlog. What is settled here leaves the spool at once, in one
transaction, so that a crash leaves nothing to be remembered: the chain that drains the lane from its oldest end finds
these records gone. At the first trouble this chain ends; whatever it leaves is part of the lane like all else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from citysense.durable_log import DurableLog
from citysense.errors import StorageClosed, StorageError
from citysense_gateway.hand_over import MAX_RECORDS, READER, HandOver
from citysense_gateway.lane_progress import read_answer, runs
from citysense_gateway.platform_client import Unreachable
from citysense_profiles.reading import ReadingClass

AHEAD = f"{READER} newest"


class NewestFirst:
    """One run of the chain. `start` is the offset before its first record: the other chain goes no further than that.

    `settled` gives the lane's cursor.
    """

    def __init__(
        self,
        cls: ReadingClass,
        *,
        start: int,
        log: DurableLog,
        hand_over: HandOver,
        settled: Callable[[], int],
        wakeup: asyncio.Event,
        linger: float,
    ) -> None:
        self._cls = cls
        self._log = log
        self._hand_over = hand_over
        self._settled = settled
        self._wakeup = wakeup
        self._linger = linger
        self._head = start
        self._stopping = False
        self.start = start
        self._task = asyncio.create_task(self._run())

    def ended(self) -> bool:
        """True when it has ended by itself. Raises what ended it, if that was not mere trouble with the platform."""
        return self._task.done() and self._task.result() is None

    async def stop(self) -> None:
        """Let it end after the request that is under way."""
        self._stopping = True
        self._wakeup.set()
        await self._task

    async def cancel(self) -> None:
        """End it now."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            while not self._stopping:
                self._wakeup.clear()
                sent = await self._round()
                if sent is False:
                    return
                if sent is None and not self._stopping:
                    await self._wakeup.wait()
                    await asyncio.sleep(self._linger)
        except StorageClosed:
            raise
        except (Unreachable, StorageError):
            # The other chain meets the same trouble, and tells of it.
            return

    async def _round(self) -> bool | None:
        """Send the next records; None when there are none, False when some were not taken."""
        window = self._log.read(self._cls, after=self._head, limit=MAX_RECORDS)
        if not window:
            return None
        batch = self._hand_over.cut(window)
        offsets = [record.offset for record in batch]
        self._log.hold(AHEAD, self._cls, first=offsets[0], last=offsets[-1])
        answer = await self._hand_over.send(batch, settled=self._settled(), after=self._head)
        if answer is None:
            return True
        done, refused = read_answer(offsets, answer)
        await self._hand_over.give_up(batch, refused)
        await self._log.finish(self._cls, runs(offsets, done), urgent=self._hand_over.urgent)
        self._head = offsets[-1]
        return len(done) == len(offsets)
