"""Gathers what an operator watches out of the parts that know it: health, status, figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from citysense.clock import Clock
from citysense.durable_log import DurableLog
from citysense_platform.alerts.queries import Alerts
from citysense_platform.api.health import Health
from citysense_platform.dispatch.queries import CaseFilter, Cases
from citysense_platform.downlinks.order import Ignored, OrderKind
from citysense_platform.downlinks.order_book import OrderBook
from citysense_platform.ingest.gateways import GatewayStates
from citysense_platform.ingest.log import IngestLog
from citysense_platform.operation.figures import GatewayFigures, PlatformFigures
from citysense_platform.operation.status import Status, by_prefix, frame_to_case
from citysense_platform.rules.runner import RulesRunner
from citysense_platform.store.follower import LogFollower, Progress
from citysense_platform.store.writer import StoreWriter
from citysense_profiles.reading import ReadingClass

SILENT_MS = 5_000
"""A gateway gives a sign of life each second; five missed ones are no coincidence."""
LAG_LIMIT_S = 10.0
"""No progress for ten seconds is a fault (a tick of the log reaches the rules every second)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """The parts that are watched."""

    states: GatewayStates
    clock: Clock
    rules: RulesRunner
    ingest: IngestLog
    store: StoreWriter
    events: LogFollower
    orders: OrderBook
    conflicts: Callable[[], int]
    """Values that replaced another one of the same moment in the embedded store, since the start."""
    refusals: Callable[[], int]
    """Points that InfluxDB refused, since the start."""
    alerts: Alerts
    cases: Cases
    log_file: DurableLog
    health: Health

    def watch(self) -> None:
        """Put the parts under the health checks."""
        self.health.check("rules", lambda: _seconds(self.rules.lag_ms(ReadingClass.SAFETY)), limit=LAG_LIMIT_S)
        self.health.check("store", lambda: _behind(self.store.progress), limit=LAG_LIMIT_S)
        self.health.check("events", lambda: _behind(self.events.progress), limit=LAG_LIMIT_S)

    def figures(self) -> CollectorRegistry:
        """For Prometheus: the gateways' counters and the platform's own."""
        registry = CollectorRegistry()
        registry.register(
            GatewayFigures(lambda: {name: s.heartbeat.counters for name, s in self.states.latest().items()})
        )
        registry.register(self._own_figures())
        return registry

    def _own_figures(self) -> PlatformFigures:
        return PlatformFigures(
            {
                "rules_lag_seconds": (
                    "Age of the last tick that the rules have judged.",
                    lambda: (self.rules.lag_ms(ReadingClass.SAFETY) or 0) / 1000,
                ),
                "rules_cases_opened": ("Cases opened since the start.", lambda: float(self.rules.cases_opened)),
                "store_values": (
                    "Values handed to the telemetry store since the start.",
                    lambda: float(self.store.values),
                ),
                "store_behind_seconds": (
                    "How far the telemetry store is behind.",
                    lambda: self.store.progress.behind_ms / 1000,
                ),
                "events_behind_seconds": (
                    "How far the event store is behind.",
                    lambda: self.events.progress.behind_ms / 1000,
                ),
                "ingest_records": (
                    "Records taken from gateways since the start.",
                    lambda: float(self.ingest.counters["records"]),
                ),
                "ingest_duplicates": (
                    "Records that gateways sent again.",
                    lambda: float(self.ingest.counters["duplicates"]),
                ),
                "log_tombstones": (
                    "Readings that were acknowledged and given up since the start.",
                    lambda: float(self.log_file.entombed),
                ),
                "log_short_of_space": (
                    "1 while state and bulk readings become tombstones.",
                    lambda: float(self.log_file.short_of_space),
                ),
                "store_conflicts": (
                    "Values that replaced another one of the same device, metric and moment.",
                    lambda: float(self.conflicts()),
                ),
                "store_refusals": (
                    "Points that the InfluxDB server refused; they are in the dead letters.",
                    lambda: float(self.refusals()),
                ),
                **self._order_figures(),
            }
        )

    def _order_figures(self) -> Mapping[str, tuple[str, Callable[[], float]]]:
        counters, still_open = self.orders.counters, self.orders.open
        return {
            "downlinks_open": (
                "Messages for devices without an end yet.",
                lambda: float(still_open[OrderKind.DOWNLINK]),
            ),
            "letters_open": ("Dead letters being read again.", lambda: float(still_open[OrderKind.LETTER])),
            "orders_handed": ("Orders handed to gateways, repeats too.", lambda: float(counters["handed"])),
            "orders_closed": ("Orders that ended without an outcome.", lambda: float(counters["closed"])),
            "outcomes_taken": ("Outcomes that changed an order.", lambda: float(counters["outcomes"])),
            "outcomes_ignored": (
                "Outcomes that changed nothing: repeats, and what is of no order of that gateway.",
                lambda: float(sum(counters[f"ignored.{why}"] for why in Ignored)),
            ),
        }

    async def status(self) -> Status:
        """The figures of this moment."""
        latest = self.states.latest()
        counters: dict[str, float] = {}
        for state in latest.values():
            for name, value in state.heartbeat.counters.items():
                counters[name] = counters.get(name, 0) + value
        newest = await self.cases.newest(CaseFilter(), before=None, limit=1)
        unready = self.health.failing()
        return Status(
            gateway_seen=any(self.clock.now_ms() - state.arrived < SILENT_MS for state in latest.values()),
            frames=by_prefix(counters, "frames"),
            stored=int(counters.get("stored", 0)),
            duplicate=int(counters.get("duplicate", 0)),
            rejected=by_prefix(counters, "rejected"),
            unavailable=int(counters.get("unavailable", 0)),
            short_of_space=[
                *(["platform"] if self.log_file.short_of_space else []),
                *(name for name, state in latest.items() if state.heartbeat.counters.get("short_of_space")),
            ],
            waiting=sum(by_prefix(counters, "spool").values()),
            alerts=await self.alerts.open_by_colour(),
            cases=await self.cases.total(),
            frame_to_case=frame_to_case(list(self.rules.frame_to_case)),
            newest_case={"zh": newest[0]["title_zh"], "en": newest[0]["title_en"]} if newest else None,
            ready=not unready,
            unready=unready,
        )


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def _behind(progress: Progress) -> float:
    """Seconds that a writer is behind. Waiting for a server that is down is no fault of this process: it delays charts,
    never alerts, and stands in the figures."""
    return 0.0 if progress.outage_since is not None else progress.behind_ms / 1000
