"""Options: one file, several variants; settings choose, and what is no choice is said to the installer."""

from __future__ import annotations

import pytest

from citysense_profiles import Profile, ProfileError, SettingError, load_vocabulary
from citysense_profiles.compiler import parse_profile

HEAD = """
schema: 1
id: acme/pile
kind: charging_pile
title: Pile
product: {vendor: Acme, model: Pile, source: manual}
transport: {modbus: {}}
report_every: 10s
vectors: []
"""
OPTIONS = """
options:
  connector: {title: Connector, default: 1, choices: {1: left, 2: right}}
  word_order: {title: Word order, default: high_first, choices: {high_first: as measured, low_first: as the manual says}}
"""
MESSAGES = """
messages:
  status:
    codec: {type: modbus, shift: {option: connector, is: {1: 100, 2: 200}}, word_order: {option: word_order}}
    fields:
      - {name: power, table: input, address: 4, type: u32, unit: W, metric: electric.power}
"""


def _profile(text: str = HEAD + OPTIONS + MESSAGES) -> Profile:
    return parse_profile(text, "acme/pile.yaml", load_vocabulary())


def _refused(text: str) -> ProfileError:
    with pytest.raises(ProfileError) as caught:
        _profile(text)
    return caught.value


def test_without_a_choice_the_defaults_hold() -> None:
    profile = _profile()
    assert profile.chosen == {"connector": 1, "word_order": "high_first"}
    assert profile.fitted({}) is profile
    assert profile.decode_registers({("input", 104): 1, ("input", 105): 2}).samples[0].values == {
        "electric.power": 65538.0
    }


def test_settings_choose_a_variant_that_is_compiled_once() -> None:
    profile = _profile()
    # A registry keeps numbers as floats.
    fitted = profile.fitted({"connector": 2.0, "word_order": "low_first", "mount.height": 250.0})
    assert fitted.chosen == {"connector": 2, "word_order": "low_first"}
    assert fitted.decode_registers({("input", 204): 1, ("input", 205): 2}).samples[0].values == {
        "electric.power": 131073.0
    }
    assert profile.fitted({"connector": 2, "word_order": "low_first"}) is fitted
    assert fitted.fitted({}) is profile


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"connector": 3.0}, "3 is not a choice of connector; choose from 1, 2"),
        ({"connector": 1.5}, "1.5 is not a choice"),
        ({"connector": "left"}, "'left' is not a choice"),
        ({"word_order": 1.0}, "choose from high_first, low_first"),
        ({"connector": float("nan")}, "nan is not a choice"),
    ],
)
def test_what_is_no_choice_is_said_to_the_installer(settings: dict[str, float | str], sentence: str) -> None:
    with pytest.raises(SettingError) as caught:
        _profile().fitted(settings)
    assert sentence in str(caught.value)
    assert caught.value.setting in settings


def test_an_option_that_nobody_declared() -> None:
    assert "option 'connector' is not declared" in _refused(HEAD + MESSAGES).text


def test_a_choice_without_a_value() -> None:
    error = _refused(HEAD + OPTIONS + MESSAGES.replace("{1: 100, 2: 200}", "{1: 100}"))
    assert "does not say what 2 is" in error.text


def test_every_variant_is_compiled_when_the_file_is_loaded() -> None:
    error = _refused(HEAD + OPTIONS + MESSAGES.replace("2: 200", "2: 65533"))
    assert error.field == "options"
    assert "'connector': 2" in error.text


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            "options: {connector: {title: C, default: 3, choices: {1: a, 2: b}}}\n",
            "default 3 is not one of the choices",
        ),
        ("options: {connector: {title: C, default: 1, choices: {1: a}}}\n", "at least 2"),
    ],
)
def test_an_option_that_is_none(options: str, sentence: str) -> None:
    text = HEAD + options + MESSAGES.replace(", word_order: {option: word_order}", "")
    assert sentence in str(_refused(text))


def test_a_setting_and_an_option_of_one_name() -> None:
    text = HEAD + OPTIONS + "settings: {connector: {title: C, unit: cm}}\n" + MESSAGES
    assert "is a setting and an option" in str(_refused(text))
