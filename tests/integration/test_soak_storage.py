"""`citysense soak outage` and `citysense soak power`: at a small size they pass, and they can fail."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from citysense.cli.main import main
from citysense.cli.outage_course import MB, Load, Measured, Outage
from citysense.cli.soak_outage import figures_of, resident
from citysense.clock import SystemClock

LOAD = Load(hours=0.6, devices=400, period_s=60.0, live=200)
BOUND = 2


async def test_an_hour_without_a_platform_is_accounted_for_to_the_last_reading(tmp_path: Path) -> None:
    measured = await Outage(tmp_path, LOAD, bound=BOUND * MB, wall=SystemClock(), rss=resident).run(lambda _: None)
    assert measured.frames == 14_400
    assert measured.entombed > 1_000, "the spool was too small for it"
    assert (measured.unexplained, measured.duplicates, measured.disordered, measured.left) == (0, 0, 0, 0)
    assert measured.file < 2 * BOUND * MB
    assert measured.wal <= 256 * MB


async def test_a_loss_that_nobody_tells_of_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*_: object, **__: object) -> None:
        """Evicted, and no tombstone."""

    monkeypatch.setattr("citysense.eviction.lane_account.entomb", silent)
    load = dataclasses.replace(LOAD, hours=0.3)
    measured = await Outage(tmp_path, load, bound=MB, wall=SystemClock(), rss=resident).run(lambda _: None)
    assert measured.unexplained > 1_000
    assert not figures_of(measured, load, 1)["passed"]


GOOD = Measured(frames=100, delivered=90, entombed=10, backlog=1_000, drain_s=0.1, delays=[0.1] * 200, outage_s=1.0)


@pytest.mark.parametrize(
    "fault",
    [
        {"delivered": 89},
        {"delivered": 91},
        {"duplicates": 1},
        {"disordered": 1},
        {"left": 1},
        {"rss": 301 * MB},
        {"wal": 257 * MB},
        {"drain_s": 10.0},
        {"delays": [0.1] * 190 + [2.1] * 10},
    ],
    ids=lambda fault: next(iter(fault)),
)
def test_every_limit_can_be_missed(fault: dict[str, object]) -> None:
    assert figures_of(GOOD, LOAD, BOUND)["passed"]
    assert not figures_of(dataclasses.replace(GOOD, **fault), LOAD, BOUND)["passed"]  # type: ignore[arg-type]


@pytest.mark.peer("strace")
@pytest.mark.parametrize(("synchronous", "code"), [("FULL", 0), ("NORMAL", 1)])
def test_the_power_soak_tells_good_from_bad(
    synchronous: str,
    code: int,
    capsys: pytest.CaptureFixture[str],
    peer_path: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert peer_path
    monkeypatch.setattr("citysense.cli.soak_power.ROUNDS", 60)
    words = ["soak", "power", "--images", "15", "--flips", "5", "--seed", "1", "--json"]
    assert main([*words, "--synchronous", synchronous]) == code
    figures = json.loads(capsys.readouterr().out)
    assert (figures["power_cuts"], figures["flipped_bytes"], figures["passed"]) == (15, 5, code == 0)
    assert (figures["lost_after_cuts"] > 0) == bool(code)


@pytest.mark.parametrize(
    "words", [["outage", "--hours", "0"], ["power", "--images", "-1"], ["power", "--flips", "some"]]
)
def test_numbers_that_make_no_sense_are_told(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["soak", *words]) == 2
    assert words[1] in capsys.readouterr().err
