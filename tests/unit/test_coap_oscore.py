"""OSCORE contexts against the vectors of RFC 8613 appendix C, and what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import pytest
from aiocoap import Message, oscore
from aiocoap.numbers.types import ACK
from hypothesis import given, settings
from hypothesis import strategies as st

from citysense import wire
from citysense_gateway.coap.oscore import Challenge, Context, Failure, Opened, OscoreContexts, Refused
from citysense_gateway.coap.oscore_store import EPOCH_S, LAST_FROM_CLOCK, OscoreStore, Window, first_number

SECRET = bytes.fromhex("0102030405060708090a0b0c0d0e0f10")
SALT = bytes.fromhex("9e7ca92223786340")
ID_CONTEXT = bytes.fromhex("37cbf3210017a2d3")


def keys(*, recipient: bytes = b"", sender: bytes = b"\x01", salt: bytes = SALT, context: bytes = b"") -> wire.Oscore:
    """As the server of the vectors sees them: its sender id is 01."""
    return wire.Oscore(secret=SECRET, salt=salt, sender=sender, recipient=recipient, context=context)


C1, C2, C3 = keys(), keys(recipient=b"\x00", salt=b""), keys(context=ID_CONTEXT)


@dataclass
class Store:
    """Windows and numbers in memory."""

    windows: dict[bytes, Window] = field(default_factory=dict)
    numbers: list[int] = field(default_factory=lambda: list(range(100)))

    async def open(self) -> dict[bytes, Window]:
        windows, self.windows = self.windows, {}
        return windows

    def take(self) -> int | None:
        return self.numbers.pop(0) if self.numbers else None

    async def close(self, windows: Mapping[bytes, Window]) -> None:
        self.windows = dict(windows)


def contexts(devices: dict[str, wire.Oscore], store: Store | None = None) -> OscoreContexts:
    made = OscoreContexts(
        keys=lambda: devices, store=cast(OscoreStore, store or Store()), random_bytes=lambda count: b"e" * count
    )
    asyncio.run(made.start())
    return made


def ready(devices: dict[str, wire.Oscore], store: Store | None = None) -> OscoreContexts:
    """With empty windows, as after an Echo."""
    made = contexts(devices, store)
    for device in devices:
        made.context_of(device).recipient_replay_window.initialize_empty()
    return made


@pytest.mark.parametrize(
    ("given_keys", "sender", "recipient", "common_iv"),
    [
        (C1, "ffb14e093c94c9cac9471648b4f98710", "f0910ed7295e6ad4b54fc793154302ff", "4622d4dd6d944168eefb54987c"),
        (C2, "e57b5635815177cd679ab4bcec9d7dda", "321b26943253c7ffb6003b0b64d74041", "be35ae297d2dace910c52e99f9"),
        (C3, "e39a0c7c77b43f03b4b39ab9a268699f", "af2a1300a5e95788b356336eeecd2b92", "2ca58fb85ff1b81c0b7181b85e"),
    ],
    ids=["C.1 with salt", "C.2 without salt", "C.3 with id context"],
)
def test_key_derivation(given_keys: wire.Oscore, sender: str, recipient: str, common_iv: str) -> None:
    context = Context(given_keys, b"", lambda: None)
    assert context.sender_key.hex() == sender
    assert context.recipient_key.hex() == recipient
    assert context.common_iv.hex() == common_iv


REQUESTS = {
    "C.4 with salt": (
        C1,
        "44025d1f00003974396c6f63616c686f7374620914ff612f1092f1776f1c1668b3825e",
        "44015d1f00003974396c6f63616c686f737483747631",
    ),
    "C.5 without salt": (
        C2,
        "440271c30000b932396c6f63616c686f737463091400ff4ed339a5a379b0b8bc731fffb0",
        "440171c30000b932396c6f63616c686f737483747631",
    ),
    "C.6 with id context": (
        C3,
        "44022f8eef9bbf7a396c6f63616c686f73746b19140837cbf3210017a2d3ff72cd7273fd331ac45cffbe55c3",
        "44012f8eef9bbf7a396c6f63616c686f737483747631",
    ),
}


@pytest.mark.parametrize(("given_keys", "protected", "plain"), REQUESTS.values(), ids=REQUESTS)
def test_requests(given_keys: wire.Oscore, protected: str, plain: str) -> None:
    opened = ready({"dev": given_keys}).open(Message.decode(bytes.fromhex(protected)))
    assert isinstance(opened, Opened)
    wanted = Message.decode(bytes.fromhex(plain))
    assert opened.device == "dev"
    assert (opened.message.code, opened.message.opt.uri_path) == (wanted.code, wanted.opt.uri_path) == (1, ("tv1",))


def test_responses() -> None:
    """C.7 with the request's nonce, then C.8 with a number of our own."""
    protected = bytes.fromhex(REQUESTS["C.4 with salt"][1])
    opened = ready({"dev": C1}).open(Message.decode(protected))
    assert isinstance(opened, Opened)

    def response() -> str:
        outer = opened.sealing.protect(Message(code=0x45, payload=b"Hello World!"))
        assert outer is not None
        outer.mtype, outer.mid, outer.token = ACK, 0x5D1F, bytes.fromhex("00003974")
        return bytes(outer.encode()).hex()

    assert response() == "64445d1f0000397490ffdbaad1e9a7e7b2a813d3c31524378303cdafae119106"
    assert response() == "64445d1f00003974920100ff4d4c13669384b67354b2b6175ff4b8658c666a6cf88e"


class Device(oscore.CanProtect, oscore.CanUnprotect, oscore.SecurityContextUtils):  # type: ignore[misc]
    """The other side of a context."""

    alg_aead = oscore.algorithms[oscore.DEFAULT_ALGORITHM]
    hashfun = oscore.hashfunctions[oscore.DEFAULT_HASHFUNCTION]
    echo_recovery = None

    def __init__(self, server: wire.Oscore) -> None:
        self.sender_id, self.recipient_id, self.id_context = server.recipient, server.sender, server.context or None
        self.sender_sequence_number = 0
        self.recipient_replay_window = oscore.ReplayWindow(32, lambda: None)
        self.recipient_replay_window.initialize_empty()
        self.derive_keys(server.salt, server.secret)

    def post_seqnoincrease(self) -> None:
        pass

    def request(self, payload: bytes = b"x", echo: bytes | None = None) -> tuple[Message, object]:
        inner = Message(code=2, payload=payload)
        inner.opt.uri_path = ("v1", "dev", "report")
        inner.opt.echo = echo
        outer, request = self.protect(inner)
        outer.mtype, outer.mid, outer.token = ACK, 1, b"t"
        return Message.decode(outer.encode()), request


def arrived(message: Message) -> Message:
    message.mtype, message.mid, message.token = ACK, 1, b"t"
    return Message.decode(message.encode())


def test_the_first_request_is_taken_only_with_its_echo() -> None:
    server, device = contexts({"dev": C1}), Device(C1)
    captured, request = device.request()
    challenge = server.open(captured)
    assert isinstance(challenge, Challenge)
    assert challenge.response is not None
    answer, _ = device.unprotect(arrived(challenge.response), request)
    assert (answer.code.dotted, answer.opt.echo) == ("4.01", b"e" * 8)
    assert isinstance(server.open(captured), Challenge), "the same again proves nothing"
    fresh, _ = device.request(echo=answer.opt.echo)
    assert isinstance(server.open(fresh), Opened)
    # From here the window begins: what came before is a replay.
    assert server.open(captured) == Refused(failure=Failure.REPLAY, device="dev")
    assert server.open(fresh) == Refused(failure=Failure.REPLAY, device="dev")
    assert isinstance(server.open(device.request()[0]), Opened)


def test_a_challenge_without_a_number_is_no_response() -> None:
    server = contexts({"dev": C1}, Store(numbers=[]))
    assert server.open(Device(C1).request()[0]) == Challenge(response=None)


def test_windows_come_back_once_after_a_clean_stop() -> None:
    store = Store()
    server, device = ready({"dev": C1}, store), Device(C1)
    first, second = device.request()[0], device.request()[0]
    assert isinstance(server.open(first), Opened)
    asyncio.run(server.stop())
    again = contexts({"dev": C1}, store)
    assert again.open(first) == Refused(failure=Failure.REPLAY, device="dev")
    assert isinstance(again.open(second), Opened)
    # Killed now: nothing is on disk, and the device is asked.
    assert store.windows == {}
    assert isinstance(contexts({"dev": C1}, store).open(device.request()[0]), Challenge)


def test_windows_of_devices_that_were_silent_are_kept_on() -> None:
    store = Store()
    server = ready({"dev": C1}, store)
    first = Device(C1).request()[0]
    assert isinstance(server.open(first), Opened)
    asyncio.run(server.stop())
    asyncio.run(contexts({"dev": C1}, store).stop())
    assert contexts({"dev": C1}, store).open(first) == Refused(failure=Failure.REPLAY, device="dev")


def test_contexts_follow_the_roster() -> None:
    devices = {"dev": C1, "other": keys(recipient=b"\x07")}
    server, device, other = ready(devices), Device(C1), Device(devices["other"])
    assert isinstance(server.open(device.request()[0]), Opened)
    del devices["dev"]
    server.refresh()
    assert server.open(device.request()[0]) == Refused(failure=Failure.UNKNOWN)
    opened = server.open(other.request()[0])
    assert isinstance(opened, Opened), "its window is as it was"
    assert (opened.device, server.has("dev"), server.has("other")) == ("other", False, True)
    # The same id with another key: what was made with the old one is not opened.
    devices["other"] = wire.Oscore(secret=b"n" * 16, salt=SALT, sender=b"\x01", recipient=b"\x07", context=b"")
    server.refresh()
    assert server.open(other.request()[0]) == Refused(failure=Failure.FORGED, device="other")


def test_one_key_id_in_two_id_contexts() -> None:
    devices = {"plain": C1, "named": C3}
    server = ready(devices)
    for name, device_keys in devices.items():
        opened = server.open(Device(device_keys).request()[0])
        assert isinstance(opened, Opened)
        assert opened.device == name


def test_every_flipped_bit_is_noticed() -> None:
    server = ready({"dev": C1})
    good = Device(C1).request(b"reading")[0]
    body = bytes(good.payload)
    for bit in range(len(body) * 8):
        good.payload = bytes(value ^ (1 << bit % 8 if at == bit // 8 else 0) for at, value in enumerate(body))
        assert server.open(good) == Refused(failure=Failure.FORGED, device="dev")
    good.payload = body
    assert isinstance(server.open(good), Opened)


@settings(max_examples=300, deadline=None)
@given(option=st.binary(max_size=24), payload=st.binary(max_size=40), code=st.sampled_from([1, 2, 5, 0x44]))
def test_no_option_and_no_ciphertext_trips_it(option: bytes, payload: bytes, code: int) -> None:
    message = Message.decode(bytes([0x40, code, 0, 1]))
    message.opt.oscore = option
    message.payload = payload
    assert isinstance(ready({"dev": C1}).open(message), Refused)


def test_a_genuine_request_that_is_no_message() -> None:
    server, device = ready({"dev": C1}), Device(C1)
    message, _ = device.request()
    nonce = device._construct_nonce(b"\x09", b"", device.alg_aead)
    request = oscore.RequestIdentifiers(b"", b"\x09", can_reuse_nonce=None, request_code=message.code)
    external = device._extract_external_aad(message, request, local_is_sender=True)
    aad = oscore.SymmetricEncryptionAlgorithm._build_encrypt0_structure({}, external)
    message.opt.oscore = b"\x09\x09"
    message.payload = device.alg_aead.encrypt(b"\x02\xb2\xff\xfe", aad, device.sender_key, nonce)
    assert server.open(message) == Refused(failure=Failure.MALFORMED, device="dev")


def test_where_numbers_start() -> None:
    now_ms = (EPOCH_S + 1000) * 1000
    assert first_number(0, now_ms) == 256_000
    assert first_number(300_000, now_ms) == 300_000
    assert first_number(5, 0) == 5, "a clock before 2026 says nothing"
    assert first_number(5, 10**18) == LAST_FROM_CLOCK
