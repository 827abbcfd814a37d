"""Mail for polled devices: written between polls, told before and after, repeated where the profile says so."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace

import pytest

from citysense import wire
from citysense.cli.modbus_model import JudgingSink
from citysense.clock import SystemClock
from citysense_gateway.devices import Devices
from citysense_gateway.mail import Mail
from citysense_gateway.modbus.polled import PolledDevice, WritePlan, planner_for, polled_maps
from citysense_gateway.modbus.poller import ModbusPoller
from citysense_profiles import Read, Write
from citysense_profiles.catalogue import load_catalogue
from citysense_profiles.errors import EncodeError
from citysense_profiles.reading import Value
from citysense_sim.modbus_faults import GoodSlave, Slave, Telegram, sealed
from citysense_sim.serial_line import SerialPort

DEVICE = "pile"
UNIT = 1
LIMIT = 30
_ids = iter(range(10_000))


def mail(message: str = "limit", *, once: bool = False, **values: Value) -> Mail:
    return Mail(
        id=f"m{next(_ids)}",
        device=DEVICE,
        message=message,
        payload=b"",
        content=0,
        values=values or {"value": 7},
        expires=2**53,
        priority=0,
        once=once,
    )


class Box:
    """A mailbox that keeps its word, and a record of what it was told."""

    def __init__(self, *waiting: Mail) -> None:
        self._waiting = list(waiting)
        self.told: list[tuple[str, str]] = []
        self.details: list[str] = []
        self._listeners: list[Callable[[str], None]] = []

    def add(self, one: Mail) -> None:
        self._waiting.append(one)
        for listener in self._listeners:
            listener(one.device)

    def waiting(self, device: str) -> tuple[Mail, ...]:
        begun = {id_ for word, id_ in self.told if word == "begin"}
        return tuple(one for one in self._waiting if one.device == device and not (one.once and one.id in begun))

    async def begin(self, mail: Mail) -> bool:
        self.told.append(("begin", mail.id))
        return True

    async def delivered(self, mail: Mail) -> None:
        self.told.append(("delivered", mail.id))
        self._waiting.remove(mail)

    async def refused(self, mail: Mail, detail: str) -> None:
        self.told.append(("refused", mail.id))
        self.details.append(detail)
        self._waiting.remove(mail)

    def listen(self, on_mail: Callable[[str], None]) -> None:
        self._listeners.append(on_mail)


def plan(mail: Mail) -> WritePlan | None:
    """`limit` writes one register, `wide` two requests, `life` is repeated, `nowhere` the device does not have."""
    value = int(str(mail.values["value"]))
    if mail.message == "unsayable":
        raise EncodeError("value 7 is not one of 1 to 5", profile="p", message=mail.message, field="value")
    writes = {
        "limit": (Write(function=6, table="holding", address=LIMIT, words=(value,)),),
        "wide": (
            Write(function=16, table="holding", address=LIMIT, words=(value, value + 1)),
            Write(function=5, table="coil", address=0, words=(1,)),
        ),
        "life": (Write(function=6, table="holding", address=LIMIT + 1, words=(value,)),),
        "nowhere": (Write(function=6, table="holding", address=900, words=(value,)),),
    }[mail.message]
    return WritePlan(writes=writes, resend_every=0.05 if mail.message == "life" else None)


class Deaf:
    """Loses the first so many writes: they are done, and not confirmed."""

    def __init__(self, inner: GoodSlave, times: int, *, exception: int | None = None) -> None:
        self._inner = inner
        self._times = times
        self._exception = exception

    def heard(self, request: bytes) -> list[Telegram]:
        answers = list(self._inner.heard(request)) if self._exception is None or request[1] < 5 else []
        if request[1] < 5 or self._times == 0:
            return answers or list(self._inner.heard(request))
        self._times -= 1
        if self._exception is None:
            return []
        return [Telegram(data=sealed(bytes([UNIT, request[1] | 0x80, self._exception])), delay=0.001)]


class Zeros(JudgingSink):
    """Takes frames of a device whose registers say nothing about their place."""

    def __init__(self) -> None:
        super().__init__({DEVICE: UNIT}, SystemClock())


def new_slave() -> GoodSlave:
    words = {("holding", address): 0 for address in range(64)} | {("coil", address): 0 for address in range(16)}
    return GoodSlave(UNIT, words, turnaround=0.001)


@contextmanager
def port_of(slave: Slave, *, echo: bool = False) -> Iterator[str]:
    port = SerialPort([slave], baud=115_200, chance=random.Random(1), echo=echo)
    port.start()
    try:
        yield f"modbus+rtu://{port.path}?baud=115200&unit={UNIT}"
    finally:
        port.stop()


@asynccontextmanager
async def at_work(box: Box, endpoint: str) -> AsyncIterator[ModbusPoller]:
    poller = ModbusPoller(
        sink=Zeros(), clock=SystemClock(), random=random.Random(1), mail=box, plan_writes=plan, reply_timeout=0.2
    )
    await poller.start()
    read = Read(table="holding", address=0, count=2)
    try:
        poller.set_devices([PolledDevice(id=DEVICE, endpoint=endpoint, plan=(read,), every=0.05, message=None)])
        yield poller
    finally:
        await poller.stop()


async def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("echo", [False, True])
async def test_mail_is_written_between_polls_and_told_in_order(echo: bool) -> None:
    slave = new_slave()
    first, second = mail("limit"), mail("wide")
    box = Box(first)
    with port_of(slave, echo=echo) as endpoint:
        async with at_work(box, endpoint) as poller:
            await until(lambda: ("delivered", first.id) in box.told)
            box.add(second)
            await until(lambda: ("delivered", second.id) in box.told)
            polls = poller.counters.polls
            await until(lambda: poller.counters.polls > polls + 3)
            assert (poller.counters.written, poller.counters.failures) == (2, 0)
    assert box.told == [(word, one.id) for one in (first, second) for word in ("begin", "delivered")]
    assert slave.written == [
        ("holding", LIMIT, (7,)),
        ("holding", LIMIT, (7, 8)),
        ("coil", 0, (1,)),
    ]


async def test_what_a_device_or_its_profile_refuses_is_told_with_the_reason() -> None:
    by_device, by_profile = mail("nowhere"), mail("unsayable")
    box = Box(by_device, by_profile)
    with port_of(new_slave()) as endpoint:
        async with at_work(box, endpoint) as poller:
            await until(lambda: len(box.details) == 2)
            assert poller.counters.refused_writes == 2
    assert box.told == [("begin", by_device.id), ("refused", by_device.id), ("refused", by_profile.id)]
    assert "holding 900: exception 2 (illegal address)" in box.details[0]
    assert "not one of 1 to 5" in box.details[1]


async def test_a_lost_confirmation_is_tried_again_and_a_mail_for_once_is_not() -> None:
    slave = new_slave()
    again, once = mail("limit"), mail("limit", once=True, value=9)
    box = Box(again)
    with port_of(Deaf(slave, 2)) as endpoint:
        async with at_work(box, endpoint):
            await until(lambda: ("begin", again.id) in box.told)
            box.add(once)
            await until(lambda: ("delivered", again.id) in box.told, 60.0)
    assert box.told.count(("begin", once.id)) <= 1
    assert ("delivered", once.id) not in box.told or box.told.count(("begin", again.id)) == 3
    assert slave.written.count(("holding", LIMIT, (9,))) <= 1


async def test_a_busy_device_is_told_again() -> None:
    slave = new_slave()
    one = mail("limit")
    box = Box(one)
    with port_of(Deaf(slave, 1, exception=6)) as endpoint:
        async with at_work(box, endpoint) as poller:
            await until(lambda: ("delivered", one.id) in box.told)
            assert poller.counters.failures == 0
    assert box.told.count(("begin", one.id)) == 2


async def test_a_life_bit_is_repeated_after_it_was_set_and_only_then() -> None:
    slave = new_slave()
    box = Box()
    with port_of(slave) as endpoint:
        async with at_work(box, endpoint) as poller:
            await until(lambda: poller.counters.polls >= 5)
            assert slave.written == []
            box.add(mail("life"))
            await until(lambda: len(slave.written) >= 5)
            box.add(mail("life", value=9))
            await until(lambda: slave.written[-4:] == [("holding", LIMIT + 1, (9,))] * 4)
            assert poller.counters.written == 2
    assert len(box.told) == 4


async def test_what_must_be_said_once_is_not_repeated() -> None:
    slave = new_slave()
    box = Box(mail("life", once=True))
    with port_of(slave) as endpoint:
        async with at_work(box, endpoint) as poller:
            await until(lambda: poller.counters.written == 1)
            polls = poller.counters.polls
            await until(lambda: poller.counters.polls > polls + 10)
    assert slave.written == [("holding", LIMIT + 1, (7,))]


async def test_a_mail_for_once_is_not_begun_with_a_device_that_does_not_answer() -> None:
    class Silent:
        def heard(self, request: bytes) -> list[Telegram]:
            return []

    box = Box(mail("limit", once=True))
    with port_of(Silent()) as endpoint:
        async with at_work(box, endpoint) as poller:
            await until(lambda: poller.counters.failures >= 2)
    assert box.told == []


def served(profile: str, **settings: float | str) -> Devices:
    devices = Devices(load_catalogue())
    entry = wire.RosterDevice(
        id=DEVICE, profile=profile, endpoint="modbus+tcp://192.0.2.1:502/1", settings=dict(settings)
    )
    devices.replace(wire.Roster(version=1, devices=[entry]))
    return devices


def with_life_bit() -> tuple[str, str]:
    """A profile with a map that must be written again and again by metric, and that map."""
    for profile in load_catalogue():
        for name in profile.messages:
            if profile.resend_every(name) and "pile.current_limit" in profile.message_metrics(name):
                return profile.id, name
    raise AssertionError("no profile has one any more")


def test_metrics_become_the_writes_of_the_profile() -> None:
    profile, message = with_life_bit()
    devices = served(profile)
    made = planner_for(devices)(replace(mail(message), values={"pile.current_limit": 16.0}))
    assert made is not None
    assert made.resend_every == devices.get(DEVICE).profile.resend_every(message)  # type: ignore[union-attr]
    written = {(one.table, one.address + at): word for one in made.writes for at, word in enumerate(one.words)}
    known = devices.get(DEVICE)
    assert known is not None
    assert written == known.profile.encode_registers({"pile.current_limit": 16.0}, message=message)


def test_what_the_profile_cannot_say_is_an_encode_error() -> None:
    profile, message = with_life_bit()
    devices = served(profile)
    planner = planner_for(devices)
    with pytest.raises(EncodeError, match="warp"):
        planner(mail(message, warp=9))
    with pytest.raises(EncodeError, match="no such message"):
        planner(mail("warp", value=9))
    devices.replace(wire.Roster(version=2, devices=[]))
    assert planner(mail(message, value=1)) is None


def test_all_upward_maps_of_a_profile_are_polled() -> None:
    several = 0
    for profile in load_catalogue():
        if "modbus" not in profile.transports or profile.file.options or not profile.plan_reads():
            continue
        device = served(profile.id).get(DEVICE)
        if device is None:
            continue
        maps = polled_maps(device)
        several += len(maps) > 1
        assert [one.plan for one in maps] == [profile.plan_reads(one.message) for one in maps]
        assert all(one.plan and one.every == profile.report_every and one.message for one in maps)
    assert several


def test_a_device_without_maps_is_kept_so_that_it_is_told() -> None:
    profile = next(one for one in load_catalogue() if "modbus" not in one.transports and not one.options)
    device = served(profile.id).get(DEVICE)
    assert device is not None
    assert [one.plan for one in polled_maps(device)] == [()]
