"""The decode bench compares like with like, and its search keeps what is slow."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest

from citysense.cli import bench_decode, slowest_input
from citysense.cli.decode_references import by_hand
from citysense.cli.main import main
from citysense.cli.slowest_input import SIZE, Found, mutated, search, slowest
from citysense_profiles import Decoded, load_catalogue, load_vocabulary
from citysense_profiles.checking.profile_check import check_profile
from citysense_profiles.compiler import parse_profile

REFERENCES = Path(by_hand.__file__).parent


@pytest.mark.parametrize("name", ["binary", "json", "registers"])
def test_the_profiles_of_the_bench_are_true_to_their_examples(name: str) -> None:
    path = REFERENCES / f"{name}.yaml"
    report = check_profile(parse_profile(path.read_text(), path.name, load_vocabulary()))
    assert [fault for fault in report.faults if "must be refused" not in fault] == []


@pytest.mark.parametrize("name", ["binary", "json", "registers"])
def test_profile_and_hand_written_code_give_the_same(name: str) -> None:
    decode, reference, frames = bench_decode._pair(name)
    assert len(frames) == bench_decode.FRAMES
    found = [decode(frame) for frame in frames]
    assert found == [reference(frame) for frame in frames]
    assert len({str(one) for one in found}) > bench_decode.FRAMES // 2


def test_a_difference_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_hand, "binary", lambda payload: Decoded(message="report", samples=()))
    assert not bench_decode.measure("binary").identical


def test_the_command_prints_its_figures(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_decode, "load_time", lambda: 0.2)
    assert main(["bench", "decode", "--search", "0.05", "--seed", "3", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert [one["format"] for one in figures["ratios"]] == ["binary", "json", "registers"]
    assert all(one["identical"] and one["ratio"] > 0 for one in figures["ratios"])
    assert figures["profiles"] == len(load_catalogue())
    assert figures["slowest"][0]["cpu_ms"] >= figures["slowest"][1]["cpu_ms"] > 0


class _Clock:
    """CPU time that hardly passes by itself; the decoder below makes it pass."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


def test_the_search_finds_what_costs_most() -> None:
    clock = _Clock()

    class Costly:
        id = "acme/slow"
        messages = ("report",)
        vectors = ()

        def is_sent(self, message: str) -> bool:
            return True

        def decode(self, payload: bytes, **_: object) -> None:
            clock.now += payload.count(7)

    patched = pytest.MonkeyPatch()
    patched.setattr(slowest_input, "_drawn", lambda *_: iter(()))
    try:
        found = search([Costly()], seconds=40_000, rng=Random(5), cpu=clock)  # type: ignore[list-item]
    finally:
        patched.undo()
    assert [one.seconds for one in found] == sorted((one.seconds for one in found), reverse=True)
    # Noise holds four sevens in a kilobyte; the search multiplies them.
    assert found[0].payload.count(7) > 40


def test_one_message_does_not_crowd_out_the_others() -> None:
    found = [
        Found(profile=p, message="m", content=None, payload=b"", seconds=s, outcome="shape")
        for p, s in [("a", 5.0), ("a", 4.0), ("a", 3.0), ("b", 2.0)]
    ]
    assert [(one.profile, one.seconds) for one in slowest(found)] == [("a", 5.0), ("a", 4.0), ("b", 2.0)]


def test_mutants_stay_within_a_kilobyte() -> None:
    rng = Random(1)
    payload = b"\x01\x75\x5c" * 300
    for _ in range(500):
        payload = mutated(payload, b"{}" * 400, rng)
        assert 1 <= len(payload) <= SIZE
