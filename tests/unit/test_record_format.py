"""The durable log's record: fixed bytes, and every altered byte is found."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from citysense.record_format import Record, RecordDamaged, pack, unpack
from citysense_profiles.reading import ReadingClass


def test_layout_is_length_checksum_offset_class_body() -> None:
    """Written out by hand: others read these bytes."""
    blob = pack(1, ReadingClass.STATE, b"hello")
    assert blob[:4] == (22).to_bytes(4, "big")
    assert blob[8:16] == (1).to_bytes(8, "big")
    assert blob[16:17] == b"\x01"
    assert blob[17:] == b"hello"


def test_checksum_is_crc_32c() -> None:
    """The check value of CRC-32C, "123456789" -> E3069283, through the same library call."""
    import google_crc32c

    assert google_crc32c.value(b"123456789") == 0xE3069283


@given(st.integers(0, 2**63), st.sampled_from(list(ReadingClass)), st.binary(max_size=300))
def test_round_trip(offset: int, cls: ReadingClass, body: bytes) -> None:
    assert unpack(pack(offset, cls, body)) == Record(offset=offset, cls=cls, body=body)


@given(st.binary(max_size=60), st.data())
def test_any_altered_byte_is_found(body: bytes, data: st.DataObject) -> None:
    blob = bytearray(pack(7, ReadingClass.SAFETY, body))
    at = data.draw(st.integers(0, len(blob) - 1))
    blob[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(RecordDamaged):
        unpack(bytes(blob))


@given(st.binary(max_size=60), st.integers(1, 77))
def test_a_torn_record_is_found(body: bytes, lost: int) -> None:
    blob = pack(7, ReadingClass.SAFETY, body)
    with pytest.raises(RecordDamaged):
        unpack(blob[: max(0, len(blob) - lost)])
