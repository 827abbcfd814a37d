"""One alert per gateway whose conservation ledger does not balance: something came in and stands nowhere.

Owns the rule `system/ledger`, which is no rule of the pack: it judges what a gateway says of itself in its heartbeat, not
what a device measured. The alert, its history and its case are written by the same book as all others.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from sqlalchemy import Connection, func, select

from citysense.clock import Clock
from citysense.errors import StorageClosed, StorageError
from citysense.progress import Pulse
from citysense_platform.alerts.decide import AlertState
from citysense_platform.alerts.tables import alert
from citysense_platform.city.database import City
from citysense_platform.ingest.gateways import GatewayState
from citysense_platform.rules.colour import Colour
from citysense_platform.rules.rule import Words
from citysense_platform.rules.state import Transition, TransitionKind

log = logging.getLogger(__name__)

RULE = "system/ledger"
VERSION = "1"
FIGURE = "ledger.unbalanced"
"""The gateway's figure: frames and records that its ledger cannot place."""
PERIOD_S = 1.0
CLEAR_MS = 60_000
"""The ledger is struck once a minute: one balance in between would prove nothing."""
SILENT_MS = 5_000
"""An older heartbeat says nothing of now."""
TITLE = Words(zh="{site}：收发台账不平（{value}）", en="conservation ledger of {site} does not balance ({value})")

Settle = Callable[[Connection, Sequence[Transition]], object]
"""Turns transitions into alerts and cases on the given connection; see `AlertBook.settle`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The newest alert of a gateway's ledger: its episode (0 for none), and whether it is open."""

    episode: int
    is_open: bool


def judge(
    gateway: str, state: GatewayState, standing: Standing, *, clear_since: int | None, now: int
) -> Transition | None:
    """What a gateway's latest heartbeat changes. `clear_since` (ms) is when its figure began to be 0, None if it is not."""
    unbalanced = state.heartbeat.counters.get(FIGURE, 0.0)
    if unbalanced > 0 and not standing.is_open:
        reason = Words(
            zh=f"网关台账有 {unbalanced:g} 条收到的数据去向不明",
            en=f"{unbalanced:g} frames or records of this gateway are in none of the ledger's bins",
        )
        return _transition(TransitionKind.RAISED, gateway, state, standing.episode + 1, unbalanced, reason)
    if clear_since is not None and standing.is_open and now - clear_since >= CLEAR_MS:
        reason = Words(zh="网关台账已平，持续 60 s", en="the ledger has balanced for 60 s")
        return _transition(TransitionKind.CLEARED, gateway, state, standing.episode, 0.0, reason)
    return None


def _transition(
    kind: TransitionKind, gateway: str, state: GatewayState, episode: int, value: float, reason: Words
) -> Transition:
    return Transition(
        kind=kind,
        rule=RULE,
        rule_version=VERSION,
        # The gateway stands in the device's place: it is what somebody must look at.
        device=gateway,
        site="",
        episode=episode,
        colour=Colour.ORANGE,
        value=value,
        unit="",
        data_time=state.heartbeat.time,
        received=state.arrived,
        silent=True,
        reason=reason,
        title=TITLE,
    )


class LedgerWatch:
    """Watches the heartbeats of all gateways. `latest` gives them, `settle` writes the alerts, `pulse` beats with each
    look."""

    def __init__(
        self,
        city: City,
        *,
        latest: Callable[[], Mapping[str, GatewayState]],
        settle: Settle,
        clock: Clock,
        pulse: Pulse | None = None,
    ) -> None:
        self._city = city
        self._latest = latest
        self._settle = settle
        self._clock = clock
        self._standing: dict[str, Standing] = {}
        self._clear_since: dict[str, int] = {}
        self._pulse = pulse or Pulse()
        self._failures = 0

    async def run(self) -> None:
        """Look once a second until cancelled; returns when city.db has been closed."""
        while True:
            self._pulse.beat()
            try:
                await self.look()
            except StorageClosed:
                return
            except StorageError as e:
                self._failures += 1
                if self._failures == 1:
                    log.error("ledger watch: alerts cannot be written, trying again until they can: %s", e)
            else:
                if self._failures:
                    log.warning("ledger watch: alerts are written again after %d attempts", self._failures)
                self._failures = 0
            self._pulse.rest()
            await asyncio.sleep(PERIOD_S)

    async def look(self) -> None:
        """Judge the latest heartbeats now. Raises StorageError; then nothing of that gateway was written."""
        now = self._clock.now_ms()
        for gateway, state in self._latest().items():
            if now - state.arrived >= SILENT_MS:
                self._clear_since.pop(gateway, None)
                continue
            if state.heartbeat.counters.get(FIGURE, 0.0) > 0:
                self._clear_since.pop(gateway, None)
            else:
                self._clear_since.setdefault(gateway, now)
            if gateway not in self._standing:
                self._standing[gateway] = await self._city.read(partial(_standing, gateway=gateway))
            await self._apply(gateway, state, now)

    async def _apply(self, gateway: str, state: GatewayState, now: int) -> None:
        changed = judge(gateway, state, self._standing[gateway], clear_since=self._clear_since.get(gateway), now=now)
        if changed is None:
            return
        await self._city.write(lambda connection: self._settle(connection, [changed]))
        raised = changed.kind is TransitionKind.RAISED
        self._standing[gateway] = Standing(episode=changed.episode, is_open=raised)
        log.log(logging.ERROR if raised else logging.WARNING, "gateway %s: %s", gateway, changed.reason.en)


def _standing(connection: Connection, *, gateway: str) -> Standing:
    mine = (alert.c.rule == RULE) & (alert.c.device == gateway)
    episode = connection.execute(select(func.max(alert.c.episode)).where(mine)).scalar() or 0
    is_open = select(alert.c.id).where(mine, alert.c.episode == episode, alert.c.state != str(AlertState.RESOLVED))
    return Standing(episode=int(episode), is_open=connection.execute(is_open).first() is not None)
