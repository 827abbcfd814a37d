"""The scenario file as its author writes it: devices, their places, and what they measure over the minutes.

Owns the shape of the YAML and the checks within one file. It computes no values (`behaviour.py`) and knows no profile:
whether a metric fits is what the profile's encoder says.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from citysense.errors import SetupError

Value = bool | int | float | str
Minute = Annotated[float, Field(ge=0)]
DeviceId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
SHIPPED = Path(__file__).parent / "scenarios"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Site(_Strict):
    """Where the device stands."""

    name: Annotated[str, StringConstraints(min_length=1)]
    lon: Annotated[float, Field(ge=-180, le=180)]
    lat: Annotated[float, Field(ge=-90, le=90)]
    datum: Literal["wgs84", "gcj02", "bd09"]


class Course(_Strict):
    """How one metric goes. Exactly one of curve (straight lines), steps (holds until the next) and constant.

    `below` is where a sensor hangs that looks down: the value is `below` minus the curve. `noise` is added up to that
    amount either way, in the metric's unit; `digits` rounds.
    """

    curve: str | None = None
    steps: Annotated[list[tuple[Minute, Value]], Field(min_length=1)] | None = None
    constant: Value | None = None
    below: float | None = None
    noise: Annotated[float, Field(ge=0)] = 0.0
    digits: Annotated[int, Field(ge=0, le=6)] = 3

    @model_validator(mode="after")
    def _one(self) -> Course:
        if sum(way is not None for way in (self.curve, self.steps, self.constant)) != 1:
            raise ValueError("give exactly one of curve, steps, constant")
        if self.curve is None and (self.below is not None or self.noise):
            raise ValueError("below and noise go with a curve")
        if self.steps is not None:
            _ascending([minute for minute, _ in self.steps])
        return self


class Event(_Strict):
    """A report at one moment, besides the regular ones."""

    minute: Minute
    values: Annotated[dict[str, Value], Field(min_length=1)]
    tag: str | None = None


class Device(_Strict):
    """One virtual device. `report_s` is scenario time between reports; none: the device speaks at its events only.

    A Modbus device is asked, so it has neither. `serial` is the vendor's own id, where the payload carries one.
    """

    id: DeviceId
    profile: str
    message: str
    transport: Literal["mqtt", "coap", "modbus"]
    content: int | None = None
    serial: str | None = None
    site: Site
    settings: dict[str, float | str] = {}
    report_s: Annotated[float, Field(gt=0)] | None = None
    values: dict[str, Course] = {}
    events: list[Event] = []

    @model_validator(mode="after")
    def _speaks(self) -> Device:
        if self.transport == "modbus":
            if self.report_s is not None or self.events:
                raise ValueError("a Modbus device is polled: it has values, but neither report_s nor events")
        elif self.report_s is None and not self.events:
            raise ValueError("the device never speaks: give report_s or events")
        if (self.report_s is not None or self.transport == "modbus") and not self.values:
            raise ValueError("a device that reports or is polled needs values")
        if self.content is not None and self.transport != "coap":
            raise ValueError("content is a CoAP content format; the device does not speak CoAP")
        return self


class Scenario(_Strict):
    """A whole scenario. After `length_min` it begins again."""

    schema_: Annotated[Literal[1], Field(alias="schema")]
    title: str
    length_min: Annotated[float, Field(gt=0)]
    curves: dict[str, Annotated[list[tuple[Minute, float]], Field(min_length=2)]] = {}
    devices: Annotated[list[Device], Field(min_length=1)]

    @model_validator(mode="after")
    def _whole(self) -> Scenario:
        for name, points in self.curves.items():
            try:
                _ascending([minute for minute, _ in points])
            except ValueError as e:
                raise ValueError(f"curves.{name}: {e}") from e
        ids = [device.id for device in self.devices]
        doubled = sorted({device for device in ids if ids.count(device) > 1})
        if doubled:
            raise ValueError(f"devices: {', '.join(doubled)} stands there twice")
        for device in self.devices:
            for name, course in device.values.items():
                if course.curve is not None and course.curve not in self.curves:
                    raise ValueError(f"devices.{device.id}.values.{name}: there is no curve {course.curve!r}")
            for event in device.events:
                if event.minute >= self.length_min:
                    raise ValueError(
                        f"devices.{device.id}.events: minute {event.minute} is past the end, {self.length_min}"
                    )
        return self


def _ascending(minutes: list[float]) -> None:
    if any(later <= earlier for earlier, later in pairwise(minutes)):
        raise ValueError("minutes must rise from point to point")


def find_scenario(name: str) -> Path:
    """The file that `name` means: a shipped scenario (`storm`), or a path. Raises SetupError when there is neither."""
    shipped = SHIPPED / f"{name}.yaml"
    if shipped.is_file():
        return shipped
    path = Path(name)
    if not path.is_file():
        raise SetupError(f"there is no scenario {name!r}: give a file, or one of those shipped: {_shipped()}")
    return path


def _shipped() -> str:
    return ", ".join(sorted(file.stem for file in SHIPPED.glob("*.yaml")))


def load_scenario(path: Path) -> Scenario:
    """The scenario in `path`. Raises SetupError naming file, field and value."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise SetupError(f"scenario {path} cannot be read ({e.strerror}); shipped scenarios: {_shipped()}") from e
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise SetupError(f"scenario {path} is no valid YAML: {e}") from e
    try:
        return Scenario.model_validate(content)
    except ValidationError as e:
        parts = [f"{'.'.join(map(str, item['loc'])) or 'file'}: {item['msg']}" for item in e.errors()]
        raise SetupError(f"scenario {path}: {'; '.join(parts)}") from e
