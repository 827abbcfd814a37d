"""Event times in every form that devices write, both ways."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from citysense_profiles.errors import RefusedError
from citysense_profiles.format.meaning import TimeForm
from citysense_profiles.values.moment import FROM_MILLISECONDS, LATEST, TO_MILLISECONDS

CHINA = 8 * 3_600_000


@pytest.mark.parametrize(
    ("form", "written", "milliseconds"),
    [
        ("rfc3339", "1970-01-01T00:00:00Z", 0),
        ("rfc3339", "2021-02-02T22:18:35.499734Z", 1612304315499),
        ("rfc3339", "2021-02-02T22:18:35.658476625Z", 1612304315658),
        ("rfc3339", "2021-02-03T06:18:35.4+08:00", 1612304315400),
        ("rfc3339", "2021-02-02t22:18:35z", 1612304315000),
        ("rfc3339", "2016-12-31T23:59:60Z", 1483228800000),
        ("unix_s", 1612304315, 1612304315000),
        ("unix_s", 1612304315.499, 1612304315499),
        ("unix_ms", 1612304315499, 1612304315499),
        ("digits", "210203061835", 1612304315000),
        ("digits", "2102030618", 1612304280000),
        ("cp56", "2021-02-03T06:18:35.499", 1612304315499),
    ],
)
def test_written_times(form: TimeForm, written: object, milliseconds: int) -> None:
    assert TO_MILLISECONDS[form](written, CHINA) == milliseconds
    assert TO_MILLISECONDS[form](FROM_MILLISECONDS[form](milliseconds, CHINA), CHINA) == milliseconds


@pytest.mark.parametrize(
    ("form", "written"),
    [
        ("rfc3339", ""),
        ("rfc3339", "2021-02-02"),
        ("rfc3339", "2021-02-02T22:18:35"),
        ("rfc3339", "2021-13-02T22:18:35Z"),
        ("rfc3339", "1969-12-31T23:59:59Z"),
        ("rfc3339", "2021-02-02T22:18:61Z"),
        ("rfc3339", 5),
        ("unix_s", "5"),
        ("unix_s", True),
        ("unix_s", float("nan")),
        ("unix_s", 1e300),
        ("unix_ms", -1),
        ("unix_ms", LATEST + 1),
        ("digits", "210230061835"),
        ("digits", "21020306183"),
        ("digits", "２１０２０３０６１８３５"),
        ("cp56", "2021-02-30T06:18:35.499"),
        ("cp56", 5),
    ],
)
def test_times_that_are_none(form: TimeForm, written: object) -> None:
    with pytest.raises(RefusedError):
        TO_MILLISECONDS[form](written, 0)


def test_two_digits_say_one_century() -> None:
    with pytest.raises(RefusedError, match="1999"):
        FROM_MILLISECONDS["digits"](946_684_799_000, 0)


@given(st.integers(0, LATEST), st.sampled_from(["unix_ms", "unix_s", "rfc3339"]))
def test_every_moment_comes_back(milliseconds: int, form: TimeForm) -> None:
    assert TO_MILLISECONDS[form](FROM_MILLISECONDS[form](milliseconds, 0), 0) == milliseconds
