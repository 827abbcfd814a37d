"""Both faces of a field: the value by name, which always leads back, and the metric, which says what it means."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from citysense_profiles.errors import RefusedError
from citysense_profiles.format.meaning import Meaning
from citysense_profiles.values.conversion import SILENT, Conversion, Raw, compile_conversion
from citysense_profiles.values.units import affine
from citysense_profiles.vocabulary import load_vocabulary

VOCABULARY = load_vocabulary()


def _conversion(
    raw: Raw, metric: str | None = None, *, null: bool = False, bit: bool = False, **keys: Any
) -> Conversion:
    meaning = Meaning.model_validate({"name": "x", "metric": metric, **keys})
    known = VOCABULARY.metric(metric) if metric is not None else None
    return compile_conversion(meaning, known, raw, null=null, single_bit=bit)


def _told(conversion: Conversion, code: Any) -> Any:
    assert conversion.told is not None
    return conversion.told(code)


def _named(conversion: Conversion, value: Any) -> Any:
    assert conversion.named is not None
    return conversion.named(value)


# --- numbers


@given(st.integers(-(2**49), 2**49), st.sampled_from(["1", "0.1", "0.01", "0.5", "7", "-0.25"]), st.integers(-99, 99))
def test_a_number_leads_back_and_both_faces_agree(raw: int, scale: str, offset: int) -> None:
    conversion = _conversion("int", "water.level", unit="mm", scale=scale, offset=offset)
    shown = conversion.shown(raw)
    assert conversion.stored(shown) == raw
    assert type(shown) is (int if scale == "1" and offset == 0 else float)
    told = _told(conversion, raw)
    assert type(told) is float
    assert told == pytest.approx(shown / 10, rel=1e-15)
    assert conversion.stored(_named(conversion, told)) == raw
    way = conversion.plain
    assert way is not None
    assert told == (raw * way.p + way.b) / way.q
    assert way == affine(Meaning(scale=scale).scale, Meaning(offset=offset).offset, "mm", "cm")


@given(st.floats(width=32, allow_nan=False, allow_infinity=False), st.sampled_from(["1", "0.1", "1000"]))
def test_a_float_of_the_wire_leads_back(raw: float, scale: str) -> None:
    conversion = _conversion("float", "electric.power", unit="kW", scale=scale)
    (again,) = struct.unpack(">f", struct.pack(">f", conversion.stored(conversion.shown(raw))))
    assert again == raw  # zero has lost its sign where there is a scale
    assert _told(conversion, raw) == pytest.approx(conversion.shown(raw) * 1000, rel=1e-15)


def test_a_plain_number_stays_what_it_is() -> None:
    conversion = _conversion("int")
    assert (conversion.told, conversion.named, conversion.plain) == (None, None, None)
    assert conversion.shown(7) == 7
    assert type(conversion.shown(7)) is int
    assert _conversion("number").shown(7) == 7
    assert type(_conversion("float").shown(7.0)) is float
    assert (conversion.stored(7), conversion.stored(7.0)) == (7, 7)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "3", True, [3], {}])
@pytest.mark.parametrize("raw", ["int", "float", "number"])
@pytest.mark.parametrize("scale", ["1", "0.1"])
def test_what_is_no_number_is_not_stored(value: object, raw: Raw, scale: str) -> None:
    with pytest.raises(RefusedError):
        _conversion(raw, unit="mm", scale=scale).stored(value)


@pytest.mark.parametrize("code", [float("nan"), float("inf"), 10**400, 2**64])
@pytest.mark.parametrize("scale", ["1", "0.1"])
def test_what_is_no_number_is_refused_by_both_faces(code: Any, scale: str) -> None:
    conversion = _conversion("number", "water.level", unit="mm", scale=scale)
    with pytest.raises(RefusedError):
        conversion.shown(code)
    with pytest.raises(RefusedError):
        _told(conversion, code)


def test_a_number_that_fits_one_face_only_fits_neither() -> None:
    conversion = _conversion("number", "water.level", unit="mm", scale=5)
    for face in (conversion.shown, conversion.told):
        assert face is not None
        with pytest.raises(RefusedError):
            face(1e308)


def test_a_needed_number_goes_into_both_faces() -> None:
    conversion = _conversion("int", "electric.power", unit="kW", scale="0.1", times={"setting": "ratio"})
    assert [need.model_dump() for need in conversion.needs] == [{"setting": "ratio"}]
    assert conversion.told is not None
    assert (conversion.shown(15, 40), conversion.told(15, 40)) == (60.0, 60000.0)
    assert conversion.stored(_named(conversion, 60000.0), 40) == 15
    assert conversion.plain is None


def test_a_number_may_come_from_a_map() -> None:
    conversion = _conversion("int", "config.measuring_range", unit="mm", map={0: 2000, 1: 5000})
    assert [conversion.shown(code) for code in (0, 1)] == [2000, 5000]
    assert [_told(conversion, code) for code in (0, 1)] == [200.0, 500.0]
    assert conversion.stored(_named(conversion, 500.0)) == 1
    assert conversion.plain is None


# --- marks of "no value"


def test_marks_are_missing_and_not_zero() -> None:
    conversion = _conversion("int", "water.level", unit="mm", invalid=[0xFFFF, 0xFFFE])
    assert [conversion.shown(raw) for raw in (0xFFFF, 0xFFFE, 0)] == [None, None, 0]
    assert [_told(conversion, raw) for raw in (0xFFFF, 0xFFFE, 0)] == [None, None, 0.0]
    assert (conversion.stored(None), _named(conversion, None)) == (0xFFFF, None)
    assert conversion.can_be_missing
    assert conversion.plain is None  # or a codec would inline the mark away


def test_a_value_is_never_written_as_a_mark() -> None:
    conversion = _conversion("int", "water.level", unit="mm", scale="0.1", invalid=[0xFFFF])
    assert conversion.stored(6553.4) == 0xFFFE
    with pytest.raises(RefusedError, match="no value"):
        conversion.stored(6553.5)


def test_nothing_is_missing_without_a_mark_or_a_null() -> None:
    bare = _conversion("int", "water.level", unit="mm")
    assert not bare.can_be_missing
    with pytest.raises(RefusedError, match="no mark"):
        bare.stored(None)
    nullable = _conversion("number", "water.level", unit="mm", null=True)
    assert nullable.can_be_missing
    assert nullable.stored(None) is None


def test_nan_may_be_a_mark() -> None:
    conversion = _conversion("float", "water.level", unit="cm", invalid=[float("nan"), -1.0])
    assert [_told(conversion, raw) for raw in (float("nan"), -1.0, 1.5)] == [None, None, 1.5]
    assert conversion.stored(None) != conversion.stored(None)  # NaN is written
    with pytest.raises(RefusedError):
        _told(_conversion("float", "water.level", unit="cm", invalid=[-1.0, 1, 1.0]), float("nan"))


@pytest.mark.parametrize(("raw", "mark"), [("int", "none"), ("int", True), ("text", 5), ("bool", 1), ("int", 1.5)])
def test_a_mark_that_never_comes_is_refused(raw: Raw, mark: object) -> None:
    with pytest.raises(ValueError, match="is not a raw"):
        _conversion(raw, invalid=[mark])


def test_outside_the_valid_range_there_is_no_value() -> None:
    conversion = _conversion("int", "water.level", unit="cm", scale="0.5", valid=[10, 299], invalid=[0xFFFF])
    assert [conversion.shown(code) for code in (9, 10, 299, 300, 0xFFFF)] == [None, 5.0, 149.5, None, None]
    assert [_told(conversion, code) for code in (9, 10, 299, 300, 0xFFFF)] == [None, 5.0, 149.5, None, None]
    assert [conversion.stored(value) for value in (5.0, 149.5, None)] == [10, 299, 0xFFFF]
    assert conversion.plain is None
    for value in (4.5, 150):
        with pytest.raises(RefusedError, match="outside 10 to 299"):
            conversion.stored(value)


# --- words


def test_a_map_goes_both_ways_and_knows_its_limits() -> None:
    conversion = _conversion("int", "pile.state", map={0: "available", 10: "faulted"})
    assert (conversion.shown(10), _told(conversion, 10), conversion.stored("available")) == ("faulted", "faulted", 0)
    assert _named(conversion, "faulted") == "faulted"
    for face in (conversion.shown, conversion.told):
        assert face is not None
        with pytest.raises(RefusedError, match=r"code 3 is not in the map \(0, 10\)"):
            face(3)
    with pytest.raises(RefusedError, match="value 'charging' is not in the map"):
        conversion.stored("charging")
    with pytest.raises(RefusedError, match=r"not a value of pile\.state"):
        _named(conversion, "sleeping")


def test_means_turns_the_makers_words_into_ours() -> None:
    words = {1: "idle", 2: "standby", 3: "charging", 4: "network"}
    means = {"idle": "available", "standby": "available", "charging": "charging"}
    conversion = _conversion("int", "pile.state", map=words, means=means)
    assert [conversion.shown(code) for code in words] == list(words.values())
    assert [_told(conversion, code) for code in (1, 2, 3)] == ["available", "available", "charging"]
    assert _told(conversion, 4) is SILENT
    assert _named(conversion, "available") == "idle"  # the first that means it
    with pytest.raises(RefusedError, match="cannot be said in this message"):
        _named(conversion, "faulted")


def test_means_may_give_numbers_truth_and_counts() -> None:
    tilted = _conversion("int", "gauge.tilted", map={0: "normal", 1: "tilt"}, means={"tilt": True, "normal": False})
    assert (_told(tilted, 1), tilted.shown(1), _named(tilted, False)) == (True, "tilt", "normal")
    phases = _conversion("int", "pile.phases", map={0: "one", 1: "three"}, means={"one": 1, "three": 3})
    assert (_told(phases, 1), _named(phases, 1)) == (3, "one")
    level = _conversion("int", "battery.level", unit="%", map={0: "low", 1: "full"}, means={"low": 10, "full": 100})
    assert (_told(level, 0), type(_told(level, 0))) == (10.0, float)
    bit = _conversion("int", "device.mains", bit=True, means={True: False, False: True})
    assert [(bit.shown(code), _told(bit, code)) for code in (0, 1)] == [(False, True), (True, False)]
    number = _conversion("int", "lock.event", means={1: "unlock.app", 4: "unlock.passcode"})
    assert [_told(number, code) for code in (1, 4, 5)] == ["unlock.app", "unlock.passcode", SILENT]
    assert (number.shown(5), number.stored(_named(number, "unlock.app"))) == (5, 1)


def test_codes_of_no_word_may_pass_as_numbers() -> None:
    conversion = _conversion("int", "pile.state", map={0: "available", 3: "charging"}, others="pass")
    assert [conversion.shown(code) for code in (0, 3, 7, 2**64 - 1)] == ["available", "charging", 7, 2**64 - 1]
    assert [_told(conversion, code) for code in (0, 7)] == ["available", SILENT]
    assert [conversion.stored(value) for value in ("charging", 7)] == [3, 7]
    with pytest.raises(RefusedError, match="value 3 is not in the map"):
        conversion.stored(3)  # it would come back as a word
    with pytest.raises(RefusedError):
        conversion.stored("sleeping")
    meant = _conversion("int", "lock.event", map={1: "app"}, others="pass", means={"app": "unlock.app", 29: "forced"})
    assert [_told(meant, code) for code in (1, 29, 30)] == ["unlock.app", "forced", SILENT]


def test_a_map_may_mix_truth_and_words() -> None:
    conversion = _conversion("int", map={0: False, 1: True, 2: "unknown", 3: 1})
    assert [conversion.shown(code) for code in range(4)] == [False, True, "unknown", 1]
    assert [conversion.stored(value) for value in (False, True, "unknown", 1)] == [0, 1, 2, 3]


@pytest.mark.parametrize("value", [[], {}, None, 1.5])
def test_what_no_map_holds_is_refused(value: object) -> None:
    conversion = _conversion("int", map={0: "off", 1: "on"})
    with pytest.raises(RefusedError):
        conversion.stored(value)


# --- truth and text


def test_one_and_true_are_not_the_same_code() -> None:
    conversion = _conversion("int", "door.open")
    assert (_told(conversion, 1), conversion.shown(0), conversion.stored(True)) == (True, False, 1)
    with pytest.raises(RefusedError):
        _told(conversion, 2)
    with pytest.raises(RefusedError):
        conversion.stored(1)
    with pytest.raises(RefusedError):
        _conversion("int", "pile.connector").stored(True)
    with pytest.raises(RefusedError):
        _conversion("bool", "door.open").shown(1)


def test_a_single_bit_is_true_or_false() -> None:
    conversion = _conversion("int", bit=True)
    assert [conversion.shown(code) for code in (0, 1)] == [False, True]
    assert [conversion.stored(value) for value in (False, True)] == [0, 1]
    mapped = _conversion("int", bit=True, map={0: "closed", 1: "open"})
    assert mapped.shown(1) == "open"


def test_text_is_text_that_can_be_written() -> None:
    conversion = _conversion("text", "device.firmware")
    assert (conversion.shown("1.2.3"), _told(conversion, "1.2.3"), conversion.stored("")) == ("1.2.3", "1.2.3", "")
    with pytest.raises(RefusedError, match="UTF-8"):
        conversion.stored("\ud800")
    with pytest.raises(RefusedError, match="not text"):
        conversion.stored(5)
    reshaped = _conversion("text", reshape={"wire": "IMEI:{3}", "value": "{3}"})
    assert (reshaped.shown("IMEI:123"), reshaped.stored("123")) == ("123", "IMEI:123")


def test_a_count_fits_what_stores_hold() -> None:
    conversion = _conversion("int", "pile.error_code")
    assert _told(conversion, 2**63 - 1) == 2**63 - 1
    with pytest.raises(RefusedError, match="64 bits"):
        _told(conversion, 2**63)


# --- descriptions that mean nothing


@pytest.mark.parametrize(
    ("raw", "metric", "keys", "sentence"),
    [
        ("int", "water.level", {}, "unit is missing"),
        ("int", "water.level", {"unit": "kPa"}, "cannot be turned into"),
        ("text", "water.level", {"unit": "cm"}, "a raw text needs a map"),
        ("int", "pile.connector", {"unit": "cm"}, "unit means nothing here"),
        ("int", "pile.connector", {"scale": 2}, "mean nothing here"),
        ("number", "pile.connector", {}, "a raw number needs a map"),
        ("int", "pile.state", {}, "a raw int needs a map"),
        ("int", "door.open", {"scale": 2}, "mean nothing here"),
        ("int", "pile.state", {"map": {0: "idle"}}, "say in `means`"),
        ("int", "water.level", {"unit": "cm", "map": {0: "low"}}, "say in `means`"),
        ("int", None, {"map": {0: "a", 1: "a"}}, "two raw codes"),
        ("int", None, {"map": {"0": "a"}}, "is not a raw int"),
        ("int", None, {"map": {0: "a"}, "scale": 2}, "the map gives the value"),
        ("text", None, {"map": {"a": "b"}, "others": "pass"}, "others: pass"),
        ("int", None, {"map": {0: 5}, "others": "pass"}, "others: pass"),
        ("int", "pile.state", {"map": {0: "idle"}, "means": {"busy": "charging"}}, "not a word of the map"),
        ("int", "pile.state", {"map": {0: "idle"}, "means": {"idle": "resting"}}, "not a value of pile.state"),
        ("int", "pile.phases", {"means": {"one": 1}}, "which shows numbers"),
        ("text", "door.open", {"means": {1: True}}, "which shows text"),
        ("bool", "device.mains", {"means": {1: False}}, "which shows true or false"),
        ("int", None, {"reshape": {"wire": "{1}", "value": "{1}"}}, "reshape rearranges text"),
        ("text", None, {"scale": 2}, "a raw text is no number"),
        ("text", None, {"valid": [0, 9]}, "valid is"),
        ("int", None, {"valid": [9, 0]}, "valid is"),
        ("int", None, {"valid": [0, 9], "map": {0: "off"}}, "valid is"),
        ("int", None, {"span": {"raw": [0, 1], "values": [0, 1]}, "scale": 2}, "the span gives the value"),
    ],
)
def test_a_description_that_means_nothing_is_named(
    raw: Raw, metric: str | None, keys: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        _conversion(raw, metric, **keys)


@pytest.mark.parametrize("metric", ["pile.connector", "battery.level"])
def test_a_single_bit_is_no_number(metric: str) -> None:
    with pytest.raises(ValueError, match="a map says which"):
        _conversion("int", metric, bit=True)
