"""The kinds of number and text that bytes can hold.

Owns what a `type:` of a binary field means: its struct format, how the unpacked object becomes a raw code, and how a
raw code becomes bytes. Knows nothing of metrics, messages or where the bytes stand.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from math import nan
from typing import Any

from citysense_profiles.codecs.frames.texts import SIZED, sized_text
from citysense_profiles.errors import RefusedError
from citysense_profiles.format.binary import BinaryField, ByteOrder
from citysense_profiles.values.conversion import Raw

_NATIVE_INT = {8: "B", 16: "H", 32: "I", 64: "Q"}
_INTS = frozenset(f"{sign}{bits}" for sign in "ui" for bits in range(8, 65, 8))
_FLOATS = {"f16": ("e", 2), "f32": ("f", 4), "f64": ("d", 8)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One object of a struct, always of the same size.

    `load` turns the unpacked object into the raw code (None: it is the code), `store` a raw code into its bytes; both
    raise RefusedError. `lowest` and `highest` bound whole numbers.
    """

    format: str
    size: int
    raw: Raw
    load: Callable[[Any], Any] | None
    store: Callable[[Any], bytes]
    lowest: int = 0
    highest: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Loose:
    """A value whose length stands elsewhere. `load` takes all its bytes, `store` gives as many as the value needs."""

    raw: Raw
    load: Callable[[bytes], Any]
    store: Callable[[Any], bytes]


def compile_slot(field: BinaryField, message_order: ByteOrder) -> Slot:
    """The slot of a field in a struct of `message_order`. Raises ValueError with a sentence for the author."""
    order = field.byte_order or message_order
    kind = field.type or ""
    if kind in SIZED:
        if field.word_order is not None:
            raise ValueError("word_order is for numbers")
        if not isinstance(field.length, int):
            raise ValueError(f"type {kind} needs a length in bytes")
        return _text(kind, field.length, _order_of(kind, field, message_order))
    if field.length is not None:
        raise ValueError(f"type {kind} has its own length; remove length")
    if kind == "cp56":
        return _text(kind, 7, order)
    swapped = _low_first(field, order) != (order == "little")
    if kind in _FLOATS:
        return _float(kind, order, message_order, swapped)
    if kind in _INTS:
        return _integer(int(kind[1:]), kind[0] == "i", order, message_order, swapped)
    raise ValueError(
        f"type {kind!r} is not known; use u8 to u64, i8 to i64, f16, f32, f64, cp56, {', '.join(sorted(SIZED))}"
    )


def compile_loose(field: BinaryField, message_order: ByteOrder) -> Loose:
    """A text or BCD number whose length is "end" or another field's. Raises ValueError with a sentence."""
    kind = field.type or ""
    if kind not in SIZED:
        raise ValueError(f"type {kind} has its own length; remove length")
    if field.word_order is not None:
        raise ValueError("word_order is for numbers")
    raw, load, store = sized_text(kind, None, _order_of(kind, field, message_order))
    return Loose(raw=raw, load=load, store=store)


def _order_of(kind: str, field: BinaryField, message_order: ByteOrder) -> ByteOrder:
    """BCD stands with the high digits first, whatever the message's order, unless the field itself says otherwise."""
    return field.byte_order or ("big" if kind in ("bcd", "signed_bcd") else message_order)


def _low_first(field: BinaryField, order: ByteOrder) -> bool:
    """Whether the low word comes first; by itself it goes with the bytes."""
    if field.word_order is None:
        return order == "little"
    bits = (field.type or "")[1:]
    if not bits.isdecimal() or int(bits) < 32 or int(bits) % 16:
        raise ValueError("word_order is for numbers of several 16-bit words")
    return field.word_order == "low_first"


def _swap(data: bytes) -> bytes:
    return b"".join(data[at : at + 2] for at in range(len(data) - 2, -1, -2))


def _integer(bits: int, signed: bool, order: ByteOrder, run_order: ByteOrder, swapped: bool) -> Slot:
    size = bits // 8
    lowest, highest = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)

    def store(code: Any) -> bytes:
        if not lowest <= code <= highest:
            raise RefusedError(f"raw {code} does not fit {size} byte{'s' if size > 1 else ''} ({lowest} to {highest})")
        data: bytes = code.to_bytes(size, order, signed=signed)
        return _swap(data) if swapped else data

    letter = _NATIVE_INT.get(bits)
    if letter and not swapped and (order == run_order or size == 1):
        letter = letter.lower() if signed else letter
        return Slot(format=letter, size=size, raw="int", load=None, store=store, lowest=lowest, highest=highest)

    def load(data: bytes) -> int:
        return int.from_bytes(_swap(data) if swapped else data, order, signed=signed)

    return Slot(format=f"{size}s", size=size, raw="int", load=load, store=store, lowest=lowest, highest=highest)


def _float(kind: str, order: ByteOrder, run_order: ByteOrder, swapped: bool) -> Slot:
    letter, size = _FLOATS[kind]
    inner = struct.Struct((">" if order == "big" else "<") + letter)

    def store(code: Any) -> bytes:
        try:
            # There is one mark, whatever sign the profile's NaN has come to have.
            data = inner.pack(code if code == code else nan)
        except (OverflowError, struct.error):  # struct.error: an int that no double can hold
            raise RefusedError(f"{code!r} does not fit {kind}") from None
        return _swap(data) if swapped else data

    if order == run_order and not swapped:
        return Slot(format=letter, size=size, raw="float", load=None, store=store)
    return Slot(
        format=f"{size}s",
        size=size,
        raw="float",
        load=lambda data: inner.unpack(_swap(data) if swapped else data)[0],
        store=store,
    )


def _text(kind: str, length: int, order: ByteOrder) -> Slot:
    raw, load, store = sized_text(kind, length, order)
    return Slot(format=f"{length}s", size=length, raw=raw, load=load, store=store)
