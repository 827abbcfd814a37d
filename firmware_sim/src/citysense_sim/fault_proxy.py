"""A TCP proxy that does to connections what bad networks do: refuses, resets, cuts, swallows, delays, spoils, loses answers.

Owns the decision what becomes of a connection (`choose`, pure but for the chance that is handed in), of each piece of
it (`pass_on`, pure), and the thin shell that does it. It understands nothing of what it carries, but for the first
words of an HTTP answer. Datagrams are `fault_proxy_udp`'s.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections import Counter
from dataclasses import dataclass, replace
from enum import StrEnum

_PIECE = 4096
_RATE_STEPS_A_SECOND = 10
_LINGER_NOTHING = struct.pack("ii", 1, 0)
"""SO_LINGER with 0 seconds: what is closed then says RST instead of FIN (Linux, socket(7))."""
_DONE = b"HTTP/1.1 2"


class Fault(StrEnum):
    """What can become of a connection."""

    NONE = "none"
    REFUSE = "refuse"
    """RST at once, before a byte."""
    RESET = "reset"
    """RST to both sides after so many bytes; what was under way is gone."""
    CUT = "cut"
    """FIN to both sides after so many bytes, in the middle of whatever that is."""
    SWALLOW = "swallow"
    """Half-open: from that byte on nothing gets through in either direction, and nobody is told."""
    CORRUPT = "corrupt"
    """One byte is turned over, once; TCP's check sum finds most of these, a bad machine in between makes them anew."""
    ANSWER_LOST = "answer_lost"
    """An HTTP answer 2xx is left behind and the asking side gets a RST: the work is done and nobody knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """How the network is. Chances per connection from 0 to 1, together at most 1; the rest stays whole.

    `within`: a fault strikes after 1 to so many bytes of both directions together; a lost answer is one of the first
    `answers`. Every piece of at most 4 kB takes `delay_s` seconds longer and the pace is `bytes_per_s` each way, for
    whole connections too.
    """

    refuse: float = 0.0
    reset: float = 0.0
    cut: float = 0.0
    swallow: float = 0.0
    corrupt: float = 0.0
    answer_lost: float = 0.0
    within: int = 4096
    answers: int = 4
    delay_s: float = 0.0
    bytes_per_s: float | None = None

    def chances(self) -> tuple[tuple[Fault, float], ...]:
        """Each fault with its chance."""
        return tuple((fault, getattr(self, fault.value)) for fault in Fault if fault is not Fault.NONE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What will become of one connection: which fault, and after how many bytes (for a lost answer: answers)."""

    fault: Fault = Fault.NONE
    after: int = 0
    delay_s: float = 0.0
    bytes_per_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What is handed on of a piece, and the fault that strikes behind it."""

    data: bytes
    struck: Fault = Fault.NONE


def choose(weather: Weather, chance: random.Random) -> Course:
    """The course of a new connection. Raises ValueError where the chances are no chances."""
    drawn = chance.random()
    at = chance.random()
    calm = Course(delay_s=weather.delay_s, bytes_per_s=weather.bytes_per_s)
    total = 0.0
    for fault, share in weather.chances():
        total += share
        if share < 0 or total > 1 + 1e-9:
            raise ValueError(
                f"chance of {fault} is {share} and all together {total}; each is at least 0, all at most 1"
            )
        if drawn < total and calm.fault is Fault.NONE:
            most = weather.answers if fault is Fault.ANSWER_LOST else weather.within
            # A lost answer may be the first one; a fault at byte 0 would be a refusal.
            first = 0 if fault is Fault.ANSWER_LOST else 1
            calm = replace(calm, fault=fault, after=min(int(at * most) + first, most))
    return calm


def pass_on(course: Course, passed: int, answers: int, data: bytes, *, down: bool) -> Piece:
    """What becomes of `data`, when `passed` bytes and `answers` HTTP answers 2xx have gone before it. `down` is towards
    the side that connected."""
    if course.fault is Fault.ANSWER_LOST:
        lost = down and data.startswith(_DONE) and answers >= course.after
        return Piece(data=b"", struck=Fault.ANSWER_LOST) if lost else Piece(data=data)
    left = course.after - passed
    if course.fault in (Fault.NONE, Fault.REFUSE) or len(data) < left:
        return Piece(data=data)
    if course.fault is Fault.CORRUPT:
        if left <= 0:
            return Piece(data=data)  # it has happened
        return Piece(data=data[: left - 1] + bytes([data[left - 1] ^ 0xFF]) + data[left:], struck=Fault.CORRUPT)
    return Piece(data=data[: max(left, 0)], struck=course.fault)


class _Carried:
    """One connection under way."""

    __slots__ = ("answers", "course", "passed", "struck", "writers")

    def __init__(self, course: Course) -> None:
        self.course = course
        self.passed = self.answers = 0
        self.struck = False
        self.writers: list[asyncio.StreamWriter] = []

    def reset(self) -> None:
        """RST to both sides, now."""
        for writer in self.writers:
            sock = writer.get_extra_info("socket")
            if sock is not None and not writer.transport.is_closing():
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOTHING)
            writer.transport.abort()


class FaultProxy:
    """Listens on `port` of 127.0.0.1 (after `start`) and carries to `target`, a port there. `weather` may be changed at any
    time and holds for the connections that come after; `done` counts what was done, by fault, and `connections`."""

    def __init__(self, target: int, *, chance: random.Random, weather: Weather | None = None) -> None:
        self.target = target
        self.weather = weather or Weather()
        self.done: Counter[str] = Counter()
        self.port = 0
        self._chance = chance
        self._server: asyncio.Server | None = None
        self._under_way: dict[asyncio.Task[None], _Carried] = {}

    async def start(self) -> None:
        """Listen; on the same port again after `shut`."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, limit=_PIECE)
        self.port = self._server.sockets[0].getsockname()[1]

    def shut(self) -> None:
        """Listen no more: who comes is refused by the kernel. What is under way goes on."""
        if self._server is not None:
            # Not waited for: from Python 3.12 on that would take until the last connection has ended.
            self._server.close()
            self._server = None

    def reset_all(self) -> int:
        """RST to every connection under way; how many."""
        found = list(self._under_way.values())
        for carried in found:
            carried.reset()
        self.done[Fault.RESET] += len(found)
        return len(found)

    def swallow_all(self) -> int:
        """Nothing gets through any more on the connections under way, and nobody is told; how many."""
        found = [carried for carried in self._under_way.values() if not carried.struck]
        for carried in found:
            carried.course = replace(carried.course, fault=Fault.SWALLOW, after=0)
        return len(found)

    async def stop(self) -> None:
        """End everything."""
        self.shut()
        tasks = list(self._under_way)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        course = choose(self.weather, self._chance)
        self.done["connections"] += 1
        carried = _Carried(course)
        carried.writers.append(writer)
        if course.fault is Fault.REFUSE:
            self.done[Fault.REFUSE] += 1
            carried.reset()
            return
        task = asyncio.current_task()
        assert task is not None
        self._under_way[task] = carried
        try:
            await self._carry_both(carried, reader, writer)
        except asyncio.CancelledError:
            carried.reset()  # nobody waits for this task but `stop`, which asked for it
        finally:
            del self._under_way[task]

    async def _carry_both(self, carried: _Carried, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there_reader, there = await asyncio.open_connection("127.0.0.1", self.target, limit=_PIECE)
        except OSError:
            carried.reset()
            return
        carried.writers.append(there)
        for one in carried.writers:
            one.transport.set_write_buffer_limits(_PIECE)
        up = asyncio.create_task(self._carry(carried, reader, there, down=False))
        down = asyncio.create_task(self._carry(carried, there_reader, writer, down=True))
        try:
            await asyncio.gather(up, down)
            for one in carried.writers:
                one.close()
        except OSError:
            carried.reset()  # one side broke it; the other hears of it in the same way
        finally:
            up.cancel()
            down.cancel()
            await asyncio.gather(up, down, return_exceptions=True)

    async def _carry(
        self, carried: _Carried, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, down: bool
    ) -> None:
        pace = carried.course.bytes_per_s
        most = _PIECE if pace is None else max(1, min(_PIECE, int(pace / _RATE_STEPS_A_SECOND)))
        while data := await reader.read(most):
            pause = carried.course.delay_s + (len(data) / pace if pace else 0.0)
            if pause:
                await asyncio.sleep(pause)
            piece = pass_on(carried.course, carried.passed, carried.answers, data, down=down)
            carried.passed += len(data)
            carried.answers += down and data.startswith(_DONE)
            if piece.struck is not Fault.NONE and not carried.struck:
                carried.struck = piece.struck is not Fault.CORRUPT
                self.done[piece.struck] += 1
            if piece.data:
                writer.write(piece.data)
                await writer.drain()
            if piece.struck in (Fault.RESET, Fault.ANSWER_LOST):
                carried.reset()
                return
            if piece.struck is Fault.CUT:
                for one in carried.writers:
                    one.close()
                return
        if carried.course.fault is Fault.SWALLOW and carried.passed >= carried.course.after:
            await writer.wait_closed()  # the other side is not told of this end
        elif writer.can_write_eof() and not writer.is_closing():
            writer.write_eof()
