"""The bench's load against a door in this process, and its limits."""

from __future__ import annotations

import asyncio
import io
import json
from random import Random
from typing import Any, cast

import pytest

from citysense.cli.bench_coap import GATEWAYS_ID, CoapBench, Limit, bench_devices, limits
from citysense.clock import SystemClock
from citysense.errors import SetupError, UpstreamError
from citysense_gateway.coap.door import CoapDoor, CoapKeys
from citysense_gateway.coap.oscore_store import OscoreStore, Window
from citysense_gateway.frame import Done, Frame, Kind, Reason, Verdict
from citysense_sim.coap_flood import run


class Sink:
    def __init__(self) -> None:
        self.devices: list[str | None] = []
        self.verdict = Verdict(kind=Kind.STORED)

    def deliver(self, frame: Frame, done: Done, *, reason: Reason | None = None, detail: str = "") -> None:
        self.devices.append(frame.device)
        verdict = self.verdict if reason is None else Verdict(kind=Kind.REJECTED, reason=reason)
        asyncio.get_running_loop().call_soon(done, verdict)

    async def accept(self, frame: Frame) -> Verdict:
        raise AssertionError("the door delivers")

    async def refuse(self, frame: Frame, reason: Reason, detail: str) -> Verdict:
        raise AssertionError("the door delivers")


class Numbers:
    def __init__(self) -> None:
        self.next = 0

    async def open(self) -> dict[bytes, Window]:
        return {}

    def take(self) -> int:
        self.next += 1
        return self.next

    async def close(self, windows: object) -> None: ...


class Later(SystemClock):
    """A minute on. The flood's OSCORE numbers begin with the milliseconds of its start, and a door that answers a device
    more often than once in one has seen them before: a flood right after another would be nothing but replays."""

    def now_ms(self) -> int:
        return super().now_ms() + 60_000


@pytest.mark.parametrize("protected", [False, True], ids=["plain", "oscore"])
async def test_the_flood_counts_what_the_door_answers(protected: bool) -> None:
    devices = bench_devices(5, oscore=protected)
    keys = {device.id: device.oscore for device in devices if device.oscore is not None}
    sink = Sink()
    door = CoapDoor(
        sink=sink,
        known=lambda device: True,
        clock=SystemClock(),
        random=Random(2),
        keys=CoapKeys(psk=lambda device: None, oscore=lambda: keys),
        store=cast(OscoreStore, Numbers()),
    )
    await door.start("127.0.0.1", 0)
    plan = CoapBench(cast(Any, None), clients=5, seconds=1, oscore=protected, clock=SystemClock()).plan(
        door.port, devices
    )
    rounds = io.StringIO(json.dumps(plan) + "\n" + json.dumps({"seconds": 0.1}) + "\n")
    told: list[dict[str, Any]] = []
    await asyncio.to_thread(run, rounds.readline, told.append, SystemClock())
    done = told[1]
    assert (told[0], done["open"], set(done["codes"])) == ({"ready": True}, 0, {"2.04"})
    assert done["answered"] == done["codes"]["2.04"] >= 5
    assert done["p50"] <= done["p99"] <= done["longest"]
    assert set(sink.devices) == {device.id for device in devices}
    assert door.counters.challenged == (5 if protected else 0)

    sink.verdict = Verdict(kind=Kind.UNAVAILABLE)
    with pytest.raises(UpstreamError, match=r"5\.03"):
        await asyncio.to_thread(run, io.StringIO(json.dumps(plan)).readline, told.append, Later())
    with pytest.raises(SetupError, match="plan"):
        await asyncio.to_thread(run, io.StringIO("{}").readline, told.append, SystemClock())
    await door.stop()


def test_limits_hold_or_not() -> None:
    assert Limit(at_least=10).held(10)
    assert not Limit(at_least=10).held(9.9)
    assert not Limit(at_most=10).held(10.1)
    assert (str(Limit(at_least=4500)), str(Limit(at_most=60))) == (">= 4,500", "<= 60")
    assert limits(True)["requests_per_s"].at_least == 1000
    assert limits(False)["requests_per_s"].at_least == 4500


def test_keys_of_the_bench_differ() -> None:
    keys = [device.oscore for device in bench_devices(300, oscore=True)]
    assert len({(key.secret, key.recipient) for key in keys if key is not None}) == 300
    assert all(key is not None and key.sender == GATEWAYS_ID for key in keys)
