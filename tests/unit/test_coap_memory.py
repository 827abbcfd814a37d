"""What the CoAP door remembers between datagrams: half uploads and recent message ids, both within bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from citysense_gateway.coap.recent import RecentRequests, Superseded
from citysense_gateway.coap.replies import Target
from citysense_gateway.coap.uploads import Block, Refusal, UploadKey, Uploads


def block(number: int, *, more: bool, exponent: int = 0) -> Block:
    return Block(number=number, more=more, exponent=exponent)


def upload(name: str, *, source: str | None = None, device: str | None = None, tag: int = 0) -> UploadKey:
    """An upload of its own source and device, unless told."""
    target = Target(device=device or f"gauge-{name}", message="report", content=42)
    return (source or f"[2001:db8::{name.encode().hex()}]:5684", target, tag.to_bytes(2, "big"))


def begun(uploads: Uploads, key: UploadKey, now: float = 0.0) -> bool:
    return uploads.add(key, block(0, more=True), b"x" * 16, now) is None


def goes_on(uploads: Uploads, key: UploadKey, now: float = 0.0) -> bool:
    return uploads.add(key, block(1, more=True), b"y" * 16, now) is None


@given(st.binary(max_size=600), st.integers(0, 5))
def test_a_body_comes_out_as_it_went_in(body: bytes, exponent: int) -> None:
    uploads = Uploads(max_payload=600)
    size = 2 ** (exponent + 4)
    parts = [body[at : at + size] for at in range(0, len(body), size)] or [b""]
    outcomes = [
        uploads.add(upload("key"), block(i, more=i < len(parts) - 1, exponent=exponent), part, 0.0)
        for i, part in enumerate(parts)
    ]
    assert outcomes == [None] * (len(parts) - 1) + [body]
    assert len(uploads) == 0


def test_uploads_of_different_keys_do_not_mix() -> None:
    uploads = Uploads(max_payload=100)
    assert uploads.add(upload("a"), block(0, more=True), b"a" * 16, 0.0) is None
    assert uploads.add(upload("b"), block(0, more=True), b"b" * 16, 0.0) is None
    assert uploads.add(upload("a"), block(1, more=False), b"A", 0.0) == b"a" * 16 + b"A"
    assert uploads.add(upload("b"), block(1, more=False), b"B", 0.0) == b"b" * 16 + b"B"


def test_a_missing_block_ends_the_upload() -> None:
    uploads = Uploads(max_payload=100)
    assert uploads.add(upload("a"), block(1, more=False), b"x", 0.0) is Refusal.GAP
    assert uploads.add(upload("a"), block(0, more=True), b"a" * 16, 0.0) is None
    assert uploads.add(upload("a"), block(2, more=False), b"x", 0.0) is Refusal.GAP
    assert uploads.add(upload("a"), block(1, more=False), b"x", 0.0) is Refusal.GAP
    assert len(uploads) == 0


def test_block_0_begins_anew() -> None:
    uploads = Uploads(max_payload=100)
    assert uploads.add(upload("a"), block(0, more=True), b"1" * 16, 0.0) is None
    assert uploads.add(upload("a"), block(0, more=True), b"2" * 16, 0.0) is None
    assert uploads.add(upload("a"), block(1, more=False), b"!", 0.0) == b"2" * 16 + b"!"


@pytest.mark.parametrize(
    ("wrong", "payload"),
    [
        (block(0, more=True), b"short"),
        (block(0, more=False), b"x" * 17),
        (Block(number=0, more=True, exponent=7), b"x" * 1024),
    ],
)
def test_a_block_of_another_size_than_it_says(wrong: Block, payload: bytes) -> None:
    assert Uploads(max_payload=10_000).add(upload("a"), wrong, payload, 0.0) is Refusal.SHAPE


def test_a_body_stops_at_the_limit() -> None:
    uploads = Uploads(max_payload=40)
    assert uploads.add(upload("a"), block(0, more=True), b"x" * 16, 0.0) is None
    assert uploads.add(upload("a"), block(1, more=True), b"x" * 16, 0.0) is None
    assert uploads.add(upload("a"), block(2, more=False), b"x" * 9, 0.0) is Refusal.TOO_LARGE
    assert len(uploads) == 0


def test_only_so_many_at_once_until_one_stood_still_too_long() -> None:
    uploads = Uploads(max_payload=100, max_uploads=2, lifetime=10.0)
    assert uploads.add(upload("a"), block(0, more=True), b"a" * 16, 0.0) is None
    assert uploads.add(upload("b"), block(0, more=True), b"b" * 16, 5.0) is None
    assert uploads.add(upload("c"), block(0, more=True), b"c" * 16, 9.0) is Refusal.FULL
    assert uploads.add(upload("c"), block(0, more=True), b"c" * 16, 10.0) is None
    assert uploads.add(upload("a"), block(1, more=False), b"A", 10.0) is Refusal.GAP
    assert uploads.add(upload("b"), block(1, more=False), b"B", 10.0) == b"b" * 16 + b"B"


@pytest.mark.parametrize(
    "sources",
    [
        ["192.0.2.1:700"],
        [f"192.0.2.1:{port}" for port in range(1000, 1256)],
        [f"[2001:db8::1]:{port}" for port in range(1000, 1256)],
        ["192.0.2.1"],
        ["[2001:db8::1]"],
    ],
    ids=["one socket", "many ports", "many ports of IPv6", "the port of CoAP", "the port of CoAP, IPv6"],
)
def test_one_address_does_not_shut_the_others_out(sources: list[str]) -> None:
    uploads = Uploads(max_payload=100)
    keys = [upload(str(n), source=sources[n % len(sources)], device=f"gauge-{n % 100}", tag=n) for n in range(256)]
    assert all(begun(uploads, key) for key in keys)
    assert len(uploads) == 4
    assert begun(uploads, upload("victim"))
    assert goes_on(uploads, upload("victim"))
    # Its own oldest had to go, and only that.
    assert all(goes_on(uploads, key) for key in keys[-4:])
    assert uploads.add(keys[-5], block(1, more=True), b"y" * 16, 0.0) is Refusal.GAP


def test_many_addresses_do_not_shut_a_device_out() -> None:
    uploads = Uploads(max_payload=100)
    keys = [upload(str(n), device="gauge-1") for n in range(256)]
    assert all(begun(uploads, key) for key in keys)
    assert len(uploads) == 4
    assert begun(uploads, upload("own", device="gauge-1"))
    assert goes_on(uploads, upload("own", device="gauge-1"))


def test_a_sender_over_a_devices_share_loses_its_own_first() -> None:
    uploads = Uploads(max_payload=100)
    others = [upload(str(n), device="gauge-1") for n in range(2)]
    own = [upload("own", source="192.0.2.1:700", device="gauge-1", tag=tag) for tag in range(3)]
    assert all(begun(uploads, key) for key in [*others, *own])
    assert all(goes_on(uploads, key) for key in [*others, *own[1:]])
    assert not goes_on(uploads, own[0])


def test_an_upload_that_moves_outlives_those_that_stand_still() -> None:
    uploads = Uploads(max_payload=100)
    moving = upload("own", source="192.0.2.1:700", tag=9)
    assert begun(uploads, moving)
    for tag in range(4):
        assert uploads.add(moving, block(tag + 1, more=True), b"y" * 16, 0.0) is None
        assert begun(uploads, upload("own", source="192.0.2.1:700", tag=tag))
    assert uploads.add(moving, block(5, more=False), b"!", 0.0) == b"x" * 16 + b"y" * 64 + b"!"


DIGEST, TOKEN = b"what it says", b"A"


def test_a_repeat_gets_the_reply_of_the_first() -> None:
    recent = RecentRequests(lifetime=60.0)
    assert recent.admit("key", DIGEST, TOKEN, 0.0) is None
    assert recent.admit("key", DIGEST, TOKEN, 0.1) == b""
    recent.answered("key", TOKEN, b"reply")
    assert recent.admit("key", DIGEST, TOKEN, 59.9) == b"reply"


def test_another_request_under_the_same_key_is_new() -> None:
    recent = RecentRequests(lifetime=60.0, limit=2)
    assert recent.admit("older", DIGEST, TOKEN, 0.0) is None
    assert recent.admit("key", DIGEST, TOKEN, 0.0) is None
    recent.answered("key", TOKEN, b"reply")
    assert recent.admit("key", b"something else", b"B", 50.0) == Superseded(b"A")
    assert recent.admit("key", b"something else", b"B", 51.0) == b""
    assert recent.admit("older", DIGEST, TOKEN, 51.0) == b""
    # It counts from its own beginning.
    assert recent.admit("key", b"something else", b"B", 109.9) == b""


def test_a_late_reply_to_the_older_request_is_not_the_newer_ones() -> None:
    recent = RecentRequests()
    recent.admit("key", DIGEST, b"A", 0.0)
    recent.admit("key", b"something else", b"B", 0.1)
    recent.answered("key", b"A", b"reply to A")
    assert recent.admit("key", b"something else", b"B", 0.2) == b""
    recent.answered("key", b"B", b"reply to B")
    assert recent.admit("key", b"something else", b"B", 0.3) == b"reply to B"


def test_an_empty_acknowledgement_does_not_displace_a_reply() -> None:
    recent = RecentRequests()
    recent.admit("key", DIGEST, TOKEN, 0.0)
    recent.acknowledged("key", b"empty")
    assert recent.admit("key", DIGEST, TOKEN, 0.1) == b"empty"
    recent.answered("key", TOKEN, b"reply")
    recent.acknowledged("key", b"empty")
    assert recent.admit("key", DIGEST, TOKEN, 0.2) == b"reply"


def test_recent_requests_are_forgotten_in_time() -> None:
    recent = RecentRequests(lifetime=60.0)
    recent.admit("key", DIGEST, TOKEN, 0.0)
    assert recent.admit("key", DIGEST, TOKEN, 60.0) is None
    assert len(recent) == 1
    recent.answered("gone", TOKEN, b"reply")
    assert len(recent) == 1


def test_recent_requests_are_bounded_in_number() -> None:
    recent = RecentRequests(lifetime=60.0, limit=3)
    for key in range(5):
        assert recent.admit(key, DIGEST, TOKEN, 0.0) is None
    assert len(recent) == 3
    assert recent.admit(4, DIGEST, TOKEN, 0.0) == b""
    assert recent.admit(0, DIGEST, TOKEN, 0.0) is None
