"""Frames of bytes: fields in order, and the parts that make them conditional, repeated, tagged or sized.

Owns the shape of the `binary` and `tlv` codecs. Offsets count from 0, at the first byte of the message.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from citysense_profiles.format.meaning import BitField, FieldName, HexBytes, Meaning, Name, Strict

ByteOrder = Literal["big", "little"]
WordOrder = Literal["high_first", "low_first"]
ChecksumKind = Literal["crc16_modbus", "crc8_e5", "sum8", "lrc8"]


class Checksum(Strict):
    """Covers the bytes from `from` up to this field; its byte order is the field's."""

    kind: ChecksumKind
    start: Annotated[int, Field(ge=0, alias="from")]


class SizeField(Strict):
    """A length that an earlier field carries, in bytes: `less` is what it counts besides the part. Encoding fills it."""

    field: FieldName
    less: Annotated[int, Field(ge=-64, le=64)] = 0


class BinaryField(Meaning):
    """The next bytes of a frame.

    `type`: u8 to u64 and i8 to i64 in steps of 8 bits, f16, f32, f64; with `length` (bytes, "end", or {field: …}):
    bcd (number), signed_bcd (the top nibble is the sign: 0 plus, 8 minus, and F is read as minus too), digits (BCD as
    text), hex, ascii, utf16, dotted (1.2.3); cp56 (7 bytes, a local time). `word_order: low_first` swaps 16-bit words.
    A value with a name is shown, one with a metric is a reading; the name of a const, skip, checksum or of the number
    that bits take apart is only what errors call it. References (`when`, `size`, `to`, `decimals`) look in their own
    group first, then outwards.
    """

    type: str | None = None
    length: Annotated[int, Field(ge=1, le=1024)] | Literal["end"] | SizeField | None = None
    byte_order: ByteOrder | None = None
    word_order: WordOrder | None = None
    const: int | None = None
    skip: Annotated[int, Field(ge=1, le=256)] | None = None
    fill: HexBytes | None = None
    bits: list[BitField] | None = None
    checksum: Checksum | None = None

    @model_validator(mode="after")
    def _one_purpose(self) -> BinaryField:
        purposes = [self.const, self.skip, self.bits, self.checksum]
        if sum(purpose is not None for purpose in purposes) > 1:
            raise ValueError("a field is one of: const, skip, bits, checksum, or a value with a name")
        if (self.type is None) != (self.skip is not None):
            raise ValueError("every field but skip needs a type")
        if self.fill is not None and len(self.fill) != self.skip:
            raise ValueError("fill is for skip and has as many bytes")
        plain = not any(purpose is not None for purpose in purposes)
        if plain and self.name is None and self.role is None:
            raise ValueError("a value needs a name")
        if not plain and (self.metric is not None or self.role is not None):
            raise ValueError("const, skip, bits and checksum carry no metric and no role of their own")
        return self


class When(Strict):
    """A condition on an earlier field: its value by name is this, or one of these; with `differs`, it is none of them."""

    field: FieldName
    equals: bool | int | str | list[bool | int | str] | None = None
    differs: bool | int | str | list[bool | int | str] | None = None

    @model_validator(mode="after")
    def _one_question(self) -> When:
        if (self.equals is None) == (self.differs is None):
            raise ValueError("a condition has either equals or differs")
        return self

    @property
    def named(self) -> list[bool | int | str]:
        """The values that the condition speaks of."""
        found = self.equals if self.equals is not None else self.differs
        return found if isinstance(found, list) else [] if found is None else [found]


class Block(Strict):
    """Fields that belong together. `group` puts its name and a dot before theirs; `when` makes them conditional;
    `size` is the field that counts their bytes. Encoding takes a conditional block if the caller gives a value of it.
    """

    group: Name | None = None
    when: When | None = None
    size: SizeField | None = None
    fields: Annotated[list[Part], Field(min_length=1)]


class Repeat(Strict):
    """The same fields again and again: each round is a moment of its own, by name they are lists (`log.distance`).

    `to`: "end" (of the frame, less what follows with fixed size), a number of rounds, or the field that counts them.
    `most`: a frame with more rounds is refused; it keeps a hostile frame cheap.
    """

    repeat: Name
    to: Literal["end"] | Annotated[int, Field(ge=1, le=256)] | FieldName
    most: Annotated[int, Field(ge=1, le=1024)] = 256
    size: SizeField | None = None
    fields: Annotated[list[Part], Field(min_length=1)]


class Item(Strict):
    """One kind of item: the bytes that announce it and the fields of its value.

    `group` puts its name before the fields'. `many`: may stand several times in a frame; its values are then lists.
    """

    tag: HexBytes
    group: Name | None = None
    many: bool = False
    fields: list[Part]


class Items(Strict):
    """Items announced by a tag, in any order, up to the end (or `size`, or the bytes `until`).

    `significant` says which bytes of a tag tell the kind (default: all); the rest is written as it stands in `tag`.
    `length` is the type of a length between tag and value, where the wire has one; only then may `unknown` be skip.
    """

    items: Annotated[list[Item], Field(min_length=1)]
    significant: list[Annotated[int, Field(ge=0, le=7)]] | None = None
    length: Literal["u8", "u16"] | None = None
    byte_order: ByteOrder | None = None
    unknown: Literal["refuse", "skip"] = "refuse"
    size: SizeField | None = None
    until: HexBytes | None = None

    @model_validator(mode="after")
    def _skipping_needs_lengths(self) -> Items:
        if self.unknown == "skip" and self.length is None:
            raise ValueError("unknown items can be skipped only where the wire says their length")
        return self


class Element(Meaning):
    """An element of SL 651-2014: lead byte, then a definition byte (5 bits byte count, 3 bits decimals), then data.

    Without `fields` the data is a BCD number with those decimals, a leading FF negative, all F missing. `definition`
    is what we write; any is read. With `fields`, the byte count is the size of the fields.
    """

    lead: HexBytes
    definition: HexBytes
    fields: list[Part] | None = None

    @model_validator(mode="after")
    def _one_byte_each(self) -> Element:
        if len(self.lead) != 1 or len(self.definition) != 1:
            raise ValueError("lead and definition are one byte each")
        if (self.fields is None) == (self.name is None):
            raise ValueError("an element has a name, or fields that have names")
        return self


class Elements(Strict):
    """SL 651-2014 elements in any order, up to the end or the bytes `until`. Unknown ones are skipped by their size."""

    elements: Annotated[list[Element], Field(min_length=1)]
    until: HexBytes | None = None


_KINDS: dict[type, str] = {Repeat: "repeat", Items: "items", Elements: "elements", Block: "block"}


def _part_kind(part: Any) -> str:
    if not isinstance(part, dict):
        return _KINDS.get(type(part), "field")
    for kind in ("repeat", "items", "elements"):
        if kind in part:
            return kind
    return "block" if "fields" in part else "field"


Part = Annotated[
    Annotated[BinaryField, Tag("field")]
    | Annotated[Block, Tag("block")]
    | Annotated[Repeat, Tag("repeat")]
    | Annotated[Items, Tag("items")]
    | Annotated[Elements, Tag("elements")],
    Discriminator(_part_kind),
]


class BytesMatch(Strict):
    """A byte that tells this message from others: `at` counts from 0, negative from the end."""

    at: int
    equals: Annotated[int, Field(ge=0, le=255)] | list[Annotated[int, Field(ge=0, le=255)]]


class BinaryWhen(Strict):
    """When a frame is this message: by length, by bytes, by the port that the channel names."""

    length: int | list[int] | None = None
    shortest: int | None = None
    match: list[BytesMatch] = []
    port: Annotated[int, Field(ge=0, le=255)] | list[int] | None = None


class BinaryCodec(Strict):
    """Bytes in order. `wrap: hex_text`: the frame travels as the ASCII text of its hex digits."""

    type: Literal["binary"]
    byte_order: ByteOrder = "big"
    wrap: Literal["hex_text"] | None = None


class TlvCodec(Strict):
    """Items announced by a tag; what Items says stands beside them in the message."""

    type: Literal["tlv"]
    byte_order: ByteOrder = "little"
    significant: list[Annotated[int, Field(ge=0, le=7)]] | None = None
    length: Literal["u8", "u16"] | None = None
    length_order: ByteOrder | None = None
    unknown: Literal["refuse", "skip"] = "refuse"


for _model in (Block, Repeat, Item, Items, Element, Elements):
    _model.model_rebuild()
