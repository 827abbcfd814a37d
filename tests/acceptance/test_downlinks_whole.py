"""A message for a device, from the API to the device and back to its state, over each of the three protocols."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(120)
PROFILE = "decentlab/dl-lid"
TEN_MINUTES = "000202587ea1"
"""Period 600 s, kept over a restart: command 2, the period, CRC-16 of Modbus over both, as the profile says."""
HALF_AN_HOUR = "0002070812a2"


def send(city: Any, device: str, period: int, **more: Any) -> str:
    """The id of a message that sets the device's period."""
    body = {"message": "set_period", "values": {"config.report_interval": period}, **more}
    status, downlink = city.ask("POST", f"/api/v1/devices/{device}/downlinks", body)
    assert status == 202, downlink
    assert downlink["state"] == "waiting"
    return str(downlink["id"])


def becomes(city: Any, downlink: str, state: str) -> list[str]:
    """Wait for a message to be in a state; the states through which it came there."""
    path = f"/api/v1/downlinks/{downlink}"
    city.until(lambda: city.get(path)["state"] == state, f"{downlink} is {state}")
    return [change["state"] for change in city.get(path)["history"]]


def subscriber(city: Any, device: str, secret: str, *options: str) -> subprocess.Popen[str]:
    """A mosquitto_sub for the device's messages, with a session that outlives the connection; prints QoS and payload."""
    command = ["mosquitto_sub", "-h", "127.0.0.1", "-p", str(city.mqtt_port), "-u", device, "-P", secret, "-i", device]
    command += ["-c", "-q", "1", "-t", f"cs/v1/{device}/down/#", "-F", "%t %q %r %x", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> list[str]:
    """What it has printed up to its end."""
    try:
        output, _ = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, output
    return output.splitlines()


@pytest.mark.usefixtures("radar")  # its first poll comes within ten seconds, and meanwhile there is something to do
@pytest.mark.peer("mosquitto_pub")
def test_over_mqtt_at_once_after_a_reconnect_and_never_when_out_of_date(city: Any) -> None:
    secret = city.register("well-mqtt", PROFILE, credential={"kind": "password"})["credential"]["secret"]
    topic = "cs/v1/well-mqtt/down/set_period"
    online = subscriber(city, "well-mqtt", secret, "-C", "1")
    first = send(city, "well-mqtt", 600)
    assert said(online) == [f"{topic} 1 0 {TEN_MINUTES}"]
    assert becomes(city, first, "delivered") == ["waiting", "sent", "delivered"]

    short = send(city, "well-mqtt", 60, ttl=1)
    replaced = send(city, "well-mqtt", 120, supersedes="period")
    wanted = send(city, "well-mqtt", 1800, supersedes="period")
    assert becomes(city, short, "expired") == ["waiting", "expired"]
    assert becomes(city, replaced, "superseded") == ["waiting", "superseded"]
    last = send(city, "well-mqtt", 600, supersedes="another")
    both = [f"{topic} 1 0 {HALF_AN_HOUR}", f"{topic} 1 0 {TEN_MINUTES}"]
    assert said(subscriber(city, "well-mqtt", secret, "-C", "2")) == both
    for downlink in (wanted, last):
        assert becomes(city, downlink, "delivered") == ["waiting", "sent", "delivered"]
    listed = city.get("/api/v1/devices/well-mqtt/downlinks")["items"]
    assert [one["id"] for one in listed] == [last, wanted, replaced, short, first]


def coap(city: Any, method: str, path: str) -> str:
    """What coap-client says of a request; it gives an Echo back by itself."""
    command = ["coap-client-notls", "-v", "6", "-B", "3", "-m", method, f"coap://127.0.0.1:{city.coap_port}{path}"]
    done = subprocess.run(command, capture_output=True, timeout=20, check=False)
    return (done.stdout + done.stderr).decode(errors="replace")


@pytest.mark.peer("coap-client")
def test_over_coap_fetched_and_confirmed(city: Any) -> None:
    city.register("well-coap", PROFILE)
    downlink = send(city, "well-coap", 600)
    answer = city.until(lambda: found if "ETag" in (found := coap(city, "get", "/v1/well-coap/down")) else None, "mail")
    assert TEN_MINUTES in answer
    assert "Location-Query:m=set_period" in answer
    assert f"Location-Path:{downlink}" in answer
    assert becomes(city, downlink, "sent") == ["waiting", "sent"], "handed over is not delivered"
    assert TEN_MINUTES in coap(city, "get", "/v1/well-coap/down"), "until it is confirmed"
    assert "2.02" in coap(city, "delete", f"/v1/well-coap/down/{downlink}")
    assert becomes(city, downlink, "delivered") == ["waiting", "sent", "delivered"]
    assert "ETag" not in coap(city, "get", "/v1/well-coap/down")
    assert "4.04" in coap(city, "delete", f"/v1/well-coap/down/{downlink}")


@pytest.fixture(scope="module")
def radar(city: Any) -> Iterator[int]:
    """The port of a radar gauge that speaks Modbus TCP."""
    command = [sys.executable, "-m", "citysense_sim.modbus_fleet"]
    words = {1: 2377, 3: 123, 5: 250, 1012: 1, 1014: 96, 2004: 10}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"count": 1, "words": {"holding": words}}) + "\n")
        process.stdin.flush()
        port = json.loads(process.stdout.readline())[0]
        city.register("radar-1", "dfrobot/sen0676", endpoint=f"modbus+tcp://127.0.0.1:{port}/1")
        yield port
        process.stdin.close()


@pytest.mark.peer("mbpoll")
def test_over_modbus_written_into_its_register(city: Any, radar: int, peer_path: str) -> None:
    def height() -> str:
        command = [peer_path, "-0", "-1", "-p", str(radar), "-r", "5", "127.0.0.1"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        return done.stdout.split("[5]:")[1].split()[0]

    city.metric("radar-1", "water.level", 12.3)
    assert height() == "250"
    body: dict[str, Any] = {"message": "set", "values": {"config.mount_height": 300}}
    status, downlink = city.ask("POST", "/api/v1/devices/radar-1/downlinks", body)
    assert status == 202, downlink
    assert becomes(city, downlink["id"], "delivered") == ["waiting", "sent", "delivered"]
    assert height() == "300"
    body["values"]["config.mount_height"] = -4
    status, problem = city.ask("POST", "/api/v1/devices/radar-1/downlinks", body)
    assert (status, problem["errors"][0]["field"]) == (422, "values.config.mount_height")
