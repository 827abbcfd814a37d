"""Which records of a SenML pack a profile knows: by name, kind of value and unit, below a sender's base name.

Owns the fields of a pack as the profile lists them, and taking a name apart into sender and rest. Knows nothing of times
or of how records are grouped.
"""

from __future__ import annotations

import string
from dataclasses import dataclass

from citysense_profiles.codecs.field import Field, FieldFault, compile_field
from citysense_profiles.codecs.senml.records import Record, RecordError
from citysense_profiles.format.documents import SenmlField
from citysense_profiles.format.meaning import FromField
from citysense_profiles.values.conversion import Raw
from citysense_profiles.vocabulary import Vocabulary

_RAW: dict[str, Raw] = {"v": "number", "vb": "bool", "vs": "text", "vd": "text"}
SERIAL_LETTERS = string.ascii_letters + string.digits + "_-."


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a record of this name, kind of value and unit says. `unit` is the one that we write, if any."""

    field: Field
    name: str
    kind: str
    units: frozenset[str]
    unit: str | None


class UnitError(ValueError):
    """Another unit than the profile expects."""


class Splits:
    """Takes names apart into the serial of a base name and the rest. Remembers what it has seen: names come again."""

    def __init__(self, base_names: list[tuple[str, str]]) -> None:
        self._base_names = base_names
        self._base = ""
        self._whole: str | None = None
        self._parts: dict[str, tuple[str | None, str]] = {}

    def split(self, base: str, name: str) -> tuple[str | None, str]:
        """(serial, rest). A name without a known base name belongs to the sender of the channel."""
        if not self._base_names:
            return None, base + name
        if base != self._base:
            self._base = base
            self._parts = {}
            serial, rest = self._parted(base)
            # A base name that ends with what follows the serial leaves the record's own name as the rest.
            self._whole = serial if serial is not None and not rest and base[-1] not in SERIAL_LETTERS else None
        if self._whole is not None:
            return self._whole, name
        parts = self._parts.get(name)
        if parts is None:
            parts = self._parts[name] = self._parted(base + name)
        return parts

    def _parted(self, name: str) -> tuple[str | None, str]:
        for before, after in self._base_names:
            if name.startswith(before):
                rest = name[len(before) :].lstrip(SERIAL_LETTERS)
                serial = name[len(before) : len(name) - len(rest)]
                if serial and rest.startswith((after, "/")):
                    return serial, rest.removeprefix(after)
        return None, name


def choose(targets: tuple[Target, ...], record: Record) -> Target | None:
    """The one that the record's kind of value and unit fit, None for a sum."""
    first = targets[0]
    if first.kind == record.kind and (not first.units or record.unit in first.units):
        return first
    candidates = [target for target in targets if target.kind == record.kind]
    if not candidates:
        if record.sums and record.kind is None:
            return None
        raise RecordError(f"{targets[0].name!r} carries no {targets[0].kind}")
    unit = record.unit
    for target in candidates:
        if not target.units or (unit or "") in target.units or (unit is None and len(candidates) == 1):
            return target
    known = sorted({unit for target in candidates for unit in target.units})
    raise UnitError(f"{targets[0].name} comes in {unit!r}, the profile knows {', '.join(known)}")


def compile_targets(
    entries: list[SenmlField], vocabulary: Vocabulary, taken: set[str], *, anonymous: bool
) -> tuple[Target, ...]:
    targets: list[Target] = []
    for position, entry in enumerate(entries):
        label = entry.name or entry.senml or f"#{position}"
        try:
            target = _target(entry, vocabulary)
            if target.field.name in taken:
                raise ValueError(f"the name {target.field.name} stands twice, or is that of a base field")
            if not entry.senml and not anonymous:
                raise ValueError("a record without a name of its own needs base_names")
            for other in targets:
                if (
                    other.name == target.name
                    and other.kind == target.kind
                    and (not (other.units and target.units) or other.units & target.units)
                ):
                    raise ValueError(f"{entry.senml!r} stands twice; tell the two apart by `units`")
        except (ValueError, KeyError) as error:
            raise FieldFault(label, str(error.args[0])) from error
        taken.add(target.field.name)
        targets.append(target)
    return tuple(targets)


def _target(entry: SenmlField, vocabulary: Vocabulary) -> Target:
    if entry.name is None and entry.role is None:
        raise ValueError("a value needs a name")
    if entry.role == "time":
        raise ValueError("the time stands in the pack's base fields")
    field = compile_field(entry, _RAW[entry.value], vocabulary)
    if any(isinstance(need, FromField) for need in field.needs):
        raise ValueError("records stand in any order, so none can be computed with another")
    unit = entry.units[0] if entry.units else None
    return Target(field=field, name=entry.senml, kind=entry.value, units=frozenset(entry.units), unit=unit or None)
