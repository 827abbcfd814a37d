"""EPCs by example and at random: the published codes, what is no sound code, and both ways."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from citysense_profiles.codecs.contract import Finish, Place
from citysense_profiles.codecs.documents.epc import EpcCodec, with_check_digit
from citysense_profiles.codecs.field import Outgoing, by_name
from citysense_profiles.errors import DecodeError, EncodeError
from citysense_profiles.format.profile_file import EpcMessage
from citysense_profiles.vocabulary import load_vocabulary

FINISH = Finish(event="tag.seen", event_metrics=frozenset(), derivations=())
CODEC = EpcCodec(
    Place("acme/reader", "seen"), FINISH, EpcMessage.model_validate({"codec": {"type": "epc"}}), load_vocabulary()
)
SGTIN_96 = bytes.fromhex("3074257bf7194e4000001a85")
SGTIN_198 = bytes.fromhex("3674257bf6b7a659b2c2bf1000000000000000000000000000")


def _named(payload: bytes) -> dict[str, Any]:
    return dict(CODEC.decode_fields(payload, None, {}).values)


def _encoded(values: dict[str, Any]) -> bytes:
    return CODEC.encode_fields(values, None, {})


def test_the_published_sgtin_96() -> None:
    assert _named(SGTIN_96) == {
        "scheme": "sgtin-96",
        "filter": 3,
        "partition": 5,
        "company_prefix": "0614141",
        "item_reference": "812345",
        "serial": 6789,
        "uri": "urn:epc:tag:sgtin-96:3.0614141.812345.6789",
        "gtin14": "80614141123458",
        "epc": "3074257BF7194E4000001A85",
    }


def test_the_published_sgtin_198() -> None:
    named = _named(SGTIN_198)
    assert (named["company_prefix"], named["item_reference"], named["serial"]) == ("0614141", "712345", "32a/b")
    assert named["uri"] == "urn:epc:tag:sgtin-198:3.0614141.712345.32a%2Fb"
    assert _named(SGTIN_198 + b"\0") == named | {"epc": named["epc"] + "00"}


@pytest.mark.parametrize("payload", [SGTIN_96, SGTIN_198])
def test_the_parts_alone_make_the_code(payload: bytes) -> None:
    named = _named(payload)
    parts = {name: named[name] for name in ("filter", "company_prefix", "item_reference", "serial")}
    assert _encoded(parts) == _encoded(named) == payload


def test_the_tag_is_the_hex_text_and_comes_back_from_it() -> None:
    (sample,) = CODEC.decode(SGTIN_96, None, {}).samples
    assert (sample.tag, sample.event, sample.values) == ("3074257BF7194E4000001A85", "tag.seen", {})
    assert _encoded(by_name(Outgoing(values={}, tag=sample.tag), CODEC.fields)) == SGTIN_96


def test_what_names_the_tag_is_personal() -> None:
    assert {field.name for field in CODEC.fields if field.entry.personal} == {"serial", "uri", "epc"}


@pytest.mark.parametrize(
    "payload",
    [
        b"\x00",
        b"A0000123",
        SGTIN_96[:-1],
        SGTIN_96 + b"\0",
        SGTIN_198[:-1],
        SGTIN_198 + b"\0\0",
        bytes.fromhex("331400000000000000000000"),  # GRAI-96
        bytes([0x30, 0x74 | 0x1C]) + SGTIN_96[2:],  # partition 7
        bytes.fromhex("3077FFFFFFFFFFFFC0001A85"),  # a company prefix and an item reference of too many digits
        SGTIN_198[:-1] + b"\x01",  # bits where only zeros fill up
        SGTIN_198[:16] + b"\x40" + SGTIN_198[17:],  # a character after the end of the serial
        SGTIN_198[:7] + b"\x80" + bytes(17),  # no serial
    ],
)
def test_anything_else_keeps_its_digits(payload: bytes) -> None:
    assert _named(payload) == {"scheme": "unknown", "epc": payload.hex().upper()}
    assert _encoded(_named(payload)) == payload


def test_only_nothing_is_refused() -> None:
    assert not CODEC.fits(b"", None)
    for decode in (CODEC.decode, CODEC.decode_fields):
        with pytest.raises(DecodeError) as caught:
            decode(b"", None, {})
        assert caught.value.code == "truncated"


@pytest.mark.parametrize(
    ("digits", "whole"),
    [("8061414112345", "80614141123458"), ("0001234567890", "00012345678905"), ("0000000000000", "00000000000000")],
)
def test_check_digits(digits: str, whole: str) -> None:
    assert with_check_digit(digits) == whole


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"serial": None}, "serial needed"),
        ({"serial": -1}, "38 bits"),
        ({"serial": 1 << 38}, "38 bits"),
        ({"serial": ""}, "1 to 20"),
        ({"serial": "a" * 21}, "1 to 20"),
        ({"serial": "a b"}, "1 to 20"),
        ({"serial": True}, "1 to 20"),
        ({"filter": 8}, "0 to 7"),
        ({"filter": True}, "0 to 7"),
        ({"company_prefix": "12345"}, "6 to 12 digits"),
        ({"company_prefix": "061414"}, "together 13"),
        ({"company_prefix": 614141}, "text of digits"),
        ({"item_reference": "81234٥"}, "text of digits"),
        ({"partition": 4}, "which is 5"),
        ({"scheme": "sgtin-198"}, "which is 'sgtin-96'"),
        ({"gtin14": "80614141123459"}, "which is '80614141123458'"),
        ({"epc": "30"}, "which is 'unknown'"),
        ({"epc": "XY"}, "not hex"),
        ({"epc": ""}, "not hex"),
    ],
)
def test_what_cannot_be_written(change: dict[str, Any], said: str) -> None:
    values = {"scheme": "sgtin-96", "filter": 3, "company_prefix": "0614141", "item_reference": "812345", "serial": 1}
    with pytest.raises(EncodeError, match=said):
        _encoded(values | change)


@given(st.binary(min_size=1, max_size=40) | st.binary(min_size=11, max_size=11).map(lambda rest: b"\x30" + rest))
def test_any_bytes_lead_back(payload: bytes) -> None:
    assert _encoded(_named(payload)) == payload
    assert CODEC.decode(payload, None, {}).samples[0].tag == _named(payload)["epc"]


@given(
    st.integers(0, 6),
    st.integers(0, 10**13 - 1).map("{:013}".format),
    st.integers(0, 7),
    st.integers(0, (1 << 38) - 1) | st.text("!\"%&'()*+,-./0189:;<=>?AZ_az", min_size=1, max_size=20),
)
def test_every_sgtin_comes_back(partition: int, digits: str, which: int, serial: int | str) -> None:
    values = {
        "filter": which,
        "company_prefix": digits[: 12 - partition],
        "item_reference": digits[12 - partition :],
        "serial": serial,
    }
    named = _named(_encoded(values))
    assert {name: named[name] for name in values} == values
    assert named["partition"] == partition
    assert with_check_digit(named["gtin14"][:13]) == named["gtin14"]
