"""A platform and a gateway of one's own, in a folder and on free ports: for benches and tests that start, kill and revive them.

Owns the two child processes and their moments of readiness. It judges nothing and restarts nothing by itself; what keeps a
real instance alive is `supervisor.py`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import aiohttp

from citysense.cli.child_environment import child_environment
from citysense.cli.programs import programs
from citysense.cli.supervisor import Program
from citysense.clock import Clock
from citysense.errors import SetupError
from citysense.keys import load_or_create_secret
from citysense.settings import Settings

HOST = "127.0.0.1"
READY_S = 60.0
STOP_S = 15.0
POLL_S = 0.02
NAMES = ("platform", "gateway")
CRASH_AT = "CITYSENSE_CRASH_AT"


Uplink = Callable[[int], Awaitable[int]]
"""Given the platform's port, the one at which the gateway is to look for it: something may stand between them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Died:
    """A child's end: its name and how (the exit code, negative for a signal)."""

    name: str
    code: int


class Stack:
    """Start, kill, revive, stop. `api` and the ports are known after `start`."""

    def __init__(
        self,
        data: Path,
        *,
        clock: Clock,
        rules: Path | None = None,
        speed: float = 1.0,
        uplink: Uplink | None = None,
        more: Mapping[str, str] | None = None,
    ) -> None:
        """`more` are further settings by name, as in citysense.toml."""
        self.data = data
        self._more = more or {}
        self._uplink = uplink
        self._clock = clock
        self._rules = rules
        self._speed = speed
        self._programs: dict[str, Program] = {}
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._logs: dict[str, IO[bytes]] = {}
        self._expected_dead: set[str] = set()
        self.token = ""
        self.api_port = self.mqtt_port = self.coap_port = 0

    @property
    def api(self) -> str:
        """The platform's address."""
        return f"http://{HOST}:{self.api_port}"

    async def start(self) -> None:
        """Start both and wait until they serve. Raises SetupError with the last words of one that does not."""
        self.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        (self.data / "logs").mkdir(exist_ok=True)
        self.token = load_or_create_secret(self.data / "admin-token")
        self.api_port, self.mqtt_port = free_port(socket.SOCK_STREAM), free_port(socket.SOCK_STREAM)
        self.coap_port = free_port(socket.SOCK_DGRAM)
        settings = Settings.model_validate(
            {
                "data": self.data,
                "bind": HOST,
                "api_port": self.api_port,
                "mqtt_port": self.mqtt_port,
                "coap_port": self.coap_port,
                "speed": self._speed,
                "rules": self._rules,
                **self._more,
            }
        )
        self._programs = {program.name: program for program in programs(settings, self.data, None)}
        if self._uplink is not None:
            there = settings.model_copy(update={"api_port": await self._uplink(self.api_port)})
            self._programs["gateway"] = next(p for p in programs(there, self.data, None) if p.name == "gateway")
        for name in NAMES:
            self._logs[name] = (self.data / "logs" / f"{name}.log").open("ab")
            await self._spawn(name, None)
        for name in NAMES:
            await self.ready(name)

    async def _spawn(self, name: str, crash_at: str | None) -> None:
        program = self._programs[name]
        environment = child_environment(os.environ, program.environment, supervisor=os.getpid())
        environment.pop(CRASH_AT, None)
        if crash_at is not None:
            environment[CRASH_AT] = crash_at
        self._expected_dead.discard(name)
        self._processes[name] = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            program.module,
            *program.arguments,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=self._logs[name],
            start_new_session=True,
        )

    async def ready(self, name: str, within: float = READY_S) -> None:
        """Wait until a child serves. Raises SetupError if it ends or takes longer than `within` seconds."""
        deadline = self._clock.monotonic() + within
        check = self._platform_serves if name == "platform" else self._gateway_serves
        while not await check():
            code = self._processes[name].returncode
            if code is not None:
                raise SetupError(f"{name} ended with code {code} before it was ready: {self.last_words(name)}")
            if self._clock.monotonic() > deadline:
                raise SetupError(f"{name} was not ready after {within:.0f} s: {self.last_words(name)}")
            await asyncio.sleep(POLL_S)

    async def _platform_serves(self) -> bool:
        try:
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
                async with session.get(f"{self.api}/readyz") as answer:
                    return answer.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def _gateway_serves(self) -> bool:
        try:
            _, writer = await asyncio.open_connection(HOST, self.mqtt_port)
        except OSError:
            return False
        writer.close()
        return True

    def alive(self, name: str) -> bool:
        """True while the child's process runs."""
        return self._processes[name].returncode is None

    def kill(self, name: str) -> None:
        """End a child with SIGKILL, now: it gets no chance to finish anything."""
        self._expected_dead.add(name)
        self._processes[name].kill()

    def pause(self, name: str) -> None:
        """Halt a child with SIGSTOP: its connections stay open and nothing answers on them."""
        self._processes[name].send_signal(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """Let a halted child go on."""
        self._processes[name].send_signal(signal.SIGCONT)

    async def dead(self, name: str, within: float) -> bool:
        """Wait for a child to end by itself; False if it did not within `within` seconds."""
        self._expected_dead.add(name)
        try:
            await asyncio.wait_for(self._processes[name].wait(), within)
        except TimeoutError:
            self._expected_dead.discard(name)
            return False
        return True

    async def revive(self, name: str, *, crash_at: str | None = None) -> float:
        """Start a dead child again and wait until it serves; the seconds that took. Raises SetupError.

        With `crash_at` it will die at that crash point; being ready is not waited for, as it may never be.
        """
        await self._processes[name].wait()
        began = self._clock.monotonic()
        await self._spawn(name, crash_at)
        if crash_at is None:
            await self.ready(name)
        return self._clock.monotonic() - began

    def unexpected_deaths(self) -> list[Died]:
        """Children that ended although nobody killed them."""
        return [
            Died(name=name, code=process.returncode)
            for name, process in self._processes.items()
            if process.returncode is not None and name not in self._expected_dead
        ]

    def cpu_seconds(self) -> dict[str, float]:
        """User and system time of each running child, with that of its own children."""
        return {name: cpu_of(process.pid) for name, process in self._processes.items() if process.returncode is None}

    def last_words(self, name: str) -> str:
        """The last line that a child wrote on stderr."""
        lines = (self.data / "logs" / f"{name}.log").read_text(encoding="utf-8", errors="replace").splitlines()
        return lines[-1] if lines else "it said nothing"

    async def stop(self) -> None:
        """Ask both to end, the gateway first so that it can hand over; kill one that does not."""
        for name in reversed(NAMES):
            process = self._processes.get(name)
            if process is None or process.returncode is not None:
                continue
            self._expected_dead.add(name)
            process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), STOP_S)
            except TimeoutError:
                process.kill()
                await process.wait()
        for log in self._logs.values():
            log.close()


def free_port(kind: socket.SocketKind) -> int:
    """A port of 127.0.0.1 that nobody listens on at this moment."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def cpu_of(pid: int) -> float:
    """Seconds of CPU that a process and its waited-for children have used. 0 if it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    # The command's name stands in brackets and may hold spaces; fields are counted from behind it.
    fields = text[text.rindex(")") + 2 :].split()
    return sum(int(fields[index]) for index in (11, 12, 13, 14)) / os.sysconf("SC_CLK_TCK")
