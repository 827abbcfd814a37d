"""The parts of the platform and how they are joined. Opens and closes them; decides nothing."""

from __future__ import annotations

import random
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from fastapi import FastAPI

from citysense import wire
from citysense.clock import Clock
from citysense.crash_points import CrashPoints
from citysense.durable_log import DurableLog
from citysense.errors import SetupError
from citysense.keys import Sealer, load_or_create_key
from citysense.progress import LIMIT_S, Progress
from citysense_platform.alerts.book import AlertBook
from citysense_platform.alerts.queries import Alerts
from citysense_platform.alerts.routes import alerts_routes
from citysense_platform.api.app import build_api
from citysense_platform.api.health import Health, health_routes
from citysense_platform.api.metrics import metrics_routes
from citysense_platform.city.database import City
from citysense_platform.dispatch.queries import Cases
from citysense_platform.dispatch.routes import dispatch_routes
from citysense_platform.downlinks.downlinks import Downlinks
from citysense_platform.downlinks.order_book import OrderBook
from citysense_platform.downlinks.routes import downlink_routes
from citysense_platform.events.again import LettersAgain
from citysense_platform.events.again_routes import again_routes
from citysense_platform.events.event_store import READER as EVENTS
from citysense_platform.events.event_store import EventStore
from citysense_platform.events.routes import event_routes
from citysense_platform.ingest.gateways import GatewayStates
from citysense_platform.ingest.log import IngestLog
from citysense_platform.ingest.routes import ingest_routes
from citysense_platform.ingest.ticker import Ticker
from citysense_platform.operation.ledger_watch import LedgerWatch
from citysense_platform.operation.overview import Overview
from citysense_platform.operation.status import status_routes
from citysense_platform.registry.authority import load_or_create_authority
from citysense_platform.registry.credentials import Credentials
from citysense_platform.registry.gateway_routes import gateway_routes
from citysense_platform.registry.gateways import Gateways
from citysense_platform.registry.registry import Registry
from citysense_platform.registry.roster import RosterSource
from citysense_platform.registry.routes import registry_routes
from citysense_platform.rules.model import DEFAULT_PACK, load_pack
from citysense_platform.rules.runner import RulesRunner
from citysense_platform.store.embedded import EmbeddedStore
from citysense_platform.store.follower import LogFollower
from citysense_platform.store.influx import InfluxStore, RefusedPoint
from citysense_platform.store.influx_server import TIMEOUT_S, parse_target
from citysense_platform.store.routes import telemetry_routes
from citysense_platform.store.writer import StoreWriter
from citysense_profiles.catalogue import load_catalogue
from citysense_profiles.errors import ProfileError
from citysense_profiles.vocabulary import Vocabulary, load_vocabulary

GATEWAY = "gateway-1"
"""The one gateway of a single box; more of them are enrolled through the registry."""


class Options(Protocol):
    """What the parts need of the process's settings."""

    @property
    def data(self) -> Path: ...
    @property
    def influx(self) -> str | None: ...
    @property
    def influx_token(self) -> str: ...
    @property
    def rules(self) -> Path | None: ...
    @property
    def profiles(self) -> Path | None: ...
    @property
    def speed(self) -> float: ...
    @property
    def responsible_unit(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Everything that runs: the API, the work to keep going by name, and how to end it."""

    api: FastAPI
    gateways: Gateways
    work: Mapping[str, Coroutine[Any, Any, None]]
    """Ends by itself after `stop`, with what it has at hand."""
    endless: Mapping[str, Coroutine[Any, Any, None]]
    """Ends by being cancelled; what it had not committed, it finds again."""
    stop: Callable[[], None]
    """Ask `work` to end; long polls go home."""
    close: Callable[[], Awaitable[None]]
    """Close the stores, after the work has ended."""


async def build_parts(
    options: Options,
    *,
    log_file: DurableLog,
    city: City,
    clock: Clock,
    crash: CrashPoints,
    admin_digest: bytes,
    jitter: random.Random,
    progress: Progress,
) -> Parts:
    """Open the stores and join all parts, each loop watched by `progress`. Raises CitysenseError with a sentence."""
    try:
        catalogue, vocabulary = load_catalogue(options.profiles), load_vocabulary()
    except ProfileError as e:
        raise SetupError(str(e)) from e
    pack = load_pack(options.rules or DEFAULT_PACK, speed=options.speed, vocabulary=vocabulary)
    events = EventStore(options.data / "events", clock=clock, crash=crash)
    store = _telemetry(options, events, vocabulary, clock, crash)
    await events.open(log_id=log_file.spool_id)
    await store.open(log_id=log_file.spool_id)

    credentials = _credentials(options.data / "keys", clock)
    roster = RosterSource(city, catalogue, keys_of=credentials.for_gateway, authority=credentials.authority)
    await roster.refresh()
    gateways = Gateways(city, clock, new_token=_random_secret)
    registry = Registry(city, catalogue, roster, clock, default_gateway=GATEWAY, credentials=credentials)
    orders = OrderBook(city, clock, progress.watch("orders"))
    again = LettersAgain(city, orders, clock)
    book = AlertBook(clock=clock, site_name=roster.site_name, responsible_unit=options.responsible_unit)
    rules = RulesRunner(
        log=log_file, city=city, pack=pack, settle=book.settle, clock=clock, pulse=progress.watch("rules")
    )
    await rules.load()
    ingest = IngestLog(log_file, roster.assignment, roster.foreign)
    states = GatewayStates()
    patience = LIMIT_S if options.influx is None else LIMIT_S + TIMEOUT_S
    store_writer = StoreWriter(
        log_file, store, clock=clock, jitter=jitter, pulse=progress.watch("store", limit=patience)
    )
    event_writer = LogFollower(
        EVENTS, log_file, events, clock=clock, jitter=jitter, pulse=progress.watch("events", limit=patience)
    )

    overview = Overview(
        states=states,
        clock=clock,
        rules=rules,
        ingest=ingest,
        store=store_writer,
        events=event_writer,
        orders=orders,
        conflicts=lambda: store.conflicts if isinstance(store, EmbeddedStore) else 0,
        refusals=lambda: store.refusals if isinstance(store, InfluxStore) else 0,
        alerts=Alerts(city),
        cases=Cases(city),
        log_file=log_file,
        health=Health(),
    )
    overview.watch()

    async def known(device: str) -> bool:
        return await registry.device(device) is not None

    api = build_api(
        admin_digest=admin_digest,
        routers=[
            registry_routes(registry, catalogue),
            gateway_routes(gateways, latest=states.latest, held=roster.held),
            downlink_routes(Downlinks(city, catalogue, vocabulary, orders, clock), known),
            again_routes(events, again),
            telemetry_routes(store, vocabulary, known),
            event_routes(events, known, again),
            alerts_routes(overview.alerts, site_name=roster.site_name),
            dispatch_routes(overview.cases, site_name=roster.site_name),
            status_routes(overview.status),
            metrics_routes(overview.figures()),
        ],
        open_routers=[
            health_routes(overview.health),
            ingest_routes(
                ingest,
                states,
                gateway_of=gateways.gateway_of,
                roster=roster.roster,
                orders=orders.orders,
                outcomes=orders.outcomes,
                clock=clock,
            ),
        ],
        title="citysense",
        version=version("citysense"),
    )

    def stop() -> None:
        roster.close()
        orders.close()
        store_writer.stop()
        event_writer.stop()

    async def close() -> None:
        await store.close()
        await events.close()

    return Parts(
        api=api,
        gateways=gateways,
        work={"store": store_writer.run(), "events": event_writer.run()},
        endless={
            "rules": rules.run(),
            "ticker": Ticker(log_file, clock, progress.watch("ticker")).run(),
            "orders": orders.run(),
            "ledger": LedgerWatch(
                city, latest=states.latest, settle=book.settle, clock=clock, pulse=progress.watch("ledger")
            ).run(),
        },
        stop=stop,
        close=close,
    )


def _random_secret() -> str:
    """160 random bits, printable: a password or a token."""
    return secrets.token_urlsafe(20)


def _credentials(keys: Path, clock: Clock) -> Credentials:
    return Credentials(
        authority=load_or_create_authority(keys / "device-authority.pem", now_ms=clock.now_ms()),
        sealer=Sealer(load_or_create_key(keys / "credentials.key")),
        new_password=_random_secret,
        new_bytes=secrets.token_bytes,
    )


def _telemetry(
    options: Options, events: EventStore, vocabulary: Vocabulary, clock: Clock, crash: CrashPoints
) -> EmbeddedStore | InfluxStore:
    """The embedded store, or the InfluxDB that was asked for. A point that its server refuses becomes a dead letter."""
    folder = options.data / "telemetry"
    if options.influx is None:
        return EmbeddedStore(folder, clock=clock, crash=crash)

    def personal(metric: str) -> bool:
        return metric not in vocabulary or vocabulary.metric(metric).personal

    async def refused(point: RefusedPoint) -> None:
        await events.keep(
            wire.DeadLetter(
                received=point.point.received,
                transport="influx",
                source="telemetry store",
                channel="",
                device=point.point.device,
                profile="",
                reason="store_refused",
                detail="a value that is personal; neither it nor the server's words are kept"
                if point.personal
                else point.words,
                size=len(point.line),
                raw=b"" if point.personal else point.line,
            )
        )

    target = parse_target(options.influx, options.influx_token)
    return InfluxStore(target, folder, refused=refused, personal=personal, crash=crash)
