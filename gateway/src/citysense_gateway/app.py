"""The gateway process: builds every part, starts them in order, and stops them in the opposite one.

The only module of the gateway that reads the clock, the environment and the command line. Run as
`python -m citysense_gateway.app --data DIR --platform URL`.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import ssl
import sys
import time
from collections.abc import Coroutine, Sequence
from random import Random, SystemRandom
from typing import Any

from citysense.clock import Clock, SystemClock
from citysense.crash_points import CrashPoints
from citysense.errors import CitysenseError, SetupError, StorageClosed
from citysense.keys import Sealer, TagPseudonym, load_or_create_key, load_or_create_secret
from citysense.log_lines import log_to_stderr
from citysense.parent import end_with_parent
from citysense_gateway.coap.door import CoapDoor
from citysense_gateway.counters import FrameCounters
from citysense_gateway.devices import Changes, Devices
from citysense_gateway.figures import door_figures
from citysense_gateway.heartbeat import Heartbeat
from citysense_gateway.modbus.line import PolledDevice
from citysense_gateway.modbus.poller import ModbusPoller
from citysense_gateway.mqtt.door import MqttDoor
from citysense_gateway.mqtt.limits import MqttSettings
from citysense_gateway.outage import Outage
from citysense_gateway.pipeline import Pipeline
from citysense_gateway.platform_client import PlatformClient
from citysense_gateway.roster import RosterKeeper, check_folder
from citysense_gateway.settings import GatewaySettings, parse
from citysense_gateway.spool import Spool
from citysense_gateway.uplink import READER, Lane, drained
from citysense_profiles.catalogue import load_catalogue
from citysense_profiles.errors import ProfileError
from citysense_profiles.reading import ReadingClass
from citysense_profiles.vocabulary import load_vocabulary

# By name: run as a module, __name__ would be "__main__", which is none of our loggers.
log = logging.getLogger("citysense_gateway.app")

DRAIN_S = 2.0
"""How long a clean stop waits for the spool to empty; what is left is handed over after the next start."""
UPKEEP_S = 1.0


class Gateway:
    """All parts of one gateway, wired. `spool` is open and `client` entered."""

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
    ) -> None:
        self._settings = settings
        self._spool = spool
        self._chance = chance
        self._counters = FrameCounters()
        self._devices = Devices(load_catalogue(settings.profiles))
        pipeline = Pipeline(
            devices=self._devices,
            spool=spool,
            vocabulary=load_vocabulary(),
            pseudonym=pseudonym,
            seal=sealer.seal,
            counters=self._counters,
            crash=crash,
        )
        self._mqtt = MqttDoor(
            sink=pipeline,
            check_password=self._devices.check_password,
            topic_rights=self._devices.topic_rights,
            clock=clock,
            settings=MqttSettings(),
        )
        self._coap = CoapDoor(sink=pipeline, known=self._devices.known, clock=clock)
        self._modbus = ModbusPoller(sink=pipeline, clock=clock, random=chance)
        self._roster = RosterKeeper(
            settings.data / "roster.sealed",
            devices=self._devices,
            client=client,
            sealer=sealer,
            random=chance.random,
            on_change=self._devices_changed,
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
        self._heartbeat = Heartbeat(
            settings.gateway, client=client, clock=clock, random=chance.random, figures=self._figures
        )

    async def serve(self, stop: asyncio.Event) -> None:
        """Serve devices until `stop` is set. Raises SetupError when a door cannot open, StorageClosed when the spool's
        writer has ended."""
        try:
            # With the roster of the last time, so that devices are served while the platform is still down.
            self._roster.load()
            await self._open_doors()
        except BaseException:
            await self._close_doors()
            raise
        log.info("gateway ready")
        # Nothing of what was made up to here ever becomes garbage; and the library's table of CoAP exchanges makes
        # full collections of the usual thresholds cost 150 ms at the 99th percentile.
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        await self._run_until(stop)

    def _loops(self) -> list[Coroutine[Any, Any, None]]:
        lanes = (lane.run() for lane in self._lanes)
        return [self._upkeep(), self._roster.run(), self._beat(), self._modbus.watch(), *lanes]

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

    async def _open_doors(self) -> None:
        tls = _server_tls(self._settings)
        host = self._settings.bind
        try:
            await self._mqtt.start(host, self._settings.mqtt_port, tls=tls)
        except OSError as e:
            raise _unusable("MQTT", host, self._settings.mqtt_port, e) from e
        if self._settings.on_loopback or self._settings.insecure:
            try:
                await self._coap.start(host, self._settings.coap_port)
            except OSError as e:
                raise _unusable("CoAP", host, self._settings.coap_port, e) from e
        else:
            log.warning("CoAP is not served on %s: plain CoAP needs loopback or --insecure", host)
        await self._modbus.start()

    async def _close_doors(self) -> None:
        await self._mqtt.stop()
        await self._coap.stop()
        await self._modbus.stop()

    def _devices_changed(self, changes: Changes) -> None:
        for device in changes.cut:
            self._mqtt.disconnect(device)
        self._modbus.set_devices(
            [
                PolledDevice(
                    id=device.id,
                    endpoint=device.endpoint,
                    plan=device.profile.plan_reads(),
                    every=device.profile.report_every,
                    message=None,
                )
                for device in self._devices
                if device.endpoint is not None
            ]
        )

    async def _upkeep(self) -> None:
        trouble = Outage("spool", self._chance.random)
        while True:
            try:
                await self._spool.tend()
            except StorageClosed:
                raise
            except CitysenseError as e:
                trouble.failed(e)
            else:
                trouble.worked()
            await asyncio.sleep(UPKEEP_S)

    async def _beat(self) -> None:
        # A gateway that does not know its devices yet would be taken for one that serves them.
        await self._roster.current.wait()
        await self._heartbeat.run()

    def _figures(self) -> dict[str, float]:
        """Counters of the heartbeat."""
        figures = self._counters.snapshot()
        for cls in ReadingClass:
            figures[f"spool.{cls.value}"] = float(self._spool.log.depth(cls, READER))
        figures["short_of_space"] = float(self._spool.log.short_of_space)
        figures["tombstones"] = float(self._spool.log.entombed)
        figures.update(door_figures(self._mqtt.counters, self._coap.counters, self._modbus.counters))
        figures["devices"] = float(len(self._devices))
        figures["cpu"] = time.process_time()
        return figures


async def run(settings: GatewaySettings, stop: asyncio.Event | None = None) -> None:
    """Run a gateway until SIGTERM, SIGINT or `stop`. Raises CitysenseError when it cannot start or go on."""
    stop = stop or asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    clock = SystemClock()
    try:
        crash = CrashPoints.from_environment(os.environ)
    except ValueError as e:
        raise SetupError(str(e)) from e
    check_folder(settings.data)
    sealer = Sealer(load_or_create_key(settings.data / "keys" / "sealing.key"))
    pseudonym = TagPseudonym(load_or_create_key(settings.data / "keys" / "pseudonym.key"))
    token = load_or_create_secret(settings.data / "gateway-token")
    spool = Spool(settings.data / "spool.db", clock=clock, crash=crash, synchronous=settings.synchronous)
    spool.open()
    try:
        async with PlatformClient(settings.platform_url, token, certificate=settings.tls_cert) as client:
            gateway = Gateway(
                settings,
                spool=spool,
                client=client,
                sealer=sealer,
                pseudonym=pseudonym,
                clock=clock,
                chance=SystemRandom(),
                crash=crash,
            )
            await gateway.serve(stop)
    except ProfileError as e:
        raise SetupError(str(e)) from e
    finally:
        spool.close()


def _server_tls(settings: GatewaySettings) -> ssl.SSLContext | None:
    if settings.tls_cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except (OSError, ssl.SSLError) as e:
        raise SetupError(f"{settings.tls_cert} and {settings.tls_key} cannot be used ({e}); give PEM files") from e
    return context


def _unusable(door: str, host: str, port: int, error: OSError) -> SetupError:
    return SetupError(f"the {door} door cannot listen on {host} port {port}: {error.strerror or error}; choose another")


def main(arguments: Sequence[str]) -> int:
    """The process. Exit codes: 0 stopped, 1 could not start or go on, 2 wrong use."""
    end_with_parent(os.environ)
    os.umask(0o077)
    log_to_stderr()
    try:
        asyncio.run(run(parse(arguments)))
    except CitysenseError as e:
        sys.stderr.write(f"{e}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
