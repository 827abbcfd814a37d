"""Sections 3.1.2.4 to 3.1.2.7, 3.14, 4.1 and 4.13 of both specifications: sessions, wills, the end of a connection."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from integration.mqtt_normative.doors import ACK, UP, Bench, accepted, serving
from integration.mqtt_normative.wire import (
    PATIENCE_S,
    V3,
    V5,
    Will,
    connect,
    disconnect,
    number,
    packet,
    publish,
    unsubscribe,
)

from citysense_gateway.frame import Identity, Reason

both = pytest.mark.parametrize("version", [V3, V5])
SESSION_EXPIRY, WILL_DELAY = 0x11, 0x18
DISCONNECT_CODES = {
    *(0x00, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98),
    *(0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2),
}


def lasting(version: int, seconds: int = 3600) -> dict[str, Any]:
    """Options of a CONNECT whose session outlives the connection."""
    props = bytes([SESSION_EXPIRY]) + number(seconds, 4) if version == V5 else b""
    return {"clean": False, "props": props}


async def leave(bench: Bench, version: int, **options: Any) -> None:
    """Connect, subscribe, say goodbye."""
    async with bench.online(version, **options) as peer:
        assert await peer.sub((ACK, 0)) == b"\x00"
        peer.send(disconnect(version))
        assert await peer.receive() == b""
    await bench.until_gone()


@both
@pytest.mark.mqtt5("3.1.2-6", "3.2.2-3")
@pytest.mark.mqtt311("3.1.2-4", "3.2.2-3")
async def test_without_a_session_a_new_one_begins(bench: Bench, version: int) -> None:
    async with bench.peer(version) as peer:
        present, _ = await accepted(peer, clean=False)
        assert not present


@both
@pytest.mark.mqtt5("3.1.2-5", "3.1.2-23", "3.2.2-3", "3.1.3-2")
@pytest.mark.mqtt311("3.1.2-4", "3.2.2-2", "3.1.3-2", "4.1.0-1")
async def test_a_session_is_resumed_with_its_subscriptions(bench: Bench, version: int) -> None:
    await leave(bench, version, **lasting(version))
    async with bench.peer(version) as peer:
        # Another client id of the same device has another session.
        present, _ = await accepted(peer, client_id="other", clean=False)
        assert not present
    async with bench.peer(version) as peer:
        present, _ = await accepted(peer, **lasting(version))
        assert present
        peer.send(unsubscribe(version, 3, ACK))
        assert await peer.receive() == b"\xb0" + number(3) + (b"" if version == V3 else b"\x00\x00")


@both
@pytest.mark.mqtt5("3.1.2-4", "3.2.2-2", "3.1.4-4")
@pytest.mark.mqtt311("3.1.2-6", "3.2.2-1", "3.1.4-3")
async def test_a_clean_start_begins_anew_and_leaves_nothing_of_before(bench: Bench, version: int) -> None:
    await leave(bench, version, **lasting(version))
    async with bench.peer(version) as peer:
        present, _ = await accepted(peer, clean=True)
        assert not present
        peer.send(disconnect(version))
        assert await peer.receive() == b""
    await bench.until_gone()
    async with bench.peer(version) as peer:
        present, _ = await accepted(peer, **lasting(version))
        assert not present


@both
@pytest.mark.mqtt5("3.2.2-6")
@pytest.mark.mqtt311("3.2.2-4")
async def test_a_refusal_never_says_that_a_session_is_there(bench: Bench, version: int) -> None:
    await leave(bench, version, **lasting(version))
    async with bench.peer(version) as peer:
        peer.send(connect(version, secret=b"wrong", **lasting(version)))
        assert await peer.refused() in ((4, 5) if version == V3 else (0x86, 0x87))


@pytest.mark.mqtt5("4.1.0-2", "3.1.2-23")
async def test_a_session_ends_when_its_time_is_over(bench: Bench) -> None:
    for away, kept in ((50_000, True), (61_000, False)):
        await leave(bench, V5, **lasting(V5, 60))
        bench.clock.advance(away)
        async with bench.peer(V5) as peer:
            present, _ = await accepted(peer, **lasting(V5, 60))
            assert present is kept


@pytest.mark.mqtt5("4.1.0-2")
async def test_without_an_expiry_a_session_ends_with_its_connection(bench: Bench) -> None:
    await leave(bench, V5, clean=False)
    async with bench.peer(V5) as peer:
        present, _ = await accepted(peer, clean=False)
        assert not present


@pytest.mark.mqtt5("4.1.0-1")
@pytest.mark.mqtt311("4.1.0-1", "4.1.0-2")
@both
async def test_time_does_not_end_the_session_of_an_open_connection(bench: Bench, version: int) -> None:
    options = lasting(version, 1) | {"keep_alive": 0}
    async with bench.online(version, **options) as peer:
        await peer.sub((ACK, 0))
        for _ in range(4):
            bench.clock.advance(1_000_000)
            await asyncio.sleep(0.03)  # a sweep or two
            await peer.quiet()
        peer.send(unsubscribe(version, 3, ACK))
        assert await peer.receive() == b"\xb0" + number(3) + (b"" if version == V3 else b"\x00\x00")


@both
@pytest.mark.mqtt5("3.1.4-3", "3.1.2-5", "3.2.2-3")
@pytest.mark.mqtt311("3.1.4-2", "3.1.2-4")
async def test_taking_over_resumes_the_session(bench: Bench, version: int) -> None:
    async with bench.online(version, **lasting(version)) as first:
        await first.sub((ACK, 0))
        async with bench.peer(version) as second:
            present, _ = await accepted(second, **lasting(version))
            assert present
            assert await first.ended() == (None if version == V3 else 0x8E)


# Wills


async def published(bench: Bench, count: int = 1) -> None:
    await bench.sink.wait_for(count)
    assert bench.sink.payloads == [b"gone"] * count
    frame = bench.sink.frames[-1]
    assert (frame.channel, frame.device, frame.identity) == (UP, "gauge-1", Identity.CREDENTIAL)


@both
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.mqtt5("3.1.2-7", "3.1.2-8", "3.1.2-10", "3.1.2-14")
@pytest.mark.mqtt311("3.1.2-8", "3.1.2-10", "3.1.2-16")
async def test_a_broken_connection_publishes_the_will_once(bench: Bench, version: int, qos: int) -> None:
    async with bench.online(version, will=Will(UP, qos=qos)) as peer:
        await peer.quiet()
        assert bench.sink.frames == []
        peer.cut()
    await published(bench)
    await bench.until_gone()
    async with bench.online(version):
        pass
    assert len(bench.sink.frames) == 1


@both
@pytest.mark.mqtt5("3.1.2-10", "3.14.4-3")
@pytest.mark.mqtt311("3.1.2-10", "3.14.4-3")
async def test_disconnect_discards_the_will(bench: Bench, version: int) -> None:
    async with bench.online(version, will=Will(UP)) as peer:
        peer.send(disconnect(version))
        assert await peer.receive() == b""
    await bench.until_gone()
    assert bench.sink.frames == []


@both
@pytest.mark.mqtt311("3.1.2-12")
async def test_who_left_no_will_has_none_published(bench: Bench, version: int) -> None:
    async with bench.online(version) as peer:
        peer.cut()
    await bench.until_gone()
    assert bench.sink.frames == []


@pytest.mark.mqtt5("3.1.2-8", "3.14.2-1")
async def test_disconnect_may_ask_for_the_will(bench: Bench) -> None:
    async with bench.online(V5, will=Will(UP)) as peer:
        peer.send(disconnect(V5, 0x04))
        assert await peer.receive() == b""
    await published(bench)


@both
@pytest.mark.mqtt5("3.1.2-8", "3.1.2-22")
@pytest.mark.mqtt311("3.1.2-8", "3.1.2-24")
async def test_an_end_by_the_server_publishes_the_will(bench: Bench, version: int) -> None:
    async with bench.online(version, will=Will(UP), keep_alive=10) as peer:
        bench.clock.advance(15_100)
        assert await peer.ended() == (None if version == V3 else 0x8D)
    await published(bench)
    async with bench.online(version, will=Will(UP)) as peer:
        peer.send(packet(0xC1))
        await peer.ended()
    await published(bench, 2)


@both
@pytest.mark.mqtt5("3.1.2-8")
@pytest.mark.mqtt311("3.1.2-8")
async def test_taking_over_publishes_the_will_of_the_older(bench: Bench, version: int) -> None:
    async with bench.online(version, will=Will(UP)) as first, bench.online(version) as second:
        await first.ended()
        await published(bench)
        await second.quiet()


def delayed(seconds: int) -> Will:
    return Will(UP, properties=bytes([WILL_DELAY]) + number(seconds, 4))


@pytest.mark.mqtt5("3.1.3-9")
async def test_who_returns_in_time_takes_the_will_along(bench: Bench) -> None:
    async with bench.online(V5, will=delayed(60), **lasting(V5)) as peer:
        peer.cut()
    await bench.until_gone()
    bench.clock.advance(30_000)
    async with bench.peer(V5) as peer:
        present, _ = await accepted(peer, **lasting(V5))
        assert present
        bench.clock.advance(40_000)
        await asyncio.sleep(0.05)
        await peer.quiet()
    assert bench.sink.frames == []


@pytest.mark.parametrize(("delay", "expiry", "after"), [(60, 3600, 61_000), (3600, 60, 61_000)])
@pytest.mark.mqtt5("3.1.2-8", "3.1.3-9")
async def test_a_will_waits_for_its_delay_or_the_end_of_the_session(
    bench: Bench, delay: int, expiry: int, after: int
) -> None:
    async with bench.online(V5, will=delayed(delay), **lasting(V5, expiry)) as peer:
        peer.cut()
    await bench.until_gone()
    bench.clock.advance(after - 3_000)
    await asyncio.sleep(0.05)
    assert bench.sink.frames == []
    bench.clock.advance(3_000)
    await published(bench)


@both
async def test_a_will_on_a_foreign_topic_is_refused(bench: Bench, version: int) -> None:
    async with bench.peer(version) as peer:
        peer.send(connect(version, will=Will("cs/v1/gauge-2/up/report")))
        assert await peer.refused() in ((4, 5) if version == V3 else (0x87, 0x90))
    assert bench.sink.frames == []
    assert [reason for _, reason in bench.sink.refused] == [Reason.FOREIGN_TOPIC]


@pytest.mark.mqtt311("3.1.2-17")
async def test_a_will_to_be_retained_is_published_and_not_retained(bench: Bench) -> None:
    async with bench.peer(V3) as peer:
        peer.send(connect(V3, will=Will(UP, retain=True)))
        connack = await peer.receive()
        if connack[2]:
            return  # refused outright, which a device's log shows
        peer.cut()
    await published(bench)


# The end of a connection


@pytest.mark.parametrize(
    ("broken", "codes"),
    [
        (packet(0xC1), {0x81}),
        (b"\x32\xff\xff\xff\xff\x01", {0x81, 0x95}),
        (publish(V5, "#"), {0x81, 0x82, 0x90}),
        (packet(0x20, b"\0\0\0"), {0x81, 0x82}),
        (publish(V5, UP, retain=True), {0x9A}),
        (publish(V5, UP, props=b"\x23\x00\x01"), {0x94}),
    ],
)
@pytest.mark.mqtt5("3.14.2-1", "3.14.2-2", "3.14.2-3", "3.14.2-4", "3.14.4-1", "3.14.4-2", "4.13.1-1", "4.13.2-1")
async def test_who_breaks_the_rules_is_told_which_and_then_hears_nothing_more(
    bench: Bench, broken: bytes, codes: set[int]
) -> None:
    bench.sink.gate.clear()
    async with bench.online(V5, props=b"\x27" + number(100, 4)) as peer:
        peer.send(publish(V5, UP), broken, publish(V5, UP, packet_id=2), b"\xc0\x00")
        last = await peer.receive()
        assert last[0] == 0xE0
        assert last[1] in codes
        assert last[1] in DISCONNECT_CODES
        assert len(last) < 100
        bench.sink.open()
        assert await peer.receive() == b""
    assert [frame.delivery is not None for frame in bench.sink.frames] == [True]


@pytest.mark.mqtt5("3.14.2-1", "3.14.2-2", "3.14.4-2", "4.13.2-1")
async def test_a_door_that_closes_says_goodbye() -> None:
    async with serving() as bench, bench.online(V5) as peer:
        stopping = asyncio.create_task(bench.door.stop())
        assert await peer.ended() == 0x8B
        await peer.close()
        async with asyncio.timeout(PATIENCE_S):
            await stopping


@both
@pytest.mark.mqtt5("4.2.0-1")
@pytest.mark.mqtt311("7.1.1-1")
async def test_a_stream_of_tcp_carries_it_all(bench: Bench, version: int) -> None:
    async with bench.online(version) as peer:
        peer.send(*(publish(version, UP, b"%d" % ident, packet_id=ident) for ident in range(1, 200)))
        assert [await peer.receive() for _ in range(199)] == [b"\x40" + number(ident) for ident in range(1, 200)]
    assert bench.sink.payloads == [b"%d" % ident for ident in range(1, 200)]


@pytest.mark.mqtt5("3.14.1-1")
@pytest.mark.mqtt311("3.14.1-1")
@both
async def test_disconnect_with_flags_is_no_farewell(bench: Bench, version: int) -> None:
    async with bench.online(version, will=Will(UP)) as peer:
        peer.send(packet(0xE1))
        assert await peer.ended() in ((None,) if version == V3 else (0x81, 0x82))
    await published(bench)
