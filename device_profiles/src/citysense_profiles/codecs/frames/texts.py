"""Bytes that are read digit by digit or letter by letter: BCD, hex, ASCII, UTF-16, dotted numbers, CP56 times.

Owns both ways of each kind. A length of None stands for one that is written elsewhere: then a value takes as many bytes
as it needs. What could not be written back is refused, not mended.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from citysense_profiles.errors import RefusedError
from citysense_profiles.format.binary import ByteOrder
from citysense_profiles.values.conversion import Raw

SIZED = frozenset({"bcd", "signed_bcd", "digits", "hex", "ascii", "utf16", "dotted"})
"""The kinds that need a length."""
MOST_BCD_DIGITS = 20
"""What 64 bits hold; more digits that are not leading zeros are refused before they become a number."""

_CP56 = re.compile(r"20(\d\d)-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)\.(\d{3})", re.ASCII)
_BYTE = re.compile(r"0|[1-9][0-9]{0,2}", re.ASCII)

Both = tuple[Raw, Callable[[bytes], Any], Callable[[Any], bytes]]


def sized_text(kind: str, length: int | None, order: ByteOrder) -> Both:
    """Raw type, reader and writer of a kind. Raises ValueError with a sentence for the author."""
    if kind == "cp56":
        return "text", _cp56, _to_cp56
    if kind == "bcd":
        if order == "little":
            return "int", lambda data: _bcd(data[::-1]), lambda code: _to_bcd(code, length)[::-1]
        return "int", _bcd, lambda code: _to_bcd(code, length)
    if kind == "signed_bcd":
        if order == "little":
            return "int", lambda data: _signed_bcd(data[::-1]), lambda code: _to_signed_bcd(code, length)[::-1]
        return "int", _signed_bcd, lambda code: _to_signed_bcd(code, length)
    if kind == "utf16":
        if length is not None and length % 2:
            raise ValueError("utf16 has two bytes for each letter; the length is odd")
        coding = "utf-16-be" if order == "big" else "utf-16-le"
        return "text", lambda data: _letters(data, coding), lambda text: _to_letters(text, coding, length)
    if kind == "ascii":
        return "text", lambda data: _letters(data, "ascii"), lambda text: _to_letters(text, "ascii", length)
    read, write = {"digits": (_digits, _to_digits), "hex": (_hex, _to_hex), "dotted": (_dotted, _to_dotted)}[kind]
    return "text", read, lambda text: _exactly(write(text), text, length)


def _exactly(data: bytes, text: str, length: int | None) -> bytes:
    if length is not None and len(data) != length:
        raise RefusedError(f"{text!r} makes {len(data)} bytes, the field has {length}")
    return data


def _digits(data: bytes) -> str:
    text = data.hex()
    if data and not text.isdecimal():
        raise RefusedError(f"{text} is not BCD")
    return text


def _to_digits(text: str) -> bytes:
    if not (text.isascii() and text.isdecimal()) or len(text) % 2:
        raise RefusedError(f"{text!r} is not pairs of decimal digits")
    return bytes.fromhex(text)


def _bcd(data: bytes) -> int:
    text = _digits(data).lstrip("0")
    if len(text) > MOST_BCD_DIGITS:
        raise RefusedError(f"{text[:MOST_BCD_DIGITS]}… has more than {MOST_BCD_DIGITS} digits")
    return int(text or "0")


def _to_bcd(code: int, length: int | None) -> bytes:
    digits = str(code)
    width = 2 * length if length is not None else len(digits) + len(digits) % 2
    if code < 0 or len(digits) > width:
        raise RefusedError(f"{code} does not fit {width} decimal digits")
    return bytes.fromhex(digits.zfill(width))


def _signed_bcd(data: bytes) -> int:
    text = data.hex()
    if text[:1] not in ("0", "8", "f"):
        raise RefusedError(f"{text} begins with no sign (0, 8 or f)")
    size = _bcd(bytes.fromhex("0" + text[1:]))
    return size if text[:1] == "0" else -size


def _to_signed_bcd(code: int, length: int | None) -> bytes:
    digits = str(abs(code))
    width = 2 * length - 1 if length is not None else len(digits) + 1 - len(digits) % 2
    if len(digits) > width:
        raise RefusedError(f"{code} does not fit a sign and {width} decimal digits")
    return bytes.fromhex(("8" if code < 0 else "0") + digits.zfill(width))


def _hex(data: bytes) -> str:
    return data.hex().upper()


def _to_hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise RefusedError(f"{text!r} is not pairs of hex digits") from None


def _dotted(data: bytes) -> str:
    return ".".join(map(str, data))


def _to_dotted(text: str) -> bytes:
    parts = text.split(".") if text else []
    if not all(_BYTE.fullmatch(part) and int(part) <= 255 for part in parts):
        raise RefusedError(f"{text!r} is not numbers up to 255 with dots between")
    return bytes(map(int, parts))


def _letters(data: bytes, coding: str) -> str:
    try:
        text = data.decode(coding).rstrip("\0")
    except UnicodeDecodeError:
        raise RefusedError(f"{data.hex()} is not {coding.upper()}") from None
    if not text.isprintable():
        raise RefusedError(f"{data.hex()} is not printable {coding.upper()}")
    return text


def _to_letters(text: str, coding: str, length: int | None) -> bytes:
    try:
        data = text.encode(coding)
    except UnicodeEncodeError:
        raise RefusedError(f"{text!r} cannot be written in {coding.upper()}") from None
    if not text.isprintable():
        raise RefusedError(f"{text!r} is not printable")
    if length is None:
        return data
    if len(data) > length:
        raise RefusedError(f"{text!r} makes {len(data)} bytes, the field has {length}")
    return data.ljust(length, b"\0")


def _cp56(data: bytes) -> str:
    """The digits as they stand; whether they make a date is the business of whoever needs one.

    The bits for summer time and day of the week say nothing that the rest does not.
    """
    thousandths = data[0] | data[1] << 8
    minute, hour, day, month, year = data[2] & 0x3F, data[3] & 0x1F, data[4] & 0x1F, data[5] & 0x0F, data[6] & 0x7F
    if data[2] & 0x80:
        raise RefusedError(f"{data.hex()} is marked as an invalid time")
    if year > 99:
        raise RefusedError(f"{data.hex()} has the year {year}, of two digits")
    second, rest = divmod(thousandths, 1000)
    return f"20{year:02}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{rest:03}"


def _to_cp56(text: str) -> bytes:
    match = _CP56.fullmatch(text)
    if match is None:
        raise RefusedError(f"{text!r} is not a local time of this century, such as 2026-11-20T21:13:24.000")
    year, month, day, hour, minute, second, rest = map(int, match.groups())
    thousandths = second * 1000 + rest
    if month > 15 or day > 31 or hour > 31 or minute > 63 or thousandths > 0xFFFF:
        raise RefusedError(f"{text!r} is not a time")
    return thousandths.to_bytes(2, "little") + bytes((minute, hour, day, month, year))
