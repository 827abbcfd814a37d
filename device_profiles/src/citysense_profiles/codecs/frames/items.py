"""Items announced by a tag, in any order: channel and type of a sensor, data points, parameters.

Owns telling the kinds apart, the length that the wire may carry, and items that may stand several times. A tag that the
profile does not name ends reading unless the wire says how long its value is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from citysense_profiles.codecs.contract import Place
from citysense_profiles.codecs.field import Field
from citysense_profiles.codecs.frames.chain import Chain, forget, write_rounds
from citysense_profiles.codecs.frames.writing import Writing, rounds_of
from citysense_profiles.codecs.node import Flat, Uses, Window, leftover, refused
from citysense_profiles.codecs.sinks import Sink
from citysense_profiles.errors import RefusedError
from citysense_profiles.format.binary import ByteOrder, Items


@dataclass(slots=True, eq=False)
class Kind:
    """One kind of item. `own`: fields of a round that are referred to."""

    tag: bytes
    inner: Chain
    many: bool
    own: tuple[str, ...] = ()

    @property
    def fields(self) -> tuple[Field, ...]:
        """What its value says."""
        return self.inner.fields


class ItemsPart:
    """All items up to the end of their window, or up to the bytes `until`."""

    shortest = 0
    size: int | None = None
    flat: Flat | None = None

    def __init__(
        self,
        place: Place,
        entry: Items,
        kinds: Sequence[Kind],
        length_order: ByteOrder,
        window: Window | None,
        depth: int,
    ) -> None:
        widths = {len(kind.tag) for kind in kinds}
        if len(widths) != 1 or 0 in widths:
            raise ValueError("all tags have the same length, at least one byte")
        if len({kind.tag for kind in kinds}) != len(kinds):
            raise ValueError("a tag stands twice")
        self._width = widths.pop()
        self._significant = tuple(sorted(set(entry.significant or ())))
        if any(index >= self._width for index in self._significant):
            raise ValueError(f"significant counts from 0; tags have {self._width} bytes")
        self._length = {None: 0, "u8": 1, "u16": 2}[entry.length]
        for kind in kinds:
            if kind.many and not self._length and kind.inner.size is None:
                raise ValueError("what may stand several times needs a fixed size, or a length on the wire")
        self._place, self._window, self._depth = place, window, depth
        self._order: ByteOrder = length_order
        self._skip = entry.unknown == "skip"
        self._until = entry.until
        self._kinds = tuple(kinds)
        self._exact = {kind.tag: kind for kind in kinds}
        self._masked: dict[bytes, Kind] = {}
        if self._significant:
            for kind in kinds:
                self._masked.setdefault(bytes(kind.tag[index] for index in self._significant), kind)
        self.fields = tuple(field for kind in kinds for field in kind.fields)
        self.open_ended = window is None and entry.until is None

    def seal(self, uses: Uses) -> None:
        """Pass on to all kinds."""
        for kind in self._kinds:
            kind.own = tuple(field.name for field in kind.fields if field.name in uses.kept) if kind.many else ()
            kind.inner.seal(uses)

    def kind_of(self, tag: bytes) -> Kind | None:
        """The kind that a tag announces, if the profile names it."""
        kind = self._exact.get(tag)
        if kind is None and self._significant and len(tag) == self._width:
            return self._masked.get(bytes(tag[index] for index in self._significant))
        return kind

    def begins(self, payload: bytes) -> bool:
        """Whether the first tag is one that can be read."""
        tag = payload[: self._width]
        return len(tag) == self._width and (self._skip or self.kind_of(tag) is not None)

    def read(self, payload: bytes, at: int, end: int, sink: Sink) -> int:
        """All items; those that may stand several times are handed over together, at the end."""
        stop = end if self._window is None else self._window.close(self._place, sink, at, end)
        exact, width, length, until = self._exact, self._width, self._length, self._until
        seen: set[Kind] = set()
        many: dict[Kind, list[tuple[int, int]]] = {}
        while at < stop:
            if until is not None and payload.startswith(until, at, stop):
                break
            tag = payload[at : at + width]
            kind = exact.get(tag) or self.kind_of(tag)
            begin = at
            at += width + length
            if at > stop:
                self._place.refuse("truncated", f"item {tag.hex(' ')} breaks off", offset=stop)
            until_here = at + int.from_bytes(payload[at - length : at], self._order) if length else stop
            if until_here > stop:
                self._place.refuse("truncated", f"item {tag.hex(' ')} is longer than what is left", offset=stop)
            if kind is None:
                if not self._skip:
                    self._place.refuse("shape", f"tag {tag.hex(' ')} is not in the profile", offset=begin)
                at = until_here
            elif kind.many:
                at = self._put_by(kind, at, until_here, many)
            else:
                if kind in seen:
                    self._place.refuse("shape", f"tag {tag.hex(' ')} stands twice", offset=begin)
                seen.add(kind)
                at = kind.inner.reader(payload, at, until_here, sink)
                if length:
                    leftover(self._place, at, until_here)
        for kind, places in many.items():
            self._read_rounds(kind, places, payload, sink)
        if self._window is not None:
            leftover(self._place, at, stop)
        return at

    def _put_by(self, kind: Kind, at: int, stop: int, many: dict[Kind, list[tuple[int, int]]]) -> int:
        if not self._length:
            size = kind.inner.shortest
            if at + size > stop:
                self._place.refuse("truncated", f"the value of {kind.tag.hex(' ')} has {size} bytes", offset=stop)
            stop = at + size
        many.setdefault(kind, []).append((at, stop))
        return stop

    def _read_rounds(self, kind: Kind, places: list[tuple[int, int]], payload: bytes, sink: Sink) -> None:
        read, own = kind.inner.reader, kind.own
        sink.enter(kind.fields)
        for at, stop in places:
            sink.next()
            forget(sink.kept, own)
            leftover(self._place, read(payload, at, stop, sink), stop)
        sink.leave()

    def settle(self, out: Writing) -> None:
        """Pass on to what stands once."""
        for kind in self._kinds:
            if not kind.many:
                kind.inner.settle(out)

    def write(self, out: Writing) -> None:
        """The kinds of which a value is given, in the order of the profile."""
        start = len(out.data)
        try:
            for kind in self._kinds:
                if kind.many:
                    for values in rounds_of(kind.fields, out.values, self._depth):
                        self._write_item(kind, out, values)
                elif out.gives(kind.fields):
                    self._write_item(kind, out, None)
            if self._window is not None:
                self._window.fill(out, len(out.data) - start)
        except RefusedError as error:
            refused(self._place, error, "items")

    def _write_item(self, kind: Kind, out: Writing, values: dict[str, object] | None) -> None:
        out.data += kind.tag
        at = len(out.data)
        out.data += bytes(self._length)
        if values is None:
            kind.inner.write(out)
        else:
            write_rounds(kind.inner, [values], out, kind.own)
        if self._length:
            size = len(out.data) - at - self._length
            if size >= 1 << 8 * self._length:
                raise RefusedError(f"the value of {kind.tag.hex(' ')} makes {size} bytes, too many for its length")
            out.data[at : at + self._length] = size.to_bytes(self._length, self._order)
