"""Every loop gives signs of life: one whose next step never ends stands still and is not at rest, an idle one rests."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import pytest
import uvicorn

from citysense.clock import SetClock
from citysense.errors import StorageError
from citysense.progress import Progress, Pulse
from citysense_gateway.mailbox import Mailbox
from citysense_gateway.modbus.line import LinePolling
from citysense_gateway.modbus.polled import PolledDevice
from citysense_gateway.modbus.poller import ModbusPoller
from citysense_gateway.orders import Orders
from citysense_gateway.platform_client import Unreachable
from citysense_gateway.reload import Reloader
from citysense_platform.app import _Server
from citysense_platform.downlinks.order_book import OrderBook
from citysense_platform.ingest.ticker import Ticker
from citysense_platform.operation.ledger_watch import LedgerWatch
from citysense_platform.rules.model import DEFAULT_PACK, load_pack
from citysense_platform.rules.runner import RulesRunner
from citysense_platform.store.follower import LogFollower
from citysense_platform.store.writer import StoreWriter
from citysense_profiles import Read
from citysense_profiles.reading import ReadingClass
from citysense_profiles.vocabulary import load_vocabulary


async def hangs(*_: Any, **__: Any) -> Any:
    """A step that never ends."""
    await asyncio.Event().wait()


class Nobody:
    """Stands for what a loop never gets to use."""

    def __getattr__(self, name: str) -> Any:
        return hangs


class Log(Nobody):
    """A log that wakes whoever reads it, and has nothing."""

    def wakeup(self, *_: ReadingClass) -> asyncio.Event:
        made = asyncio.Event()
        made.set()
        return made

    def read(self, *_: Any, **__: Any) -> list[Any]:
        return []


@dataclass(frozen=True, slots=True)
class Loop:
    """A loop, and the step of it that is to hang."""

    run: Coroutine[Any, Any, None]
    owner: object
    step: str


def mailbox(pulse: Pulse) -> Loop:
    nobody: Any = Nobody()
    box = Mailbox(nobody, devices=nobody, sealer=nobody, clock=SetClock(), random=lambda: 0.0, pulse=pulse)
    return Loop(box.run(), box, "tend")


class Told:
    """A mailbox with outcomes."""

    def __init__(self) -> None:
        self.told = asyncio.Event()
        self.told.set()

    def outcomes(self) -> tuple[int, list[str]]:
        return 1, ["an outcome"]


def outcomes(pulse: Pulse) -> Loop:
    client: Any = Nobody()
    box: Any = Told()
    orders = Orders(client=client, mailbox=box, read_again=hangs, random=lambda: 0.0, telling=pulse)
    return Loop(orders.tell(), client, "outcomes")


def reloader(pulse: Pulse) -> Loop:
    nobody: Any = Nobody()
    made = Reloader(profiles=None, catalogue=nobody, use_profiles=nobody, others=(), clock=SetClock(), pulse=pulse)
    made.ask()
    return Loop(made.run(), made, "reload")


def rules(pulse: Pulse) -> Loop:
    log: Any = Log()
    nobody: Any = Nobody()
    pack = load_pack(DEFAULT_PACK, speed=1.0, vocabulary=load_vocabulary())
    runner = RulesRunner(log=log, city=nobody, pack=pack, settle=nobody, clock=SetClock(), pulse=pulse)
    return Loop(runner.run(), runner, "judge_batches")


class Sink(Nobody):
    """A store that knows where it is."""

    async def cursors(self) -> dict[ReadingClass, int]:
        return dict.fromkeys(ReadingClass, 0)


def events(pulse: Pulse) -> Loop:
    log, sink, clock = Log(), Sink(), SetClock(10**9)
    given: Any = (log, sink)
    follower = LogFollower("events", *given, clock=clock, jitter=random.Random(1), sync_every_s=0.0, pulse=pulse)
    return Loop(follower.run(), sink, "sync")


def store(pulse: Pulse) -> Loop:
    log, sink, clock = Log(), Sink(), SetClock(10**9)
    given: Any = (log, sink)
    writer = StoreWriter(*given, clock=clock, jitter=random.Random(1), sync_every_s=0.0, pulse=pulse)
    return Loop(writer.run(), sink, "sync")


def ticker(pulse: Pulse) -> Loop:
    nobody: Any = Nobody()
    made = Ticker(nobody, SetClock(), pulse)
    return Loop(made.run(), made, "tick")


def order_book(pulse: Pulse) -> Loop:
    nobody: Any = Nobody()
    book = OrderBook(nobody, SetClock(), pulse)
    return Loop(book.run(), book, "sweep")


def ledger_watch(pulse: Pulse) -> Loop:
    nobody: Any = Nobody()
    watch = LedgerWatch(nobody, latest=dict, settle=nobody, clock=SetClock(), pulse=pulse)
    return Loop(watch.run(), watch, "look")


def api(pulse: Pulse) -> Loop:
    server = _Server(uvicorn.Config(lambda: None, log_config=None, lifespan="off"), pulse)

    async def notified() -> None:
        return

    server.config.callback_notify = notified
    return Loop(server.main_loop(), server.config, "callback_notify")


@pytest.mark.parametrize(
    "make", [mailbox, outcomes, reloader, rules, events, store, ticker, order_book, ledger_watch, api]
)
async def test_a_loop_that_hangs_is_found(make: Callable[[Pulse], Loop], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SetClock()
    progress = Progress(clock)
    pulse = progress.watch("loop")
    loop = make(pulse)
    reached = asyncio.Event()

    async def step(*_: Any, **__: Any) -> None:
        reached.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(loop.owner, loop.step, step, raising=False)
    running = asyncio.create_task(loop.run)
    try:
        async with asyncio.timeout(20):
            await reached.wait()
        for _ in range(12):
            clock.advance(1_000)
            found = progress.look()
        assert [one.name for one in found] == ["loop"]
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_line_that_hangs_is_found_and_its_neighbour_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SetClock()
    progress = Progress(clock)
    nobody: Any = Nobody()
    reached = asyncio.Event()

    async def step(line: LinePolling) -> None:
        if str(line._line) == "192.0.2.1:502":
            reached.set()
            await asyncio.Event().wait()
        line._open_at = line._clock.monotonic() + 1e9

    monkeypatch.setattr(LinePolling, "_open", step)
    poller = ModbusPoller(sink=nobody, clock=clock, random=random.Random(1), progress=progress)
    await poller.start()
    read = Read(table="input", address=1, count=1)
    poller.set_devices(
        [
            PolledDevice(id=host, endpoint=f"modbus+tcp://192.0.2.{host}/1", every=0.001, plan=(read,), message="m")
            for host in ("1", "2")
        ]
    )
    try:
        clock.advance(1_000)
        async with asyncio.timeout(20):
            await reached.wait()
        for _ in range(60):
            clock.advance(1_000)
            found = progress.look()
        assert [(one.name, one.which) for one in found] == [("modbus line", "192.0.2.1:502")]
        poller.set_devices([])
    finally:
        await poller.stop()
    assert progress.ages() == {}


@pytest.mark.parametrize("retry_after", [None, 30.0])
async def test_outcomes_rest_while_the_platform_is_away(retry_after: float | None) -> None:
    tries = asyncio.Event()

    class Away(Nobody):
        async def outcomes(self, _: list[str]) -> None:
            tries.set()
            raise Unreachable("down", retry_after=retry_after)

    client: Any = Away()
    box: Any = Told()
    pulse = Pulse()
    orders = Orders(client=client, mailbox=box, read_again=hangs, random=lambda: 0.0, telling=pulse)
    running = asyncio.create_task(orders.tell())
    await tries.wait()
    assert pulse.resting
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_follower_rests_while_its_sink_is_down() -> None:
    tried = asyncio.Event()

    class Full(Sink):
        async def take(self, *_: Any) -> None:
            tried.set()
            raise StorageError("no space")

    log, sink, pulse = Log(), Full(), Pulse()
    given: Any = (log, sink)
    follower = LogFollower(
        "events", *given, clock=SetClock(), jitter=random.Random(1), first_pause_s=300.0, pulse=pulse
    )
    running = asyncio.create_task(follower._deliver([], {}))
    await tried.wait()
    await asyncio.sleep(0)
    assert pulse.resting
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
