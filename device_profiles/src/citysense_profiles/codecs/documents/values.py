"""Values of an object at pointers: single ones, and frames of bytes inside a string.

Owns reading one of them out of an object into a sink, and writing it back. Lists of objects, and what an object holds
altogether, live in `parts.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from citysense_profiles.codecs.documents.pointer import ABSENT, Path, Shape, Steps, parse, put, walk
from citysense_profiles.codecs.documents.scalars import Carried, ShapeError, carried, from_bytes, to_bytes
from citysense_profiles.codecs.field import Field, compile_field, with_null
from citysense_profiles.codecs.frames.parts import Parts
from citysense_profiles.codecs.node import Scope
from citysense_profiles.codecs.sinks import ByName, Sink, numbers_from, numbers_of
from citysense_profiles.errors import RefusedError
from citysense_profiles.format.documents import JsonBytes, JsonField
from citysense_profiles.format.meaning import FromField


class Leaf:
    """One value at a pointer."""

    def __init__(self, scope: Scope, entry: JsonField, *, cbor: bool) -> None:
        kind: Carried = carried(entry.type, cbor=cbor)
        field = compile_field(entry, kind.raw, scope.vocabulary, prefix=scope.prefix, depth=scope.depth, null=True)
        needs = tuple(
            FromField(field=scope.value(need.field).name) if isinstance(need, FromField) else need
            for need in field.needs
        )
        self.plain = field = replace(field, needs=needs)
        scope.known[field.name] = field
        self.field = with_null(field)
        self.fields: tuple[Field, ...] = (self.field,)
        self.kind = entry.type
        self.check, self._store = kind.check, kind.store
        self.path = inside(entry.pointer)
        self.label = field.name
        self.key = field.role or field.metric or field.name
        self.required = entry.required
        self._kept = scope.uses.kept
        self._where = entry.pointer
        self._place = scope.place
        self._steps: Steps = ()

    def place_at(self, shape: Shape) -> None:
        self._steps = shape.steps(self.path)

    def read(self, item: Any, sink: Sink, at: str) -> bool:
        found = walk(item, self.path)
        if found is ABSENT:
            return False
        where = at + self._where
        field = self.field
        try:
            code = None if found is None else self.check(found)
            sink.take(field, code, where)
            if field.name in self._kept:
                sink.kept[field.name] = field.shown(code, *(numbers_of(field, sink) if field.needs else ()))
        except RefusedError as error:
            self._place.refuse("value", f"{error} (at {where})", field=self.label)
        except ShapeError as error:
            self._place.refuse("shape", f"{error} (at {where})", field=self.label)
        return code is not None or field.role is None

    def write(self, root: Any, values: Mapping[str, Any], settings: Mapping[str, float]) -> bool:
        field = self.field
        if field.name not in values and field.default is None:
            return False
        try:
            needed = field.needs and values.get(field.name, field.default) is not None
            code = field.code_of(values, *(numbers_from(field, settings, values) if needed else ()))
            put(root, self._steps, None if code is None else self._store(code))
        except RefusedError as error:
            self._place.cannot_encode(str(error), field=self.label)
        return code is not None or field.role is None

    def stays(self, field: Field, column: Sequence[Any]) -> bool:
        return all(value is None for value in column)


class Bytes:
    """A frame of bytes inside a string."""

    def __init__(self, scope: Scope, entry: JsonBytes, *, cbor: bool) -> None:
        within = scope.within(entry.group)
        self._parts = Parts(
            scope.place, entry.fields, entry.byte_order, scope.vocabulary, prefix=within.prefix, depth=scope.depth
        )
        self.fields = self._parts.fields
        self.path = inside(entry.bytes_)
        self.label = self.key = within.prefix.rstrip(".") or entry.bytes_
        self.required = entry.required
        self._coding = entry.coding
        self._cbor = cbor
        self._where = entry.bytes_
        self._place = scope.place
        self._steps: Steps = ()

    def place_at(self, shape: Shape) -> None:
        self._steps = shape.steps(self.path)

    def read(self, item: Any, sink: Sink, at: str) -> bool:
        found, where = walk(item, self.path), at + self._where
        if found is ABSENT or found is None:
            return False
        try:
            frame = to_bytes(found, self._coding)
        except ShapeError as error:
            self._place.refuse("shape", f"{error} (at {where})", field=self.label)
        into = _Inside(sink, where) if isinstance(sink, ByName) else sink
        end = self._parts.read(frame, 0, len(frame), into)
        if end != len(frame):
            self._place.refuse(
                "trailing", f"{len(frame) - end} bytes too many (at {where})", field=self.label, offset=end
            )
        return True

    def write(self, root: Any, values: Mapping[str, Any], settings: Mapping[str, float]) -> bool:
        if not self.required and not any(field.name in values for field in self.fields):
            return False
        frame = self._parts.write(values, settings)
        put(root, self._steps, from_bytes(frame, self._coding, cbor=self._cbor))
        return True

    def stays(self, field: Field, column: Sequence[Any]) -> bool:
        return field.can_be_missing


class _Inside:
    """A sink for the bytes in a string: adds where the string stood."""

    __slots__ = ("_at", "_sink", "kept", "settings")

    def __init__(self, sink: Sink, at: str) -> None:
        self._sink = sink
        self._at = at
        self.settings = sink.settings
        self.kept = sink.kept

    def take(self, field: Field, code: Any, at: Any) -> None:
        self._sink.take(field, code, f"{self._at}#{at}")

    def enter(self, fields: Sequence[Field]) -> None:
        self._sink.enter(fields)

    def next(self) -> None:
        self._sink.next()

    def leave(self) -> None:
        self._sink.leave()


def inside(pointer: str) -> Path:
    path = parse(pointer)
    if not path:
        raise ValueError("pointer must lead into the object")
    return path
