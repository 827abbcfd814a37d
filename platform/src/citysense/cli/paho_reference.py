"""What the usual way costs: an empty paho subscriber behind mosquitto, the yardstick of the MQTT benches.

Owns both processes. mosquitto keeps nothing and bounds nothing, so that it is as fast as it can be. Judges nothing.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
from pathlib import Path

from citysense.cli.json_child import JsonChild
from citysense.cli.stack import HOST, POLL_S, cpu_of, free_port
from citysense.clock import Clock
from citysense.errors import SetupError, UpstreamError

UP_S = 10.0
SETTLED_S = 60.0
"""How long the subscriber may need for what the broker has piled up; a saturated round leaves half a million messages."""
_CONFIGURATION = """\
listener {port} {host}
allow_anonymous true
persistence false
max_queued_messages 0
max_inflight_messages 1000
"""


def find_mosquitto() -> str:
    """The broker's program. Raises SetupError."""
    found = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise SetupError(
            "mosquitto is not installed, and this bench compares with it; on Debian: apt install mosquitto"
        )
    return found


class PahoReference:
    """Start, load `port`, ask for `cpu` and `settled`, stop."""

    def __init__(self, folder: Path, *, topic: str, clock: Clock) -> None:
        self._folder = folder
        self._topic = topic
        self._clock = clock
        self._broker: asyncio.subprocess.Process | None = None
        self._subscriber: JsonChild | None = None
        self.port = 0

    async def start(self) -> None:
        """Start both and wait until the subscription stands. Raises SetupError, UpstreamError."""
        program = find_mosquitto()
        self.port = free_port(socket.SOCK_STREAM)
        configuration = self._folder / "mosquitto.conf"
        configuration.write_text(_CONFIGURATION.format(port=self.port, host=HOST), encoding="utf-8")
        self._broker = await asyncio.create_subprocess_exec(
            program,
            *("-c", str(configuration)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        await self._listening()
        self._subscriber = await JsonChild.start("citysense_sim.empty_subscriber", HOST, str(self.port), self._topic)
        await self._subscriber.hear(UP_S)

    async def _listening(self) -> None:
        assert self._broker is not None
        deadline = self._clock.monotonic() + UP_S
        while True:
            try:
                _, writer = await asyncio.open_connection(HOST, self.port)
            except OSError:
                if self._broker.returncode is not None or self._clock.monotonic() > deadline:
                    raise SetupError(f"mosquitto does not listen on port {self.port}") from None
                await asyncio.sleep(POLL_S)
            else:
                writer.close()
                await writer.wait_closed()
                return

    async def settled(self, received: int) -> None:
        """Wait until the subscriber has had `received` messages. Raises UpstreamError."""
        assert self._subscriber is not None
        deadline = self._clock.monotonic() + SETTLED_S
        while True:
            await self._subscriber.tell({})
            count = (await self._subscriber.hear(UP_S))["received"]
            if count >= received:
                return
            if self._clock.monotonic() > deadline:
                raise UpstreamError(f"the subscriber got {count} of {received} messages within {SETTLED_S:.0f} s")
            await asyncio.sleep(0.1)

    @property
    def cpu(self) -> tuple[float, float]:
        """Seconds of CPU of the broker and of the subscriber since their start."""
        assert self._broker is not None
        assert self._subscriber is not None
        return cpu_of(self._broker.pid), cpu_of(self._subscriber.pid)

    async def stop(self) -> None:
        """End both."""
        if self._subscriber is not None:
            await self._subscriber.stop()
        if self._broker is not None and self._broker.returncode is None:
            self._broker.terminate()
            await self._broker.wait()
