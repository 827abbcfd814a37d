"""Is the gateway ready? Judged by what moves, and not by what is open.

Pure: the checks of one moment and how they come to a yes or a no. A gateway that accepts readings is ready even while
the platform is away, since the spool holds them; how long that has been so stands beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from citysense_gateway.broker.counters import Standing

UPLINK_LATE_S = 60.0
"""Records that wait for longer than this without any success of the uplink are worth a look; they are safe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One part: `state` is ok, late or failed; late does not make the gateway unready."""

    name: str
    state: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What can be seen of a gateway at one moment. Ages in seconds, None where there was nothing yet or nothing to do.

    `doors` maps each door that should be open to whether it is; `pulses` each watched loop to the seconds since its last
    step; `overdue` names those that are over their limit; `waiting` counts records per lane. `polling`: Modbus devices
    are polled, where there are any; `broker`: the city's own, None without one.
    """

    doors: Mapping[str, bool]
    pulses: Mapping[str, float | None]
    overdue: tuple[str, ...]
    commit_age: float | None
    commit_limit: float
    devices_known: bool
    roster_current: bool
    waiting: Mapping[str, int]
    uplink_ages: Mapping[str, float | None]
    unbalanced: int
    polling: bool
    broker: Standing | None


def checks(moment: Moment) -> list[Check]:
    """All checks, in a fixed order."""
    found = [_door(name, is_open) for name, is_open in moment.doors.items()]
    found += [_modbus(moment.polling), *([_broker(moment.broker)] if moment.broker is not None else [])]
    found += [_commit(moment), _roster(moment)]
    found += [_lane(lane, count, moment.uplink_ages.get(lane)) for lane, count in moment.waiting.items()]
    found += [_loop(name, age, name in moment.overdue) for name, age in moment.pulses.items()]
    balanced = "every frame and record has its place" if not moment.unbalanced else "see the log"
    state = "late" if moment.unbalanced else "ok"
    return [*found, Check(name="ledger", state=state, detail=f"{moment.unbalanced} out of balance: {balanced}")]


def ready(found: list[Check]) -> bool:
    """True where nothing has failed."""
    return all(check.state != "failed" for check in found)


def _door(name: str, is_open: bool) -> Check:
    return Check(name=f"door {name}", state="ok" if is_open else "failed", detail="open" if is_open else "closed")


def _modbus(polling: bool) -> Check:
    said = "every line is looked after" if polling else "stopped"
    return Check(name="modbus", state="ok" if polling else "failed", detail=said)


_BROKER = {
    Standing.READING: ("ok", "read from; its rules are proved"),
    # It keeps what it has for us, and a broker comes back by itself.
    Standing.AWAY: ("late", "not connected"),
    # Somebody has to change something; until then nothing of its devices comes in.
    Standing.MISTRUSTED: ("failed", "not read from: its rules are not proved; the log says what to change"),
    Standing.UNUSABLE: ("failed", "not read from: what we were told of it cannot be used; the log says what"),
}


def _broker(standing: Standing) -> Check:
    state, detail = _BROKER[standing]
    return Check(name="broker", state=state, detail=detail)


def _commit(moment: Moment) -> Check:
    age = moment.commit_age
    good = age is not None and age <= moment.commit_limit
    said = "never" if age is None else f"{age:.1f} s ago"
    return Check(name="spool", state="ok" if good else "failed", detail=f"last commit {said}")


def _roster(moment: Moment) -> Check:
    if moment.roster_current:
        return Check(name="roster", state="ok", detail="as the platform has it")
    if moment.devices_known:
        return Check(name="roster", state="late", detail="from the cache; the platform has not answered yet")
    return Check(name="roster", state="failed", detail="no device is known yet; is the platform reachable?")


def _lane(lane: str, waiting: int, age: float | None) -> Check:
    late = waiting > 0 and (age is None or age > UPLINK_LATE_S)
    said = "never worked" if age is None else f"worked {age:.1f} s ago"
    return Check(name=f"uplink {lane}", state="late" if late else "ok", detail=f"{waiting} wait, {said}")


def _loop(name: str, age: float | None, overdue: bool) -> Check:
    said = "at rest" if age is None else f"last step {age:.0f} s ago"
    return Check(name=f"loop {name}", state="failed" if overdue else "ok", detail=said)
