"""What the MQTT door decides on one connection, without a socket: rights, answers, their order, limits and endings."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from citysense_gateway.frame import Frame, Identity, Kind, Reason, Receipt, Verdict
from citysense_gateway.gaps import Gaps
from citysense_gateway.mail import Mail
from citysense_gateway.mqtt.actions import Action, Close, CloseReason, Delivery, Signal, publish_code
from citysense_gateway.mqtt.budget import Budget
from citysense_gateway.mqtt.conversation import Conversation
from citysense_gateway.mqtt.credentials import Certificate
from citysense_gateway.mqtt.fields import Fault, ProtocolViolation
from citysense_gateway.mqtt.limits import MqttCounters, MqttSettings
from citysense_gateway.mqtt.packets import (
    Connect,
    Disconnect,
    Pingreq,
    Publish,
    Subscribe,
    Unsubscribe,
    Version,
    Will,
)
from citysense_gateway.mqtt.properties import Properties, Property
from citysense_gateway.mqtt.sessions import Sessions
from citysense_gateway.mqtt.surroundings import Surroundings

STORED = Verdict(kind=Kind.STORED)
PASSWORDS = {"gauge-1": b"right", "gauge-2": b"other"}
V3, V5 = Version.V3_1_1, Version.V5
both_versions = pytest.mark.parametrize("version", list(Version))


def check_password(device: str, secret: bytes) -> bool:
    return PASSWORDS.get(device) == secret


def vendor_rights(device: str, topic: str) -> str | None:
    return "report" if topic == f"wl/{device}/up" else None


def speaks_for(concentrator: str, child: str) -> bool:
    return (concentrator, child) == ("gauge-1", "pole-9")


class Silent:
    """A connection that does nothing of what its session asks."""

    def finish(self, reason: CloseReason) -> None: ...

    def next_mail(self, waiting: Sequence[Mail]) -> Mail | None:
        return None

    def repeat_receipt(self, device: str, receipt: Receipt) -> None:
        raise AssertionError("no gap is played here")

    def send_mail(self, mail: Mail) -> bool:
        return False


def surroundings(
    settings: MqttSettings | None = None,
    counters: MqttCounters | None = None,
    *,
    admit: Callable[[bool], int | None] = lambda _told: None,
) -> Surroundings:
    settings = settings or MqttSettings()
    return Surroundings(
        gaps=Gaps(),
        budget=Budget(settings.max_held_bytes),
        check_password=check_password,
        check_certificate=lambda device, der: (device, der) == ("gauge-1", b"its own"),
        topic_rights=vendor_rights,
        speaks_for=speaks_for,
        admit=admit,
        new_client_id=lambda: "assigned-1",
        sessions=Sessions(settings=settings),
        settings=settings,
        counters=counters or MqttCounters(),
    )


def new_session(settings: MqttSettings | None = None, counters: MqttCounters | None = None) -> Conversation:
    return conversation(surroundings(settings, counters))


def conversation(around: Surroundings, certificate: Certificate | None = None) -> Conversation:
    return Conversation(around, source="192.0.2.7:4711", holder=Silent(), certificate=certificate)


def connect(
    version: Version,
    *,
    username: str | None = "gauge-1",
    password: bytes | None = b"right",
    client_id: str = "c1",
    clean_start: bool = True,
    keep_alive: int = 60,
    will: Will | None = None,
    properties: Properties | None = None,
) -> Connect:
    return Connect(
        version=version,
        client_id=client_id,
        clean_start=clean_start,
        keep_alive=keep_alive,
        username=username,
        password=password,
        will=will,
        properties=properties or {},
    )


def opened(version: Version, settings: MqttSettings | None = None, **values: int) -> Conversation:
    session = new_session(settings)
    actions = session.receive(connect(version, keep_alive=values.get("keep_alive", 60)), 0)
    assert actions[:2] == (Signal.PROVEN, Signal.OPENED)
    assert session.session is not None
    assert (session.session.device, session.session.client_id) == ("gauge-1", "c1")
    return session


def publish(
    topic: str = "cs/v1/gauge-1/up/report", packet_id: int | None = 1, *, qos: int = 1, dup: bool = False
) -> Publish:
    return Publish(topic=topic, payload=b"{}", qos=qos, dup=dup, retain=False, packet_id=packet_id)


def delivery_of(actions: tuple[Action, ...]) -> Delivery:
    [delivery] = actions
    assert isinstance(delivery, Delivery)
    return delivery


def frame_in(delivery: Action) -> Frame:
    assert isinstance(delivery, Delivery)
    assert delivery.frame is not None
    return delivery.frame


# CONNECT


def test_connack_announces_what_is_served() -> None:
    session = new_session()
    actions = session.receive(connect(V5, client_id="", properties={Property.SESSION_EXPIRY: 60}), 0)
    assert actions[:2] == (Signal.PROVEN, Signal.OPENED)
    connack = actions[2]
    assert isinstance(connack, bytes)
    assert connack[:4] == bytes([0x20, len(connack) - 2, 0, 0])
    properties = connack[5:]
    # QoS 2 is the default of a maximum that is left out, and expiry and keep-alive are as asked for.
    assert properties == bytes.fromhex("21 0100 25 00 27 00040000 29 00 2a 00 12 000a") + b"assigned-1"


def test_a_3_1_1_client_without_a_name_needs_a_clean_session() -> None:
    assert new_session().receive(connect(V3, client_id=""), 0)[2] == b"\x20\x02\x00\x00"
    refused = new_session().receive(connect(V3, client_id="", clean_start=False), 0)
    assert refused == (Signal.PROVEN, b"\x20\x02\x00\x02", Close(CloseReason.CONNECT_REFUSED))


@pytest.mark.parametrize(("version", "code"), [(V3, "20 02 00 05"), (V5, "20 03 00 87 00")])
@pytest.mark.parametrize(
    ("username", "password", "device", "reason"),
    [
        ("gauge-1", b"wrong", "gauge-1", Reason.BAD_CREDENTIAL),
        ("gauge-1", None, "gauge-1", Reason.BAD_CREDENTIAL),
        ("nobody", b"right", "nobody", Reason.BAD_CREDENTIAL),
        ("gauge+1", b"right", None, Reason.UNKNOWN_DEVICE),
        ("gauge-1\n", b"right", None, Reason.UNKNOWN_DEVICE),
        ("", b"right", None, Reason.UNKNOWN_DEVICE),
        (None, None, None, Reason.UNKNOWN_DEVICE),
    ],
)
def test_a_bad_credential_goes_to_the_dead_letters_without_its_password(
    version: Version, code: str, username: str | None, password: bytes | None, device: str | None, reason: Reason
) -> None:
    session = new_session()
    delivery = delivery_of(session.receive(connect(version, username=username, password=password), 99))
    assert (frame_in(delivery).device, delivery.reason) == (device, reason)
    assert (frame_in(delivery).payload, frame_in(delivery).identity) == (b"", Identity.ASSERTED)
    assert frame_in(delivery).received_at == 99
    assert not session.wants_packets
    assert session.receive(publish(), 0) == ()
    answer = session.settle(delivery, Verdict(kind=Kind.REJECTED, reason=reason))
    assert answer == (bytes.fromhex(code), Close(CloseReason.CONNECT_REFUSED))


@pytest.mark.parametrize(("version", "code"), [(V3, "20 02 00 05"), (V5, "20 03 00 87 00")])
def test_a_will_on_a_foreign_topic_is_refused_and_one_on_an_own_topic_is_not(version: Version, code: str) -> None:
    foreign = Will(topic="cs/v1/gauge-2/up/report", payload=b"gone", qos=0, retain=False)
    session = new_session()
    proven, delivery = session.receive(connect(version, will=foreign), 0)
    assert proven is Signal.PROVEN and isinstance(delivery, Delivery) and delivery.frame is not None
    assert (delivery.reason, frame_in(delivery).channel) == (Reason.FOREIGN_TOPIC, foreign.topic)
    assert session.settle(delivery, STORED)[0] == bytes.fromhex(code)

    own = Will(topic="cs/v1/gauge-1/up/report", payload=b"gone", qos=0, retain=False)
    assert new_session().receive(connect(version, will=own), 0)[1] is Signal.OPENED


@pytest.mark.parametrize(
    ("code", "will", "properties", "client_id"),
    [
        (0x9A, Will(topic="cs/v1/gauge-1/up/r", payload=b"", qos=0, retain=True), {}, "c"),  # MQTT-3.2.2-13
        (0x8C, None, {Property.AUTHENTICATION_METHOD: "SCRAM"}, "c"),
        (0x85, None, {}, "c" * 129),
    ],
)
def test_mqtt_5_hears_why_its_connect_is_not_served(
    code: int, will: Will | None, properties: Properties, client_id: str
) -> None:
    actions = new_session().receive(connect(V5, will=will, properties=properties, client_id=client_id), 0)
    assert actions == (Signal.PROVEN, bytes([0x20, 3, 0, code, 0]), Close(CloseReason.CONNECT_REFUSED))


# PUBLISH


@pytest.mark.parametrize(
    ("verdict", "v3", "v5"),
    [
        (STORED, 0, 0),
        (Verdict(kind=Kind.DUPLICATE), 0, 0),
        (Verdict(kind=Kind.REJECTED, reason=Reason.FOREIGN_TOPIC), 0, 0x87),
        (Verdict(kind=Kind.REJECTED, reason=Reason.IDENTITY_MISMATCH), 0, 0x87),
        (Verdict(kind=Kind.REJECTED, reason=Reason.UNDECODABLE), 0, 0x99),
        (Verdict(kind=Kind.REJECTED, reason=Reason.NO_MATCH), 0, 0x99),
        (Verdict(kind=Kind.REJECTED, reason=Reason.NO_SUCH_MESSAGE), 0, 0x99),
        (Verdict(kind=Kind.UNAVAILABLE), None, 0x97),
    ],
)
def test_verdicts_become_answers(verdict: Verdict, v3: int | None, v5: int) -> None:
    assert publish_code(V3, verdict) == v3
    assert publish_code(V5, verdict) == v5


def test_every_reason_has_an_answer() -> None:
    for reason in Reason:
        assert publish_code(V5, Verdict(kind=Kind.REJECTED, reason=reason)) in (0x83, 0x87, 0x99)


def test_a_frame_says_who_where_and_which_message() -> None:
    session = opened(V5)
    frame = frame_in(delivery_of(session.receive(publish(packet_id=7), 1_234)))
    assert (frame.device, frame.channel, frame.message) == ("gauge-1", "cs/v1/gauge-1/up/report", "report")
    assert (frame.identity, frame.source, frame.received_at) == (Identity.CREDENTIAL, "192.0.2.7:4711", 1_234)
    assert frame.delivery == b"\x00gauge-1/c1/7"
    again = frame_in(delivery_of(session.receive(publish(packet_id=7, dup=True), 1_235)))
    assert again.delivery == b"\x01gauge-1/c1/7"
    unnumbered = frame_in(delivery_of(session.receive(publish(packet_id=None, qos=0), 1_236)))
    assert unnumbered.delivery is None


@both_versions
def test_a_foreign_topic_is_kept_for_the_dead_letters(version: Version) -> None:
    session = opened(version)
    delivery = delivery_of(session.receive(publish("cs/v1/gauge-2/up/report", 9), 0))
    assert (delivery.reason, frame_in(delivery).device) == (Reason.FOREIGN_TOPIC, "gauge-1")
    assert (frame_in(delivery).message, frame_in(delivery).channel) == (None, "cs/v1/gauge-2/up/report")
    answer = session.settle(delivery, Verdict(kind=Kind.REJECTED, reason=Reason.FOREIGN_TOPIC))
    assert answer == (b"\x40\x03\x00\x09\x87" if version is V5 else b"\x40\x02\x00\x09",)


def test_a_long_foreign_topic_is_cut_for_the_dead_letters() -> None:
    delivery = delivery_of(opened(V5).receive(publish("x" * 65_000), 0))
    assert frame_in(delivery).channel == "x" * 256


@given(st.permutations(range(6)))
def test_pubacks_keep_the_order_of_the_publishes(order: list[int]) -> None:
    session = opened(V3)
    deliveries = [delivery_of(session.receive(publish(packet_id=n + 1), 0)) for n in range(6)]
    answered: list[Action] = []
    for at, number in enumerate(order):
        answered += session.settle(deliveries[number], STORED)
        settled = set(order[: at + 1])
        due = next((n for n in range(6) if n not in settled), 6)
        assert answered == [bytes([0x40, 2, 0, n + 1]) for n in range(due)]
    assert session.idle


def test_a_rejection_is_explained_unless_the_client_minds() -> None:
    verdict = Verdict(kind=Kind.REJECTED, reason=Reason.UNDECODABLE, detail="v.water.level: no number")
    quiet: list[Properties] = [{Property.REQUEST_PROBLEM_INFORMATION: 0}, {Property.MAXIMUM_PACKET_SIZE: 20}]
    for properties, explained in [({}, True), *((one, False) for one in quiet)]:
        session = new_session()
        session.receive(connect(V5, properties=properties), 0)
        [puback] = session.settle(delivery_of(session.receive(publish(), 0)), verdict)
        assert isinstance(puback, bytes)
        assert (b"v.water.level" in puback) is explained
        assert puback[4] == 0x99


def test_storage_impossible_tells_5_and_hangs_up_on_3_1_1() -> None:
    gone = Verdict(kind=Kind.UNAVAILABLE)
    session = opened(V5)
    assert session.settle(delivery_of(session.receive(publish(), 0)), gone) == (b"\x40\x03\x00\x01\x97",)
    session = opened(V3)
    first, second = (delivery_of(session.receive(publish(packet_id=n), 0)) for n in (1, 2))
    assert session.settle(second, STORED) == ()
    assert session.settle(first, gone) == (Close(CloseReason.STORAGE_UNAVAILABLE),)
    assert session.idle


def test_the_peer_waits_while_too_much_is_under_way() -> None:
    session = opened(V5, MqttSettings(receive_maximum=2))
    first = delivery_of(session.receive(publish(packet_id=1), 0))
    assert session.wants_packets
    session.receive(publish(packet_id=None, qos=0), 0)
    assert not session.wants_packets
    session.settle(first, STORED)
    assert session.wants_packets

    session = opened(V5, MqttSettings(max_in_flight_bytes=4))
    first = delivery_of(session.receive(publish(packet_id=1), 0))
    assert session.wants_packets
    session.receive(publish(packet_id=2), 0)
    assert not session.wants_packets
    session.settle(first, STORED)
    assert session.wants_packets


# /ack


@both_versions
def test_receipts_go_to_who_asked_and_the_newest_wins(version: Version) -> None:
    session = opened(version)
    receipts = [Verdict(kind=Kind.STORED, receipt=Receipt(boot=3, seq=seq)) for seq in (40, 41)]
    session.settle(delivery_of(session.receive(publish(), 0)), receipts[0])
    assert session.take_receipts() == b""

    session.receive(Subscribe(packet_id=1, filters=(("cs/v1/gauge-1/ack", 0),)), 0)
    for verdict in receipts:
        session.settle(delivery_of(session.receive(publish(), 0)), verdict)
    sent = session.take_receipts()
    none = b"\x00" if version is V5 else b""
    assert sent == bytes([0x30, len(sent) - 2]) + b"\x00\x11cs/v1/gauge-1/ack" + none + b'{"boot":3,"seq":41}'
    assert session.take_receipts() == b""

    session.receive(Unsubscribe(packet_id=2, filters=("cs/v1/gauge-1/ack",)), 0)
    session.settle(delivery_of(session.receive(publish(), 0)), receipts[0])
    assert session.take_receipts() == b""


# SUBSCRIBE and the rest


def test_suback_answers_filter_by_filter() -> None:
    wanted = Subscribe(packet_id=5, filters=(("cs/v1/gauge-1/ack", 1), ("#", 0), ("cs/v1/gauge-1/down/#", 2)))
    assert opened(V5).receive(wanted, 0) == (bytes.fromhex("90 06 0005 00 00 87 01"), Signal.ATTEND)
    assert opened(V3).receive(wanted, 0) == (bytes.fromhex("90 05 0005 00 80 01"), Signal.ATTEND)


def test_mqtt_5_hears_why_a_filter_is_refused() -> None:
    filters = ("$share/g/cs/v1/gauge-1/down/#", "a/#/b", "cs/v1/gauge-2/ack")
    wanted = Subscribe(packet_id=5, filters=tuple((name, 0) for name in filters))
    assert opened(V5).receive(wanted, 0)[0] == bytes.fromhex("90 06 0005 00 9e 8f 87")
    assert opened(V3).receive(wanted, 0)[0] == bytes.fromhex("90 05 0005 80 80 80")


def test_unsuback_says_what_was_there() -> None:
    session = opened(V5)
    session.receive(Subscribe(packet_id=5, filters=(("cs/v1/gauge-1/ack", 0),)), 0)
    answer = session.receive(Unsubscribe(packet_id=6, filters=("cs/v1/gauge-1/ack", "never")), 0)
    assert answer == (bytes.fromhex("b0 05 0006 00 00 11"),)


def test_subscriptions_are_bounded() -> None:
    session = opened(V5, MqttSettings(max_subscriptions=1))
    names = tuple((f"cs/v1/gauge-1/down/{name}", 0) for name in ("a", "b", "a"))
    assert session.receive(Subscribe(packet_id=1, filters=names), 0)[0] == bytes.fromhex("90 06 0001 00 00 97 00")


def test_a_subscription_identifier_was_announced_as_not_available() -> None:
    wanted = Subscribe(packet_id=1, filters=(("a", 0),), properties={Property.SUBSCRIPTION_ID: 1})
    assert opened(V5).receive(wanted, 0) == (b"\xe0\x01\xa1", Close(Fault.SUBSCRIPTION_ID))


@both_versions
def test_ping_is_answered_and_disconnect_ends(version: Version) -> None:
    session = opened(version)
    assert session.receive(Pingreq(), 0) == (b"\xd0\x00",)
    assert session.receive(Disconnect(), 0) == (Close(CloseReason.CLIENT_DISCONNECT),)
    assert session.receive(Pingreq(), 0) == ()
    assert session.end(CloseReason.PEER_LOST) == ()


# Endings


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (CloseReason.TAKEN_OVER, 0x8E),
        (CloseReason.REVOKED, 0x98),
        (CloseReason.KEEP_ALIVE, 0x8D),
        (CloseReason.SHUTTING_DOWN, 0x8B),
        (Fault.TOO_LARGE, 0x95),
        (Fault.BAD_TOPIC, 0x90),
        (Fault.TRUNCATED, 0x81),
        (Fault.TOO_MANY_PROPERTIES, 0x81),
        (Fault.TOO_MANY_FILTERS, 0x97),
        (Fault.UNEXPECTED_PACKET, 0x82),
    ],
)
def test_only_mqtt_5_hears_why_it_is_cut(reason: CloseReason | Fault, code: int) -> None:
    assert opened(V5).end(reason) == (bytes([0xE0, 1, code]), Close(reason))
    assert opened(V3).end(reason) == (Close(reason),)
    assert new_session().end(reason) == (Close(reason),)


@both_versions
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault.BAD_TOPIC, Reason.FOREIGN_TOPIC),
        (Fault.BAD_UTF8, Reason.FOREIGN_TOPIC),
        (Fault.TOO_LARGE, Reason.TOO_LARGE),
    ],
)
def test_a_message_lost_with_its_connection_leaves_a_trace(version: Version, fault: Fault, reason: Reason) -> None:
    session = opened(version)
    trace, *ending = session.unreadable(ProtocolViolation(fault, "why", lost="a/+" + "x" * 300), 99)
    assert isinstance(trace, Delivery)
    assert (trace.reason, trace.detail, trace.packet_id) == (reason, "why", None)
    assert (frame_in(trace).device, frame_in(trace).identity) == ("gauge-1", Identity.CREDENTIAL)
    assert (frame_in(trace).channel, frame_in(trace).payload) == ("a/+" + "x" * 253, b"")
    assert (frame_in(trace).source, frame_in(trace).received_at) == ("192.0.2.7:4711", 99)
    assert ending[-1] == Close(fault)
    assert len(ending) == (2 if version is V5 else 1)
    # The connection counts until the trace is kept.
    assert not session.idle
    assert session.settle(trace, Verdict(kind=Kind.REJECTED, reason=reason)) == ()
    assert session.idle


def test_only_a_devices_lost_message_leaves_a_trace() -> None:
    lost = ProtocolViolation(Fault.TOO_LARGE, "why", lost="PUBLISH")
    assert new_session().unreadable(lost, 0) == (Close(Fault.TOO_LARGE),)
    assert opened(V3).unreadable(ProtocolViolation(Fault.TRUNCATED, "why"), 0) == (Close(Fault.TRUNCATED),)


def test_an_unknown_protocol_level_gets_the_3_1_1_answer() -> None:
    answer = new_session().violated(Fault.UNSUPPORTED_VERSION)
    assert answer == (b"\x20\x02\x00\x01", Close(Fault.UNSUPPORTED_VERSION))


def test_nothing_is_answered_after_the_end_and_every_verdict_is_still_taken() -> None:
    session = opened(V5)
    delivery = delivery_of(session.receive(publish(), 0))
    session.end(CloseReason.PEER_LOST)
    assert not session.idle
    assert session.settle(delivery, STORED) == ()
    assert session.idle


@pytest.mark.parametrize(
    ("now", "partial_since", "expected"),
    [
        (90.0, None, None),
        (90.5, None, CloseReason.KEEP_ALIVE),
        (59.0, 0.0, None),
        (60.0, 0.0, CloseReason.PACKET_TIMEOUT),
    ],
)
def test_deadlines_of_an_open_session(now: float, partial_since: float | None, expected: CloseReason | None) -> None:
    session = opened(V5, keep_alive=60)
    assert session.overdue(now, opened=0.0, last_packet=0.0, partial_since=partial_since) is expected


def test_keep_alive_0_never_expires_and_connect_always_does() -> None:
    assert opened(V3, keep_alive=0).overdue(1e9, opened=0.0, last_packet=0.0, partial_since=None) is None
    waiting = new_session()
    assert waiting.overdue(9.9, opened=0.0, last_packet=0.0, partial_since=None) is None
    assert waiting.overdue(10.0, opened=0.0, last_packet=9.0, partial_since=9.0) is CloseReason.CONNECT_TIMEOUT


def test_counters_tell_what_was_refused() -> None:
    counters = MqttCounters()
    session = new_session(counters=counters)
    session.receive(connect(V5), 0)
    verdict = Verdict(kind=Kind.REJECTED, reason=Reason.UNDECODABLE)
    session.settle(delivery_of(session.receive(publish(), 0)), verdict)
    session.settle(delivery_of(session.receive(publish(packet_id=2), 0)), Verdict(kind=Kind.UNAVAILABLE))
    session.receive(Subscribe(packet_id=1, filters=(("#", 0),)), 0)
    assert counters.publishes == 2
    assert counters.refused == {"undecodable": 1, "unavailable": 1}
    assert counters.denied_subscriptions == 1
