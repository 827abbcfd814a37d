"""All rules over records of the log: who is judged by what, and that a restart at any record changes nothing."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from citysense import wire
from citysense_platform.rules import book
from citysense_platform.rules.engine import HORIZON_MS, Engine
from citysense_platform.rules.lanes import MAX_STEP_MS, Lane
from citysense_platform.rules.model import DEFAULT_PACK, load_pack
from citysense_platform.rules.state import RuleState, Transition, TransitionKind
from citysense_profiles.reading import ReadingClass

SAFETY, STATE = ReadingClass.SAFETY, ReadingClass.STATE
PACK = load_pack(DEFAULT_PACK, speed=60)
Records = list[tuple[ReadingClass, wire.Body]]


def readings(
    metric: str,
    value: wire.Value,
    *,
    time: int,
    device: str = "g1",
    kind: str = "waterlogging_gauge",
    received: int | None = None,
    suspect: bool = False,
) -> wire.Readings:
    sample = wire.SampleBody(time=time, values={metric: value}, suspect=[metric] if suspect else [])
    return wire.Readings(
        device=device,
        profile="p",
        kind=kind,
        message="report",
        received=time if received is None else received,
        identity="credential",
        samples=[sample],
        site="7",
        gateway="gw-1",
    )


def play(engine: Engine, records: Records, *, first: int = 1) -> list[Transition]:
    found: list[Transition] = []
    for offset, (lane, body) in enumerate(records, start=first):
        found += engine.feed(lane, offset, body)
    return found


def level(value: wire.Value, time: int, **more: object) -> tuple[ReadingClass, wire.Body]:
    return SAFETY, readings("water.level", value, time=time, **more)  # type: ignore[arg-type]


DEVICES = st.sampled_from(["g1", "g2"])
STEPS = st.one_of(
    st.tuples(st.just("level"), DEVICES, st.sampled_from([3.0, 16.0, 30.0, 55.0])),
    st.tuples(st.just("state"), DEVICES, st.sampled_from(["available", "faulted"])),
    st.tuples(st.just("lock"), DEVICES, st.sampled_from(["forced", "lock"])),
    st.tuples(st.just("tick"), DEVICES, st.just("")),
)


@st.composite
def stories(draw: st.DrawFn) -> Records:
    records: Records = []
    now = 1_000_000
    for what, device, value in draw(st.lists(STEPS, max_size=40)):
        now += draw(st.sampled_from([0, 300, 1_000, 9_000]))
        if what == "tick":
            records += [(SAFETY, wire.Tick(time=now)), (STATE, wire.Tick(time=now))]
        elif what == "level":
            records.append((SAFETY, readings("water.level", value, time=now, device=device)))
        elif what == "state":
            records.append((STATE, readings("pile.state", value, time=now, device=device, kind="charging_pile")))
        else:
            records.append((SAFETY, readings("lock.event", value, time=now, device=device, kind="door_lock")))
    return records


@given(stories(), st.data())
def test_a_restart_at_any_record_changes_nothing(records: Records, data: st.DataObject) -> None:
    whole = Engine(PACK)
    expected = play(whole, records)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(records)), max_size=4)))
    engine, found, place = Engine(PACK), [], 0
    for cut in [*cuts, len(records)]:
        found += play(engine, records[place:cut], first=place + 1)
        stored = {key: book.encode_state(state) for key, state in engine.states.items()}
        states = {key: msgspec.msgpack.decode(body, type=RuleState) for key, body in stored.items()}
        engine, place = Engine(PACK, states, engine.lanes), cut
    assert found == expected
    assert (engine.states, engine.lanes) == (whole.states, whole.lanes)


@given(stories())
def test_the_other_lane_may_be_read_at_any_pace(records: Records) -> None:
    together, apart = Engine(PACK), Engine(PACK)
    expected = play(together, records)
    numbered = list(enumerate(records, start=1))
    found = [t for n, (lane, body) in numbered if lane is SAFETY for t in apart.feed(lane, n, body)]
    found += [t for n, (lane, body) in numbered if lane is STATE for t in apart.feed(lane, n, body)]
    assert sorted(found, key=repr) == sorted(expected, key=repr)
    assert apart.states == together.states


def test_changed_names_what_must_be_saved() -> None:
    engine = Engine(PACK)
    play(engine, [level(3.0, 10), level(16.0, 5), (SAFETY, wire.Tick(time=20))])
    assert engine.changed == {("water-level", "g1")}
    engine.changed.clear()
    play(engine, [level(3.0, 5), (SAFETY, wire.Tick(time=30)), (STATE, wire.Tick(time=30))], first=4)
    assert engine.changed == set()
    assert engine.lanes == {SAFETY: Lane(offset=5, ticked=30, awake=10), STATE: Lane(offset=6, ticked=30)}


def test_readings_that_are_not_judged_are_counted_by_reason() -> None:
    engine = Engine(PACK)
    missing = wire.SampleBody(time=1, values={}, missing=["water.level", "battery.voltage"])
    play(
        engine,
        [
            level(80.0, 10, suspect=True),
            level(True, 20),
            level(float("nan"), 30),
            level("80", 40),
            level(3.0, 60),
            level(80.0, 50),
            (SAFETY, msgspec.structs.replace(readings("water.level", 1.0, time=1), samples=[missing])),
            (STATE, readings("battery.voltage", 3.6, time=1)),
        ],
    )
    engine.pass_over(SAFETY, 99)
    assert dict(engine.outcomes) == {
        "suspect": 1,
        "not_a_number": 3,
        "judged": 1,
        "late": 1,
        "missing": 1,
        "unreadable": 1,
    }
    assert engine.lanes[SAFETY].offset == 99


def test_a_rule_reads_its_kinds_only() -> None:
    river = [level(80.0, time, kind="river_gauge") for time in (0, 2_000)]
    assert play(Engine(PACK), river) == []
    assert [t.kind for t in play(Engine(PACK), [level(80.0, 0), level(80.0, 2_000)])] == [TransitionKind.RAISED]


def test_a_clock_that_runs_ahead_once_does_not_make_all_that_follows_late() -> None:
    engine = Engine(PACK)
    far = 4_000_000_000_000
    found = play(engine, [level(3.0, far, received=1_000), level(55.0, 2_000), level(55.0, 3_000)])
    assert [(t.kind, t.data_time) for t in found] == [(TransitionKind.RAISED, 3_000)]
    # What the device said of its time is shown as it said it.
    found = play(engine, [level(3.0, far, received=4_000), level(3.0, far, received=9_000)], first=4)
    assert [(t.kind, t.data_time, t.received) for t in found] == [(TransitionKind.CLEARED, far, 9_000)]


def test_our_own_absence_neither_completes_nor_ends_anything() -> None:
    engine = Engine(PACK)
    ticks: Records = [(SAFETY, wire.Tick(time=1_000)), (SAFETY, wire.Tick(time=2_000))]
    play(engine, [level(55.0, 0), level(55.0, 1_000), level(3.0, 1_500), *ticks])
    # One of the five seconds below the level has passed; then the platform is down for an hour.
    back: Records = [(SAFETY, wire.Tick(time=3_600_000 + 1_000 * n)) for n in range(4)]
    assert play(engine, back, first=6) == []
    found = play(engine, [(SAFETY, wire.Tick(time=3_604_000))], first=10)
    assert [t.kind for t in found] == [TransitionKind.CLEARED]


@pytest.mark.parametrize(
    ("ticks", "awake"),
    [
        ([5_000], 0),
        ([5_000, 6_000, 7_500], 2_500),
        ([5_000, 5_000 + MAX_STEP_MS], MAX_STEP_MS),
        ([5_000, 90_000], 0),
        ([5_000, 2_000, 5_500], 500),
    ],
)
def test_awake_time(ticks: list[int], awake: int) -> None:
    lane = Lane()
    for time in ticks:
        lane = lane.tick(time)
    assert lane.awake == awake


def test_states_of_a_rule_that_is_gone_are_kept() -> None:
    engine = Engine(PACK, {("old-rule", "g1"): RuleState(episode=3)})
    assert play(engine, [level(3.0, 1), (SAFETY, wire.Tick(time=5))]) == []
    assert engine.states["old-rule", "g1"].episode == 3
    assert ("old-rule", "g1") not in engine.changed


@pytest.mark.parametrize(("age", "judged"), [(HORIZON_MS, True), (HORIZON_MS + 1, False)])
def test_backlog_is_not_judged(age: int, judged: bool) -> None:
    """Old on arrival at the gateway, or old on arrival here: nobody is called for it."""
    now = 1_795_190_934_423
    for story in (
        [level(55.0, now - age, received=now), level(55.0, now - age + 2_000, received=now + 2_000)],
        [(SAFETY, wire.Tick(now)), level(55.0, now - age), level(55.0, now - age + 1)],
    ):
        engine = Engine(load_pack(DEFAULT_PACK, speed=60_000))
        assert bool(play(engine, story)) == judged
        assert (engine.outcomes["backlog"] == 0) == judged


def test_a_gateway_clock_that_was_ahead_does_not_make_a_device_deaf() -> None:
    """An hour ahead for one record; the flood that follows at the right time is judged."""
    now = 1_795_190_934_423
    engine = Engine(PACK)
    story: Records = [(SAFETY, wire.Tick(now)), level(0.0, now + 3_600_000)]
    for second in range(10, 20):
        moment = now + second * 1000
        story += [(SAFETY, wire.Tick(moment)), level(60.0, moment)]
    assert [found.kind for found in play(engine, story)] == [TransitionKind.RAISED]
    assert engine.outcomes["late"] == 0
