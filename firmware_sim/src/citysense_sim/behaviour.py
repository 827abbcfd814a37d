"""What a virtual device measures and when it speaks: pure functions of the scenario and the time since its start.

Owns curves, steps, noise and the plan of reports. No clock, no sockets, no profiles.
"""

from __future__ import annotations

import heapq
import random
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from citysense_sim.scenario import Course, Device, Scenario, Value

SHORTEST_REPORT_S = 0.5
"""Real seconds between two reports of a device, however fast the scenario runs: faster gauges do not exist."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One report that is due `at_s` real seconds after the start."""

    at_s: float
    values: dict[str, Value]
    tag: str | None = None


def curve_at(points: list[tuple[float, float]], minute: float) -> float:
    """The curve's value: straight lines between the points, level before the first and after the last."""
    index = bisect_right(points, minute, key=lambda point: point[0])
    if index == 0:
        return points[0][1]
    if index == len(points):
        return points[-1][1]
    (left, low), (right, high) = points[index - 1], points[index]
    return low + (high - low) * (minute - left) / (right - left)


def step_at(steps: list[tuple[float, Value]], minute: float) -> Value:
    """The value of the last step begun; before the first, the last one still holds from the round before."""
    return steps[bisect_right(steps, minute, key=lambda step: step[0]) - 1][1]


def minute_at(scenario: Scenario, elapsed_s: float, speed: float) -> float:
    """The scenario's minute, `elapsed_s` real seconds after the start."""
    return (elapsed_s * speed / 60) % scenario.length_min


def values_at(scenario: Scenario, device: Device, elapsed_s: float, speed: float) -> dict[str, Value]:
    """Every regular metric of the device at a moment. The same moment always gives the same values."""
    minute = minute_at(scenario, elapsed_s, speed)
    noise = random.Random(f"{device.id} {elapsed_s:.3f}")
    return {name: _value(scenario, course, minute, noise) for name, course in device.values.items()}


def _value(scenario: Scenario, course: Course, minute: float, noise: random.Random) -> Value:
    if course.constant is not None:
        return course.constant
    if course.steps is not None:
        return step_at(course.steps, minute)
    value = curve_at(scenario.curves[course.curve or ""], minute)
    if course.noise:
        # Rain does not make a dry gauge negative.
        value = max(0.0, value + noise.uniform(-course.noise, course.noise))
    if course.below is not None:
        value = course.below - value
    return round(value, course.digits)


def plan(scenario: Scenario, device: Device, speed: float) -> Iterator[Planned]:
    """All reports of a device, in order of time, without end. Empty for a device that only answers when asked."""
    if device.transport == "modbus":
        return iter(())
    return heapq.merge(_regular(scenario, device, speed), _events(scenario, device, speed), key=lambda due: due.at_s)


def _regular(scenario: Scenario, device: Device, speed: float) -> Iterator[Planned]:
    if device.report_s is None:
        return
    period = max(device.report_s / speed, SHORTEST_REPORT_S)
    for number in count():
        at_s = number * period
        yield Planned(at_s=at_s, values=values_at(scenario, device, at_s, speed))


def _events(scenario: Scenario, device: Device, speed: float) -> Iterator[Planned]:
    if not device.events:
        return
    ordered = sorted(device.events, key=lambda event: event.minute)
    for cycle in count():
        for event in ordered:
            minutes = cycle * scenario.length_min + event.minute
            yield Planned(at_s=minutes * 60 / speed, values=dict(event.values), tag=event.tag)
