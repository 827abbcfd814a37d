"""A UDP proxy that loses, doubles, reorders and spoils datagrams, and forgets whose they are, as radio networks do.

Owns the decision what becomes of a datagram (`fates`, pure but for the chance that is handed in), one way out for each
sender (as an address translator has), and the thin shell that does it.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

Address = tuple[str, int]
MOST_SENDERS = 10_000
"""Ways out at a time; the oldest is forgotten then, like in a translator whose table is full."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Radio:
    """Chances for each datagram, from 0 to 1, independent of each other; one that is dropped is not doubled.

    One that is reordered is held back for up to `hold_s` seconds, so that those behind it overtake; so is the second of
    a doubled one. `rebind` is the chance, at a datagram up, that its sender has got another source port before: answers
    to the old one find nobody any more. `corrupt` turns one byte over, which UDP's check sum would find.
    """

    drop: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    corrupt: float = 0.0
    rebind: float = 0.0
    hold_s: float = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Fates:
    """What becomes of one datagram: it leaves so many seconds later, once for each entry; with the byte at `spoiled`
    turned over unless that is None."""

    delays: tuple[float, ...] = (0.0,)
    spoiled: int | None = None
    rebound: bool = False
    named: tuple[str, ...] = ()
    """The words under which this is counted."""


def fates(radio: Radio, size: int, chance: random.Random, *, down: bool) -> Fates:
    """Decide about a datagram of `size` bytes. `down` is towards the sender of the first one."""
    drawn = {
        name: chance.random() < getattr(radio, name) for name in ("drop", "duplicate", "reorder", "corrupt", "rebind")
    }
    first, second = chance.random(), chance.random()
    at = int(chance.random() * size)
    rebound = drawn["rebind"] and not down
    named = ("rebind",) if rebound else ()
    if drawn["drop"]:
        return Fates(delays=(), rebound=rebound, named=(*named, "drop"))
    delays = [radio.hold_s * first if drawn["reorder"] else 0.0]
    if drawn["duplicate"]:
        delays.append(radio.hold_s * second)
    return Fates(
        delays=tuple(delays),
        spoiled=at if drawn["corrupt"] and size else None,
        rebound=rebound,
        named=(*named, *(name for name in ("duplicate", "reorder", "corrupt") if drawn[name])),
    )


class UdpFaultProxy:
    """Listens on `port` of 127.0.0.1 (after `start`) and carries to `target`, a port there.

    `up` and `down` may be changed at any time. `done` counts datagrams by way (`up`, `down`) and what was done to them
    by name with the way behind it (`drop up`).
    """

    def __init__(
        self, target: int, *, chance: random.Random, up: Radio | None = None, down: Radio | None = None
    ) -> None:
        self.target = target
        self.up = up or Radio()
        self.down = down or Radio()
        self.done: Counter[str] = Counter()
        self.port = 0
        self._chance = chance
        self._front: asyncio.DatagramTransport | None = None
        self._ways: dict[Address, asyncio.DatagramTransport] = {}
        self._opening: dict[Address, list[bytes]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._held: set[asyncio.TimerHandle] = set()

    async def start(self) -> None:
        """Listen."""
        loop = asyncio.get_running_loop()
        self._front, _ = await loop.create_datagram_endpoint(lambda: _Front(self), local_addr=("127.0.0.1", self.port))
        self.port = self._front.get_extra_info("sockname")[1]

    async def stop(self) -> None:
        """End everything; what is held back is lost."""
        if self._front is not None:
            self._front.close()
            self._front = None
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for timer in self._held:
            timer.cancel()
        self._held.clear()
        for way in self._ways.values():
            way.close()
        self._ways.clear()
        await asyncio.sleep(0)  # transports close in the next turn

    def sent(self, data: bytes, sender: Address) -> None:
        """A datagram from a device."""
        decided = self._decide(self.up, data, down=False)
        if decided.rebound and sender in self._ways:
            self._ways.pop(sender).close()
        for delay in decided.delays:
            self._later(delay, lambda: self._out(_spoiled(data, decided.spoiled), sender))

    def answered(self, data: bytes, sender: Address) -> None:
        """A datagram for the device that has this way out."""
        decided = self._decide(self.down, data, down=True)
        for delay in decided.delays:
            self._later(delay, lambda: self._back(_spoiled(data, decided.spoiled), sender))

    def _decide(self, radio: Radio, data: bytes, *, down: bool) -> Fates:
        decided = fates(radio, len(data), self._chance, down=down)
        way = "down" if down else "up"
        self.done[way] += 1
        for name in decided.named:
            self.done[f"{name} {way}"] += 1
        return decided

    def _later(self, delay: float, action: Callable[[], None]) -> None:
        if delay <= 0:
            action()
            return

        def due() -> None:
            self._held.discard(timer)
            action()

        timer = asyncio.get_running_loop().call_later(delay, due)
        self._held.add(timer)

    def _out(self, data: bytes, sender: Address) -> None:
        way = self._ways.get(sender)
        if way is not None:
            way.sendto(data)
        elif sender in self._opening:
            self._opening[sender].append(data)
        else:
            self._opening[sender] = [data]
            task = asyncio.create_task(self._open(sender))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _open(self, sender: Address) -> None:
        loop = asyncio.get_running_loop()
        way, _ = await loop.create_datagram_endpoint(lambda: _Way(self, sender), remote_addr=("127.0.0.1", self.target))
        if len(self._ways) >= MOST_SENDERS:
            self._ways.pop(next(iter(self._ways))).close()
        self._ways[sender] = way
        for data in self._opening.pop(sender):
            way.sendto(data)

    def _back(self, data: bytes, sender: Address) -> None:
        if self._front is not None:
            self._front.sendto(data, sender)


def _spoiled(data: bytes, at: int | None) -> bytes:
    return data if at is None else data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


class _Front(asyncio.DatagramProtocol):
    """The side of the devices."""

    def __init__(self, proxy: UdpFaultProxy) -> None:
        self._proxy = proxy

    def datagram_received(self, data: bytes, addr: Address) -> None:
        self._proxy.sent(data, addr)


class _Way(asyncio.DatagramProtocol):
    """One device's way out. That nobody listens there is no news: it may listen again in a moment."""

    def __init__(self, proxy: UdpFaultProxy, sender: Address) -> None:
        self._proxy = proxy
        self._sender = sender

    def datagram_received(self, data: bytes, addr: Address) -> None:
        self._proxy.answered(data, self._sender)
