"""A whole citysense as a user starts it, for acceptance tests: real processes, real sockets, a data folder of its own."""

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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CITYSENSE = Path(sys.executable).parent / "citysense"
PATIENCE_S = 40.0


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Instance:
    """One `citysense up`."""

    data: Path
    api_port: int = field(default_factory=free_port)
    mqtt_port: int = field(default_factory=free_port)
    coap_port: int = field(default_factory=lambda: free_port(socket.SOCK_DGRAM))
    process: subprocess.Popen[str] | None = None
    others: list[subprocess.Popen[str]] = field(default_factory=list)
    prefix: list[str] = field(default_factory=list)
    """Words in front of the command, to run it in a namespace of its own."""
    inside: Path | None = None
    """The data folder as that namespace sees it."""
    console: Path | None = None
    scheme: str = "http"
    open: Callable[..., Any] = urllib.request.urlopen

    def start(self, *options: str) -> None:
        """Start it and wait until it takes devices. The console's output goes to DATA.txt."""
        command = [
            *self.prefix,
            str(CITYSENSE),
            "up",
            "--data",
            str(self.inside or self.data),
            "--api-port",
            str(self.api_port),
        ]
        command += ["--mqtt-port", str(self.mqtt_port), "--coap-port", str(self.coap_port), *options]
        with self.output_file.open("a") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, text=True)
        self.until(lambda: self.process_ended() or self.ready(), "it is ready")
        assert not self.process_ended(), self.output()

    def start_processes(
        self,
        *,
        tracer: Sequence[str] = (),
        gateway_options: Sequence[str] = (),
        platform_tracer: Sequence[str] = (),
        platform_options: Sequence[str] = (),
    ) -> None:
        """Start platform and gateway by hand, each under its tracer."""
        self.data.mkdir(parents=True, exist_ok=True)
        platform = ["-m", "citysense_platform.app", "--data", str(self.data), "--api-port", str(self.api_port)]
        platform += platform_options
        gateway = [
            "-m",
            "citysense_gateway.app",
            "--data",
            str(self.data),
            "--platform",
            f"http://127.0.0.1:{self.api_port}",
        ]
        gateway += ["--mqtt-port", str(self.mqtt_port), "--coap-port", str(self.coap_port), *gateway_options]
        with self.output_file.open("a") as output:
            for command in ([*platform_tracer, sys.executable, *platform], [*tracer, sys.executable, *gateway]):
                self.others.append(subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, text=True))
        self.until(self.ready, "platform and gateway are ready")

    def until_known(self, device: str) -> None:
        """Wait until the gateway serves a device that was just registered."""
        self.until(lambda: self.get(f"/api/v1/devices/{device}")["in_force"], f"the gateway knows {device}")

    @property
    def output_file(self) -> Path:
        return self.console or self.data.with_suffix(".txt")

    def output(self) -> str:
        return self.output_file.read_text()

    def process_ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def ready(self) -> bool:
        try:
            status = self.get("/api/v1/status")
        except (OSError, urllib.error.URLError):
            return False
        return bool(status["ready"] and status["gateway_seen"])

    def stop(self) -> int:
        """Ctrl-C, and the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=30)

    def close(self) -> None:
        """Whatever happened, nothing of it stays."""
        for process in reversed(self.others):
            if process.poll() is None:
                # A tracer does not hand signals on: speak to the process that it traces.
                traced = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
                os.kill(int(traced[0]) if traced else process.pid, signal.SIGTERM)
        for process in self.others:
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    # -- its API --------------------------------------------------------------------------------------------------------

    @property
    def token(self) -> str:
        return (self.data / "admin-token").read_text().strip()

    def ask(self, method: str, path: str, body: Any = None, *, token: str | None = None) -> tuple[int, Any]:
        """Status and JSON body of an answer, whatever the status."""
        request = urllib.request.Request(f"{self.scheme}://127.0.0.1:{self.api_port}{path}", method=method)
        request.add_header("Authorization", f"Bearer {self.token if token is None else token}")
        data = None
        if body is not None:
            request.add_header("Content-Type", "application/json")
            data = json.dumps(body).encode()
        try:
            with self.open(request, data=data, timeout=20) as answer:
                status, raw = answer.status, answer.read()
        except urllib.error.HTTPError as refusal:
            with refusal:
                status, raw = refusal.code, refusal.read()
        return status, json.loads(raw) if raw[:1] in (b"{", b"[") else raw.decode()

    def get(self, path: str) -> Any:
        status, body = self.ask("GET", path)
        assert status == 200, (path, status, body)
        return body

    def register(self, device: str, profile: str, *, wait: bool = True, **more: Any) -> dict[str, Any]:
        """Register a device, and unless told otherwise wait until the gateway knows it."""
        site = {"name": f"Site of {device}", "lon": 113.45, "lat": 30.36, "datum": "wgs84"}
        status, body = self.ask("POST", "/api/v1/devices", {"id": device, "profile": profile, "site": site, **more})
        assert status == 201, body
        assert isinstance(body, dict)
        if wait:
            self.until_known(device)
        return body

    def until(self, condition: Callable[[], Any], what: str, patience: float = PATIENCE_S) -> Any:
        """The first true answer of `condition`; fails with the console's output when none comes."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if found := condition():
                return found
            time.sleep(0.05)
        pytest.fail(f"waited {patience:.0f} s until {what}\n{self.output()}\n{self.logs()}")

    def logs(self) -> str:
        """The last lines of every process."""
        parts = [
            f"--- {path.name}\n" + "\n".join(path.read_text().splitlines()[-15:])
            for path in (self.data / "logs").glob("*.log")
        ]
        return "\n".join(parts)

    def metric(self, device: str, name: str, value: Any) -> dict[str, Any]:
        """Wait for a metric of a device to have a value, and give the metric's entry."""

        def there() -> Any:
            entry = self.get(f"/api/v1/devices/{device}/latest")["metrics"].get(name)
            return entry if entry is not None and entry["value"] == value else None

        found: dict[str, Any] = self.until(there, f"{device} {name} is {value}")
        return found

    def dead_letter(self, **wanted: Any) -> dict[str, Any]:
        """Wait for a dead letter with these fields."""

        def there() -> Any:
            items = self.get("/api/v1/dead-letters?limit=1000")["items"]
            return next((item for item in items if all(item[key] == value for key, value in wanted.items())), None)

        found: dict[str, Any] = self.until(there, f"a dead letter has {wanted}")
        return found


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Instance]:
    """An instance that is not started yet."""
    made = Instance(tmp_path / "data")
    yield made
    made.close()


@pytest.fixture(scope="module")
def module_instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """An instance that is not started yet, shared by the tests of a module."""
    made = Instance(tmp_path_factory.mktemp("shared") / "data")
    yield made
    made.close()


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """A running instance without a scenario, shared by the tests of a module."""
    made = Instance(tmp_path_factory.mktemp("city") / "data")
    try:
        made.start("--scenario", "none")
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def published() -> dict[str, Any]:
    """Frames published by vendors and standards, by id; sources stand in the file beside this one."""
    rows = json.loads((Path(__file__).parent / "published_frames.json").read_text())
    return {row["id"]: row for row in rows}
