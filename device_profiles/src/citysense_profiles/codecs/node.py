"""What the parts of a message have in common: how they are read, written and told apart from one another.

Owns the protocol of a part, the surroundings in which parts are compiled (names before theirs, earlier fields that they
may refer to), and the window that a length field opens. No part kind lives here.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NoReturn, Protocol

from citysense_profiles.codecs.contract import Place
from citysense_profiles.codecs.field import Field
from citysense_profiles.codecs.frames.cells import Cell, Held
from citysense_profiles.codecs.frames.writing import Writing
from citysense_profiles.codecs.sinks import Sink
from citysense_profiles.errors import RefusedError
from citysense_profiles.format.binary import ByteOrder, SizeField
from citysense_profiles.vocabulary import Vocabulary

_TWO_TASKS = "says how long or how many, which is known only when all is written; nothing else can be computed with it"


@dataclass(frozen=True, slots=True)
class Flat:
    """A stretch of bytes that always looks the same: cells at their offsets, and counters that must say a number."""

    size: int
    cells: tuple[tuple[int, Cell], ...]
    expects: tuple[tuple[str, int], ...] = ()

    def then(self, other: Flat) -> Flat:
        """Both, one behind the other."""
        moved = tuple((offset + self.size, cell) for offset, cell in other.cells)
        return Flat(self.size + other.size, self.cells + moved, self.expects + other.expects)

    @property
    def complete(self) -> bool:
        """Whether the counters that must say a number stand in it as well."""
        held = {cell.field.name for _, cell in self.cells if isinstance(cell, Held)}
        return all(name in held for name, _ in self.expects)


class Node(Protocol):
    """A compiled part.

    `shortest` is the number of bytes that are there in any case, `size` the exact number where it is always the same.
    `open_ended`: takes everything up to the end of its window. `flat`: its cells, where it always looks the same.
    """

    fields: tuple[Field, ...]
    shortest: int
    size: int | None
    open_ended: bool
    flat: Flat | None

    def seal(self, uses: Uses) -> None:
        """Everything is compiled: learn which fields are referred to."""
        ...

    def read(self, payload: bytes, at: int, end: int, sink: Sink) -> int:
        """Hands over what stands from `at` on and before `end`; gives back where the next part begins."""
        ...

    def settle(self, out: Writing) -> None:
        """Gives fields that conditions look at the value that follows from what the caller gives."""
        ...

    def write(self, out: Writing) -> None:
        """Writes what the caller gives."""
        ...


@dataclass(slots=True)
class Uses:
    """Fields that others refer to, by whole name.

    `kept`: all of them. `counters`: they say how long or how many, and encoding fills them. `looked_at`: their values
    matter while writing, so they cannot be counters. `controls`: those that conditions look at.
    """

    kept: set[str] = field(default_factory=set)
    counters: set[str] = field(default_factory=set)
    looked_at: set[str] = field(default_factory=set)
    controls: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Where entries are compiled. `prefix` stands before their names, `depth` counts the lists around them.

    `known` are the earlier fields that may be referred to from here; compiling adds to it.
    """

    place: Place
    order: ByteOrder
    vocabulary: Vocabulary
    prefix: str
    depth: int
    known: dict[str, Field]
    uses: Uses
    length_order: ByteOrder | None = None
    in_rounds: bool = False

    def within(self, group: str | None) -> Scope:
        """The same, inside a group."""
        return self if group is None else replace(self, prefix=f"{self.prefix}{group}.")

    def repeated(self, name: str | None) -> Scope:
        """Inside rounds: what they name can be referred to only from inside."""
        return replace(self.within(name), depth=self.depth + 1, known=dict(self.known), in_rounds=True)

    def resolve(self, reference: str) -> Field:
        """The earlier field that is meant: of the same group first, then of those around it. Raises ValueError."""
        parts = self.prefix.split(".")[:-1]
        for count in range(len(parts), -1, -1):
            name = "".join(part + "." for part in parts[:count]) + reference
            if name in self.known:
                return self.known[name]
        raise ValueError(f"{reference!r} is no earlier field of this message")

    def value(self, reference: str) -> Field:
        """The same, for its value. Raises ValueError."""
        found = self.resolve(reference)
        if found.name in self.uses.counters:
            raise ValueError(f"{found.name} {_TWO_TASKS}")
        self.uses.kept.add(found.name)
        self.uses.looked_at.add(found.name)
        return found

    def counter(self, reference: str) -> str:
        """The whole name of an earlier field that says how long or how many. Raises ValueError."""
        found = self.resolve(reference)
        if found.raw != "int" or found.entry.map is not None or found.needs or found.role is not None:
            raise ValueError(f"{found.name} is no plain whole number, so it cannot say how long or how many")
        if found.name in self.uses.looked_at:
            raise ValueError(f"{found.name} {_TWO_TASKS}")
        self.uses.kept.add(found.name)
        self.uses.counters.add(found.name)
        return found.name


def counted(place: Place, sink: Sink, name: str, at: int) -> int:
    """What an earlier field of the frame says, which must be a number of bytes or rounds."""
    number = sink.kept.get(name)
    if number is None or number != int(number) or number < 0:
        place.refuse("value", f"{name} is {number}, which is no number of bytes or rounds", field=name, offset=at)
    return int(number)


@dataclass(frozen=True, slots=True)
class Window:
    """The bytes that a counter speaks of: its value less `less`."""

    counter: str
    less: int

    @staticmethod
    def of(entry: SizeField | None, scope: Scope) -> Window | None:
        """The window that an entry describes. Raises ValueError."""
        return None if entry is None else Window(scope.counter(entry.field), entry.less)

    def close(self, place: Place, sink: Sink, at: int, end: int) -> int:
        """Where the window that opens at `at` ends."""
        size = counted(place, sink, self.counter, at) - self.less
        if size < 0:
            place.refuse(
                "shape", f"{self.counter} counts {size + self.less} bytes, at least {self.less} are there",
                field=self.counter, offset=at,
            )  # fmt: skip
        if at + size > end:
            place.refuse("truncated", f"{self.counter} speaks of {size} bytes, {max(end - at, 0)} follow", offset=end)
        return at + size

    def fill(self, out: Writing, size: int) -> None:
        """Let the counter say that `size` bytes are in the window. Raises RefusedError."""
        out.fill(self.counter, size + self.less)


def leftover(place: Place, at: int, end: int) -> None:
    """Refuse bytes between `at` and `end`, where a window should be used up."""
    if at != end:
        place.refuse("trailing", f"{end - at} bytes are left over", offset=at)


def refused(place: Place, error: RefusedError, label: str) -> NoReturn:
    """Raise the EncodeError that says which field could not be written."""
    place.cannot_encode(str(error), field=getattr(error, "field", label))
