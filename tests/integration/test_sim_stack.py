"""A stack of one's own: started, killed, revived, and watched for deaths that nobody ordered."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from citysense.cli.stack import Died, Stack, cpu_of
from citysense.clock import SystemClock
from citysense.errors import SetupError


async def test_a_stack_is_killed_and_revived_and_stops_cleanly(tmp_path: Path) -> None:
    stack = Stack(tmp_path / "data", clock=SystemClock())
    try:
        await stack.start()
        assert stack.alive("platform")
        assert stack.alive("gateway")
        used = stack.cpu_seconds()
        assert used.keys() == {"platform", "gateway"}
        assert all(seconds > 0 for seconds in used.values())

        stack.kill("gateway")
        assert await stack.revive("gateway") > 0
        assert stack.unexpected_deaths() == []

        process = stack._processes["gateway"]
        os.kill(process.pid, signal.SIGKILL)
        await process.wait()
        assert stack.unexpected_deaths() == [Died(name="gateway", code=-signal.SIGKILL)]
    finally:
        await stack.stop()
    assert not stack.alive("platform")
    assert stack._processes["platform"].returncode == 0, stack.last_words("platform")


async def test_a_child_that_cannot_start_says_why(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text("schema: 1\nrules: {water-level: {kind: ladder}}\n")
    stack = Stack(tmp_path / "data", clock=SystemClock(), rules=rules)
    try:
        with pytest.raises(SetupError, match=r"platform ended with code 1 before it was ready: .*rules\.yaml"):
            await stack.start()
    finally:
        await stack.stop()


async def test_an_armed_crash_point_kills_its_process(tmp_path: Path) -> None:
    stack = Stack(tmp_path / "data", clock=SystemClock())
    try:
        await stack.start()
        stack.kill("platform")
        # Ticks alone take it there: one a second goes into the log.
        await stack.revive("platform", crash_at="ingest.after_commit")
        assert await stack.dead("platform", 20)
        await stack.revive("platform")
        assert stack.unexpected_deaths() == []
    finally:
        await stack.stop()


def test_cpu_of_this_process_grows_and_of_none_is_zero() -> None:
    before = cpu_of(os.getpid())
    while cpu_of(os.getpid()) == before:
        sum(range(100_000))
    assert cpu_of(2**22 + 1) == 0.0


async def test_stopping_what_was_never_started_is_no_error(tmp_path: Path) -> None:
    await Stack(tmp_path / "data", clock=SystemClock()).stop()
    await asyncio.sleep(0)
