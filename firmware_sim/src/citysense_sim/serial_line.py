"""A serial line with several slaves, and the converter that puts it on the network: as real ones behave, for tests.

Owns time and order on the wire: bytes take as long as the baud rate says, the line carries one sender at a time and what
overlaps is spoilt, a slave answers one request after another, and the converter hands whatever the line says to whoever is
connected at that moment, also what was meant for somebody before. Knows nothing of registers.
"""

from __future__ import annotations

import asyncio
import os
import random
import tty
from collections import defaultdict, deque
from collections.abc import Callable, Sequence

from citysense_sim.modbus_faults import Slave, Telegram, intact

_BITS_A_BYTE = 10
"""Start, 8 data, stop."""
_SILENCE_BYTES = 3.5
"""A telegram ends when the line was silent for so long (Modbus over serial line 1.02, section 2.5.1.1)."""
_KEPT = 4096
"""Bytes that a converter keeps while nobody is connected."""


class SerialLine:
    """The wire and its slaves. `say` is where bytes for the master go. Use `send` for what the master says."""

    def __init__(
        self, slaves: Sequence[Slave], *, baud: int, say: Callable[[bytes], None], chance: random.Random, echo: bool
    ) -> None:
        self._slaves = slaves
        self._byte_s = _BITS_A_BYTE / baud
        self._say = say
        self._chance = chance
        self._echo = echo
        self._loop = asyncio.get_running_loop()
        self._timers: set[asyncio.TimerHandle] = set()
        self._heard = bytearray()
        self._request_ends = 0.0
        self._request_spoilt = False
        self._slave_sends_until = 0.0
        self._free_at: defaultdict[int, float] = defaultdict(float)
        self._sending: defaultdict[int, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
        self._end_of_request: asyncio.TimerHandle | None = None
        self.busy = 0.0
        """Seconds in which somebody was sending."""
        self.collisions = 0

    def send(self, data: bytes) -> None:
        """The master's bytes, as they come out of the converter: one after another, whoever is speaking."""
        now = self._loop.time()
        begins = max(now, self._request_ends)
        if self._slave_sends_until > begins:
            self._request_spoilt = True
            self.collisions += 1
        self._request_ends = begins + len(data) * self._byte_s
        self.busy += len(data) * self._byte_s
        self._heard += data
        if self._echo:
            self._later(self._request_ends, lambda: self._say(data))
        if self._end_of_request is not None:
            self._end_of_request.cancel()
        self._end_of_request = self._later(self._request_ends + _SILENCE_BYTES * self._byte_s, self._request_ended)

    def close(self) -> None:
        """Stop everything that is under way."""
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

    def _later(self, moment: float, call: Callable[[], None]) -> asyncio.TimerHandle:
        def run() -> None:
            self._timers.discard(handle)
            call()

        handle = self._loop.call_at(moment, run)
        self._timers.add(handle)
        return handle

    def _request_ended(self) -> None:
        request, spoilt = bytes(self._heard), self._request_spoilt
        self._heard.clear()
        self._request_spoilt = False
        if spoilt or not intact(request):
            return
        now = self._loop.time()
        for place, slave in enumerate(self._slaves):
            begun, ended = self._sending[place]
            if begun < now < ended:
                continue  # half duplex: who speaks hears nothing
            for telegram in slave.heard(request):
                begins = max(now + telegram.delay, self._free_at[place])
                length = len(telegram.data) * self._byte_s + (len(telegram.data) - 1) * telegram.gap
                self._free_at[place] = begins + length
                self._sending[place] = (begins, begins + length)
                self._later(begins, lambda telegram=telegram: self._slave_sends(telegram))  # type: ignore[misc]

    def _slave_sends(self, telegram: Telegram) -> None:
        now = self._loop.time()
        spoilt = self._slave_sends_until > now or self._request_ends > now
        if spoilt:
            self.collisions += 1
        pieces = [telegram.data[at : at + 1] for at in range(len(telegram.data))] if telegram.gap else [telegram.data]
        at = now
        for piece in pieces:
            ends = at + len(piece) * self._byte_s
            self._later(ends, lambda piece=piece, at=at: self._slave_said(piece, at, spoilt))  # type: ignore[misc]
            self.busy += len(piece) * self._byte_s
            at = ends + telegram.gap
        # Between the bytes of a slow sender the line is free: what others say then is not spoilt by it.
        self._slave_sends_until = max(self._slave_sends_until, now + len(pieces[0]) * self._byte_s)

    def _slave_said(self, data: bytes, began: float, spoilt: bool) -> None:
        if spoilt or self._request_ends > began + self._byte_s:
            data = bytes(byte ^ self._chance.randrange(256) for byte in data)
        self._say(data)


class Converter:
    """A transparent serial-to-TCP converter on 127.0.0.1. One line, usually one master; the newest connection counts."""

    def __init__(self, slaves: Sequence[Slave], *, baud: int, chance: random.Random, echo: bool = False) -> None:
        self._slaves = slaves
        self._baud = baud
        self._chance = chance
        self._echo = echo
        self._server: asyncio.Server | None = None
        self._newest: asyncio.StreamWriter | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._kept: deque[bytes] = deque()
        self.port = 0
        self.connections = 0
        self.line: SerialLine | None = None

    async def start(self) -> None:
        """Listen on a free port."""
        self.line = SerialLine(self._slaves, baud=self._baud, say=self._to_master, chance=self._chance, echo=self._echo)
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Hang up and close."""
        if self._server is None or self.line is None:
            return
        self._server.close()
        self.line.close()
        for writer in tuple(self._writers):
            writer.close()
        await asyncio.gather(*self._serving, return_exceptions=True)
        await self._server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._newest = writer
        self._writers.add(writer)
        task = asyncio.current_task()
        if task is not None:
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)
        while self._kept:
            writer.write(self._kept.popleft())
        try:
            while data := await reader.read(1024):
                if self.line is not None:
                    self.line.send(data)
        except ConnectionError:
            # The master has gone without a word; another one may come.
            return
        finally:
            self._writers.discard(writer)
            if self._newest is writer:
                self._newest = None
            writer.close()

    def _to_master(self, data: bytes) -> None:
        if self._newest is not None and not self._newest.is_closing():
            self._newest.write(data)
        elif sum(map(len, self._kept)) < _KEPT:
            self._kept.append(data)


class SerialPort:
    """The same line behind a serial port of this machine: a pseudo-terminal whose `path` a master opens."""

    def __init__(self, slaves: Sequence[Slave], *, baud: int, chance: random.Random, echo: bool = False) -> None:
        self._loop = asyncio.get_running_loop()
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self.path = os.ttyname(self._slave)
        self.line = SerialLine(slaves, baud=baud, say=self._to_master, chance=chance, echo=echo)

    def start(self) -> None:
        """Begin to listen to the port."""
        self._loop.add_reader(self._master, self._from_master)

    def stop(self) -> None:
        """Close the port."""
        self._loop.remove_reader(self._master)
        self.line.close()
        os.close(self._master)
        os.close(self._slave)

    def _from_master(self) -> None:
        self.line.send(os.read(self._master, 4096))

    def _to_master(self, data: bytes) -> None:
        os.write(self._master, data)
