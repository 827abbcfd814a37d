"""The Modbus benches themselves, small: they measure what they say, and a missed limit is an exit code."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from citysense.cli import bench_modbus, bench_modbus_line, soak_modbus
from citysense.errors import CitysenseError


def parsed(line: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    for module in (bench_modbus, bench_modbus_line):
        module.add_parser(commands)
    soak_modbus.add_parser(commands.add_parser("soak").add_subparsers())
    return parser.parse_args(line.split())


def test_values_go_from_connections_to_the_spool(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "bench"
    given = parsed(f"modbus --connections 5 --rate 600 --seconds 1 --json --data {folder}")
    code = given.run(given)
    figures = json.loads(capsys.readouterr().out)
    assert figures["polls"] > 5
    assert (figures["not_stored"], figures["failures"]) == (0, 0)
    assert figures["values_per_s"] == pytest.approx(600, rel=0.5)
    assert 0 < figures["us_per_value"] < 10_000
    # Far fewer values than the limit asks for.
    assert code == 1
    assert not figures["kept"]
    assert (folder / "spool.db").stat().st_size > 0
    with pytest.raises(CitysenseError, match="not empty"):
        given.run(given)


def test_the_line_bench_prints_figures_beside_limits(capsys: pytest.CaptureFixture[str]) -> None:
    given = parsed("modbus-line --warp --slaves 12 --period 2 --seconds 30")
    assert given.run(given) == 0
    said = capsys.readouterr().out
    assert "1.10" in said
    assert "dead" in said


def test_the_line_bench_can_miss_its_limit() -> None:
    # More than the line can carry: 60 slaves a second at 1200 baud.
    given = parsed("modbus-line --warp --slaves 60 --period 1 --baud 1200 --seconds 30 --json")
    assert given.run(given) == 1


def test_the_soak_sums_its_runs(capsys: pytest.CaptureFixture[str]) -> None:
    given = parsed("soak modbus --runs 2 --seconds 60 --seed 5 --json")
    assert given.run(given) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["runs"] == 2
    assert figures["values"] > 0
    assert figures["wrong"] == []


@pytest.mark.parametrize(
    "words", ["modbus --connections 0", "modbus-line --slaves 4", "modbus-line --slaves 300", "soak modbus --runs 0"]
)
def test_wrong_use_is_said(words: str) -> None:
    given = parsed(words)
    with pytest.raises(CitysenseError, match="--"):
        given.run(given)
