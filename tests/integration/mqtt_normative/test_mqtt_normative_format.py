"""Chapters 1 and 2 of both specifications: strings, integers, flags, packet identifiers, properties."""

from __future__ import annotations

import pytest
from integration.mqtt_normative.doors import ACK, STORED, UP, Bench
from integration.mqtt_normative.wire import (
    V3,
    V5,
    Will,
    case,
    connect,
    number,
    packet,
    properties,
    publish,
    read_properties,
    subscribe,
    text,
    unsubscribe,
)

from citysense_gateway.frame import Receipt, Verdict

both = pytest.mark.parametrize("version", [V3, V5])
BAD_TEXTS = {"cut": b"a\xc3", "wrong": b"a\xc3\x28", "surrogate": b"a\xed\xa0\x80", "overlong": b"a\xc0\xaf"}


def with_topic(version: int, topic: bytes) -> tuple[bytes, ...]:
    """Every packet of a client that holds a topic or a filter, with this one."""
    return publish(version, topic), subscribe(version, 1, (topic, 0)), unsubscribe(version, 1, topic)


@both
@pytest.mark.mqtt5("1.5.4-1", "3.1.3-4", "3.1.3-11", "3.1.3-12")
@pytest.mark.mqtt311("1.5.3-1", "3.1.3-4", "3.1.3-10", "3.1.3-11")
async def test_ill_formed_text_in_connect_ends_the_connection(bench: Bench, version: int) -> None:
    for name, bad in BAD_TEXTS.items():
        broken = {
            "client id": connect(version, client_id=bad),
            "user name": connect(version, device=bad),
            "will topic": connect(version, will=Will(bad)),
        }
        for field, packet_of_it in broken.items():
            with case(field, name):
                async with bench.peer(version) as peer:
                    peer.send(packet_of_it)
                    assert await peer.refused() in ((None,) if version == V3 else (None, 0x81, 0x82))


@both
@pytest.mark.mqtt5("1.5.4-1", "3.3.2-1", "3.8.3-1", "3.10.3-1")
@pytest.mark.mqtt311("1.5.3-1", "3.3.2-1", "3.8.3-1", "3.10.3-1")
async def test_an_ill_formed_topic_ends_the_connection(bench: Bench, version: int) -> None:
    for name, bad in BAD_TEXTS.items():
        for broken in with_topic(version, bad):
            with case(name, broken):
                async with bench.online(version) as peer:
                    peer.send(broken)
                    assert await peer.ended() == (None if version == V3 else 0x81)
                assert bench.sink.frames == []


@both
@pytest.mark.mqtt5("1.5.4-2", "4.7.3-2")
@pytest.mark.mqtt311("1.5.3-2", "4.7.3-2")
async def test_a_null_character_ends_the_connection(bench: Bench, version: int) -> None:
    for broken in with_topic(version, b"cs/v1/gauge-1/\0"):
        with case(broken):
            async with bench.online(version) as peer:
                peer.send(broken)
                assert await peer.ended() == (None if version == V3 else 0x81)


@both
@pytest.mark.mqtt5("1.5.4-3", "4.7.3-4")
@pytest.mark.mqtt311("1.5.3-3", "4.7.3-4")
async def test_a_byte_order_mark_is_a_character_like_any_other(bench: Bench, version: int) -> None:
    marked = "\ufeff" + UP
    async with bench.online(version) as peer:
        peer.send(publish(version, marked))
        assert (await peer.receive())[:1] == b"\x40"
        assert (await peer.sub(("\ufeff" + ACK, 0)))[0] >= 0x80
    assert [frame.channel for frame, _ in bench.sink.refused] == [marked]


@pytest.mark.mqtt5("1.5.5-1")
async def test_an_integer_longer_than_it_needs_to_be_is_malformed(bench: Bench) -> None:
    async with bench.online(V5) as peer:
        peer.send(packet(0x32, text(UP) + number(1) + b"\x80\x00" + b"{}"))
        assert await peer.ended() == 0x81
    async with bench.online(V5) as peer:
        peer.send(b"\xc0\x80\x00")
        assert await peer.ended() == 0x81


@both
async def test_a_length_of_five_bytes_is_malformed(bench: Bench, version: int) -> None:
    async with bench.online(version) as peer:
        peer.send(b"\x32\xff\xff\xff\xff\x01")
        assert await peer.ended() in ((None,) if version == V3 else (0x81, 0x95))


@pytest.mark.mqtt5("1.5.7-1")
async def test_both_halves_of_a_user_property_are_checked(bench: Bench) -> None:
    for pair in [text(b"\xc3") + text("v"), text("n") + text(b"\xc3"), text("n") + text("\x00")]:
        with case(pair):
            async with bench.online(V5) as peer:
                peer.send(publish(V5, UP, props=b"\x26" + pair))
                assert await peer.ended() == 0x81


FLAGS = [0x41, 0x42, 0x51, 0x60, 0x63, 0x71, 0x80, 0x83, 0xA0, 0xA3, 0xC1, 0xE1]


@both
@pytest.mark.mqtt5("2.1.3-1", "3.6.1-1", "3.8.1-1", "3.10.1-1", "3.14.1-1")
@pytest.mark.mqtt311("2.2.2-1", "2.2.2-2", "3.6.1-1", "3.8.1-1", "3.10.1-1", "3.14.1-1")
async def test_reserved_flags_end_the_connection(bench: Bench, version: int) -> None:
    for first in FLAGS:
        with case(first):
            bodies = {
                0x80: subscribe(version, 1, (ACK, 0))[2:],
                0xA0: unsubscribe(version, 1, ACK)[2:],
                0xC0: b"",
                0xE0: b"",
            }
            async with bench.online(version) as peer:
                peer.send(packet(first, bodies.get(first & 0xF0, number(1))))
                assert await peer.ended() in ((None,) if version == V3 else (0x81, 0x82))


@both
@pytest.mark.mqtt5("2.2.1-2", "4.3.1-1", "3.3.1-2")
@pytest.mark.mqtt311("2.3.1-5", "4.3.1-1", "3.3.1-2")
async def test_qos_0_has_no_packet_identifier_in_either_direction(bench: Bench, version: int) -> None:
    bench.sink.judge = lambda frame: Verdict(kind=STORED.kind, receipt=Receipt(boot=1, seq=2))
    async with bench.online(version) as peer:
        await peer.sub((ACK, 0))
        peer.send(publish(version, UP, b"12345", qos=0))
        receipt = await peer.publication()
        assert (receipt.qos, receipt.dup, receipt.packet_id) == (0, False, None)
        assert (receipt.topic, receipt.payload) == (ACK, b'{"boot":1,"seq":2}')
    assert bench.sink.payloads == [b"12345"]


@both
@pytest.mark.mqtt5("2.2.1-3")
@pytest.mark.mqtt311("2.3.1-1")
async def test_a_packet_identifier_of_0_ends_the_connection(bench: Bench, version: int) -> None:
    for broken in (
        publish(version, UP, qos=1, packet_id=0),
        publish(version, UP, qos=2, packet_id=0),
        subscribe(version, 0, (ACK, 0)),
        unsubscribe(version, 0, ACK),
    ):
        with case(broken):
            async with bench.online(version) as peer:
                peer.send(broken)
                assert await peer.ended() in ((None,) if version == V3 else (0x81, 0x82))
            assert bench.sink.frames == []


@both
@pytest.mark.mqtt5("2.2.1-5", "2.2.1-6", "3.8.4-2", "3.10.4-5")
@pytest.mark.mqtt311("2.3.1-6", "2.3.1-7", "3.8.4-2", "3.10.4-4")
async def test_an_answer_carries_the_identifier_of_its_question(bench: Bench, version: int) -> None:
    for packet_id in [1, 4660, 65535]:
        with case(packet_id):
            ident = number(packet_id)
            async with bench.online(version) as peer:
                peer.send(publish(version, UP, qos=1, packet_id=packet_id))
                assert await peer.receive() == b"\x40" + ident
                peer.send(publish(version, UP, qos=2, packet_id=packet_id))
                assert await peer.receive() == b"\x50" + ident
                peer.send(packet(0x62, ident))
                assert await peer.receive() == b"\x70" + ident
                await peer.sub((ACK, 0), packet_id=packet_id)
                peer.send(unsubscribe(version, packet_id, ACK))
                assert (await peer.receive())[:3] == b"\xb0" + ident


@pytest.mark.mqtt5("2.2.2-1")
async def test_a_packet_without_properties_says_so(bench: Bench) -> None:
    bench.sink.judge = lambda frame: Verdict(kind=STORED.kind, receipt=Receipt(boot=1, seq=2))
    async with bench.peer(V5) as peer:
        peer.send(connect(V5))
        connack = await peer.receive()
        assert read_properties(connack, 3)[1] == len(connack)
        peer.send(subscribe(V5, 9, (ACK, 0)))
        assert await peer.receive() == b"\x90" + number(9) + b"\x00" + b"\x00"
        peer.send(publish(V5, UP, qos=0))
        assert (await peer.publication()).props == {}
        peer.send(unsubscribe(V5, 9, ACK))
        assert await peer.receive() == b"\xb0" + number(9) + b"\x00" + b"\x00"


@pytest.mark.mqtt5("4.13.1-1")
async def test_a_property_that_may_not_be_ends_the_connection(bench: Bench) -> None:
    for raw in [b"\x7f\x00", b"$\x01", b"\x01\x01\x01\x01", b"\x01\x02", b"\x02\x00\x00\x00"]:
        with case(raw):
            async with bench.online(V5) as peer:
                peer.send(publish(V5, UP, props=raw))
                assert await peer.ended() in (0x81, 0x82)


@both
async def test_bytes_behind_the_last_field_end_the_connection(bench: Bench, version: int) -> None:
    async with bench.online(version) as peer:
        peer.send(packet(0x82, number(1) + properties(version) + text(ACK) + b"\x00" + b"\x00"))
        assert await peer.ended() == (None if version == V3 else 0x81)
