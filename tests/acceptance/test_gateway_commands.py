"""Looking after gateways that run: status server, `gateway check` and `gateway reload`, what a mended profile is good for,
and a second gateway."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from citysense.cli.main import main

pytestmark = pytest.mark.timeout(180)
PROFILE = "generic/water-gauge"
WRONG = """\
schema: 1
id: acme/gauge
kind: waterlogging_gauge
title: A gauge
product: {vendor: acme, model: gauge, source: made for this test}
transport: {mqtt: {}}
report_every: 60s
messages:
  report:
    title: Report
    codec: {type: binary}
    fields:
      - {name: level, type: u32, unit: cm, metric: water.level}
vectors:
  - {name: one, basis: computed, message: report, wire: {hex: "00000010"}, samples: [{values: {water.level: 16}}]}
"""
RIGHT = WRONG.replace("u32", "u16").replace("00000010", "0010")

READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
"""Runs a command in a namespace in which a folder cannot be written, not even by root."""


Command = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def city(module_instance: Any) -> Iterator[Any]:
    """A running instance without a scenario, with a city's own profile that is wrong for its devices."""
    own = profile_of(module_instance)
    own.parent.mkdir(parents=True)
    own.write_text(WRONG)
    module_instance.start("--scenario", "none", "--profiles", str(own.parent.parent))
    yield module_instance
    assert module_instance.stop() == 0
    assert "Traceback" not in module_instance.output() + module_instance.logs()


def profile_of(city: Any) -> Path:
    """The file of the city's own profile."""
    return Path(city.data.parent / "profiles" / "acme" / "gauge.yaml")


@pytest.fixture
def command(city: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run `citysense gateway …`; its exit code and words. The ports of `city` and other settings come by the environment."""

    def run(data: Path, *words: str, **settings: object) -> tuple[int, str]:
        ports = {"api_port": city.api_port, "mqtt_port": city.mqtt_port, "coap_port": city.coap_port}
        for name, value in {**ports, **settings}.items():
            monkeypatch.setenv(f"CITYSENSE_{name.upper()}", str(value))
        code = main(["gateway", *words, "--data", str(data)])
        for name in settings:
            monkeypatch.delenv(f"CITYSENSE_{name.upper()}")
        said = capsys.readouterr()
        return code, said.out + said.err

    return run


def found(answer: tuple[int, str]) -> tuple[int, dict[str, tuple[str, str]]]:
    """Exit code, and by part of `gateway check --json` the worst that was found and what is to be done."""
    code, said = answer
    worst: dict[str, tuple[str, str]] = {}
    for finding in sorted(json.loads(said), key=lambda one: ["ok", "warn", "fail"].index(one["state"])):
        worst[finding["what"]] = (finding["state"], f"{finding['found']}: {finding['do']}")
    return code, worst


def free_port(kind: socket.SocketKind) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def status_of(data: Path, path: str) -> tuple[int, str]:
    """An answer of the status server of the gateway on a folder; 0 while there is none."""
    try:
        port = json.loads((data / "gateway.lock").read_bytes())["status_port"]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as answer:
        with answer:
            return answer.code, answer.read().decode()
    except (OSError, ValueError):
        return 0, ""


def checks_of(data: Path) -> dict[str, str]:
    """The state of each part that /readyz looks at."""
    _, said = status_of(data, "/readyz")
    return {check["name"]: check["state"] for check in json.loads(said)["checks"]} if said else {}


def failed(data: Path) -> list[str]:
    """What makes the gateway on a folder unready."""
    return [name for name, state in checks_of(data).items() if state == "failed"]


def publish_bytes(port: int, device: str, secret: str, payload: bytes) -> tuple[int, str]:
    """The exit code of mosquitto_pub, and what it says, which is nothing where all is well."""
    command = ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(port), "-V", "mqttv5", "-u", device, "-P", secret]
    command += ["-q", "1", "-t", f"cs/v1/{device}/up/report", "-s"]
    done = subprocess.run(command, input=payload, capture_output=True, timeout=20, check=False)
    return done.returncode, (done.stdout + done.stderr).decode()


def publish(port: int, device: str, secret: str, seq: int, level: float) -> int:
    """The exit code of mosquitto_pub for a native message."""
    payload = json.dumps({"boot": 1, "seq": seq, "v": {"water.level": level}})
    return publish_bytes(port, device, secret, payload.encode())[0]


@contextmanager
def paused(data: Path) -> Iterator[Callable[[], None]]:
    """The platform of a folder takes part in nothing until the block ends, or what it gives is called."""
    (pid,) = [
        int(folder.name)
        for folder in Path("/proc").iterdir()
        if folder.name.isdigit() and {"citysense_platform.app", str(data)} <= set(words_of(folder))
    ]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield lambda: os.kill(pid, signal.SIGCONT)
    finally:
        os.kill(pid, signal.SIGCONT)


def words_of(process: Path) -> list[str]:
    try:
        return (process / "cmdline").read_bytes().decode().split("\0")
    except OSError:
        return []


@dataclass
class Second:
    """Another gateway of the same city, on a folder and ports of its own."""

    data: Path
    mqtt_port: int
    coap_port: int


@contextmanager
def second_gateway(city: Any, folder: Path, token: str) -> Iterator[Second]:
    """Started, but not waited for."""
    folder.mkdir(mode=0o700)
    (folder / "gateway-token").write_text(token)
    (folder / "gateway-token").chmod(0o600)
    made = Second(folder, free_port(socket.SOCK_STREAM), free_port(socket.SOCK_DGRAM))
    words = ["--data", str(folder), "--platform", f"http://127.0.0.1:{city.api_port}", "--gateway", "gateway-2"]
    words += ["--mqtt-port", str(made.mqtt_port), "--coap-port", str(made.coap_port)]
    with (folder / "said.txt").open("w") as output:
        process = subprocess.Popen([sys.executable, "-m", "citysense_gateway.app", *words], stderr=output)
    try:
        yield made
        process.terminate()
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.peer("mosquitto_pub")
def test_the_status_server_and_a_platform_that_stands_still(city: Any) -> None:
    secret = city.register("gauge-status", PROFILE, credential={"kind": "password"})["credential"]["secret"]
    assert status_of(city.data, "/livez")[0] == 200
    assert status_of(city.data, "/readyz")[0] == 200
    with paused(city.data):
        assert publish(city.mqtt_port, "gauge-status", secret, 0, 4.5) == 0, "acknowledged, as it is in the spool"
        waiting: dict[str, str] = {}
        deadline = time.monotonic() + 10  # what waits is counted once a second
        while not any(int(waiting[name].split()[0]) for name in waiting if name.startswith("uplink")):
            assert time.monotonic() < deadline, waiting
            code, said = status_of(city.data, "/readyz")
            assert code == 200, "a gateway that takes readings is ready, whatever the platform does"
            waiting = {check["name"]: check["detail"] for check in json.loads(said)["checks"]}
            time.sleep(0.1)
    city.metric("gauge-status", "water.level", 4.5)
    code, figures = status_of(city.data, "/metrics")
    assert code == 200
    assert any(line.startswith("citysense_gateway_") and "mqtt" in line for line in figures.splitlines()), figures
    assert set(checks_of(city.data).values()) == {"ok"}


def test_check_and_reload_of_a_gateway_that_runs(city: Any, command: Command, tmp_path: Path) -> None:
    code, parts = found(command(city.data, "check", "--json"))
    assert (code, [what for what, (state, _) in parts.items() if state != "ok"]) == (0, ["gateway"])
    assert "was started with other options" in parts["gateway"][1], "this one has profiles of its own"
    assert "takes our token" in parts["platform"][1]
    assert parts[f"port {city.mqtt_port}"][1].startswith("MQTT: open")
    (tmp_path / "cert.pem").write_text("no certificate")
    broken = {"tls_cert": tmp_path / "cert.pem", "tls_key": tmp_path / "cert.pem"}
    code, parts = found(command(tmp_path / "stopped", "check", "--json", **broken))
    assert (code, parts["certificate"][0]) == (1, "fail")
    assert str(tmp_path / "cert.pem") in parts["certificate"][1]

    (tmp_path / "acme").mkdir()
    (tmp_path / "acme" / "gauge.yaml").write_text("schema: 1\n")
    code, parts = found(command(tmp_path / "stopped", "check", "--json", profiles=tmp_path))
    assert (code, parts["profiles"][0]) == (1, "fail")
    assert "acme/gauge.yaml" in parts["profiles"][1]

    assert command(city.data, "reload") == (0, "nothing has changed\n")


@pytest.mark.peer("mosquitto_pub")
def test_letters_of_a_wrong_profile_are_stored_once_it_is_mended(city: Any, command: Command) -> None:
    device = "gauge-acme"
    secret = city.register(device, "acme/gauge", credential={"kind": "password"})["credential"]["secret"]
    frames = (b"\x00\x15", b"\x00\x16")
    for frame in frames:
        assert "Payload format invalid" in publish_bytes(city.mqtt_port, device, secret, frame)[1]
    letters = [city.dead_letter(device=device, raw=frame.hex()) for frame in frames]
    assert {letter["reason"] for letter in letters} == {"undecodable"}
    assert city.get(f"/api/v1/devices/{device}/latest")["metrics"] == {}

    profile_of(city).write_text(RIGHT.replace("u16", "u17"))
    code, said = command(city.data, "reload")
    assert code == 1
    assert "not taken: profiles stay as they were" in said
    assert "acme/gauge.yaml" in said
    again(city, {"ids": [letters[0]["id"]]}, orders=1)
    rejected = city.until(lambda: read_again(city, letters[0], "rejected"), "it fails again")
    assert rejected["detail"], "the old profile is in force, and the outcome says why it does not fit"

    profile_of(city).write_text(RIGHT)
    assert command(city.data, "reload") == (0, "profiles changed: acme/gauge\n")
    again(city, {"reason": "undecodable", "profile": "acme/gauge"}, orders=2)
    for letter in letters:
        city.until(lambda one=letter: read_again(city, one, "stored"), f"{letter['id']} is stored")
    city.metric(device, "water.level", 22.0)
    window = "metric=water.level&start=2020-01-01T00:00:00Z&end=2100-01-01T00:00:00Z"
    points = city.get(f"/api/v1/devices/{device}/series?{window}")["points"]
    assert [(time, value) for time, value, _ in points] == [
        (letters[0]["received"], 21.0),
        (letters[1]["received"], 22.0),
    ], "at the time at which the frame came, and not when it was read again"
    refused = again(city, {"ids": [letters[0]["id"]]}, orders=0)
    assert [one["reason"] for one in refused] == ["read_already"]

    assert publish_bytes(city.mqtt_port, device, secret, b"\x00\x17") == (0, ""), (
        "the session's device is served by the new profile"
    )
    city.metric(device, "water.level", 23.0)
    kept = city.get(f"/api/v1/dead-letters?device={device}")["items"]
    assert len(kept) == 2, "reading again makes no letters"


def again(city: Any, wanted: dict[str, Any], *, orders: int) -> Any:
    """Ask for letters to be read again; the refusals."""
    status, asked = city.ask("POST", "/api/v1/dead-letters/reprocess", wanted)
    assert (status, len(asked["orders"])) == (202, orders), asked
    return asked["refused"]


def read_again(city: Any, letter: dict[str, Any], state: str) -> Any:
    """What the list says of the last attempt, once that is its state."""
    items = city.get(f"/api/v1/dead-letters?device={letter['device']}")["items"]
    found = next(item["reprocessed"] for item in items if item["id"] == letter["id"])
    return found if found is not None and found["state"] == state else None


def test_check_and_reload_where_none_runs(city: Any, command: Command, tmp_path: Path) -> None:
    elsewhere = {"api_port": 1, "mqtt_port": free_port(socket.SOCK_STREAM), "coap_port": free_port(socket.SOCK_DGRAM)}
    assert found(command(tmp_path / "none", "check", "--json", **elsewhere))[0] == 0
    assert not (tmp_path / "none").exists(), "it changes nothing"
    code, parts = found(command(tmp_path / "none", "check", "--json"))
    assert (code, parts[f"port {city.mqtt_port}"][0]) == (1, "fail"), "another gateway has them"

    (tmp_path / "locked").mkdir()
    check = [str(Path(sys.executable).parent / "citysense"), "gateway", "check", "--data", str(tmp_path / "locked")]
    read_only = ["unshare", "-rm", "sh", "-c", READ_ONLY, str(tmp_path / "locked"), *check]
    done = subprocess.run(read_only, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, done
    assert "cannot be written: look at owner and rights" in " ".join(done.stdout.split())

    code, said = command(tmp_path / "none", "reload")
    assert code == 1
    assert said.startswith("citysense: no gateway runs on")


@pytest.mark.peer("mosquitto_pub")
def test_a_second_gateway_from_its_enrolment_to_its_end(city: Any, command: Command, tmp_path: Path) -> None:
    status, enrolled = city.ask("POST", "/api/v1/gateways", {"id": "gateway-2"})
    assert status == 201, enrolled
    secret = city.register("gauge-moves", PROFILE, credential={"kind": "password"})["credential"]["secret"]
    assert publish(city.mqtt_port, "gauge-moves", secret, 0, 1.0) == 0
    city.metric("gauge-moves", "water.level", 1.0)

    with paused(city.data) as resume, second_gateway(city, tmp_path / "two", enrolled["token"]) as two:
        city.until(lambda: failed(two.data) == ["roster"], "all is ready but that it knows no device")
        assert status_of(two.data, "/livez")[0] == 200
        assert status_of(two.data, "/readyz")[0] == 503
        resume()
        city.until(lambda: status_of(two.data, "/readyz")[0] == 200, "it knows its devices, none so far")
        path = "/api/v1/gateways/gateway-2"
        city.until(lambda: city.get(path)["heartbeat"], "its sign of life is there")

        assert city.ask("PATCH", "/api/v1/devices/gauge-moves", {"gateway": "gateway-2"})[0] == 200
        city.until_known("gauge-moves")
        assert publish(two.mqtt_port, "gauge-moves", secret, 1, 2.0) == 0
        city.metric("gauge-moves", "water.level", 2.0)
        assert city.get(path)["devices"] == 1
        city.until(
            lambda: publish(city.mqtt_port, "gauge-moves", secret, 2, 3.0) == 135, "the first one knows it no more"
        )

        ports = {"mqtt_port": two.mqtt_port, "coap_port": two.coap_port}
        assert found(command(two.data, "check", "--json", **ports))[0] == 0
        assert city.ask("POST", f"{path}/revoke")[0] == 200
        code, parts = found(command(two.data, "check", "--json", **ports))
        assert (code, parts["platform"][0]) == (1, "fail")
        assert "does not take our token (401)" in parts["platform"][1]
        assert str(two.data / "gateway-token") in parts["platform"][1]
        assert publish(two.mqtt_port, "gauge-moves", secret, 2, 4.0) == 0, "kept in its spool"
    assert "Traceback" not in (two.data / "said.txt").read_text()
    assert city.metric("gauge-moves", "water.level", 2.0)
