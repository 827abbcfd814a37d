"""From the entries of a frame of bytes to parts that read and write it.

Owns the choice of a part for each entry, and what concerns the bytes as a whole: the least size, and check sums, which
are looked at before anything is believed. `chain.py` and the modules it names do the reading and writing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from citysense_profiles.codecs.contract import Place
from citysense_profiles.codecs.field import Field, FieldFault, compile_field, label_of, with_null
from citysense_profiles.codecs.frames.cells import Cell, Held, Pinned, Summed, compile_packed
from citysense_profiles.codecs.frames.chain import BlockPart, Chain, Condition, LoosePart, RepeatPart, forget
from citysense_profiles.codecs.frames.elements import ElementKind, ElementsPart
from citysense_profiles.codecs.frames.items import ItemsPart, Kind
from citysense_profiles.codecs.frames.run import Run, verify
from citysense_profiles.codecs.frames.slots import compile_loose, compile_slot
from citysense_profiles.codecs.frames.writing import Writing
from citysense_profiles.codecs.node import Flat, Node, Scope, Uses, Window
from citysense_profiles.codecs.sinks import Sink
from citysense_profiles.format.binary import BinaryField, Block, ByteOrder, Element, Elements, Item, Items, Part, Repeat
from citysense_profiles.format.meaning import FromField, Meaning
from citysense_profiles.values.conversion import Raw
from citysense_profiles.vocabulary import Vocabulary

MeaningT = TypeVar("MeaningT", bound=Meaning)
_OF_THE_FRAME = ("serial", "boot", "seq")


class Parts:
    """Compiled entries. `shortest` bytes are there in any case; `size` is the number where it is always the same.

    `known` are fields of what is around the bytes that may be referred to; whoever reads keeps their values in the sink.
    `length_order` is that of the lengths of items, where it is not `order`.
    """

    def __init__(
        self,
        place: Place,
        entries: Sequence[Part],
        order: ByteOrder,
        vocabulary: Vocabulary,
        *,
        prefix: str = "",
        depth: int = 0,
        known: Mapping[str, Field] | None = None,
        length_order: ByteOrder | None = None,
    ) -> None:
        self.uses = Uses()
        scope = Scope(
            place=place,
            order=order,
            vocabulary=vocabulary,
            prefix=prefix,
            depth=depth,
            known=dict(known or {}),
            uses=self.uses,
            length_order=length_order,
        )
        self._place = place
        self._in_round = depth > 0
        self._chain = compile_chain(entries, scope)
        self.fields = self._chain.fields
        self.shortest = self._chain.shortest
        self.size = self._chain.size
        self.flat: Flat | None = self._chain.flat
        self._checks = tuple(_located(self._chain))
        self._chain.seal(self.uses)
        # Bytes inside a list are read once for each entry: what an earlier entry said does not hold for the next.
        self._own = tuple(field.name for field in self.fields if field.name in self.uses.kept) if depth else ()

    @property
    def items(self) -> ItemsPart | None:
        """The items, where the bytes consist of nothing else."""
        first = self._chain.nodes[0]
        return first if isinstance(first, ItemsPart) and len(self._chain.nodes) == 1 else None

    def read(self, payload: bytes, at: int, end: int, sink: Sink) -> int:
        """Hands over what stands from `at` up to at most `end`; gives back where it stopped. Raises DecodeError."""
        if end - at < self.shortest:
            self._place.refuse("truncated", f"{end - at} bytes, at least {self.shortest} belong here", offset=end)
        forget(sink.kept, self._own)
        for check, from_front, from_back in self._checks:
            verify(self._place, check, payload, at + from_front if from_back is None else end - from_back)
        return self._chain.reader(payload, at, end, sink)

    def write(self, values: Mapping[str, Any], settings: Mapping[str, float]) -> bytes:
        """The bytes that say `values`, by name. Raises EncodeError."""
        out = Writing(values, settings)
        out.in_round = self._in_round
        self._chain.settle(out)
        self._chain.write(out)
        return out.finished()


def _located(chain: Chain) -> list[tuple[Summed, int, int | None]]:
    """Check sums whose place is known before reading: from the front, else (not None) from the back."""
    found: list[tuple[Summed, int, int | None]] = []
    front: int | None = 0
    for index, node in enumerate(chain.nodes):
        behind = [later.size for later in chain.nodes[index:]]
        for offset, cell in node.flat.cells if node.flat is not None else ():
            if not isinstance(cell, Summed):
                continue
            if front is not None:
                if front + offset <= cell.start:
                    raise FieldFault(
                        cell.label, f"checksum from {cell.start} covers nothing before byte {front + offset}"
                    )
                found.append((cell, front + offset, None))
            elif None not in behind:
                found.append((cell, 0, sum(size or 0 for size in behind) - offset))
            else:
                continue
            cell.verified = True
        front = None if front is None or node.size is None else front + node.size
    return found


def compile_chain(entries: Sequence[Part], scope: Scope) -> Chain:
    """The parts of a list of entries; fields of fixed size that follow one another are one run. Raises FieldFault."""
    nodes: list[Node] = []
    cells: list[Cell] = []
    for position, entry in enumerate(entries):
        label = _label(entry, position)
        try:
            if isinstance(entry, BinaryField) and (entry.length is None or isinstance(entry.length, int)):
                cells.append(_cell(entry, label, scope))
                continue
            if cells:
                nodes.append(Run(scope.place, tuple(cells), scope.order))
                cells = []
            nodes.append(_node(entry, label, scope))
        except FieldFault:
            raise
        except (ValueError, KeyError) as error:
            raise FieldFault(label, str(error.args[0])) from error
    if cells:
        nodes.append(Run(scope.place, tuple(cells), scope.order))
    return Chain(nodes, scope)


def _label(entry: Part, position: int) -> str:
    if isinstance(entry, BinaryField):
        return label_of(entry, position)
    name = getattr(entry, "repeat", None) or getattr(entry, "group", None)
    return name or f"#{position}"


def _cell(entry: BinaryField, label: str, scope: Scope) -> Cell:
    if entry.skip is not None:
        return Pinned(label, entry.fill or bytes(entry.skip), checked=False)
    slot = compile_slot(entry, scope.order)
    if entry.const is not None:
        if slot.raw != "int":
            raise ValueError("const is a whole number, so its type is one of u8 to u64, i8 to i64, bcd")
        return Pinned(label, slot.store(entry.const), checked=True)
    if entry.checksum is not None:
        if scope.in_rounds:
            raise ValueError("a check sum covers the frame from its start, so it cannot stand in rounds")
        return Summed(label, entry.checksum, slot)
    if entry.bits is not None:
        bits = [_resolved(part, scope) for part in entry.bits]
        packed = compile_packed(label, bits, slot, scope.vocabulary, scope.prefix, scope.depth)
        scope.known.update((field.name, field) for field in packed.bits.fields)
        return packed
    return Held(_field(entry, slot.raw, scope), slot)


def _node(entry: Part, label: str, scope: Scope) -> Node:
    if isinstance(entry, BinaryField):
        return _loose(entry, scope)
    if isinstance(entry, Block):
        return _block(entry, label, scope)
    if isinstance(entry, Repeat):
        return _repeat(entry, label, scope)
    return _items(entry, scope) if isinstance(entry, Items) else _elements(entry, scope)


def _resolved(entry: MeaningT, scope: Scope) -> MeaningT:
    """The entry with the whole names of the fields that it is computed with. Raises ValueError."""
    change: dict[str, Any] = {}
    for key in ("times", "decimals"):
        source = getattr(entry, key)
        if isinstance(source, FromField):
            change[key] = FromField(field=scope.value(source.field).name)
    if entry.span is not None:
        ends = tuple(
            FromField(field=scope.value(end.field).name) if isinstance(end, FromField) else end
            for end in entry.span.values
        )
        change["span"] = entry.span.model_copy(update={"values": ends})
    return entry.model_copy(update=change) if change else entry


def _field(entry: Meaning, raw: Raw, scope: Scope, *, null: bool = False) -> Field:
    field = compile_field(
        _resolved(entry, scope), raw, scope.vocabulary, prefix=scope.prefix, depth=scope.depth, null=null
    )
    scope.known[field.name] = field
    return field


def _loose(entry: BinaryField, scope: Scope) -> Node:
    if entry.const is not None or entry.bits is not None or entry.checksum is not None:
        raise ValueError("const, bits and checksum have a fixed size")
    loose = compile_loose(entry, scope.order)
    window = None if entry.length == "end" or isinstance(entry.length, int) else Window.of(entry.length, scope)
    return LoosePart(scope.place, _field(entry, loose.raw, scope), loose, window)


def _block(entry: Block, label: str, scope: Scope) -> Node:
    when = None if entry.when is None else Condition.of(entry.when, scope)
    window = Window.of(entry.size, scope)
    return BlockPart(scope.place, label, compile_chain(entry.fields, scope.within(entry.group)), when, window)


def _repeat(entry: Repeat, label: str, scope: Scope) -> Node:
    inside = scope.repeated(entry.repeat)
    rounds: int | str | None = entry.to
    if isinstance(rounds, str):
        rounds = None if rounds == "end" else scope.counter(rounds)
    window = Window.of(entry.size, scope)
    inner = compile_chain(entry.fields, inside)
    _only_once(inner.fields)
    return RepeatPart(scope.place, label, inner, rounds, window, scope.depth, entry.most)


def _only_once(fields: Sequence[Field]) -> None:
    for field in fields:
        if field.role in _OF_THE_FRAME:
            raise FieldFault(
                field.name, f"role {field.role} belongs to the frame, and here rounds could disagree on it"
            )


def _items(entry: Items, scope: Scope) -> Node:
    window = Window.of(entry.size, scope)
    length_order = entry.byte_order or scope.length_order or scope.order
    inside = scope if entry.byte_order is None else replace(scope, order=entry.byte_order)
    kinds = [_kind(item, inside) for item in entry.items]
    return ItemsPart(scope.place, entry, kinds, length_order, window, scope.depth)


def _kind(item: Item, scope: Scope) -> Kind:
    inside = scope.repeated(None) if item.many else scope
    try:
        inner = compile_chain(item.fields, inside.within(item.group))
    except FieldFault as error:
        raise FieldFault(f"tag {item.tag.hex(' ')}, {error.field}", str(error)) from error
    if item.many:
        _only_once(inner.fields)
    return Kind(item.tag, inner, item.many)


def _elements(entry: Elements, scope: Scope) -> Node:
    kinds = [_element(element, scope) for element in entry.elements]
    return ElementsPart(scope.place, kinds, entry.until)


def _element(entry: Element, scope: Scope) -> ElementKind:
    lead, byte = entry.lead[0], entry.definition[0]
    if entry.fields is not None:
        return ElementKind(lead, byte, None, compile_chain(entry.fields, scope))
    try:
        field = _field(entry, "number", scope, null=True)
    except (ValueError, KeyError) as error:
        raise FieldFault(entry.name or f"element {lead:02X}", str(error.args[0])) from error
    return ElementKind(lead, byte, with_null(field), None)
