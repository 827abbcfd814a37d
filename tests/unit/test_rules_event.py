"""The event rule: states that end with another value, events that end by not coming again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from citysense.wire import Value
from citysense_platform.rules import event
from citysense_platform.rules.colour import Colour
from citysense_platform.rules.rule import EventRule, Words
from citysense_platform.rules.state import Observation, Outcome, RuleState, Transition, TransitionKind
from citysense_profiles.reading import ReadingClass

RAISED, CLEARED = TransitionKind.RAISED, TransitionKind.CLEARED


def rule(values: tuple[Value, ...], resolve_after: int | None, clear_hold: int = 0) -> EventRule:
    return EventRule(
        id="r",
        version="v",
        metric="m",
        unit="",
        lane=ReadingClass.SAFETY,
        kinds=frozenset(),
        label=Words(zh="门锁事件", en="lock event"),
        title=Words(zh="t", en="t"),
        values=values,
        colour=Colour.ORANGE,
        resolve_after=resolve_after,
        clear_hold=clear_hold,
    )


FORCED = rule(("forced", "tamper"), 600_000)
FAULTED = rule(("faulted",), None)
HELD = rule(("faulted",), None, clear_hold=60_000)


def seen(time: int, value: Value) -> Observation:
    return Observation(device="d", site="", time=time, data_time=time, received=time, value=value)


def play(of: EventRule, series: list[tuple[int, Value]]) -> tuple[RuleState, list[Transition]]:
    state = RuleState()
    found: list[Transition] = []
    for time, value in series:
        judged = event.step(of, state, seen(time, value))
        state = judged.state
        found += judged.transitions
    return state, found


def short(found: list[Transition]) -> list[tuple[TransitionKind, int]]:
    return [(x.kind, x.episode) for x in found]


def test_a_state_holds_until_another_value() -> None:
    series: list[tuple[int, Value]] = [
        (1, "charging"),
        (2, "faulted"),
        (3, "faulted"),
        (4, "available"),
        (5, "faulted"),
    ]
    found = play(FAULTED, series)[1]
    assert short(found) == [(RAISED, 1), (CLEARED, 1), (RAISED, 2)]
    assert found[1].reason.en == "lock event is now available, for 0 s"


def test_connectors_that_report_in_turn_make_one_episode() -> None:
    turns: list[tuple[int, Value]] = [(n * 10_000, "faulted" if n % 2 == 0 else "available") for n in range(20)]
    state, found = play(HELD, turns)
    assert short(found) == [(RAISED, 1)]
    assert event.step(HELD, state, seen(249_999, "charging")).transitions == ()
    (over,) = event.step(HELD, state, seen(250_000, "charging")).transitions
    assert (over.kind, over.value) == (CLEARED, "charging")


def test_silence_completes_the_hold_of_another_value_only() -> None:
    faulted, _ = play(HELD, [(0, "faulted")])
    assert not event.waits(HELD, faulted)
    assert event.tick(HELD, faulted, "d", 10**9).transitions == ()
    state, _ = play(HELD, [(0, "faulted"), (10, "available"), (20_010, "available")])
    assert event.waits(HELD, state)
    state = event.tick(HELD, state, "d", 5_000).state
    assert event.tick(HELD, state, "d", 44_999).transitions == ()
    (over,) = event.tick(HELD, state, "d", 45_000).transitions
    assert (over.kind, over.silent) == (CLEARED, True)


def test_a_late_state_is_not_judged() -> None:
    state, _ = play(FAULTED, [(10, "available")])
    assert event.step(FAULTED, state, seen(9, "faulted")).outcome is Outcome.LATE


def test_true_is_not_one() -> None:
    flag = rule((True,), None)
    assert play(flag, [(1, 1)])[1] == []
    assert play(flag, [(1, 1.0)])[1] == []
    assert short(play(flag, [(1, True), (2, False)])[1]) == [(RAISED, 1), (CLEARED, 1)]


def test_an_event_is_over_when_it_does_not_come_again() -> None:
    state, found = play(FORCED, [(0, "forced"), (300_000, "lock"), (500_000, "tamper"), (1_099_999, "lock")])
    assert short(found) == [(RAISED, 1)]
    (over,) = event.step(FORCED, state, seen(1_100_000, "unlock.app")).transitions
    assert (over.kind, over.data_time) == (CLEARED, 500_000)
    assert over.reason.en == "lock event tamper has not come again for 600 s"


def test_an_event_after_its_time_is_a_new_episode() -> None:
    assert short(play(FORCED, [(0, "forced"), (600_000, "forced")])[1]) == [(RAISED, 1), (CLEARED, 1), (RAISED, 2)]


def test_silence_ends_it_in_awake_time_from_the_first_tick() -> None:
    state, _ = play(FORCED, [(0, "forced")])
    state = event.tick(FORCED, state, "d", 77_000).state
    assert event.tick(FORCED, state, "d", 676_999).transitions == ()
    (over,) = event.tick(FORCED, state, "d", 677_000).transitions
    assert (over.kind, over.silent) == (CLEARED, True)
    repeated = event.step(FORCED, state, seen(10, "forced")).state
    assert event.tick(FORCED, repeated, "d", 677_000).transitions == (), "a repeat begins the silence anew"


def test_a_break_in_that_arrives_after_a_newer_harmless_event_is_judged() -> None:
    assert short(play(FORCED, [(50, "lock"), (40, "forced")])[1]) == [(RAISED, 1)]


def test_a_copy_of_a_resolved_event_opens_nothing() -> None:
    state, _ = play(FORCED, [(0, "forced"), (600_000, "lock")])
    judged = event.step(FORCED, state, seen(0, "forced"))
    assert (judged.outcome, judged.transitions) == (Outcome.REPEAT, ())
    state, _ = play(FORCED, [(5, "forced")])
    assert event.step(FORCED, state, seen(4, "forced")).outcome is Outcome.LATE


@given(
    st.sampled_from([FORCED, rule(("forced",), None), rule(("forced",), None, clear_hold=300_000)]),
    st.lists(st.tuples(st.integers(0, 400_000), st.sampled_from(["forced", "tamper", "lock", "refused"])), max_size=20),
    st.data(),
)
def test_copies_give_the_same_episodes(of: EventRule, steps: list[tuple[int, str]], data: st.DataObject) -> None:
    series: list[tuple[int, Value]] = []
    time = 0
    for gap, value in steps:
        time += gap + 1
        series.append((time, value))
    noisy: list[tuple[int, Value]] = []
    for n, reading in enumerate(series):
        noisy.append(reading)
        noisy += data.draw(st.lists(st.sampled_from(series[: n + 1]), max_size=2))
    assert play(of, noisy) == play(of, series)


def test_waits_and_adopts() -> None:
    open_event, _ = play(FORCED, [(0, "forced")])
    open_state, _ = play(FAULTED, [(0, "faulted")])
    assert event.waits(FORCED, open_event)
    assert not event.waits(FAULTED, open_state)
    assert event.tick(FAULTED, open_state, "d", 10**9).transitions == ()
    assert event.adopt(FORCED, open_event).colour is Colour.ORANGE
