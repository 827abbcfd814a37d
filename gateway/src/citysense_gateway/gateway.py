"""The gateway's parts, wired: which part knows which, the order in which they start and stop, and how they look from outside.

Owns nothing else; `app.py` makes what is passed in here, and every decision is made in the parts.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from random import Random
from typing import Any

from citysense.clock import Clock
from citysense.crash_points import CrashPoints
from citysense.errors import SetupError
from citysense.keys import Sealer, TagPseudonym, load_or_create_secret
from citysense.progress import LIMIT_S, Progress, keep_beating
from citysense_gateway import mailbox
from citysense_gateway.broker.driver import BrokerDriver
from citysense_gateway.broker.options import BrokerOptions
from citysense_gateway.coap import oscore_store
from citysense_gateway.coap.door import CoapDoor, CoapKeys
from citysense_gateway.coap.oscore_store import OscoreStore
from citysense_gateway.counters import FrameCounters
from citysense_gateway.devices import Changes, Devices
from citysense_gateway.exposition import Sources, exposition
from citysense_gateway.figures import door_figures
from citysense_gateway.folder_lock import FolderLock
from citysense_gateway.heartbeat import Heartbeat
from citysense_gateway.ledger import CountedSink, Ledger
from citysense_gateway.mailbox import Mailbox, why_gone
from citysense_gateway.modbus.links import ModbusTls
from citysense_gateway.modbus.polled import planner_for, polled_maps
from citysense_gateway.modbus.poller import ModbusPoller
from citysense_gateway.mqtt import stored_sessions
from citysense_gateway.mqtt.door import MqttDoor
from citysense_gateway.mqtt.limits import MqttSettings, connections_allowed
from citysense_gateway.mqtt.stored_sessions import StoredSessions
from citysense_gateway.orders import Orders
from citysense_gateway.outage import Outage
from citysense_gateway.pipeline import Pipeline
from citysense_gateway.platform_client import POLL_S, POST_S, PlatformClient
from citysense_gateway.readiness import Check, Moment, checks
from citysense_gateway.record_count import COUNT_LIMIT_S, RecordCount
from citysense_gateway.reload import RELOAD_LIMIT_S, Certificates, Reloader
from citysense_gateway.reprocess import Rereading
from citysense_gateway.roster import RosterKeeper
from citysense_gateway.settings import GatewaySettings
from citysense_gateway.spool import Spool
from citysense_gateway.status import StatusServer
from citysense_gateway.upkeep import Upkeep
from citysense_gateway.uplink import Lane, drained
from citysense_profiles.catalogue import Catalogue, load_catalogue
from citysense_profiles.reading import ReadingClass
from citysense_profiles.vocabulary import load_vocabulary

log = logging.getLogger(__name__)

DRAIN_S = 2.0
"""How long a clean stop waits for the spool to empty; what is left is handed over after the next start."""
TOKEN = "gateway-token"  # noqa: S105 - a file's name


OWNERS = (mailbox.OWNER, oscore_store.OWNER, stored_sessions.OWNER)
"""Who has tables in the spool's file beside the spool."""


class Gateway:
    """All parts of one gateway. `spool` is open and `client` entered; `lock` is held."""

    def __init__(
        self,
        settings: GatewaySettings,
        *,
        spool: Spool,
        client: PlatformClient,
        sealer: Sealer,
        pseudonym: TagPseudonym,
        clock: Clock,
        chance: Random,
        crash: CrashPoints,
        progress: Progress,
        lock: FolderLock,
        broker: BrokerOptions | None = None,
    ) -> None:
        self._settings = settings
        self._spool = spool
        self._client = client
        self._progress = progress
        self._lock = lock
        self._clock = clock
        self._counters = FrameCounters()
        catalogue = load_catalogue(settings.profiles)
        self._devices = Devices(catalogue)
        pipeline = Pipeline(
            devices=self._devices,
            spool=spool,
            vocabulary=load_vocabulary(),
            pseudonym=pseudonym,
            seal=sealer.seal,
            counters=self._counters,
            crash=crash,
        )
        self._sink = CountedSink(pipeline)
        self._record_count = RecordCount(
            log=spool.log,
            clock=clock,
            random=chance.random,
            pulse=progress.watch("record count", limit=COUNT_LIMIT_S),
        )
        self._ledger = Ledger(sink=self._sink, counters=self._counters.snapshot, lanes=lambda: self._record_count.books)
        self._mailbox = Mailbox(
            spool.log,
            devices=self._devices,
            sealer=sealer,
            clock=clock,
            random=chance.random,
            current=lambda: self._roster.current.is_set(),
            pulse=progress.watch("mailbox"),
        )
        self._mqtt = MqttDoor(
            sink=self._sink,
            check_password=self._devices.check_password,
            topic_rights=self._devices.topic_rights,
            clock=clock,
            settings=MqttSettings(max_connections=connections_allowed()),
            check_certificate=self._devices.check_certificate,
            speaks_for=self._devices.speaks_for,
            children_of=self._devices.children_of,
            concentrator_of=self._devices.concentrator_of,
            mail=self._mailbox,
            store=StoredSessions(spool.log, random=chance.random),
            random=chance,
            pulse=progress.watch("MQTT door"),
        )
        self._coap = CoapDoor(
            sink=self._sink,
            known=self._devices.known,
            clock=clock,
            random=chance,
            keys=CoapKeys(psk=self._devices.psk, oscore=self._devices.oscore),
            store=OscoreStore(spool.log, clock=clock, trouble=Outage("OSCORE sender numbers", chance.random)),
            mail=self._mailbox,
            asserted=settings.on_loopback or settings.insecure,
            pulse=progress.watch("CoAP door"),
        )
        self._modbus = ModbusPoller(
            sink=self._sink,
            clock=clock,
            random=chance,
            mail=self._mailbox,
            plan_writes=planner_for(self._devices),
            tls=ModbusTls(
                authority=settings.modbus_ca,
                certificate=settings.modbus_cert,
                key=settings.modbus_key,
                insecure=settings.insecure,
            ),
            progress=progress,
        )
        self._broker = (
            BrokerDriver(
                broker,
                sink=self._sink,
                devices=self._devices,
                mail=self._mailbox,
                clock=clock,
                random=chance.random,
                nonce=lambda: chance.randbytes(16),
                pulse=progress.watch("broker"),
            )
            if broker is not None
            else None
        )
        self._roster = RosterKeeper(
            settings.data / "roster.sealed",
            devices=self._devices,
            client=client,
            sealer=sealer,
            random=chance.random,
            on_change=self._devices_changed,
            pulse=progress.watch("roster", limit=POLL_S + LIMIT_S),
        )
        self._orders = Orders(
            client=client,
            mailbox=self._mailbox,
            read_again=Rereading(again=self._sink.read_again, sealer=sealer, clock=clock),
            random=chance.random,
            pulse=progress.watch("orders", limit=POLL_S + LIMIT_S),
            telling=progress.watch("outcomes", limit=POST_S + LIMIT_S),
        )
        self._lanes = [
            Lane(
                cls,
                spool=spool,
                client=client,
                devices=self._devices,
                seal=sealer.seal,
                counters=self._counters,
                clock=clock,
                random=chance.random,
                crash=crash,
            )
            for cls in ReadingClass
        ]
        self._upkeep = Upkeep(
            spool=spool,
            ledger=self._ledger,
            traffic=client.traffic,
            progress=progress,
            clock=clock,
            random=chance.random,
        )
        self._heartbeat = Heartbeat(
            settings.gateway,
            client=client,
            clock=clock,
            random=chance.random,
            figures=self._figures,
            pulse=progress.watch("heartbeat", limit=POST_S + LIMIT_S),
        )
        self._certificates = (
            Certificates(settings.tls_cert, settings.tls_key) if settings.tls_cert and settings.tls_key else None
        )
        self._reloader = Reloader(
            profiles=settings.profiles,
            catalogue=catalogue,
            use_profiles=self._use_profiles,
            others=(self._new_certificate, self._new_token),
            clock=clock,
            pulse=progress.watch("reload", limit=RELOAD_LIMIT_S),
        )
        sources = Sources(
            figures=self._figures, traffic=client.traffic, commits=self._upkeep.commits, ages=progress.ages
        )
        self._status = StatusServer(
            checks=self._checks, metrics=exposition(sources), reloads=lambda: tuple(self._reloader.done)
        )

    def reload(self) -> None:
        """Have profiles, certificates and token read again."""
        self._reloader.ask()

    # -- life ---------------------------------------------------------------------------------------------------------

    async def serve(self, stop: asyncio.Event) -> None:
        """Serve devices until `stop` is set. Raises SetupError when a door cannot open, StorageClosed when the spool's
        writer has ended."""
        try:
            self._mailbox.load()
            port = await self._status.start(self._settings.status_port)
            self._lock.say(port)
            # With the roster of the last time, so that devices are served while the platform is still down.
            self._roster.load()
            await self._open_doors()
        except BaseException:
            await self._close_doors()
            await self._status.stop()
            raise
        log.info("gateway ready; health and figures on http://127.0.0.1:%d", port)
        # Nothing of what was made up to here ever becomes garbage; and the library's table of CoAP exchanges makes
        # full collections of the usual thresholds cost 150 ms at the 99th percentile.
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        try:
            await self._run_until(stop)
        finally:
            await self._status.stop()

    def _loops(self) -> list[Coroutine[Any, Any, None]]:
        return [
            keep_beating(self._progress.watch("event loop")),
            self._upkeep.run(),
            self._record_count.run(),
            self._mailbox.run(),
            self._orders.fetch(),
            self._orders.tell(),
            self._reloader.run(),
            self._roster.run(),
            self._beat(),
            self._modbus.watch(),
            *(lane.run() for lane in self._lanes),
            *([self._broker.run()] if self._broker is not None else []),
        ]

    async def _run_until(self, stop: asyncio.Event) -> None:
        tasks = {asyncio.create_task(loop) for loop in self._loops()}
        stopping = asyncio.create_task(stop.wait())
        try:
            # A loop ends by itself only through a fault, which takes the process down for its supervisor to restart.
            done, _ = await asyncio.wait({stopping, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            await self._close_doors()
            if stopping in done and not await drained(self._lanes, DRAIN_S):
                log.info("stopping with records in the spool; they are handed over after the next start")
        finally:
            for task in (stopping, *tasks):
                task.cancel()
            results = await asyncio.gather(stopping, *tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _beat(self) -> None:
        # A gateway that does not know its devices yet would be taken for one that serves them.
        await self._roster.current.wait()
        await self._heartbeat.run()

    async def _open_doors(self) -> None:
        if self._certificates is not None:
            self._certificates.load()
        tls = self._certificates.context if self._certificates is not None else None
        host = self._settings.bind
        try:
            await self._mqtt.start(host, self._settings.mqtt_port, tls=tls)
        except OSError as e:
            raise _unusable("MQTT", host, self._settings.mqtt_port, e) from e
        try:
            await self._coap.start(host, self._settings.coap_port, dtls_port=self._settings.dtls_port)
        except OSError as e:
            raise _unusable("CoAP", host, self._settings.coap_port, e) from e
        await self._modbus.start()

    async def _close_doors(self) -> None:
        if self._broker is not None:
            await self._broker.stop()
        await self._mqtt.stop()
        await self._coap.stop()
        await self._modbus.stop()

    # -- changes while running ----------------------------------------------------------------------------------------

    def _devices_changed(self, changes: Changes) -> None:
        for device in changes.cut:
            self._mqtt.disconnect(device)
        self._coap.devices_changed(changes.cut)
        self._mailbox.devices_gone(why_gone(changes))
        if self._broker is not None:
            self._broker.devices_changed(changes)
        self._modbus.set_devices([one for device in self._devices for one in polled_maps(device)])
        if self._certificates is not None:
            try:
                if self._certificates.believe(self._devices.authority):
                    self._mqtt.use_tls(self._certificates.context)
            except SetupError as e:
                log.error("%s; devices with certificates cannot connect until that is mended", e)

    def _use_profiles(self, catalogue: Catalogue) -> None:
        self._devices.use(catalogue)
        self._roster.serve_again()

    def _new_certificate(self) -> str:
        if self._certificates is None or not self._certificates.load():
            return ""
        self._client.trust_again()
        return "certificate: new connections get the new one"

    def _new_token(self) -> str:
        changed = self._client.use_token(load_or_create_secret(self._settings.data / TOKEN))
        return "token: the new one is shown to the platform from now on" if changed else ""

    # -- how it looks from outside ------------------------------------------------------------------------------------

    def _figures(self) -> dict[str, float]:
        """Counters of the heartbeat."""
        figures = self._counters.snapshot()
        for cls, count in self._upkeep.waiting().items():
            figures[f"spool.{cls.value}"] = float(count)
        figures["short_of_space"] = float(self._spool.log.short_of_space)
        figures["tombstones"] = float(self._spool.log.entombed)
        figures.update(door_figures(self._mqtt.counters, self._coap.counters, self._modbus.counters))
        if self._broker is not None:
            figures.update(self._broker.counters.figures())
        figures.update(self._ledger.figures())
        figures["mail.waiting"] = float(len(self._mailbox))
        figures["devices"] = float(len(self._devices))
        figures["cpu"] = time.process_time()
        return figures

    def _checks(self) -> list[Check]:
        now = asyncio.get_running_loop().time()
        doors: dict[str, Callable[[], int]] = {"mqtt": lambda: self._mqtt.port, "coap": lambda: self._coap.port}
        if self._settings.dtls_port is not None:
            doors["coaps"] = lambda: self._coap.dtls_port
        waiting: Mapping[str, int] = {cls.value: count for cls, count in self._upkeep.waiting().items()}
        return checks(
            Moment(
                doors={name: _is_open(port) for name, port in doors.items()},
                pulses=self._progress.ages(),
                overdue=tuple(one.name for one in self._progress.overdue()),
                commit_age=self._upkeep.commit_age,
                commit_limit=LIMIT_S,
                devices_known=len(self._devices) > 0,
                roster_current=self._roster.current.is_set(),
                waiting=waiting,
                uplink_ages={lane: self._client.traffic.worked_since(lane, now) for lane in waiting},
                unbalanced=self._ledger.unbalanced,
                polling=self._modbus.polling,
                broker=self._broker.standing if self._broker is not None else None,
            )
        )


def _is_open(port: Callable[[], int]) -> bool:
    try:
        return port() > 0
    except RuntimeError:
        return False


def _unusable(door: str, host: str, port: int, error: OSError) -> SetupError:
    return SetupError(f"the {door} door cannot listen on {host} port {port}: {error.strerror or error}; choose another")
