"""What the fault proxies decide: pure, from a seed."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from citysense_sim.fault_proxy import Course, Fault, Piece, Weather, choose, pass_on
from citysense_sim.fault_proxy_udp import Fates, Radio, fates


def test_calm_weather_leaves_every_connection_whole() -> None:
    chance = random.Random(1)
    assert {choose(Weather(), chance) for _ in range(100)} == {Course()}


def test_the_same_seed_gives_the_same_courses() -> None:
    weather = Weather(cut=0.3, reset=0.3, answer_lost=0.2)
    courses = [[choose(weather, random.Random(seed)) for _ in range(3)] for seed in (7, 7, 8)]
    assert courses[0] == courses[1] != courses[2]


def test_faults_come_as_often_as_their_chances_say() -> None:
    chance = random.Random(3)
    weather = Weather(refuse=0.1, reset=0.1, cut=0.2, swallow=0.1, corrupt=0.1, answer_lost=0.2)
    seen = Counter(choose(weather, chance).fault for _ in range(10_000))
    for fault, share in weather.chances():
        assert abs(seen[fault] / 10_000 - share) < 0.02, fault
    assert abs(seen[Fault.NONE] / 10_000 - 0.2) < 0.02


def test_a_fault_strikes_within_its_bytes_and_never_before_the_first() -> None:
    chance = random.Random(4)
    after = {choose(Weather(cut=1, within=5), chance).after for _ in range(500)}
    assert after == {1, 2, 3, 4, 5}
    assert {choose(Weather(answer_lost=1, answers=3), chance).after for _ in range(500)} == {0, 1, 2}


@pytest.mark.parametrize("weather", [Weather(cut=0.7, reset=0.7), Weather(cut=-0.1)])
def test_chances_that_are_none_are_refused(weather: Weather) -> None:
    with pytest.raises(ValueError, match="chance of"):
        choose(weather, random.Random(5))


@pytest.mark.parametrize("fault", [Fault.CUT, Fault.RESET, Fault.SWALLOW])
def test_a_connection_breaks_at_its_byte(fault: Fault) -> None:
    course = Course(fault=fault, after=10)
    assert pass_on(course, 0, 0, b"123456789", down=False) == Piece(data=b"123456789")
    assert pass_on(course, 9, 0, b"abc", down=True) == Piece(data=b"a", struck=fault)
    assert pass_on(course, 12, 0, b"def", down=False) == Piece(data=b"", struck=fault)


def test_one_byte_is_turned_over_and_only_once() -> None:
    course = Course(fault=Fault.CORRUPT, after=3)
    assert pass_on(course, 0, 0, b"\x00\x01\x02\x03", down=False) == Piece(
        data=b"\x00\x01\xfd\x03", struck=Fault.CORRUPT
    )
    assert pass_on(course, 4, 0, b"\x04", down=False) == Piece(data=b"\x04")


def test_an_answer_is_lost_and_a_question_or_a_refusal_never() -> None:
    course = Course(fault=Fault.ANSWER_LOST, after=1)
    done, question = b"HTTP/1.1 204 No Content\r\n\r\n", b"POST /x HTTP/1.1\r\n\r\n"
    assert pass_on(course, 0, 0, done, down=True) == Piece(data=done)
    assert pass_on(course, 0, 1, question, down=False) == Piece(data=question)
    refused = b"HTTP/1.1 503 Service Unavailable\r\n\r\n"
    assert pass_on(course, 0, 1, refused, down=True) == Piece(data=refused)
    assert pass_on(course, 0, 1, done, down=True) == Piece(data=b"", struck=Fault.ANSWER_LOST)


def test_a_calm_radio_passes_each_datagram_once_and_at_once() -> None:
    assert fates(Radio(), 12, random.Random(6), down=False) == Fates()


def test_datagrams_suffer_as_often_as_the_chances_say() -> None:
    chance = random.Random(7)
    radio = Radio(drop=0.1, duplicate=0.3, reorder=0.3, corrupt=0.05, rebind=0.02, hold_s=0.5)
    decided = [fates(radio, 40, chance, down=False) for _ in range(20_000)]
    dropped = sum(not fate.delays for fate in decided)
    assert abs(dropped / 20_000 - 0.1) < 0.01
    assert abs(sum(len(fate.delays) == 2 for fate in decided) / (20_000 - dropped) - 0.3) < 0.02
    assert abs(sum("reorder" in fate.named for fate in decided) / (20_000 - dropped) - 0.3) < 0.02
    assert abs(sum(fate.rebound for fate in decided) / 20_000 - 0.02) < 0.005
    assert all(0 <= delay < 0.5 for fate in decided for delay in fate.delays)
    spoiled = [fate.spoiled for fate in decided if fate.spoiled is not None]
    assert abs(len(spoiled) / (20_000 - dropped) - 0.05) < 0.01
    assert set(spoiled) <= set(range(40))


def test_an_answer_rebinds_nobody() -> None:
    chance = random.Random(8)
    assert not any(fates(Radio(rebind=1), 4, chance, down=True).rebound for _ in range(10))
