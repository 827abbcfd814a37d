"""Device sheets: both languages complete, offsets right, drawings of fixed width, and the same text every time."""

from __future__ import annotations

import re
import string
from fractions import Fraction
from itertools import pairwise
from typing import Any, get_args

import pytest
from pydantic import TypeAdapter

from citysense_profiles import load_vocabulary
from citysense_profiles.catalogue import EXAMPLE_FOLDER, OWN_CATALOGUE, load_profile
from citysense_profiles.compiler import parse_profile
from citysense_profiles.format.profile_file import Message, ProfileKind
from citysense_profiles.profile import Profile
from citysense_profiles.sheet import markdown
from citysense_profiles.sheet.device_sheet import device_sheet
from citysense_profiles.sheet.labels import KINDS, PHRASES, Labels
from citysense_profiles.sheet.outline import outline
from citysense_profiles.sheet.picture import picture
from citysense_profiles.sheet.rows import Row
from citysense_profiles.sheet.values import duration, ratio
from citysense_profiles.sheet.widths import cut, display_width, padded

ENGLISH, CHINESE = Labels("en"), Labels("zh")
FILES = sorted(OWN_CATALOGUE.glob("*/*.yaml"))
CHINESE_LETTERS = re.compile(r"[\u4e00-\u9fff]")


def example() -> Profile:
    return load_profile(OWN_CATALOGUE / EXAMPLE_FOLDER / "level-gauge.yaml", OWN_CATALOGUE)


def tap() -> Profile:
    """Nested lists at pointers full of mark-up, and a metric that only a command carries."""
    text = """
schema: 1
id: acme/tap
kind: waterlogging_gauge
title: Tap
product: {vendor: Acme, model: Tap, source: page 1}
transport: {mqtt: {}}
report_every: 1h
messages:
  report:
    codec: {type: json}
    when: {present: [/_a_]}
    fields:
      - each: a
        pointer: /a
        fields:
          - each: b
            pointer: /b
            fields: [{name: leak, pointer: /leak, type: bool, metric: water.leak}]
  set:
    direction: down
    codec: {type: json}
    fields: [{name: every, pointer: /every, type: int, unit: s, metric: config.report_interval}]
vectors:
  - {name: a minute, basis: computed, message: set, wire: {json: {every: 60}}, values: {every: 60}}
  - {name: nothing, basis: computed, wire: {text: "?"}, error: encoding}
"""
    return parse_profile(text, "tap.yaml", load_vocabulary())


def rows(message: dict[str, Any], labels: Labels = ENGLISH) -> tuple[Row, ...]:
    entry: Message = TypeAdapter(Message).validate_python(message)
    return outline(entry, (), labels)


def binary(*fields: dict[str, Any]) -> tuple[Row, ...]:
    return rows({"codec": {"type": "binary"}, "fields": list(fields)})


def places(found: tuple[Row, ...]) -> list[tuple[str, str]]:
    return [(row.where, row.name) for row in found if not row.heading]


# --- words


def test_every_phrase_has_both_languages_and_the_same_parts() -> None:
    for key, (english, chinese) in PHRASES.items():
        parts = [{part for _, part, _, _ in string.Formatter().parse(text) if part} for text in (english, chinese)]
        assert parts[0] == parts[1], key
        assert (english or key == "english_only") and chinese, key


def test_every_kind_of_profile_has_a_name_in_both_languages() -> None:
    assert set(KINDS) == set(get_args(ProfileKind))
    assert all(english and CHINESE_LETTERS.search(chinese) for english, chinese in KINDS.values())


def test_a_text_without_chinese_twin_is_marked() -> None:
    assert CHINESE.text("Beware", None) == "Beware（英文）"
    assert CHINESE.text("Beware", "小心") == "小心"
    assert ENGLISH.text("Beware", "小心") == "Beware"


# --- single values


@pytest.mark.parametrize(("seconds", "text"), [(300.0, "5 min"), (86400.0, "1 d"), (0.5, "500 ms"), (90.0, "90 s")])
def test_durations_are_written_in_the_largest_whole_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"), [(Fraction(1, 690), "1/690"), (Fraction(1, 1000000), "0.000001"), (Fraction(25), "25")]
)
def test_scales_are_decimal_where_they_can_be(value: Fraction, text: str) -> None:
    assert ratio(value) == text


def test_chinese_letters_take_two_places() -> None:
    assert display_width("a水") == 3
    assert padded("水", 4) == "水  "
    assert cut("水位计", 5) == "水位~"
    assert cut("level", 5) == "level"


# --- Markdown


def test_words_of_a_profile_cannot_break_a_table_or_become_mark_up() -> None:
    assert markdown.table(["a", "b"], [["x|y", "z"]])[2] == "| x\\|y | z |"
    assert markdown.plain("a *b*\n<c> _d_ e_f") == "a \\*b\\* \\<c\\> \\_d\\_ e_f"
    assert markdown.plain("the `a*b` and `") == "the \\`a\\*b\\` and \\`"
    assert markdown.plain("the `a*b` key") == "the `a*b` key"
    assert markdown.code("a`b") == "`` a`b ``"
    assert markdown.block("```\n")[0] == "````text"


def test_a_column_in_which_nothing_stands_is_left_out() -> None:
    assert markdown.table(["a", "b", "c"], [["1", "", "3"]])[0] == "| a | c |"


# --- offsets


def test_offsets_count_from_the_start_the_last_part_and_the_end() -> None:
    found = binary(
        {"name": "kind", "type": "u8"},
        {"name": "size", "type": "u16"},
        {"group": "log", "when": {"field": "kind", "equals": 2}, "fields": [{"name": "x", "type": "u32"}]},
        {"name": "y", "type": "u8"},
        {"repeat": "rest", "to": "end", "fields": [{"name": "z", "type": "u16"}]},
        {"name": "crc", "type": "u16", "checksum": {"kind": "crc16_modbus", "from": 0}},
    )
    assert places(found) == [
        ("0", "kind"),
        ("1-2", "size"),
        ("3-6", "log.x"),
        ("+0", "y"),
        ("+0-1", "rest.z"),
        ("end-2 … end-1", "crc"),
    ]
    assert [row.heading for row in found if row.heading] == [
        "Part `log`; only if kind is 2",
        "`rest`: repeated to the end",
    ]


def test_parts_of_fixed_size_do_not_disturb_the_count() -> None:
    found = binary(
        {"group": "a", "fields": [{"name": "x", "type": "f32"}]},
        {"repeat": "b", "to": 3, "fields": [{"name": "y", "type": "u16"}]},
        {"name": "z", "type": "digits", "length": 5},
    )
    assert places(found) == [("0-3", "a.x"), ("+0-1", "b.y"), ("10-14", "z")]


def test_bits_stand_where_their_number_stands() -> None:
    bits = [{"name": "low", "bit": 0}, {"name": "mode", "bit": 4, "width": 2}]
    found = binary({"skip": 3}, {"name": "flags", "type": "u8", "bits": bits})
    assert [(row.where, row.name, row.kind) for row in found] == [
        ("0-2", "", "skip[3]"),
        ("3", "flags", "u8"),
        ("3", "low", "bit 0"),
        ("3", "mode", "bits 4 to 5"),
    ]


def test_items_count_from_behind_their_tag() -> None:
    found = rows(
        {
            "codec": {"type": "tlv"},
            "items": [{"tag": "01 75", "group": "power", "fields": [{"name": "battery", "type": "u8"}]}],
        }
    )
    assert [row.heading for row in found if row.heading] == ["Item 01 75, `power`".replace(",", ";")]
    assert places(found) == [("+0", "power.battery")]


def test_elements_show_their_lead_and_definition_and_what_surrounds_them_counts_on() -> None:
    elements = [
        {"lead": "39", "definition": "23", "name": "level", "unit": "m"},
        {"lead": "F4", "definition": "60", "fields": [{"name": "at", "type": "digits", "length": 5}]},
    ]
    found = binary(
        {"name": "start", "type": "u16"}, {"elements": elements, "until": "03"}, {"name": "end", "type": "u8"}
    )
    assert [row.heading for row in found if row.heading] == [
        "Elements of SL 651-2014, in any order; up to the bytes 03",
        "Item F4 60",
    ]
    assert places(found) == [("0-1", "start"), ("39 23", "level"), ("+0-4", "at"), ("end-1", "end")]


def test_pointers_name_the_list_around_them() -> None:
    each = {"each": "logs", "pointer": "/logs", "fields": [{"name": "x", "pointer": "/x", "type": "int"}]}
    found = rows({"codec": {"type": "json"}, "fields": [each]})
    assert places(found) == [("/logs/*/x", "logs.x")]


def test_registers_are_in_decimal_and_hexadecimal() -> None:
    field = {"name": "power", "table": "input", "address": 102, "type": "u32", "access": "r", "scale": 0.1, "unit": "W"}
    (row,) = rows({"codec": {"type": "modbus"}, "fields": [field]})
    assert (row.where, row.kind, row.access, row.scale, row.unit) == ("input 102 (0x0066)", "u32", "r", "× 0.1", "W")


def test_words_show_the_code_the_vendors_word_and_the_reading() -> None:
    field = {"name": "state", "type": "u8", "metric": "pile.state", "map": {0: "idle", 65: "service"}}
    (row,) = binary(field | {"means": {"idle": "available"}})
    assert [(word.code, word.word, word.means) for word in row.words] == [
        ("0", "idle", "available"),
        ("0x41", "service", ""),
    ]


# --- drawings


def test_a_drawing_puts_eight_bytes_on_a_line() -> None:
    found = binary({"name": "head", "type": "u16"}, {"name": "distance", "type": "u64"}, {"name": "last", "type": "u8"})
    assert picture(found, ENGLISH) == [
        "            0          1          2          3          4          5          6          7",
        "       +---------------------+-----------------------------------------------------------------+",
        "     0 | head                | distance                                                        |",
        "       +---------------------+----------+------------------------------------------------------+",
        "     8 |                     | last     |",
        "       +---------------------+----------+",
    ]


def test_long_and_open_fields_are_lines_of_their_own() -> None:
    drawn = "\n".join(
        picture(binary({"name": "text", "type": "ascii", "length": 40}, {"name": "x", "type": "u8"}), ENGLISH)
    )
    assert "text (40 bytes)" in drawn
    assert re.search(r"^ +40 \| x ", drawn, re.MULTILINE)
    assert "rest …" in "\n".join(picture(binary({"name": "rest", "type": "hex", "length": "end"}), ENGLISH))


@pytest.mark.parametrize("labels", [ENGLISH, CHINESE], ids=["en", "zh"])
def test_the_lines_of_a_drawing_end_where_their_border_ends(labels: Labels) -> None:
    profile = example()
    drawn = picture(outline(profile.file.messages["report"], profile.fields("report"), labels), labels)
    boxes = [line for line in drawn if line.rstrip().endswith(("|", "+"))]
    assert len(boxes) > 8
    for above, line in pairwise(boxes):
        if line.endswith("|"):
            assert above.startswith("       +")
            assert above[display_width(line) - 1] == "+"
        assert display_width(line) <= 100


# --- whole sheets


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_profile_has_a_sheet_in_both_languages(path: Any) -> None:
    profile = load_profile(path, OWN_CATALOGUE)
    english, chinese = (device_sheet(profile, load_vocabulary(), language) for language in ("en", "zh"))
    for sheet in (english, chinese):
        assert sheet.count("\n## ") >= 3
        assert all(f"`{name}`" in sheet for name in profile.messages)
        assert all(f"`{field.name}`" in sheet for name in profile.messages for field in profile.fields(name))
        assert all(f"`{metric}`" in sheet for metric in profile.metrics)
    assert CHINESE_LETTERS.search(chinese)


def test_a_chinese_sheet_holds_no_english_phrase_of_ours() -> None:
    sheet = device_sheet(example(), load_vocabulary(), "zh")
    ours = [english for key, (english, chinese) in PHRASES.items() if english != chinese and len(english) > 6]
    phrases = [re.escape(english.split("{")[0].strip()) for english in ours if len(english.split("{")[0]) > 6]
    assert len(phrases) > 60
    assert [phrase for phrase in phrases if re.search(rf"(?<![\w.]){phrase}(?![\w.])", sheet)] == []


def test_what_is_only_written_to_the_device_is_not_measured() -> None:
    sheet = device_sheet(tap(), load_vocabulary(), "en")
    measured, _, rest = sheet.partition("\n## How it talks")
    assert "`water.leak`" in measured
    assert "config.report_interval" not in measured
    assert "`config.report_interval`" in rest


def test_pointers_cannot_become_mark_up() -> None:
    sheet = device_sheet(tap(), load_vocabulary(), "en")
    assert "`/a/*/b/*/leak`" in sheet
    assert "`/_a_` is there" in sheet
    for line in sheet.splitlines():
        if not line.startswith(("{", "|---")):
            assert "*" not in re.sub(r"`[^`]*`|\*\*", "", line)


def test_a_text_without_chinese_twin_is_marked_in_the_sheet() -> None:
    assert "# Tap（英文）" in device_sheet(tap(), load_vocabulary(), "zh")
    assert "（英文）" not in device_sheet(tap(), load_vocabulary(), "en")


def test_examples_that_are_not_shown_are_counted() -> None:
    assert "Further examples in the profile file: 1." in device_sheet(tap(), load_vocabulary(), "en")


def test_the_example_sheet_says_what_the_profile_says() -> None:
    sheet = device_sheet(example(), load_vocabulary(), "en")
    for line in (
        "# Example level gauge",
        "| 8-9 | `distance` | i16 | mm |  | `water.distance` | 0x7FFF: no value |",
        "| `set_interval` | Set the report interval | to the device | JSON |  |",
        "| 04 | input | 100 (0x0064) | 6 |",
        "- `coverage`: 0 = none → none, 1 = good → level_0, 2 = fair → level_1, 3 = poor → level_2",
        "| `range` | Measuring range, printed on the type plate | `short` (default) | 0.2 to 2 m |"
        " Protocol description 1.2, section 2.1 |",
    ):
        assert line in sheet.splitlines()
    assert "7FFF while the probe starts" in sheet
    assert "01 01 23 45 6B 00 D4 56 08 44" in sheet


def test_secret_values_do_not_stand_in_examples() -> None:
    text = """
schema: 1
id: acme/keypad
kind: door_lock
title: Keypad
product: {vendor: Acme, model: Keypad, source: page 1}
transport: {mqtt: {}}
report_every: 1h
messages:
  report: {codec: {type: json}, fields: [{name: code, pointer: /code, type: text, secret: true}]}
vectors:
  - {name: typed, basis: computed, message: report, wire: {json: {code: "******"}}, values: {code: "492817"}}
"""
    sheet = device_sheet(parse_profile(text, "keypad.yaml", load_vocabulary()), load_vocabulary(), "en")
    assert "492817" not in sheet
    assert "(secret)" in sheet
