"""A gateway without a platform: the process itself, and a stand-in that knows its devices and takes whatever it hands over.

Owns both and their moments of readiness. For benches of the doors, where registering tens of thousands of devices through
the API would take longer than the measurement and a platform would share the processor with what is measured. It judges
nothing; a gateway with its real platform is `stack.py`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import msgspec
from aiohttp import web

from citysense import wire
from citysense.cli.child_environment import child_environment
from citysense.cli.stack import HOST, POLL_S, READY_S, STOP_S, cpu_of, free_port
from citysense.clock import Clock
from citysense.errors import SetupError
from citysense.keys import password_digest

_POLL_WAIT_S = 25.0


def devices_of_one_password(count: int, *, prefix: str, profile: str, password: str) -> list[wire.RosterDevice]:
    """Devices `prefix00000` and on, all with the same password."""
    digest = password_digest(b"", password.encode())
    return [wire.RosterDevice(id=f"{prefix}{number:05}", profile=profile, digest=digest) for number in range(count)]


class StandIn:
    """The platform's ingest interface over HTTP: a roster that never changes, and yes to every batch. Keeps nothing.

    Without `takes` it takes no batch and asks to come back later: what is measured then ends at the spool.
    """

    def __init__(self, devices: Sequence[wire.RosterDevice], *, takes: bool = True) -> None:
        self._takes = takes
        self._roster = wire.encode(wire.Roster(version=1, devices=list(devices)))
        self._batches = msgspec.msgpack.Decoder(wire.Batch)
        self._heartbeats = msgspec.msgpack.Decoder(wire.Heartbeat)
        self._runner: web.AppRunner | None = None
        self._closing = asyncio.Event()
        self.port = 0
        self.figures: dict[str, float] = {}
        """Counters of the gateway's last heartbeat; empty before the first one of a process."""

    async def start(self) -> None:
        """Listen on a free port of loopback."""
        app = web.Application(client_max_size=8 << 20)
        app.router.add_get("/ingest/v1/roster", self._poll)
        app.router.add_post("/ingest/v1/heartbeat", self._heartbeat)
        for lane in ("safety", "state", "bulk"):
            app.router.add_post(f"/ingest/v1/{lane}", self._submit)
        # What else a gateway asks for has nothing new, and what else it tells is welcome.
        app.router.add_get("/{path:.*}", self._nothing_new)
        app.router.add_post("/{path:.*}", self._welcome)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        self.port = free_port(socket.SOCK_STREAM)
        await web.TCPSite(self._runner, HOST, self.port).start()

    async def stop(self) -> None:
        """Answer whoever waits, and close."""
        self._closing.set()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _poll(self, request: web.Request) -> web.Response:
        if request.query.get("version") != "1":
            return web.Response(body=self._roster, content_type="application/msgpack")
        return await self._nothing_new(request)

    async def _nothing_new(self, _: web.Request) -> web.Response:
        try:
            await asyncio.wait_for(self._closing.wait(), _POLL_WAIT_S)
        except TimeoutError:
            pass  # the usual end of a long poll
        return web.Response(status=204)

    async def _heartbeat(self, request: web.Request) -> web.Response:
        self.figures = self._heartbeats.decode(await request.read()).counters
        return web.Response(status=204)

    async def _welcome(self, request: web.Request) -> web.Response:
        await request.read()
        return web.Response(status=204)

    async def _submit(self, request: web.Request) -> web.Response:
        content = await request.read()
        if not self._takes:
            return web.Response(status=503, headers={"Retry-After": "30"})
        batch = self._batches.decode(content)
        answer = wire.Answer(accepted=[(offset, offset) for offset, _ in batch.items])
        return web.Response(body=wire.encode(answer), content_type="application/msgpack")


class GatewayAlone:
    """Start, end and start again one gateway process in front of a stand-in. Its ports stay the same over restarts."""

    def __init__(
        self,
        data: Path,
        *,
        platform: StandIn,
        clock: Clock,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`options` and `environment` are added to the gateway's own."""
        self._data = data
        self._options = options
        self._environment = environment or {}
        self._platform = platform
        self._clock = clock
        self._process: asyncio.subprocess.Process | None = None
        self._log: IO[bytes] | None = None
        self.mqtt_port = self.coap_port = 0

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Start it and wait until it serves MQTT to the devices of the stand-in. Raises SetupError with its last words."""
        self._data.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not self.mqtt_port:
            self.mqtt_port = free_port(socket.SOCK_STREAM)
            self.coap_port = free_port(socket.SOCK_DGRAM)
        self._platform.figures = {}
        if self._log is None:
            self._log = (self._data / "gateway.log").open("ab")
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "citysense_gateway.app",
            *("--data", str(self._data), "--platform", f"http://{HOST}:{self._platform.port}"),
            *("--mqtt-port", str(self.mqtt_port), "--coap-port", str(self.coap_port)),
            *self._options,
            env=child_environment(os.environ, self._environment, supervisor=os.getpid()),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=self._log,
            start_new_session=True,
        )

    async def ready(self, within: float = READY_S) -> None:
        """Wait until it serves its devices: the first heartbeat comes when it knows them. Raises SetupError."""
        assert self._process is not None
        deadline = self._clock.monotonic() + within
        while not self._platform.figures:
            if self._process.returncode is not None:
                raise SetupError(f"the gateway ended with code {self._process.returncode}: {self.last_words()}")
            if self._clock.monotonic() > deadline:
                raise SetupError(f"the gateway was not ready after {within:.0f} s: {self.last_words()}")
            await asyncio.sleep(POLL_S)

    async def end(self, how: signal.Signals, within: float = STOP_S) -> None:
        """Send a signal and wait until the process is gone; after `within` seconds it is killed."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.send_signal(how)
        try:
            await asyncio.wait_for(process.wait(), within)
        except TimeoutError:
            process.kill()
            await process.wait()

    async def close(self) -> None:
        """End it for good."""
        await self.end(signal.SIGTERM)
        if self._log is not None:
            self._log.close()

    @property
    def cpu(self) -> float:
        """Seconds of CPU of the running process since its start."""
        return cpu_of(self.pid)

    @property
    def rss(self) -> int:
        """Bytes of memory of the running process."""
        return rss_of(self.pid)

    def last_words(self) -> str:
        """The last line that it wrote on stderr."""
        lines = (self._data / "gateway.log").read_text(encoding="utf-8", errors="replace").splitlines()
        return lines[-1] if lines else "it said nothing"


def rss_of(pid: int) -> int:
    """Resident memory of a process in bytes; 0 if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/statm").read_text().split()
    except OSError:
        return 0
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")
