"""Many Modbus TCP servers in one process, each with one unit: the far end of a load measurement.

Owns the servers. Run as `python -m citysense_sim.modbus_fleet`: it reads one JSON object from stdin, `{"count": N,
"words": {"holding": {"0": 17}}}`, prints the list of its ports as one line of JSON, and serves until stdin ends.
"""

from __future__ import annotations

import asyncio
import json
import sys
from functools import partial

from citysense_sim.modbus_faults import GoodSlave

UNIT = 1
_HEADER = 6


class TcpUnit(asyncio.Protocol):
    """One connection to a unit. What is no telegram ends it."""

    def __init__(self, slave: GoodSlave) -> None:
        self._slave = slave
        self._heard = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        assert self._transport is not None
        self._heard += data
        while len(self._heard) >= _HEADER:
            length = int.from_bytes(self._heard[4:6])
            if self._heard[2:4] != b"\0\0" or not 2 <= length <= 254:
                self._transport.close()
                return
            if len(self._heard) < _HEADER + length:
                return
            head, body = self._heard[:4], self._heard[_HEADER : _HEADER + length]
            self._heard = self._heard[_HEADER + length :]
            answer = self._slave.answer(body)
            if answer:
                self._transport.write(head + len(answer).to_bytes(2) + answer)


class TcpUnits:
    """So many servers on free ports of 127.0.0.1, all with the same words."""

    def __init__(self, count: int, words: dict[tuple[str, int], int]) -> None:
        self._count = count
        self._words = words
        self._servers: list[asyncio.Server] = []
        self.ports: list[int] = []

    async def start(self) -> None:
        """Listen."""
        loop = asyncio.get_running_loop()
        for _ in range(self._count):
            slave = GoodSlave(UNIT, self._words)
            server = await loop.create_server(partial(TcpUnit, slave), "127.0.0.1", 0)
            self._servers.append(server)
            self.ports.append(server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Close the listeners; connections end with the process, or with their other end."""
        for server in self._servers:
            server.close()


async def _main() -> None:
    asked = json.loads(sys.stdin.readline())
    words = {(table, int(at)): word for table, held in asked["words"].items() for at, word in held.items()}
    units = TcpUnits(asked["count"], words)
    await units.start()
    sys.stdout.write(json.dumps(units.ports) + "\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    await units.stop()


if __name__ == "__main__":
    asyncio.run(_main())
