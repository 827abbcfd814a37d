"""What CONNECT and CONNACK agree on, and what the specifications say without a number: bounds, expiry, admission."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from integration.mqtt_normative.doors import ACK, UP, Bench, accepted, serving
from integration.mqtt_normative.wire import (
    PINGREQ,
    V3,
    V5,
    case,
    connect,
    disconnect,
    number,
    packet,
    publish,
    read_properties,
    text,
)

both = pytest.mark.parametrize("version", [V3, V5])
SESSION_EXPIRY, SERVER_KEEP_ALIVE, MAXIMUM_PACKET, REASON_STRING, USER_PROPERTY = 0x11, 0x13, 0x27, 0x1F, 0x26


def expiry(seconds: int) -> bytes:
    return bytes([SESSION_EXPIRY]) + number(seconds, 4)


@pytest.mark.mqtt5("4.13.1-1", "3.1.4-1")
async def test_values_that_connect_may_not_hold_are_errors(bench: Bench) -> None:
    broken = {
        "receive maximum 0": b"\x21" + number(0),
        "maximum packet size 0": b"\x27" + number(0, 4),
        "request problem information 2": b"\x17\x02",
        "request response information 2": b"\x19\x02",
        "twice the same": expiry(1) + expiry(1),
        "data without a method": b"\x16" + text("x"),
        "a property of PUBLISH": b"\x02" + number(1, 4),
    }
    for name, props in broken.items():
        with case(name):
            async with bench.peer(V5) as peer:
                peer.send(connect(V5, props=props))
                assert await peer.refused() in (None, 0x81, 0x82, 0x8C)
    assert bench.door.counters.sessions_opened == 0


@pytest.mark.mqtt5("3.2.2-22", "3.1.2-22")
async def test_a_client_without_a_keep_alive_is_given_one_and_held_to_it(bench: Bench) -> None:
    async with bench.peer(V5) as peer:
        _, props = await accepted(peer, keep_alive=0)
        given = int.from_bytes(props[SERVER_KEEP_ALIVE][0], "big")
        assert given > 0
        bench.clock.advance(given * 1_400)
        await peer.quiet()
        bench.clock.advance(given * 1_500 + 100)
        assert await peer.ended() == 0x8D
    async with bench.peer(V5) as peer:
        assert SERVER_KEEP_ALIVE not in (await accepted(peer, keep_alive=60))[1]


async def test_a_session_that_would_never_expire_is_capped_and_told_so(bench: Bench) -> None:
    async with bench.peer(V5) as peer:
        _, props = await accepted(peer, clean=False, props=expiry(0xFFFF_FFFF))
        capped = int.from_bytes(props[SESSION_EXPIRY][0], "big")
        assert 0 < capped < 0xFFFF_FFFF
    async with bench.peer(V5) as peer:
        assert SESSION_EXPIRY not in (await accepted(peer, client_id="c2", clean=False, props=expiry(60)))[1]


@pytest.mark.mqtt5("4.1.0-2")
async def test_disconnect_may_end_the_session_or_make_it_last(bench: Bench) -> None:
    for at_connect, at_disconnect, kept in ((60, 0, False), (60, 600, True), (60, None, True)):
        with case(at_connect, at_disconnect):
            async with bench.online(V5, clean=True, props=expiry(at_connect)) as peer:
                peer.send(disconnect(V5, props=b"" if at_disconnect is None else expiry(at_disconnect)))
                assert await peer.receive() == b""
            await bench.until_gone()
            bench.clock.advance(50_000 if at_disconnect is None else 500_000)
            await asyncio.sleep(0.05)  # a sweep or two
            async with bench.peer(V5) as peer:
                present, _ = await accepted(peer, clean=False)
                assert present is kept


@pytest.mark.mqtt5("4.13.1-1")
async def test_a_session_that_was_not_to_last_cannot_be_made_to_by_disconnect(bench: Bench) -> None:
    async with bench.online(V5) as peer:
        peer.send(disconnect(V5, props=expiry(60)))
        assert await peer.ended() == 0x82
    await bench.until_gone()
    async with bench.peer(V5) as peer:
        assert not (await accepted(peer, clean=False))[0]


@both
@pytest.mark.mqtt5("3.2.2-8", "3.2.2-19", "3.2.2-20", "3.2.2-7")
@pytest.mark.mqtt311("3.2.2-5")
async def test_who_comes_in_a_storm_is_asked_to_come_back(version: int) -> None:
    async with serving(connect_burst=1, connect_rate=0.1) as bench, bench.online(version) as first:
        async with bench.peer(version) as second:
            second.send(connect(version, client_id="c2"), publish(version, UP))
            said = await second.receive()
            assert said[:2] == b"\x20\x00"
            assert await second.receive() == b""
        assert bench.sink.frames == []
        await first.quiet()
        if version == V3:
            assert said[2] == 3
            return
        assert said[2] in (0x9F, 0x97)
        props, _ = read_properties(said, 3)
        [hint] = props[USER_PROPERTY]
        assert hint.startswith(text("retry-after"))
        assert int(hint[len(text("retry-after")) + 2 :]) >= 1
        async with bench.peer(V5) as third:
            third.send(connect(V5, client_id="c3", props=bytes([MAXIMUM_PACKET]) + number(40, 4)))
            said = await third.receive()
            assert said[2] in (0x9F, 0x97)
            assert len(said) + 1 <= 40
        bench.clock.advance(10_000)
        async with bench.online(version, client_id="c4") as fourth:
            await fourth.quiet()


@both
async def test_sessions_of_one_device_are_bounded(bench: Bench, version: int) -> None:
    options: dict[str, Any] = {"clean": False, "props": expiry(600) if version == V5 else b""}
    for index in range(12):
        async with bench.online(version, client_id=f"c{index}", **options):
            pass
        await bench.until_gone()
    kept = []
    for index in reversed(range(12)):
        async with bench.peer(version) as peer:
            kept.append((await accepted(peer, client_id=f"c{index}", **options))[0])
        await bench.until_gone()
    assert kept[0]
    assert 1 <= sum(kept) < 12


@pytest.mark.mqtt5("3.3.4-7", "4.13.1-1")
async def test_qos_2_messages_that_are_never_released_are_bounded() -> None:
    async with serving(receive_maximum=3) as bench, bench.online(V5) as peer:
        for ident in (1, 2, 3):
            peer.send(publish(V5, UP, qos=2, packet_id=ident))
            assert await peer.receive() == b"\x50" + number(ident)
        peer.send(publish(V5, UP, qos=2, packet_id=1, dup=True))  # the same again is not one more
        assert await peer.receive() == b"\x50" + number(1)
        peer.send(publish(V5, UP, qos=2, packet_id=4))
        assert await peer.ended() == 0x93
        assert len(bench.sink.frames) == 3


@both
async def test_a_flood_of_filters_or_properties_ends_the_connection(bench: Bench, version: int) -> None:
    many = [packet(0x82, number(1) + (b"\x00" if version == V5 else b"") + (text(ACK) + b"\x00") * 5_000)]
    if version == V5:
        many.append(publish(V5, UP, props=(b"\x26" + text("") + text("")) * 5_000))
    for flood in many:
        async with bench.online(version) as peer:
            peer.send(flood, PINGREQ)
            assert await peer.ended() in ((None,) if version == V3 else (0x81, 0x82, 0x97))
