"""The load process: connects a fleet and sends one frame per gauge, each at a moment fixed in advance (open model).

Owns pace and the record of how late it was itself. It speaks JSON lines: a plan on stdin, `ready` on stdout once every gauge
is connected and known, a start time on stdin, `done` with all moments on stdout. Monotonic times are the machine's, so the
process that asked can compare them with its own.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from citysense.clock import Clock, SystemClock
from citysense.errors import CitysenseError, SetupError, UpstreamError
from citysense.parent import end_with_parent
from citysense_profiles.catalogue import load_catalogue
from citysense_sim.fleet import Doors, Fleet, Member, Report

LAG_BOUND_S = 30.0
"""Acknowledgements that take longer than this are not waited for; they are counted as open."""


class PlannedMember(BaseModel):
    """One gauge."""

    model_config = ConfigDict(extra="forbid")

    device: str
    transport: str
    secret: str = ""


class Plan(BaseModel):
    """What to send. `rate` is frames a second; `calm` is sent once by every gauge beforehand, `high` is what is measured."""

    model_config = ConfigDict(extra="forbid")

    members: list[PlannedMember] = Field(min_length=1)
    profile: str
    message: str
    metric: str
    host: str
    mqtt_port: int
    coap_port: int
    rate: float = Field(gt=0)
    calm: float
    high: float
    boot: int = Field(1, ge=1)


class Moment(BaseModel):
    """One measured frame: when it was meant to go, and when it went, in monotonic seconds."""

    device: str
    intended: float
    sent: float


class Done(BaseModel):
    """The sender's own account. `open` frames were not acknowledged in time."""

    moments: list[Moment]
    open: int
    cpu: float


def intended_times(count: int, rate: float, start: float) -> list[float]:
    """When each frame is to go: evenly, `rate` a second, whatever becomes of the ones before."""
    return [start + number / rate for number in range(count)]


async def send_on_time(fleet: Fleet, values: Sequence[float], times: Sequence[float], clock: Clock) -> list[float]:
    """Send one frame per gauge at its time; the moments at which they really went."""
    went: list[float] = []
    for index, (value, due) in enumerate(zip(values, times, strict=True)):
        wait = due - clock.monotonic()
        if wait > 0:
            await asyncio.sleep(wait)
        went.append(clock.monotonic())
        fleet.push(index, fleet.make(index, value))
        if wait <= 0:
            # Behind time: the sockets must be served all the same.
            await asyncio.sleep(0)
    return went


async def run(ask: Callable[[], str], tell: Callable[[dict[str, Any]], None], clock: Clock) -> None:
    """One plan, from connecting to the account. Raises CitysenseError."""
    try:
        plan = Plan.model_validate_json(await asyncio.to_thread(ask))
    except ValidationError as e:
        raise SetupError(f"the load plan is wrong: {e}") from e
    members = [Member(device=m.device, transport=m.transport, secret=m.secret) for m in plan.members]
    fleet = Fleet(
        members,
        report=Report(profile=load_catalogue()[plan.profile], message=plan.message, metric=plan.metric),
        doors=Doors(host=plan.host, mqtt_port=plan.mqtt_port, coap_port=plan.coap_port),
        boot=plan.boot,
        clock=clock,
    )
    began = clock.monotonic()
    try:
        await fleet.start(10 + len(members) / 50)
        connected = clock.monotonic()
        calm = intended_times(len(members), plan.rate, clock.monotonic())
        await send_on_time(fleet, [plan.calm] * len(members), calm, clock)
        if not await fleet.drain(LAG_BOUND_S):
            raise UpstreamError(
                f"{fleet.unacked} of {len(members)} warm-up frames were not acknowledged within {LAG_BOUND_S:.0f} s"
            )
        if fleet.refused:
            raise UpstreamError(f"the gateway refused {fleet.refused} of {len(members)} warm-up frames")
        gc.collect()
        gc.freeze()  # a collection over a thousand connections would make the sender late
        tell({"ready": True, "connect_s": connected - began})
        start = float(json.loads(await asyncio.to_thread(ask))["start_at"])
        times = intended_times(len(members), plan.rate, start)
        cpu_before = _cpu()
        went = await send_on_time(fleet, [plan.high] * len(members), times, clock)
        await fleet.drain(LAG_BOUND_S)
        moments = [
            Moment(device=member.device, intended=due, sent=sent)
            for member, due, sent in zip(members, times, went, strict=True)
        ]
        tell(Done(moments=moments, open=fleet.unacked, cpu=_cpu() - cpu_before).model_dump())
    finally:
        await fleet.stop()


def _cpu() -> float:
    times = os.times()
    return times.user + times.system


def _tell(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def main() -> int:
    """The process. Exit codes: 0 done, 1 failed; the sentence is on stdout as `failed` too."""
    end_with_parent(os.environ)
    try:
        asyncio.run(run(sys.stdin.readline, _tell, SystemClock()))
    except CitysenseError as e:
        _tell({"failed": str(e)})
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
