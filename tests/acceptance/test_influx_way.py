"""The whole way with a real InfluxDB in place of the embedded store, also while it is down."""

from __future__ import annotations

import json
import time
import urllib.parse
import urllib.request
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

pytestmark = [pytest.mark.peer("influxd"), pytest.mark.timeout(180)]


def ask(server: Any, query: str) -> Any:
    """Rows of an InfluxQL query, asked of the server itself."""
    url = f"{server.url}/query?" + urllib.parse.urlencode({"db": "city", "q": query, "epoch": "ms"})
    with urllib.request.urlopen(url, timeout=10) as answer:
        result = json.loads(answer.read())["results"][0]
    return result["series"][0]["values"] if "series" in result else []


def send(city: Any, device: str, secret: str, seq: int, level: float, time: int) -> None:
    """One native message at QoS 1; returns after the PUBACK."""
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id=device)
    client.username_pw_set(device, secret)
    client.connect("127.0.0.1", city.mqtt_port)
    client.loop_start()
    try:
        body = {
            "boot": 1,
            "seq": seq,
            "t": time,
            "v": {"water.level": level, "battery.voltage": 3.6},
        }
        client.publish(f"cs/v1/{device}/up/report", json.dumps(body), qos=1).wait_for_publish(20)
    finally:
        client.disconnect()
        client.loop_stop()


def test_readings_reach_influxdb_and_wait_while_it_is_down(instance: Any, influxd: Any) -> None:
    instance.start("--scenario", "none", "--speed", "60", "--influx", f"{influxd.url}?db=city")
    secret = instance.register("gauge-001", "generic/water-gauge", credential={"kind": "password"})["credential"][
        "secret"
    ]
    start = int(time.time() * 1000) - 10_000
    send(instance, "gauge-001", secret, 0, 12.3, start)
    instance.metric("gauge-001", "water.level", 12.3)
    select = 'SELECT time, "water.level", "device" FROM "waterlogging_gauge"'
    assert ask(influxd, select) == [[start, 12.3, "gauge-001"]]
    assert not list((instance.data / "telemetry").glob("telemetry-2*.db")), "the embedded store is not used beside it"

    influxd.kill()
    for seq in range(1, 6):
        send(instance, "gauge-001", secret, seq, 60.0 + seq, start + seq * 1000)
    assert instance.ask("GET", "/api/v1/devices/gauge-001/latest")[0] == 503
    # Rules read the log and not the store: the flood is a case while InfluxDB is down.
    case = instance.until(lambda: instance.get("/dispatch/v1/cases")["items"], "the flood is a case")[0]
    assert (case["device"], case["colour"]) == ("gauge-001", "red")
    assert instance.get("/api/v1/status")["ready"]

    influxd.start()
    rows = instance.until(
        lambda: (found := ask(influxd, select)) and len(found) == 6 and found, "all six are there", 60
    )
    assert [row[1] for row in rows] == [12.3, 61.0, 62.0, 63.0, 64.0, 65.0]
    instance.metric("gauge-001", "water.level", 65.0)
    assert instance.stop() == 0
