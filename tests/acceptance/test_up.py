"""`citysense up` as a newcomer meets it: a storm rises, cases open, it stops cleanly and goes on where it was."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(240)


def processes_of(data: Path) -> dict[str, int]:
    """Module -> pid of the product's processes that work in a data folder."""
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            words = (folder / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if str(data) in words and "-m" in words:
            found[words[words.index("-m") + 1]] = int(folder.name)
    return found


def cases(instance: Any) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = instance.get("/dispatch/v1/cases?limit=1000")["items"]
    return listed


def test_a_storm_rises_and_a_second_start_goes_on(instance: Any) -> None:
    instance.start("--speed", "60")
    instance.until(lambda: len(cases(instance)) >= 3, "gauges, lock or pile have opened cases")
    devices = {device["id"]: device for device in instance.get("/api/v1/devices")["items"]}
    assert sorted(devices) == ["gauge-001", "gauge-002", "lock-001", "pile-001", "reader-001"]
    for device in ("gauge-001", "gauge-002", "lock-001", "pile-001"):
        instance.until(lambda d=device: instance.get(f"/api/v1/devices/{d}/latest")["metrics"], f"{device} was heard")
    span = "start=2020-01-01T00:00:00Z&end=2100-01-01T00:00:00Z"
    sightings = instance.until(
        lambda: instance.get(f"/api/v1/devices/reader-001/events?{span}")["items"], "a tag was seen"
    )
    assert sightings[0]["kind"] == "tag.seen"
    status = instance.get("/api/v1/status")
    assert set(status["frames"]) == {"mqtt", "coap", "modbus"}
    assert min(status["frames"].values()) > 0
    assert status["frame_to_case"]["count"] >= 1

    before = {case["id"]: case for case in cases(instance)}
    assert instance.stop() == 0
    assert processes_of(instance.data) == {}
    said = instance.output()
    assert "first case" in said
    assert "Stopped. Data stays in" in said
    assert "Traceback" not in said + instance.logs()

    instance.start("--speed", "60")
    again = {case["id"]: case for case in cases(instance)}
    assert before.keys() <= again.keys(), "the cases of the first run are still there"
    instance.until(lambda: len(cases(instance)) > len(before), "the next storm opens cases of its own")
    keys = [(case["device"], case["data_time"]) for case in cases(instance)]
    assert len(keys) == len(set(keys))
    assert instance.stop() == 0


def test_killed_processes_come_back(instance: Any) -> None:
    instance.start("--scenario", "none")
    instance.register("gauge-killed", "generic/water-gauge")
    first = processes_of(instance.data)
    assert set(first) == {"citysense_platform.app", "citysense_gateway.app"}
    for module, pid in first.items():
        os.kill(pid, signal.SIGKILL)
        instance.until(
            lambda m=module, p=pid: processes_of(instance.data).get(m, p) != p, f"{module} was started again"
        )
    instance.until(instance.ready, "it is ready again")
    assert instance.get("/api/v1/devices/gauge-killed")["id"] == "gauge-killed"
    assert instance.stop() == 0


def test_two_instances_side_by_side(instance: Any, city: Any) -> None:
    instance.start("--scenario", "none")
    instance.register("gauge-of-one", "generic/water-gauge")
    assert instance.token != city.token
    assert city.ask("GET", "/api/v1/devices/gauge-of-one")[0] == 404
    assert city.ask("GET", "/api/v1/devices", token=instance.token)[0] == 401


def up(*options: str) -> subprocess.CompletedProcess[str]:
    from sys import executable

    command = [str(Path(executable).parent / "citysense"), "up", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_foreign_server_on_a_port_is_named_in_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as foreign:
        port = foreign.getsockname()[1]
        done = up("--data", str(tmp_path / "data"), "--mqtt-port", str(port), "--api-port", "1", "--coap-port", "1")
    assert done.returncode == 1
    assert f"TCP port {port} (MQTT) is in use by" in done.stderr
    assert f"(pid {os.getpid()})" in done.stderr
    assert "--mqtt-port" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "data").exists(), "nothing half-started"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--bind", "0.0.0.0"], "--insecure"),
        (["--rules", "nowhere.yaml"], "nowhere.yaml"),
        (["--influx", "ftp://x"], "--influx"),
        (["--data", "/proc/citysense"], "--data"),
    ],
)
def test_what_is_in_the_way_is_said_in_one_sentence(
    tmp_path: Path, instance: Any, options: list[str], words: str
) -> None:
    ports = ["--api-port", str(instance.api_port), "--mqtt-port", str(instance.mqtt_port)]
    done = up("--data", str(tmp_path / "data"), *ports, "--coap-port", str(instance.coap_port), *options)
    assert done.returncode == 1, done
    sentence = done.stderr.strip().splitlines()[-1]
    assert sentence.startswith("citysense: ")
    assert words in sentence
    assert "Traceback" not in done.stdout + done.stderr
    assert processes_of(tmp_path / "data") == {}


@pytest.mark.parametrize(
    ("option", "value"), [("--speed", "fast"), ("--speed", "0"), ("--api-port", "99999"), ("--scenario", "drought")]
)
def test_wrong_use_leaves_with_two(option: str, value: str) -> None:
    done = up(option, value)
    assert done.returncode == 2
    assert option.strip("-").replace("-", "_") in done.stderr.replace("-", "_")


def test_what_is_open_and_what_needs_the_token(city: Any) -> None:
    for path in ("/healthz", "/readyz", "/docs", "/openapi.json"):
        with urllib.request.urlopen(f"http://127.0.0.1:{city.api_port}{path}", timeout=10) as answer:
            assert answer.status == 200
    for path in ("/metrics", "/api/v1/devices", "/api/v1/status", "/dispatch/v1/cases", "/api/v1/dead-letters"):
        assert city.ask("GET", path, token="wrong")[0] == 401
    assert "citysense_gateway_frames_total" in city.ask("GET", "/metrics")[1]
    document = json.loads(urllib.request.urlopen(f"http://127.0.0.1:{city.api_port}/openapi.json", timeout=10).read())
    assert "/api/v1/devices/{device_id}" in document["paths"]
    mode = (city.data / "admin-token").stat().st_mode
    assert mode & 0o777 == 0o600
    assert {p.stat().st_mode & 0o777 for p in (city.data / "keys").iterdir()} == {0o600}
