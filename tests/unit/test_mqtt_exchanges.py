"""What the MQTT door agrees on with a client, and exchanges beyond QoS 1: certificates, QoS 2, children, downlinks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from citysense_gateway.frame import Frame, Identity, Kind, Reason, Receipt, Verdict
from citysense_gateway.gaps import Gaps
from citysense_gateway.mail import Mail
from citysense_gateway.mqtt.actions import Action, Close, CloseReason, Delivery, Signal
from citysense_gateway.mqtt.budget import Budget
from citysense_gateway.mqtt.conversation import Conversation
from citysense_gateway.mqtt.credentials import Certificate, common_name
from citysense_gateway.mqtt.fields import Fault
from citysense_gateway.mqtt.limits import MqttCounters, MqttSettings
from citysense_gateway.mqtt.packets import (
    Connect,
    Disconnect,
    Puback,
    Publish,
    Pubrel,
    Subscribe,
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
    topic: str = "cs/v1/gauge-1/up/report",
    packet_id: int | None = 1,
    *,
    qos: int = 1,
    dup: bool = False,
    payload: bytes = b"{}",
) -> Publish:
    return Publish(topic=topic, payload=payload, qos=qos, dup=dup, retain=False, packet_id=packet_id)


def delivery_of(actions: tuple[Action, ...]) -> Delivery:
    [delivery] = actions
    assert isinstance(delivery, Delivery)
    return delivery


def frame_in(delivery: Action) -> Frame:
    assert isinstance(delivery, Delivery)
    assert delivery.frame is not None
    return delivery.frame


# Terms of a connection


@pytest.mark.parametrize(
    ("asked", "told", "limit"),
    [(0, 3_600, 5_400), (60, None, 90), (3_600, None, 5_400), (7_200, 3_600, 5_400)],
)
def test_mqtt_5_is_told_a_keep_alive_where_its_own_is_too_long(asked: int, told: int | None, limit: float) -> None:
    session = new_session()
    connack = session.receive(connect(V5, keep_alive=asked), 0)[2]
    assert isinstance(connack, bytes)
    assert connack.endswith(b"" if told is None else b"\x13" + told.to_bytes(2, "big"))
    assert (b"\x2a\x00\x13" in connack) is (told is not None)
    for now, expected in ((limit, None), (limit + 0.1, CloseReason.KEEP_ALIVE)):
        assert session.overdue(now, opened=0, last_packet=0, partial_since=None) is expected
    assert session.deadline(opened=0, last_packet=0, partial_since=None) == limit


@pytest.mark.parametrize(("asked", "told"), [(None, None), (60, None), (0xFFFF_FFFF, 604_800), (604_801, 604_800)])
def test_mqtt_5_is_told_how_long_its_session_is_kept(asked: int | None, told: int | None) -> None:
    session = new_session()
    properties: Properties = {} if asked is None else {Property.SESSION_EXPIRY: asked}
    connack = session.receive(connect(V5, properties=properties), 0)[2]
    assert isinstance(connack, bytes)
    assert connack[5:].endswith(b"\x2a\x00" if told is None else b"\x11" + told.to_bytes(4, "big"))
    assert session.session is not None
    assert session.session.expiry == (told or asked or 0)


def test_a_3_1_1_session_is_kept_a_week_unless_it_is_clean() -> None:
    for clean, expiry in ((True, 0), (False, 604_800)):
        session = new_session()
        session.receive(connect(V3, clean_start=clean), 0)
        assert session.session is not None
        assert session.session.expiry == expiry


def test_a_disconnect_may_shorten_the_session_and_not_begin_to_keep_it() -> None:
    session = new_session()
    session.receive(connect(V5, properties={Property.SESSION_EXPIRY: 60}), 0)
    assert session.session is not None
    assert session.receive(Disconnect(session_expiry=5), 0) == (Close(CloseReason.CLIENT_DISCONNECT),)
    assert session.session.expiry == 5
    assert opened(V5).receive(Disconnect(session_expiry=5), 0) == (b"\xe0\x01\x82", Close(Fault.BAD_PROPERTY))


def test_a_disconnect_with_a_reason_leaves_the_will() -> None:
    assert opened(V5).receive(Disconnect(reason=4), 0) == (Close(CloseReason.WITH_WILL),)


@pytest.mark.parametrize(
    ("version", "properties", "connack"),
    [
        (V3, {}, b"\x20\x02\x00\x03"),
        (V5, {Property.MAXIMUM_PACKET_SIZE: 20}, b"\x20\x03\x00\x9f\x00"),
    ],
)
def test_who_comes_too_early_is_asked_to_come_back(version: Version, properties: Properties, connack: bytes) -> None:
    counters = MqttCounters()
    around = surroundings(counters=counters, admit=lambda _told: 17)
    answer = conversation(around).receive(connect(version, properties=properties), 0)
    assert answer == (Signal.PROVEN, connack, Close(CloseReason.BUSY))
    assert counters.put_off == 1


def test_mqtt_5_hears_when_to_come_back() -> None:
    answer = conversation(surroundings(admit=lambda _told: 17)).receive(connect(V5), 0)[1]
    assert isinstance(answer, bytes)
    assert answer[2:4] == b"\x00\x9f"
    assert b"come back in 17 s" in answer
    assert answer.endswith(b"\x26\x00\x0bretry-after\x00\x0217")


def test_a_stranger_takes_nobodys_turn() -> None:
    def admit(_told: bool) -> int | None:
        raise AssertionError("asked for a stranger")

    session = conversation(surroundings(admit=admit))
    assert delivery_of(session.receive(connect(V5, password=b"wrong"), 0)).reason is Reason.BAD_CREDENTIAL


# Certificates


@pytest.mark.parametrize(
    ("username", "certificate", "reason"),
    [
        (None, Certificate(b"its own", "gauge-1"), None),
        ("", Certificate(b"its own", "gauge-1"), None),
        ("gauge-1", Certificate(b"its own", "gauge-1"), None),
        ("gauge-1", Certificate(b"another", "gauge-1"), Reason.BAD_CREDENTIAL),
        ("gauge-2", Certificate(b"its own", "gauge-1"), Reason.BAD_CREDENTIAL),
        ("gauge-1", Certificate(b"its own", "gauge-2"), Reason.BAD_CREDENTIAL),
        ("gauge-1", Certificate(b"its own", None), Reason.BAD_CREDENTIAL),
        (None, Certificate(b"its own", None), Reason.UNKNOWN_DEVICE),
        (None, Certificate(b"its own", "no/id"), Reason.UNKNOWN_DEVICE),
    ],
)
def test_a_certificate_decides_alone_who_connects(
    username: str | None, certificate: Certificate, reason: Reason | None
) -> None:
    # The password is right throughout.
    actions = conversation(surroundings(), certificate).receive(connect(V5, username=username), 0)
    if reason is None:
        assert actions[1] is Signal.OPENED
    else:
        assert delivery_of(actions).reason is reason


@pytest.mark.parametrize(("names", "expected"), [([], None), (["gauge-1"], "gauge-1"), (["gauge-1", "gauge-2"], None)])
def test_a_certificate_has_one_name(names: list[str], expected: str | None) -> None:
    subject = ((("countryName", "CN"),), *((("commonName", name),) for name in names))
    assert common_name({"subject": subject}) == expected
    assert common_name({}) is None


# QoS 2


def qos_2(packet_id: int = 7, *, dup: bool = False, payload: bytes = b"{}", message: str = "report") -> Publish:
    return publish(f"cs/v1/gauge-1/up/{message}", packet_id, qos=2, dup=dup, payload=payload)


@both_versions
def test_qos_2_is_acknowledged_after_the_verdict_and_released_by_its_sender(version: Version) -> None:
    session = opened(version)
    delivery = delivery_of(session.receive(qos_2(), 0))
    assert frame_in(delivery).delivery == b"\x00gauge-1/c1/7"
    assert session.settle(delivery, STORED) == (b"\x50\x02\x00\x07",)
    assert session.receive(qos_2(dup=True), 0) == (b"\x50\x02\x00\x07",)
    assert session.receive(qos_2(), 0) == (b"\x50\x02\x00\x07",)
    assert session.receive(Pubrel(packet_id=7), 0) == (b"\x70\x02\x00\x07",)
    unknown = b"\x70\x03\x00\x07\x92" if version is V5 else b"\x70\x02\x00\x07"
    assert session.receive(Pubrel(packet_id=7), 0) == (unknown,)
    assert delivery_of(session.receive(qos_2(), 0)) is not delivery


def test_a_repeat_of_a_qos_2_message_under_way_waits_for_its_verdict_in_its_place() -> None:
    session = opened(V5)
    first = delivery_of(session.receive(qos_2(7), 0))
    second = delivery_of(session.receive(publish(packet_id=8), 0))
    place = delivery_of(session.receive(qos_2(7, dup=True), 0))
    assert (place.frame, first.follower) == (None, place)
    assert session.settle(second, STORED) == ()
    assert session.settle(first, STORED) == (b"\x50\x02\x00\x07", b"\x40\x02\x00\x08")
    assert session.settle(place, STORED) == (b"\x50\x02\x00\x07",)
    assert session.idle


@pytest.mark.parametrize(
    ("version", "verdict", "answer", "taken"),
    [
        (V3, Verdict(kind=Kind.REJECTED, reason=Reason.UNDECODABLE), b"\x50\x02\x00\x07", True),
        (V5, Verdict(kind=Kind.REJECTED, reason=Reason.UNDECODABLE), b"\x50\x03\x00\x07\x99", False),
        (V5, Verdict(kind=Kind.UNAVAILABLE), b"\x50\x03\x00\x07\x97", False),
        (V3, Verdict(kind=Kind.UNAVAILABLE), None, False),
    ],
)
def test_a_qos_2_message_that_is_not_taken_keeps_no_packet_id(
    version: Version, verdict: Verdict, answer: bytes | None, taken: bool
) -> None:
    session = opened(version)
    delivery = delivery_of(session.receive(qos_2(), 0))
    assert session.session is not None
    actions = session.settle(delivery, verdict)
    assert actions == ((Close(CloseReason.STORAGE_UNAVAILABLE),) if answer is None else (answer,))
    assert (7 in session.session.unreleased) is taken


@both_versions
@pytest.mark.parametrize("committed", [True, False])
def test_a_client_that_lost_its_packet_ids_loses_no_reading(version: Version, committed: bool) -> None:
    """It resumes its session after a restart and counts from 1 again, under ids that it never released."""
    session = opened(version)
    before = delivery_of(session.receive(qos_2(1, payload=b"10 cm"), 0))
    if committed:
        session.settle(before, STORED)
    after = delivery_of(session.receive(qos_2(1, payload=b"90 cm"), 0))
    assert frame_in(after).payload == b"90 cm"
    if not committed:
        assert session.settle(before, STORED) == (b"\x50\x02\x00\x01",)
    assert session.settle(after, STORED) == (b"\x50\x02\x00\x01",)
    assert session.receive(qos_2(1, dup=True, payload=b"90 cm"), 0) == (b"\x50\x02\x00\x01",)
    assert session.receive(Pubrel(packet_id=1), 0) == (b"\x70\x02\x00\x01",)


def test_a_message_on_another_topic_takes_a_packet_id_over_too() -> None:
    session = opened(V5, MqttSettings(receive_maximum=1))
    session.settle(delivery_of(session.receive(qos_2(1), 0)), STORED)
    # The id is not one more: the bound on messages without their release holds no reading back.
    other = delivery_of(session.receive(qos_2(1, message="state"), 0))
    assert frame_in(other).channel == "cs/v1/gauge-1/up/state"


def test_a_release_before_its_time_does_not_block_the_packet_id() -> None:
    session = opened(V3)
    delivery = delivery_of(session.receive(qos_2(), 0))
    assert session.receive(Pubrel(packet_id=7), 0) == (b"\x70\x02\x00\x07",)
    session.settle(delivery, STORED)
    assert session.session is not None
    assert session.session.unreleased == {}


@pytest.mark.parametrize(("version", "end"), [(V3, ()), (V5, (b"\xe0\x01\x93",))])
def test_qos_2_messages_without_a_release_are_bounded(version: Version, end: tuple[bytes, ...]) -> None:
    session = opened(version, MqttSettings(receive_maximum=2, max_unreleased=2))
    for number in (1, 2):
        session.settle(delivery_of(session.receive(qos_2(number), 0)), STORED)
    # A repeat is none too many.
    assert session.receive(qos_2(2), 0) == (b"\x50\x02\x00\x02",)
    assert session.receive(qos_2(3), 0) == (*end, Close(Fault.RECEIVE_MAXIMUM))


def test_a_message_to_be_retained_ends_mqtt_5_with_a_trace_and_is_taken_from_3_1_1() -> None:
    retained = Publish(topic="cs/v1/gauge-1/up/report", payload=b"{}", qos=1, dup=False, retain=True, packet_id=1)
    trace, *ending = opened(V5).receive(retained, 0)
    assert isinstance(trace, Delivery)
    assert (frame_in(trace).channel, trace.reason) == ("cs/v1/gauge-1/up/report", Reason.FOREIGN_TOPIC)
    assert ending == [b"\xe0\x01\x9a", Close(Fault.RETAIN_NOT_SUPPORTED)]
    assert delivery_of(opened(V3).receive(retained, 0)).reason is None


# Children


def test_a_concentrator_speaks_for_its_child_and_hears_its_receipts() -> None:
    session = opened(V3)
    topic = "cs/v1/gauge-1/child/pole-9/up/state"
    delivery = delivery_of(session.receive(publish(topic, 5), 0))
    frame = frame_in(delivery)
    assert (frame.device, frame.via, frame.message) == ("pole-9", "gauge-1", "state")
    assert (frame.identity, frame.channel) == (Identity.CONCENTRATOR, topic)
    session.receive(Subscribe(packet_id=1, filters=(("cs/v1/gauge-1/child/+/ack", 0),)), 0)
    session.settle(delivery, Verdict(kind=Kind.STORED, receipt=Receipt(boot=1, seq=2)))
    own = delivery_of(session.receive(publish(packet_id=6), 0))
    session.settle(own, Verdict(kind=Kind.STORED, receipt=Receipt(boot=3, seq=4)))
    sent = session.take_receipts()
    assert sent[2:].startswith(b"\x00\x1ecs/v1/gauge-1/child/pole-9/ack")
    assert sent.endswith(b'{"boot":1,"seq":2}')
    foreign = delivery_of(session.receive(publish("cs/v1/gauge-1/child/pole-8/up/state", 7), 0))
    assert foreign.reason is Reason.FOREIGN_TOPIC


# Downlinks


def mail(number: int = 1, *, device: str = "gauge-1", expires: int = 60_000, once: bool = False) -> Mail:
    return Mail(
        id=f"m{number}",
        device=device,
        message="set",
        payload=b"%d" % number,
        content=50,
        values={},
        expires=expires,
        priority=1,
        once=once,
    )


def listening(version: Version, topic_filter: str, qos: int = 1, **properties: int) -> Conversation:
    session = new_session()
    given = {Property[name]: value for name, value in properties.items()}
    session.receive(connect(version, properties=given), 0)
    session.receive(Subscribe(packet_id=1, filters=((topic_filter, qos),)), 0)
    return session


@pytest.mark.parametrize(
    ("version", "packet"),
    [
        (V3, "32 1b 0016 %s 0001 31"),
        (V5, "32 21 0016 %s 0001 05 02 0000003b 31"),
    ],
)
def test_a_downlink_says_what_is_left_of_its_life(version: Version, packet: str) -> None:
    session = listening(version, "cs/v1/gauge-1/down/#")
    assert session.next_mail((mail(),)) == mail()
    assert session.send(mail(), 500) == (bytes.fromhex(packet % b"cs/v1/gauge-1/down/set".hex()),)
    assert session.next_mail((mail(),)) is None
    assert session.receive(Puback(packet_id=1), 0) == (Signal.ATTEND,)
    assert session.receive(Puback(packet_id=1), 0) == ()
    assert session.session is not None
    assert [outcome.refusal for outcome in session.session.outgoing.outcomes] == [""]


def test_a_downlink_goes_only_where_it_is_wanted_and_not_after_its_time() -> None:
    session = listening(V5, "cs/v1/gauge-1/down/open")
    assert session.next_mail((mail(),)) is None
    assert session.send(mail(), 0) == ()
    session = listening(V5, "cs/v1/gauge-1/down/set")
    assert session.send(mail(expires=1_000), 1_000) == ()
    assert session.next_mail((mail(device="pole-9"),)) is None


def test_a_childs_downlink_goes_through_its_concentrator() -> None:
    session = listening(V3, "cs/v1/gauge-1/child/+/down/#")
    assert session.next_mail((mail(1), mail(2, device="pole-9"))) == mail(2, device="pole-9")
    [packet] = session.send(mail(2, device="pole-9"), 0)
    assert isinstance(packet, bytes)
    assert packet[4:].startswith(b"cs/v1/gauge-1/child/pole-9/down/set\x00\x01")


def test_no_more_downlinks_are_on_their_way_than_the_device_takes() -> None:
    session = listening(V5, "cs/v1/gauge-1/down/#", RECEIVE_MAXIMUM=2)
    waiting = tuple(mail(number) for number in range(1, 5))
    for number in (1, 2):
        assert session.next_mail(waiting) == mail(number)
        session.send(mail(number), 0)
    assert session.next_mail(waiting) is None
    session.receive(Puback(packet_id=2), 0)
    assert session.next_mail(waiting) == mail(3)


def test_a_downlink_that_the_device_can_never_take_is_given_back() -> None:
    session = listening(V5, "cs/v1/gauge-1/down/#", MAXIMUM_PACKET_SIZE=30)
    assert session.send(mail(), 0) == ()
    assert session.session is not None
    [outcome] = session.session.outgoing.outcomes
    assert (outcome.mail, outcome.refusal) == (mail(), "a packet of 35 bytes, and the device takes 30 at most")
    session = listening(V5, "cs/v1/gauge-1/down/#")
    session.send(mail(), 0)
    session.receive(Puback(packet_id=1, reason=0x99), 0)
    assert session.session is not None
    assert session.session.outgoing.outcomes[0].refusal == "the device answered with reason code 0x99"


def test_a_subscription_without_acknowledgements_gets_a_downlink_once_a_connection() -> None:
    session = listening(V3, "cs/v1/gauge-1/down/#", 0)
    [packet] = session.send(mail(), 0)
    assert isinstance(packet, bytes)
    assert packet[0] == 0x30
    assert session.next_mail((mail(),)) is None
    assert session.next_mail((mail(), mail(2))) == mail(2)
