"""A run of cells with fixed sizes, read with one struct; and stretches of runs that take a fast way into readings.

Owns the careful walk over cells, whose errors say which byte it was. The fast way is in `quick.py`; where it meets
trouble it gives up and the careful walk says what is wrong.
"""

from __future__ import annotations

import struct

from citysense_profiles.codecs.contract import Place
from citysense_profiles.codecs.frames.cells import Cell, Held, Packed, Pinned, Summed, fields_of
from citysense_profiles.codecs.frames.quick import Quick, compile_quick
from citysense_profiles.codecs.frames.writing import Writing
from citysense_profiles.codecs.node import Flat, Node, Uses, refused
from citysense_profiles.codecs.sinks import Readings, Sink
from citysense_profiles.errors import RefusedError
from citysense_profiles.format.binary import ByteOrder
from citysense_profiles.vocabulary import Vocabulary


def offsets_of(cells: tuple[Cell, ...]) -> tuple[tuple[int, Cell], ...]:
    """Each cell with the number of bytes before it."""
    at, found = 0, []
    for cell in cells:
        found.append((at, cell))
        at += cell.size
    return tuple(found)


def verify(place: Place, check: Summed, payload: bytes, at: int) -> None:
    """Refuse a wrong check sum at `at`."""
    found, expected = payload[at : at + check.size], check.over(payload, at)
    if found != expected:
        text = f"check sum is {found.hex().upper()}, the bytes give {expected.hex().upper()}"
        place.refuse("checksum", text, field=check.label, offset=at)


class Run:
    """Cells one behind the other."""

    open_ended = False

    def __init__(self, place: Place, cells: tuple[Cell, ...], order: ByteOrder) -> None:
        placed = offsets_of(cells)
        self._place = place
        self._cells = cells
        self._pinned = tuple((at, cell) for at, cell in placed if isinstance(cell, Pinned) and cell.checked)
        self._checks = tuple((at, cell) for at, cell in placed if isinstance(cell, Summed))
        self._read = tuple((at, cell) for at, cell in placed if isinstance(cell, Held | Packed))
        formats = [cell.slot.format if isinstance(cell, Held | Packed) else f"{cell.size}x" for cell in cells]
        self._struct = struct.Struct((">" if order == "big" else "<") + "".join(formats))
        self.shortest = self._struct.size
        self.size: int | None = self.shortest
        self.fields = tuple(field for cell in cells for field in fields_of(cell))
        self.flat: Flat | None = Flat(self.shortest, placed)

    def seal(self, uses: Uses) -> None:
        """Tell the cells who refers to them."""
        for cell in self._cells:
            if isinstance(cell, Held):
                cell.kept = cell.field.name in uses.kept
                cell.counter = cell.field.name in uses.counters
                cell.control = cell.field.name in uses.controls
            elif isinstance(cell, Packed):
                parts = cell.bits.parts
                cell.kept = tuple(part for part in parts if part.field.name in uses.kept)
                cell.counters = tuple(part for part in parts if part.field.name in uses.counters)
                cell.controls = frozenset(uses.controls | uses.counters)

    def read(self, payload: bytes, at: int, end: int, sink: Sink) -> int:
        """Check sums, then constants, then what the fields say."""
        after = at + self.shortest
        if after > end:
            self._place.refuse(
                "truncated", f"{max(end - at, 0)} bytes are left, {self.shortest} belong here", offset=max(end, 0)
            )
        for offset, check in self._checks:
            if not check.verified:
                verify(self._place, check, payload, at + offset)
        for offset, pinned in self._pinned:
            start = at + offset
            found = payload[start : start + pinned.size]
            if found != pinned.data:
                text = f"{found.hex().upper()} stands where {pinned.data.hex().upper()} must"
                self._place.refuse("shape", text, field=pinned.label, offset=start)
        where = at
        cell: Held | Packed | None = None
        try:
            for (offset, cell), found in zip(self._read, self._struct.unpack_from(payload, at), strict=True):
                where = at + offset
                cell.read(found, where, sink)
        except RefusedError as error:
            label = cell.label if cell is not None else ""
            self._place.refuse("value", str(error), field=getattr(error, "field", label), offset=where)
        return after

    def settle(self, out: Writing) -> None:
        """Nothing follows from what others are given."""

    def write(self, out: Writing) -> None:
        """All cells."""
        for cell in self._cells:
            try:
                cell.write(out)
            except RefusedError as error:
                refused(self._place, error, cell.label)


class Stretch:
    """Neighbours of fixed layout. They are read the fast way where readings are wanted."""

    open_ended = False

    def __init__(self, nodes: tuple[Node, ...], flat: Flat, order: ByteOrder, vocabulary: Vocabulary) -> None:
        self._nodes = nodes
        self._order = order
        self._vocabulary = vocabulary
        self._quick: Quick | None = None
        self.fields = tuple(field for node in nodes for field in node.fields)
        self.shortest = flat.size
        self.size: int | None = flat.size
        self.flat: Flat | None = flat

    def seal(self, uses: Uses) -> None:
        """Compile the fast way, now that it is known what must be kept."""
        for node in self._nodes:
            node.seal(uses)
        if self.flat is not None:
            self._quick = compile_quick(self.flat, self._order, self._vocabulary, frozenset(uses.kept))

    def read(self, payload: bytes, at: int, end: int, sink: Sink) -> int:
        """Fast or carefully, with the same outcome."""
        quick = self._quick
        if quick is not None and type(sink) is Readings and at + self.shortest <= end:
            now = sink.now
            if quick.fill(payload, at, now.values, now.missing, now.roles, sink.kept):
                return at + self.shortest
        behind = self.shortest
        for node in self._nodes:
            behind -= node.shortest
            at = node.read(payload, at, end - behind, sink)
        return at

    def settle(self, out: Writing) -> None:
        """Pass on to those of the stretch."""
        for node in self._nodes:
            node.settle(out)

    def write(self, out: Writing) -> None:
        """All of it."""
        for node in self._nodes:
            node.write(out)
