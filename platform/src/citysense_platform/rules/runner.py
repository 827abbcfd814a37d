"""Follows the log and runs the rules over it; the thin shell around `engine`.

Owns when to read, and what one transaction holds: changed states, the places in both lanes, and what follows from the
transitions (alerts, cases). They commit together or not at all, so a crash at any point replays the log from the
stored places to the same result. Batches without a transition may wait up to a second for their commit. Must not know
what alerts and cases are.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from citysense import wire
from citysense.clock import Clock
from citysense.durable_log import DurableLog
from citysense.errors import StorageClosed, StorageError, StorageFull
from citysense.progress import Pulse
from citysense_platform.city.database import City
from citysense_platform.rules import book
from citysense_platform.rules.engine import RULE_LANES, Engine
from citysense_platform.rules.rule import RulePack
from citysense_platform.rules.state import Transition
from citysense_profiles.reading import ReadingClass

log = logging.getLogger(__name__)

READER = "rules"
"""Name under which log.db is told what has been judged, so that it may be trimmed."""
BATCH = 500
"""Records judged at once: a few milliseconds of the event loop."""
LAZY_S = 1.0
"""How long judged readings without a consequence may wait for their commit; a crash judges them again."""
RETRY_S = 0.5
"""Pause after city.db refused a write; well inside the ten seconds in which a full disk must heal."""
LATENCIES = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A case that was opened, and when the frame behind it was received (ms since 1970)."""

    case: int
    received: int
    silent: bool = False
    """A hold ended between two frames: there is no frame whose way could be measured."""


Settle = Callable[[Connection, Sequence[Transition]], Sequence[Opened]]
"""Turns transitions into alerts and cases on the given connection. May be called again if the commit failed."""


class RulesRunner:
    """Judges the safety and state lanes of the log. `pulse` beats with each round and each commit."""

    def __init__(
        self,
        *,
        log: DurableLog,
        city: City,
        pack: RulePack,
        settle: Settle,
        clock: Clock,
        pulse: Pulse | None = None,
    ) -> None:
        self._log = log
        self._city = city
        self._pack = pack
        self._settle = settle
        self._clock = clock
        self._pulse = pulse or Pulse()
        self._wakeup = log.wakeup(*RULE_LANES)
        self._engine = Engine(pack)
        self._unsettled: list[Transition] = []
        self._dirty_since: float | None = None
        self._refused = 0
        self._committed: dict[ReadingClass, int] = {}
        self._told_at = 0.0
        self.frame_to_case: deque[int] = deque(maxlen=LATENCIES)
        """Milliseconds from a frame's reception to the commit of the case it opened; the newest last."""
        self.cases_opened = 0

    @property
    def outcomes(self) -> dict[str, int]:
        """Readings judged, and not judged by reason, since the start."""
        return dict(self._engine.outcomes)

    def lag_ms(self, lane: ReadingClass) -> int | None:
        """Age of the last tick judged in a lane: about a second when all is well. None before the first."""
        ticked = self._engine.lanes[lane].ticked
        return self._clock.now_ms() - ticked if ticked else None

    def offset(self, lane: ReadingClass) -> int:
        """The last offset judged in a lane."""
        return self._engine.lanes[lane].offset

    async def load(self) -> None:
        """Take up where city.db says. Call once, before `run`, with log and city open."""
        log_id = self._log.spool_id
        states = await self._city.read(book.load_states)
        lanes = await self._city.read(lambda connection: book.load_lanes(connection, log_id))
        self._engine = Engine(self._pack, states, lanes)

    async def run(self) -> None:
        """Judge until cancelled; returns when city.db has been closed. Storage trouble is waited out."""
        while True:
            self._pulse.beat()
            self._wakeup.clear()
            try:
                worked = await self.judge_batches()
                if self._is_due():
                    await self.commit()
                await self._tell_log()
            except StorageClosed:
                return
            except StorageError as e:
                # What was judged stays in memory and is written before anything else is judged.
                self._refused += 1
                if self._refused == 1:
                    log.error("rules: alerts cannot be written, trying again until they can: %s", e)
                await asyncio.sleep(RETRY_S)
                continue
            if self._refused:
                log.warning("rules: alerts are written again after %d attempts", self._refused)
                self._refused = 0
            if not worked:
                await self._rest()

    async def judge_batches(self) -> bool:
        """Judge up to a batch of each lane and commit what has consequences; False when there was nothing.

        Raises StorageError; then call again, nothing is lost.
        """
        if self._unsettled:
            await self.commit()
        worked = False
        for lane in RULE_LANES:
            records = self._log.read(lane, after=self._engine.lanes[lane].offset, limit=BATCH)
            if not records:
                continue
            worked = True
            # What was judged and is not written yet is judged again after a crash.
            self._log.hold(READER, lane, first=self._log.cursor(READER, lane) + 1, last=records[-1].offset)
            if self._dirty_since is None:
                self._dirty_since = self._clock.monotonic()
            for record in records:
                try:
                    body = wire.decode_body(record.body)
                except ValueError as e:
                    log.error("rules: record %d of lane %s is not readable (%s); passed over", record.offset, lane, e)
                    self._engine.pass_over(lane, record.offset)
                    continue
                self._unsettled += self._engine.feed(lane, record.offset, body)
            if self._unsettled:
                await self.commit()
        return worked

    async def commit(self) -> None:
        """Write everything judged so far, in one transaction. Raises StorageError; then nothing was written."""
        engine = self._engine
        if self._dirty_since is None and not self._unsettled:
            return
        changed = {key: engine.states[key] for key in engine.changed}
        states = [(key, book.encode_state(state)) for key, state in changed.items()]
        lanes, log_id, transitions = dict(engine.lanes), self._log.spool_id, tuple(self._unsettled)

        def work(connection: Connection) -> Sequence[Opened]:
            opened = self._settle(connection, transitions) if transitions else ()
            book.save(connection, states, lanes, log_id)
            return opened

        opened = await self._city.write(work, point="rules")
        self._pulse.beat()
        self._unsettled.clear()
        engine.changed.clear()
        self._dirty_since = None
        now = self._clock.now_ms()
        self.frame_to_case.extend(now - case.received for case in opened if not case.silent)
        self.cases_opened += len(opened)
        self._committed = {lane: place.offset for lane, place in lanes.items() if place.offset}

    async def _tell_log(self) -> None:
        """Once a second: up to where log.db is not needed by the rules any more."""
        if not self._committed or self._clock.monotonic() - self._told_at < LAZY_S:
            return
        self._told_at = self._clock.monotonic()
        told, self._committed = self._committed, {}
        for lane, offset in told.items():
            try:
                await self._log.advance(READER, lane, offset)
            except StorageFull:
                # The log says so itself, and only trimming waits; the next commit brings a higher offset.
                return

    def _is_due(self) -> bool:
        return self._dirty_since is not None and self._clock.monotonic() - self._dirty_since >= LAZY_S

    async def _rest(self) -> None:
        """Until the next commit of the log; a tick comes at least once a second."""
        self._pulse.rest()
        try:
            async with asyncio.timeout(LAZY_S):
                await self._wakeup.wait()
        except TimeoutError:
            pass  # the log was silent; a lazy commit may be due
