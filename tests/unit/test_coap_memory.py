"""What the CoAP door remembers between datagrams: half uploads and recent message ids, both within bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from citysense_gateway.coap.recent import RecentRequests
from citysense_gateway.coap.uploads import Block, Refusal, Uploads


def block(number: int, *, more: bool, exponent: int = 0) -> Block:
    return Block(number=number, more=more, exponent=exponent)


@given(st.binary(max_size=600), st.integers(0, 5))
def test_a_body_comes_out_as_it_went_in(body: bytes, exponent: int) -> None:
    uploads = Uploads(max_payload=600)
    size = 2 ** (exponent + 4)
    parts = [body[at : at + size] for at in range(0, len(body), size)] or [b""]
    outcomes = [
        uploads.add("key", block(i, more=i < len(parts) - 1, exponent=exponent), part, 0.0)
        for i, part in enumerate(parts)
    ]
    assert outcomes == [None] * (len(parts) - 1) + [body]
    assert len(uploads) == 0


def test_uploads_of_different_keys_do_not_mix() -> None:
    uploads = Uploads(max_payload=100)
    assert uploads.add("a", block(0, more=True), b"a" * 16, 0.0) is None
    assert uploads.add("b", block(0, more=True), b"b" * 16, 0.0) is None
    assert uploads.add("a", block(1, more=False), b"A", 0.0) == b"a" * 16 + b"A"
    assert uploads.add("b", block(1, more=False), b"B", 0.0) == b"b" * 16 + b"B"


def test_a_missing_block_ends_the_upload() -> None:
    uploads = Uploads(max_payload=100)
    assert uploads.add("a", block(1, more=False), b"x", 0.0) is Refusal.GAP
    assert uploads.add("a", block(0, more=True), b"a" * 16, 0.0) is None
    assert uploads.add("a", block(2, more=False), b"x", 0.0) is Refusal.GAP
    assert uploads.add("a", block(1, more=False), b"x", 0.0) is Refusal.GAP
    assert len(uploads) == 0


def test_block_0_begins_anew() -> None:
    uploads = Uploads(max_payload=100)
    assert uploads.add("a", block(0, more=True), b"1" * 16, 0.0) is None
    assert uploads.add("a", block(0, more=True), b"2" * 16, 0.0) is None
    assert uploads.add("a", block(1, more=False), b"!", 0.0) == b"2" * 16 + b"!"


@pytest.mark.parametrize(
    ("wrong", "payload"),
    [
        (block(0, more=True), b"short"),
        (block(0, more=False), b"x" * 17),
        (Block(number=0, more=True, exponent=7), b"x" * 1024),
    ],
)
def test_a_block_of_another_size_than_it_says(wrong: Block, payload: bytes) -> None:
    assert Uploads(max_payload=10_000).add("a", wrong, payload, 0.0) is Refusal.SHAPE


def test_a_body_stops_at_the_limit() -> None:
    uploads = Uploads(max_payload=40)
    assert uploads.add("a", block(0, more=True), b"x" * 16, 0.0) is None
    assert uploads.add("a", block(1, more=True), b"x" * 16, 0.0) is None
    assert uploads.add("a", block(2, more=False), b"x" * 9, 0.0) is Refusal.TOO_LARGE
    assert len(uploads) == 0


def test_only_so_many_at_once_until_one_stood_still_too_long() -> None:
    uploads = Uploads(max_payload=100, max_uploads=2, lifetime=10.0)
    assert uploads.add("a", block(0, more=True), b"a" * 16, 0.0) is None
    assert uploads.add("b", block(0, more=True), b"b" * 16, 5.0) is None
    assert uploads.add("c", block(0, more=True), b"c" * 16, 9.0) is Refusal.FULL
    assert uploads.add("c", block(0, more=True), b"c" * 16, 10.0) is None
    assert uploads.add("a", block(1, more=False), b"A", 10.0) is Refusal.GAP
    assert uploads.add("b", block(1, more=False), b"B", 10.0) == b"b" * 16 + b"B"


def test_a_repeat_gets_the_reply_of_the_first() -> None:
    recent = RecentRequests(lifetime=60.0)
    assert recent.admit("key", 0.0) is None
    assert recent.admit("key", 0.1) == b""
    recent.answered("key", b"reply")
    assert recent.admit("key", 59.9) == b"reply"


def test_recent_requests_are_forgotten_in_time() -> None:
    recent = RecentRequests(lifetime=60.0)
    recent.admit("key", 0.0)
    assert recent.admit("key", 60.0) is None
    assert len(recent) == 1
    recent.answered("gone", b"reply")
    assert len(recent) == 1


def test_recent_requests_are_bounded_in_number() -> None:
    recent = RecentRequests(lifetime=60.0, limit=3)
    for key in range(5):
        assert recent.admit(key, 0.0) is None
    assert len(recent) == 3
    assert recent.admit(4, 0.0) == b""
    assert recent.admit(0, 0.0) is None
