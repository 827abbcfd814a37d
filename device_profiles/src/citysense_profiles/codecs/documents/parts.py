"""The objects of a document message, and the lists of objects inside them.

Owns reading an object into a sink and building it again from values by name. Single values live in `values.py`. How the
bytes of the document are read and which objects a message consists of is the codec's business. An absent value is an
absent key, both ways. In the lists by name it is None, as null is: on the way back a None among values is left out, and
a list of nothing else is of nulls.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from citysense_profiles.codecs.documents.concise import UnreadableError, read_json, write_json
from citysense_profiles.codecs.documents.pointer import ABSENT, Path, Shape, Steps, parse, put, walk
from citysense_profiles.codecs.documents.scalars import short
from citysense_profiles.codecs.documents.values import Bytes, Leaf, inside
from citysense_profiles.codecs.field import Field, FieldFault, label_of
from citysense_profiles.codecs.node import Scope
from citysense_profiles.codecs.sinks import ByName, Sink
from citysense_profiles.format.documents import JsonBytes, JsonEach, JsonPart, Only


class Condition:
    """What must stand at a pointer: one of the values, of the same type."""

    def __init__(self, entry: Only) -> None:
        self.path = parse(entry.pointer)
        if not self.path:
            raise ValueError("a condition looks at something inside the object, so its pointer begins with /")
        self.wanted = tuple(entry.equals) if isinstance(entry.equals, list) else (entry.equals,)

    def holds(self, item: Any) -> bool:
        """Whether it stands there."""
        found = walk(item, self.path)
        return type(found) is not bool and found in self.wanted


class DocumentPart(Protocol):
    """A part of an object. `key` is what makes two parts say the same: a role, a metric, else the name."""

    key: str
    label: str
    required: bool
    path: Path
    fields: tuple[Field, ...]

    def place_at(self, shape: Shape) -> None:
        """Learn which steps of the pointer are of lists, before anything is written."""
        ...

    def read(self, item: Any, sink: Sink, at: str) -> bool:
        """Hands over what stands in `item`, which itself stands at `at`; False where there is nothing."""
        ...

    def write(self, root: Any, values: Mapping[str, Any], settings: Mapping[str, float]) -> bool:
        """Puts it below `root`; False where `values` say nothing of it."""
        ...

    def stays(self, field: Field, column: Sequence[Any]) -> bool:
        """Whether a None in the list of one of its fields is written as such, rather than left out."""
        ...


class Item:
    """One object of a message: its parts, and what else is always there.

    `only` decides which objects are of interest and is written into each, as is `always`. Raises FieldFault and
    ValueError.
    """

    def __init__(
        self,
        scope: Scope,
        entries: Sequence[JsonPart],
        only: Only | None = None,
        always: Iterable[Condition] = (),
        *,
        cbor: bool,
    ) -> None:
        self._place = scope.place
        self._only = Condition(only) if only is not None else None
        constants = (*(() if self._only is None else (self._only,)), *always)
        self.parts: list[DocumentPart] = []
        for position, entry in enumerate(entries):
            self.parts.append(_compile(scope, entry, position, cbor=cbor))
        self.fields = tuple(field for part in self.parts for field in part.fields)
        self.part_of = {field.name: part for part in self.parts for field in part.fields}
        if len(self.part_of) != len(self.fields):
            names = [field.name for field in self.fields]
            twice = next(name for name in names if names.count(name) > 1)
            raise FieldFault(twice, "the name stands twice in one message")
        self._kept = scope.uses.kept
        self._required = tuple((part.key, part.label) for part in self.parts if part.required)
        self._shape = Shape({part.path for part in self.parts} | {constant.path for constant in constants})
        for part in self.parts:
            part.place_at(self._shape)
        self._constants = tuple((self._shape.steps(constant.path), constant.wanted[0]) for constant in constants)

    @property
    def selects(self) -> bool:
        """Whether objects may be passed over."""
        return self._only is not None

    def of_interest(self, item: Any, at: str) -> bool:
        """Whether `only` holds. Refuses what is no object (or list, where the pointers begin with a number)."""
        if type(item) is not self._shape.root:
            wanted = "a list" if self._shape.root is list else "an object"
            self._place.refuse("shape", f"{short(item)} stands at {at or 'the top'!r}, {wanted} is needed")
        return self._only is None or self._only.holds(item)

    def read(self, item: Any, sink: Sink, at: str) -> None:
        """Everything in one object, in the order of the profile."""
        if self._kept:
            for field in self.fields:
                sink.kept.pop(field.name, None)
        met = [part.key for part in self.parts if part.read(item, sink, at)]
        for key, label in self._required:
            if key not in met:
                self._place.refuse("shape", f"{label} is missing at {at or 'the top'!r}", field=label)

    def read_rounds(self, found: Sequence[Any], sink: Sink, at: str) -> None:
        """A list of objects: each that is of interest is a round."""
        seen: list[Field] = []
        names: set[str] = set()
        rounds = 0
        sink.enter(seen)
        for index, item in enumerate(found):
            where = f"{at}/{index}"
            if self.of_interest(item, where):
                sink.next()
                rounds += 1
                self.read(item, sink, where)
                if isinstance(sink, ByName):
                    names.update(sink.values)
        seen.extend(self._columns(names, rounds))
        sink.leave()

    def _columns(self, names: set[str], rounds: int) -> list[Field]:
        """The lists by name. What no round has is absent; but some list must tell how many rounds there are."""
        if names:
            return [field for field in self.fields if field.name in names]
        # Nothing in any round: single values come back as nulls, which say as much.
        single = [field for field in self.fields if isinstance(self.part_of[field.name], Leaf)]
        return single if single and rounds else list(self.fields)

    def write(self, values: Mapping[str, Any], settings: Mapping[str, float]) -> Any:
        """The object that says these values."""
        root = self._shape.root()
        for steps, constant in self._constants:
            put(root, steps, constant)
        met = [part.key for part in self.parts if part.write(root, values, settings)]
        for key, label in self._required:
            if key not in met:
                self._place.cannot_encode(f"{label} is needed", field=label)
        return root

    def write_rounds(self, values: Mapping[str, Any], settings: Mapping[str, float]) -> list[Any]:
        """The objects whose values stand in lists. What else is in `values` holds for each of them."""
        columns: dict[str, Sequence[Any]] = {}
        around = dict(values)
        for field in self.fields:
            if field.name in around:
                column = around.pop(field.name)
                if not isinstance(column, list | tuple):
                    self._place.cannot_encode(
                        f"{short(column)} is one value, a list of them is needed", field=field.name
                    )
                columns[field.name] = column
        lengths = {len(column) for column in columns.values()}
        if len(lengths) > 1:
            self._place.cannot_encode(
                f"lists of one length are needed: {', '.join(columns)}", field=next(iter(columns))
            )
        stay = {field.name for field in self.fields if field.name in columns and self._stays(field, columns)}
        items = []
        for index in range(max(lengths, default=0)):
            given = {
                name: column[index] for name, column in columns.items() if column[index] is not None or name in stay
            }
            items.append(self.write({**around, **given}, settings))
        return items

    def _stays(self, field: Field, columns: Mapping[str, Sequence[Any]]) -> bool:
        return self.part_of[field.name].stays(field, columns[field.name])


class _Each:
    """A list of objects at a pointer."""

    required = False

    def __init__(self, scope: Scope, entry: JsonEach, *, cbor: bool) -> None:
        self._item = Item(scope.repeated(entry.each), entry.fields, entry.only, cbor=cbor)
        self.fields = self._item.fields
        self.label = self.key = scope.prefix + entry.each
        self.path = inside(entry.pointer)
        self._text = entry.text
        self._where = entry.pointer
        self._place = scope.place
        self._steps: Steps = ()

    def place_at(self, shape: Shape) -> None:
        self._steps = shape.steps(self.path)

    def read(self, item: Any, sink: Sink, at: str) -> bool:
        found, where = walk(item, self.path), at + self._where
        if found is ABSENT or found is None:
            return False
        if self._text and type(found) is str:
            found, where = self._unfolded(found, where), f"{where}#"
        if type(found) is dict:
            found = [found]
        if type(found) is not list:
            self._place.refuse("shape", f"{short(found)} is not a list (at {where})", field=self.label)
        self._item.read_rounds(found, sink, where)
        return True

    def _unfolded(self, text: str, where: str) -> Any:
        try:
            return read_json(text.encode())
        except (UnreadableError, UnicodeEncodeError) as error:
            self._place.refuse("shape", f"the text is {error} (at {where})", field=self.label)

    def write(self, root: Any, values: Mapping[str, Any], settings: Mapping[str, float]) -> bool:
        if not any(field.name in values for field in self.fields):
            return False
        items = self._item.write_rounds(values, settings)
        put(root, self._steps, write_json(items).decode() if self._text else items)
        return True

    def stays(self, field: Field, column: Sequence[Any]) -> bool:
        return False


def _compile(scope: Scope, entry: JsonPart, position: int, *, cbor: bool) -> DocumentPart:
    label = _label(entry, position)
    try:
        if isinstance(entry, JsonEach):
            return _Each(scope, entry, cbor=cbor)
        if isinstance(entry, JsonBytes):
            return Bytes(scope, entry, cbor=cbor)
        if entry.name is None and entry.role is None:
            raise ValueError("a value needs a name")
        return Leaf(scope, entry, cbor=cbor)
    except FieldFault:
        raise
    except (ValueError, KeyError) as error:
        raise FieldFault(label, str(error.args[0])) from error


def _label(entry: JsonPart, position: int) -> str:
    if isinstance(entry, JsonEach):
        return entry.each
    return entry.bytes_ if isinstance(entry, JsonBytes) else label_of(entry, position)
