"""Which messages may go to a device, tried on the profiles that ship."""

from __future__ import annotations

from dataclasses import replace

import pytest

from citysense_platform.downlinks.decide import NewDownlink, Reason, check
from citysense_platform.registry.device import Device
from citysense_profiles.catalogue import load_catalogue
from citysense_profiles.vocabulary import load_vocabulary

CATALOGUE, VOCABULARY = load_catalogue(), load_vocabulary()
WELL = Device(
    id="well-1",
    profile="decentlab/dl-ctd10",
    site=None,
    gateway="gw-1",
    endpoint=None,
    serial=None,
    settings={},
    credential=None,
    created=0,
    revoked=None,
    version=1,
)
PILE = replace(WELL, id="pile-1", profile="keba/p30")
PERIOD = NewDownlink(
    message="set_period", values={"config.report_interval": 600}, ttl=60, priority=0, supersedes="", once=False
)
LIMIT = replace(PERIOD, message="control", values={"pile.current_limit": 10})


def verdict(new: NewDownlink, device: Device) -> tuple[Reason, str] | None:
    fault = check(new, device, CATALOGUE.get(device.profile), VOCABULARY)
    return None if fault is None else (fault.reason, fault.field)


@pytest.mark.parametrize(
    ("new", "device"),
    [
        (PERIOD, WELL),
        (LIMIT, PILE),
        (replace(LIMIT, values={"pile.enabled": False}, once=True), PILE),
        (replace(PERIOD, message="reset", values={}, once=True), WELL),
    ],
)
def test_what_the_profile_can_say_passes(new: NewDownlink, device: Device) -> None:
    assert verdict(new, device) is None


@pytest.mark.parametrize(
    ("new", "device", "expected"),
    [
        (PERIOD, replace(WELL, revoked=5), (Reason.REVOKED, "")),
        (PERIOD, replace(WELL, profile="acme/gone"), (Reason.UNKNOWN_PROFILE, "")),
        (replace(PERIOD, message="dance"), WELL, (Reason.UNKNOWN_MESSAGE, "message")),
        (PERIOD, replace(WELL, profile="generic/water-gauge"), (Reason.UNKNOWN_MESSAGE, "message")),
        (replace(PERIOD, message=CATALOGUE[WELL.profile].messages[0]), WELL, (Reason.NOT_DOWNWARD, "message")),
        (replace(PERIOD, values={}), WELL, (Reason.VALUE_NOT_POSSIBLE, "values")),
        (
            replace(PERIOD, values={"config.report_interval": 1e6}),
            WELL,
            (Reason.VALUE_NOT_POSSIBLE, "values.config.report_interval"),
        ),
        (
            replace(PERIOD, values={"config.report_interval": "often"}),
            WELL,
            (Reason.VALUE_NOT_POSSIBLE, "values"),
        ),
        (
            replace(PERIOD, values={**PERIOD.values, "water.level": 1}),
            WELL,
            (Reason.VALUE_NOT_POSSIBLE, "values.water.level"),
        ),
        (replace(LIMIT, values={}), PILE, (Reason.VALUE_NOT_POSSIBLE, "values")),
        (
            replace(LIMIT, values={"pile.current_limit": 1e9}),
            PILE,
            (Reason.VALUE_OUT_OF_RANGE, "values.pile.current_limit"),
        ),
        # A switch, and a message that does something by being sent: a repeat would do it again.
        (replace(LIMIT, values={"pile.enabled": True}), PILE, (Reason.ONCE_REQUIRED, "once")),
        (replace(PERIOD, message="reset", values={}), WELL, (Reason.ONCE_REQUIRED, "once")),
    ],
)
def test_what_it_cannot_say_is_told_at_once(new: NewDownlink, device: Device, expected: tuple[Reason, str]) -> None:
    assert verdict(new, device) == expected


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0.1, "0"),
        (0.4, "0"),
        (-0.4, "0"),
        (0.6, "1"),
        (10.4, "10"),
        (65_535.4, None),
        (600, None),
        (600.0, None),
        (0, None),
    ],
)
def test_a_value_is_never_quietly_changed(seconds: float, told: str | None) -> None:
    new = replace(PERIOD, values={"config.report_interval": seconds})
    fault = check(new, WELL, CATALOGUE[WELL.profile], VOCABULARY)
    if told is None:
        assert fault is None
        return
    assert fault is not None
    assert (fault.reason, fault.field) == (Reason.VALUE_NOT_POSSIBLE, "values.config.report_interval")
    assert f"{seconds:g}, and the device would be told {told}" in fault.text


def test_what_registers_would_hold_is_read_back_too() -> None:
    assert verdict(replace(LIMIT, values={"pile.current_limit": 10.0004}), PILE) is None
    found = verdict(replace(LIMIT, values={"pile.current_limit": 0.0004}), PILE)
    assert found == (Reason.VALUE_NOT_POSSIBLE, "values.pile.current_limit")


def test_hours_that_a_device_counts_are_not_made_of_minutes() -> None:
    """A real one that counts its reports in whole hours: 10 minutes would have become none."""
    bin_ = replace(WELL, profile="dingtek/dc410")
    wanted = replace(PERIOD, message="set", values={"config.report_interval": 600})
    assert verdict(wanted, bin_) == (Reason.VALUE_NOT_POSSIBLE, "values.config.report_interval")
    assert verdict(replace(wanted, values={"config.report_interval": 7_200}), bin_) is None


def test_a_sentence_names_what_there_is() -> None:
    fault = check(replace(PERIOD, message="dance"), WELL, CATALOGUE[WELL.profile], VOCABULARY)
    assert fault is not None
    assert fault.text == "decentlab/dl-ctd10 has no message 'dance'; to it go set_period, adr_off, reset"


def test_every_downward_message_of_the_catalogue_gets_a_verdict() -> None:
    for profile in CATALOGUE:
        for message in profile.messages:
            if profile.file.messages[message].direction == "down":
                new = replace(PERIOD, message=message, values=dict.fromkeys(profile.message_metrics(message), 1))
                check(new, replace(WELL, profile=profile.id), profile, VOCABULARY)
