"""The kill soak and the latency bench, short: as a user runs them, with what they must find and never how fast they are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CITYSENSE = Path(sys.executable).with_name("citysense")


TOO_EARLY = """
import asyncio, importlib.util, sys

class Finder:
    def find_spec(self, name, path, target=None):
        if name != "citysense_gateway.pipeline":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module
        spec.loader.exec_module = lambda module: (load(module), spoil(module.Pipeline))
        return spec

def spoil(pipeline):
    from citysense_gateway.frame import Kind, Verdict
    honest = pipeline.deliver

    def deliver(self, frame, done, **refusal):
        loop = asyncio.get_running_loop()
        loop.call_soon(done, Verdict(kind=Kind.STORED))
        loop.call_later(0.05, lambda: honest(self, frame, lambda verdict: None, **refusal))

    pipeline.deliver = deliver

sys.meta_path.insert(0, Finder())
"""
"""A gateway that says "stored" 50 ms before it is: started instead of the real one by Python's own start-up hook."""
GATEWAY_TWICE = "3"
"""A seed whose first two victims are gateways."""


def ran(*arguments: str, environment: Mapping[str, str] | None = None) -> tuple[int, dict[str, Any], str]:
    done = subprocess.run(
        [CITYSENSE, *arguments, "--json"],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
        env=dict(os.environ, **(environment or {})),
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout), done.stderr


def test_nothing_acknowledged_is_lost_over_three_kills_under_load() -> None:
    code, found, said = ran("soak", "kill", "--kills", "3", "--points", "none")
    assert code == 0, (found, said)
    assert found["passed"]
    assert found["kills"] == 3
    assert found["unacked_at_kill_min"] >= 50
    assert found["sent"] == found["acked"] == found["stored"] > 500
    assert found["cases"] > 20
    for wrong in ("lost", "altered", "phantom", "doubled_readings", "doubled_cases", "missing_cases", "faults"):
        assert not found[wrong], (wrong, found, said)
    assert f"seed {found['seed']}" in said


def test_a_gateway_that_acknowledges_too_early_is_found_out(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(TOO_EARLY)
    code, found, said = ran(
        "soak",
        "kill",
        "--kills",
        "2",
        "--points",
        "none",
        "--seed",
        GATEWAY_TWICE,
        environment={"PYTHONPATH": str(tmp_path)},
    )
    assert "kill 1 of 2: gateway" in said
    assert code == 1
    assert found["lost"] > 0
    assert not found["passed"]
    assert found["loss_rate_below_95"] is None


def test_every_frame_becomes_a_case_over_both_protocols() -> None:
    code, found, said = ran("bench", "latency", "--cases", "60", "--rate", "100", "--transport", "both")
    assert code == 0, (found, said)
    assert (found["cases"], found["seen"], found["missing"], found["unacknowledged"]) == (60, 60, 0, 0)
    assert 0 < found["latency"]["p50"] <= found["latency"]["p99"] <= found["latency"]["max"]
    assert found["cpu"].keys() == {"platform", "gateway", "sender", "poller"}
    assert found["fsync_before"]["p50"] > 0


def test_a_folder_with_something_in_it_is_not_measured_in(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    done = subprocess.run(
        [CITYSENSE, "bench", "latency", "--data", tmp_path], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "is not empty" in done.stderr
    assert list(tmp_path.iterdir()) == [tmp_path / "precious"]
