"""What is kept of frames that cannot be used, and when it is sealed."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from citysense import wire
from citysense.keys import Sealer
from citysense_gateway.dead_letters import GATEWAY, MAX_RAW, Quota, dead_letter
from citysense_gateway.devices import Device
from citysense_gateway.frame import Frame, Identity, Reason, Transport
from citysense_profiles.catalogue import load_catalogue

CATALOGUE = load_catalogue()
SEALER = Sealer(bytes(range(32)))
PERSONAL = {True: "impinj/r700", False: "generic/water-gauge"}


def device(*, personal: bool) -> Device:
    profile = CATALOGUE[PERSONAL[personal]]
    assert profile.personal is personal
    return Device(id="dev-1", profile=profile, settings={}, serial=None, endpoint=None)


def frame(payload: bytes = b"\x00secret?\xff", **changes: object) -> Frame:
    made = Frame(
        transport=Transport.MQTT,
        channel="cs/v1/dev-1/up/report",
        device="dev-1",
        identity=Identity.CREDENTIAL,
        source="192.0.2.1:5000",
        received_at=1_000,
        payload=payload,
    )
    return structs.replace(made, **changes)


def letter(of: Frame, known: Device | None, reason: str = Reason.UNDECODABLE) -> wire.DeadLetter:
    return dead_letter(of, reason=reason, detail="why", device=known, seal=SEALER.seal)


@given(payload=st.binary(min_size=1, max_size=200), known=st.sampled_from(["none", "plain", "personal"]))
def test_clear_only_where_device_and_profile_are_known_and_not_personal(payload: bytes, known: str) -> None:
    found = letter(frame(payload), None if known == "none" else device(personal=known == "personal"))
    owner = {"none": GATEWAY, "personal": "device/dev-1", "plain": ""}[known]
    assert found.seal == owner
    assert found.size == len(payload)
    assert (SEALER.open(owner, found.raw) if owner else found.raw) == payload
    if owner and len(payload) > 4:
        assert payload not in found.raw


def test_a_device_named_like_the_gateways_owner_has_a_key_of_its_own() -> None:
    found = dead_letter(
        frame(), reason="x", detail="", device=replace(device(personal=True), id=GATEWAY), seal=SEALER.seal
    )
    assert found.seal == "device/gateway"


def test_long_frames_are_cut_and_their_length_is_told() -> None:
    found = letter(frame(bytes(MAX_RAW + 10)), device(personal=False))
    assert (len(found.raw), found.size) == (MAX_RAW, MAX_RAW + 10)


@pytest.mark.parametrize("known", [True, False])
def test_refused_credentials_leave_nothing_of_what_was_sent(known: bool) -> None:
    found = letter(frame(b"password"), device(personal=True) if known else None, Reason.BAD_CREDENTIAL)
    assert (found.raw, found.size, found.seal) == (b"", 0, "")


def test_registers_are_kept_as_json() -> None:
    polled = frame(b"", registers={("input", 101): 7, ("holding", 1): 2377, ("input", 100): 65535})
    found = letter(polled, device(personal=False))
    assert json.loads(found.raw) == {"holding": {"1": 2377}, "input": {"100": 65535, "101": 7}}
    assert found.size == len(found.raw)


def test_a_detail_that_is_no_text_can_be_stored() -> None:
    found = dead_letter(frame(), reason="x", detail="half \ud800 pair", device=None, seal=SEALER.seal)
    assert wire.decode_body(wire.encode(found)) == found


def test_a_sender_has_a_quota_a_minute() -> None:
    quota = Quota(letters=2, raw=1_000)
    assert [quota.take(frame()) for _ in range(3)] == [True, True, False]
    assert quota.take(frame(device="dev-2")), "another device is not concerned"
    assert quota.take(frame(received_at=61_000)), "a new minute"


def test_what_was_not_kept_after_all_is_given_back() -> None:
    quota = Quota(letters=1, raw=100)
    quota.give_back(frame(b"never taken"))
    assert [quota.take(frame(bytes(100))), quota.take(frame())] == [True, False]
    quota.give_back(frame(bytes(100)))
    assert [quota.take(frame()), quota.take(frame())] == [True, False]
    quota.give_back(frame(received_at=61_000))
    assert not quota.take(frame()), "of another minute"


def test_the_quota_counts_bytes_too() -> None:
    quota = Quota(letters=100, raw=1_000)
    assert [quota.take(frame(bytes(600))) for _ in range(3)] == [True, True, False]


def test_who_has_not_proved_who_he_is_counts_by_address() -> None:
    quota = Quota(letters=1)
    assert quota.take(frame(device="dev-1", identity=Identity.ASSERTED))
    assert not quota.take(frame(device="dev-2", source="192.0.2.1:6000", identity=Identity.ASSERTED))
    assert quota.take(frame(device="dev-1")), "the device itself keeps its own quota"


def test_the_quotas_own_memory_is_bounded() -> None:
    quota = Quota(letters=1, senders=2)
    taken = [quota.take(frame(device=f"dev-{number}")) for number in range(5)]
    assert taken == [True, True, True, False, False]


def test_what_a_concentrator_sends_for_others_is_on_its_own_account() -> None:
    quota = Quota(letters=2)
    children = [frame(device=f"child-{n}", via="hub-1", identity=Identity.CONCENTRATOR) for n in range(3)]
    assert [quota.take(child) for child in children] == [True, True, False]
    assert quota.take(frame(device="child-0"))
    assert not quota.take(frame(device="hub-1"))


def test_a_letter_says_all_that_the_channel_said_of_its_frame() -> None:
    found = letter(frame(message="report", content=60, via="hub-1"), device(personal=False))
    assert (found.message, found.content, found.identity, found.via) == ("report", 60, "credential", "hub-1")
    assert (letter(frame(), None).message, letter(frame(), None).content) == ("", -1)
