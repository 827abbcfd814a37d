"""A frame in the making: its bytes so far, and what must be filled in once later parts are known.

Owns lengths, counts and check sums, which stand before or behind what they speak of, and the way from lists by name to
the values of single rounds. Knows nothing of types or fields' places in a profile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from citysense_profiles.codecs.field import Field
from citysense_profiles.errors import RefusedError


class Counter(Protocol):
    """A field that says how long or how many something is."""

    label: str

    def patched(self, code: bytes, number: int) -> bytes:
        """Its bytes, told to say `number` instead. Raises RefusedError where it cannot."""
        ...


class Sum(Protocol):
    """A check sum that stands in the frame."""

    size: int

    def over(self, data: bytes, at: int) -> bytes:
        """Its bytes at `at`."""
        ...


@dataclass(slots=True)
class _Spot:
    """Where a counter was written, and what it has been told."""

    at: int
    size: int
    counter: Counter
    number: int | None = None


class Writing:
    """What parts write into. `kept` holds values by name that later parts refer to, `values` what the caller gives."""

    __slots__ = ("_spots", "_sums", "data", "in_round", "kept", "settings", "values")

    def __init__(self, values: Mapping[str, Any], settings: Mapping[str, float]) -> None:
        self.values: dict[str, Any] = dict(values)
        self.settings = settings
        self.kept: dict[str, Any] = {}
        self.data = bytearray()
        self.in_round = False
        self._spots: dict[str, _Spot] = {}
        self._sums: list[tuple[int, Sum]] = []

    def one_round(self, values: dict[str, Any]) -> Writing:
        """The same frame, with the values of one round."""
        inner = Writing.__new__(Writing)
        inner.values, inner.settings, inner.kept, inner.data = values, self.settings, self.kept, self.data
        inner.in_round = True
        inner._spots, inner._sums = self._spots, self._sums
        return inner

    def gives(self, fields: Sequence[Field]) -> bool:
        """Whether the caller gives a value of one of these. In a round, None may stand for "not there"."""
        values = self.values
        return any(field.name in values and not (self.in_round and values[field.name] is None) for field in fields)

    def counts(self, name: str, counter: Counter, size: int) -> None:
        """The next `size` bytes are a counter that `fill` will find under `name`."""
        self._spots[name] = _Spot(len(self.data), size, counter)

    def fill(self, name: str, number: int) -> None:
        """Tell the counter of that name. Raises RefusedError where it cannot say so, or has been told otherwise."""
        spot = self._spots.get(name)
        if spot is None:
            raise RefusedError(f"{name}, which says how long it is, is not in the frame")
        if spot.number not in (None, number):
            raise RefusedError(f"{name} would have to be {spot.number} and {number}")
        spot.number = number
        place = slice(spot.at, spot.at + spot.size)
        self.data[place] = spot.counter.patched(bytes(self.data[place]), number)

    def sums(self, check: Sum) -> None:
        """A check sum stands here and is computed when everything else is written."""
        self._sums.append((len(self.data), check))
        self.data += bytes(check.size)

    def finished(self) -> bytes:
        """The frame with its check sums."""
        for at, check in self._sums:
            self.data[at : at + check.size] = check.over(bytes(self.data), at)
        return bytes(self.data)


def rounds_of(fields: Sequence[Field], values: Mapping[str, Any], depth: int) -> list[dict[str, Any]]:
    """The values of each round, out of lists by name: round i has the i-th entry of each.

    `depth` counts the lists around these rounds. None in a list stands for "no value" where the field can say that,
    else for "not there". Raises RefusedError where the lists are none, or are not equally long.
    """
    given = [field for field in fields if field.name in values]
    for field in given:
        if not isinstance(values[field.name], list | tuple):
            raise RefusedError(f"{field.name} is a list, with one value for each round")
    lengths = {len(values[field.name]) for field in given}
    if len(lengths) > 1:
        words = ", ".join(f"{field.name} {len(values[field.name])}" for field in given)
        raise RefusedError(f"the lists are not equally long ({words})")
    return [
        {
            field.name: values[field.name][index]
            for field in given
            if values[field.name][index] is not None or (field.can_be_missing and field.depth == depth + 1)
        }
        for index in range(lengths.pop() if lengths else 0)
    ]
