"""A child process that speaks JSON lines: asked on its stdin, heard on its stdout.

Owns the process and the translation of its end or of a `failed` line into our errors. Knows nothing of what is said.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

from citysense.cli.child_environment import child_environment
from citysense.errors import UpstreamError

LONGEST_LINE = 64 << 20


class JsonChild:
    """One Python module as a process. `start`, then `tell` and `hear`, then `stop`."""

    def __init__(self, process: asyncio.subprocess.Process, name: str) -> None:
        self._process = process
        self._name = name

    @classmethod
    async def start(cls, module: str, *arguments: str) -> JsonChild:
        """Start `python -m module arguments`. It ends with this process."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", module, *arguments),
            env=child_environment(os.environ, supervisor=os.getpid()),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LONGEST_LINE,
            start_new_session=True,
        )
        return cls(process, module)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    async def tell(self, message: dict[str, Any]) -> None:
        """Say one line. Raises UpstreamError when it has gone."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            await self._process.stdin.drain()
        except (ConnectionError, BrokenPipeError) as e:
            raise UpstreamError(f"{self._name} ended with code {await self._process.wait()}") from e

    async def hear(self, within: float) -> dict[str, Any]:
        """The next line. Raises UpstreamError when it fails, ends or takes longer than `within` seconds."""
        assert self._process.stdout is not None
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), within)
        except TimeoutError:
            raise UpstreamError(f"{self._name} said nothing for {within:.0f} s") from None
        if not line:
            raise UpstreamError(f"{self._name} ended with code {await self._process.wait()}")
        message: dict[str, Any] = json.loads(line)
        if "failed" in message:
            raise UpstreamError(f"{self._name}: {message['failed']}")
        return message

    async def stop(self) -> None:
        """End its input and wait; kill it if that does not help."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), 10)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
