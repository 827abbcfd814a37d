"""What the platform wants of a gateway: messages taken, letters read again, outcomes told, through outages."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from citysense import wire
from citysense.clock import SetClock
from citysense.crash_points import CrashPoints
from citysense.errors import StorageError
from citysense.keys import Sealer, TagPseudonym
from citysense_gateway import mailbox
from citysense_gateway.counters import FrameCounters
from citysense_gateway.dead_letters import dead_letter
from citysense_gateway.devices import Device, Devices
from citysense_gateway.fingerprint import KEPT_MS
from citysense_gateway.frame import Frame, Identity, Kind, Transport, Verdict
from citysense_gateway.ledger import lane_books, record_gaps
from citysense_gateway.mailbox import Mailbox
from citysense_gateway.orders import Orders
from citysense_gateway.pipeline import Pipeline
from citysense_gateway.platform_client import Unreachable
from citysense_gateway.reprocess import MOST_TRIES, NotAFrame, Rereading, frame_of
from citysense_gateway.spool import Spool
from citysense_profiles.catalogue import load_catalogue
from citysense_profiles.checking.vector_check import frame_of as frame_of_vector
from citysense_profiles.reading import ReadingClass
from citysense_profiles.vocabulary import load_vocabulary

NOW = 1_795_190_934_423
CATALOGUE = load_catalogue()
SEALER = Sealer(bytes(32))
LEVEL = json.dumps({"boot": 1, "seq": 4, "v": {"water.level": 12.0}}).encode()


class PlatformOfOrders:
    """Gives orders above a number, and takes outcomes; may fail a few times first."""

    def __init__(self) -> None:
        self.orders_to_give: list[wire.Order] = []
        self.told: list[wire.Outcome] = []
        self.fail = 0
        self.asked: list[int] = []
        self.forgetful = False
        self.held = asyncio.Event()
        """Set while a question waits for an order."""
        self._changed = asyncio.Event()

    def give(self, *orders: wire.Order) -> None:
        self.orders_to_give += orders
        self._changed.set()

    async def orders(self, after: int, *, wait: bool = True) -> list[wire.Order]:
        self.asked.append(after)
        if self.fail:
            self.fail -= 1
            raise Unreachable("down")
        if self.forgetful and self.orders_to_give[-1].number > after:
            return self.orders_to_give
        while not (due := [order for order in self.orders_to_give if order.number > after]) and wait:
            self.held.set()
            self._changed.clear()
            await self._changed.wait()
        return due

    async def outcomes(self, outcomes: list[wire.Outcome]) -> None:
        if self.fail:
            self.fail -= 1
            raise Unreachable("down")
        self.told += outcomes
        self._changed.set()

    async def until_told(self, count: int) -> list[tuple[str, str]]:
        async with asyncio.timeout(20):
            while len(self.told) < count:
                self._changed.clear()
                await self._changed.wait()
        return [(outcome.id, outcome.state) for outcome in self.told]


class Bench:
    def __init__(self, folder: Path) -> None:
        self.clock = SetClock(NOW)
        self.spool = Spool(folder / "spool.db", clock=self.clock, crash=CrashPoints(), reserve_bytes=1 << 16)
        self.spool.open()
        self.devices = Devices(CATALOGUE)
        self.pipeline = Pipeline(
            devices=self.devices,
            spool=self.spool,
            vocabulary=load_vocabulary(),
            pseudonym=TagPseudonym(bytes(32)),
            seal=SEALER.seal,
            counters=FrameCounters(),
            crash=CrashPoints(),
        )
        self.platform = PlatformOfOrders()
        self.box = Mailbox(self.spool.log, devices=self.devices, sealer=SEALER, clock=self.clock, random=lambda: 0.0)
        self.serve("generic/water-gauge")

    def serve(self, profile: str) -> None:
        self.devices.replace(wire.Roster(version=1, devices=[wire.RosterDevice(id="dev-1", profile=profile)]))

    @asynccontextmanager
    async def running(self, rereading: Rereading | None = None) -> AsyncIterator[None]:
        await self.spool.log.tidy(mailbox.prepare)
        self.box.load()
        client: Any = self.platform
        rereading = rereading or Rereading(again=self.pipeline.accept, sealer=SEALER, clock=self.clock)
        orders = Orders(client=client, mailbox=self.box, read_again=rereading, random=lambda: 0.0)
        tasks = [asyncio.create_task(orders.fetch()), asyncio.create_task(orders.tell())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def letters(self) -> list[wire.DeadLetter]:
        records = self.spool.log.read(ReadingClass.STATE, after=0, limit=100)
        bodies = [wire.decode_body(record.body) for record in records]
        return [body for body in bodies if isinstance(body, wire.DeadLetter)]

    async def rejected(self, frame: Frame) -> wire.DeadLetter:
        """The letter that the pipeline makes of a frame that it cannot use."""
        verdict = await self.pipeline.accept(frame)
        assert verdict.kind is Kind.REJECTED
        return self.letters()[-1]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.spool.close()


def frame(payload: bytes = LEVEL, **changes: Any) -> Frame:
    given: dict[str, Any] = {
        "transport": Transport.MQTT,
        "channel": "cs/v1/dev-1/up/report",
        "device": "dev-1",
        "identity": Identity.CREDENTIAL,
        "source": "192.0.2.1:5000",
        "received_at": NOW - 5_000,
        "payload": payload,
        "message": "report",
    }
    return Frame(**{**given, **changes})


def down(number: int) -> wire.Downlink:
    return wire.Downlink(
        number=number, id=f"m{number}", device="dev-1", message="settings", values={}, expires=NOW + 60_000
    )


def plain_letter() -> wire.DeadLetter:
    """Of a device whose frames may stand in clear."""
    gauge = Device(id="dev-1", profile=CATALOGUE["generic/water-gauge"], settings={}, serial=None, endpoint=None)
    return dead_letter(frame(), reason="no_match", detail="", device=gauge, seal=SEALER.seal)


def again(number: int, letter: wire.DeadLetter) -> wire.Reprocess:
    return wire.Reprocess(number=number, id=f"r{number}", letter=letter)


async def test_a_letter_is_read_again_after_its_profile_was_mended(bench: Bench) -> None:
    bench.serve("milesight/em400")
    letter = await bench.rejected(frame())
    async with bench.running():
        bench.platform.give(again(1, letter))
        assert await bench.platform.until_told(1) == [("r1", "rejected")]
        bench.serve("generic/water-gauge")
        bench.platform.give(again(2, letter), again(3, letter))
        assert (await bench.platform.until_told(3))[1:] == [("r2", "stored"), ("r3", "duplicate")]
    stored = [wire.decode_body(one.body) for one in bench.spool.log.read(ReadingClass.SAFETY, after=0, limit=9)]
    assert [(body.received, body.seq) for body in stored if isinstance(body, wire.Readings)] == [(NOW - 5_000, 4)]
    assert "no_match" in bench.platform.told[0].detail


@pytest.mark.parametrize(
    "sent",
    [
        frame(b"\x00\x01", message=None, content=60, transport=Transport.COAP, channel="/v1/dev-1/report"),
        frame(b"", registers={("input", 100): 7, ("holding", 0): 65535}, transport=Transport.MODBUS, message=None),
        frame(b"tag", via="hub-1", identity=Identity.CONCENTRATOR),
    ],
    ids=["coap", "modbus", "concentrator"],
)
@pytest.mark.parametrize("profile", ["generic/water-gauge", "impinj/r700"])
async def test_a_letter_gives_its_frame_back(bench: Bench, sent: Frame, profile: str) -> None:
    bench.serve(profile)
    letter = dead_letter(sent, reason="no_match", detail="", device=bench.devices.get("dev-1"), seal=SEALER.seal)
    assert bool(letter.seal) == (profile == "impinj/r700")
    found = frame_of(letter, SEALER)
    for name in ("transport", "channel", "device", "identity", "source", "received_at", "message", "content", "via"):
        assert getattr(found, name) == getattr(sent, name)
    assert (found.payload, found.registers) == (sent.payload, sent.registers)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"raw": b"", "seal": ""}, "nothing of the frame was kept"),
        ({"size": 70_000}, "of its 70000 bytes were kept"),
        ({"reason": "no_value"}, "stored already"),
        ({"raw": b"x" * 40, "seal": "gateway", "size": 3}, "cannot be opened"),
        ({"transport": "uplink"}, "does not describe a frame"),
        ({"identity": ""}, "does not describe a frame"),
        ({"transport": "modbus", "raw": b"[" * 60_000, "size": 60_000}, "does not describe a frame"),
        ({"transport": "modbus", "raw": b'{"input":{"1":1e999}}', "size": 21}, "does not describe a frame"),
        ({"transport": "modbus", "raw": b'{"input":{"1":70000}}', "size": 21}, "above 65535"),
        ({"transport": "modbus", "raw": b'{"input":{"1":[]}}', "size": 18}, "does not describe a frame"),
    ],
)
def test_a_letter_that_is_no_whole_frame_says_why(change: dict[str, Any], words: str) -> None:
    with pytest.raises(NotAFrame, match=words):
        frame_of(msgspec.structs.replace(plain_letter(), **change), SEALER)


async def test_the_end_of_an_outage_is_told_at_its_end(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """And not when the platform next has something to say: the question after an outage is not left waiting."""
    bench.platform.fail = 2
    async with bench.running():
        async with asyncio.timeout(20):
            await bench.platform.held.wait()
    assert [record.message for record in caplog.records if record.name == "citysense_gateway.outage"] == [
        "orders: down; trying again until it works",
        "orders: works again after 2 failed tries",
    ]
    assert len(bench.platform.asked) == 4, "two that failed, one short one, and then one that waits"


async def test_orders_are_taken_in_turn_through_an_outage_and_never_twice(bench: Bench) -> None:
    letter = plain_letter()
    bench.platform.fail = 3
    async with bench.running():
        bench.platform.give(down(1), down(2), again(3, letter), down(4))
        assert await bench.platform.until_told(1) == [("r3", "stored")]
        async with asyncio.timeout(20):
            while bench.box.taken < 4:
                await asyncio.sleep(0)
    assert len(bench.box) == 3
    assert bench.platform.asked[:5] == [0, 0, 0, 0, 4]


async def test_an_order_that_comes_again_is_not_read_again(bench: Bench) -> None:
    bench.platform.forgetful = True
    async with bench.running():
        bench.platform.give(again(1, plain_letter()))
        await bench.platform.until_told(1)
        bench.platform.give(again(2, plain_letter()))
        assert await bench.platform.until_told(2) == [("r1", "stored"), ("r2", "duplicate")]


async def test_a_frame_without_a_time_is_stored_once_however_often_it_is_read(bench: Bench) -> None:
    bench.serve("milesight/em400")
    vector = next(vector for vector in CATALOGUE["milesight/em400"].vectors if vector.name == "ms-em400-periodic")
    letter = await bench.rejected(frame(frame_of_vector(vector), message="no_such"))
    letter = msgspec.structs.replace(letter, message="")
    async with bench.running():
        bench.platform.give(again(1, letter), again(2, letter))
        assert await bench.platform.until_told(2) == [("r1", "stored"), ("r2", "duplicate")]


async def test_an_old_letter_is_stored_once_however_much_later_it_is_read_again(bench: Bench) -> None:
    bench.serve("milesight/em400")
    vector = next(vector for vector in CATALOGUE["milesight/em400"].vectors if vector.name == "ms-em400-periodic")
    old = frame(frame_of_vector(vector), message="no_such", received_at=NOW - KEPT_MS - 60_000)
    letter = msgspec.structs.replace(await bench.rejected(old), message="")
    async with bench.running():
        bench.platform.give(again(1, letter))
        await bench.platform.until_told(1)
        await bench.spool.tend()
        bench.platform.give(again(2, letter))
        assert await bench.platform.until_told(2) == [("r1", "stored"), ("r2", "duplicate")]


class Unavailable:
    """A pipeline that can store nothing, so many times."""

    def __init__(self, bench: Bench, times: int) -> None:
        self.bench = bench
        self.left = times

    async def accept(self, frame: Frame) -> Verdict:
        if not self.left:
            return await self.bench.pipeline.accept(frame)
        self.left -= 1
        return Verdict(kind=Kind.UNAVAILABLE, detail="no space")


async def test_a_letter_that_cannot_be_stored_now_is_read_again_later(bench: Bench) -> None:
    rereading = Rereading(again=Unavailable(bench, 2).accept, sealer=SEALER, clock=bench.clock)
    async with bench.running(rereading):
        bench.platform.give(down(1), again(2, plain_letter()), down(3))
        assert await bench.platform.until_told(1) == [("r2", "stored")]
        async with asyncio.timeout(20):
            while bench.box.taken < 3:
                await asyncio.sleep(0)
    # What stood before it was taken, and is not asked for again.
    assert bench.platform.asked[:4] == [0, 1, 1, 3]


async def test_a_letter_that_can_never_be_stored_does_not_hold_up_the_others_for_ever(bench: Bench) -> None:
    unavailable = Unavailable(bench, 10**6)
    rereading = Rereading(again=unavailable.accept, sealer=SEALER, clock=bench.clock)
    for order in (again(1, plain_letter()), again(2, plain_letter())):
        for _ in range(MOST_TRIES - 1):
            with pytest.raises(StorageError, match="no space"):
                await rereading(order)
        outcome = await rereading(order)
        assert (outcome.id, outcome.state, outcome.time) == (order.id, "rejected", NOW)
        assert outcome.detail == f"not now, in {MOST_TRIES} tries: no space; ask again"


async def test_a_letter_that_meets_a_defect_is_told_as_such_and_not_read_for_ever(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    value = "SEC" + "RET"  # a traceback quotes the line of code

    async def broken(_: Frame) -> Verdict:
        raise LookupError(value)

    outcome = await Rereading(again=broken, sealer=SEALER, clock=bench.clock)(again(1, plain_letter()))
    assert outcome.state == "rejected"
    assert "LookupError in broken" in outcome.detail
    assert "SECRET" not in outcome.detail + caplog.text


async def test_a_record_that_vanishes_from_the_spool_is_out_of_balance(bench: Bench) -> None:
    for seq in range(3):
        await bench.pipeline.accept(frame(LEVEL.replace(b'"seq": 4', b'"seq": %d' % seq)))
    assert record_gaps(lane_books(await bench.spool.log.accounts())) == {}
    assert sum(book.found for book in lane_books(await bench.spool.log.accounts())) == 3
    await bench.spool.log.tidy(lose_one)
    assert record_gaps(lane_books(await bench.spool.log.accounts())) == {"records missing in lane safety": 1}


def lose_one(connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM record WHERE offset=2")
