"""The platform process: wires log, city.db, stores, rules and the API, and stops them in order."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import random
import signal
import socket
import sqlite3
import sys
from collections.abc import Collection, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from citysense.clock import Clock, SystemClock
from citysense.crash_points import CrashPoints
from citysense.durable_log import DurableLog
from citysense.errors import CitysenseError, SetupError, StorageClosed, StorageError
from citysense.keys import load_or_create_key, load_or_create_secret, token_digest
from citysense.log_lines import log_to_stderr
from citysense.parent import end_with_parent
from citysense.progress import HUNG, Progress, Pulse, Watchdog, keep_beating
from citysense_platform.city.database import City
from citysense_platform.events.event_store import READER as EVENTS
from citysense_platform.ingest.log import platform_log
from citysense_platform.parts import GATEWAY, Parts, build_parts
from citysense_platform.rules.runner import READER as RULES
from citysense_platform.store.writer import READER as STORE
from citysense_profiles.reading import ReadingClass

log = logging.getLogger("citysense_platform.app")

KEEP_OFFSETS = 100_000
"""Records kept in log.db behind the slowest reader: some minutes of a storm, to look at what a rule has just judged."""
READERS = {
    ReadingClass.SAFETY: (RULES, STORE, EVENTS),
    ReadingClass.STATE: (RULES, STORE, EVENTS),
    ReadingClass.BULK: (STORE, EVENTS),
}
"""Who reads which lane of log.db."""
TRIM_SECONDS = 60.0
STOP_SECONDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformSettings:
    """What the process is told on its command line."""

    data: Path
    bind: str
    api_port: int
    influx: str | None
    influx_token: str
    rules: Path | None
    profiles: Path | None
    speed: float
    responsible_unit: str
    tls_cert: Path | None
    tls_key: Path | None
    synchronous: str = "FULL"
    """How the log commits. Anything but FULL breaks the promise behind every 2xx of the ingest; it is there to show that the
    test of that promise can fail."""


class PartEnded(CitysenseError):
    """A part that never ends has ended: a defect, or a file that gave out; another start may help."""


class Platform:
    """One run of the process."""

    def __init__(self, settings: PlatformSettings, clock: Clock, crash: CrashPoints) -> None:
        self._settings = settings
        self._clock = clock
        self._crash = crash
        self._progress = Progress(clock)
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises CitysenseError when it cannot start or a part of it has failed."""
        settings = self._settings
        stop = asyncio.Event()
        for signum in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(signum, stop.set)
        listener = listen(settings.bind, settings.api_port)
        admin = load_or_create_secret(settings.data / "admin-token")
        gateway = load_or_create_secret(settings.data / "gateway-token")
        load_or_create_key(settings.data / "keys" / "pseudonym.key")
        log_file = platform_log(
            settings.data / "log.db",
            clock=self._clock,
            crash=self._crash,
            synchronous=settings.synchronous,
            readers=READERS,
        )
        city = City(f"sqlite:///{settings.data / 'city.db'}", crash=self._crash)
        async with contextlib.AsyncExitStack() as closing:
            closing.callback(listener.close)
            log_file.open()
            closing.callback(log_file.close)
            await asyncio.to_thread(city.open)
            closing.callback(city.close)
            parts = await build_parts(
                settings,
                log_file=log_file,
                city=city,
                clock=self._clock,
                crash=self._crash,
                admin_digest=token_digest(admin),
                jitter=random.Random(),  # noqa: S311 - spreads retries
                progress=self._progress,
            )
            closing.push_async_callback(parts.close)
            await parts.gateways.ensure_gateway(GATEWAY, gateway)
            with Watchdog(self._progress):
                await self._serve(parts, log_file, listener, stop)

    async def _serve(self, parts: Parts, log_file: DurableLog, listener: socket.socket, stop: asyncio.Event) -> None:
        server = _server(parts, self._settings, self._progress.watch("api"))
        for name, work in {**parts.work, **parts.endless}.items():
            self._start(name, work)
        self._start("upkeep", self._tend(log_file, self._progress.watch("log")))
        self._start("heartbeat", keep_beating(self._progress.watch("event loop")))
        self._start("api", server.serve(sockets=[listener]))
        waiting = asyncio.create_task(stop.wait(), name="stop")
        log.info("ready on %s:%d", self._settings.bind, listener.getsockname()[1])
        done, _ = await asyncio.wait([waiting, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
        parts.stop()
        server.should_exit = True
        waiting.cancel()
        await self._finish({"upkeep", "heartbeat", *parts.endless})
        failed = [task for task in done if task is not waiting]
        if failed and not stop.is_set():
            names = ", ".join(task.get_name() for task in failed)
            raise PartEnded(f"{names} ended by itself; the process starts anew") from failed[0].exception()

    def _start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work, name=name))

    async def _finish(self, endless: Collection[str]) -> None:
        """Cancel what never ends, give the rest a moment to end by itself, then cancel what is left."""
        for task in self._tasks:
            if task.get_name() in endless:
                task.cancel()
        _, slow = await asyncio.wait(self._tasks, timeout=STOP_SECONDS)
        for task in slow:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _tend(self, log_file: DurableLog, pulse: Pulse) -> None:
        """Each second: heal after a full disk; each minute: trim what every reader has finished."""
        trimmed = self._clock.monotonic()
        failures = 0
        while True:
            # At rest while it sleeps; a commit of nothing shows that the log's writer still answers.
            pulse.rest()
            await asyncio.sleep(1.0)
            pulse.beat()
            try:
                await log_file.tidy(_nothing)
                pulse.beat()
                await log_file.tend()
                pulse.beat()
                if self._clock.monotonic() - trimmed >= TRIM_SECONDS:
                    trimmed = self._clock.monotonic()
                    for cls in ReadingClass:
                        await log_file.trim(cls, keep=KEEP_OFFSETS)
                        pulse.beat()
            except StorageClosed:
                raise
            except StorageError as e:
                failures += 1
                if failures == 1:
                    log.error("upkeep of the log: %s; trying again each second", e)
            else:
                if failures:
                    log.warning("upkeep of the log works again after %d failed tries", failures)
                failures = 0


def _nothing(_: sqlite3.Connection) -> None:
    return


class _Server(uvicorn.Server):
    """Uvicorn without signal handlers of its own: the process decides the order in which things stop."""

    def __init__(self, config: uvicorn.Config, pulse: Pulse) -> None:
        super().__init__(config)
        self._pulse = pulse

    async def on_tick(self, counter: int) -> bool:
        """Called by its loop ten times a second; true to end it."""
        self._pulse.beat()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Its loop has ended; how long this may take is its own setting."""
        self._pulse.rest()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


def _server(parts: Parts, settings: PlatformSettings, pulse: Pulse) -> _Server:
    tls: dict[str, Any] = {}
    if settings.tls_cert is not None and settings.tls_key is not None:
        tls = {"ssl_certfile": str(settings.tls_cert), "ssl_keyfile": str(settings.tls_key)}
    config = uvicorn.Config(
        parts.api,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=STOP_SECONDS - 1,
        **tls,
    )
    return _Server(config, pulse)


def listen(address: str, port: int) -> socket.socket:
    """A bound socket. Raises SetupError naming address and port."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    # With the protocol named, asyncio turns Nagle off; without, each answer to a gateway waits 40 ms for a delayed ACK.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address, port))
    except OSError as e:
        listener.close()
        raise SetupError(
            f"{address} port {port} (API) cannot be opened ({e.strerror}); choose another with --api-port"
        ) from e
    listener.setblocking(False)
    return listener


def parse(argv: Sequence[str] | None) -> PlatformSettings:
    """The command line of the process; people use `citysense up`."""
    parser = argparse.ArgumentParser(prog="python -m citysense_platform.app", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--bind", default="127.0.0.1", metavar="ADDRESS")
    parser.add_argument("--api-port", type=int, default=8080, metavar="PORT")
    parser.add_argument("--influx", metavar="URL")
    parser.add_argument("--rules", type=Path, metavar="FILE")
    parser.add_argument("--profiles", type=Path, metavar="DIR")
    parser.add_argument("--speed", type=float, default=1.0, metavar="X")
    parser.add_argument("--responsible-unit", default="值班室 / duty office", metavar="NAME")
    parser.add_argument("--tls-cert", type=Path, metavar="FILE")
    parser.add_argument("--tls-key", type=Path, metavar="FILE")
    parser.add_argument("--synchronous", choices=("FULL", "NORMAL"), default="FULL", help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    return PlatformSettings(**vars(given), influx_token=os.environ.get("CITYSENSE_INFLUX_TOKEN", ""))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the process. Exit codes: 0 stopped, 1 could not start, 2 wrong use, 70 to be started again: a part ended by itself
    or hung. The last line says the reason."""
    end_with_parent(os.environ)
    # Readings and alerts are nobody else's business on this machine, whatever the folder's own rights are.
    os.umask(0o077)
    log_to_stderr()
    settings = parse(argv)
    # Requests make no cycles worth finding: collecting seldom keeps the long pauses out of the latency.
    gc.set_threshold(50_000, 20, 100)
    gc.freeze()
    try:
        asyncio.run(Platform(settings, SystemClock(), CrashPoints.from_environment(os.environ)).run())
    except CitysenseError as e:
        cause = f" ({e.__cause__!r})" if e.__cause__ is not None and not isinstance(e, SetupError) else ""
        print(f"{e}{cause}", file=sys.stderr)  # noqa: T201 - the supervisor shows this line
        return HUNG if isinstance(e, PartEnded | StorageClosed) else 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
