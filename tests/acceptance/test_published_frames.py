"""Frames that vendors published, sent by independent clients, come out of the API with the published values."""

from __future__ import annotations

import asyncio
import json
import queue
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from citysense.keys import TagPseudonym

pytestmark = pytest.mark.timeout(180)


def publish(city: Any, program: str, device: str, secret: str, message: str, payload: bytes, *extra: str) -> None:
    """One message of mosquitto_pub at QoS 1: returns after the PUBACK."""
    command = [
        program,
        "-h",
        "127.0.0.1",
        "-p",
        str(city.mqtt_port),
        "-u",
        device,
        "-P",
        secret,
        "-i",
        device,
        "-q",
        "1",
    ]
    command += ["-t", f"cs/v1/{device}/up/{message}", "-s", *extra]
    done = subprocess.run(command, input=payload, capture_output=True, timeout=20, check=False)
    assert done.returncode == 0, (done.stdout, done.stderr)


@pytest.mark.peer("mosquitto_pub")
@pytest.mark.parametrize("version", ["mqttv311", "mqttv5"])
def test_milesight_distance_over_mqtt(city: Any, peer_path: str, published: dict[str, Any], version: str) -> None:
    device = f"udl-{version}"
    known = city.register(
        device, "milesight/em310-udl", credential={"kind": "password"}, settings={"mount.height": 250}
    )
    vector = published["ms-em310udl-1"]
    secret = known["credential"]["secret"]
    publish(city, peer_path, device, secret, "report", bytes.fromhex(vector["input"]), "-V", version)
    assert vector["expected"] == {"battery_pct": 92, "distance_mm": 2116, "position": "tilt"}
    distance = city.metric(device, "water.distance", 211.6)
    assert distance["unit"] == "cm"
    assert distance["quality"] == "good"
    city.metric(device, "battery.level", 92)
    # The mounting height is the device's own setting: 250 cm - 211.6 cm.
    city.metric(device, "water.level", 38.4)
    series = city.get(
        f"/api/v1/devices/{device}/series?metric=water.distance&start=2020-01-01T00:00:00Z&end=2100-01-01T00:00:00Z"
    )
    assert [point[1] for point in series["points"]] == [211.6]


@pytest.mark.peer("coap-client")
def test_dingtek_level_over_coap(city: Any, peer_path: str, published: dict[str, Any], tmp_path: Any) -> None:
    city.register("bin-1", "dingtek/df555")
    vector = published["dt-df555-1"]
    frame = tmp_path / "frame"
    frame.write_bytes(bytes.fromhex(vector["input"]))
    url = f"coap://127.0.0.1:{city.coap_port}/v1/bin-1/report"
    command = [peer_path, "-m", "post", "-t", "42", "-f", str(frame), "-B", "15", url]
    done = subprocess.run(command, capture_output=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, b""), done
    assert vector["expected"]["level_mm"] == 2000
    city.metric("bin-1", "water.distance", 200.0)
    city.metric("bin-1", "device.temperature", 25)


@contextmanager
def modbus_slave(registers: dict[str, int]) -> Iterator[int]:
    """A Modbus TCP server that answers the published input registers, zero between them; gives its port."""
    low, high = min(map(int, registers)), max(map(int, registers))
    words = [registers.get(str(address), 0) for address in range(low, high + 1)]
    coils = [SimData(0, values=[False] * 16, datatype=DataType.BITS)]
    blank = [SimData(0, count=1, values=0, datatype=DataType.REGISTERS)]
    data = SimData(low, values=words, datatype=DataType.REGISTERS)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    started: queue.Queue[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = queue.Queue()

    async def serve() -> None:
        server: Any = ModbusTcpServer(SimDevice(1, simdata=(coils, coils, blank, [data])), address=("127.0.0.1", port))
        await server.serve_forever(background=True)
        stop = asyncio.Event()
        started.put((asyncio.get_running_loop(), stop))
        await stop.wait()
        await server.shutdown()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    loop, stop = started.get(timeout=20)
    try:
        yield port
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


def test_alpitronic_registers_over_modbus(city: Any, published: dict[str, Any]) -> None:
    vector = published["alpitronic-read"]
    with modbus_slave(vector["input"]["input_registers"]) as port:
        city.register("pile-hyc", "alpitronic/hypercharger", endpoint=f"modbus+tcp://127.0.0.1:{port}/1")
        city.metric("pile-hyc", "pile.state", "charging")
        city.metric("pile-hyc", "electric.energy", vector["expected"]["total_energy_kwh"])
        latest = city.get("/api/v1/devices/pile-hyc/latest")["metrics"]
    expected = vector["expected"]
    assert expected["state"] == "Charging"
    found = {name: (latest[name]["value"], latest[name]["unit"]) for name in latest}
    assert found["electric.power"] == (expected["power_w"], "W")
    assert found["pile.charging_time"] == (expected["charging_time_s"], "s")
    assert found["pile.session_energy"] == (expected["session_energy_kwh"], "kW.h")
    assert found["pile.soc"] == (expected["soc_pct"], "%")
    assert found["electric.energy"] == (expected["total_energy_kwh"], "kW.h")


@pytest.mark.peer("mosquitto_pub")
def test_impinj_sighting_over_mqtt(city: Any, peer_path: str, published: dict[str, Any]) -> None:
    known = city.register("reader-r700", "impinj/r700", credential={"kind": "password"})
    secret = known["credential"]["secret"]
    pseudonym = TagPseudonym(bytes.fromhex((city.data / "keys" / "pseudonym.key").read_text()))
    capture, sample = published["impinj-cap-1"], published["impinj-barnowl"]
    for vector in (capture, sample):
        publish(city, peer_path, "reader-r700", secret, "events", json.dumps(vector["input"]).encode())

    def sightings() -> Any:
        found = city.get("/api/v1/devices/reader-r700/events?start=2020-01-01T00:00:00Z&end=2100-01-01T00:00:00Z")[
            "items"
        ]
        return found if len(found) == 2 else None

    items = city.until(sightings, "both sightings are there")
    by_tag = {item["tag"]: item for item in items}
    first = by_tag[pseudonym(capture["expected"]["epc"])]
    assert first["kind"] == "tag.seen"
    assert first["values"] == {"antenna": 1} | {
        k: v for k, v in first["values"].items() if k not in ("antenna", "rssi")
    }
    second = by_tag[pseudonym(sample["expected"]["epc"])]
    assert second["values"]["antenna"] == sample["expected"]["antenna"]
    assert second["values"]["rssi"] == sample["expected"]["rssi_dbm"] == -70.0
    everything = b"".join(path.read_bytes() for path in city.data.rglob("*") if path.is_file())
    for vector in (capture, sample):
        assert vector["expected"]["epc"].encode() not in everything, "a tag id stands in clear in the data folder"
        assert vector["input"]["tagInventoryEvent"]["epc"].encode() not in everything
