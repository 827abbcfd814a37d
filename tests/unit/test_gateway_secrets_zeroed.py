"""Secrets do not reach the disk with a frame that could not be used: with the frames of the profiles' own vectors."""

from __future__ import annotations

import hashlib
import json

import pytest

from citysense import wire
from citysense.keys import Sealer
from citysense_gateway.dead_letters import dead_letter
from citysense_gateway.devices import Device
from citysense_gateway.frame import Frame, Identity, Transport
from citysense_gateway.secrets_zeroed import secret_names, without_secrets
from citysense_profiles.catalogue import load_catalogue
from citysense_profiles.checking.vector_check import frame_of
from citysense_profiles.compiler import parse_profile
from citysense_profiles.errors import DecodeError
from citysense_profiles.profile import Profile
from citysense_profiles.vocabulary import load_vocabulary

CATALOGUE = load_catalogue()
SEALER = Sealer(bytes(32))
SECRET = [profile for profile in CATALOGUE if secret_names(profile)]
LOG = {
    "lockId": 7,
    "date": 1795190934423,
    "records": [
        {"operateDate": 1795190934423, "recordId": 1, "recordType": 4, "uid": 9, "password": "482916"},
        {
            "operateDate": 1795190934424,
            "recordId": 2,
            "recordType": 5,
            "uid": 9,
            "password": "482916",
            "newPassword": "77",
        },
    ],
}


def vectors(profile: Profile) -> list[tuple[str, bytes, str]]:
    """Name, frame and message of each vector of a message with a secret in it."""
    return [
        (vector.name, frame_of(vector), vector.message or "")
        for vector in profile.vectors
        if vector.message in secret_names(profile) and vector.error is None
    ]


def cleaned(payload: bytes, profile: Profile, message: str | None = None) -> bytes | None:
    return without_secrets(payload, profile, message=message, content=None, settings={})


def secrets_in(payload: bytes, profile: Profile, message: str) -> list[str]:
    named = profile.decode_fields(payload, message=message)
    found = [named.values.get(name) for name in secret_names(profile)[message]]
    flat = [one for value in found for one in (value if isinstance(value, list) else [value])]
    return [value for value in flat if value]


def test_there_are_profiles_with_secrets() -> None:
    assert {"sl651/terminal", "ttlock/lock"} <= {profile.id for profile in SECRET}


@pytest.mark.parametrize("profile", SECRET, ids=lambda profile: profile.id)
def test_frames_of_the_vectors_keep_no_secret(profile: Profile) -> None:
    checked = 0
    for name, payload, message in vectors(profile):
        if not any(set(secret) - {"0"} for secret in secrets_in(payload, profile, message)):
            continue
        kept = cleaned(payload, profile, message)
        assert kept is not None, name
        try:
            left = secrets_in(kept, profile, message)
        except DecodeError as e:
            # A frame in another form than ours is zeroed in its place, and its check sum is wrong then.
            assert e.code == "checksum", name
            assert len(kept) == len(payload)
            left = []
        assert not [secret for secret in left if set(secret) - {"0"}], name
        assert kept != payload
        checked += 1
    assert checked


def test_a_frame_is_the_same_but_for_secret_and_check_sum_and_can_be_read_again() -> None:
    profile = CATALOGUE["sl651/terminal"]
    payload = next(payload for name, payload, _ in vectors(profile) if name == "sl651-32")
    kept = cleaned(payload, profile, "report")
    assert kept is not None
    assert payload[8:10] == b"\x03\xe8"
    assert (kept[8:10], kept[:8], kept[10:-2]) == (b"\0\0", payload[:8], payload[10:-2])
    assert profile.decode(kept, message="report").samples == profile.decode(payload, message="report").samples


TEXT_OF_DIGITS = """\
schema: 1
id: acme/terminal
kind: waterlogging_gauge
title: A terminal that sends the text of its bytes
product: {vendor: acme, model: terminal, source: made for this test}
transport: {mqtt: {}}
report_every: 60s
messages:
  report:
    title: Report
    codec: {type: binary, wrap: hex_text}
    fields:
      - {name: start, type: u8, const: 0x7E}
      - {name: password, type: hex, length: 2, secret: true}
      - {name: level, type: u16, unit: cm, metric: water.level}
vectors:
  - {name: one, basis: computed, message: report, wire: {text: 7E03E80010}, samples: [{values: {water.level: 16}}]}
"""


def test_a_frame_that_travels_as_the_text_of_its_digits_too() -> None:
    profile = parse_profile(TEXT_OF_DIGITS, "acme/terminal.yaml", load_vocabulary())
    # Small letters are not how the profile writes a frame, so the secret is zeroed in its place.
    assert cleaned(b"7E03E80010", profile) == b"7E00000010"
    assert cleaned(b"7e03e80010", profile) == b"7e00000010"


@pytest.mark.parametrize("inside_a_text", [True, False])
def test_documents_keep_everything_but_the_secret(inside_a_text: bool) -> None:
    sent = {**LOG, "records": json.dumps(LOG["records"])} if inside_a_text else LOG
    kept = cleaned(json.dumps(sent, indent=1).encode(), CATALOGUE["ttlock/lock"])
    assert kept is not None
    document = json.loads(kept)
    records = json.loads(document["records"]) if inside_a_text else document["records"]
    assert [record["password"] for record in records] == ["000000", "000000"]
    assert records[1]["newPassword"] == "00"
    assert [record["uid"] for record in records] == [9, 9]
    assert b"482916" not in kept


def test_a_frame_that_cannot_be_read_is_not_kept_at_all() -> None:
    profile = CATALOGUE["sl651/terminal"]
    payload = next(payload for name, payload, _ in vectors(profile) if name == "sl651-32")
    broken = payload[:-1] + bytes([payload[-1] ^ 1])
    with pytest.raises(DecodeError):
        profile.decode(broken, message="report")
    assert cleaned(broken, profile, "report") is None
    found = letter(broken, profile)
    assert (found.raw, found.seal, found.size) == (b"", "", len(broken))
    assert hashlib.sha256(broken).hexdigest() in found.detail


def test_a_letter_is_sealed_without_its_secret() -> None:
    profile = CATALOGUE["sl651/terminal"]
    payload = next(payload for name, payload, _ in vectors(profile) if name == "sl651-32")
    found = letter(payload, profile)
    opened = SEALER.open(found.seal, found.raw)
    assert opened == cleaned(payload, profile, "report")
    assert found.size == len(payload)


def test_a_profile_without_secrets_keeps_its_frames_as_they_are() -> None:
    assert cleaned(b"\x00rubbish", CATALOGUE["generic/water-gauge"]) == b"\x00rubbish"


def letter(payload: bytes, profile: Profile) -> wire.DeadLetter:
    device = Device(id="t-1", profile=profile, settings={}, serial=None, endpoint=None)
    frame = Frame(
        transport=Transport.MQTT,
        channel="cs/v1/t-1/up/report",
        device="t-1",
        identity=Identity.CREDENTIAL,
        source="192.0.2.1:5000",
        received_at=1_000,
        payload=payload,
        message="report",
    )
    return dead_letter(frame, reason="undecodable", detail="why", device=device, seal=SEALER.seal)
