"""The ladder against a slow model that looks at the whole series each time, and case by case."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from citysense_platform.rules import ladder
from citysense_platform.rules.colour import Colour
from citysense_platform.rules.rule import LadderRule, Level, Words
from citysense_platform.rules.state import NEVER, Observation, Outcome, RuleState, Transition, TransitionKind
from citysense_profiles.reading import ReadingClass

Series = list[tuple[int, float]]

RULE = LadderRule(
    id="water",
    version="v1",
    metric="water.level",
    unit="cm",
    lane=ReadingClass.SAFETY,
    kinds=frozenset(),
    label=Words(zh="水位", en="water level"),
    title=Words(zh="{site}", en="{site}"),
    levels=(
        Level(colour=Colour.BLUE, raise_at=15, clear_at=12),
        Level(colour=Colour.YELLOW, raise_at=25, clear_at=20),
        Level(colour=Colour.ORANGE, raise_at=40, clear_at=35),
        Level(colour=Colour.RED, raise_at=50, clear_at=45),
    ),
    raise_hold=60_000,
    clear_hold=300_000,
)
AT_ONCE = replace(RULE, raise_hold=0, clear_hold=0)


def seen(time: int, value: float) -> Observation:
    return Observation(device="g", site="7", time=time, data_time=time, received=time + 5, value=value)


def play(rule: LadderRule, series: Series, state: RuleState | None = None) -> tuple[RuleState, list[Transition]]:
    state = state or RuleState()
    found: list[Transition] = []
    for time, value in series:
        judged = ladder.step(rule, state, seen(time, value))
        state = judged.state
        found += judged.transitions
    return state, found


def is_on(rule: LadderRule, level: Level, series: Series) -> bool:
    """One level's latch, by looking back over everything for each reading."""
    on = False
    for end in range(len(series)):
        start = end
        while start > 0 and series[start - 1][1] >= level.raise_at:
            start -= 1
        if series[end][1] >= level.raise_at and series[end][0] - series[start][0] >= rule.raise_hold:
            on = True
        start = end
        while start > 0 and series[start - 1][1] < level.clear_at:
            start -= 1
        if series[end][1] < level.clear_at and series[end][0] - series[start][0] >= rule.clear_hold:
            on = False
    return on


def colour_by_model(rule: LadderRule, series: Series) -> Colour | None:
    lit = [level.colour for level in rule.levels if is_on(rule, level, series)]
    return lit[-1] if lit else None


VALUES = st.sampled_from([0.0, 11.9, 12.0, 14.9, 15.0, 19.9, 24.0, 25.0, 34.0, 36.0, 40.0, 44.9, 47.0, 50.0, 80.0])
SERIES = st.lists(st.tuples(st.integers(1, 400), VALUES), min_size=1, max_size=25).map(
    lambda steps: [(1_000 * sum(gap for gap, _ in steps[: n + 1]), value) for n, (_, value) in enumerate(steps)]
)
RULES = st.builds(
    lambda up, down: replace(RULE, raise_hold=up, clear_hold=down),
    st.sampled_from([0, 30_000, 60_000, 600_000]),
    st.sampled_from([0, 60_000, 300_000]),
)


@given(RULES, SERIES)
def test_colour_and_transitions_are_the_models(rule: LadderRule, series: Series) -> None:
    state, before, episodes = RuleState(), None, 0
    for n, (time, value) in enumerate(series):
        judged = ladder.step(rule, state, seen(time, value))
        state, after = judged.state, colour_by_model(rule, series[: n + 1])
        assert state.colour is after
        assert len(judged.transitions) == (after is not before)
        for transition in judged.transitions:
            episodes += transition.kind is TransitionKind.RAISED
            assert transition.kind is kind_of(before, after)
            assert transition.colour is (after or before)
            assert transition.episode == episodes
            assert (transition.value, transition.data_time, transition.received) == (value, time, time + 5)
            assert (transition.site, transition.device, transition.key) == ("7", "g", f"water/g/{episodes}")
        before = after


def kind_of(before: Colour | None, after: Colour | None) -> TransitionKind:
    if before is None:
        return TransitionKind.RAISED
    if after is None:
        return TransitionKind.CLEARED
    return TransitionKind.STEPPED_UP if after.rank > before.rank else TransitionKind.STEPPED_DOWN


@given(RULES, SERIES, st.data())
def test_duplicates_and_late_readings_change_nothing(rule: LadderRule, series: Series, data: st.DataObject) -> None:
    noisy: Series = []
    for n, reading in enumerate(series):
        noisy.append(reading)
        noisy += data.draw(st.lists(st.sampled_from(series[: n + 1]), max_size=3))
    assert play(rule, noisy) == play(rule, series)


@given(st.lists(st.floats(12.0, 14.99), max_size=50))
def test_between_clear_and_raise_nothing_flaps(between: list[float]) -> None:
    series = [(n, value) for n, value in enumerate(between)]
    assert play(AT_ONCE, series)[1] == []
    raised, _ = play(AT_ONCE, [(-1, 15.0)])
    assert play(AT_ONCE, series, raised)[1] == []


def test_each_colour_waits_for_its_own_hold() -> None:
    series = [(0, 16.0), (30_000, 52.0), (60_000, 52.0), (89_999, 52.0), (90_000, 52.0)]
    found = play(RULE, series)[1]
    assert [(x.kind, x.colour, x.data_time) for x in found] == [
        (TransitionKind.RAISED, Colour.BLUE, 60_000),
        (TransitionKind.STEPPED_UP, Colour.RED, 90_000),
    ]
    assert found[1].reason.en == "water level 52 cm: at or above 50 cm (red) for 60 s"
    assert found[1].reason.zh == "水位 52 cm，达到红色级别 50 cm，持续 60 s"


def test_a_dip_begins_the_hold_anew() -> None:
    assert play(RULE, [(0, 16.0), (59_000, 14.9), (61_000, 16.0), (120_000, 16.0)])[1] == []


def test_steps_down_to_what_still_stands() -> None:
    red, _ = play(RULE, [(0, 55.0), (60_000, 55.0)])
    found = play(RULE, [(100_000, 30.0), (399_999, 30.0), (400_000, 30.0)], red)[1]
    assert [(x.kind, x.colour, x.data_time) for x in found] == [(TransitionKind.STEPPED_DOWN, Colour.YELLOW, 400_000)]
    assert "below 35 cm (where orange ends) for 300 s" in found[0].reason.en


def test_late_is_named() -> None:
    state, _ = play(RULE, [(10, 20.0)])
    judged = ladder.step(RULE, state, seen(9, 80.0))
    assert (judged.outcome, judged.state, judged.transitions) == (Outcome.LATE, state, ())


def test_silence_completes_a_hold_in_awake_time() -> None:
    state, _ = play(RULE, [(0, 55.0), (20_000, 55.0)])
    # The awake time says nothing about the device's clock: it counts from the first tick after the reading.
    for awake in (1_000_000, 1_001_000, 1_039_999):
        judged = ladder.tick(RULE, state, "g", awake)
        assert judged.transitions == ()
        state = judged.state
    (found,) = ladder.tick(RULE, state, "g", 1_040_000).transitions
    assert (found.kind, found.colour, found.silent, found.data_time) == (
        TransitionKind.RAISED,
        Colour.RED,
        True,
        20_000,
    )
    assert found.reason.en.endswith("; no newer reading has come")


def test_silence_ends_an_episode_too() -> None:
    state, _ = play(RULE, [(0, 55.0), (60_000, 55.0), (100_000, 3.0)])
    state = ladder.tick(RULE, state, "g", 500).state
    assert ladder.tick(RULE, state, "g", 300_499).transitions == ()
    (found,) = ladder.tick(RULE, state, "g", 300_500).transitions
    assert (found.kind, found.colour, found.value) == (TransitionKind.CLEARED, Colour.RED, 3.0)


def test_a_device_whose_clock_stands_still_is_judged_by_ticks() -> None:
    state = RuleState()
    kinds: list[TransitionKind] = []
    for second in range(62):
        judged = ladder.step(RULE, state, seen(5_000, 55.0 + second % 2))
        ticked = ladder.tick(RULE, judged.state, "g", second * 1_000)
        state = ticked.state
        kinds += [x.kind for x in (*judged.transitions, *ticked.transitions)]
        if second < 60:
            assert kinds == []
    assert kinds == [TransitionKind.RAISED]


def test_such_a_device_does_not_inherit_an_old_hold() -> None:
    state = ladder.step(RULE, RuleState(), seen(5_000, 55.0)).state
    state = ladder.tick(RULE, state, "g", 0).state
    state = ladder.tick(RULE, state, "g", 50_000).state
    state = ladder.step(RULE, state, seen(5_000, 3.0)).state
    state = ladder.step(RULE, state, seen(5_000, 55.0)).state
    judged = ladder.tick(RULE, state, "g", 65_000)
    assert judged.transitions == ()
    assert ladder.tick(RULE, judged.state, "g", 125_000).transitions != ()


def test_waits_only_while_something_is_pending() -> None:
    dry, _ = play(RULE, [(0, 3.0)])
    rising, _ = play(RULE, [(0, 16.0)])
    standing, _ = play(RULE, [(0, 55.0), (60_000, 55.0)])
    assert [ladder.waits(RULE, state) for state in (dry, rising, standing)] == [False, True, False]


def test_a_new_version_adopts_the_open_episode() -> None:
    state, _ = play(RULE, [(0, 55.0), (60_000, 55.0)])
    shorter = replace(RULE, levels=RULE.levels[:2])
    adopted = ladder.adopt(shorter, state)
    assert (adopted.colour, adopted.episode) == (Colour.YELLOW, 1)
    found = play(replace(shorter, clear_hold=0), [(70_000, 3.0)], adopted)[1]
    assert [(x.kind, x.episode) for x in found] == [(TransitionKind.CLEARED, 1)]
    assert ladder.adopt(RULE, state) is state
    only_red = replace(RULE, levels=RULE.levels[3:])
    assert ladder.adopt(only_red, replace(state, colour=Colour.BLUE)).colour is Colour.RED
    assert adopted.since == (NEVER,) * 4
