"""Text taken apart and put together again: both ways, and refused where it is of another form."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from citysense_profiles.errors import RefusedError
from citysense_profiles.format.meaning import Reshape
from citysense_profiles.values.reshape import compile_reshape


@pytest.mark.parametrize(
    ("wire", "value", "written", "read"),
    [
        ("IMEI:{15}", "{15}", "IMEI:860374051096202", "860374051096202"),
        ("impinj-{2}-{2}-{2}", "001625{2}{2}{2}", "impinj-01-23-45", "001625012345"),
        ("f{15}", "{15}", "f862592051651472", "862592051651472"),
        ("{2}.{2}(a|b)", "{2}{2}", "12.34(a|b)", "1234"),
    ],
)
def test_both_ways(wire: str, value: str, written: str, read: str) -> None:
    to_value, to_wire = compile_reshape(Reshape(wire=wire, value=value))
    assert to_value(written) == read
    assert to_wire(read) == written


@given(st.text(min_size=3, max_size=3), st.text(min_size=2, max_size=2))
def test_any_characters_come_back(first: str, second: str) -> None:
    to_value, to_wire = compile_reshape(Reshape(wire="<{3}|{2}>", value="{3}{2}!"))
    assert to_value(f"<{first}|{second}>") == f"{first}{second}!"
    assert to_wire(f"{first}{second}!") == f"<{first}|{second}>"


@pytest.mark.parametrize(
    "text", ["", "IMEI:123", "imei:860374051096202", "IMEI:8603740510962021", "x\nIMEI:1", 5, None]
)
def test_another_form_is_refused(text: object) -> None:
    to_value, _ = compile_reshape(Reshape(wire="IMEI:{15}", value="{15}"))
    with pytest.raises(RefusedError, match=r"not of the form IMEI:\{15\}"):
        to_value(text)


@pytest.mark.parametrize(("wire", "value"), [("a", "a"), ("{2}{3}", "{3}{2}"), ("{2}", "{2}{2}"), ("{2}", "x")])
def test_templates_that_do_not_lead_back(wire: str, value: str) -> None:
    with pytest.raises(ValueError, match="the same parts"):
        compile_reshape(Reshape(wire=wire, value=value))


@pytest.mark.parametrize("count", ["0", "257", "99999999999"])
def test_parts_of_no_sensible_length(count: str) -> None:
    with pytest.raises(ValueError, match="1 to 256 characters"):
        compile_reshape(Reshape(wire=f"{{{count}}}", value=f"{{{count}}}"))
