"""The driver on serial lines: behind a converter, on a port of this machine, beside slaves that go wrong."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from citysense.cli.bench_modbus_line import BAD, measure
from citysense.cli.modbus_model import JudgingSink, counted, driving, tag, tagged_slave
from citysense.cli.soak_modbus import run_storm
from citysense.clock import SystemClock
from citysense_gateway.modbus.polled import PolledDevice
from citysense_gateway.modbus.resync import Step
from citysense_profiles import Read
from citysense_sim.modbus_faults import Delayed, GoodSlave, Lagging, Slave
from citysense_sim.serial_line import Converter, SerialPort
from citysense_sim.warped_time import LoopClock, WarpedLoop

TIMEOUT = 0.5


def warped(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=WarpedLoop) as runner:
        runner.run(main())


def polled(name: str, endpoint: str, *reads: Read, every: float = 1.0) -> PolledDevice:
    plan = reads or (Read(table="holding", address=unit_of(endpoint), count=2),)
    return PolledDevice(id=name, endpoint=endpoint, plan=plan, every=every, message=None)


def unit_of(endpoint: str) -> int:
    return int(endpoint.rsplit("/", 1)[-1].rsplit("=", 1)[-1])


async def behind(*slaves: Slave, echo: bool = False) -> Converter:
    converter = Converter(slaves, baud=9600, chance=random.Random(1), echo=echo)
    await converter.start()
    return converter


def at(converter: Converter, unit: int) -> str:
    return f"modbus+rtu-tcp://127.0.0.1:{converter.port}/{unit}"


async def run_on(
    converter: Converter, devices: list[PolledDevice], seconds: float, units: dict[str, int]
) -> tuple[JudgingSink, Any]:
    clock = LoopClock()
    sink = JudgingSink(units, clock)
    async with driving(sink, devices, clock=clock, chance=random.Random(2), reply_timeout=TIMEOUT) as poller:
        await asyncio.sleep(seconds)
        counters = poller.counters
    await converter.stop()
    assert sink.wrong == []
    return sink, counters


@pytest.mark.parametrize("echo", [False, True])
def test_slaves_share_one_connection(echo: bool) -> None:
    async def main() -> None:
        converter = await behind(tagged_slave(1), tagged_slave(2), echo=echo)
        devices = [polled(f"u{unit}", at(converter, unit)) for unit in (1, 2)]
        sink, counters = await run_on(converter, devices, 100.0, {"u1": 1, "u2": 2})
        assert converter.connections == 1
        assert (counters.failures, counters.resyncs) == (0, 2)
        assert min(counted(sink).values()) >= 95

    warped(main)


def test_a_late_reply_is_dropped_and_the_next_value_is_right() -> None:
    async def main() -> None:
        delays = random.Random(4)
        slave = Delayed(tagged_slave(1), lambda: delays.choice((0.01, 0.01, 0.01, 1.2 * TIMEOUT, 2.5 * TIMEOUT)))
        converter = await behind(slave)
        reads = [Read(table="holding", address=address, count=1) for address in (10, 20, 30, 40)]
        devices = [polled(f"d{read.address}", at(converter, 1), read, every=0.2) for read in reads]
        sink, counters = await run_on(converter, devices, 2000.0, dict.fromkeys((d.id for d in devices), 1))
        assert counters.failures > 50
        assert min(counted(sink).values()) > 50

    warped(main)


@pytest.mark.parametrize("silent", [False, True])
def test_a_slave_with_one_register_alone_on_its_line_comes_back(silent: bool) -> None:
    """Also one that answers nothing but its one read."""

    async def main() -> None:
        good = GoodSlave(1, {("holding", 0): tag(1, "holding", 0)}, silent_on_unknown=silent)
        lost = iter([0.0] * 20 + [1.5 * TIMEOUT] * 2 + [0.0] * 10_000)
        converter = await behind(Delayed(good, lambda: next(lost)))
        device = polled("one", at(converter, 1), Read(table="holding", address=0, count=1))
        sink, counters = await run_on(converter, [device], 600.0, {"one": 1})
        assert counters.failing == 0
        assert counters.failures >= 1
        assert counted(sink)["one"] > 400

    warped(main)


def test_a_slave_that_lags_behind_is_never_believed_and_comes_back_when_it_is_good() -> None:
    class Mending:
        """Lags for a while."""

        def __init__(self) -> None:
            self._good = tagged_slave(1)
            self._lagging = Lagging(self._good, 1)
            self._asked = 0

        def heard(self, request: bytes) -> Any:
            self._asked += 1
            return (self._lagging if 10 <= self._asked < 20 else self._good).heard(request)

    async def main() -> None:
        converter = await behind(Mending())
        reads = [Read(table="holding", address=address, count=2) for address in (0, 10, 20)]
        sink, counters = await run_on(converter, [polled("d", at(converter, 1), *reads)], 600.0, {"d": 1})
        assert counters.failures >= 5
        assert counters.failing == 0
        assert counted(sink)["d"] > 200

    warped(main)


def test_four_bad_slaves_leave_the_others_their_periods() -> None:
    with asyncio.Runner(loop_factory=WarpedLoop) as runner:
        figures = runner.run(
            measure(slaves=50, period=5.0, baud=9600, reply_timeout=0.75, seconds=60.0, chance=random.Random(3))
        )
    assert figures.ratio <= 1.10
    assert figures.delay_p99 <= 1.0
    assert figures.wrong_values == 0
    assert set(figures.requests_to_bad) == set(BAD)


def test_no_value_is_ever_at_another_register() -> None:
    figures = run_storm(11, 1500.0)
    for seed in (12, 13):
        figures = figures.plus(run_storm(seed, 1500.0))
    assert figures.wrong == ()
    assert figures.reads > 5000
    assert figures.lost > 1000
    assert figures.values > 5000


def test_the_storm_finds_values_at_other_registers_where_nobody_resynchronises(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(self: Step, *_: object) -> None:
        self.proven = True

    monkeypatch.setattr(Step, "plan", never)
    monkeypatch.setattr(Step, "lost", never)
    monkeypatch.setattr(Step, "doubt", never)
    assert run_storm(11, 1500.0).wrong


async def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("echo", [False, True])
async def test_a_serial_port_of_this_machine(echo: bool) -> None:
    port = SerialPort([tagged_slave(1), tagged_slave(2)], baud=115_200, chance=random.Random(1), echo=echo)
    port.start()
    clock = SystemClock()
    sink = JudgingSink({"u1": 1, "u2": 2}, clock)
    devices = [
        polled(f"u{unit}", f"modbus+rtu://{port.path}?baud=115200&parity=N&stop=1&unit={unit}", every=0.05)
        for unit in (1, 2)
    ]
    try:
        async with driving(sink, devices, clock=clock, chance=random.Random(1), reply_timeout=2.0) as poller:
            await until(lambda: len(sink.moments) == 2 and min(counted(sink).values()) >= 5)
            assert poller.counters.failures == 0
    finally:
        port.stop()
    assert sink.wrong == []


async def test_a_serial_port_that_is_not_there_is_said(caplog: pytest.LogCaptureFixture) -> None:
    sink = JudgingSink({}, SystemClock())
    device = polled("d", "modbus+rtu:///dev/citysense-none?baud=9600&unit=1")
    async with driving(sink, [device], clock=SystemClock(), chance=random.Random(1), reply_timeout=1.0) as poller:
        await until(lambda: poller.counters.failing == 1)
    assert len(caplog.records) == 1
    assert "/dev/citysense-none takes no connection" in caplog.text
    assert "not read: d" in caplog.text


@pytest.mark.peer("mbpoll")
async def test_mbpoll_reads_and_writes_the_model_on_a_serial_port() -> None:
    slave = tagged_slave(7)
    port = SerialPort([slave], baud=9600, chance=random.Random(1))
    port.start()
    mbpoll = shutil.which("mbpoll")
    assert mbpoll is not None
    common = ("-m", "rtu", "-b", "9600", "-P", "none", "-a", "7", "-0", "-r", "5", "-t", "4:hex", "-1")
    try:
        read = await asyncio.create_subprocess_exec(
            *(mbpoll, *common, "-c", "2", port.path), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        said, _ = await asyncio.wait_for(read.communicate(), 20)
        assert f"0x{tag(7, 'holding', 5):04X}" in said.decode()
        write = await asyncio.create_subprocess_exec(
            *(mbpoll, *common, port.path, "0x1234"), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        said, _ = await asyncio.wait_for(write.communicate(), 20)
        assert slave.words["holding", 5] == 0x1234, said.decode()
    finally:
        port.stop()
