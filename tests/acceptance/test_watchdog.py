"""A process of which a loop hangs or ends does so by itself and says which, and one that was only stopped goes on."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from citysense.progress import HUNG
from citysense_gateway.folder_lock import holder_of

PATIENCE_S = 30
PROGRAM = """
import asyncio, signal, sys, threading, time
from citysense import progress
from citysense_gateway import app
from citysense_gateway.gateway import Gateway

# The product's limit is 10 s; the test has not so much time for each hang.
app.Progress = lambda clock: progress.Progress(clock, limit=1.0)
app.Watchdog = lambda watched: progress.Watchdog(watched, every=0.1)


def block(gateway):
    time.sleep(300)


def deadlock(gateway):
    asyncio.ensure_future(gateway._spool.log.tidy(lambda connection: threading.Event().wait()))


def hang(gateway):
    gateway._mailbox.tend = asyncio.Event().wait


def raise_in_callback(gateway):
    raise LookupError("made for this test")


def raise_in_loop(gateway):
    def broken(now):
        raise LookupError("made for this test")
    gateway._ledger.look = broken


def raise_in_writer(gateway):
    def broken(connection):
        raise RuntimeError("made for this test")
    asyncio.ensure_future(gateway._spool.log.tidy(broken))


serve = Gateway.serve


async def with_fault(gateway, stop):
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, globals()[fault], gateway)
    await serve(gateway, stop)


Gateway.serve = with_fault
fault, arguments = sys.argv[1], sys.argv[2:]
sys.exit(app.main(arguments))
"""


PLATFORM = """
import asyncio, sys
from citysense import progress
from citysense_platform import app
from citysense_platform.rules.runner import RulesRunner
from citysense_platform.store.writer import StoreWriter

app.Progress = lambda clock: progress.Progress(clock, limit=1.0)
app.Watchdog = lambda watched: progress.Watchdog(watched, every=0.1)


async def hangs(part):
    await asyncio.Event().wait()


async def ends(part):
    return


if sys.argv[1] == "hang":
    RulesRunner.judge_batches = hangs
else:
    StoreWriter.run = ends
sys.exit(app.main(sys.argv[2:]))
"""


class Victim:
    """A gateway with a fault that SIGUSR1 sets free."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path) -> None:
        self.process = process
        self.folder = folder
        self.said: list[str] = []

    async def until(self, true: Callable[[str], bool]) -> None:
        """Read what it says up to such a line, or to its end."""
        assert self.process.stderr is not None
        async with asyncio.timeout(PATIENCE_S):
            async for line in self.process.stderr:
                self.said.append(line.decode().rstrip())
                if true(self.said[-1]):
                    return

    async def ended(self) -> int:
        """Its exit code, and all that it said."""
        await self.until(lambda line: False)
        return await asyncio.wait_for(self.process.wait(), PATIENCE_S)

    async def commits(self) -> int:
        """How often it has committed so far, as it says itself."""
        holder = holder_of(self.folder)
        assert holder is not None
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{holder.status_port}/metrics") as answer:
                text = await answer.text()
        line = next(line for line in text.splitlines() if line.startswith("citysense_gateway_commit_seconds_count"))
        return int(float(line.split()[-1]))


@asynccontextmanager
async def victim(folder: Path, fault: str) -> AsyncIterator[Victim]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, fault, "--data", str(folder), "--platform", "http://127.0.0.1:9"),
        *("--mqtt-port", "0", "--coap-port", "0"),
        env=dict(os.environ),
        stderr=asyncio.subprocess.PIPE,
    )
    made = Victim(process, folder)
    try:
        await made.until(lambda line: "gateway ready" in line)
        assert process.returncode is None, made.said
        yield made
    finally:
        if process.returncode is None:
            process.kill()
            await made.ended()


@pytest.mark.parametrize(
    ("fault", "loop", "where"),
    [("block", "event loop", "in block"), ("deadlock", "spool", "in wait"), ("hang", "mailbox", "in _run")],
)
async def test_a_hang_ends_the_process_with_its_name_and_place(
    tmp_path: Path, fault: str, loop: str, where: str
) -> None:
    async with victim(tmp_path, fault) as gateway:
        gateway.process.send_signal(signal.SIGUSR1)
        assert await gateway.ended() == HUNG
    assert gateway.said[-1].startswith("no progress in ")
    assert f"{loop} (" in gateway.said[-1]
    # What hangs takes others along; a writer that hangs must not look like a loop that does.
    assert fault == "block" or "event loop" not in gateway.said[-1]
    assert any(line.endswith(where) for line in gateway.said), gateway.said


@pytest.mark.parametrize("fault", ["raise_in_loop", "raise_in_writer"])
async def test_a_defect_in_a_loop_or_the_writer_ends_the_process(tmp_path: Path, fault: str) -> None:
    async with victim(tmp_path, fault) as gateway:
        gateway.process.send_signal(signal.SIGUSR1)
        assert await gateway.ended() == HUNG
    assert any("made for this test" in line or "fault of its own" in line for line in gateway.said)


async def test_a_callback_that_raises_is_told_and_survived_and_so_is_a_stop_from_outside(tmp_path: Path) -> None:
    async with victim(tmp_path, "raise_in_callback") as gateway:
        gateway.process.send_signal(signal.SIGUSR1)
        await gateway.until(lambda line: "made for this test" in line)
        before = await gateway.commits()
        gateway.process.send_signal(signal.SIGSTOP)
        # Longer than the limit, as the gateway's own clock sees it when it goes on.
        await asyncio.sleep(2.5)
        gateway.process.send_signal(signal.SIGCONT)
        async with asyncio.timeout(PATIENCE_S):
            while await gateway.commits() < before + 3:
                await asyncio.sleep(0.1)
        gateway.process.send_signal(signal.SIGTERM)
        assert await gateway.ended() == 0
    assert not any("no progress" in line for line in gateway.said)
    assert json.loads(next(line for line in gateway.said if "made for this test" in line))["level"] == "error"


@pytest.mark.parametrize(
    ("fault", "words"),
    [("hang", "no progress in "), ("end", "store ended by itself; the process starts anew")],
)
async def test_a_platform_with_a_part_that_hangs_or_ends_is_to_be_started_again(
    tmp_path: Path, fault: str, words: str
) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PLATFORM, fault, "--data", str(tmp_path), "--api-port", "0"),
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE_S):
        _, said = await process.communicate()
    # 1 would be a fault of the set-up, which a new start does not mend.
    assert process.returncode == HUNG, said
    assert said.decode().splitlines()[-1].startswith(words)
    assert (b"rules (" in said) == (fault == "hang")
