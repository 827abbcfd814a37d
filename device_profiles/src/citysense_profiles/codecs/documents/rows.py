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
from citysense_profiles.values.moment import LATEST

_LARGEST = 1e100
"""Numbers beyond this are left to the long way, which knows what a double holds."""
_LATEST_SECOND = LATEST // 1000
_NO_WAY = (1, 0, 1)
_SCALED, _NUMBER, _TRUTH, _SECONDS, _TOLD = range(5)
"""How a row is read: an int that only scales; a number in the metric's unit; true or false; a time in whole seconds;
anything else, by the field's own functions."""

Row = tuple[str, int, str, bool, tuple[int, int, int], Callable[[Any], Any]]
"""Key, how, metric (or role, where none), whether it must be there, p, b and q, what it tells."""


@dataclass(frozen=True, slots=True)
class Rows:
    """One row a field; `roles` are the keys whose row tells a role."""

    rows: tuple[Row, ...]
    roles: frozenset[str]

    def decode(
        self, document: dict[str, Any], message: str, finish: Finish, settings: Mapping[str, float]
    ) -> Decoded | None:
        """The readings, None where the long way is needed."""
        values: dict[str, Value] = {}
        roles: dict[str, Any] = {}
        try:
            for key, how, target, required, way, tell in self.rows:
                if key not in document:
                    if required:
                        return None
                    continue
                code = document[key]
                kind = type(code)
                if how == _SCALED:
                    if kind is not int or not LEAST <= code <= MOST:
                        return None
                    p, b, q = way
                    values[target] = (code * p + b) / q
                elif (how == _NUMBER and kind is float and -_LARGEST <= code <= _LARGEST) or (
                    how == _TRUTH and kind is bool
                ):
                    values[target] = code
                elif how == _SECONDS and kind is int and 0 <= code <= _LATEST_SECOND:
                    roles.setdefault(target, code * 1000)
                elif not self._take(key, target, tell(code), values, roles):
                    return None
        except (RefusedError, ShapeError):
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

    def _take(self, key: str, target: str, told: Any, values: dict[str, Value], roles: dict[str, Any]) -> bool:
        """False for "no value", which is the long way's business."""
        if told is None:
            return False
        if key in self.roles:
            roles.setdefault(target, told)
        elif target and told is not SILENT:
            values[target] = told
        return True


def compile_rows(item: Item) -> Rows | None:
    """The rows of an object, None where it has more than keys and plain values."""
    if item.selects:
        return None
    rows: list[Row] = []
    roles: set[str] = set()
    for part in item.parts:
        if not isinstance(part, Leaf) or len(part.path) != 1 or part.path[0][1] is not None or part.plain.needs:
            return None
        key = part.path[0][0]
        if any(key == other for other, *_ in rows):
            return None
        if part.plain.role is not None:
            roles.add(key)
        rows.append(_row(key, part))
    return Rows(tuple(rows), frozenset(roles))


def _row(key: str, part: Leaf) -> Row:
    field, check = part.plain, part.check
    tell, way = field.told or field.shown, field.conversion.plain
    target, entry = field.metric or field.role or "", field.entry
    plain = not (entry.map or entry.means or entry.invalid or entry.valid or entry.span)

    def told(code: Any) -> Any:
        return tell(check(code))

    if field.metric is not None and way is not None and part.kind == "int":
        return key, _SCALED, target, part.required, (way.p, way.b, way.q), told
    if field.metric is not None and part.kind == "number" and plain and tell(0.5) == 0.5 and tell(-3.0) == -3.0:
        return key, _NUMBER, target, part.required, _NO_WAY, told
    if field.metric is not None and part.kind == "bool" and plain:
        return key, _TRUTH, target, part.required, _NO_WAY, told
    if field.role == "time" and part.kind == "int" and entry.form == "unix_s" and plain:
        return key, _SECONDS, target, part.required, _NO_WAY, told
    return key, _TOLD, target, part.required, _NO_WAY, told
