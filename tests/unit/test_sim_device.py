"""What a virtual device sends: numbers, times, bytes."""

from __future__ import annotations

import asyncio

from citysense.clock import SetClock
from citysense_profiles.catalogue import load_catalogue
from citysense_sim.device import Delivery, Messages, PolledDevice, ReportingDevice
from citysense_sim.link import Fate
from citysense_sim.scenario import Device, find_scenario, load_scenario

STORM = load_scenario(find_scenario("storm"))
CATALOGUE = load_catalogue()
NOW = 1_795_190_934_423


class Wire:
    """A link that keeps what it gets and stops the device after a few messages."""

    def __init__(self, most: int) -> None:
        self.sent: list[tuple[int, bytes]] = []
        self.lowest = 0
        self._most = most
        self.ready = True

    @property
    def unacked(self) -> int:
        return len(self.sent)

    def base(self, following: int) -> int:
        return min(self.lowest, following)

    def push(self, number: int, payload: bytes) -> None:
        self.sent.append((number, payload))
        if len(self.sent) == self._most:
            raise asyncio.CancelledError

    async def run(self) -> None:
        raise AssertionError("nobody runs this link")


def device(name: str) -> Device:
    return next(device for device in STORM.devices if device.id == name)


async def played(name: str, wire: Wire, boot: int, forgot: bool = False) -> None:
    entry = device(name)
    clock = SetClock(NOW)
    reporting = ReportingDevice(
        scenario=STORM,
        device=entry,
        messages=Messages(CATALOGUE[entry.profile], entry, boot=boot),
        link=wire,
        speed=60,
        clock=clock,
    )
    if forgot:
        reporting.on_forgotten()
    try:
        # The beginning lies far back, so that everything is due and nothing waits.
        await reporting.run(clock.monotonic() - 1_000_000)
    except asyncio.CancelledError:
        return


async def test_a_native_gauge_counts_from_zero_within_its_boot() -> None:
    wire = Wire(4)
    await played("gauge-001", wire, boot=7)
    decoded = [
        CATALOGUE["generic/water-gauge"].decode(payload, message="report", content=60) for _, payload in wire.sent
    ]
    assert [(one.boot, one.seq, one.base) for one in decoded] == [(7, number, None) for number in range(4)]
    assert {one.samples[0].time for one in decoded} == {NOW}


async def test_after_a_loss_of_memory_each_message_names_its_base() -> None:
    wire = Wire(5)
    wire.lowest = 2
    await played("gauge-001", wire, boot=1, forgot=True)
    decoded = [
        CATALOGUE["generic/water-gauge"].decode(payload, message="report", content=60) for _, payload in wire.sent
    ]
    assert [one.base for one in decoded] == [0, 1, 2, 2, 2]


async def test_a_reader_sends_the_vendors_bytes_with_its_own_serial() -> None:
    wire = Wire(3)
    await played("reader-001", wire, boot=1)
    decoded = [CATALOGUE["impinj/r700"].decode(payload, message="events") for _, payload in wire.sent]
    assert {one.serial for one in decoded} == {"001625012345"}
    assert [one.samples[0].tag for one in decoded] == ["E28011700000020A4C1B7F01"] * 3
    assert {one.samples[0].event for one in decoded} == {"tag.seen"}


def test_a_polled_device_answers_for_every_register_that_a_gateway_asks() -> None:
    entry = device("pile-001")
    profile = CATALOGUE[entry.profile]
    clock = SetClock(0)
    pile = PolledDevice(scenario=STORM, device=entry, profile=profile, speed=1, clock=clock)
    pile.begin(0)
    asked = {(read.table, read.address + offset) for read in profile.plan_reads() for offset in range(read.count)}
    assert asked <= pile.registers().keys()
    assert profile.decode_registers(pile.registers()).samples[0].values["pile.state"] == "available"
    clock.advance(15 * 60_000)
    assert profile.decode_registers(pile.registers()).samples[0].values["pile.state"] == "faulted"


def test_delivery_counts_fates() -> None:
    delivery = Delivery("gauge-1")
    for fate in (Fate.ACKED, Fate.ACKED, Fate.REFUSED, Fate.DROPPED):
        delivery(0, fate)
    assert delivery.fates == {Fate.ACKED: 2, Fate.REFUSED: 1, Fate.DROPPED: 1}
