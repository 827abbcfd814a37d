"""JSON, CBOR, SenML and our own native messages: values at pointers or under record names.

Owns the shape of the codecs that read documents instead of bytes in order.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, StringConstraints, Tag

from citysense_profiles.format.binary import ByteOrder, Part
from citysense_profiles.format.meaning import Meaning, Name, Strict


def _pointer(written: str) -> str:
    if written and not written.startswith("/"):
        raise ValueError('a pointer must begin with / (RFC 6901); "" is the whole document')
    return written


Pointer = Annotated[str, AfterValidator(_pointer)]
"""RFC 6901; a number steps into a list (/nrg/4)."""


class Only(Strict):
    """Objects whose value at `pointer` is another are passed over without error."""

    pointer: Pointer
    equals: str | int | list[str | int]


class JsonField(Meaning):
    """A value at a pointer inside an object. Absent is allowed unless `required`.

    `type`: int, number, bool, text, hex, base64, base64url (all shown as hex); number_text
    and int_text for numbers written as strings; any_number for what comes plain or as a string, and is written plain.
    """

    pointer: Pointer
    type: Literal[
        "int", "number", "bool", "text", "hex", "base64", "base64url", "int_text", "number_text", "any_number"
    ]
    required: bool = False


class JsonEach(Strict):
    """A list of objects at a pointer: each is a moment of its own, by name they are lists (`events.battery`).

    `text: true`: the list travels as JSON text inside a string (a list proper is read as well). A single object in
    place of the list is read as a list of one. What the objects around it say (time, serial) holds for each.
    """

    each: Name
    pointer: Pointer
    text: bool = False
    only: Only | None = None
    fields: Annotated[list[JsonPart], Field(min_length=1)]


class JsonBytes(Strict):
    """A frame of bytes inside a string at a pointer: `coding` hex, base64 or base64url, then fields as in binary."""

    bytes_: Annotated[Pointer, Field(alias="bytes")]
    coding: Literal["hex", "base64", "base64url"]
    byte_order: ByteOrder = "big"
    group: Name | None = None
    required: bool = False
    fields: Annotated[list[Part], Field(min_length=1)]


_KINDS: dict[type, str] = {JsonEach: "each", JsonBytes: "bytes"}


def _part_kind(part: Any) -> str:
    if not isinstance(part, dict):
        return _KINDS.get(type(part), "field")
    return "each" if "each" in part else "bytes" if "bytes" in part else "field"


JsonPart = Annotated[
    Annotated[JsonField, Tag("field")] | Annotated[JsonEach, Tag("each")] | Annotated[JsonBytes, Tag("bytes")],
    Discriminator(_part_kind),
]


class JsonWhen(Strict):
    """When a document is this message: every pointer has (one of) these values; `present`: something stands there."""

    match: list[Only] = []
    present: list[Pointer] = []
    port: int | list[int] | None = None


class DocumentCodec(Strict):
    """A JSON or CBOR object. `each: ""` takes a list of such objects, or a single one; `only` passes over others."""

    type: Literal["json", "cbor"]
    each: Pointer | None = None
    only: Only | None = None


class SenmlField(Meaning):
    """A SenML record: its name without the base name, and the kind of value it carries.

    `units`: what `u` may be. Two fields may share a record name if their units differ.
    """

    senml: str
    value: Literal["v", "vb", "vs", "vd"]
    units: list[str] = []


class SenmlCodec(Strict):
    """SenML, JSON or CBOR (RFC 8428). `base_names` hold {serial}; the first is the one we write. Unknown names pass."""

    type: Literal["senml"]
    base_names: list[Annotated[str, StringConstraints(pattern=r"^[^{}]*\{serial\}[^{}]*$")]] = []


class NativeCodec(Strict):
    """Our own format, JSON or CBOR."""

    type: Literal["native"]


class EpcCodec(Strict):
    """An EPC as a tag holds it: GS1 EPC Tag Data Standard, SGTIN-96 and SGTIN-198 taken apart, others as hex."""

    type: Literal["epc"]


JsonEach.model_rebuild()
