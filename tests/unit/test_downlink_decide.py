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
