"""Starts the product's processes, restarts one that dies, and stops them all in order.

Each child is a session of its own, so that Ctrl-C reaches only this process, and ends by itself when this process is
killed. What a child says on stderr goes to DIR/logs/NAME.log, bounded in size.
"""

from __future__ import annotations

import asyncio
import logging
import logging.handlers
import os
import signal
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import TextIOWrapper
from pathlib import Path

from citysense.cli.child_environment import child_environment
from citysense.clock import Clock

LOG_BYTES = 10 << 20
LOG_FILES = 3
STOP_SECONDS = 15.0
"""A clean stop commits and closes files within a second or two; a process that needs longer hangs and is killed."""
RESTART_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Waiting before the n-th restart in a row: a kill is mended at once, a crash loop does not eat the machine."""
STEADY_SECONDS = 30.0
LAST_LINES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One process to keep running: a Python module and its arguments."""

    name: str
    module: str
    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


def wait_before_restart(in_a_row: int) -> float:
    """Seconds to wait before starting again a process that has ended `in_a_row` times without being steady between."""
    return RESTART_SECONDS[min(in_a_row, len(RESTART_SECONDS)) - 1]


class _ChildLog(logging.handlers.RotatingFileHandler):
    """A log file that may fail: a full disk must not take down the process that keeps the others alive."""

    def _open(self) -> TextIOWrapper:
        # Not for everybody's eyes: lines name devices and where they call from. Also where an older one made the file.
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.fchmod(descriptor, 0o600)
        return os.fdopen(descriptor, "a", encoding=self.encoding)

    def handleError(self, record: logging.LogRecord) -> None:
        """Leave the line out; `Child.last_lines` still has it."""

    def close(self) -> None:
        """Close the file; what its buffer could not write is left out."""
        try:
            super().close()
        except OSError:
            self.stream = None  # closed, as far as it could be


class Child:
    """A program, the process that runs it now, and how often it had to be started again."""

    def __init__(self, program: Program, logs: Path, clock: Clock) -> None:
        self.program = program
        self.restarts = 0
        self.process: asyncio.subprocess.Process | None = None
        self.last_lines: deque[str] = deque(maxlen=LAST_LINES)
        self.failed = asyncio.Event()
        """Set when the process ended before it was ever steady, with exit code 1: a fault of the set-up."""
        self._clock = clock
        self._logger = logging.getLogger(f"child.{logs}.{program.name}")
        self._logger.propagate = False
        self._logger.setLevel(logging.INFO)
        self._handler = _ChildLog(
            logs / f"{program.name}.log", maxBytes=LOG_BYTES, backupCount=LOG_FILES, encoding="utf-8"
        )
        self._logger.addHandler(self._handler)
        self._stopping = False

    async def keep_running(self) -> None:
        """Start the program and start it again whenever it ends, until `stop`."""
        in_a_row = 0
        while not self._stopping:
            started = self._clock.monotonic()
            code = await self._run_once()
            if self._stopping:
                break
            lived = self._clock.monotonic() - started
            in_a_row = 1 if lived > STEADY_SECONDS else in_a_row + 1
            if code == 1 and in_a_row == 1 and self.restarts == 0 and lived < STEADY_SECONDS:
                self.failed.set()
            self._logger.warning(
                "citysense: %s ended with code %s after %.1f s; starting it again", self.program.name, code, lived
            )
            self.restarts += 1
            await asyncio.sleep(wait_before_restart(in_a_row))

    async def _run_once(self) -> int:
        environment = child_environment(os.environ, self.program.environment, supervisor=os.getpid())
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            self.program.module,
            *self.program.arguments,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            limit=1 << 20,
        )
        assert self.process.stderr is not None
        while line := await self._next_line(self.process.stderr):
            text = line.decode("utf-8", "replace").rstrip()
            self.last_lines.append(text)
            self._logger.info("%s", text)
        return await self.process.wait()

    @staticmethod
    async def _next_line(stream: asyncio.StreamReader) -> bytes:
        try:
            return await stream.readline()
        except ValueError:
            return b"(a line of more than a megabyte was left out)\n"

    async def stop(self) -> None:
        """Ask the process to end, wait, and kill it if it does not."""
        self._stopping = True
        process = self.process
        if process is not None and process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), STOP_SECONDS)
            except TimeoutError:
                self._logger.error("citysense: %s did not stop within %d s; killed", self.program.name, STOP_SECONDS)
                process.kill()
                await process.wait()

    def close(self) -> None:
        """Close the log file."""
        self._logger.removeHandler(self._handler)
        self._handler.close()


class Supervisor:
    """Keeps a list of programs running. Started in the order given, stopped in the reverse order."""

    def __init__(self, programs: Sequence[Program], *, logs: Path, clock: Clock) -> None:
        self._programs = programs
        self._logs = logs
        self._clock = clock
        self._tasks: list[asyncio.Task[None]] = []
        self.children: dict[str, Child] = {}

    def start(self) -> None:
        """Start all programs."""
        self._logs.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._logs.chmod(0o700)
        for program in self._programs:
            child = Child(program, self._logs, self._clock)
            self.children[program.name] = child
            self._tasks.append(asyncio.create_task(child.keep_running(), name=f"keep {program.name}"))

    async def stop(self) -> None:
        """Stop all programs, the last first."""
        for child in reversed(self.children.values()):
            await child.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for child in self.children.values():
            child.close()
