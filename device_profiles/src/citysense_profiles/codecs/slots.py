"""The kinds of number and text that fixed bytes can hold.

Owns what a `type:` of a binary field means: its struct format, how the unpacked object becomes a raw code, and the
range that may be written. Knows nothing of metrics or messages.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from citysense_profiles.conversion import Raw, RefusedError
from citysense_profiles.model import BinaryField

_NATIVE_INT = {8: "B", 16: "H", 32: "I", 64: "Q"}
_INT_BITS = frozenset({8, 16, 24, 32, 40, 48, 56, 64})
_SIZED_BY_LENGTH: dict[str, Raw] = {"bcd": "int", "digits": "text", "hex": "text", "ascii": "text"}

Order = Literal["big", "little"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One object of a struct. `load` turns it into the raw code, `store` the raw code into it; None: it is the code."""

    format: str
    size: int
    raw: Raw
    load: Callable[[Any], Any] | None = None
    store: Callable[[Any], Any] | None = None
    lowest: int = 0
    highest: int = 0

    def check(self, code: Any) -> Any:
        """The code itself, if the bytes can hold it. Raises RefusedError."""
        if self.raw == "int" and not self.lowest <= code <= self.highest:
            raise RefusedError(f"raw {code} does not fit {self.size} bytes ({self.lowest} to {self.highest})")
        return code


def compile_slot(field: BinaryField, message_order: Order, layout_order: Order) -> Slot:
    """The slot of a field. `layout_order` is what the surrounding struct uses. Raises ValueError for the author."""
    order = field.byte_order or message_order
    kind = field.type or ""
    if kind in _SIZED_BY_LENGTH:
        if field.length is None:
            raise ValueError(f"type {kind} needs a length in bytes")
        return _sized(kind, field.length)
    if field.length is not None:
        raise ValueError(f"type {kind} has its own length; remove length")
    if kind in ("f32", "f64"):
        return _float(kind, order, layout_order)
    if kind[:1] in ("u", "i") and kind[1:].isdigit() and int(kind[1:]) in _INT_BITS:
        return _integer(int(kind[1:]), kind[0] == "i", order, layout_order)
    raise ValueError(f"type {kind!r} is not known; use u8 to u64, i8 to i64, f32, f64, bcd, digits, hex or ascii")


def _integer(bits: int, signed: bool, order: Order, layout_order: Order) -> Slot:
    size = bits // 8
    lowest, highest = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    letter = _NATIVE_INT.get(bits)
    if letter and (order == layout_order or size == 1):
        letter = letter.lower() if signed else letter
        return Slot(format=letter, size=size, raw="int", lowest=lowest, highest=highest)
    return Slot(
        format=f"{size}s",
        size=size,
        raw="int",
        load=lambda data: int.from_bytes(data, order, signed=signed),
        store=lambda code: code.to_bytes(size, order, signed=signed),
        lowest=lowest,
        highest=highest,
    )


def _float(kind: str, order: Order, layout_order: Order) -> Slot:
    letter, size = ("f", 4) if kind == "f32" else ("d", 8)
    inner = struct.Struct((">" if order == "big" else "<") + letter)

    def store(code: float) -> bytes:
        try:
            return inner.pack(code)
        except OverflowError:
            raise RefusedError(f"{code!r} does not fit {kind}") from None

    if order == layout_order:
        # Storing goes through the inner struct all the same: it is what notices a number that is too large.
        return Slot(format=letter, size=size, raw="float", store=lambda code: inner.unpack(store(code))[0])
    return Slot(format=f"{size}s", size=size, raw="float", load=lambda data: inner.unpack(data)[0], store=store)


def _sized(kind: str, length: int) -> Slot:
    load, store = {
        "bcd": (lambda data: int(_digits(data)), lambda code: bytes.fromhex(f"{code:0{2 * length}d}")),
        "digits": (_digits, lambda text: _from_digits(text, length)),
        "hex": (lambda data: data.hex().upper(), lambda text: _from_hex(text, length)),
        "ascii": (_ascii, lambda text: _from_ascii(text, length)),
    }[kind]
    return Slot(
        format=f"{length}s",
        size=length,
        raw=_SIZED_BY_LENGTH[kind],
        load=load,
        store=store,
        highest=10 ** (2 * length) - 1,
    )


def _digits(data: bytes) -> str:
    text = data.hex()
    if not text.isdecimal():
        raise RefusedError(f"{text} is not BCD")
    return text


def _from_digits(text: Any, length: int) -> bytes:
    if not isinstance(text, str) or not (text.isascii() and text.isdecimal()) or len(text) != 2 * length:
        raise RefusedError(f"{text!r} is not {2 * length} decimal digits")
    return bytes.fromhex(text)


def _from_hex(text: Any, length: int) -> bytes:
    try:
        data = bytes.fromhex(text)
    except (TypeError, ValueError):
        raise RefusedError(f"{text!r} is not hex digits") from None
    if len(data) != length:
        raise RefusedError(f"{text!r} is not {length} bytes of hex digits")
    return data


def _ascii(data: bytes) -> str:
    try:
        text = data.rstrip(b"\0").decode("ascii")
    except UnicodeDecodeError:
        raise RefusedError(f"{data.hex()} is not ASCII") from None
    if not text.isprintable():
        raise RefusedError(f"{data.hex()} is not printable ASCII")
    return text


def _from_ascii(text: Any, length: int) -> bytes:
    if not isinstance(text, str) or not (text.isascii() and text.isprintable()) or len(text) > length:
        raise RefusedError(f"{text!r} is not printable ASCII of at most {length} characters")
    return text.encode("ascii").ljust(length, b"\0")
