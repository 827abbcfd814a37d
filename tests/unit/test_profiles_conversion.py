"""Units, scales, maps and marks: exact both ways, and refused where they mean nothing."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from citysense_profiles import load_vocabulary
from citysense_profiles.conversion import Conversion, Raw, RefusedError, compile_conversion
from citysense_profiles.model import Meaning
from citysense_profiles.units import UNITS, affine

VOCABULARY = load_vocabulary()


def _conversion(metric: str, raw: Raw, **meaning: object) -> Conversion:
    return compile_conversion(Meaning.model_validate({"metric": metric, **meaning}), VOCABULARY.metric(metric), raw)


@pytest.mark.parametrize(
    ("scale", "offset", "wire", "wanted", "raw", "value"),
    [
        ("1", "0", "mm", "cm", 123, 12.3),
        ("0.1", "0", "cm", "cm", 123, 12.3),
        ("0.01", "0", "kW.h", "kW.h", 1234, 12.34),
        ("1", "0", "W.h", "kW.h", 18705, 18.705),
        ("0.001", "0", "V", "V", 3610, 3.61),
        ("1", "0", "m", "cm", 3, 300.0),
        ("0.5", "10", "Cel", "Cel", 30, 25.0),
        ("1", "0", "[degF]", "Cel", 212, 100.0),
        ("0.1", "0", "K", "Cel", 2731, -0.05),
        ("1", "0", "min", "s", 3, 180.0),
        ("1", "0", "Hz", "kHz", 927250000, 927250.0),
    ],
)
def test_a_raw_number_becomes_the_nearest_double(
    scale: str, offset: str, wire: str, wanted: str, raw: int, value: float
) -> None:
    way = affine(Decimal(scale), Decimal(offset), wire, wanted)
    assert (raw * way.p + way.b) / way.q == value


def test_every_unit_is_itself() -> None:
    for code in UNITS:
        assert affine(Decimal(1), Decimal(0), code, code).identity


@given(st.integers(-(2**63), 2**63 - 1), st.sampled_from(["0.1", "0.01", "0.001", "0.5", "7", "-0.25"]))
def test_an_integer_comes_back_from_its_value(raw: int, scale: str) -> None:
    conversion = _conversion("water.level", "int", unit="mm", scale=scale)
    value = conversion.decode(raw)
    assert type(value) is float
    # Up to 2**50 every code comes back; beyond, a double no longer tells neighbours apart.
    assert abs(conversion.encode(value) - raw) <= abs(raw) * 2**-50


@given(st.floats(-1e12, 1e12), st.sampled_from(["1", "0.1", "0.5"]))
def test_a_float_comes_back_from_its_value(raw: float, scale: str) -> None:
    conversion = _conversion("water.level", "float", unit="mm", scale=scale)
    assert conversion.encode(conversion.decode(raw)) == pytest.approx(raw, rel=1e-12, abs=1e-300)


def test_decimals_stay_decimals() -> None:
    conversion = _conversion("water.level", "number", unit="m")
    assert [conversion.decode(raw) for raw in (0.123, 0.1 + 0.2, 1, 1.1)] == [12.3, 30.000000000000004, 100.0, 110.0]
    assert conversion.encode(12.3) == 0.123


def test_encoding_rounds_to_what_the_wire_can_say() -> None:
    conversion = _conversion("water.level", "int", unit="mm")
    assert [conversion.encode(value) for value in (12.34, 12.36, -0.04)] == [123, 124, 0]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "3", True])
@pytest.mark.parametrize("raw", ["int", "float", "number"])
def test_what_is_no_number_is_not_encoded(value: object, raw: Raw) -> None:
    with pytest.raises(RefusedError):
        _conversion("water.level", raw, unit="mm").encode(value)  # type: ignore[arg-type]


def test_what_no_double_holds_is_not_encoded() -> None:
    with pytest.raises(RefusedError, match="too large"):
        _conversion("water.level", "number", unit="mm").encode(10**400)
    with pytest.raises(RefusedError, match="64 bits"):
        _conversion("pile.connector", "int").encode(2**63)
    with pytest.raises(RefusedError, match="UTF-8"):
        _conversion("tag.antenna_name", "text").encode("\ud800")


@pytest.mark.parametrize("raw", [float("nan"), float("inf"), 10**400])
def test_what_is_no_number_is_not_decoded(raw: object) -> None:
    with pytest.raises(RefusedError):
        _conversion("water.level", "number", unit="mm").decode(raw)


def test_marks_are_missing_and_not_zero() -> None:
    conversion = _conversion("water.level", "int", unit="mm", invalid=[0xFFFF, 0xFFFE])
    assert [conversion.decode(raw) for raw in (0xFFFF, 0xFFFE, 0)] == [None, None, 0.0]
    assert conversion.encode(None) == 0xFFFF
    with pytest.raises(RefusedError, match="no mark"):
        _conversion("water.level", "int", unit="mm").encode(None)


def test_nan_may_be_a_mark() -> None:
    conversion = _conversion("water.level", "float", unit="cm", invalid=[float("nan")])
    assert conversion.decode(float("nan")) is None
    assert conversion.decode(1.5) == 1.5


def test_a_map_goes_both_ways_and_knows_its_limits() -> None:
    conversion = _conversion("pile.state", "int", map={0: "available", 10: "faulted"})
    assert conversion.decode(10) == "faulted"
    assert conversion.encode("available") == 0
    with pytest.raises(RefusedError, match="code 3 is not in the map"):
        conversion.decode(3)
    with pytest.raises(RefusedError, match="value 'charging' is not in the map"):
        conversion.encode("charging")


def test_one_and_true_are_not_the_same_code() -> None:
    conversion = _conversion("door.open", "int")
    assert (conversion.decode(1), conversion.encode(True)) == (True, 1)
    with pytest.raises(RefusedError):
        conversion.decode(2)
    with pytest.raises(RefusedError):
        conversion.encode(1)
    with pytest.raises(RefusedError):
        _conversion("pile.connector", "int").encode(True)
