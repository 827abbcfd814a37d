"""Elements of SL 651-2014: a lead byte, a definition byte that tells size and decimals, then BCD digits or fields.

Owns the definition byte and the BCD number behind it. Elements come in any order; what the profile does not name is
passed over, since each says its own size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from citysense_profiles.codecs.contract import Place
from citysense_profiles.codecs.field import Field
from citysense_profiles.codecs.frames.chain import Chain
from citysense_profiles.codecs.frames.writing import Writing
from citysense_profiles.codecs.node import Flat, Uses, leftover, refused
from citysense_profiles.codecs.sinks import Sink, numbers_from, numbers_of
from citysense_profiles.errors import RefusedError
from citysense_profiles.values.scaling import exact


@dataclass(frozen=True, slots=True)
class Definition:
    """The second byte of an element: 5 bits count the data bytes, 3 bits the decimals."""

    size: int
    decimals: int

    @staticmethod
    def of(byte: int) -> Definition:
        """What the byte says."""
        return Definition(byte >> 3, byte & 7)

    def number(self, data: bytes) -> int | float | None:
        """The BCD number: a leading FF is a minus, nothing but F is no value. Raises RefusedError."""
        text = data.hex()
        if text and not text.strip("f"):
            return None
        digits = text.removeprefix("ff")
        if not (digits.isascii() and digits.isdecimal()):
            raise RefusedError(f"{text.upper()} is not BCD")
        size = -int(digits) if len(digits) < len(text) else int(digits)
        return size / 10**self.decimals if self.decimals else size

    def data(self, number: int | float | None) -> bytes:
        """The bytes of a number. Raises RefusedError where they are too few."""
        if number is None:
            return b"\xff" * self.size
        digits = round(exact(number) * 10**self.decimals)
        width = 2 * self.size - (2 if digits < 0 else 0)
        text = str(abs(digits))
        if len(text) > width:
            raise RefusedError(f"{number} does not fit {width} decimal digits, {self.decimals} of them decimals")
        return (b"\xff" if digits < 0 else b"") + bytes.fromhex(text.zfill(width))


@dataclass(slots=True, eq=False)
class ElementKind:
    """One kind of element: a number with a name, or a chain of fields. `byte` is the definition that we write."""

    lead: int
    byte: int
    field: Field | None
    inner: Chain | None
    kept: bool = False

    @property
    def fields(self) -> tuple[Field, ...]:
        """What it says."""
        if self.inner is not None:
            return self.inner.fields
        return () if self.field is None else (self.field,)


class ElementsPart:
    """All elements up to the end of their window, or up to the bytes `until`."""

    shortest = 0
    size: int | None = None
    flat: Flat | None = None

    def __init__(self, place: Place, kinds: Sequence[ElementKind], until: bytes | None) -> None:
        self._place, self._until, self._kinds = place, until, tuple(kinds)
        self._by_lead = {kind.lead: kind for kind in kinds}
        if len(self._by_lead) != len(kinds):
            raise ValueError("a lead byte stands twice")
        for kind in kinds:
            size = kind.byte >> 3
            if kind.inner is not None and kind.inner.size is not None and kind.inner.size != size:
                raise ValueError(
                    f"element {kind.lead:02X}: definition {kind.byte:02X} speaks of {size} bytes, "
                    f"the fields make {kind.inner.size}"
                )
        self.fields = tuple(field for kind in kinds for field in kind.fields)
        self.open_ended = until is None

    def seal(self, uses: Uses) -> None:
        """Pass on to all kinds."""
        for kind in self._kinds:
            if kind.inner is not None:
                kind.inner.seal(uses)
            kind.kept = kind.field is not None and kind.field.name in uses.kept

    def read(self, payload: bytes, at: int, end: int, sink: Sink) -> int:
        """All elements."""
        seen: set[int] = set()
        until, by_lead = self._until, self._by_lead
        while at < end:
            if until is not None and payload.startswith(until, at, end):
                break
            if at + 2 > end:
                self._place.refuse("truncated", f"element {payload[at]:02X} breaks off", offset=end)
            lead, byte = payload[at], payload[at + 1]
            begin, stop = at + 2, at + 2 + (byte >> 3)
            if stop > end:
                self._place.refuse(
                    "truncated", f"element {lead:02X} {byte:02X} is longer than what is left", offset=end
                )
            kind = by_lead.get(lead)
            if kind is not None:
                if lead in seen:
                    self._place.refuse("shape", f"element {lead:02X} stands twice", offset=at)
                seen.add(lead)
                self._read_one(kind, byte, payload, begin, stop, sink)
            at = stop
        return at

    def _read_one(self, kind: ElementKind, byte: int, payload: bytes, at: int, stop: int, sink: Sink) -> None:
        field = kind.field
        if kind.inner is not None:
            leftover(self._place, kind.inner.reader(payload, at, stop, sink), stop)
        elif field is not None:
            try:
                number: Any = Definition.of(byte).number(payload[at:stop])
                sink.take(field, number, at)
                if kind.kept:
                    sink.kept[field.name] = field.shown(number, *numbers_of(field, sink))
            except RefusedError as error:
                self._place.refuse("value", str(error), field=field.name, offset=at)

    def settle(self, out: Writing) -> None:
        """Pass on."""
        for kind in self._kinds:
            if kind.inner is not None:
                kind.inner.settle(out)

    def write(self, out: Writing) -> None:
        """The elements of which a value is given, in the order of the profile."""
        for kind in self._kinds:
            # A list is there because the element stood in some round: None in it is "no value" rather than "not there".
            if not out.gives(kind.fields) and (kind.field is None or kind.field.name not in out.values):
                continue
            out.data += bytes((kind.lead, kind.byte))
            if kind.inner is not None:
                self._write_fields(kind, kind.inner, out)
            elif kind.field is not None:
                self._write_number(kind, kind.field, out)

    def _write_fields(self, kind: ElementKind, inner: Chain, out: Writing) -> None:
        start = len(out.data)
        inner.write(out)
        size = len(out.data) - start
        if size != kind.byte >> 3:
            text = f"element {kind.lead:02X} makes {size} bytes, its definition speaks of {kind.byte >> 3}"
            self._place.cannot_encode(text, field=kind.fields[0].name)

    def _write_number(self, kind: ElementKind, field: Field, out: Writing) -> None:
        try:
            numbers = numbers_from(field, out.settings, out.kept) if field.needs else ()
            number = field.code_of(out.values, *numbers)
            out.data += Definition.of(kind.byte).data(number)
            if kind.kept:
                out.kept[field.name] = field.shown(number, *numbers)
        except RefusedError as error:
            refused(self._place, error, field.name)
