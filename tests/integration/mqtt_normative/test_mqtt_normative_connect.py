"""Sections 3.1 and 3.2 of both specifications: CONNECT and CONNACK, but for sessions and wills."""

from __future__ import annotations

import asyncio
import string
from typing import Any

import pytest
from integration.mqtt_normative.doors import ACK, UP, Bench, accepted
from integration.mqtt_normative.wire import (
    PINGREQ,
    PINGRESP,
    V3,
    V5,
    Will,
    case,
    connect,
    number,
    packet,
    publish,
    subscribe,
    text,
)

from citysense_gateway.frame import Kind, Reason, Verdict

both = pytest.mark.parametrize("version", [V3, V5])
RETAIN_AVAILABLE, MAXIMUM_QOS, ASSIGNED_ID, REASON_STRING, MAXIMUM_PACKET = 0x25, 0x24, 0x12, 0x1F, 0x27
CONNACK_CODES = {
    *(0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95, 0x97, 0x99, 0x9A, 0x9B),
    *(0x9C, 0x9D, 0x9F),
}


@both
@pytest.mark.mqtt5("3.1.0-1", "3.14.0-1")
@pytest.mark.mqtt311("3.1.0-1")
async def test_the_first_packet_has_to_be_connect(bench: Bench, version: int) -> None:
    for first in [PINGREQ, publish(V3, UP), subscribe(V3, 1, (ACK, 0)), b"\xe0\x00", b" \x02\x00\x00"]:
        with case(first):
            async with bench.peer(version) as peer:
                peer.send(first, connect(version))
                assert await peer.receive() == b"", "a packet before CONNACK"
            assert bench.sink.frames == []


@both
@pytest.mark.mqtt5("3.1.0-2", "3.2.0-2", "4.13.1-1")
@pytest.mark.mqtt311("3.1.0-2", "4.8.0-1")
async def test_a_second_connect_ends_the_connection(bench: Bench, version: int) -> None:
    async with bench.online(version) as peer:
        peer.send(connect(version))
        assert await peer.ended() == (None if version == V3 else 0x82)


@both
@pytest.mark.mqtt5("3.1.2-1")
@pytest.mark.mqtt311("3.1.2-1")
async def test_another_protocol_name_is_not_served(bench: Bench, version: int) -> None:
    for name in ["MQTX", "mqtt", "MQTTS", ""]:
        with case(name):
            async with bench.peer(version) as peer:
                peer.send(connect(version, name=name))
                assert await peer.refused() in (None, 0x84)


@pytest.mark.mqtt5("3.1.2-2")
@pytest.mark.mqtt311("3.1.2-2")
async def test_another_protocol_level_is_told_so(bench: Bench) -> None:
    for level in [0, 1, 2, 3, 6, 132, 255]:
        with case(level):
            async with bench.peer(V3) as peer:
                peer.send(connect(V3, level=level))
                assert await peer.refused() in (0x01, 0x84)


# Flags of a CONNECT of gauge-1 with its password and a clean start are 0xc2.
@both
@pytest.mark.mqtt5("3.1.2-3", "3.1.2-9", "3.1.2-11", "3.1.2-12", "3.1.2-13", "3.1.4-1")
@pytest.mark.mqtt311("3.1.2-3", "3.1.2-9", "3.1.2-11", "3.1.2-13", "3.1.2-14", "3.1.2-15", "3.1.4-1", "3.2.2-6")
async def test_flags_that_contradict_each_other_are_malformed(bench: Bench, version: int) -> None:
    for flags, will in [(195, None), (202, None), (210, None), (226, None), (222, Will(UP)), (198, None)]:
        with case(flags, will):
            async with bench.peer(version) as peer:
                peer.send(connect(version, flags=flags, will=will))
                assert await peer.refused() in ((None,) if version == V3 else (None, 0x81, 0x82))
            assert bench.door.counters.sessions_opened == 0


@both
@pytest.mark.mqtt5("3.1.2-16", "3.1.2-17", "3.1.2-18", "3.1.2-19", "3.1.4-1")
@pytest.mark.mqtt311("3.1.2-18", "3.1.2-19", "3.1.2-20", "3.1.2-21", "3.1.2-22", "3.1.4-1")
async def test_name_and_password_are_there_as_the_flags_say(bench: Bench, version: int) -> None:
    for flags in [2, 66, 130, 194]:
        for present in [0, 1, 2, 3]:
            with case(flags, present):
                announced = flags.bit_count() - 1
                async with bench.peer(version) as peer:
                    fields = b"".join((text("gauge-1"), text("right"), text("more"))[:present])
                    peer.send(connect(version, device=None, secret=None, flags=flags, tail=fields))
                    if announced == present == 2:
                        assert (await peer.receive())[2] == 0
                    elif announced == present and (flags != 0x42 or version == V5):
                        # Well formed, but nobody we know.
                        assert await peer.refused() in ((4, 5) if version == V3 else (0x86, 0x87))
                    else:
                        assert await peer.refused() in ((None,) if version == V3 else (None, 0x81, 0x82))


@both
@pytest.mark.mqtt5("3.1.2-22", "3.2.2-22")
@pytest.mark.mqtt311("3.1.2-24")
async def test_silence_of_one_and_a_half_keep_alives_ends_the_connection(bench: Bench, version: int) -> None:
    async with bench.online(version, keep_alive=10) as peer:
        for packets in (PINGREQ, publish(version, UP)):
            bench.clock.advance(14_000)
            peer.send(packets)
            assert (await peer.receive())[:1] in (PINGRESP, b"\x40")
        bench.clock.advance(14_900)
        await peer.quiet()
        bench.clock.advance(15_100)
        assert await peer.ended() == (None if version == V3 else 0x8D)


@pytest.mark.mqtt5("3.1.2-28")
async def test_response_information_is_never_given(bench: Bench) -> None:
    for wanted in (b"", b"\x19\x00", b"\x19\x01"):
        async with bench.peer(V5) as peer:
            _, props = await accepted(peer, props=wanted)
            assert 0x1A not in props


@pytest.mark.mqtt5("3.1.2-29")
async def test_who_wants_no_problem_information_gets_none(bench: Bench) -> None:
    bench.sink.judge = lambda frame: Verdict(kind=Kind.REJECTED, reason=Reason.UNDECODABLE, detail="field v at byte 3")
    async with bench.online(V5, props=b"\x17\x00") as peer:
        peer.send(publish(V5, UP))
        assert await peer.receive() == b"\x40" + number(1) + b"\x99"
        peer.send(publish(V5, UP, qos=2))
        assert await peer.receive() == b"\x50" + number(1) + b"\x99"
    async with bench.online(V5, props=b"\x17\x01") as peer:
        peer.send(publish(V5, UP))
        assert b"field v at byte 3" in await peer.receive()


@both
@pytest.mark.mqtt5("3.1.3-1", "3.1.3-3", "3.1.4-5", "3.2.0-1", "3.2.2-1")
@pytest.mark.mqtt311("3.1.3-1", "3.1.3-3", "3.1.4-4", "3.2.0-1")
async def test_connack_comes_first_whatever_is_sent_behind_connect(bench: Bench, version: int) -> None:
    async with bench.peer(version) as peer:
        will = Will(UP)
        peer.send(connect(version, will=will), PINGREQ, subscribe(version, 5, (ACK, 0)), publish(version, UP))
        connack = await peer.receive()
        assert connack[:3] == b"\x20\x00\x00"
        assert {(await peer.receive())[0] for _ in range(3)} == {0xD0, 0x90, 0x40}


@both
@pytest.mark.mqtt5("3.1.3-5")
@pytest.mark.mqtt311("3.1.3-5")
async def test_plain_client_ids_of_up_to_23_bytes_are_taken(bench: Bench, version: int) -> None:
    for client_id in [
        "a",
        "0",
        string.digits,
        string.ascii_lowercase[:23],
        string.ascii_uppercase[:23],
        "xyzXYZ0123456789abcdefg",
    ]:
        with case(client_id):
            async with bench.online(version, client_id=client_id, clean=False) as peer:
                await peer.quiet()


@pytest.mark.mqtt5("3.1.3-6", "3.1.3-7", "3.2.2-16")
async def test_the_nameless_get_a_name_of_their_own(bench: Bench) -> None:
    async with bench.peer(V5) as first, bench.peer(V5) as second:
        names = [(await accepted(peer, client_id=""))[1][ASSIGNED_ID] for peer in (first, second)]
        assert names[0] != names[1]
        assert all(len(name) == 1 and name[0] for name in names)
        await first.quiet()
        async with bench.peer(V5) as third:
            assert ASSIGNED_ID not in (await accepted(third, client_id=names[0][0]))[1]
            # The name is in force: whoever uses it takes that session over.
            assert await first.ended() == 0x8E


@pytest.mark.mqtt311("3.1.3-6")
async def test_the_nameless_of_3_1_1_are_told_apart_too(bench: Bench) -> None:
    async with bench.online(V3, client_id="") as first, bench.online(V3, client_id="") as second:
        await first.quiet()
        await second.quiet()


@pytest.mark.mqtt311("3.1.3-7", "3.1.3-8", "3.2.2-5")
async def test_the_nameless_cannot_have_a_lasting_session(bench: Bench) -> None:
    async with bench.peer(V3) as peer:
        peer.send(connect(V3, client_id="", clean=False))
        assert await peer.refused() == 2


@both
@pytest.mark.mqtt5("3.1.3-8", "3.2.2-7", "3.2.2-8")
@pytest.mark.mqtt311("3.1.3-9", "3.2.2-5")
async def test_a_client_id_that_is_too_long_is_refused_by_name(bench: Bench, version: int) -> None:
    async with bench.peer(version) as peer:
        peer.send(connect(version, client_id="x" * 10_000))
        assert await peer.refused() == (2 if version == V3 else 0x85)


@both
@pytest.mark.mqtt5("3.1.4-2", "3.1.4-6", "3.2.2-6", "3.2.2-7", "3.2.2-8", "4.13.2-1")
@pytest.mark.mqtt311("3.1.4-5", "3.2.2-4", "3.2.2-5")
async def test_who_is_not_let_in_is_told_why_and_not_listened_to(bench: Bench, version: int) -> None:
    strangers: tuple[dict[str, Any], ...] = (
        {"secret": b"wrong"},
        {"device": "nobody"},
        {"device": None, "secret": None},
        {"secret": None},
    )
    for who in strangers:
        with case(who):
            async with bench.peer(version) as peer:
                peer.send(connect(version, **who), publish(version, UP), PINGREQ)
                code = await peer.refused()
                assert code in ((4, 5) if version == V3 else CONNACK_CODES)
            assert bench.sink.frames == []
            assert bench.door.counters.sessions_opened == 0


@pytest.mark.mqtt5("3.2.2-9", "3.2.2-10")
async def test_qos_2_is_served_and_a_subscription_with_it_is_taken(bench: Bench) -> None:
    async with bench.peer(V5) as peer:
        _, props = await accepted(peer)
        assert MAXIMUM_QOS not in props
        assert (await peer.sub((f"{UP[:-10]}/down/+", 2)))[0] in (0, 1, 2)
        peer.send(publish(V5, UP, qos=2))
        assert await peer.receive() == b"\x50" + number(1)


@pytest.mark.mqtt5("3.2.2-12", "3.2.2-13", "3.2.2-8")
async def test_a_will_that_cannot_be_served_is_refused(bench: Bench) -> None:
    for qos in [0, 1, 2]:
        with case(qos):
            async with bench.peer(V5) as peer:
                _, props = await accepted(peer, will=Will(UP, qos=qos))
                assert props[RETAIN_AVAILABLE] == [b"\x00"]
            async with bench.peer(V5) as peer:
                peer.send(connect(V5, will=Will(UP, qos=qos, retain=True)))
                assert await peer.refused() == 0x9A


@pytest.mark.mqtt5("3.1.2-24", "3.2.2-19", "3.2.2-20")
async def test_nothing_larger_than_the_client_takes_is_sent(bench: Bench) -> None:
    bench.sink.judge = lambda frame: Verdict(kind=Kind.REJECTED, reason=Reason.UNDECODABLE, detail="d" * 500)
    for limit in (1, 8, 20, 60):
        async with bench.peer(V5) as peer:
            peer.send(connect(V5, props=bytes([MAXIMUM_PACKET]) + number(limit, 4)))
            if not (connack := await peer.receive()):
                continue  # CONNACK itself does not fit: then there is no connection
            assert len(connack) + 1 <= limit
            peer.send(publish(V5, UP), publish(V5, UP, qos=2, packet_id=2), PINGREQ)
            while (one := await peer.receive()) not in (PINGRESP, b""):
                assert len(one) + 1 <= limit


@both
@pytest.mark.mqtt5("3.1.4-3", "3.14.4-2")
@pytest.mark.mqtt311("3.1.4-2")
async def test_the_same_client_id_takes_over(bench: Bench, version: int) -> None:
    async with bench.online(version) as first, bench.online(version, client_id="c2") as other:
        async with bench.online(version) as second:
            assert await first.ended() == (None if version == V3 else 0x8E)
            await second.quiet()
            await other.quiet()


@both
@pytest.mark.mqtt5("3.1.3-2")
@pytest.mark.mqtt311("3.1.3-2")
async def test_another_device_cannot_take_over_by_the_client_id(bench: Bench, version: int) -> None:
    async with bench.online(version) as first, bench.online(version, device="gauge-2") as second:
        await first.quiet()
        await second.quiet()


@pytest.mark.mqtt5("4.12.0-1", "4.12.0-6", "3.2.2-8")
async def test_extended_authentication_is_refused_by_name(bench: Bench) -> None:
    async with bench.peer(V5) as peer:
        peer.send(connect(V5, props=b"\x15" + text("SCRAM-SHA-256")))
        assert await peer.refused() in (0x8C, 0x87)
    async with bench.peer(V5) as peer:
        _, props = await accepted(peer)
        assert 0x15 not in props
        peer.send(packet(0xF0, b"\x19" + b"\x00"))
        assert await peer.ended() == 0x82


@pytest.mark.mqtt5("3.15.1-1")
async def test_auth_with_flags_is_malformed_as_well(bench: Bench) -> None:
    async with bench.online(V5) as peer:
        peer.send(packet(0xF1, b"\x19" + b"\x00"))
        assert await peer.ended() in (0x81, 0x82)


@both
async def test_a_connect_in_single_bytes_is_the_same_connect(bench: Bench, version: int) -> None:
    async with bench.peer(version) as peer:
        for byte in connect(version):
            peer.send(bytes([byte]))
            await asyncio.sleep(0)
        assert (await peer.receive())[:3] == b"\x20\x00\x00"
