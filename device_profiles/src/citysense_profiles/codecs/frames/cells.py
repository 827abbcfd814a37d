"""The single places of a frame: constants, gaps, numbers and texts, numbers taken apart into bits, check sums.

Owns how one binary field becomes a cell, and reading and writing that one cell. What surrounds cells is the business of
the parts.
"""

from __future__ import annotations

from typing import Any

from citysense_profiles.codecs.bits import BitPart, Bits, compile_bits
from citysense_profiles.codecs.field import Field
from citysense_profiles.codecs.frames.checksum import CHECKSUMS
from citysense_profiles.codecs.frames.slots import Slot
from citysense_profiles.codecs.frames.writing import Writing
from citysense_profiles.codecs.sinks import Sink, numbers_from, numbers_of
from citysense_profiles.errors import RefusedError
from citysense_profiles.format.binary import Checksum
from citysense_profiles.format.meaning import BitField
from citysense_profiles.vocabulary import Vocabulary


class Pinned:
    """Bytes that are always the same; a gap if `checked` is false: then any others are read as well."""

    __slots__ = ("checked", "data", "label", "size")

    def __init__(self, label: str, data: bytes, *, checked: bool) -> None:
        self.label, self.data, self.checked, self.size = label, data, checked, len(data)

    def write(self, out: Writing) -> None:
        """The bytes."""
        out.data += self.data


class Held:
    """A number or text with a name. `kept`: others refer to it; `counter`, `control`: what they take it for."""

    __slots__ = ("control", "counter", "field", "kept", "label", "size", "slot")

    def __init__(self, field: Field, slot: Slot) -> None:
        self.field, self.slot, self.size = field, slot, slot.size
        self.label = field.name
        self.kept = self.counter = self.control = False

    def read(self, found: Any, at: int, sink: Sink) -> None:
        """Hands over the unpacked object. Raises RefusedError."""
        field = self.field
        code = found if self.slot.load is None else self.slot.load(found)
        sink.take(field, code, at)
        if self.kept:
            sink.kept[field.name] = field.shown(code, *numbers_of(field, sink))

    def write(self, out: Writing) -> None:
        """The bytes of the caller's value. Raises RefusedError."""
        field = self.field
        numbers = numbers_from(field, out.settings, out.kept) if field.needs else ()
        if self.counter:
            out.counts(field.name, self, self.size)
        code = written_code(field, out, numbers, zero=self.counter or self.control)
        if self.kept:
            out.kept[field.name] = field.shown(code, *numbers)
        out.data += self.slot.store(code)

    def patched(self, code: bytes, number: int) -> bytes:
        """The bytes that say `number`."""
        return self.slot.store(exact_code(self.field, number))


class Packed:
    """A number taken apart into bits."""

    __slots__ = ("bits", "controls", "counters", "kept", "label", "size", "slot")

    def __init__(self, label: str, bits: Bits, slot: Slot) -> None:
        self.label, self.bits, self.slot, self.size = label, bits, slot, slot.size
        self.kept: tuple[BitPart, ...] = ()
        self.counters: tuple[BitPart, ...] = ()
        self.controls: frozenset[str] = frozenset()

    def read(self, found: Any, at: int, sink: Sink) -> None:
        """Hands over all parts. Raises RefusedError."""
        number = found if self.slot.load is None else self.slot.load(found)
        self.bits.read(number, sink, at)
        for part in self.kept:
            sink.kept[part.field.name] = part.field.shown(part.code_in(number), *numbers_of(part.field, sink))

    def write(self, out: Writing) -> None:
        """The number that says what the caller says. Raises RefusedError."""
        number = self.bits.write(out.values, out.settings, out.kept, zeros=self.controls)
        for part in self.kept:
            numbers = numbers_from(part.field, out.settings, out.kept)
            out.kept[part.field.name] = part.field.shown(part.code_in(number), *numbers)
        for part in self.counters:
            out.counts(part.field.name, PackedCounter(self.slot, part), self.size)
        out.data += self.slot.store(number)


class PackedCounter:
    """A counter that is only some bits of a number."""

    __slots__ = ("_part", "_slot", "label")

    def __init__(self, slot: Slot, part: BitPart) -> None:
        self._slot, self._part = slot, part
        self.label = part.field.name

    def patched(self, code: bytes, number: int) -> bytes:
        """The bytes of the whole number, with these bits saying `number`."""
        bits = self._part.placed(exact_code(self._part.field, number))
        # All ones of the part in the same byte order are the mask of its bytes, whatever that order is.
        mask = self._slot.store(self._part.mask << self._part.bit)
        put = self._slot.store(bits)
        return bytes(old & ~over | new for old, over, new in zip(code, mask, put, strict=True))


class Summed:
    """A check sum over the bytes from `start` of the payload up to itself. `verified`: somebody looks at it earlier."""

    __slots__ = ("_slot", "_sum", "label", "size", "start", "verified")

    def __init__(self, label: str, entry: Checksum, slot: Slot) -> None:
        algorithm = CHECKSUMS[entry.kind]
        if slot.raw != "int" or slot.lowest < 0 or slot.size != algorithm.size:
            raise ValueError(f"a {entry.kind} check sum has type u{8 * algorithm.size}")
        self.label, self.start, self.size = label, entry.start, slot.size
        self.verified = False
        self._slot, self._sum = slot, algorithm.sum

    def over(self, data: bytes, at: int) -> bytes:
        """Its bytes, where it stands at `at`."""
        return self._slot.store(self._sum(data[self.start : at]))

    def write(self, out: Writing) -> None:
        """Leaves room; the sum is filled in last. Raises RefusedError."""
        if len(out.data) < self.start:
            raise RefusedError(f"the check sum covers nothing: it starts at byte {self.start}")
        out.sums(self)


Cell = Pinned | Held | Packed | Summed


def fields_of(cell: Cell) -> tuple[Field, ...]:
    """What has a name in a cell."""
    if isinstance(cell, Held):
        return (cell.field,)
    return cell.bits.fields if isinstance(cell, Packed) else ()


def exact_code(field: Field, number: int) -> Any:
    """The raw code that says exactly `number`. Raises RefusedError where rounding would make it another."""
    code = field.stored(number)
    if field.shown(code) != number:
        raise RefusedError(f"{field.name} cannot say {number}")
    return code


def written_code(field: Field, out: Writing, numbers: tuple[Any, ...], *, zero: bool) -> Any:
    """The raw code to write; with `zero`, 0 where neither the caller nor the profile says anything."""
    if zero and field.raw == "int" and field.name not in out.values and field.default is None:
        try:
            field.shown(0, *numbers)
        except RefusedError:
            raise RefusedError(f"{field.name} is needed") from None
        return 0
    return field.code_of(out.values, *numbers)


def compile_packed(
    label: str, entries: list[BitField], slot: Slot, vocabulary: Vocabulary, prefix: str, depth: int
) -> Packed:
    """A number taken apart. Raises ValueError and FieldFault."""
    if slot.raw != "int" or slot.lowest < 0:
        raise ValueError("bits need an unsigned type")
    return Packed(label, compile_bits(entries, 8 * slot.size, vocabulary, prefix, depth), slot)
