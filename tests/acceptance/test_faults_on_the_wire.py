"""Bad networks on both sides of the gateway and bad neighbours at its doors, each once: what was promised is there, once.

`citysense soak faults` does the same for hours. Times are bounded far above their limits, which the soak prints them beside.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from citysense.cli.faults_course import ALL_EPISODES
from citysense.cli.soak_faults import FaultSoak
from citysense.clock import SystemClock

SCALE = 0.3
"""Of the lengths of the soak's episodes."""
HAPPENED = (
    "coap: duplicate up",
    "coap: reorder up",
    "coap: duplicate down",
    "coap: reorder down",
    "coap: drop down",
    "mqtt: reset",
    "uplink: swallow",
    "uplink: reset",
    "uplink: answer_lost",
    "neighbours: silent",
    "neighbours: slow",
    "neighbours: restless",
    "neighbours: noise",
    "neighbours: flood",
)


@pytest.mark.timeout(240)
async def test_every_fault_once_under_load(tmp_path: Path) -> None:
    said: list[str] = []
    report = await FaultSoak(tmp_path, seconds=0, seed=4, clock=SystemClock(), scale=SCALE).run(said.append)
    figures = report.figures()
    assert report.kept, (figures, said)
    assert sorted(one.name for one in report.episodes) == sorted(ALL_EPISODES)
    assert [name for name in HAPPENED if not report.done.get(name)] == []
    assert report.findings.sent >= 2_000
    assert report.findings.stored == report.findings.sent
    assert report.bad_sent >= 100
    assert 0 < report.live_again_s < 30, said
    assert 0 < report.neighbours_p99_s < 10, said
