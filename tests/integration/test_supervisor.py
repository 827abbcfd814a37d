"""The supervisor: a killed child comes back, a clean stop is clean, and nobody outlives the supervisor."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from citysense.cli.supervisor import RESTART_SECONDS, Program, Supervisor, wait_before_restart
from citysense.clock import SystemClock


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.02)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Makes an importable module of a few lines and gives its name."""

    def make(body: str) -> str:
        name = f"child_{abs(hash(body))}"
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(body))
        return name

    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return make


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


SLEEPER = """
    import signal, sys, time
    signal.signal(signal.SIGTERM, lambda *_: (print("bye", file=sys.stderr), sys.exit(0)))
    print("ready", file=sys.stderr, flush=True)
    time.sleep(600)
"""


async def test_a_killed_child_is_started_again_and_a_stop_is_clean(
    tmp_path: Path, module: Callable[[str], str]
) -> None:
    supervisor = Supervisor(
        [Program(name="sleeper", module=module(SLEEPER), arguments=[])], logs=tmp_path / "logs", clock=SystemClock()
    )
    supervisor.start()
    child = supervisor.children["sleeper"]
    try:
        await until(lambda: "ready" in child.last_lines)
        assert child.process is not None
        first = child.process.pid
        os.kill(first, signal.SIGKILL)
        await until(
            lambda: child.process is not None and child.process.pid != first and child.last_lines.count("ready") == 2
        )
        assert child.restarts == 1
        assert not child.failed.is_set(), "a kill is no fault of the set-up"
    finally:
        await supervisor.stop()
    assert not alive(child.process.pid)
    assert child.last_lines[-1] == "bye"
    assert "ready" in (tmp_path / "logs" / "sleeper.log").read_text()


async def test_logs_are_for_their_owner_only(
    tmp_path: Path, module: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the umask is, in a folder that is open to others, beside a file that is, and after a change of files."""
    monkeypatch.setattr("citysense.cli.supervisor.LOG_BYTES", 6)
    logs = tmp_path / "logs"
    logs.mkdir(mode=0o755)
    (logs / "sleeper.log").touch(mode=0o644)
    supervisor = Supervisor(
        [Program(name="sleeper", module=module(SLEEPER), arguments=[])], logs=logs, clock=SystemClock()
    )
    before = os.umask(0)
    try:
        supervisor.start()
        await until(lambda: "ready" in supervisor.children["sleeper"].last_lines)
    finally:
        await supervisor.stop()
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (logs, *logs.iterdir())}
    assert modes.pop("logs") == 0o700
    assert len(modes) > 1
    assert set(modes.values()) == {0o600}, modes


async def test_each_child_gets_its_own_secrets_and_no_other_s(
    tmp_path: Path, module: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CITYSENSE_BROKER_PASSWORD", "CITYSENSE_BROKER_PROBES", "CITYSENSE_INFLUX_TOKEN"):
        monkeypatch.setenv(name, "of the operator")
    monkeypatch.setenv("CITYSENSE_API_PORT", "8080")
    body = """
        import os, sys, time
        print(sorted(k for k in os.environ if k.startswith("CITYSENSE_")), file=sys.stderr, flush=True)
        time.sleep(600)
    """
    name = module(body)
    token = {"CITYSENSE_INFLUX_TOKEN": "its own"}
    programs = [
        Program(name="platform", module=name, arguments=[], environment=token),
        Program(name="simulator", module=name, arguments=[]),
    ]
    supervisor = Supervisor(programs, logs=tmp_path / "logs", clock=SystemClock())
    supervisor.start()
    try:
        await until(lambda: all(child.last_lines for child in supervisor.children.values()))
        said = {name: child.last_lines[0] for name, child in supervisor.children.items()}
    finally:
        await supervisor.stop()
    assert said == {
        "platform": "['CITYSENSE_API_PORT', 'CITYSENSE_INFLUX_TOKEN', 'CITYSENSE_SUPERVISOR_PID']",
        "simulator": "['CITYSENSE_API_PORT', 'CITYSENSE_SUPERVISOR_PID']",
    }


class QuickYears:
    """A clock on which every look is a minute later: children seem to have lived long."""

    def __init__(self) -> None:
        self._now = 0.0

    def now_ms(self) -> int:
        return int(self._now * 1000)

    def monotonic(self) -> float:
        self._now += 60.0
        return self._now


async def test_a_steady_child_comes_back_at_once_after_every_kill(
    tmp_path: Path, module: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    def note(in_a_row: int) -> float:
        waits.append(wait_before_restart(in_a_row))
        return 0.0

    monkeypatch.setattr("citysense.cli.supervisor.wait_before_restart", note)
    program = Program(name="sleeper", module=module(SLEEPER), arguments=[])
    supervisor = Supervisor([program], logs=tmp_path / "logs", clock=QuickYears())
    supervisor.start()
    child = supervisor.children["sleeper"]
    try:
        for kills in (1, 2, 3):
            await until(lambda n=kills: child.last_lines.count("ready") == n)  # type: ignore[misc]
            assert child.process is not None
            os.kill(child.process.pid, signal.SIGKILL)
            await until(lambda n=kills: len(waits) == n)  # type: ignore[misc]
    finally:
        await supervisor.stop()
    assert waits == [RESTART_SECONDS[0]] * 3


def test_a_crash_loop_waits_longer_and_longer() -> None:
    assert [wait_before_restart(n) for n in range(1, 8)] == [*RESTART_SECONDS, RESTART_SECONDS[-1], RESTART_SECONDS[-1]]


async def test_a_child_that_cannot_start_says_so(tmp_path: Path, module: Callable[[str], str]) -> None:
    body = 'import sys\nprint("no rules here", file=sys.stderr)\nsys.exit(1)\n'
    supervisor = Supervisor(
        [Program(name="broken", module=module(body), arguments=[])], logs=tmp_path / "logs", clock=SystemClock()
    )
    supervisor.start()
    child = supervisor.children["broken"]
    try:
        await until(child.failed.is_set)
        assert "no rules here" in child.last_lines
    finally:
        await supervisor.stop()


def test_nobody_outlives_a_killed_supervisor(tmp_path: Path, module: Callable[[str], str]) -> None:
    child = module(
        """
        import os, sys, time
        from pathlib import Path
        from citysense.parent import end_with_parent
        end_with_parent(os.environ)
        Path(sys.argv[1]).write_text(str(os.getpid()))
        time.sleep(600)
        """
    )
    parent = f"""
import asyncio
from pathlib import Path
from citysense.cli.supervisor import Program, Supervisor
from citysense.clock import SystemClock

async def main():
    program = Program(name="child", module={child!r}, arguments=[{str(tmp_path / "pid")!r}])
    Supervisor([program], logs=Path({str(tmp_path / "logs")!r}), clock=SystemClock()).start()
    await asyncio.sleep(600)

asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", parent]) as process:
        pid_file = tmp_path / "pid"
        for _ in range(600):
            if pid_file.exists() and pid_file.read_text():
                break
            subprocess.run(["sleep", "0.05"], check=True)
        pid = int(pid_file.read_text())
        assert alive(pid)
        process.kill()
        process.wait()
    for _ in range(200):
        if not alive(pid):
            return
        subprocess.run(["sleep", "0.05"], check=True)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("the child outlived its supervisor")


async def test_a_full_disk_does_not_take_the_supervisor_down(tmp_path: Path, module: Callable[[str], str]) -> None:
    """Its log lines go to /dev/full, where every write ends with "No space left on device"."""
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "sleeper.log").symlink_to("/dev/full")
    supervisor = Supervisor(
        [Program(name="sleeper", module=module(SLEEPER), arguments=[])], logs=logs, clock=SystemClock()
    )
    supervisor.start()
    child = supervisor.children["sleeper"]
    await until(lambda: "ready" in child.last_lines)
    await supervisor.stop()
    assert child.last_lines[-1] == "bye"
