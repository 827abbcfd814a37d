"""A device that moves as its profile's `sim` says: values by name, report after report.

Owns the four behaviours (walk, drain, cycle, constant). Fields without one keep the value of the profile's first example
of the message, or of a drawing where there is none; frame numbers and times go on. Chance and the time that has passed
come from the caller; nothing here sleeps, sends or reads a clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

from citysense_profiles.checking.round_trip import draw, drawn_settings
from citysense_profiles.checking.vector_check import frame_of, registers_of
from citysense_profiles.codecs.field import Field
from citysense_profiles.errors import DecodeError
from citysense_profiles.format.profile_file import Behaviour, Walk
from citysense_profiles.profile import Profile
from citysense_profiles.vocabulary import Vocabulary

SECONDS_A_DAY = 86_400.0


class Simulation:
    """One simulated device and one of its messages, or register maps.

    `settings` are the device's, in their units; what is not given is as `drawn_settings` has it.
    """

    def __init__(
        self,
        profile: Profile,
        message: str,
        *,
        random: Random,
        vocabulary: Vocabulary,
        settings: Mapping[str, float] | None = None,
    ) -> None:
        self._random = random
        self.settings = {**drawn_settings(profile), **(settings or {})}
        names = {field.name: field.depth for field in profile.fields(message)}
        start = _example(profile, message, self.settings)
        if start is None:
            start = draw(profile, message, random, vocabulary, self.settings)
        self._still = {name: _one_of_many(value) if names[name] == 0 else value for name, value in start.items()}
        # What the example leaves out (a part that is there under a condition only) stays out.
        self._moving = {
            name: behaviour
            for name, behaviour in profile.file.sim.items()
            if name in self._still and names[name] == 0 and _first_with(profile, name) == message
        }
        self._counting = [
            field for field in profile.fields(message) if field.role in ("seq", "time") and field.depth == 0
        ]
        self._whole = {
            field.name for field in profile.fields(message) if field.raw == "int" and field.entry.scale.denominator == 1
        }
        self._places: dict[str, float] = {}
        self._reports = 0

    def report(self, elapsed: float) -> dict[str, Any]:
        """What the device says `elapsed` seconds after its start, by name. Each call is one report."""
        values = dict(self._still)
        for name, behaviour in self._moving.items():
            values[name] = self._moved(name, behaviour, elapsed)
        for field in self._counting:
            if values.get(field.name) is not None:
                values[field.name] = self._counted(field, values[field.name], elapsed)
        self._reports += 1
        return values

    def _counted(self, field: Field, start: Any, elapsed: float) -> Any:
        """Frames are numbered on, and times go with the time that has passed."""
        if field.role == "seq":
            return start + self._reports
        if field.told is None or field.named is None:
            return start
        return field.named(field.told(field.stored(start)) + round(elapsed * 1000))

    def _moved(self, name: str, behaviour: Behaviour, elapsed: float) -> Any:
        if behaviour.cycle is not None:
            return behaviour.cycle[self._reports % len(behaviour.cycle)]
        if behaviour.walk is not None:
            place = self._walked(name, behaviour.walk)
        elif behaviour.drain is not None:
            place = behaviour.drain.start - behaviour.drain.per_day * elapsed / SECONDS_A_DAY
        else:
            return behaviour.constant
        return round(place) if name in self._whole else place

    def _walked(self, name: str, walk: Walk) -> float:
        """A step in either direction, never past the ends."""
        low, high = min(walk.start, walk.to), max(walk.start, walk.to)
        before = self._places.get(name)
        place = walk.start if before is None else before + self._random.uniform(-walk.step, walk.step)
        self._places[name] = min(max(place, low), high)
        return self._places[name]


def _example(profile: Profile, message: str, settings: Mapping[str, float]) -> dict[str, Any] | None:
    """What the first vector of the message says, under the options in force; None where there is none."""
    for vector in profile.vectors:
        if vector.message != message or vector.error is not None or vector.wire.request or vector.wire.write:
            continue
        try:
            if vector.wire.registers is not None:
                return dict(
                    profile.decode_register_fields(registers_of(vector), message=message, settings=settings).values
                )
            frame = frame_of(vector)
            return dict(profile.decode_fields(frame, message=message, content=vector.content, settings=settings).values)
        except DecodeError:
            continue  # an example of another variant
    return None


def _first_with(profile: Profile, name: str) -> str | None:
    """A behaviour belongs to the first message from the device that has the field."""
    for message, entry in profile.file.messages.items():
        if entry.direction == "up" and any(field.name == name for field in profile.fields(message)):
            return message
    return None


def _one_of_many(value: Any) -> Any:
    """Where a document may be a list of reports, one report is simulated."""
    return value[0] if isinstance(value, list) and value else value
