"""Finding the reply among the bytes of a serial line."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from citysense_gateway.modbus.rtu import Found, Wanted, describe, sift
from citysense_sim.modbus_faults import sealed

ASKED = sealed(bytes.fromhex("07 03 0010 0002"))
WANTED = Wanted(unit=7, function=3, request=ASKED, data=4)
REPLY = sealed(bytes.fromhex("07 03 04 1111 2222"))
REFUSAL = sealed(bytes.fromhex("07 83 02"))
WRITE = sealed(bytes.fromhex("07 06 0010 00ff"))
WRITE_WANTED = Wanted(unit=7, function=6, request=WRITE, data=None)
MANY = sealed(bytes.fromhex("07 10 0010 0002 04 1111 2222"))
MANY_WANTED = Wanted(unit=7, function=16, request=MANY, data=None)


def found(buffer: bytes, wanted: Wanted = WANTED, *, echoing: bool = False) -> tuple[Found, bytes]:
    sifted = sift(buffer, wanted, echoing=echoing)
    return sifted.found, sifted.frame


@pytest.mark.parametrize("reply", [REPLY, REFUSAL])
def test_a_reply_is_found_when_its_last_byte_is_there(reply: bytes) -> None:
    for length in range(len(reply)):
        assert found(reply[:length]) == (Found.NOTHING, b"")
    assert found(reply) == (Found.REPLY, reply)


@pytest.mark.parametrize(
    "before",
    [
        b"\0",
        b"\xff\0\xff",
        sealed(bytes.fromhex("09 03 04 3333 4444")),
        sealed(bytes.fromhex("07 03 02 3333")),
        sealed(bytes.fromhex("07 04 04 3333 4444")),
        b"\x07\x03",
        ASKED,
    ],
    ids=["glitch", "glitches", "late unit", "other length", "other function", "half a head", "echo"],
)
def test_what_comes_before_is_passed_over(before: bytes) -> None:
    assert found(before)[0] is Found.NOTHING
    assert found(before + REPLY) == (Found.REPLY, REPLY)


def test_two_replies_are_none() -> None:
    assert found(REPLY + REPLY)[0] is Found.DAMAGED
    assert found(REPLY + b"\0")[0] is Found.DAMAGED


def test_a_wrong_check_sum_is_damage() -> None:
    for place in range(3, len(REPLY)):
        spoilt = REPLY[:place] + bytes([REPLY[place] ^ 1]) + REPLY[place + 1 :]
        assert found(spoilt)[0] is Found.DAMAGED


def test_a_write_is_confirmed_by_its_own_address_and_value() -> None:
    assert found(WRITE, WRITE_WANTED) == (Found.REPLY, WRITE)
    assert found(sealed(bytes.fromhex("07 06 0010 00fe")), WRITE_WANTED)[0] is Found.NOTHING
    confirmation = sealed(MANY[:6])
    assert found(confirmation, MANY_WANTED) == (Found.REPLY, confirmation)
    assert found(sealed(bytes.fromhex("07 10 0011 0002")), MANY_WANTED)[0] is Found.NOTHING
    assert found(sealed(bytes.fromhex("07 86 03")), WRITE_WANTED)[0] is Found.REPLY


def test_on_a_line_that_echoes_the_echo_of_a_write_confirms_nothing() -> None:
    assert found(WRITE, WRITE_WANTED, echoing=True)[0] is Found.NOTHING
    assert found(WRITE + WRITE, WRITE_WANTED, echoing=True) == (Found.REPLY, WRITE)


def test_a_read_tells_whether_the_line_echoes() -> None:
    assert sift(ASKED + REPLY, WANTED, echoing=False).echoed
    assert not sift(REPLY, WANTED, echoing=True).echoed


@pytest.mark.parametrize(
    ("heard", "said"),
    [
        (b"", ""),
        (ASKED, ""),
        (sealed(bytes.fromhex("09 03 04 3333 4444")), "unit 9 answered instead of 7"),
        (sealed(bytes.fromhex("07 04 04 3333 4444")), "the reply is to function 4, not 3"),
        (sealed(bytes.fromhex("07 03 02 3333")), "the reply has 7 bytes, not 9"),
        (b"abc", "3 bytes came that are no reply"),
    ],
)
def test_what_came_instead_is_said(heard: bytes, said: str) -> None:
    assert describe(heard, WANTED) == said


@settings(max_examples=300)
@given(st.binary(max_size=40), st.integers(0, 2**32))
def test_noise_is_never_a_reply_and_hides_none(noise: bytes, seed: int) -> None:
    """What is called a reply has the unit, function, length and check sum of one."""
    for buffer in (noise, noise + REPLY, noise + random.Random(seed).randbytes(5)):
        sifted = sift(buffer, WANTED, echoing=bool(seed & 1))
        if sifted.found is Found.REPLY:
            assert sifted.frame in (REPLY, REFUSAL) or (
                sifted.frame[0] == 7 and sifted.frame[1] in (0x03, 0x83) and buffer.endswith(sifted.frame)
            )
    if not any(noise[at : at + 1] == b"\x07" for at in range(len(noise))):
        assert found(noise + REPLY) == (Found.REPLY, REPLY)
