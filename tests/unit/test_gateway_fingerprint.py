"""What counts as a repeat of a frame that does not count itself."""

from __future__ import annotations

import pytest

from citysense_gateway.fingerprint import COAP_EXCHANGE_MS, DUP_MS, KEPT_MS, Counted, Fingerprint, Keyed, fingerprint
from citysense_gateway.frame import Frame, Identity, Transport
from citysense_profiles.reading import Decoded, Sample


def frame(transport: Transport = Transport.MQTT, payload: bytes = b"p", delivery: bytes | None = None) -> Frame:
    return Frame(
        transport=transport,
        channel="c",
        device="d",
        identity=Identity.CREDENTIAL,
        source="s",
        received_at=1_000,
        payload=payload,
        delivery=delivery,
    )


def decoded(*times: int | None, boot: int | None = None, seq: int | None = None) -> Decoded:
    samples = tuple(Sample(time=time, values={}) for time in times)
    return Decoded(message="m", samples=samples, boot=boot, seq=seq, base=None)


def key(fingerprint: Fingerprint) -> bytes:
    assert isinstance(fingerprint, Keyed)
    return fingerprint.key


def test_a_message_that_counts_itself_is_known_by_its_count() -> None:
    assert fingerprint(frame(delivery=b"\x01x"), "d", decoded(5, boot=3, seq=41)) == Counted(boot=3, seq=41, base=None)


def test_a_time_in_the_frame_makes_a_repeat_recognisable_on_any_way_in() -> None:
    by_mqtt = fingerprint(frame(delivery=b"\x00a/1"), "d", decoded(5, None))
    by_coap = fingerprint(frame(Transport.COAP, delivery=b"peer"), "d", decoded(5, None))
    assert by_mqtt == by_coap
    assert isinstance(by_mqtt, Keyed)
    assert by_mqtt.may_repeat
    assert by_mqtt.lifetime_ms == KEPT_MS


@pytest.mark.parametrize(
    ("device", "payload", "time"), [("e", b"p", 5), ("d", b"q", 5), ("d", b"p", 6)], ids=["device", "payload", "time"]
)
def test_another_device_payload_or_time_is_another_reading(device: str, payload: bytes, time: int) -> None:
    assert key(fingerprint(frame(), "d", decoded(5))) != key(fingerprint(frame(payload=payload), device, decoded(time)))


def test_without_a_time_only_dup_makes_a_repeat() -> None:
    first = fingerprint(frame(delivery=b"\x00d/client/7"), "d", decoded(None))
    again = fingerprint(frame(delivery=b"\x01d/client/7"), "d", decoded(None))
    assert isinstance(first, Keyed)
    assert isinstance(again, Keyed)
    assert (first.key, first.may_repeat, again.may_repeat) == (again.key, False, True)
    assert again.lifetime_ms == DUP_MS, "hours later the same packet id means something new"


def test_a_packet_id_used_again_for_another_payload_is_no_repeat() -> None:
    one = fingerprint(frame(delivery=b"\x00d/client/7", payload=b"12 cm"), "d", decoded(None))
    other = fingerprint(frame(delivery=b"\x01d/client/7", payload=b"90 cm"), "d", decoded(None))
    assert key(one) != key(other)


def test_parts_of_a_key_cannot_flow_into_each_other() -> None:
    one = fingerprint(frame(Transport.COAP, delivery=b"bc"), "a", decoded(None))
    other = fingerprint(frame(Transport.COAP, delivery=b"c"), "ab", decoded(None))
    assert key(one) != key(other)


def test_coap_message_ids_are_used_again_after_the_exchange_lifetime() -> None:
    found = fingerprint(frame(Transport.COAP, delivery=b"peer 7"), "d", decoded(None))
    assert isinstance(found, Keyed)
    assert found.may_repeat
    assert found.lifetime_ms == COAP_EXCHANGE_MS == 247_000


def test_polls_and_frames_that_nothing_vouches_for_never_repeat() -> None:
    assert fingerprint(frame(Transport.MODBUS), "d", decoded(5)) is None
    assert fingerprint(frame(delivery=None), "d", decoded(None)) is None
