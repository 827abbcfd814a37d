"""Sections 3.3, 4.3 to 4.6 and 4.9 of both specifications, server to client: messages for devices, QoS 1."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from integration.mqtt_normative.doors import ACK, DOWN, START_MS, STORED, UP, Bench, accepted
from integration.mqtt_normative.wire import (
    PINGREQ,
    PINGRESP,
    V3,
    V5,
    Peer,
    answer,
    disconnect,
    number,
    publish,
    unsubscribe,
)

from citysense_gateway.frame import Receipt, Verdict

both = pytest.mark.parametrize("version", [V3, V5])
PUBACK = 0x40
EXPIRY, RECEIVE_MAXIMUM, TOPIC_ALIAS_MAXIMUM, MAXIMUM_PACKET = 0x02, 0x21, 0x22, 0x27


def lasting(version: int) -> dict[str, Any]:
    """Options of a CONNECT whose session outlives the connection."""
    return {"clean": False, "props": b"\x11" + number(3600, 4) if version == V5 else b""}


@asynccontextmanager
async def subscribed(bench: Bench, version: int, **options: Any) -> AsyncIterator[Peer]:
    """A connection that hears all downlinks of gauge-1 with QoS 1."""
    async with bench.online(version, **options) as peer:
        assert await peer.sub((f"{DOWN}/+", 1)) == b"\x01"
        yield peer


@both
@pytest.mark.mqtt5("3.3.1-1", "3.3.1-3", "3.3.1-12", "3.3.2-3", "4.3.2-1", "4.3.2-2", "2.2.1-4")
@pytest.mark.mqtt311("3.3.1-3", "3.3.1-9", "3.3.2-3", "4.3.2-1", "2.3.1-4")
async def test_a_downlink_goes_out_once_and_is_delivered_by_puback(bench: Bench, version: int) -> None:
    async with subscribed(bench, version) as peer:
        bench.letters.post("a", message="set", payload=b"open")
        sent = await peer.publication()
        assert (sent.topic, sent.payload) == (f"{DOWN}/set", b"open")
        assert (sent.qos, sent.dup, sent.retain) == (1, False, False)
        assert sent.packet_id
        assert bench.letters.begun == ["a"]
        assert bench.letters.done == []
        peer.send(answer(PUBACK, sent.packet_id))
        await bench.letters.wait_for(done=1)
        await peer.quiet()


@both
@pytest.mark.mqtt5("2.2.1-4", "4.3.2-1", "4.3.2-3", "4.6.0-5", "4.6.0-6")
@pytest.mark.mqtt311("2.3.1-4", "2.3.1-2", "4.3.2-1", "4.6.0-5", "4.6.0-6")
async def test_downlinks_under_way_have_identifiers_of_their_own_and_keep_their_order(
    bench: Bench, version: int
) -> None:
    names = [f"m{index}" for index in range(8)]
    for name in names:
        bench.letters.post(name, payload=name.encode())
    idents: list[int] = []
    heard: list[str] = []
    async with subscribed(bench, version) as peer:
        while len(heard) < len(names):
            sent = await peer.publication()
            assert sent.packet_id
            heard.append(sent.payload.decode())
            idents.append(sent.packet_id)
            if len(heard) == 4:
                # Not confirmed, so none of the four may lend its number to another.
                assert len(set(idents)) == 4
                for ident in idents:
                    peer.send(answer(PUBACK, ident))
        assert heard == names


@both
@pytest.mark.mqtt5("4.3.2-3", "4.4.0-1")
@pytest.mark.mqtt311("4.3.2-1")
async def test_within_a_connection_nothing_is_sent_again(bench: Bench, version: int) -> None:
    async with subscribed(bench, version, keep_alive=0) as peer:
        bench.letters.post("a")
        await peer.publication()
        for _ in range(5):
            bench.clock.advance(60_000)
            await peer.quiet()


@both
@pytest.mark.mqtt5("3.3.1-1", "4.4.0-1", "4.6.0-1", "3.1.2-5")
@pytest.mark.mqtt311("3.3.1-1", "4.4.0-1", "4.6.0-1", "3.1.2-4", "2.3.1-3")
async def test_what_was_not_confirmed_comes_again_with_its_identifier(bench: Bench, version: int) -> None:
    async with subscribed(bench, version, **lasting(version)) as peer:
        for name in ("a", "b", "c"):
            bench.letters.post(name, payload=name.encode())
        before = [await peer.publication() for _ in range(3)]
        ident = before[1].packet_id
        assert ident is not None
        peer.send(answer(PUBACK, ident))
        await bench.letters.wait_for(done=1)
        peer.cut()
    await bench.until_gone()
    async with bench.peer(version) as peer:
        present, _ = await accepted(peer, **lasting(version))
        assert present
        again = [await peer.publication() for _ in range(2)]
        assert [(one.payload, one.packet_id, one.dup) for one in again] == [
            (b"a", before[0].packet_id, True),
            (b"c", before[2].packet_id, True),
        ]
        await peer.quiet()


@both
async def test_what_may_go_out_only_once_does(bench: Bench, version: int) -> None:
    async with subscribed(bench, version, **lasting(version)) as peer:
        bench.letters.post("a", once=True)
        await peer.publication()
        peer.cut()
    await bench.until_gone()
    async with bench.peer(version) as peer:
        await accepted(peer, **lasting(version))
        await peer.quiet()
    assert bench.letters.begun == ["a"]


@both
@pytest.mark.mqtt5("4.5.0-1", "3.1.2-23", "4.1.0-1")
@pytest.mark.mqtt311("3.1.2-5", "4.5.0-1", "4.1.0-1")
async def test_mail_that_came_meanwhile_is_delivered_on_return(bench: Bench, version: int) -> None:
    async with subscribed(bench, version, **lasting(version)) as peer:
        peer.cut()
    await bench.until_gone()
    bench.letters.post("a", payload=b"meanwhile")
    async with bench.peer(version) as peer:
        present, _ = await accepted(peer, **lasting(version))
        assert present
        sent = await peer.publication()
        assert (sent.payload, sent.dup) == (b"meanwhile", False)


@pytest.mark.mqtt5("4.4.0-2")
async def test_a_failing_puback_ends_the_matter(bench: Bench) -> None:
    async with subscribed(bench, V5, **lasting(V5)) as peer:
        bench.letters.post("a")
        sent = await peer.publication()
        assert sent.packet_id is not None
        peer.send(answer(PUBACK, sent.packet_id, 0x83))
        await bench.letters.wait_for(failed=1)
        peer.cut()
    await bench.until_gone()
    async with bench.peer(V5) as peer:
        await accepted(peer, **lasting(V5))
        await peer.quiet()


@pytest.mark.parametrize("most", [1, 2, 5])
@pytest.mark.mqtt5("3.3.4-9", "3.3.4-10", "4.9.0-1", "4.9.0-2", "4.9.0-3")
async def test_no_more_is_under_way_than_the_client_takes(bench: Bench, most: int) -> None:
    for index in range(8):
        bench.letters.post(f"m{index}")
    async with subscribed(bench, V5, props=bytes([RECEIVE_MAXIMUM]) + number(most)) as peer:
        open_now = [(await peer.publication()).packet_id for _ in range(most)]
        await peer.quiet()
        assert (await peer.sub((ACK, 0))) == b"\x00"
        for _ in range(8 - most):
            ident = open_now.pop(0)
            assert ident is not None
            peer.send(answer(PUBACK, ident))
            open_now.append((await peer.publication()).packet_id)
            await peer.quiet()


@pytest.mark.mqtt5("3.3.2-5", "3.3.2-6")
async def test_a_downlink_says_how_long_it_is_good_for(bench: Bench) -> None:
    bench.letters.post("late", expires=START_MS + 5_000)
    bench.letters.post("good", expires=START_MS + 100_000)
    bench.clock.advance(10_000)
    async with subscribed(bench, V5) as peer:
        sent = await peer.publication()
        assert [int.from_bytes(raw, "big") for raw in sent.props[EXPIRY]] == [90]
        await peer.quiet()
    assert bench.letters.begun == ["good"]


@pytest.mark.mqtt5("3.1.2-24", "3.1.2-25")
async def test_a_downlink_larger_than_the_client_takes_is_not_sent(bench: Bench) -> None:
    limit = 120
    async with subscribed(bench, V5, props=bytes([MAXIMUM_PACKET]) + number(limit, 4)) as peer:
        bench.letters.post("large", payload=bytes(500))
        bench.letters.post("small", payload=b"s")
        assert (await peer.publication()).payload == b"s"
        await bench.letters.wait_for(failed=1)
        await peer.quiet()
    assert bench.letters.failed == ["large"]


@pytest.mark.mqtt5("3.1.2-26", "3.1.2-27", "3.3.2-11")
async def test_no_topic_alias_is_used_whatever_the_client_offers(bench: Bench) -> None:
    for props in (b"", bytes([TOPIC_ALIAS_MAXIMUM]) + number(10)):
        async with subscribed(bench, V5, props=props) as peer:
            for index in range(3):
                bench.letters.post(f"{len(props)}-{index}")
                sent = await peer.publication()
                assert 0x23 not in sent.props
                assert sent.topic == f"{DOWN}/set"
                assert sent.packet_id is not None
                peer.send(answer(PUBACK, sent.packet_id))
            await bench.letters.wait_for(done=3 if not props else 6)


@both
@pytest.mark.mqtt5("3.3.4-2", "3.8.4-8")
@pytest.mark.mqtt311("3.3.5-1", "3.8.4-6")
async def test_of_several_matching_subscriptions_the_highest_qos_counts(bench: Bench, version: int) -> None:
    async with bench.online(version) as peer:
        assert await peer.sub((f"{DOWN}/set", 0), (f"{DOWN}/+", 1), (f"{DOWN}/#", 0)) == b"\x00\x01\x00"
        bench.letters.post("a")
        assert (await peer.publication()).qos == 1
        await peer.quiet()


@both
@pytest.mark.mqtt5("3.8.4-8", "3.8.4-3")
@pytest.mark.mqtt311("3.8.4-6", "3.8.4-3")
async def test_a_subscription_with_qos_0_is_served_with_qos_0(bench: Bench, version: int) -> None:
    async with bench.online(version) as peer:
        assert await peer.sub((f"{DOWN}/set", 1)) == b"\x01"
        assert await peer.sub((f"{DOWN}/set", 0)) == b"\x00"
        bench.letters.post("a")
        sent = await peer.publication()
        assert (sent.qos, sent.dup, sent.packet_id) == (0, False, None)
        assert bench.letters.done == []


@both
@pytest.mark.mqtt5("3.3.2-3", "4.7.3-4")
@pytest.mark.mqtt311("3.3.2-3", "4.7.3-4")
async def test_only_what_was_subscribed_is_sent(bench: Bench, version: int) -> None:
    async with bench.online(version) as peer:
        await peer.sub((f"{DOWN}/Set", 1), (f"{DOWN}/other", 1), (ACK, 0))
        bench.letters.post("a", message="set")
        bench.letters.post("b", message="other")
        assert (await peer.publication()).topic == f"{DOWN}/other"
        await peer.quiet()
    assert bench.letters.begun == ["b"]


@both
@pytest.mark.mqtt5("3.10.4-2", "3.10.4-3")
@pytest.mark.mqtt311("3.10.4-2", "3.10.4-3")
async def test_after_unsubscribe_only_what_was_begun_is_completed(bench: Bench, version: int) -> None:
    async with subscribed(bench, version) as peer:
        bench.letters.post("begun")
        sent = await peer.publication()
        peer.send(unsubscribe(version, 4, f"{DOWN}/+"))
        assert (await peer.receive())[:3] == b"\xb0" + number(4)
        bench.letters.post("later")
        await peer.quiet()
        assert sent.packet_id is not None
        peer.send(answer(PUBACK, sent.packet_id))
        await bench.letters.wait_for(done=1)
        await peer.quiet()
    assert bench.letters.begun == ["begun"]


@both
@pytest.mark.mqtt5("3.8.4-4")
async def test_subscribing_anew_loses_nothing_and_repeats_nothing(bench: Bench, version: int) -> None:
    async with subscribed(bench, version) as peer:
        bench.letters.post("a", payload=b"a")
        first = await peer.publication()
        assert await peer.sub((f"{DOWN}/+", 1)) == b"\x01"
        bench.letters.post("b", payload=b"b")
        second = await peer.publication()
        assert [first.payload, second.payload] == [b"a", b"b"]
        await peer.quiet()


@both
async def test_a_puback_for_nothing_is_not_an_error(bench: Bench, version: int) -> None:
    async with subscribed(bench, version) as peer:
        peer.send(answer(PUBACK, 4711))
        await peer.quiet()


@both
@pytest.mark.mqtt5("4.3.1-1", "3.3.1-2", "3.3.1-3", "3.3.1-12")
@pytest.mark.mqtt311("4.3.1-1", "3.3.1-2", "3.3.1-3", "3.3.1-9")
async def test_flags_of_what_came_in_do_not_show_on_what_goes_out(bench: Bench, version: int) -> None:
    bench.sink.judge = lambda frame: Verdict(kind=STORED.kind, receipt=Receipt(boot=1, seq=1))
    async with bench.online(version) as peer:
        await peer.sub((ACK, 0))
        peer.send(publish(version, UP, qos=1, dup=True), PINGREQ)
        said = {one[0] for one in [await peer.receive(), await peer.receive(), await peer.receive()]}
        assert said == {0x30, 0x40, PINGRESP[0]}


@both
@pytest.mark.mqtt5("3.1.2-4", "3.1.4-4", "3.2.2-2")
@pytest.mark.mqtt311("3.1.2-6", "3.1.4-3", "3.2.2-1")
async def test_a_clean_start_forgets_what_was_under_way(bench: Bench, version: int) -> None:
    async with subscribed(bench, version, **lasting(version)) as peer:
        bench.letters.post("a")
        await peer.publication()
        peer.send(disconnect(version))
        assert await peer.receive() == b""
    async with bench.peer(version) as peer:
        present, _ = await accepted(peer, clean=True)
        assert not present
        await peer.quiet()  # no subscription is left, so nothing comes
        await peer.sub((f"{DOWN}/+", 1))
        # Still in the box, and new to this session.
        assert not (await peer.publication()).dup
