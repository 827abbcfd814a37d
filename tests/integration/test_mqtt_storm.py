"""The bench of idle connections at small size: a real gateway, 300 connections, a restart, and all of them are back."""

from __future__ import annotations

from pathlib import Path

import pytest

from citysense.cli.bench_connections import SPARE_FILES, ConnectionsBench, affordable
from citysense.clock import SystemClock
from citysense.errors import SetupError
from citysense_sim.idle_packets import Answer, Incomplete, connect_packet, read_answer


@pytest.mark.parametrize("kill", [False, True], ids=["SIGTERM", "SIGKILL"])
async def test_all_are_back_after_a_restart(tmp_path: Path, kill: bool) -> None:
    said: list[str] = []
    bench = ConnectionsBench(
        tmp_path,
        count=300,
        kill=kill,
        clock=SystemClock(),
        say=said.append,
        spread=0.5,
        settle=0.2,
        manners={"first_wait": 0.3, "longest_wait": 0.5},
    )
    figures = await bench.run(wanted=300)
    assert figures.connections == 300
    assert figures.attempts >= 300
    assert figures.back_s > figures.down_s
    assert figures.rss_with > 0
    assert 0 < figures.back_cpu_s < 60
    assert "no platform takes part" in said[0]


def test_fewer_are_held_where_files_are_short_and_it_is_said() -> None:
    said: list[str] = []
    assert affordable(20_000, 65_536, said.append) == 20_000
    assert affordable(20_000, -1, said.append) == 20_000
    assert said == []
    assert affordable(20_000, 20_000, said.append) == 20_000 - SPARE_FILES
    assert "instead of 20000" in said[0]
    with pytest.raises(SetupError, match="LimitNOFILE"):
        affordable(20_000, 1_024, said.append)


def test_the_fleet_reads_what_a_busy_gateway_says() -> None:
    hint = b"\x26\x00\x0bretry-after\x00\x027\x35"
    reason = b"\x1f\x00\x04busy"
    connack = bytes([0x20, 3 + len(reason + hint), 0, 0x9F, len(reason + hint)]) + reason + hint
    assert read_answer(connack + b"rest", 5) == (Answer(refused=True, retry_after=75.0), b"rest")
    for cut in range(2, len(connack)):
        with pytest.raises(Incomplete):
            read_answer(connack[:cut], 5)
    assert read_answer(b"\x20\x06\x00\x00\x03\x13\x00\x3c", 5)[0] == Answer(keep_alive=60)
    assert read_answer(b"\x20\x02\x00\x00", 4)[0] == Answer()
    assert read_answer(b"\x20\x02\x00\x03", 4)[0].refused
    assert read_answer(b"\xd0\x00\x20", 4) == (Answer(), b"\x20")


def test_a_connect_is_what_the_specifications_say() -> None:
    assert connect_packet(4, "d", "pw", 300) == bytes.fromhex(
        "10 14 0004 4d515454 04 c2 012c 0001 64 0001 64 0002 7077"
    )
    assert connect_packet(5, "d", "pw", 300) == bytes.fromhex(
        "10 15 0004 4d515454 05 c2 012c 00 0001 64 0001 64 0002 7077"
    )
