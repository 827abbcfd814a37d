"""Neighbours that nobody wants: silent, slow, restless and noisy ones, at both doors.

Owns their behaviour and the count of it. They go on whatever is done to them, and what they get is none of their business.
Floods of good messages are `mqtt_flood` and `coap_flood`.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections import Counter
from collections.abc import Awaitable, Callable

from citysense_sim.fleet import Doors
from citysense_sim.mqtt_flood_packets import connect_packet

_CONNECT = connect_packet("neighbour", "guessed")
_DRIP_S = 0.2
_AGAIN_S = 0.05
_NOISE_S = 0.005


def unfinished_block(message_id: int) -> bytes:
    """The first block of a large CoAP POST to /v1/neighbour/report, whose other blocks will never come (RFC 7252 section 3,
    RFC 7959 section 2.2: option 27, block 0, more to come, 64 bytes)."""
    head = bytes([0x41, 0x02]) + message_id.to_bytes(2) + bytes([message_id & 0xFF])
    path = b"\xb2v1" + b"\x09neighbour" + b"\x06report"
    content, block1 = b"\x11\x32", b"\xd1\x02\x0a"  # 12: 50; 27: NUM 0, M 1, SZX 2
    return head + path + content + block1 + b"\xff" + b"[" * 64


class HostileNeighbours:
    """`silent` and `slow` connections, `restless` ones that come and go, and datagrams of noise, until `stop`."""

    def __init__(
        self, doors: Doors, *, chance: random.Random, silent: int = 20, slow: int = 10, restless: int = 3
    ) -> None:
        self._doors = doors
        self._chance = chance
        self._crowd: list[Callable[[], Awaitable[None]]] = [
            *[self._silent] * silent,
            *[self._slow] * slow,
            *[self._restless] * restless,
            self._noise,
        ]
        self._tasks: list[asyncio.Task[None]] = []
        self.done: Counter[str] = Counter()
        """What they did, by name."""

    def start(self) -> None:
        """Let them loose."""
        self._tasks = [asyncio.ensure_future(self._again(one)) for one in self._crowd]

    async def stop(self) -> None:
        """Send them home."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _again(self, one: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await one()
            except OSError:
                self.done["turned away"] += 1
            await asyncio.sleep(_AGAIN_S)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self._doors.host, self._doors.mqtt_port)

    async def _silent(self) -> None:
        """Connects, and says nothing until it is thrown out."""
        reader, writer = await self._connect()
        self.done["silent"] += 1
        try:
            await reader.read(1)
        finally:
            writer.close()

    async def _slow(self) -> None:
        """A byte of CONNECT now and then."""
        _, writer = await self._connect()
        self.done["slow"] += 1
        try:
            for at in range(len(_CONNECT)):
                writer.write(_CONNECT[at : at + 1])
                await writer.drain()
                await asyncio.sleep(_DRIP_S)
        finally:
            writer.close()

    async def _restless(self) -> None:
        """Guesses a password and hangs up without waiting for the answer, or in the middle of its packet."""
        _, writer = await self._connect()
        self.done["restless"] += 1
        try:
            writer.write(_CONNECT[: self._chance.randint(1, len(_CONNECT))])
            await writer.drain()
        finally:
            writer.transport.abort()

    async def _noise(self) -> None:
        """Datagrams of anything, and transfers that are begun and never ended."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.connect((self._doors.host, self._doors.coap_port))
            while True:
                if self._chance.random() < 0.5:
                    data = self._chance.randbytes(self._chance.randint(0, 100))
                else:
                    data = unfinished_block(self._chance.randrange(65_536))
                try:
                    sock.send(data)
                except BlockingIOError:
                    pass  # its own buffer is full; the next one is as good
                else:
                    self.done["noise"] += 1
                await asyncio.sleep(_NOISE_S)
