"""What once got through: profile files, values and frames that ended in another error than the promised one."""

from __future__ import annotations

import time
from typing import Any

import pytest

from citysense_profiles import DecodeError, EncodeError, Profile, load_vocabulary
from citysense_profiles.checking.vector_check import same
from citysense_profiles.compiler import parse_profile
from citysense_profiles.errors import ProfileError

HEAD = """
schema: 1
id: acme/sensor
kind: waterlogging_gauge
title: Sensor
product: {vendor: Acme, model: Sensor, source: manual}
transport: {mqtt: {}}
report_every: 1h
vectors: []
"""
SETTING = "settings: {k: {title: K, unit: mm, default: 2}}\n"
OPTION = "options: {o: {title: O, default: a, choices: {a: A, b: B}}}\n"
MESSAGE = "{codec: {type: binary}, fields: [{name: x, type: u8}]}"


def _parsed(text: str) -> Profile:
    return parse_profile(HEAD + text, "acme/sensor.yaml", load_vocabulary())


def _binary(*fields: str, extra: str = "") -> Profile:
    listed = "".join(f"      - {field}\n" for field in fields)
    return _parsed(f"{extra}messages:\n  report:\n    codec: {{type: binary}}\n    fields:\n{listed}")


@pytest.mark.parametrize("scale", ["1e300", "1e308", '"1e400"', '"1e-31"', "1e300000000"])
@pytest.mark.parametrize("key", ["scale", "offset"])
def test_scale_beyond_doubles(scale: str, key: str) -> None:
    with pytest.raises(ProfileError, match="1e-30 and 1e30"):
        _binary(f'{{name: x, type: u64, unit: mm, metric: water.level, {key}: "{scale.strip(chr(34))}"}}')


def test_scale_that_takes_seconds_to_compute() -> None:
    before = time.process_time()
    with pytest.raises(ProfileError):
        _binary('{name: x, type: u16, unit: mm, scale: "1e9999999"}')
    assert time.process_time() - before < 1


@pytest.mark.parametrize("scale", ["1e30", "1e-30", "-1e30"])
def test_largest_scale_still_computes(scale: str) -> None:
    profile = _binary(f'{{name: x, type: u64, unit: km, metric: water.level, scale: "{scale}"}}')
    (sample,) = profile.decode(b"\xff" * 8).samples
    assert sample.values["water.level"] == pytest.approx(float(scale) * (2**64 - 1) * 1e5)
    named = profile.decode_fields(b"\xff" * 8).values
    assert profile.encode_fields("report", {"x": named["x"] / 2})[:1] in (b"\x7f", b"\x80")


@pytest.mark.parametrize("span", ["raw: [.inf, 1], values: [0, 1]", "raw: [0, 1], values: [0, .inf]"])
def test_span_with_infinite_ends(span: str) -> None:
    with pytest.raises(ProfileError, match="finite"):
        _binary(f"{{name: x, type: u16, unit: mm, span: {{{span}}}}}")


@pytest.mark.parametrize("entry", ["default: .nan", "default: .inf", "range: [.nan, 1]", "range: [5, 1]"])
def test_settings_that_are_no_numbers(entry: str) -> None:
    with pytest.raises(ProfileError, match=r"settings\.k"):
        _binary("{name: x, type: u8}", extra=f"settings: {{k: {{title: K, unit: mm, {entry}}}}}\n")


@pytest.mark.parametrize("role", ["role: time, form: unix_s", "role: seq", "role: boot"])
@pytest.mark.parametrize("how", ["times: {setting: k}", "span: {raw: [0, 1], values: [0, 0.5]}"])
def test_roles_that_are_computed(role: str, how: str) -> None:
    with pytest.raises(ProfileError, match="is told as it is"):
        _binary(f"{{{role}, type: u32, {how}}}", extra=SETTING)


@pytest.mark.parametrize(
    "words",
    [
        "map: {1: a}, metric: water.level, unit: mm, means: {a: 1" + "0" * 350 + "}",
        "map: {1: 1" + "0" * 350 + "}",
        "map: {1: .inf}",
        "map: {1: .nan}",
    ],
)
def test_words_that_no_double_holds(words: str) -> None:
    with pytest.raises(ProfileError, match=r"(map|means): "):
        _binary(f"{{name: x, type: u8, {words}}}")


def test_mark_that_no_double_holds() -> None:
    profile = _binary("{name: x, type: f64, invalid: [1" + "0" * 350 + "]}")
    with pytest.raises(EncodeError):
        profile.encode_fields("report", {"x": None})


def test_type_in_other_digits() -> None:
    with pytest.raises(ProfileError, match="is not known"):
        _binary('{name: x, type: "u\u0661\u0666"}')


def test_repeats_that_multiply() -> None:
    inner = "{name: x, type: u8, default: 1}"
    for name in ("a", "b", "c"):
        inner = f"{{repeat: {name}, to: 256, fields: [{inner}]}}"
    with pytest.raises(ProfileError, match="a frame has at most"):
        _binary(inner)


def test_message_that_is_shorter_than_its_shortest() -> None:
    with pytest.raises(ProfileError, match=r"when\.shortest is 23, the fields make 1 bytes"):
        _parsed("messages: {report: {codec: {type: binary}, when: {shortest: 23}, fields: [{name: x, type: u8}]}}")


@pytest.mark.parametrize("other", [f"{{other: {MESSAGE}}}", "5"])
def test_option_in_place_of_all_messages(other: str) -> None:
    with pytest.raises(ProfileError, match="inside a message"):
        _parsed(f"{OPTION}messages: {{option: o, is: {{a: {{report: {MESSAGE}}}, b: {other}}}}}")


@pytest.mark.parametrize("default", ["1.0", "c", "3"])
def test_option_whose_default_is_no_choice(default: str) -> None:
    with pytest.raises(ProfileError, match="not one of the choices"):
        _parsed(f"options: {{o: {{title: O, default: {default}, choices: {{a: A, 2: B}}}}}}\n"
                f"messages: {{report: {MESSAGE}}}")  # fmt: skip


@pytest.mark.parametrize("type_", ["form: digits, type: digits, length: 6", "form: cp56, type: cp56"])
def test_last_moment_of_the_year_9999_in_the_east(type_: str) -> None:
    profile = _binary(f'{{role: time, {type_}, utc_offset: "+08:00"}}')
    with pytest.raises(EncodeError, match="9999"):
        profile.encode("report", {}, time=253_402_300_799_999)


@pytest.mark.parametrize(
    "given", ["1", 1.5, True, [1], {}, 10**5000, float("nan")], ids=lambda given: type(given).__name__
)
@pytest.mark.parametrize("counter", ["time", "seq"])
def test_counters_of_other_types(counter: str, given: Any) -> None:
    profile = _binary("{role: time, form: unix_s, type: u32}", "{role: seq, type: u32}")
    with pytest.raises(EncodeError, match=counter):
        profile.encode("report", {}, **{"time": 0, "seq": 1, counter: given})


def _nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "given", [10**5000, -(10**5000), [10**5000], _nested(50_000)], ids=["large", "negative", "listed", "nested"]
)
@pytest.mark.parametrize("field", ["type: u8", "type: u8, map: {1: a}", "type: f32", "type: ascii, length: 3"])
def test_values_that_cannot_even_be_printed(field: str, given: Any) -> None:
    profile = _binary(f"{{name: x, {field}}}")
    with pytest.raises(EncodeError, match="x is a number too large, or lists nested too deep"):
        profile.encode_fields("report", {"x": given})


def test_readings_whose_names_are_no_text() -> None:
    profile = _binary("{name: x, type: u8, unit: mm, metric: water.level}")
    names: Any = {1: 2, "a": 3, None: 4}
    with pytest.raises(EncodeError, match="not in this message"):
        profile.encode("report", names)


@pytest.mark.parametrize("content", [110, 112])
def test_surrogates_in_reshaped_text(content: int) -> None:
    profile = _parsed(
        "messages: {report: {codec: {type: senml}, fields: "
        '[{name: a, senml: a, value: vs, reshape: {wire: "I{3}", value: "{3}"}}]}}'
    )
    with pytest.raises(EncodeError, match="UTF-8"):
        profile.encode_fields("report", {"a": "\ud800ab"}, content=content)


def test_derived_metric_beyond_doubles() -> None:
    profile = _parsed(
        "settings: {height: {title: H, unit: cm, default: 1.0e+308}}\n"
        "derive: [{metric: water.level, setting: height, minus: water.distance}]\n"
        "messages: {report: {codec: {type: json}, fields: "
        "[{name: d, pointer: /d, type: number, unit: cm, metric: water.distance}]}}"
    )
    (sample,) = profile.decode(b'{"d": -1e308}').samples
    assert sample.values == {"water.distance": -1e308}


def test_errors_do_not_quote_a_megabyte() -> None:
    profile = _parsed(
        "messages: {report: {codec: {type: json}, fields: [{name: a, pointer: /a, type: text, map: {x: y}}]}}"
    )
    with pytest.raises(DecodeError) as refused:
        profile.decode(b'{"a": "' + b"z" * 1_000_000 + b'"}')
    assert len(str(refused.value)) < 1000


def test_vector_with_an_integer_that_no_double_holds() -> None:
    assert not same(1.5, 10**400, 0.1)
    assert same(10**400, 10**400, 0.0)
