"""The simulator's process: wires scenario, profiles, registration and links together and keeps them going.

Owns start, stop and the JSON lines on stderr. Everything else is in the modules it wires.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import aiocoap
import aiohttp

from citysense.clock import Clock, SystemClock
from citysense.errors import CitysenseError, SetupError
from citysense.log_lines import log_to_stderr
from citysense.parent import end_with_parent
from citysense_profiles.catalogue import Catalogue, load_catalogue
from citysense_profiles.errors import EncodeError
from citysense_sim.coap_link import CoapLink
from citysense_sim.device import Delivery, Messages, PolledDevice, ReportingDevice
from citysense_sim.identity import StateFile
from citysense_sim.link import Fate, Link
from citysense_sim.modbus_station import UNIT, ModbusStation
from citysense_sim.mqtt_link import MqttLink
from citysense_sim.registration import DeviceExists, Registrar, Registration
from citysense_sim.scenario import Device, Scenario, find_scenario, load_scenario

HOST = "127.0.0.1"
JSON_CONTENT = 50
TOKEN_POLL_S = 0.2
SERVED_POLL_S = 0.1
SWITCH_ON_S = 15.0
"""How long devices wait for their gateway to know them before they are switched on all the same: no gateway may be there,
and then they just try again."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SimSettings:
    """What the process is told on its command line."""

    data: Path
    api: str
    mqtt_port: int
    coap_port: int
    speed: float
    scenario: Path

    @property
    def state_path(self) -> Path:
        """The devices' memory."""
        return self.data / "sim" / "state.json"


class Simulator:
    """One scenario, played until stopped."""

    def __init__(self, settings: SimSettings, clock: Clock, *, catalogue: Catalogue, scenario: Scenario) -> None:
        self._settings = settings
        self._clock = clock
        self._catalogue = catalogue
        self._scenario = scenario
        self._state = StateFile(settings.state_path)
        self._stations: dict[str, ModbusStation] = {}
        self._polled: list[PolledDevice] = []

    async def run(self) -> None:
        """Register the devices, then let them speak. Ends by cancellation; raises SetupError, Refused, and EncodeError
        where the scenario asks for what a profile cannot say."""
        self._state.load()
        token = await self._admin_token()
        context = await aiocoap.Context.create_client_context(transports=["udp6"])
        try:
            await self._start_stations()
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
                registrar = Registrar(session, self._settings.api, token)
                for device in self._scenario.devices:
                    await self._register(registrar, device)
                await self._wait_until_served(registrar)
            for device in self._scenario.devices:
                self._state.of(device.id).boot += 1
            self._state.save()
            await self._play(context)
        finally:
            for station in self._stations.values():
                await station.stop()
            await context.shutdown()

    async def _admin_token(self) -> str:
        path = self._settings.data / "admin-token"
        while True:
            try:
                if token := path.read_text(encoding="utf-8").strip():
                    return token
            except FileNotFoundError:
                pass  # the platform has not made it yet
            except OSError as e:
                raise SetupError(f"{path} cannot be read ({e.strerror}); check its owner and rights") from e
            await asyncio.sleep(TOKEN_POLL_S)

    async def _start_stations(self) -> None:
        for device in self._scenario.devices:
            if device.transport != "modbus":
                continue
            polled = PolledDevice(
                scenario=self._scenario,
                device=device,
                profile=self._catalogue[device.profile],
                speed=self._settings.speed,
                clock=self._clock,
            )
            station = ModbusStation(polled.registers)
            memory = self._state.of(device.id)
            await station.start(memory.port)
            memory.port = station.port
            self._stations[device.id] = station
            self._polled.append(polled)
            _log.info("%s: Modbus TCP on %s:%d", device.id, HOST, station.port)
        self._state.save()

    async def _wait_until_served(self, registrar: Registrar) -> None:
        """An installer switches a device on when the gateway knows it; before, its first words would be a stranger's."""
        until = self._clock.monotonic() + SWITCH_ON_S
        for device in self._scenario.devices:
            while not await registrar.in_force(device.id):
                if self._clock.monotonic() >= until:
                    return
                await asyncio.sleep(SERVED_POLL_S)

    async def _register(self, registrar: Registrar, device: Device) -> None:
        """Make sure that the platform knows the device as it is."""
        memory = self._state.of(device.id)
        station = self._stations.get(device.id)
        endpoint = f"modbus+tcp://{HOST}:{station.port}/{UNIT}" if station else None
        known = await registrar.find(device.id)
        if known is None:
            wanted = Registration(
                id=device.id,
                profile=device.profile,
                site=device.site.model_dump(),
                settings=device.settings,
                endpoint=endpoint,
                serial=device.serial,
                password=device.transport == "mqtt",
            )
            try:
                memory.secret = await registrar.create(wanted)
                self._state.save()
                _log.info("%s: registered as %s", device.id, device.profile)
                return
            except DeviceExists:
                # Our own request came through, but its answer did not: with a password that is a lost one.
                known = await registrar.find(device.id) or {}
        if device.transport == "mqtt" and memory.secret is None:
            raise SetupError(
                f"device {device.id} is registered, but its password is not in {self._settings.state_path}: restore that file, "
                f"or revoke {device.id} and register it under another id, or start with a fresh data folder"
            )
        if endpoint is not None and known.get("endpoint") != endpoint:
            await registrar.move(device.id, endpoint)
            _log.info("%s: endpoint moved to %s", device.id, endpoint)

    async def _play(self, context: aiocoap.Context) -> None:
        started = self._clock.monotonic()
        _log.info("scenario %r begins, %g times as fast", self._scenario.title, self._settings.speed)
        for polled in self._polled:
            polled.begin(started)
        try:
            async with asyncio.TaskGroup() as group:
                for device in self._scenario.devices:
                    if device.transport == "modbus":
                        continue
                    link, reporting = self._reporting(context, device)
                    group.create_task(link.run(), name=f"link {device.id}")
                    group.create_task(reporting.run(started), name=f"device {device.id}")
                # Stations have no task of their own; with only those, stay until cancelled.
                group.create_task(asyncio.Event().wait(), name="until stopped")
        except ExceptionGroup as errors:
            wrong, _ = errors.split(EncodeError)
            if wrong is None:
                raise
            raise SetupError(f"scenario {self._settings.scenario}: {wrong.exceptions[0]}") from errors

    def _reporting(self, context: aiocoap.Context, device: Device) -> tuple[Link, ReportingDevice]:
        profile = self._catalogue[device.profile]
        memory = self._state.of(device.id)
        delivery = Delivery(device.id)

        def on_fate(number: int, fate: Fate) -> None:
            delivery(number, fate)
            if fate is Fate.DROPPED:
                reporting.on_forgotten()

        link: Link
        if device.transport == "coap":
            uri = f"coap://{HOST}:{self._settings.coap_port}/v1/{device.id}/{device.message}"
            link = CoapLink(context, uri=uri, content=device.content or JSON_CONTENT, on_fate=on_fate)
        else:
            topic = f"cs/v1/{device.id}/up/{device.message}"
            link = MqttLink(
                device=device.id,
                secret=memory.secret or "",
                topic=topic,
                host=HOST,
                port=self._settings.mqtt_port,
                on_fate=on_fate,
            )
        reporting = ReportingDevice(
            scenario=self._scenario,
            device=device,
            messages=Messages(profile, device, boot=memory.boot),
            link=link,
            speed=self._settings.speed,
            clock=self._clock,
        )
        return link, reporting


async def run(settings: SimSettings) -> None:
    """Play the scenario until SIGTERM or SIGINT. Raises CitysenseError with a sentence when it cannot."""
    scenario = load_scenario(settings.scenario)
    catalogue = load_catalogue()
    unknown = sorted({device.profile for device in scenario.devices if device.profile not in catalogue.ids()})
    if unknown:
        raise SetupError(
            f"scenario {settings.scenario} wants profiles that are not in the catalogue: {', '.join(unknown)}"
        )
    simulator = Simulator(settings, SystemClock(), catalogue=catalogue, scenario=scenario)
    playing = asyncio.create_task(simulator.run(), name="simulator")
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, playing.cancel)
    try:
        await playing
    except asyncio.CancelledError:
        _log.info("stopped")
    except EncodeError as e:
        # A polled device's registers are tried before it listens.
        raise SetupError(f"scenario {settings.scenario}: {e}") from e


def _arguments(argv: list[str]) -> SimSettings:
    parser = argparse.ArgumentParser(prog="citysense_sim", description="Virtual devices that play a scenario.")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the product's data folder")
    parser.add_argument("--api", default="http://127.0.0.1:8080", metavar="URL", help="the platform")
    parser.add_argument("--mqtt-port", type=int, default=1883)
    parser.add_argument("--coap-port", type=int, default=5683)
    parser.add_argument("--speed", type=float, default=1.0, help="compresses the scenario's time")
    parser.add_argument("--scenario", default="storm", metavar="FILE", help="a file, or the name of a shipped scenario")
    given = parser.parse_args(argv)
    if given.speed <= 0:
        parser.error("--speed must be above 0")
    return SimSettings(
        data=given.data,
        api=given.api,
        mqtt_port=given.mqtt_port,
        coap_port=given.coap_port,
        speed=given.speed,
        scenario=find_scenario(given.scenario),
    )


def main(argv: list[str]) -> int:
    """The process. Exit codes: 0 stopped, 1 could not start, 2 wrong use."""
    end_with_parent(os.environ)
    os.umask(0o077)
    log_to_stderr()
    # pymodbus and aiocoap tell of every connection; only what needs a look belongs here.
    logging.getLogger("pymodbus").setLevel(logging.ERROR)
    logging.getLogger("coap").setLevel(logging.ERROR)
    try:
        asyncio.run(run(_arguments(argv)))
    except CitysenseError as e:
        sys.stderr.write(f"{e}\n")  # the supervisor shows this line
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
