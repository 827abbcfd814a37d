"""`citysense up`: checks ports and folder, starts platform, gateway and simulator, shows them live, stops them cleanly."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console
from rich.live import Live

from citysense.cli.data_folder import DataFolder
from citysense.cli.live_view import Surroundings, draw, line, title
from citysense.cli.ports import require_free
from citysense.cli.programs import api_url, programs, wanted_ports
from citysense.cli.status_feed import Status, StatusFeed, broker_standing
from citysense.cli.supervisor import Child, Supervisor
from citysense.clock import SystemClock
from citysense.errors import SetupError, UpstreamError, WrongUse
from citysense.keys import load_or_create_secret
from citysense.pinned_tls import pinned
from citysense.settings import Origin, Settings, load_settings
from citysense_sim.scenario import find_scenario

EXAMPLE = """\
examples:
  citysense up --speed 60                                 a storm of an hour in a minute
  citysense up --scenario none                            wait for real devices
  citysense up --data b --api-port 8081 --mqtt-port 1884 --coap-port 5684     a second one beside the first
"""
START_SECONDS = 30.0
LINE_SECONDS = 5.0


def add_parser(commands: Any) -> None:
    """Add `up`."""
    parser = commands.add_parser(
        "up",
        help="start everything on this machine and watch it",
        description="Start gateway and platform, and unless told otherwise a small district in which a rain storm rises.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    fields = Settings.model_fields
    shown = {
        "data": "DIR",
        "bind": "ADDRESS",
        "speed": "X",
        "scenario": "FILE|none",
        "influx": "URL",
        "rules": "FILE",
        "profiles": "DIR",
    }
    ports = ("api_port", "mqtt_port", "coap_port", "dtls_port", "gateway_status_port")
    for name in ("data", *ports, "speed", "scenario", "influx", "rules", "profiles", "bind"):
        kind = int if name.endswith("_port") else float if name == "speed" else str
        default = fields[name].default
        text = (fields[name].description or "") + (f" Default: {default}." if default is not None else "")
        parser.add_argument(_flag(name), type=kind, default=None, metavar=shown.get(name, "PORT"), help=text)
    shown |= {"broker": "URL", "broker_user": "NAME", "broker_protocol": "5|3.1.1"}
    for name in ("broker", "broker_user", "broker_protocol"):
        parser.add_argument(_flag(name), default=None, metavar=shown[name], help=fields[name].description)
    for name in ("tls_cert", "tls_key", "broker_ca", "broker_cert", "broker_key"):
        parser.add_argument(_flag(name), default=None, metavar="FILE", help=fields[name].description)
    parser.add_argument("--insecure", action="store_true", default=None, help=fields["insecure"].description)
    parser.add_argument("--config", type=Path, metavar="FILE", help="read this file instead of ./citysense.toml")
    parser.set_defaults(run=run)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def run(arguments: argparse.Namespace) -> int:
    """Start, watch, stop. Raises SetupError before anything is started when something is in the way."""
    given = {
        name: getattr(arguments, name) for name in Settings.model_fields if getattr(arguments, name, None) is not None
    }
    settings, origins = load_settings(given, os.environ, arguments.config)
    scenario = chosen_scenario(settings, origins)
    require_reachable(settings, scenario)
    require_free(settings.bind, wanted_ports(settings))
    with DataFolder(settings.data) as folder:
        token = load_or_create_secret(folder.path / "admin-token")
        return asyncio.run(_Session(settings, folder.path, token, scenario).run())


def chosen_scenario(settings: Settings, origins: Iterable[Origin]) -> Path | None:
    """The scenario's file, None for none. Raises SetupError; WrongUse unless it is a file of settings that is to blame."""
    if settings.scenario == "none":
        return None
    try:
        return find_scenario(settings.scenario)
    except SetupError as e:
        source = next(origin.source for origin in origins if origin.name == "scenario")
        if source == "flag" or source in os.environ:
            raise WrongUse(str(e)) from e
        raise


def require_reachable(settings: Settings, scenario: Path | None) -> None:
    """Raises SetupError when the simulated devices could not reach the doors: they speak in clear, on loopback."""
    if scenario is None:
        return
    host = ip_address(settings.bind)
    if settings.tls_cert is not None or not (host.is_loopback or host.is_unspecified):
        raise SetupError(
            "the simulated district speaks in clear on loopback only: add --scenario none to serve real devices"
        )


class _Session:
    """One run of `up`, from the first process to the last line."""

    def __init__(self, settings: Settings, data: Path, token: str, scenario: Path | None) -> None:
        self._settings = settings
        self._data = data
        self._token = token
        self._scenario = scenario
        self._clock = SystemClock()
        self._console = Console()
        self._around = Surroundings(
            api=api_url(settings),
            data=data,
            mqtt=f"mqtt://{settings.bind}:{settings.mqtt_port}",
            coap=f"coap://{settings.bind}:{settings.coap_port}",
            coaps=f"coaps://{settings.bind}:{settings.dtls_port}" if settings.dtls_port is not None else "",
            broker=settings.broker or "",
            story=f"{scenario.stem}, {settings.speed:g}x" if scenario else "none: waiting for real devices",
            insecure=settings.insecure,
            language="zh" if os.environ.get("LANG", "").startswith("zh") else "en",
        )

    async def run(self) -> int:
        """Until a signal, or until a process cannot start at all."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(signum, stop.set)
        supervisor = Supervisor(
            programs(self._settings, self._data, self._scenario), logs=self._data / "logs", clock=self._clock
        )
        supervisor.start()
        timeout = aiohttp.ClientTimeout(total=3)
        try:
            async with aiohttp.ClientSession(timeout=timeout, connector=_connector(self._settings)) as session:
                await self._watch(session, supervisor.children, stop)
        finally:
            self._console.print("stopping …", style="dim")
            await supervisor.stop()
        self._console.print(f"Stopped. Data stays in {self._data}; the next start continues with it.")
        return 0

    async def _watch(self, session: aiohttp.ClientSession, children: dict[str, Child], stop: asyncio.Event) -> None:
        feed = StatusFeed(session, self._around.api, self._token)
        started = self._clock.monotonic()
        first_case: float | None = None
        cases_before: int | None = None
        status: Status | None = None
        with _view(self._console) as view:
            while not stop.is_set():
                raise_for_failed(children.values(), self._data)
                try:
                    status = await feed.read()
                except UpstreamError:
                    if status is None and self._clock.monotonic() - started > START_SECONDS:
                        raise SetupError(f"the platform does not answer; {self._data / 'logs'} tells why") from None
                uptime = self._clock.monotonic() - started
                if status is not None:
                    cases_before = status.cases if cases_before is None else cases_before
                    if first_case is None and status.cases > cases_before:
                        first_case = uptime
                        view.say(
                            f"first case {first_case:.1f} s after the start: {title(status, self._around.language)}"
                        )
                restarts = {name: child.restarts for name, child in children.items()}
                broker = await broker_standing(session, self._data) if self._around.broker else ""
                view.show(status, self._around, uptime, restarts, self._settings.speed, broker)
                await _pause(stop, 0.5)


def _connector(settings: Settings) -> aiohttp.TCPConnector:
    return aiohttp.TCPConnector(ssl=pinned(settings.tls_cert) if settings.tls_cert else True)


def raise_for_failed(children: Sequence[Child] | Any, data: Path) -> None:
    """A process that ended at once with exit code 1 has found something in the way: say its last words and stop."""
    for child in children:
        if child.failed.is_set():
            words = child.last_lines[-1] if child.last_lines else "it said nothing"
            raise SetupError(
                f"{child.program.name} could not start: {words} (more in {data / 'logs' / child.program.name}.log)"
            )


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return


class _view:
    """The live panel on a terminal, a line every few seconds elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._last_line = ("", float("-inf"))

    def __enter__(self) -> _view:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        self._console.print(text)

    def show(
        self,
        status: Status | None,
        around: Surroundings,
        uptime: float,
        restarts: dict[str, int],
        speed: float,
        broker: str,
    ) -> None:
        if self._live is not None:
            self._live.update(
                draw(status, around, uptime=uptime, restarts=restarts, speed=speed, broker=broker), refresh=True
            )
            return
        text = line(status) + (f" · broker {broker}" if broker else "")
        said_at = self._last_line[1]
        if text != self._last_line[0] and uptime - said_at >= LINE_SECONDS:
            self._console.print(f"{uptime:6.1f} s  {text}", highlight=False, soft_wrap=True)
            self._last_line = (text, uptime)
