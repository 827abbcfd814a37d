"""Slaves on a serial line, good and bad: what a slave says to a request, and when.

Owns Modbus RTU as a slave speaks it, and the ways in which slaves go wrong. Pure but for the chance that is handed in:
requests go in, telegrams with their delays come out. Facts: Modbus application protocol 1.1b3, Modbus over serial line 1.02.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from citysense_profiles.codecs.frames.checksum import crc16_modbus

TABLES = {1: "coil", 2: "discrete", 3: "holding", 4: "input"}
_WRITES = {5: "coil", 6: "holding", 15: "coil", 16: "holding"}
ILLEGAL_FUNCTION, ILLEGAL_ADDRESS, ILLEGAL_VALUE = 1, 2, 3
_MOST = {"coil": 2000, "discrete": 2000, "holding": 125, "input": 125}
TURNAROUND_S = 0.005
"""What a slave needs before it answers; cheap gauges need more, meters less."""
_TRICKLE_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Telegram:
    """Bytes that a slave puts on the line `delay` seconds after the request ended, with `gap` seconds between them
    beyond what the line's speed takes."""

    data: bytes
    delay: float
    gap: float = 0.0


class Slave(Protocol):
    """Something on the line. It sees every intact telegram, like real ones do."""

    def heard(self, request: bytes) -> Sequence[Telegram]:
        """What it does about a request; nothing where it is not meant."""
        ...


def sealed(body: bytes) -> bytes:
    """The telegram with its check sum."""
    return body + crc16_modbus(body).to_bytes(2, "little")


def intact(telegram: bytes) -> bool:
    """Whether the check sum is right."""
    return len(telegram) >= 4 and sealed(telegram[:-2]) == telegram


class GoodSlave:
    """Serves `words`: (table, address) to a word, or to 0 and 1 for bits. Writes change them.

    `silent_on_unknown` makes it one that says nothing where it should answer with an exception.
    """

    def __init__(
        self,
        unit: int,
        words: dict[tuple[str, int], int],
        *,
        turnaround: float = TURNAROUND_S,
        silent_on_unknown: bool = False,
    ) -> None:
        self.unit = unit
        self.words = words
        self.requests = 0
        self.written: list[tuple[str, int, tuple[int, ...]]] = []
        self._turnaround = turnaround
        self._silent = silent_on_unknown

    def heard(self, request: bytes) -> Sequence[Telegram]:
        """See `Slave`."""
        if request[0] != self.unit or len(request) < 8:
            return ()
        answer = self.answer(request[:-2])
        return (Telegram(data=sealed(answer), delay=self._turnaround),) if answer else ()

    def answer(self, request: bytes) -> bytes:
        """What it says, unit first and without a check sum; nothing where it stays silent."""
        self.requests += 1
        body = self._answer(request)
        if self._silent and body[0] & 0x80:
            return b""
        return bytes([self.unit]) + body

    def _answer(self, request: bytes) -> bytes:
        function = request[1]
        address = int.from_bytes(request[2:4])
        if function in TABLES:
            return self._read(function, address, int.from_bytes(request[4:6]))
        if function in _WRITES:
            return self._write(function, address, request)
        return bytes([function | 0x80, ILLEGAL_FUNCTION])

    def _read(self, function: int, address: int, count: int) -> bytes:
        table = TABLES[function]
        if not 1 <= count <= _MOST[table]:
            return bytes([function | 0x80, ILLEGAL_VALUE])
        try:
            words = [self.words[table, address + at] for at in range(count)]
        except KeyError:
            return bytes([function | 0x80, ILLEGAL_ADDRESS])
        if table in ("coil", "discrete"):
            packed = sum(bool(bit) << at for at, bit in enumerate(words))
            data = packed.to_bytes(-(-count // 8), "little")
        else:
            data = b"".join(word.to_bytes(2) for word in words)
        return bytes([function, len(data)]) + data

    def _write(self, function: int, address: int, request: bytes) -> bytes:
        table = _WRITES[function]
        words = _written(function, request)
        if any((table, address + at) not in self.words for at in range(len(words))):
            return bytes([function | 0x80, ILLEGAL_ADDRESS])
        self.words.update({(table, address + at): word for at, word in enumerate(words)})
        self.written.append((table, address, words))
        return request[1:6]


def _written(function: int, request: bytes) -> tuple[int, ...]:
    if function in (5, 6):
        value = int.from_bytes(request[4:6])
        return (int(value != 0),) if function == 5 else (value,)
    count, data = int.from_bytes(request[4:6]), request[7:]
    if function == 15:
        bits = int.from_bytes(data, "little")
        return tuple(bits >> at & 1 for at in range(count))
    return tuple(int.from_bytes(data[2 * at : 2 * at + 2]) for at in range(count))


class Dead:
    """Says nothing."""

    def heard(self, request: bytes) -> Sequence[Telegram]:
        """See `Slave`."""
        return ()


class Delayed:
    """A slave whose replies take as long as `delays` says, request by request: just in time, or too late.

    It works on one request after another, so its replies keep their order.
    """

    def __init__(self, inner: Slave, delays: Callable[[], float]) -> None:
        self._inner = inner
        self._delays = delays

    def heard(self, request: bytes) -> Sequence[Telegram]:
        """See `Slave`."""
        return [replace(telegram, delay=self._delays()) for telegram in self._inner.heard(request)]


class Lagging:
    """A slave that answers the k-th request before the one it hears: a reply is stuck in it, and the next pushes it out."""

    def __init__(self, inner: Slave, lag: int) -> None:
        self._inner = inner
        self._lag = lag
        self._stuck: deque[Telegram] = deque()

    def heard(self, request: bytes) -> Sequence[Telegram]:
        """See `Slave`."""
        self._stuck.extend(self._inner.heard(request))
        return [self._stuck.popleft()] if len(self._stuck) > self._lag else ()

    def stuck(self) -> Sequence[Telegram]:
        """The replies that are still stuck."""
        return tuple(self._stuck)


class Garbage:
    """Answers with noise of about the right length."""

    def __init__(self, inner: Slave, chance: random.Random) -> None:
        self._inner = inner
        self._chance = chance

    def heard(self, request: bytes) -> Sequence[Telegram]:
        """See `Slave`."""
        return [
            replace(telegram, data=self._chance.randbytes(self._chance.randint(1, len(telegram.data) + 3)))
            for telegram in self._inner.heard(request)
        ]


class WrongUnit:
    """Answers in the name of another unit, with a right check sum."""

    def __init__(self, inner: Slave, unit: int) -> None:
        self._inner = inner
        self._unit = unit

    def heard(self, request: bytes) -> Sequence[Telegram]:
        """See `Slave`."""
        return [
            replace(telegram, data=sealed(bytes([self._unit]) + telegram.data[1:-2]))
            for telegram in self._inner.heard(request)
        ]


class WrongLength:
    """Leaves out the last register of a read's reply, or adds one; the length that it says fits what it sends."""

    def __init__(self, inner: Slave, chance: random.Random) -> None:
        self._inner = inner
        self._chance = chance

    def heard(self, request: bytes) -> Sequence[Telegram]:
        """See `Slave`."""
        return [replace(telegram, data=self._bent(telegram.data)) for telegram in self._inner.heard(request)]

    def _bent(self, telegram: bytes) -> bytes:
        if telegram[1] not in TABLES:
            return telegram
        data = telegram[3:-2]
        data = data[:-2] if self._chance.random() < 0.5 and len(data) > 2 else data + self._chance.randbytes(2)
        return sealed(telegram[:2] + bytes([len(data)]) + data)


class Flipped:
    """Sends replies with one bit turned over on the way."""

    def __init__(self, inner: Slave, chance: random.Random) -> None:
        self._inner = inner
        self._chance = chance

    def heard(self, request: bytes) -> Sequence[Telegram]:
        """See `Slave`."""
        return [replace(telegram, data=self._bent(telegram.data)) for telegram in self._inner.heard(request)]

    def _bent(self, telegram: bytes) -> bytes:
        bit = self._chance.randrange(8 * len(telegram))
        return (int.from_bytes(telegram) ^ 1 << bit).to_bytes(len(telegram))


class Trickling:
    """Sends one byte a second."""

    def __init__(self, inner: Slave, gap: float = _TRICKLE_S) -> None:
        self._inner = inner
        self._gap = gap

    def heard(self, request: bytes) -> Sequence[Telegram]:
        """See `Slave`."""
        return [replace(telegram, gap=self._gap) for telegram in self._inner.heard(request)]


class Changing:
    """Goes through behaviours: every few requests the chance picks the next one, made anew.

    Where a lagging one ends, what is stuck in it comes out before the next reply, or never.
    """

    def __init__(self, behaviours: Sequence[Callable[[], Slave]], chance: random.Random, *, longest: int = 8) -> None:
        self._behaviours = behaviours
        self._chance = chance
        self._longest = longest
        self._now: Slave = Dead()
        self._left = 0

    def heard(self, request: bytes) -> Sequence[Telegram]:
        """See `Slave`."""
        first: Sequence[Telegram] = ()
        if self._left == 0:
            if isinstance(self._now, Lagging) and self._chance.random() < 0.5:
                first = self._now.stuck()
            self._now = self._chance.choice(self._behaviours)()
            self._left = self._chance.randint(1, self._longest)
        self._left -= 1
        return [*first, *self._now.heard(request)]
