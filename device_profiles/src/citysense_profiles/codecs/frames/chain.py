"""Parts one behind the other, and the parts that hold others: blocks, repeats, values of a length written elsewhere.

Owns windows (what each part may read, so that fixed parts behind it keep their place) and conditions. What single cells
say is not its business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from citysense_profiles.codecs.contract import Place
from citysense_profiles.codecs.field import Field, FieldFault
from citysense_profiles.codecs.frames.cells import written_code
from citysense_profiles.codecs.frames.run import Stretch
from citysense_profiles.codecs.frames.slots import Loose
from citysense_profiles.codecs.frames.writing import Writing, rounds_of
from citysense_profiles.codecs.node import Flat, Node, Scope, Uses, Window, counted, leftover, refused
from citysense_profiles.codecs.sinks import Sink, numbers_from, numbers_of
from citysense_profiles.errors import RefusedError
from citysense_profiles.format.binary import When

Reader = Callable[[bytes, int, int, Sink], int]
MOST_BYTES = 65_536
"""Repeats in repeats multiply; no channel carries a longer frame."""


def _key(value: Any) -> tuple[bool, Any]:
    """True == 1 in Python, and is not the same word."""
    return (type(value) is bool, value)


class Chain:
    """Parts in order. Each reads before what the fixed parts behind it need."""

    def __init__(self, nodes: Sequence[Node], scope: Scope) -> None:
        joined = tuple(_joined(nodes, scope))
        self.nodes = joined
        self.fields = tuple(field for node in joined for field in node.fields)
        self.shortest = sum(node.shortest for node in joined)
        sizes = [node.size for node in joined]
        self.size = None if None in sizes else self.shortest
        self.open_ended = any(node.open_ended for node in joined)
        first = joined[0] if len(joined) == 1 else None
        self.flat = first.flat if isinstance(first, Stretch) else None
        behind = self.shortest
        self._reads: list[tuple[Reader, int]] = []
        for index, node in enumerate(joined):
            behind -= node.shortest
            self._reads.append((node.read, behind))
            if node.open_ended and any(after.size is None for after in joined[index + 1 :]):
                text = "behind a part that goes up to the end, everything must have a fixed size"
                raise FieldFault(node.fields[0].name if node.fields else "", text)
        self.reader: Reader = self._reads[0][0] if len(joined) == 1 else self.read

    def seal(self, uses: Uses) -> None:
        """Pass on to all."""
        for node in self.nodes:
            node.seal(uses)

    def read(self, payload: bytes, at: int, end: int, sink: Sink) -> int:
        """All parts in order."""
        for read, behind in self._reads:
            at = read(payload, at, end - behind, sink)
        return at

    def settle(self, out: Writing) -> None:
        """Pass on to all."""
        for node in self.nodes:
            node.settle(out)

    def write(self, out: Writing) -> None:
        """All parts in order."""
        for node in self.nodes:
            node.write(out)


def _joined(nodes: Sequence[Node], scope: Scope) -> list[Node]:
    """The same parts, neighbours of fixed layout as one stretch."""
    found: list[Node] = []
    waiting: list[Node] = []
    flat = Flat(0, ())

    def flush() -> None:
        nonlocal waiting, flat
        if waiting:
            found.append(Stretch(tuple(waiting), flat, scope.order, scope.vocabulary))
        waiting, flat = [], Flat(0, ())

    for node in nodes:
        if node.flat is not None:
            candidate = flat.then(node.flat)
            if candidate.complete:
                flat = candidate
                waiting.append(node)
                continue
        flush()
        found.append(node)
    flush()
    return found


@dataclass(frozen=True, slots=True)
class Condition:
    """An earlier field's value by name is one of these, or (`inverse`) none of them."""

    name: str
    first: Any
    wanted: frozenset[tuple[bool, Any]]
    inverse: bool = False

    @staticmethod
    def of(entry: When, scope: Scope) -> Condition:
        """The condition that an entry describes. Raises ValueError."""
        field = scope.value(entry.field)
        scope.uses.controls.add(field.name)
        wanted = entry.named
        for value in wanted:
            try:
                if not field.needs:
                    field.stored(value)
            except RefusedError as error:
                raise ValueError(f"when: {field.name} is never {value!r}: {error}") from error
        if not wanted:
            raise ValueError("when: no value is named")
        return Condition(field.name, wanted[0], frozenset(map(_key, wanted)), entry.differs is not None)

    def holds(self, kept: Mapping[str, Any]) -> bool:
        """Whether it does; a field that is not there is no value."""
        return self.name in kept and (_key(kept[self.name]) in self.wanted) != self.inverse

    def __str__(self) -> str:
        return f"{self.name} is {'not ' if self.inverse else ''}{self.first!r}"


class BlockPart:
    """Parts that belong together: there only if a condition holds, or in a window of their own."""

    def __init__(self, place: Place, label: str, inner: Chain, when: Condition | None, window: Window | None) -> None:
        self._place, self._label, self._inner, self._when, self._window = place, label, inner, when, window
        self.fields = inner.fields
        self.shortest = inner.shortest if when is None else 0
        self.size = inner.size if when is None else None
        # What is there only sometimes may be followed by what is there at the other times.
        self.open_ended = inner.open_ended and window is None and when is None
        self.flat: Flat | None = None
        if when is None and inner.flat is not None:
            expects = () if window is None else ((window.counter, inner.flat.size + window.less),)
            self.flat = Flat(inner.flat.size, inner.flat.cells, inner.flat.expects + expects)

    def seal(self, uses: Uses) -> None:
        """Pass on."""
        self._inner.seal(uses)

    def read(self, payload: bytes, at: int, end: int, sink: Sink) -> int:
        """The parts, if they are there; their window is used up."""
        if self._when is not None and not self._when.holds(sink.kept):
            return at
        if self._window is None:
            return self._inner.reader(payload, at, end, sink)
        stop = self._window.close(self._place, sink, at, end)
        leftover(self._place, self._inner.reader(payload, at, stop, sink), stop)
        return stop

    def settle(self, out: Writing) -> None:
        """If values of the block are given, its condition shall hold, unless the caller says otherwise."""
        when = self._when
        if when is not None and not when.inverse and when.name not in out.values and out.gives(self.fields):
            out.values[when.name] = when.first
        self._inner.settle(out)

    def write(self, out: Writing) -> None:
        """The parts, if the condition holds; values of a block that is not there are refused."""
        if self._when is not None and not self._when.holds(out.kept):
            if out.gives(self.fields):
                given = next(field.name for field in self.fields if field.name in out.values)
                text = f"{given} is given, but is there only if {self._when}"
                self._place.cannot_encode(text, field=self._when.name)
            return
        start = len(out.data)
        self._inner.write(out)
        if self._window is not None:
            try:
                self._window.fill(out, len(out.data) - start)
            except RefusedError as error:
                refused(self._place, error, self._label)


class LoosePart:
    """A text or BCD number whose length stands elsewhere, or that goes up to the end."""

    shortest = 0
    size: int | None = None
    flat: Flat | None = None

    def __init__(self, place: Place, field: Field, loose: Loose, window: Window | None) -> None:
        self._place, self._field, self._loose, self._window = place, field, loose, window
        self._kept = self._control = False
        self.fields: tuple[Field, ...] = (field,)
        self.open_ended = window is None

    def seal(self, uses: Uses) -> None:
        """Learn whether others refer to it."""
        self._kept = self._field.name in uses.kept
        self._control = self._field.name in uses.controls

    def read(self, payload: bytes, at: int, end: int, sink: Sink) -> int:
        """The value."""
        field = self._field
        stop = end if self._window is None else self._window.close(self._place, sink, at, end)
        if stop < at:
            self._place.refuse("truncated", f"nothing is left for {field.name}", offset=max(end, 0))
        try:
            code = self._loose.load(payload[at:stop])
            sink.take(field, code, at)
            if self._kept:
                sink.kept[field.name] = field.shown(code, *numbers_of(field, sink))
        except RefusedError as error:
            self._place.refuse("value", str(error), field=field.name, offset=at)
        return stop

    def settle(self, out: Writing) -> None:
        """Nothing follows from what others are given."""

    def write(self, out: Writing) -> None:
        """As many bytes as the value needs."""
        field = self._field
        try:
            numbers = numbers_from(field, out.settings, out.kept) if field.needs else ()
            code = written_code(field, out, numbers, zero=self._control)
            data = self._loose.store(code)
            if self._kept:
                out.kept[field.name] = field.shown(code, *numbers)
            out.data += data
            if self._window is not None:
                self._window.fill(out, len(data))
        except RefusedError as error:
            refused(self._place, error, field.name)


class RepeatPart:
    """The same parts again and again. `rounds`: a number, the name of a counter, or None: up to the end."""

    def __init__(
        self,
        place: Place,
        label: str,
        inner: Chain,
        rounds: int | str | None,
        window: Window | None,
        depth: int,
        most: int,
    ) -> None:
        self._place, self._label, self._inner, self._depth, self._most = place, label, inner, depth, most
        self._rounds, self._window = rounds, window
        self._own: tuple[str, ...] = ()
        self.fields = inner.fields
        fixed = rounds if isinstance(rounds, int) else 0
        self.shortest = fixed * inner.shortest
        self.size = fixed * inner.size if fixed and inner.size is not None else None
        self.open_ended = window is None and (rounds is None or inner.open_ended)
        self.flat: Flat | None = None
        if inner.shortest < 1:
            raise ValueError("a round must hold at least one byte in any case, else it could go on forever")
        if self.shortest > MOST_BYTES:
            raise ValueError(f"these rounds make at least {self.shortest} bytes; a frame has at most {MOST_BYTES}")

    def seal(self, uses: Uses) -> None:
        """Learn what must be forgotten when a round ends."""
        self._own = tuple(field.name for field in self.fields if field.name in uses.kept)
        self._inner.seal(uses)

    def read(self, payload: bytes, at: int, end: int, sink: Sink) -> int:
        """All rounds. Where there is none, nothing is said: by name, the lists are absent rather than empty."""
        stop = end if self._window is None else self._window.close(self._place, sink, at, end)
        most = self._most_rounds(sink, at, stop)
        if most and at < stop:
            sink.enter(self.fields)
            at = self._read_rounds(most, payload, at, stop, sink)
            sink.leave()
        if self._window is not None:
            leftover(self._place, at, stop)
        return at

    def _most_rounds(self, sink: Sink, at: int, stop: int) -> int:
        """How many rounds there are, or may be where they go up to the end."""
        if self._rounds is None:
            return self._most
        count = self._rounds if isinstance(self._rounds, int) else counted(self._place, sink, self._rounds, at)
        if count * self._inner.shortest > stop - at:
            text = f"{count} rounds of {self._label} need more than the {max(stop - at, 0)} bytes that are left"
            self._place.refuse("truncated", text, offset=max(stop, 0))
        if count > self._most:
            self._too_many(at)
        return count

    def _read_rounds(self, most: int, payload: bytes, at: int, stop: int, sink: Sink) -> int:
        read, own, to_the_end = self._inner.reader, self._own, self._rounds is None
        for _ in range(most):
            if to_the_end and at >= stop:
                return at
            sink.next()
            forget(sink.kept, own)
            at = read(payload, at, stop, sink)
        if to_the_end and at < stop:
            self._too_many(at)
        return at

    def _too_many(self, at: int) -> NoReturn:
        self._place.refuse("shape", f"more than {self._most} rounds", field=self._label, offset=at)

    def settle(self, out: Writing) -> None:
        """Each round settles its own."""

    def write(self, out: Writing) -> None:
        """As many rounds as the lists are long."""
        start = len(out.data)
        try:
            given = rounds_of(self.fields, out.values, self._depth)
            if isinstance(self._rounds, int):
                given = given or [{} for _ in range(self._rounds)]
                if len(given) != self._rounds:
                    raise RefusedError(f"{len(given)} rounds are given, {self._label} has {self._rounds}")
            write_rounds(self._inner, given, out, self._own)
            if len(given) > self._most:
                raise RefusedError(f"{len(given)} rounds are given, {self._most} are read at most")
            if isinstance(self._rounds, str):
                out.fill(self._rounds, len(given))
            if self._window is not None:
                self._window.fill(out, len(out.data) - start)
        except RefusedError as error:
            refused(self._place, error, self._label)


def forget(kept: dict[str, Any], names: tuple[str, ...]) -> None:
    """What an earlier round said does not hold for the next."""
    for name in names:
        kept.pop(name, None)


def write_rounds(inner: Chain, rounds: Sequence[dict[str, Any]], out: Writing, own: tuple[str, ...]) -> None:
    """Each round with its own values."""
    for values in rounds:
        forget(out.kept, own)
        one = out.one_round(values)
        inner.settle(one)
        inner.write(one)
