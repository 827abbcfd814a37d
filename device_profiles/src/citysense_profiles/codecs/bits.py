"""A whole number taken apart into fields of some bits each: flags of frames, registers and elements.

Owns where the bits of each part lie and how signed parts read. It knows nothing of where the number stood; whoever
holds the bytes or the register gives it the number, and writes the number that it makes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from citysense_profiles.codecs.contract import NO_SETTINGS
from citysense_profiles.codecs.field import Field, FieldFault, compile_field, label_of
from citysense_profiles.codecs.sinks import Sink, numbers_from
from citysense_profiles.errors import RefusedError
from citysense_profiles.format.meaning import BitField
from citysense_profiles.vocabulary import Vocabulary

NOTHING: Mapping[str, Any] = {}


class RefusedPart(RefusedError):
    """A part of a number that cannot carry its code or value. `field` is its name."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(text)
        self.field = field


@dataclass(frozen=True, slots=True, kw_only=True)
class BitPart:
    """One field of a number: `width` bits from `bit` on, counted from the least significant, 0."""

    field: Field
    bit: int
    width: int
    signed: bool

    @property
    def mask(self) -> int:
        """The highest raw code of as many bits without a sign."""
        return (1 << self.width) - 1

    def code_in(self, number: int) -> int:
        """The raw code of this part."""
        code = (number >> self.bit) & self.mask
        return code - (1 << self.width) if self.signed and code >> (self.width - 1) else code

    def placed(self, code: int) -> int:
        """The number that has this part's bits set to the code and all others 0. Raises RefusedPart if it is too wide."""
        half = 1 << (self.width - 1)
        lowest, highest = (-half, half - 1) if self.signed else (0, self.mask)
        if not lowest <= code <= highest:
            raise RefusedPart(self.field.name, f"raw {code} does not fit the bits ({lowest} to {highest})")
        return (code & self.mask) << self.bit


class Bits:
    """Compiled parts, in the order of the profile."""

    def __init__(self, parts: tuple[BitPart, ...]) -> None:
        self.parts = parts
        self.fields = tuple(part.field for part in parts)

    def read(self, number: int, sink: Sink, where: Any) -> None:
        """Hands every part to the sink; all stood at `where`. Raises RefusedPart, which is a RefusedError."""
        for part in self.parts:
            try:
                sink.take(part.field, part.code_in(number), where)
            except RefusedError as error:
                raise RefusedPart(part.field.name, f"{part.field.name}: {error}") from None

    def write(
        self,
        values: Mapping[str, Any],
        settings: Mapping[str, float] = NO_SETTINGS,
        kept: Mapping[str, Any] = NOTHING,
        *,
        zeros: Collection[str] = (),
    ) -> int:
        """The number that says `values` (by name); bits of nobody are 0. Raises RefusedPart, which is a RefusedError.

        `kept` are values by name that parts may be computed with. Parts named in `zeros` are 0 where neither the caller
        nor the profile gives a value.
        """
        number = 0
        for part in self.parts:
            field = part.field
            if field.name in zeros and field.name not in values and field.default is None:
                continue
            try:
                numbers = numbers_from(field, settings, kept) if field.needs else ()
                number |= part.placed(field.code_of(values, *numbers))
            except RefusedPart:
                raise
            except RefusedError as error:
                raise RefusedPart(field.name, str(error)) from None
        return number


def compile_bits(
    bits: Sequence[BitField], width: int, vocabulary: Vocabulary, prefix: str = "", depth: int = 0
) -> Bits:
    """The parts of a number of `width` bits. `prefix` stands before their names. Raises FieldFault."""
    parts: list[BitPart] = []
    taken = 0
    for position, entry in enumerate(bits):
        label = label_of(entry, position)
        if entry.name is None:
            raise FieldFault(label, "each entry of bits has a name")
        if entry.bit + entry.width > width:
            raise FieldFault(label, f"bit {entry.bit} width {entry.width} lies outside {width} bits")
        if entry.signed and entry.width == 1:
            raise FieldFault(label, "one bit has no sign")
        mask = ((1 << entry.width) - 1) << entry.bit
        if taken & mask:
            raise FieldFault(label, f"the bits of {label} overlap another entry")
        taken |= mask
        single = entry.width == 1
        try:
            field = compile_field(entry, "int", vocabulary, prefix=prefix, depth=depth, single_bit=single)
        except (ValueError, KeyError) as error:
            raise FieldFault(label, str(error.args[0])) from error
        parts.append(BitPart(field=field, bit=entry.bit, width=entry.width, signed=entry.signed))
    return Bits(tuple(parts))
