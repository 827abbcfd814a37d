"""Frames of the catalogue that are told by their looks, and the parts of the format that their layouts need."""

from __future__ import annotations

import pytest

from citysense_profiles.catalogue import OWN_CATALOGUE, load_profile
from citysense_profiles.codecs.frames.texts import sized_text
from citysense_profiles.errors import EncodeError, RefusedError
from citysense_profiles.format.binary import When
from citysense_profiles.profile import Profile


def _profile(name: str) -> Profile:
    return load_profile(OWN_CATALOGUE / f"{name}.yaml", OWN_CATALOGUE)


def _crc(data: bytes) -> bytes:
    crc = 0xFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ 0xA001 if crc & 1 else crc >> 1
    return crc.to_bytes(2, "big")


STATION = bytes.fromhex("00a1b2c3d4")
STAMP = bytes.fromhex("ffff261120224500")


def _up(function: int, body: bytes, *, start: int = 0x02, end: int = 0x03) -> bytes:
    head = b"\x7e\x7e\x05" + STATION + b"\x12\x34" + bytes([function])
    frame = head + len(body).to_bytes(2, "big") + bytes([start]) + body + bytes([end])
    return frame + _crc(frame)


def _down(function: int, body: bytes, end: int) -> bytes:
    head = b"\x7e\x7e" + STATION + b"\x05\x12\x34" + bytes([function])
    frame = head + (0x8000 | len(body)).to_bytes(2, "big") + b"\x02" + body + bytes([end])
    return frame + _crc(frame)


SL651 = _profile("sl651/terminal")


@pytest.mark.parametrize("function", [0x36, 0x40, 0x41, 0x45, 0x4B, 0x51])
def test_every_function_of_a_terminal_is_some_message(function: int) -> None:
    named = SL651.decode_fields(_up(function, STAMP + b"\xf1\xf1" + STATION + b"\x01\x10\xab\x12"))
    assert (named.message, named.values["station"], named.values["serial"]) == ("other", "00A1B2C3D4", 65535)


@pytest.mark.parametrize("function", [0x32, 0x34, 0x36])
def test_long_reports_come_in_packets_as_pictures_do(function: int) -> None:
    named = SL651.decode_fields(_up(function, b"\x00\xa0\x02\xff\xd8", start=0x16, end=0x17))
    assert named.message == "packet"
    assert (named.values["packets"], named.values["packet_number"], named.values["data"]) == (10, 2, "FFD8")


@pytest.mark.parametrize("function", [0x2F, 0x30, 0x32, 0x36, 0x37, 0x40, 0x46, 0x49, 0x4A])
@pytest.mark.parametrize(("end", "word"), [(0x05, "enq"), (0x06, "ack"), (0x04, "eot"), (0x15, "nak"), (0x1B, "esc")])
def test_what_the_centre_sends_is_told_by_its_direction(function: int, end: int, word: str) -> None:
    named = SL651.decode_fields(_down(function, STAMP + b"\xaa", end))
    assert (named.message, named.values["station"], named.values["centre"]) == ("answer", "00A1B2C3D4", 5)
    assert (named.values["end"], named.values["data"]) == (word, "AA")


@pytest.mark.parametrize("name", ["dragino/ps-nb", "dragino/ps-nb-old"])
def test_a_probe_that_is_no_level_probe_gives_no_level(name: str) -> None:
    profile = _profile(name)
    vector = next(one for one in profile.vectors if "measures no level" in one.name)
    assert vector.samples is not None
    level = {"depth": 5.0, "probe_range": 10}
    values = {key: value for key, value in (vector.values or {}).items() if not key.startswith("log.") and key != "idc"}
    with pytest.raises(EncodeError, match="only if probe_kind is 0"):
        profile.encode_fields("report", values | level)
    with pytest.raises(EncodeError, match="only if probe_kind is not 0"):
        profile.encode_fields("report", values | level | {"probe_kind": 0, "idc": 4.0})
    frame = profile.encode_fields("report", values | level | {"probe_kind": 0})
    readings = profile.decode(frame).samples[0].values
    assert readings["water.level"] == 500.0


@pytest.mark.parametrize(("top", "level"), [(0x02, 2.345678), (0x82, -2.345678), (0xF2, -2.345678)])
def test_a_level_below_the_datum_is_negative(top: int, level: float) -> None:
    read = sized_text("signed_bcd", 4, "little")[1]
    assert read(bytes([0x78, 0x56, 0x34, top])) == round(level * 1_000_000)


@pytest.mark.parametrize("order", ["big", "little"])
@pytest.mark.parametrize("code", [0, 1, -1, 9_999_999, -9_999_999, -100])
def test_signed_bcd_comes_back(code: int, order: str) -> None:
    _, read, write = sized_text("signed_bcd", 4, "little" if order == "little" else "big")
    assert read(write(code)) == code
    assert len(write(code)) == 4


def test_signed_bcd_has_one_digit_less() -> None:
    _, read, write = sized_text("signed_bcd", 2, "big")
    assert write(-999) == b"\x89\x99"
    with pytest.raises(RefusedError, match="does not fit a sign and 3"):
        write(1000)
    with pytest.raises(RefusedError, match="no sign"):
        read(b"\x12\x34")


@pytest.mark.parametrize("asked", [{}, {"equals": 1, "differs": 2}])
def test_a_condition_asks_one_question(asked: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="either equals or differs"):
        When.model_validate({"field": "kind", **asked})


@pytest.mark.parametrize("offset", ["Z", "+00:00", "+0000", "-0000"])
def test_a_reader_of_tags_may_leave_the_colon_out(offset: str) -> None:
    text = f'{{"type":"SIMPLE","timestamp":"2026-11-20T22:00:00.500{offset}","data":{{"idHex":"E2801160"}}}}'
    assert _profile("zebra/fx9600").decode(text.encode()).samples[0].time == 1795212000500
