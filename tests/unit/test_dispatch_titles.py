"""Titles of cases."""

from __future__ import annotations

from citysense_platform.dispatch.titles import one_line, title
from citysense_platform.rules.colour import Colour
from citysense_platform.rules.model import DEFAULT_PACK, load_pack
from citysense_platform.rules.rule import Words


def test_water_in_both_languages() -> None:
    template = load_pack(DEFAULT_PACK)["water-level"].title
    words = title(template, colour=Colour.RED, site="Underpass 1", value="52.3 cm")
    assert one_line(words) == "积水红色预警：Underpass 1 水位 52.3 cm / Red water level warning: Underpass 1, 52.3 cm"


def test_every_shipped_title_fills_completely() -> None:
    for rule in load_pack(DEFAULT_PACK).rules:
        words = title(rule.title, colour=Colour.BLUE, site="S", value="V")
        assert "{" not in one_line(words)
        assert "S" in words.zh
        assert "S" in words.en


def test_a_site_named_like_a_placeholder_stays_its_name() -> None:
    template = Words(zh="{site}：{value}", en="{site} {colour}")
    words = title(template, colour=Colour.BLUE, site="{value}{colour}", value="1 cm")
    assert words == Words(zh="{value}{colour}：1 cm", en="{value}{colour} blue")
