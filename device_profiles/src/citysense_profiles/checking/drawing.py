"""One drawing of a message: what stands in it this time, and a value for each field.

Owns walking the parts of a message: blocks and their conditions, repeats, items, lists of objects, registers. A drawing
may turn out not to be encodable; `round_trip.py` then draws again. Deterministic: all chance comes from the `Random`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random
from typing import Any, TypeVar

from citysense_profiles.checking.raw_codes import draw_code, draw_moment
from citysense_profiles.checking.whole_names import filled_in, resolved, within
from citysense_profiles.codecs.field import Field
from citysense_profiles.codecs.sinks import numbers_from
from citysense_profiles.errors import RefusedError
from citysense_profiles.format.binary import (
    BinaryField,
    Block,
    Element,
    Elements,
    Item,
    Items,
    Part,
    Repeat,
    When,
)
from citysense_profiles.format.documents import JsonBytes, JsonEach, JsonField, JsonPart, Only
from citysense_profiles.format.meaning import FromField
from citysense_profiles.format.profile_file import (
    BinaryMessage,
    DocumentMessage,
    EpcMessage,
    ModbusMessage,
    NativeMessage,
    TlvMessage,
)
from citysense_profiles.format.registers import ModbusField
from citysense_profiles.profile import Profile
from citysense_profiles.vocabulary import Vocabulary

_TRIES_PER_FIELD = 30
_MOST_ROUNDS = 3
_SHARED_ROLES = ("serial", "boot", "seq")
_EPC_HEADERS = (0x30, 0x33, 0x36, 0xE2)
Values = dict[str, Any]
_Choice = TypeVar("_Choice")


class Drawing:
    """One attempt. `faithful` is the share of values that are taken from the vectors, where these have one."""

    def __init__(
        self,
        profile: Profile,
        message: str,
        random: Random,
        vocabulary: Vocabulary,
        settings: Mapping[str, float],
        *,
        faithful: float,
    ) -> None:
        self._entry = profile.file.messages[message]
        self._random = random
        self._vocabulary = vocabulary
        self._settings = settings
        self._faithful = faithful
        self._fields = {field.name: field for field in profile.fields(message)}
        self._examples = _examples(profile, message)
        self._roles: dict[str, Any] = {}
        self._filled = filled_in(profile, message)

    def values(self) -> Values:
        """Values by name. Raises RefusedError where a field has none that it could carry."""
        entry = self._entry
        found: Values = {}
        match entry:
            case BinaryMessage():
                self._parts(entry.fields, "", found, {})
            case TlvMessage():
                self._items(entry.items, "", found, {})
            case DocumentMessage():
                listed = entry.codec.each is not None and self._random.random() < 0.5
                fill = self._object_of(entry.fields, "", [*entry.when.match, entry.codec.only])
                if listed:
                    self._rounds("", self._random.randint(1, _MOST_ROUNDS), fill, found, {})
                else:
                    fill(found, {})
            case ModbusMessage():
                self._registers(entry, found)
            case EpcMessage():
                found["epc"] = bytes((self._random.choice(_EPC_HEADERS), *self._random.randbytes(11))).hex().upper()
            case NativeMessage():
                found["boot"], found["seq"] = self._random.randint(0, 1000), self._random.randint(0, 1000)
                self._loose(found)
                found["base"] = self._random.randint(0, found["seq"])
            case _:
                self._loose(found)
        return found

    def _loose(self, found: Values) -> None:
        """Fields that stand side by side, each there or not."""
        for name in self._fields:
            if name not in found and self._random.random() < 0.8:
                self._give(name, found, {})

    # --- bytes

    def _parts(self, parts: Sequence[Part], prefix: str, found: Values, around: Mapping[str, Any]) -> None:
        for part in parts:
            match part:
                case BinaryField():
                    self._binary_field(part, prefix, found, around)
                case Block():
                    if part.when is None or self._holds(part.when, prefix, {**around, **found}):
                        self._parts(part.fields, within(prefix, part), found, around)
                case Repeat():
                    rounds = part.to if isinstance(part.to, int) else self._random.randint(0, _MOST_ROUNDS)
                    inner = within(prefix, part)
                    if rounds:
                        self._rounds(inner, rounds, self._frame_of(part.fields, inner), found, around)
                case Items():
                    self._items(part.items, prefix, found, around)
                case Elements():
                    for element in self._some(part.elements):
                        self._element(element, prefix, found, around)

    def _frame_of(self, parts: Sequence[Part], prefix: str) -> Callable[[Values, Mapping[str, Any]], None]:
        return lambda found, around: self._parts(parts, prefix, found, around)

    def _binary_field(self, part: BinaryField, prefix: str, found: Values, around: Mapping[str, Any]) -> None:
        if part.skip is not None or part.checksum is not None:
            return
        if part.bits is not None:
            for bit in part.bits:
                self._give(f"{prefix}{bit.name}", found, around)
            return
        name = f"{prefix}{part.name or part.role}"
        if part.const is None:
            self._give(name, found, around)
        elif name in self._fields:
            found[name] = self._fields[name].shown(part.const)

    def _element(self, element: Element, prefix: str, found: Values, around: Mapping[str, Any]) -> None:
        if element.fields is None:
            self._give(f"{prefix}{element.name}", found, around)
        else:
            self._parts(element.fields, prefix, found, around)

    def _items(self, items: Sequence[Item], prefix: str, found: Values, around: Mapping[str, Any]) -> None:
        for item in self._some(items):
            inner = within(prefix, item)
            if item.many:
                rounds = self._random.randint(1, _MOST_ROUNDS)
                names = [name for part in item.fields for name in self._names(part, inner)]
                self._rounds(inner, rounds, self._frame_of(item.fields, inner), found, around, names)
            else:
                self._parts(item.fields, inner, found, around)

    def _names(self, part: Part, prefix: str) -> Iterator[str]:
        """Every name at and below a part."""
        match part:
            case BinaryField():
                for entry in (part, *(part.bits or ())):
                    yield f"{prefix}{entry.name or entry.role}"
            case Block() | Repeat():
                for inner in part.fields:
                    yield from self._names(inner, within(prefix, part))
            case Items():
                for item in part.items:
                    for inner in item.fields:
                        yield from self._names(inner, within(prefix, item))
            case Elements():
                for element in part.elements:
                    yield f"{prefix}{element.name}"
                    for inner in element.fields or ():
                        yield from self._names(inner, prefix)

    def _some(self, choices: Sequence[_Choice]) -> list[_Choice]:
        """Some of them, in their order; at least one."""
        kept = [one for one in choices if self._random.random() < 0.5]
        return kept or [self._random.choice(choices)]

    def _holds(self, when: When, prefix: str, values: Mapping[str, Any]) -> bool:
        value = values.get(resolved(when.field, prefix, self._fields))
        return any(type(value) is type(one) and value == one for one in when.named) == (when.differs is None)

    def _rounds(
        self,
        prefix: str,
        rounds: int,
        fill: Callable[[Values, Mapping[str, Any]], None],
        found: Values,
        around: Mapping[str, Any],
        names: Sequence[str] | None = None,
    ) -> None:
        """Lists for everything that repeats; what a round lacks is None in it."""
        drawn: list[Values] = []
        for _ in range(rounds):
            drawn.append({})
            fill(drawn[-1], {**around, **found})
        for name in self._fields if names is None else names:
            given = name.startswith(prefix) if names is None else name in self._fields
            if given and name not in self._filled and (not rounds or any(name in values for values in drawn)):
                found[name] = [values.get(name) for values in drawn]

    # --- documents

    def _object_of(
        self, parts: Sequence[JsonPart], prefix: str, conditions: Sequence[Only | None]
    ) -> Callable[[Values, Mapping[str, Any]], None]:
        """Draws one object. `conditions` say what must stand at some pointers."""
        fixed = {one.pointer: one.equals for one in conditions if one is not None}

        def fill(found: Values, around: Mapping[str, Any]) -> None:
            for part in parts:
                match part:
                    case JsonEach():
                        inner = f"{prefix}{part.each}."
                        rounds = self._random.randint(0, _MOST_ROUNDS)
                        self._rounds(inner, rounds, self._object_of(part.fields, inner, [part.only]), found, around)
                    case JsonBytes():
                        if part.required or self._random.random() < 0.8:
                            self._parts(part.fields, within(prefix, part), found, around)
                    case JsonField() if part.pointer in fixed:
                        code = fixed[part.pointer]
                        name = f"{prefix}{part.name or part.role}"
                        found[name] = self._fields[name].shown(
                            self._random.choice(code) if isinstance(code, list) else code
                        )
                    case JsonField():
                        if part.required or self._random.random() < 0.8:
                            self._give(f"{prefix}{part.name or part.role}", found, around)

        return fill

    # --- registers

    def _registers(self, entry: ModbusMessage, found: Values) -> None:
        """Everything that is polled; of a command some, and never two that share a register."""
        taken: set[tuple[str, int]] = set()
        fields = [one for one in entry.fields if entry.direction == "up" or one.access != "r"]
        if entry.direction == "down":
            fields = self._random.sample(fields, self._random.randint(1, len(fields))) if fields else []
        for field in fields:
            keys = {(field.table, field.address + step) for step in range(_words(field))}
            if entry.direction == "up" and field.access == "w":
                continue
            if not keys & taken:
                taken |= keys
                for name in [bit.name for bit in field.bits] if field.bits is not None else [field.name]:
                    self._give(name or "", found, {})

    # --- one value

    def _give(self, name: str, found: Values, around: Mapping[str, Any]) -> None:
        if name in self._fields and name not in self._filled:
            found[name] = self._value(self._fields[name], {**around, **found})

    def _value(self, field: Field, known: Mapping[str, Any]) -> Any:
        # What is computed with another field of the message cannot be taken from a vector without that.
        computed = any(isinstance(need, FromField) for need in field.needs)
        examples = None if computed else self._examples.get(field.name)
        if examples and self._random.random() < self._faithful:
            return self._random.choice(examples)
        if field.role in _SHARED_ROLES and field.role in self._roles:
            return self._roles[field.role]
        if field.role == "time" and field.named is not None:
            return field.named(draw_moment(self._random))
        if field.role is None and field.can_be_missing and self._random.random() < 0.1:
            return None
        metric = self._vocabulary.metric(field.metric) if field.metric is not None else None
        refused: RefusedError | None = None
        for _ in range(_TRIES_PER_FIELD):
            code = draw_code(field, metric, self._random)
            try:
                numbers = numbers_from(field, self._settings, known) if field.needs else ()
                value = field.shown(code, *numbers)
                if field.told is not None:
                    field.told(code, *numbers)
            except RefusedError as error:
                refused = error
                continue
            if value is None and not field.can_be_missing:
                continue  # a code outside the range: there is no way to say this again
            if field.role is not None:
                self._roles[field.role] = value
            return value
        if examples:
            return self._random.choice(examples)
        raise RefusedError(f"{field.name}: {refused}")


def _examples(profile: Profile, message: str) -> dict[str, list[Any]]:
    """What the vectors show of each field, lists taken apart."""
    found: dict[str, list[Any]] = {}
    for vector in profile.vectors:
        if vector.message == message and vector.values is not None and not vector.tolerance:
            for name, value in vector.values.items():
                found.setdefault(name, []).extend(_flat(value))
    return found


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        for one in value:
            yield from _flat(one)
    else:
        yield value


def _words(field: ModbusField) -> int:
    if field.count is not None:
        return field.count
    return {"32": 2, "64": 4}.get(field.type[1:], 1)
