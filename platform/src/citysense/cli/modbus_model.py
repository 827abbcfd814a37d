"""Modbus lines of our own with slaves that go wrong, the driver at work on them, and a sink that knows what is right.

Owns the tags by which a value tells where it came from, and the models that benches, soaks and tests share. Measures and
prints nothing.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

from citysense.clock import Clock
from citysense_gateway.frame import Done, Frame, Kind, Reason, Verdict
from citysense_gateway.modbus.polled import PolledDevice
from citysense_gateway.modbus.poller import ModbusPoller
from citysense_profiles import Read
from citysense_sim.modbus_faults import (
    Changing,
    Dead,
    Delayed,
    Flipped,
    Garbage,
    GoodSlave,
    Lagging,
    Slave,
    Trickling,
    WrongLength,
    WrongUnit,
)

_TABLES = {"coil": 0, "discrete": 1, "holding": 2, "input": 3}
SPAN = 64
"""Addresses that each table of a model slave serves."""


def tag(unit: int, table: str, address: int) -> int:
    """What a model slave holds there: unit, table and address, so that a value tells where it came from.

    Units to 15, addresses below 1024. A bit cannot tell as much; it is not used.
    """
    return unit << 12 | _TABLES[table] << 10 | address


def tagged_slave(unit: int, *, silent_on_unknown: bool = False) -> GoodSlave:
    """A slave with tags in its registers."""
    words = {(table, address): tag(unit, table, address) for table in ("holding", "input") for address in range(SPAN)}
    return GoodSlave(unit, words, silent_on_unknown=silent_on_unknown)


class JudgingSink:
    """Takes frames as the pipeline does, and compares every value with what stands at its register.

    `units` is the unit id of each device. `moments` are the times of its frames by device and message.
    """

    def __init__(self, units: dict[str, int], clock: Clock) -> None:
        self._units = units
        self._clock = clock
        self.values = 0
        self.wrong: list[str] = []
        self.moments: defaultdict[tuple[str, str | None], list[float]] = defaultdict(list)

    def deliver(self, frame: Frame, done: Done, *, reason: Reason | None = None, detail: str = "") -> None:
        """See `FrameSink`."""
        device = frame.device or ""
        for (table, address), word in (frame.registers or {}).items():
            self.values += 1
            right = tag(self._units[device], table, address)
            if word != right:
                self.wrong.append(f"{device} {table} {address}: {word:#06x}, not {right:#06x}")
        self.moments[device, frame.message].append(self._clock.monotonic())
        asyncio.get_running_loop().call_soon(done, Verdict(kind=Kind.STORED))

    async def accept(self, frame: Frame) -> Verdict:
        """See `FrameSink`."""
        stored: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self.deliver(frame, stored.set_result)
        return await stored

    async def refuse(self, frame: Frame, reason: Reason, detail: str) -> Verdict:
        """See `FrameSink`. The driver has no reason to."""
        raise AssertionError(f"the Modbus driver refused a frame: {reason}, {detail}")


@asynccontextmanager
async def driving(
    sink: JudgingSink, devices: Sequence[PolledDevice], *, clock: Clock, chance: random.Random, reply_timeout: float
) -> AsyncIterator[ModbusPoller]:
    """The gateway's driver at work on these devices."""
    poller = ModbusPoller(sink=sink, clock=clock, random=chance, reply_timeout=reply_timeout)
    await poller.start()
    try:
        poller.set_devices(devices)
        yield poller
    finally:
        await poller.stop()


def changing_slave(unit: int, *, timeout: float, chance: random.Random) -> Slave:
    """A slave that is good for a while and then wrong in some way, and so on. One in eight says nothing to what it does
    not know, as slaves outside the standard do."""
    good = tagged_slave(unit, silent_on_unknown=chance.random() < 0.125)
    good_ones: list[Callable[[], Slave]] = [lambda: good] * 8
    bad_ones: list[Callable[[], Slave]] = [
        Dead,
        lambda: Delayed(good, lambda: chance.choice((0.01, 0.9, 1.1, 1.5, 2.5)) * timeout),
        lambda: Lagging(good, chance.randint(1, 3)),
        lambda: Garbage(good, chance),
        lambda: WrongUnit(good, 1 + unit % 15),
        lambda: WrongLength(good, chance),
        lambda: Flipped(good, chance),
        lambda: Trickling(good),
    ]
    return Changing([*good_ones, *bad_ones], chance)


def random_plan(chance: random.Random) -> tuple[Read, ...]:
    """One to four reads, often of one size, as devices that answer one value at a time have them."""
    size = chance.choice((1, 1, 2, 2, 5))
    reads = []
    for _ in range(chance.randint(1, 4)):
        count = size if chance.random() < 0.8 else chance.randint(1, 8)
        table = "holding" if chance.random() < 0.8 else "input"
        reads.append(Read(table=table, address=chance.randrange(SPAN - 12), count=count))
    return tuple(dict.fromkeys(reads))


@contextmanager
def quiet(level: int = logging.ERROR) -> Iterator[None]:
    """Keep the gateway's log lines below `level` from a bench's output."""
    logger = logging.getLogger("citysense_gateway")
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)


def counted(sink: JudgingSink) -> Counter[str]:
    """Frames by device."""
    return Counter({device: len(moments) for (device, _), moments in sink.moments.items()})
