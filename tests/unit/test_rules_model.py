"""Rule packs: the shipped one, and every way in which a file can be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from citysense_platform.rules.colour import COLOURS, Colour
from citysense_platform.rules.model import DEFAULT_PACK, RulePackError, load_pack, parse_pack
from citysense_platform.rules.rule import EventRule, LadderRule
from citysense_profiles.catalogue import load_catalogue
from citysense_profiles.reading import ReadingClass
from citysense_profiles.vocabulary import load_vocabulary, parse_vocabulary

LEVELS = [{"colour": "blue", "raise": 15, "clear": 12}, {"colour": "red", "raise": 50, "clear": 45}]
LADDER = {
    "kind": "ladder",
    "metric": "water.level",
    "label": {"zh": "水位", "en": "water level"},
    "title": {"zh": "积水{colour}预警：{site} {value}", "en": "{colour} warning: {site}, {value}"},
    "raise_hold": "60s",
    "clear_hold": "5m",
    "levels": LEVELS,
}
EVENT = {
    "kind": "event",
    "metric": "lock.event",
    "label": {"zh": "门锁", "en": "lock"},
    "title": {"zh": "{site}", "en": "{site}"},
    "equals": "forced",
    "colour": "orange",
    "resolve_after": "10m",
}


def pack_text(**rules: object) -> str:
    return yaml.safe_dump({"schema": 1, "rules": {name.replace("_", "-"): rule for name, rule in rules.items()}})


def test_the_shipped_pack_says_what_its_comments_say() -> None:
    pack = load_pack(DEFAULT_PACK)
    water = pack["water-level"]
    assert isinstance(water, LadderRule)
    assert [(x.colour, x.raise_at, x.clear_at) for x in water.levels] == [
        (Colour.BLUE, 15, 12),
        (Colour.YELLOW, 25, 20),
        (Colour.ORANGE, 40, 35),
        (Colour.RED, 50, 45),
    ]
    assert (water.raise_hold, water.clear_hold, water.unit, water.lane) == (60_000, 300_000, "cm", ReadingClass.SAFETY)
    forced, fault, flag = pack["lock-forced"], pack["pile-fault"], pack["pile-fault-flag"]
    assert isinstance(forced, EventRule)
    assert (forced.values, forced.resolve_after) == (("forced",), 600_000)
    assert isinstance(fault, EventRule)
    assert (fault.values, fault.resolve_after, fault.lane) == (("faulted",), None, ReadingClass.STATE)
    assert fault.clear_hold == 60_000
    assert isinstance(flag, EventRule)
    assert flag.values == (True,)


def test_the_shipped_pack_is_for_kinds_that_the_catalogue_has() -> None:
    kinds = {profile.kind for profile in load_catalogue()}
    assert all(rule.kinds <= kinds for rule in load_pack(DEFAULT_PACK).rules)


def test_the_shipped_pack_reads_metrics_that_some_profile_gives() -> None:
    assert all(rule.metric in load_vocabulary() for rule in load_pack(DEFAULT_PACK).rules)


def test_speed_divides_holds_and_leaves_the_version_alone() -> None:
    slow, fast = load_pack(DEFAULT_PACK), load_pack(DEFAULT_PACK, speed=60)
    water, lock = fast["water-level"], fast["lock-forced"]
    assert isinstance(water, LadderRule)
    assert isinstance(lock, EventRule)
    assert (water.raise_hold, water.clear_hold, lock.resolve_after) == (1_000, 5_000, 10_000)
    assert [rule.version for rule in slow.rules] == [rule.version for rule in fast.rules]


def test_version_follows_the_content() -> None:
    first = parse_pack(pack_text(a=LADDER), "f.yaml")["a"]
    sourced = {**LADDER, "levels": [{**level, "source": "a book"} for level in LEVELS]}
    other = {**LADDER, "raise_hold": "61s"}
    assert parse_pack(pack_text(a=sourced), "f.yaml")["a"].version == first.version
    assert parse_pack(pack_text(a=other), "f.yaml")["a"].version != first.version


def test_colours_have_their_order_and_not_the_alphabet() -> None:
    assert sorted(COLOURS, key=lambda colour: colour.rank) == ["blue", "yellow", "orange", "red"]


def levels(*rows: tuple[str, float, float]) -> dict[str, object]:
    return {**LADDER, "levels": [{"colour": c, "raise": r, "clear": x} for c, r, x in rows]}


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        ({**LADDER, "raise_hold": 60}, "f.yaml, rule a, raise_hold: a duration is a number with its unit"),
        ({**LADDER, "raise_hold": "60"}, "raise_hold: a duration is a number with its unit: 60s"),
        ({**LADDER, "metric": "water.levle"}, "f.yaml, rule a, metric: 'water.levle' is not in the vocabulary"),
        ({**LADDER, "metric": "battery.voltage"}, "metric: battery.voltage is of class bulk"),
        ({**LADDER, "metric": "pile.state"}, "metric: pile.state is a state; a ladder needs a measurement"),
        ({**LADDER, "colour": "red"}, "'colour' is not a key that may stand here"),
        ({**LADDER, "levels": []}, "rule a, levels: "),
        (levels(("blue", 15, 15)), "blue: clear 15 must lie below raise 15"),
        (levels(("red", 15, 12), ("blue", 25, 20)), "blue stands after red"),
        (levels(("blue", 15, 12), ("blue", 25, 20)), "blue stands after blue"),
        (levels(("blue", 15, 12), ("red", 14, 13)), "raise of red (14) must lie above that of blue (15)"),
        (levels(("blue", 15, 12), ("red", 20, 12)), "clear of red (12) must lie above that of blue (12)"),
        (levels(("blue", 2_000, 12)), "lies outside 0.0 to 1000.0 cm: such readings are suspect"),
        (levels(("green", 15, 12)), "levels.0.colour"),
        ({**LADDER, "title": {"zh": "{site.__class__}", "en": "x"}}, "{site.__class__} is not a placeholder"),
        ({**LADDER, "title": {"zh": "}", "en": "x"}}, "} is not a placeholder"),
        ({**EVENT, "resolve_after": None}, "resolve_after: is required and missing"),
        ({**EVENT, "metric": "pile.state", "equals": "faulted"}, "pile.state is a state, which another value ends"),
        ({**EVENT, "clear_hold": "5s"}, "clear_hold: lock.event is an event, which ends by `resolve_after`"),
        ({**EVENT, "equals": "forcd"}, "equals: 'forcd' is not a value of lock.event; known: ajar, door_closed"),
        ({**EVENT, "in": ["forced"]}, "either `equals: VALUE` or `in: [VALUE, ...]`"),
        ({**EVENT, "metric": "water.level"}, "water.level is a measurement; an event rule needs a state or an event"),
        ({**EVENT, "kind": "spell"}, "f.yaml, rule a"),
    ],
)
def test_faults_name_file_rule_and_field(rule: object, sentence: str) -> None:
    with pytest.raises(RulePackError) as refused:
        parse_pack(pack_text(a=rule), "f.yaml")
    assert str(refused.value).startswith("f.yaml, rule a")
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    ("marks", "kind", "sentence"),
    [
        ({"personal": True}, "state", "door.sleeper is personal and must not stand in an alert"),
        ({"secret": True}, "event", "door.sleeper is secret and must not stand in an alert"),
        ({"personal": True}, "event", None),
    ],
)
def test_what_is_personal_stays_out_of_alerts(marks: dict[str, bool], kind: str, sentence: str | None) -> None:
    metric = {"title": "t", "kind": kind, "type": "text", "class": "safety", **marks}
    vocabulary = parse_vocabulary(yaml.safe_dump({"schema": 1, "metrics": {"door.sleeper": metric}}))
    rule = {**EVENT, "metric": "door.sleeper", "resolve_after": "10m" if kind == "event" else None}
    if sentence is None:
        assert len(parse_pack(pack_text(a=rule), "f.yaml", vocabulary=vocabulary).rules) == 1
        return
    with pytest.raises(RulePackError) as refused:
        parse_pack(pack_text(a=rule), "f.yaml", vocabulary=vocabulary)
    assert str(refused.value) == f"f.yaml, rule a, metric: {sentence}"


@pytest.mark.parametrize("text", ["", "schema: 2\nrules: {}", "schema: 1", "rules: [", "schema: 1\nrules: {A b: {}}"])
def test_faults_of_the_file_itself(text: str) -> None:
    with pytest.raises(RulePackError, match=r"^f\.yaml"):
        parse_pack(text, "f.yaml")


def test_the_same_rule_twice_is_refused() -> None:
    once = yaml.safe_dump({"a": EVENT})
    twice = "schema: 1\nrules:\n" + "".join(f"  {line}\n" for line in (once + once).splitlines())
    with pytest.raises(RulePackError, match="stands twice"):
        parse_pack(twice, "f.yaml")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RulePackError, match=r"nowhere\.yaml: cannot be read"):
        load_pack(tmp_path / "nowhere.yaml")
