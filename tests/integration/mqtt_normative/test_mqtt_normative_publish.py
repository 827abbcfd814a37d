"""Sections 3.3 to 3.7, 4.3 and 4.5 of both specifications: what devices publish, and how it is acknowledged."""

from __future__ import annotations

import pytest
from integration.mqtt_normative.doors import STORED, UP, Bench, accepted, serving
from integration.mqtt_normative.wire import (
    PINGREQ,
    PINGRESP,
    V3,
    V5,
    answer,
    case,
    number,
    packet,
    publish,
    read_properties,
    text,
)

from citysense_gateway.frame import Kind, Reason, Verdict

both = pytest.mark.parametrize("version", [V3, V5])
PUBACK, PUBREC, PUBREL, PUBCOMP = 0x40, 0x50, 0x62, 0x70
ACKNOWLEDGE_CODES = {0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99}
RESPONSE_TOPIC, CONTENT_TYPE, SUBSCRIPTION_ID, TOPIC_ALIAS, RECEIVE_MAXIMUM = 0x08, 0x03, 0x0B, 0x23, 0x21
FOREIGN = "cs/v1/gauge-2/up/report"


@both
@pytest.mark.mqtt5("3.3.4-1", "4.3.2-4")
@pytest.mark.mqtt311("3.3.4-1", "4.3.2-2")
async def test_each_qos_has_its_answer_and_only_after_the_commit(bench: Bench, version: int) -> None:
    bench.sink.gate.clear()
    async with bench.online(version) as peer:
        peer.send(publish(version, UP, b"0", qos=0))
        peer.send(publish(version, UP, b"1", qos=1, packet_id=1), publish(version, UP, b"2", qos=2, packet_id=2))
        await peer.quiet()
        assert bench.sink.payloads == [b"0", b"1", b"2"]
        bench.sink.open()
        assert [await peer.receive(), await peer.receive()] == [b"\x40" + number(1), b"\x50" + number(2)]
        await peer.quiet()


@both
@pytest.mark.mqtt5("3.3.1-2", "3.3.1-4", "4.13.1-1")
@pytest.mark.mqtt311("3.3.1-2", "3.3.1-4", "4.8.0-1")
async def test_a_qos_that_does_not_exist_is_malformed(bench: Bench, version: int) -> None:
    for first in [54, 62, 56]:
        with case(first):
            async with bench.online(version) as peer:
                peer.send(bytes([first]) + publish(version, UP)[1:])
                assert await peer.ended() == (None if version == V3 else 0x81)
            assert bench.sink.frames == []


@both
@pytest.mark.mqtt5("3.3.2-2", "4.7.0-1")
@pytest.mark.mqtt311("3.3.2-2", "4.7.1-1")
async def test_a_topic_name_with_a_wildcard_ends_the_connection(bench: Bench, version: int) -> None:
    for topic in ["cs/v1/gauge-1/up/+", "cs/v1/gauge-1/up/#", "#", "+", "cs/v1/+/up/report"]:
        with case(topic):
            async with bench.online(version) as peer:
                peer.send(publish(version, topic))
                assert await peer.ended() in ((None,) if version == V3 else (0x81, 0x82, 0x90))
            assert bench.sink.frames == []


@both
@pytest.mark.mqtt5("4.7.3-1")
@pytest.mark.mqtt311("4.7.3-1")
async def test_an_empty_topic_name_ends_the_connection(bench: Bench, version: int) -> None:
    async with bench.online(version) as peer:
        peer.send(publish(version, ""))
        assert await peer.ended() in ((None,) if version == V3 else (0x81, 0x82, 0x90))


@both
@pytest.mark.mqtt5("3.3.1-8", "4.7.3-4")
@pytest.mark.mqtt311("3.3.1-12", "4.7.3-4")
async def test_topics_are_compared_as_they_are(bench: Bench, version: int) -> None:
    others = [UP.upper(), "/" + UP, UP + "/", UP.replace("/", "//"), UP + " "]
    async with bench.online(version) as peer:
        for ident, topic in enumerate(others, 1):
            peer.send(publish(version, topic, packet_id=ident))
            assert (await peer.receive())[:3] == b"\x40" + number(ident)
    assert bench.sink.frames == []
    assert [frame.channel for frame, _ in bench.sink.refused] == others


@pytest.mark.mqtt5("3.2.2-14", "4.13.1-1")
async def test_a_message_to_be_retained_ends_the_connection(bench: Bench) -> None:
    for qos in [0, 1, 2]:
        with case(qos):
            async with bench.online(V5) as peer:
                peer.send(publish(V5, UP, qos=qos, retain=True))
                assert await peer.ended() == 0x9A


@pytest.mark.mqtt311("3.3.1-5", "3.3.1-6", "3.3.1-7", "3.3.1-10", "3.3.1-11")
async def test_of_a_message_to_be_retained_3_1_1_gets_everything_but_that(bench: Bench) -> None:
    async with bench.online(V3) as peer:
        peer.send(publish(V3, UP, b"kept", retain=True), publish(V3, UP, b"", retain=True, packet_id=2))
        assert [await peer.receive(), await peer.receive()] == [b"\x40" + number(1), b"\x40" + number(2)]
    async with bench.online(V3) as peer:
        await peer.sub(("cs/v1/gauge-1/down/#", 1), ("cs/v1/gauge-1/up/#", 1))
        await peer.quiet()
    assert bench.sink.payloads == [b"kept", b""]


@pytest.mark.mqtt5("3.2.2-17", "3.2.2-18", "3.3.2-8", "3.3.2-9", "4.13.1-1")
async def test_a_topic_alias_was_not_offered(bench: Bench) -> None:
    for alias in [0, 1, 10]:
        for topic in [UP, ""]:
            with case(alias, topic):
                async with bench.peer(V5) as peer:
                    _, props = await accepted(peer)
                    assert props.get(0x22, [number(0)]) == [number(0)]
                    peer.send(publish(V5, topic, props=bytes([TOPIC_ALIAS]) + number(alias)))
                    assert await peer.ended() in (0x94, 0x82, 0x81)


@pytest.mark.mqtt5("3.3.2-13", "3.3.2-14", "3.3.2-19", "3.3.4-6", "4.13.1-1")
async def test_properties_of_publish_that_a_client_may_not_send(bench: Bench) -> None:
    for props in [
        bytes([RESPONSE_TOPIC]) + text(b"a\xc3"),
        bytes([CONTENT_TYPE]) + text(b"a\xc3"),
        bytes([RESPONSE_TOPIC]) + text("cs/v1/+/up"),
        bytes([RESPONSE_TOPIC]) + text("cs/#"),
        bytes([SUBSCRIPTION_ID, 1]),
    ]:
        with case(props):
            async with bench.online(V5) as peer:
                peer.send(publish(V5, UP, props=props))
                assert await peer.ended() in (0x81, 0x82, 0x90)
            assert bench.sink.frames == []


@pytest.mark.mqtt5("4.3.3-13")
async def test_what_a_publication_may_carry_does_not_change_its_answer(bench: Bench) -> None:
    carried = b"\x01\x01" + b"\x02" + number(0, 4) + b"\x03" + text("application/json") + b"\x08" + text("a/b")
    carried += b"\x09" + text(b"\x00\xff") + b"\x26" + text("n") + text("v") + b"\x26" + text("n") + text("w")
    async with bench.online(V5) as peer:
        peer.send(publish(V5, UP, b"1", props=carried), publish(V5, UP, b"2", qos=2, packet_id=2, props=carried))
        assert [await peer.receive(), await peer.receive()] == [b"\x40" + number(1), b"\x50" + number(2)]
        peer.send(answer(PUBREL, 2))
        assert await peer.receive() == b"\x70" + number(2)
    assert bench.sink.payloads == [b"1", b"2"]


@pytest.mark.mqtt5("3.3.4-7", "4.6.0-2")
@pytest.mark.mqtt311("4.6.0-2")
@both
async def test_more_than_was_offered_is_answered_in_order_all_the_same(version: int) -> None:
    async with serving(receive_maximum=4) as bench:
        bench.sink.gate.clear()
        async with bench.peer(version) as peer:
            _, props = await accepted(peer)
            if version == V5:
                assert props[RECEIVE_MAXIMUM] == [number(4)]
            peer.send(*(publish(version, UP, packet_id=ident) for ident in range(1, 41)))
            await bench.sink.wait_for(4)
            bench.sink.open()
            assert [await peer.receive() for _ in range(40)] == [b"\x40" + number(i) for i in range(1, 41)]


@both
@pytest.mark.mqtt311("3.3.5-2")
async def test_an_unauthorised_publication_is_told_where_that_can_be_said(bench: Bench, version: int) -> None:
    for qos in [1, 2]:
        with case(qos):
            async with bench.online(version) as peer:
                peer.send(publish(version, FOREIGN, qos=qos, packet_id=7))
                head = bytes([PUBACK if qos == 1 else PUBREC]) + number(7)
                said = await peer.receive()
                assert said == head if version == V3 else said.startswith(head + b"\x87")
                await peer.quiet()
            assert bench.sink.frames == []


REJECTED = [Verdict(kind=Kind.REJECTED, reason=reason, detail="why") for reason in Reason]
VERDICTS = [STORED, Verdict(kind=Kind.DUPLICATE), Verdict(kind=Kind.UNAVAILABLE), *REJECTED]


@pytest.mark.parametrize("verdict", VERDICTS, ids=[verdict.reason or verdict.kind for verdict in VERDICTS])
@pytest.mark.mqtt5("3.4.2-1", "3.5.2-1", "3.7.2-1", "3.4.2-2", "3.4.2-3", "3.5.2-2", "3.5.2-3", "3.7.2-2", "3.7.2-3")
async def test_acknowledgements_use_the_codes_that_they_may(bench: Bench, verdict: Verdict) -> None:
    bench.sink.judge = lambda frame: verdict
    for props in (b"", b"\x27" + number(4096, 4)):
        async with bench.online(V5, props=props) as peer:
            peer.send(publish(V5, UP), publish(V5, UP, qos=2, packet_id=2), answer(PUBREL, 9))
            said = [await peer.receive() for _ in range(3)]
            assert sorted(one[0] for one in said) == [PUBACK, PUBREC, PUBCOMP]
            for one in said:
                code = one[3] if len(one) > 3 else 0
                assert code in ({0x00, 0x92} if one[0] == PUBCOMP else ACKNOWLEDGE_CODES)
                if len(one) > 4:
                    assert set(read_properties(one, 4)[0]) <= {0x1F, 0x26}
    # A reason string that would not fit stays away; the answer comes all the same.
    wordy = Verdict(kind=verdict.kind, reason=verdict.reason, detail="d" * 180)
    bench.sink.judge = lambda frame: wordy
    limit = 60
    async with bench.online(V5, props=b"\x27" + number(limit, 4)) as peer:
        peer.send(publish(V5, UP), publish(V5, UP, qos=2, packet_id=2), answer(PUBREL, 9))
        said = [await peer.receive() for _ in range(3)]
        assert {one[:3] for one in said} == {b"\x40" + number(1), b"\x50" + number(2), b"\x70" + number(9)}
        assert all(len(one) + 1 <= limit for one in said)


@both
@pytest.mark.mqtt5("4.3.2-5")
@pytest.mark.mqtt311("4.3.2-2")
async def test_after_puback_the_identifier_names_a_new_message(bench: Bench, version: int) -> None:
    async with bench.online(version) as peer:
        for index, dup in enumerate((False, False, True)):
            peer.send(publish(version, UP, b"%d" % index, dup=dup))
            assert await peer.receive() == b"\x40" + number(1)
    assert bench.sink.payloads == [b"0", b"1", b"2"]


@both
@pytest.mark.mqtt5("4.3.3-8", "4.3.3-10", "4.3.3-11", "4.3.3-12")
@pytest.mark.mqtt311("4.3.3-2")
async def test_qos_2_is_taken_exactly_once_until_it_is_released(bench: Bench, version: int) -> None:
    async with bench.online(version) as peer:
        for dup in (False, True, True):
            peer.send(publish(version, UP, b"once", qos=2, dup=dup))
            assert await peer.receive() == b"\x50" + number(1)
        for _ in range(2):
            peer.send(answer(PUBREL, 1))
            done = await peer.receive()
            assert done[:3] == b"\x70" + number(1)
        peer.send(publish(version, UP, b"new", qos=2))
        assert await peer.receive() == b"\x50" + number(1)
    assert bench.sink.payloads == [b"once", b"new"]


@pytest.mark.mqtt5("3.7.2-1")
async def test_releasing_what_was_never_sent_says_so(bench: Bench) -> None:
    async with bench.online(V5) as peer:
        peer.send(answer(PUBREL, 44))
        assert await peer.receive() == b"\x70" + number(44) + b"\x92"


@pytest.mark.mqtt5("4.3.3-9")
async def test_after_a_failing_pubrec_the_identifier_names_a_new_message(bench: Bench) -> None:
    bench.sink.judge = lambda frame: Verdict(kind=Kind.UNAVAILABLE)
    async with bench.online(V5) as peer:
        peer.send(publish(V5, UP, b"a", qos=2))
        assert (await peer.receive())[:4] == b"\x50" + number(1) + b"\x97"
        bench.sink.judge = lambda frame: STORED
        peer.send(publish(V5, UP, b"b", qos=2))
        assert await peer.receive() == b"\x50" + number(1)
        peer.send(answer(PUBREL, 1))
        assert await peer.receive() == b"\x70" + number(1)
    assert bench.sink.payloads == [b"a", b"b"]


@both
@pytest.mark.mqtt5("4.3.3-10", "4.4.0-1")
@pytest.mark.mqtt311("4.3.3-2", "4.4.0-1")
async def test_qos_2_stays_exactly_once_over_a_new_connection(bench: Bench, version: int) -> None:
    lasting = {"clean": False, "props": b"\x11" + number(3600, 4) if version == V5 else b""}
    async with bench.online(version, **lasting) as peer:
        peer.send(publish(version, UP, b"once", qos=2))
        assert await peer.receive() == b"\x50" + number(1)
        peer.cut()
    await bench.until_gone()
    async with bench.peer(version) as peer:
        present, _ = await accepted(peer, **lasting)
        assert present
        peer.send(publish(version, UP, b"once", qos=2, dup=True))
        assert await peer.receive() == b"\x50" + number(1)
        peer.send(answer(PUBREL, 1))
        assert await peer.receive() == b"\x70" + number(1)
    assert bench.sink.payloads == [b"once"]


@both
@pytest.mark.mqtt5("4.6.0-3")
@pytest.mark.mqtt311("4.6.0-3")
async def test_acknowledgements_keep_the_order_of_what_they_acknowledge(bench: Bench, version: int) -> None:
    bench.sink.gate.clear()
    async with bench.online(version) as peer:
        kinds = [1, 2, 2, 1, 2, 1, 1, 2]
        peer.send(*(publish(version, UP, qos=qos, packet_id=ident) for ident, qos in enumerate(kinds, 1)))
        await bench.sink.wait_for(len(kinds))
        bench.sink.open()
        said = [await peer.receive() for _ in kinds]
        wanted = [bytes([PUBACK if qos == 1 else PUBREC]) + number(ident) for ident, qos in enumerate(kinds, 1)]
        assert [one for one in said if one[0] == PUBACK] == [one for one in wanted if one[0] == PUBACK]
        assert [one for one in said if one[0] == PUBREC] == [one for one in wanted if one[0] == PUBREC]


@pytest.mark.mqtt311("4.8.0-2")
async def test_what_3_1_1_cannot_be_told_ends_the_connection(bench: Bench) -> None:
    bench.sink.judge = lambda frame: Verdict(kind=Kind.UNAVAILABLE)
    async with bench.online(V3) as peer:
        peer.send(publish(V3, UP))
        assert await peer.ended() is None


@both
@pytest.mark.mqtt5("3.2.2-15", "4.13.1-1")
async def test_a_packet_above_the_limit_ends_the_connection(version: int) -> None:
    async with serving(max_packet=1_000) as bench, bench.peer(version) as peer:
        _, props = await accepted(peer)
        if version == V5:
            assert props[0x27] == [number(1_000, 4)]
        fits = 1_000 - len(publish(version, UP, b"")) - 1
        peer.send(publish(version, UP, bytes(fits)))
        assert await peer.receive() == b"\x40" + number(1)
        peer.send(publish(version, UP, bytes(fits + 1), packet_id=2))
        assert await peer.ended() == (None if version == V3 else 0x95)
        assert [len(payload) for payload in bench.sink.payloads] == [fits]


@both
async def test_a_packet_that_only_a_server_sends_ends_the_connection(bench: Bench, version: int) -> None:
    for first in [144, 176, 208, 32, 0, 80, 112]:
        with case(first):
            async with bench.online(version) as peer:
                peer.send(packet(first, number(1)), PINGREQ)
                code = await peer.ended()
                assert code in ((None,) if version == V3 else (0x81, 0x82))


@both
async def test_a_publication_in_single_bytes_is_the_same_publication(bench: Bench, version: int) -> None:
    async with bench.online(version) as peer:
        for byte in publish(version, UP, b"slow") + PINGREQ:
            peer.send(bytes([byte]))
        assert {await peer.receive(), await peer.receive()} == {b"\x40" + number(1), PINGRESP}
    assert bench.sink.payloads == [b"slow"]
