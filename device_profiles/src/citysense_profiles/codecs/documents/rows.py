"""The short way through flat objects: keys of one object, read straight into a sample.

Owns nothing but speed: whatever is not plain (null, another type, a refused value, something required that is absent)
is left to the parts of the message, which say the same and say why not. A test holds the two against each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from citysense_profiles.codecs.contract import Finish
from citysense_profiles.codecs.documents.parts import Item
from citysense_profiles.codecs.documents.scalars import LEAST, MOST, ShapeError
from citysense_profiles.codecs.documents.values import Leaf
from citysense_profiles.errors import RefusedError
from citysense_profiles.reading import Decoded, Value
from citysense_profiles.values.conversion import SILENT

Row = tuple[str, Callable[[Any], Any], Callable[[Any], Any], str | None, str | None, bool, tuple[int, int, int] | None]
"""Key, check of the type, what it tells, metric, role, whether it must be there; p, b and q where an int only scales."""


@dataclass(frozen=True, slots=True)
class Rows:
    """One row a field."""

    rows: tuple[Row, ...]

    def decode(
        self, document: dict[str, Any], message: str, finish: Finish, settings: Mapping[str, float]
    ) -> Decoded | None:
        """The readings, None where the long way is needed."""
        values: dict[str, Value] = {}
        roles: dict[str, Any] = {}
        try:
            for key, check, tell, metric, role, required, scaling in self.rows:
                if key in document:
                    code = document[key]
                    if scaling is not None and metric is not None:
                        if type(code) is not int or not LEAST <= code <= MOST:
                            return None
                        p, b, q = scaling
                        values[metric] = (code * p + b) / q
                        continue
                    told = tell(check(code))
                    if metric is not None:
                        if told is not SILENT:
                            values[metric] = told
                    elif role is not None:
                        roles.setdefault(role, told)
                elif required:
                    return None
        except (RefusedError, ShapeError):
            return None
        if None in values.values():
            return None
        if not roles:
            return Decoded(message=message, samples=finish.sample(values, [], settings))
        return Decoded(
            message=message,
            samples=finish.sample(values, [], settings, time=roles.get("time"), tag=roles.get("tag")),
            boot=roles.get("boot"),
            seq=roles.get("seq"),
            serial=roles.get("serial"),
        )


def compile_rows(item: Item) -> Rows | None:
    """The rows of an object, None where it has more than keys and plain values."""
    if item.selects:
        return None
    rows: list[Row] = []
    for part in item.parts:
        if not isinstance(part, Leaf) or len(part.path) != 1 or part.path[0][1] is not None or part.plain.needs:
            return None
        field, way = part.plain, part.plain.conversion.plain
        scaling = (way.p, way.b, way.q) if way is not None and part.kind == "int" else None
        tell = field.told or field.shown
        rows.append((part.path[0][0], part.check, tell, field.metric, field.role, part.required, scaling))
    return Rows(tuple(rows))
