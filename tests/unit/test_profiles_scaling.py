"""Numbers on the wire and the values they stand for: exact both ways, and refused where they mean nothing."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from citysense_profiles.errors import RefusedError
from citysense_profiles.format.meaning import FromField, FromSetting, Meaning
from citysense_profiles.values.scaling import dependent, exact, finite, needs_of, reader, way_to, writer
from citysense_profiles.values.units import UNITS, affine

SCALES = ["0.1", "0.01", "0.001", "0.5", "7", "-0.25", "1/690", "1/3"]


def _meaning(**keys: object) -> Meaning:
    return Meaning.model_validate({"name": "x", **keys})


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
        ("1/690", "0", "A", "A", 4140, 6.0),
        ("10", "0", "J", "kW.h", 360000, 1.0),
        ("1", "0", "kJ", "kW.h", 18000, 5.0),
        ("1", "0", "L/min", "L/s", 90, 1.5),
        ("0.1", "0", "km/h", "m/s", 360, 10.0),
        ("1", "0", "mS/cm", "S/m", 25, 2.5),
        ("1", "0", "m3/h", "m3/s", 3600, 1.0),
        ("1", "0", "mbar", "kPa", 1013, 101.3),
        ("0.001", "0", "kvar", "var", 39733, 39733.0),
        ("0.1", "0", "mS/cm", "uS/cm", 15, 1500.0),
        ("1", "-50", "Cel", "Cel", 20, -30.0),
    ],
)
def test_a_raw_number_becomes_the_nearest_double(
    scale: str, offset: str, wire: str, wanted: str, raw: int, value: float
) -> None:
    way = affine(Fraction(scale), Fraction(offset), wire, wanted)
    assert (raw * way.p + way.b) / way.q == value
    assert reader(way, "int")(raw) == reader(way, "number")(raw) == reader(way, "float")(float(raw)) == value
    assert writer(way, "int")(value) == raw


def test_every_unit_is_itself_and_only_its_own_kind() -> None:
    for code, unit in UNITS.items():
        assert affine(Fraction(1), Fraction(0), code, code).identity
        assert unit.factor > 0
    for watt, volt_ampere in (("W", "VA"), ("W", "var"), ("VA", "var"), ("W.h", "var.h"), ("dB", "dBm"), ("", "1")):
        with pytest.raises(ValueError, match="cannot be turned into"):
            affine(Fraction(1), Fraction(0), watt, volt_ampere)


def test_an_unknown_unit_and_a_scale_of_nothing_are_named() -> None:
    with pytest.raises(ValueError, match=r"'furlong' is not known; known units: .*kW\.h"):
        affine(Fraction(1), Fraction(0), "furlong", "cm")
    with pytest.raises(ValueError, match="scale must not be 0"):
        affine(Fraction(0), Fraction(0), "cm", "cm")
    with pytest.raises(ValueError, match="unit is missing"):
        way_to(_meaning(), "cm")


@given(st.integers(-(2**49), 2**49), st.sampled_from(SCALES), st.integers(-1000, 1000))
def test_an_integer_comes_back_from_its_value(raw: int, scale: str, offset: int) -> None:
    way = affine(Fraction(scale), Fraction(offset), "1", "1")
    assert writer(way, "int")(reader(way, "int")(raw)) == raw


@given(st.floats(-1e12, 1e12), st.sampled_from(SCALES))
def test_a_float_comes_back_from_its_value(raw: float, scale: str) -> None:
    way = affine(Fraction(scale), Fraction(0), "1", "1")
    assert writer(way, "float")(reader(way, "float")(raw)) == pytest.approx(raw, rel=1e-12, abs=1e-300)


def test_decimals_stay_decimals() -> None:
    way = affine(Fraction(1), Fraction(0), "m", "cm")
    read = reader(way, "number")
    assert [read(raw) for raw in (0.123, 0.1 + 0.2, 1, 1.1)] == [12.3, 30.000000000000004, 100.0, 110.0]
    assert writer(way, "number")(12.3) == 0.123
    assert exact(0.1) == Fraction(1, 10)


def test_writing_rounds_to_what_the_wire_can_say() -> None:
    write = writer(affine(Fraction(1), Fraction(0), "mm", "cm"), "int")
    assert [write(value) for value in (12.34, 12.36, -0.04, 7)] == [123, 124, 0, 70]
    assert write(1e308) == 10**309  # which the field's width then refuses


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "3", True, None, [1], 10**400])
def test_what_is_no_finite_number_is_refused(value: object) -> None:
    with pytest.raises(RefusedError):
        finite(value)
    with pytest.raises(RefusedError):
        writer(affine(Fraction(1), Fraction(0), "mm", "cm"), "int")(value)


@pytest.mark.parametrize("raw", ["int", "number"])
@pytest.mark.parametrize("code", [2**64, -(2**63) - 1, 10**400])
def test_a_number_beyond_64_bits_is_refused(raw: str, code: int) -> None:
    with pytest.raises(RefusedError, match="64 bits"):
        reader(affine(Fraction(1), Fraction(0), "mm", "cm"), raw)(code)


@pytest.mark.parametrize("code", [float("nan"), float("-inf"), 1e308])
def test_a_float_that_no_value_stands_for_is_refused(code: float) -> None:
    with pytest.raises(RefusedError):
        reader(affine(Fraction(10), Fraction(0), "1", "1"), "float")(code)


# --- numbers from elsewhere


def test_needs_come_in_the_order_they_are_taken() -> None:
    span = {"raw": [0, 1], "values": [{"setting": "low"}, {"field": "high"}]}
    assert needs_of(_meaning(span=span)) == (FromSetting(setting="low"), FromField(field="high"))
    assert needs_of(_meaning(span={"raw": [0, 1], "values": [0, {"setting": "top"}]})) == (FromSetting(setting="top"),)
    assert needs_of(_meaning(times={"setting": "ratio"})) == (FromSetting(setting="ratio"),)
    assert needs_of(_meaning(scale="0.1")) == ()


@given(st.integers(-(2**40), 2**40), st.sampled_from(SCALES), st.sampled_from([1.0, 40, 0.25, -3]))
def test_a_factor_from_elsewhere(raw: int, scale: str, factor: float) -> None:
    read, write = dependent(_meaning(scale=scale, times={"setting": "ratio"}), "int")
    value = read(raw, factor)
    assert value == float(raw * Fraction(scale) * Fraction(str(factor)))
    assert write(value, factor) == raw


def test_a_factor_of_nothing_cannot_be_undone() -> None:
    read, write = dependent(_meaning(times={"field": "ratio"}), "int")
    assert read(5, 0) == 0.0
    with pytest.raises(RefusedError, match="every raw number says the same"):
        write(0.0, 0)


@pytest.mark.parametrize(("raw", "places", "value"), [(1234, 2, 12.34), (-5, 1, -0.5), (7, 0, 7.0), (1, 12, 1e-12)])
def test_the_point_moves_by_a_number_from_elsewhere(raw: int, places: int, value: float) -> None:
    read, write = dependent(_meaning(decimals={"field": "places"}), "int")
    assert read(raw, places) == value
    assert write(value, places) == raw


@pytest.mark.parametrize("places", [-1, 13, 1.5, 10**30, float("nan"), "2"])
def test_no_number_of_decimals(places: Any) -> None:
    read, write = dependent(_meaning(decimals={"field": "places"}), "int")
    with pytest.raises(RefusedError):
        read(1, places)
    with pytest.raises(RefusedError):
        write(1.0, places)


def test_a_span_reads_a_pressure_as_its_maker_prints_it() -> None:
    span = {"raw": [16384, 49152], "values": [{"setting": "pressure.min"}, {"setting": "pressure.max"}]}
    read, write = dependent(_meaning(unit="bar", span=span), "int")
    # The frames dl-pr26-1 and dl-pr21-1 of the domain's vectors.
    assert (read(0x3E80, 0.0, 1.0), read(0x4E80, -1.0, 10.0)) == (-0.01171875, 0.24609375)
    assert (write(-0.01171875, 0.0, 1.0), write(0.24609375, -1.0, 10.0)) == (0x3E80, 0x4E80)


@given(st.integers(0, 65535), st.sampled_from([(0.0, 5.0), (-1.0, 10.0), (300.0, 0.0)]))
def test_a_span_leads_back(raw: int, ends: tuple[float, float]) -> None:
    span = {"raw": [4000, 20000], "values": [{"setting": "low"}, {"setting": "high"}]}
    read, write = dependent(_meaning(span=span), "int")
    assert write(read(raw, *ends), *ends) == raw


def test_a_clamped_span_never_reads_below_its_start() -> None:
    open_ended = {"raw": [4, 20], "values": [0, {"setting": "top"}]}
    read, _ = dependent(_meaning(span=open_ended), "number")
    clamped, _ = dependent(_meaning(span={**open_ended, "clamp": True}), "number")
    assert [read(raw, 500.0) for raw in (3.8, 4, 12, 21)] == [-6.25, 0.0, 250.0, 531.25]
    assert [clamped(raw, 500.0) for raw in (3.8, 4, 12, 21)] == [0.0, 0.0, 250.0, 531.25]


def test_a_span_without_width_cannot_be_undone() -> None:
    span = {"raw": [0, 1], "values": [{"setting": "low"}, {"setting": "high"}]}
    _, write = dependent(_meaning(span=span), "int")
    with pytest.raises(RefusedError, match="every raw number says the same"):
        write(1.0, 2.0, 2.0)
