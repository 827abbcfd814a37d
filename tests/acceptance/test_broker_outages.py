"""The city's broker is killed, wiped, away and flapping: no reading is lost for which a device has its receipt."""

from __future__ import annotations

import asyncio
import json
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

from citysense.cli.own_mosquitto import OwnMosquitto
from citysense.cli.stack import HOST

DEVICES = ("tide-1", "tide-2", "tide-3")
ACCOUNTS = {name: f"pw-{name}" for name in ("gateway", "probe-a", "probe-b", *DEVICES)}
PACE_S = 0.03
RESEND_S = 2.5
PATIENCE_S = 40.0
PROFILE = "generic/water-gauge"


@dataclass
class Device:
    """A native device as docs/native.md has it: it keeps a message until the receipt covers it, and sends again when the
    receipt stands still."""

    name: str
    port: int
    next_seq: int = 0
    kept: dict[int, bytes] = field(default_factory=dict)
    receipted: int = -1
    sending: bool = True

    def make(self) -> None:
        seq = self.next_seq
        self.next_seq += 1
        # Each number has a value of its own, so that the store shows which of them it has.
        reading = {"boot": 1, "seq": seq, "t": 1_795_190_000_000 + seq * 1000, "v": {"water.level": seq / 10}}
        self.kept[seq] = json.dumps(reading).encode()

    async def run(self) -> None:
        while True:
            try:
                async with aiomqtt.Client(
                    HOST, self.port, username=self.name, password=ACCOUNTS[self.name], identifier=self.name, timeout=3
                ) as client:
                    await client.subscribe(f"cs/v1/{self.name}/ack")
                    await self._connected(client)
            except aiomqtt.MqttError:
                await asyncio.sleep(0.1)

    async def _connected(self, client: aiomqtt.Client) -> None:
        sent: set[int] = set()
        stood_since = asyncio.get_running_loop().time()

        async def listen() -> None:
            nonlocal stood_since
            async for message in client.messages:
                receipt = json.loads(message.payload)
                if receipt["seq"] > self.receipted:
                    self.receipted = receipt["seq"]
                    stood_since = asyncio.get_running_loop().time()
                    self.kept = {seq: payload for seq, payload in self.kept.items() if seq > self.receipted}

        listening = asyncio.create_task(listen())
        try:
            while not listening.done():
                if self.sending:
                    self.make()
                if asyncio.get_running_loop().time() - stood_since > RESEND_S:
                    sent.clear()
                    stood_since = asyncio.get_running_loop().time()
                for seq in [seq for seq in self.kept if seq not in sent]:
                    await client.publish(f"cs/v1/{self.name}/up/report", self.kept[seq], qos=1)
                    sent.add(seq)
                await asyncio.sleep(PACE_S)
            listening.result()
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[OwnMosquitto]:
    one = OwnMosquitto(tmp_path / "broker", ACCOUNTS)
    one.start()
    yield one
    one.kill()


def all_receipted(devices: list[Device], reached: dict[str, int]) -> bool:
    return all(device.receipted >= reached[device.name] for device in devices)


async def until(condition: Callable[[], Any], what: str) -> None:
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                await asyncio.sleep(0.05)
    except TimeoutError:
        pytest.fail(f"waited {PATIENCE_S:.0f} s until {what}")


def stored(instance: Any, device: str) -> set[float]:
    """The values that the store has of a device."""
    window = urllib.parse.urlencode(
        {"metric": "water.level", "start": "2026-11-20T00:00:00Z", "end": "2026-11-22T00:00:00Z", "limit": 10000}
    )
    points = instance.get(f"/api/v1/devices/{device}/series?{window}")["points"]
    return {round(value, 1) for _, value, _ in points}


def seen_by_readyz(data: Path) -> tuple[int, str]:
    """Status of the gateway's /readyz, and the state of its check of the broker; empty while there is none."""
    port = json.loads((data / "gateway.lock").read_bytes())["status_port"]
    with urllib.request.urlopen(f"http://{HOST}:{port}/readyz", timeout=10) as answer:
        states = {check["name"]: check["state"] for check in json.load(answer)["checks"]}
        return answer.status, states.get("broker", "")


async def disturb(broker: OwnMosquitto, how: str, away: Callable[[], bool]) -> None:
    """One trouble, and the broker is back after it."""
    for _ in range(4 if how == "flapping" else 1):
        broker.kill()
        if how == "wiped":
            broker.wipe()
        if how == "away":
            await until(away, "the gateway says that the broker is away, and is ready all the same")
            await asyncio.sleep(2)
        await asyncio.to_thread(broker.start)
        if how == "flapping":
            await asyncio.sleep(0.15)


@pytest.mark.peer("mosquitto")
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:aiomqtt")
async def test_no_receipted_reading_is_lost(
    instance: Any, broker: OwnMosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CITYSENSE_BROKER_PASSWORD", ACCOUNTS["gateway"])
    monkeypatch.setenv("CITYSENSE_BROKER_PROBES", "probe-a:pw-probe-a,probe-b:pw-probe-b")
    await asyncio.to_thread(instance.start_processes, gateway_options=["--broker", broker.address])
    for name in DEVICES:
        await asyncio.to_thread(instance.register, name, PROFILE)
    devices = [Device(name, broker.port) for name in DEVICES]
    running = [asyncio.create_task(device.run()) for device in devices]
    try:
        for how in ("killed", "wiped", "away", "flapping"):
            reached = {device.name: device.next_seq + 20 for device in devices}
            await disturb(broker, how, lambda: seen_by_readyz(instance.data) == (200, "late"))
            await until(partial(all_receipted, devices, reached), f"receipts go on after the broker was {how}")
        assert seen_by_readyz(instance.data) == (200, "ok")
        for device in devices:
            device.sending = False
        await until(lambda: not any(device.kept for device in devices), "every message has its receipt")
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    for device in devices:
        wanted = {round(seq / 10, 1) for seq in range(device.receipted + 1)}

        def all_there(name: str = device.name, wanted: set[float] = wanted) -> bool:
            return wanted <= stored(instance, name)

        await asyncio.to_thread(instance.until, all_there, f"all {len(wanted)} receipted readings of {device.name}")
        assert stored(instance, device.name) == wanted, "nothing that was never sent"
