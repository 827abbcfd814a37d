"""What must never be written to a charging station: the shipped profiles refuse it, whichever message is used."""

from __future__ import annotations

import pytest

from citysense_profiles.catalogue import load_catalogue
from citysense_profiles.errors import EncodeError

CATALOGUE = load_catalogue()


@pytest.mark.parametrize(
    ("profile", "message", "values"),
    [
        ("alpitronic/hypercharger", "limit", {"max_current": 0}),
        ("alpitronic/hypercharger", "limit_power", {"power_limit": 0}),
        ("alpitronic/hypercharger", "limits", {"power_limit": 0}),
        ("alpitronic/hypercharger", "inhibit", {"enable": True}),
        ("sigenergy/evdc", "limit", {"power_limit": 0}),
        ("sigenergy/evdc", "limit", {"power_limit": 499}),
        ("sigenergy/evdc", "limit_current", {"current_limit": 0}),
    ],
)
def test_limits_that_harm_a_station_are_refused(profile: str, message: str, values: dict[str, float]) -> None:
    with pytest.raises(EncodeError):
        CATALOGUE[profile].plan_writes(message, values)


def test_the_smallest_limits_are_written() -> None:
    (write,) = CATALOGUE["sigenergy/evdc"].plan_writes("limit", {"power_limit": 500})
    assert (write.function, write.address, write.words) == (16, 41002, (0, 500))
    (write,) = CATALOGUE["alpitronic/hypercharger"].plan_writes("inhibit", {"enable": False})
    assert (write.function, write.address, write.words) == (16, 100, (0, 1547))
