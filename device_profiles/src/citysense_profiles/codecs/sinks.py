"""Where decoded fields go: into readings, or into values by name. Decoding walks once and does not know which.

Owns the two collectors. A round of a repeat is a moment of its own: a sample among the readings, a place in the lists
by name. Codecs may fill `values` of a `Readings` themselves where that is faster; the outcome must be the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from citysense_profiles.codecs.contract import Finish, Named
from citysense_profiles.codecs.field import Field
from citysense_profiles.errors import RefusedError
from citysense_profiles.format.meaning import FromSetting
from citysense_profiles.reading import Decoded, Sample, Value
from citysense_profiles.values.conversion import SILENT


class Sink(Protocol):
    """What a walk over a frame talks to.

    `kept` holds, by name, those values that later fields refer to; the codec that knows which they are puts them there.
    """

    settings: Mapping[str, float]
    kept: dict[str, Any]

    def take(self, field: Field, code: Any, at: Any) -> None:
        """A raw code and where it stood. Raises RefusedError where the field cannot carry it."""
        ...

    def enter(self, fields: Sequence[Field]) -> None:
        """A repeat of these fields begins."""
        ...

    def next(self) -> None:
        """A round of the innermost repeat begins."""
        ...

    def leave(self) -> None:
        """The innermost repeat ends."""
        ...


def numbers_of(field: Field, sink: Sink) -> tuple[Any, ...]:
    """The numbers from elsewhere that a field is computed with. Raises RefusedError where one is not known."""
    return numbers_from(field, sink.settings, sink.kept)


def numbers_from(field: Field, settings: Mapping[str, float], kept: Mapping[str, Any]) -> tuple[Any, ...]:
    """The same, from settings and values by name."""
    found = []
    for need in field.needs:
        if isinstance(need, FromSetting):
            number = settings.get(need.setting)
            if number is None:
                raise RefusedError(f"setting {need.setting} is needed and not known; enter it for this device")
        else:
            number = kept.get(need.field)
            if number is None:
                raise RefusedError(f"{need.field}, which this is computed with, has no value")
        found.append(number)
    return tuple(found)


class _Moment:
    """One sample in the making."""

    __slots__ = ("missing", "roles", "values")

    def __init__(self) -> None:
        self.values: dict[str, Value] = {}
        self.missing: list[str] = []
        self.roles: dict[str, Any] = {}


class Readings:
    """Collects metrics and roles. `decoded` finishes it."""

    __slots__ = ("_finish", "_rounds", "_stack", "kept", "now", "settings")

    def __init__(self, finish: Finish, settings: Mapping[str, float]) -> None:
        self._finish = finish
        self.settings = settings
        self.kept: dict[str, Any] = {}
        self.now = _Moment()
        self._rounds: list[tuple[_Moment, _Moment | None]] = []
        self._stack: list[_Moment] = []

    def take(self, field: Field, code: Any, at: Any) -> None:
        """Keeps what the field tells; a field without metric and role says nothing here, but must be readable."""
        numbers = numbers_of(field, self) if field.needs else ()
        told = field.told
        if told is None:
            field.shown(code, *numbers)
            return
        value = told(code, *numbers)
        if field.role is not None:
            if value is not None:
                self.now.roles.setdefault(field.role, value)
        elif value is None:
            self.now.missing.append(field.metric or "")
        elif value is not SILENT:
            self.now.values[field.metric or ""] = value

    def enter(self, fields: Sequence[Field]) -> None:
        """A repeat begins."""
        self._stack.append(self.now)

    def next(self) -> None:
        """A new moment."""
        self.now = _Moment()
        self._rounds.append((self.now, self._stack[-1]))

    def leave(self) -> None:
        """Back to the moment around the repeat."""
        self.now = self._stack.pop()

    def decoded(self, message: str) -> Decoded:
        """The readings: the frame's own moment first, then the rounds in order.

        A round without a time of its own has that of the moment around it; one whose time is marked as none is an empty
        place in the device's log and gives nothing. Counters and serial belong to the frame. Raises RefusedError where
        two parts of one frame disagree on them.
        """
        outer = self.now
        samples = list(self._sample(outer, outer.roles))
        frame = dict(outer.roles)
        around: dict[int, dict[str, Any]] = {id(outer): outer.roles}
        for moment, parent in self._rounds:
            if moment.roles.get("time") is SILENT:
                continue
            roles = {**around.get(id(parent), {}), **moment.roles}
            around[id(moment)] = roles
            for role in ("serial", "boot", "seq"):
                if role in moment.roles and frame.setdefault(role, moment.roles[role]) != moment.roles[role]:
                    raise RefusedError(
                        f"parts of one frame disagree on {role}: {frame[role]!r}, {moment.roles[role]!r}"
                    )
            samples.extend(self._sample(moment, {**roles, "tag": moment.roles.get("tag")}))
        return Decoded(
            message=message,
            samples=tuple(samples),
            boot=frame.get("boot"),
            seq=frame.get("seq"),
            serial=frame.get("serial"),
        )

    def _sample(self, moment: _Moment, roles: Mapping[str, Any]) -> tuple[Sample, ...]:
        if self._rounds and not moment.values and not moment.missing and "tag" not in moment.roles:
            return ()  # the frame around a list, or a round that says nothing: not an event of its own
        # What stands twice in a frame, first without and then with a value, is not missing.
        missing = [metric for metric in moment.missing if metric not in moment.values] if moment.missing else []
        return self._finish.sample(moment.values, missing, self.settings, time=roles.get("time"), tag=roles.get("tag"))


class ByName:
    """Collects every value by name, and where it stood."""

    __slots__ = ("_stack", "kept", "settings", "values", "where")

    def __init__(self, settings: Mapping[str, float]) -> None:
        self.settings = settings
        self.kept: dict[str, Any] = {}
        self.values: dict[str, Any] = {}
        self.where: dict[str, Any] = {}
        self._stack: list[tuple[Sequence[Field], dict[str, Any], dict[str, Any], list[Any]]] = []

    def take(self, field: Field, code: Any, at: Any) -> None:
        """Keeps the value by name; the readings' face is tried as well, so that both ways refuse the same frames."""
        numbers = numbers_of(field, self) if field.needs else ()
        if field.told is not None:
            field.told(code, *numbers)
        self.values[field.name] = field.shown(code, *numbers)
        self.where[field.name] = at

    def enter(self, fields: Sequence[Field]) -> None:
        """A repeat of these fields begins."""
        self._stack.append((fields, self.values, self.where, []))

    def next(self) -> None:
        """A new place in the lists."""
        self.values, self.where = {}, {}
        self._stack[-1][3].append((self.values, self.where))

    def leave(self) -> None:
        """Turn the rounds into lists: what stood in some is None in the others, what stood in none is not there.

        Where nothing at all stood in them, all lists are there, so that their length says how many rounds there were.
        """
        fields, values, where, rounds = self._stack.pop()
        seen = set().union(*(round_values for round_values, _ in rounds))
        for field in fields:
            if seen and field.name not in seen:
                continue
            values[field.name] = [round_values.get(field.name) for round_values, _ in rounds]
            where[field.name] = [round_where.get(field.name) for _, round_where in rounds]
        self.values, self.where = values, where

    def named(self, message: str) -> Named:
        """All of it."""
        return Named(message=message, values=self.values, where=self.where)
