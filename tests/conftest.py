"""What every test lives under: no leaked tasks, threads or sockets, and independent peers that are named when missing."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

import pytest
import pytest_asyncio


@dataclass(frozen=True)
class Peer:
    """An independent program that tests talk to: how to find it, ask its version, and install it."""

    program: str
    version: tuple[str, ...]
    package: str


PEERS = {
    "mosquitto": Peer("mosquitto", ("-h",), "mosquitto"),
    "mosquitto_pub": Peer("mosquitto_pub", ("--version",), "mosquitto-clients"),
    "coap-client": Peer("coap-client-notls", ("-h",), "libcoap3-bin"),
    "mbpoll": Peer("mbpoll", ("-V",), "mbpoll"),
    "influxd": Peer("influxd", ("version",), "influxdb"),
    "strace": Peer("strace", ("-V",), "strace"),
}
IN_CI = os.environ.get("CI", "") not in ("", "0", "false")


def _path(peer: Peer) -> str | None:
    # Debian keeps servers in /usr/sbin, which an ordinary user's PATH lacks.
    return shutil.which(peer.program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def _version(peer: Peer) -> str | None:
    path = _path(peer)
    if path is None:
        return None
    said = subprocess.run([path, *peer.version], capture_output=True, text=True, timeout=20, check=False)
    lines = [line.strip() for line in (said.stdout + said.stderr).splitlines() if any(c.isdigit() for c in line)]
    return lines[0][:70] if lines else "version not said"


@pytest.fixture
def peer_path(request: pytest.FixtureRequest) -> str:
    """Path of the peer that the test's marker names."""
    marker = request.node.get_closest_marker("peer")
    assert marker is not None, "peer_path needs @pytest.mark.peer(name)"
    path = _path(PEERS[marker.args[0]])
    assert path is not None
    return path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a missing peer (never in CI), and watch asynchronous tests for leaked tasks."""
    for item in items:
        for marker in item.iter_markers("peer"):
            peer = PEERS[marker.args[0]]
            if _path(peer) is None and not IN_CI:
                item.add_marker(pytest.mark.skip(reason=f"needs {peer.program}: sudo apt install {peer.package}"))
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(inspect.unwrap(item.function)):
            item.fixturenames.insert(0, "no_leaked_tasks")


@pytest_asyncio.fixture
async def no_leaked_tasks() -> AsyncIterator[None]:
    """An asynchronous test leaves no task behind."""
    yield
    # One turn of the loop: what was cancelled on the way out gets its chance to end.
    await asyncio.sleep(0)
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task() and not task.done()]
    assert not left, f"tasks left behind: {left}"


def _sockets() -> set[str]:
    """Open network sockets of this process. The pair by which an event loop wakes itself is none: it is made inside a
    test and closed after it."""
    found: set[str] = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = str(entry.readlink()).rsplit("/", 1)[-1]
            if target.startswith("socket:") and _family(int(entry.name)) in (socket.AF_INET, socket.AF_INET6):
                found.add(target)
        except OSError:
            continue  # closed meanwhile, or the descriptor of this very listing
    return found


def _family(descriptor: int) -> int:
    with socket.socket(fileno=os.dup(descriptor)) as copy:
        return copy.family


@pytest.fixture(autouse=True)
def no_leaked_sockets_or_threads() -> Iterator[None]:
    """A test closes the network sockets it opened and ends its threads."""
    sockets, threads = _sockets(), set(threading.enumerate())
    yield
    if (left_sockets := _sockets() - sockets) or set(threading.enumerate()) - threads:
        gc.collect()
        patience = time.monotonic() + 1.0  # a client's own thread may still be closing its socket
        while (left_sockets := _sockets() - sockets) and time.monotonic() < patience:
            time.sleep(0.02)
    left = [
        t
        for t in threading.enumerate()
        if t not in threads and not t.name.startswith(("asyncio_", "ThreadPoolExecutor"))
    ]
    for thread in left:
        thread.join(timeout=2)
    assert not [t for t in left if t.is_alive()], f"threads left behind: {left}"
    assert not left_sockets, f"{len(left_sockets)} sockets left behind"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI nothing is skipped and no peer is missing."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    missing = [name for name, peer in PEERS.items() if _path(peer) is None]
    if IN_CI and (missing or (reporter and reporter.stats.get("skipped"))) and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A table of every peer: its version, or the line that installs it."""
    terminalreporter.section("independent peers")
    for name, peer in PEERS.items():
        version = _version(peer)
        terminalreporter.write_line(
            f"{name:15} {version or 'missing; its tests were skipped. sudo apt install ' + peer.package}"
        )
    if IN_CI and terminalreporter.stats.get("skipped"):
        terminalreporter.write_line("CI: skipped tests count as failures", red=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Influxd:
    """Debian's InfluxDB with its files in a folder of the test."""

    def __init__(self, program: str, folder: Path) -> None:
        self._program = program
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._config = folder / "influxdb.conf"
        self._config.write_text(
            f"""
            reporting-disabled = true
            bind-address = "127.0.0.1:{_free_port()}"
            [meta]
              dir = "{folder}/meta"
            [data]
              dir = "{folder}/data"
              wal-dir = "{folder}/wal"
              query-log-enabled = false
            [monitor]
              store-enabled = false
            [http]
              bind-address = "127.0.0.1:{self.port}"
              log-enabled = false
            """
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [self._program, "-config", str(self._config)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while True:
            try:
                with urllib.request.urlopen(f"{self.url}/ping", timeout=5):
                    return
            except (URLError, OSError):
                assert self._process.poll() is None, "influxd ended at its start"
                assert time.monotonic() < deadline, "influxd did not answer within 30 s"
                time.sleep(0.02)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="session")
def new_influxd() -> Callable[[Path], Influxd]:
    """Makes a server that keeps its data in a folder; started by `start`, ended by `kill`."""

    def make(folder: Path) -> Influxd:
        path = _path(PEERS["influxd"])
        assert path is not None
        return Influxd(path, folder)

    return make


@pytest.fixture(scope="module")
def influxd(new_influxd: Callable[[Path], Influxd], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Influxd]:
    """A running InfluxDB 1.6, shared by the tests of a module."""
    server = new_influxd(tmp_path_factory.mktemp("influxd"))
    server.start()
    yield server
    server.kill()
