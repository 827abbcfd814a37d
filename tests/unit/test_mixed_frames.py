"""What the bad neighbours of the simulator put on the wire is what it claims to be."""

from __future__ import annotations

import pytest
from aiocoap import Message

from citysense_profiles import DecodeError
from citysense_profiles.catalogue import load_catalogue
from citysense_sim.hostile_neighbours import unfinished_block
from citysense_sim.mixed_frames import damaged

GAUGE = load_catalogue()["generic/water-gauge"]


@pytest.mark.parametrize("content", [None, 60])
@pytest.mark.parametrize("value", [0.0, 0.5, 12.345, 600.0])
@pytest.mark.parametrize("number", range(6))
def test_a_damaged_frame_cannot_be_read(content: int | None, value: float, number: int) -> None:
    whole = GAUGE.encode("report", {"water.level": value}, content=content, time=1_795_190_934_423, boot=1, seq=7)
    assert GAUGE.decode(whole, message="report", content=content).samples[0].values == {"water.level": value}
    with pytest.raises(DecodeError):
        GAUGE.decode(damaged(whole, number), message="report", content=content)


def test_frames_that_differ_are_different_when_damaged() -> None:
    whole = [
        GAUGE.encode("report", {"water.level": 0.5}, time=1_795_190_934_423 + at, boot=1, seq=at) for at in range(9)
    ]
    assert len({damaged(frame, number) for frame in whole for number in range(3)}) == 27


def test_an_unfinished_transfer_is_a_proper_first_block() -> None:
    message = Message.decode(unfinished_block(4711))
    assert (message.mid, message.opt.uri_path) == (4711, ("v1", "neighbour", "report"))
    assert message.opt.content_format == 50
    assert message.opt.block1 == (0, True, 2)
    assert len(message.payload) == 64
