"""Single values of a document: from what stands in JSON or CBOR to a raw code, and back.

Owns the types of `JsonField`. Bytes are raw codes as upper-case hex digits, however they travel. Knows nothing of
pointers or of what a value means.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from citysense_profiles.errors import RefusedError
from citysense_profiles.values.conversion import Raw, portable

Coding = Literal["hex", "base64", "base64url"]
LONGEST_NUMBER = 40
"""Characters of a number that travels as text."""

_INT_TEXT = re.compile(r"[+-]?\d+", re.ASCII)
_NUMBER_TEXT = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d{1,3})?", re.ASCII)
LEAST = -(2**63)
MOST = 2**64 - 1
"""Integers of 64 bits, with and without sign."""


class ShapeError(ValueError):
    """Another type than the field has, or not the structure that the profile describes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """How a type travels: `check` takes what stands there to the raw code, `store` takes it back.

    `check` raises ShapeError; `store` raises RefusedError.
    """

    raw: Raw
    check: Callable[[Any], Any]
    store: Callable[[Any], Any]


def carried(kind: str, *, cbor: bool = False) -> Carried:
    """The type of that name. In CBOR, hex is a byte string (its text is read as well)."""
    return _IN_CBOR.get(kind, _TYPES[kind]) if cbor else _TYPES[kind]


def to_bytes(found: Any, coding: Coding) -> bytes:
    """The bytes inside a string. Raises ShapeError."""
    if type(found) is bytes:
        return found
    if type(found) is not str:
        raise ShapeError(f"{short(found)} is not a string")
    return bytes.fromhex(_hex(found)) if coding == "hex" else _from_base64(found)


def from_bytes(frame: bytes, coding: Coding, *, cbor: bool = False) -> str | bytes:
    """The string that carries the bytes; base64 is padded, base64url is not. In CBOR, hex is a byte string."""
    if coding == "hex":
        return frame if cbor else frame.hex().upper()
    if coding == "base64":
        return base64.b64encode(frame).decode("ascii")
    return base64.urlsafe_b64encode(frame).decode("ascii").rstrip("=")


def short(found: Any) -> str:
    """What was found, for a sentence."""
    if type(found) in (dict, list):
        return "an object" if type(found) is dict else "a list"
    text = repr(found[:40]) if type(found) in (str, bytes) else repr(found)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _int(found: Any) -> int:
    if type(found) is not int or not LEAST <= found <= MOST:
        raise ShapeError(f"{short(found)} is not an integer of 64 bits")
    return found


def _number(found: Any) -> int | float:
    if type(found) is float:
        return found
    if type(found) is not int:
        raise ShapeError(f"{short(found)} is not a number")
    return _int(found)


def _bool(found: Any) -> bool:
    if type(found) is not bool:
        raise ShapeError(f"{short(found)} is not true or false")
    return found


def _text(found: Any) -> str:
    if type(found) is not str:
        raise ShapeError(f"{short(found)} is not a string")
    return found


def _int_text(found: Any) -> int:
    text = _text(found)
    if len(text) > LONGEST_NUMBER or not _INT_TEXT.fullmatch(text):
        raise ShapeError(f"{short(found)} is not a whole number in a string")
    return _int(int(text))


def _number_text(found: Any) -> int | float:
    text = _text(found)
    if len(text) > LONGEST_NUMBER or not _NUMBER_TEXT.fullmatch(text):
        raise ShapeError(f"{short(found)} is not a number in a string")
    return _int(int(text)) if _INT_TEXT.fullmatch(text) else float(text)


def _any_number(found: Any) -> int | float:
    return _number_text(found) if type(found) is str else _number(found)


def _hex(found: Any) -> str:
    try:
        return bytes.fromhex(_text(found)).hex().upper()
    except ValueError as error:
        raise ShapeError(f"{short(found)} is not hex digits") from error


def _from_base64(text: str) -> bytes:
    # Senders use both alphabets and pad or do not pad: accept all four.
    bare = text.rstrip("=").replace("+", "-").replace("/", "_")
    try:
        return base64.b64decode(bare + "=" * (-len(bare) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise ShapeError(f"{short(text)} is not base64") from error


def _base64(found: Any) -> str:
    return _from_base64(_text(found)).hex().upper()


def _hex_or_bytes(found: Any) -> str:
    return found.hex().upper() if type(found) is bytes else _hex(found)


def _stored_bytes(code: Any) -> bytes:
    try:
        return bytes.fromhex(code)
    except (TypeError, ValueError):
        raise RefusedError(f"{code!r} is not hex digits") from None


def _stored_as(coding: Coding, *, cbor: bool = False) -> Callable[[Any], Any]:
    return lambda code: from_bytes(_stored_bytes(code), coding, cbor=cbor)


def _stored_text(code: Any) -> str:
    return str(portable(code))


_TYPES: dict[str, Carried] = {
    "int": Carried(raw="int", check=_int, store=portable),
    "number": Carried(raw="number", check=_number, store=portable),
    "bool": Carried(raw="bool", check=_bool, store=portable),
    "text": Carried(raw="text", check=_text, store=portable),
    "hex": Carried(raw="text", check=_hex, store=_stored_as("hex")),
    "base64": Carried(raw="text", check=_base64, store=_stored_as("base64")),
    "base64url": Carried(raw="text", check=_base64, store=_stored_as("base64url")),
    "int_text": Carried(raw="int", check=_int_text, store=_stored_text),
    "number_text": Carried(raw="number", check=_number_text, store=_stored_text),
    "any_number": Carried(raw="number", check=_any_number, store=portable),
}
_IN_CBOR: dict[str, Carried] = {
    "hex": Carried(raw="text", check=_hex_or_bytes, store=_stored_as("hex", cbor=True)),
}
