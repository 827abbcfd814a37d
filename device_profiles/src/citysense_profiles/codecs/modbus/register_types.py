"""What the words of a register field hold: numbers, BCD and text, both ways.

Owns the register types and the order of words and bytes. Knows nothing of tables, addresses or metrics: bytes in order
of significance go in, a raw code comes out. Compiled once, no state.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from math import nan
from typing import Any

from citysense_profiles.codecs.frames.texts import sized_text
from citysense_profiles.errors import RefusedError
from citysense_profiles.format.registers import ModbusField, RegisterType
from citysense_profiles.values.conversion import Raw

_NUMBERS: dict[RegisterType, tuple[str, Raw]] = {
    "bit": ("H", "int"),
    "u16": ("H", "int"),
    "i16": ("h", "int"),
    "u32": ("I", "int"),
    "i32": ("i", "int"),
    "u64": ("Q", "int"),
    "i64": ("q", "int"),
    "f16": ("e", "float"),
    "f32": ("f", "float"),
    "f64": ("d", "float"),
}
_LETTERS = {"ascii": 1, "utf16": 2}
_Read = Callable[[bytes], Any]
_Write = Callable[[Any], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterSlot:
    """One field's words. `format` is its place in a big-endian struct over all words, highest word first.

    `load` turns the unpacked object into the raw code and `store` the code into the object; None: they are the same.
    `load` may give None, "no value". Both raise RefusedError. `numeric`: the words are one number, so that the map's
    word order concerns them.
    """

    words: int
    format: str
    raw: Raw
    numeric: bool
    can_be_missing: bool = False
    load: Callable[[Any], Any] | None = None
    store: Callable[[Any], Any] | None = None

    def read(self, words: tuple[int, ...] | list[int]) -> Any:
        """The raw code in these words, highest first. Raises RefusedError."""
        try:
            (found,) = struct.unpack(f">{self.format}", struct.pack(f">{len(words)}H", *words))
        except struct.error:
            raise RefusedError(f"{words!r} are not words of 16 bits") from None
        return self.load(found) if self.load is not None else found

    def write(self, code: Any) -> tuple[int, ...]:
        """The words that hold a raw code, highest first. Raises RefusedError."""
        if code != code:
            code = nan  # whatever sign the mark came with
        stored = self.store(code) if self.store is not None else code
        try:
            data = struct.pack(f">{self.format}", stored)
        except (struct.error, OverflowError):
            raise RefusedError(f"raw {code} does not fit {2 * self.words} bytes") from None
        return struct.unpack(f">{self.words}H", data)


def compile_slot(field: ModbusField) -> RegisterSlot:
    """The slot of a field, without its word order, which belongs to the addresses."""
    swapped = field.byte_order == "little"
    if field.type == "bit":
        return RegisterSlot(words=1, format="H", raw="int", numeric=True, load=_bit, store=_bit)
    if field.type in _NUMBERS:
        letter, raw = _NUMBERS[field.type]
        number = struct.Struct(f">{letter}")
        slot = RegisterSlot(words=number.size // 2, format=letter, raw=raw, numeric=True)
        return _with_swapped_bytes(slot, number) if swapped else slot
    return _sized(field.type, field.count or 1, swapped=swapped)


def _bit(word: Any) -> int:
    if word not in (0, 1):
        raise RefusedError(f"{word!r} is not a bit")
    return int(word)


def _with_swapped_bytes(slot: RegisterSlot, number: struct.Struct) -> RegisterSlot:
    def store(code: Any) -> bytes:
        try:
            return _swap(number.pack(code))
        except (struct.error, OverflowError):
            raise RefusedError(f"raw {code} does not fit {number.size} bytes") from None

    return RegisterSlot(
        words=slot.words,
        format=f"{number.size}s",
        raw=slot.raw,
        numeric=True,
        load=lambda data: number.unpack(_swap(data))[0],
        store=store,
    )


def _swap(data: bytes) -> bytes:
    """Low and high byte of each register change places."""
    swapped = bytearray(len(data))
    swapped[::2], swapped[1::2] = data[1::2], data[::2]
    return bytes(swapped)


def _sized(kind: RegisterType, count: int, *, swapped: bool) -> RegisterSlot:
    """Text, or BCD, in `count` registers."""
    raw, read, write = sized_text(kind, 2 * count, "big")
    if kind == "bcd":
        read, write = _or_missing(read, write, 2 * count)
    elif kind in _LETTERS:
        read, write = _without_padding(read, write, _LETTERS[kind])
    return RegisterSlot(
        words=count,
        format=f"{2 * count}s",
        raw=raw,
        numeric=kind == "bcd",
        can_be_missing=kind == "bcd",
        load=(lambda data: read(_swap(data))) if swapped else read,
        store=(lambda code: _swap(write(code))) if swapped else write,
    )


def _or_missing(read: _Read, write: _Write, size: int) -> tuple[_Read, _Write]:
    """BCD of nothing but F is "no value"."""
    mark = b"\xff" * size
    return (
        lambda data: None if data == mark else read(data),
        lambda code: mark if code is None else write(code),
    )


def _without_padding(read: _Read, write: _Write, letter: int) -> tuple[_Read, _Write]:
    """Text padded with NUL or spaces; `letter` is the size of one."""
    padding = (b"\0".rjust(letter, b"\0"), b" ".rjust(letter, b"\0"))

    def cut(data: bytes) -> Any:
        end = len(data)
        while data[end - letter : end] in padding:
            end -= letter
        return read(data[:end])

    def pad(text: Any) -> bytes:
        if text != text.rstrip("\0 "):
            raise RefusedError(f"{text!r} ends with a space, which reading would cut off")
        return write(text)

    return cut, pad
