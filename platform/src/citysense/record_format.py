"""One record of the durable log as bytes: length, CRC-32C, offset, class, body.

Layout, big endian: u32 length of the whole record | u32 CRC-32C of all that follows | u64 offset | u8 class | body.
The check sum covers the offset, so that a record that turns up in another's place is found as well. Final from the
first release on.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import google_crc32c

from citysense_profiles.reading import ReadingClass

_HEAD = struct.Struct(">IIQB")
_TAIL = struct.Struct(">QB")

CLASS_CODES = {ReadingClass.SAFETY: 0, ReadingClass.STATE: 1, ReadingClass.BULK: 2}
_CLASSES = {code: cls for cls, code in CLASS_CODES.items()}


class RecordDamaged(ValueError):
    """The bytes are not what was written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One entry of a log: its offset, its class, and a body that only its reader understands."""

    offset: int
    cls: ReadingClass
    body: bytes


def pack(offset: int, cls: ReadingClass, body: bytes) -> bytes:
    """Bytes of one record."""
    tail = _TAIL.pack(offset, CLASS_CODES[cls]) + body
    return struct.pack(">II", _HEAD.size + len(body), google_crc32c.value(tail)) + tail


def unpack(blob: bytes) -> Record:
    """The record in `blob`. Raises RecordDamaged when length, check sum or class are wrong, or it is no blob at all."""
    if not isinstance(blob, bytes):
        raise RecordDamaged(f"a value of type {type(blob).__name__} stands in its place")
    if len(blob) < _HEAD.size:
        raise RecordDamaged(f"{len(blob)} bytes are fewer than a record's head of {_HEAD.size}")
    length, checksum, offset, code = _HEAD.unpack_from(blob)
    if length != len(blob):
        raise RecordDamaged(f"length field says {length}, {len(blob)} bytes are here")
    if google_crc32c.value(blob[8:]) != checksum:
        raise RecordDamaged(f"check sum of offset {offset} is wrong")
    if code not in _CLASSES:
        raise RecordDamaged(f"class {code} of offset {offset} is unknown")
    return Record(offset=offset, cls=_CLASSES[code], body=blob[_HEAD.size :])
