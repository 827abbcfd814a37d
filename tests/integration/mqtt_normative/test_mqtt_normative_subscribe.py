"""Sections 3.8 to 3.12, 4.7 and 4.8 of both specifications: subscriptions, topic filters, ping."""

from __future__ import annotations

import pytest
from integration.mqtt_normative.doors import ACK, DOWN, STORED, UP, Bench, accepted
from integration.mqtt_normative.wire import (
    PINGREQ,
    PINGRESP,
    V3,
    V5,
    case,
    number,
    packet,
    publish,
    subscribe,
    unsubscribe,
)

from citysense_gateway.frame import Receipt, Verdict

both = pytest.mark.parametrize("version", [V3, V5])
SUBACK_CODES = {
    V3: {0, 1, 2, 0x80},
    V5: {0, 1, 2, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2},
}
UNSUBACK_CODES = {0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91}
NO_LOCAL = 0x04


def receipts(bench: Bench) -> None:
    """Every frame from now on has a receipt, which goes to the device's ack topic."""
    bench.sink.judge = lambda frame: Verdict(kind=STORED.kind, receipt=Receipt(boot=1, seq=2))


@both
@pytest.mark.mqtt5("3.8.3-2")
@pytest.mark.mqtt311("3.8.3-3")
async def test_subscribe_without_a_filter_ends_the_connection(bench: Bench, version: int) -> None:
    async with bench.online(version) as peer:
        peer.send(subscribe(version, 1))
        assert await peer.ended() in ((None,) if version == V3 else (0x81, 0x82))


@both
@pytest.mark.mqtt5("3.10.3-2")
@pytest.mark.mqtt311("3.10.3-2")
async def test_unsubscribe_without_a_filter_ends_the_connection(bench: Bench, version: int) -> None:
    async with bench.online(version) as peer:
        peer.send(unsubscribe(version, 1))
        assert await peer.ended() in ((None,) if version == V3 else (0x81, 0x82))


@both
@pytest.mark.mqtt5("3.8.3-5", "4.13.1-1")
@pytest.mark.mqtt311("3.8.3-4")
async def test_options_that_do_not_exist_end_the_connection(bench: Bench, version: int) -> None:
    for options in [3, 4, 8, 16, 48, 64, 128]:
        with case(options):
            async with bench.online(version) as peer:
                peer.send(subscribe(version, 1, (ACK, options)))
                if version == V5 and options in (0x04, 0x08, 0x10):
                    assert await peer.receive() == b"\x90" + number(1) + b"\x00" + b"\x00"
                else:
                    assert await peer.ended() in ((None,) if version == V3 else (0x81, 0x82))


@both
@pytest.mark.mqtt5("3.8.4-1", "3.8.4-5", "3.8.4-6", "3.8.4-7", "3.9.3-1", "3.9.3-2", "3.9.2-1", "3.9.2-2")
@pytest.mark.mqtt311("3.8.4-1", "3.8.4-4", "3.8.4-5", "3.9.3-1", "3.9.3-2")
async def test_each_filter_has_its_code_in_its_place(bench: Bench, version: int) -> None:
    filters = [(ACK, 2), ("cs/v1/gauge-2/ack", 0), (f"{DOWN}/set", 2), (f"{DOWN}/+", 1), ("#", 0), (f"{DOWN}/#", 0)]
    async with bench.online(version) as peer:
        codes = await peer.sub(*filters)
        assert len(codes) == len(filters)
        assert set(codes) <= SUBACK_CODES[version]
        assert [code < 0x80 for code in codes] == [True, False, True, True, False, True]
        # Never more than was asked for.
        assert all(code <= wanted for code, (_, wanted) in zip(codes, filters, strict=True) if code < 0x80)
        for filters_again, code in zip(filters, codes, strict=True):
            assert await peer.sub(filters_again) == bytes([code])


@both
@pytest.mark.mqtt5("3.8.4-7", "4.7.2-1")
@pytest.mark.mqtt311("3.8.3-2", "4.7.2-1")
async def test_a_filter_that_reaches_beyond_the_own_downlinks_is_refused(bench: Bench, version: int) -> None:
    for wanted in [
        "#",
        "+",
        "+/+",
        "cs/#",
        "cs/v1/+/ack",
        "cs/v1/gauge-1/#",
        "cs/v1/gauge-1/+",
        "cs/v1/+/down/#",
        "$SYS/#",
        UP,
    ]:
        with case(wanted):
            receipts(bench)
            async with bench.online(version) as peer:
                codes = await peer.sub((wanted, 1))
                assert codes[0] >= 0x80
                assert codes[0] in SUBACK_CODES[version]
                peer.send(publish(version, UP))
                assert await peer.receive() == b"\x40" + number(1)
                await peer.quiet()


@both
@pytest.mark.mqtt5("4.7.1-1", "4.7.1-2")
@pytest.mark.mqtt311("4.7.1-2", "4.7.1-3")
async def test_a_wildcard_out_of_its_place_is_refused(bench: Bench, version: int) -> None:
    for wanted in [f"{DOWN}/a#", f"{DOWN}/#/a", f"{DOWN}/a+", f"{DOWN}+/set", f"{DOWN}/+a", f"{DOWN}#"]:
        with case(wanted):
            async with bench.online(version) as peer:
                peer.send(subscribe(version, 1, (wanted, 1)))
                said = await peer.receive()
                if said[:1] == b"\x90":
                    assert said[-1] == (0x80 if version == V3 else 0x8F)
                else:
                    assert said in (b"", b"\xe0\x8f", b"\xe0\x81")


@both
@pytest.mark.mqtt5("4.7.3-1")
@pytest.mark.mqtt311("4.7.3-1")
async def test_an_empty_filter_ends_the_connection(bench: Bench, version: int) -> None:
    for broken in (subscribe(version, 1, ("", 0)), unsubscribe(version, 1, "")):
        with case(broken):
            async with bench.online(version) as peer:
                peer.send(broken)
                assert await peer.ended() in ((None,) if version == V3 else (0x81, 0x82, 0x8F))


@pytest.mark.mqtt5("4.8.2-1", "4.8.2-2")
async def test_shared_subscriptions_are_refused_and_said_to_be(bench: Bench) -> None:
    for wanted in [f"$share/g/{ACK}", f"$share/g/{DOWN}/+", f"$share//{ACK}", f"$share/g+/{ACK}"]:
        with case(wanted):
            async with bench.peer(V5) as peer:
                _, props = await accepted(peer)
                assert props[0x2A] == [b"\x00"]
                assert (await peer.sub((wanted, 1)))[0] in (0x9E, 0x8F, 0x87)


@pytest.mark.mqtt5("3.8.3-4")
async def test_no_local_on_a_shared_subscription_ends_the_connection(bench: Bench) -> None:
    async with bench.online(V5) as peer:
        peer.send(subscribe(V5, 1, (f"$share/g/{ACK}", NO_LOCAL)))
        assert await peer.ended() in (0x82, 0x9E)


async def test_a_subscription_identifier_was_not_offered(bench: Bench) -> None:
    async with bench.peer(V5) as peer:
        _, props = await accepted(peer)
        assert props[0x29] == [b"\x00"]
        peer.send(subscribe(V5, 1, (ACK, 0), props=b"\x0b\x01"))
        assert await peer.ended() == 0xA1


@both
@pytest.mark.mqtt5("3.10.4-1", "3.10.4-2", "3.10.4-4")
@pytest.mark.mqtt311("3.10.4-1", "3.10.4-2", "3.10.4-4")
async def test_unsubscribing_ends_exactly_the_named_subscription(bench: Bench, version: int) -> None:
    receipts(bench)
    async with bench.online(version) as peer:
        await peer.sub((ACK, 0), (f"{DOWN}/+", 1))
        for near in (ACK.upper(), ACK + "/", "cs/v1/gauge-1/+", f"{DOWN}/set"):
            peer.send(unsubscribe(version, 5, near))
            assert (await peer.receive())[:3] == b"\xb0" + number(5)
        peer.send(publish(version, UP, qos=0))
        assert (await peer.publication()).topic == ACK
        peer.send(unsubscribe(version, 6, ACK))
        assert (await peer.receive())[:3] == b"\xb0" + number(6)
        peer.send(publish(version, UP, qos=1))
        assert await peer.receive() == b"\x40" + number(1)
        await peer.quiet()


@both
@pytest.mark.mqtt5("3.10.4-5", "3.10.4-6", "3.11.2-1", "3.11.2-2", "3.11.3-1", "3.11.3-2")
@pytest.mark.mqtt311("3.10.4-5", "3.10.4-6")
async def test_unsuback_answers_for_each_filter(bench: Bench, version: int) -> None:
    async with bench.online(version) as peer:
        await peer.sub((f"{DOWN}/b", 1))
        peer.send(unsubscribe(version, 9, f"{DOWN}/a", f"{DOWN}/b", "#"))
        unsuback = await peer.receive()
        if version == V3:
            assert unsuback == b"\xb0" + number(9)
            return
        assert unsuback[:4] == b"\xb0" + number(9) + b"\x00"
        assert len(unsuback) == 7
        assert set(unsuback[4:]) <= UNSUBACK_CODES
        assert (unsuback[4], unsuback[5]) == (0x11, 0x00)


@both
@pytest.mark.mqtt5("3.8.4-3")
@pytest.mark.mqtt311("3.8.4-3")
async def test_the_same_filter_again_replaces_the_subscription(bench: Bench, version: int) -> None:
    receipts(bench)
    async with bench.online(version) as peer:
        for _ in range(3):
            await peer.sub((ACK, 0))
        peer.send(publish(version, UP, qos=0))
        assert (await peer.publication()).topic == ACK
        await peer.quiet()  # one subscription, one copy
        peer.send(unsubscribe(version, 2, ACK))
        await peer.receive()
        peer.send(publish(version, UP, qos=0))
        await peer.quiet()


@both
@pytest.mark.mqtt5("3.12.4-1")
@pytest.mark.mqtt311("3.12.4-1")
async def test_every_ping_is_answered(bench: Bench, version: int) -> None:
    async with bench.online(version) as peer:
        peer.send(PINGREQ * 5)
        assert [await peer.receive() for _ in range(5)] == [PINGRESP] * 5


@both
async def test_a_ping_with_a_body_is_malformed(bench: Bench, version: int) -> None:
    async with bench.online(version) as peer:
        peer.send(packet(0xC0, b"\x00"))
        assert await peer.ended() == (None if version == V3 else 0x81)
