"""What the broker's driver decides without I/O: options, topics, the window of acknowledgements, gaps, liveness, post."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from citysense.cli.programs import programs
from citysense.errors import SetupError, StorageFull
from citysense.settings import is_secret, load_settings
from citysense_gateway.broker.inbound import BadPacket, take_publishes
from citysense_gateway.broker.link import LinkLost
from citysense_gateway.broker.liveness import ECHO_EVERY_S, SILENT_S, Liveness
from citysense_gateway.broker.options import broker_options, client_id, parse_address, parse_probes
from citysense_gateway.broker.post import AGAIN_S, Post
from citysense_gateway.broker.proof import Attempt, foreign_topics, judge, own_topic
from citysense_gateway.broker.receipts import Receipts
from citysense_gateway.broker.routes import RouteKind, Router, topic_filters
from citysense_gateway.broker.window import Held, Window, puback
from citysense_gateway.frame import Kind, Receipt, Verdict
from citysense_gateway.gaps import FIRST_S, MOST_REPEATS, Gaps
from citysense_gateway.mail import Mail
from citysense_gateway.mqtt.packets import Version
from citysense_gateway.settings import parse

PROBES = {"CITYSENSE_BROKER_PROBES": "probe-a:x,probe-b:y", "CITYSENSE_BROKER_PASSWORD": "secret"}


# --- options


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("mqtt://127.0.0.1", ("127.0.0.1", 1883, False)),
        ("mqtts://broker.example:9000", ("broker.example", 9000, True)),
        ("mqtts://[::1]:8883/", ("::1", 8883, True)),
    ],
)
def test_addresses(text: str, parsed: tuple[str, int, bool]) -> None:
    assert parse_address(text) == parsed


@pytest.mark.parametrize(
    "text", ["broker:1883", "http://x", "mqtt://", "mqtt://x:99999", "mqtt://u:p@x", "mqtts://x/topic"]
)
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(SetupError, match="--broker"):
        parse_address(text)


def given_options(**more: object) -> dict[str, object]:
    return {
        "address": "mqtt://127.0.0.1",
        "user": "gateway",
        "gateway": "g1",
        "token": "t",
        "environment": PROBES,
        **more,
    }


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"address": "mqtt://10.0.0.1"}, "in clear"),
        ({"environment": {}}, "keeps devices apart"),
        ({"environment": {"CITYSENSE_BROKER_PROBES": "a:x"}}, "two accounts"),
        ({"environment": {"CITYSENSE_BROKER_PROBES": "a:x,a:y"}}, "twice"),
        ({"user": "gate+way"}, "user name"),
        ({"gateway": "g/1"}, "client id"),
        ({"cert": Path("c.pem")}, "--broker-key"),
        ({"password_file": Path("/nowhere")}, "/nowhere"),
    ],
)
def test_options_that_do_not_go_together(more: dict[str, object], words: str) -> None:
    with pytest.raises(SetupError, match=words):
        broker_options(**given_options(**more))  # type: ignore[arg-type]


def test_secrets_are_never_shown() -> None:
    options = broker_options(**given_options())  # type: ignore[arg-type]
    assert options.account.password == "secret"
    assert "secret" not in repr(options)
    assert "x" not in repr(parse_probes("probe-a:x,probe-b:y")[0])
    with pytest.raises(SetupError) as told:
        parse_probes("a b:hunter2,c:x")
    assert "hunter2" not in str(told.value)


def test_the_session_has_one_name_for_ever_and_no_two_gateways_share_it() -> None:
    assert client_id("g1", "token") == client_id("g1", "token") != client_id("g1", "other")
    assert "token" not in client_id("g1", "token")


# --- topics


def router() -> Router:
    made = Router(
        rights=lambda device, topic: "" if topic == f"vendor/{device}/data" and device != "stranger" else None,
        echo_topic="cs/gateway/gateway/echo",
        probes=["probe-a"],
    )
    made.use(["vendor/{device}/data"])
    return made


@pytest.mark.parametrize(
    ("topic", "kind", "device", "message", "via"),
    [
        (b"cs/v1/g-1/up/report", RouteKind.FRAME, "g-1", "report", None),
        (b"cs/v1/hub/child/g-1/up/report", RouteKind.FRAME, "g-1", "report", "hub"),
        (b"vendor/g-1/data", RouteKind.FRAME, "g-1", "", None),
        (b"vendor/stranger/data", RouteKind.FOREIGN, None, "", None),
        (b"vendor/probe-a/data", RouteKind.PROBE, None, "", None),
        (b"cs/v1/probe-a/up/acl-probe", RouteKind.PROBE, None, "", None),
        (b"cs/v1/g-1/up/acl-probe", RouteKind.FRAME, "g-1", "acl-probe", None),
        (b"cs/v1/g 1/up/report", RouteKind.FOREIGN, None, "", None),
        (b"cs/v1/g-1/down/report", RouteKind.FOREIGN, None, "", None),
        (b"cs/v1/g-1/up/", RouteKind.FOREIGN, None, "", None),
        (b"cs/v1/g-1/up/a/b", RouteKind.FOREIGN, None, "", None),
        (b"cs/gateway/gateway/echo", RouteKind.ECHO, None, "", None),
        (b"\xff\xfe", RouteKind.FOREIGN, None, "", None),
    ],
)
def test_what_a_topic_says(topic: bytes, kind: RouteKind, device: str | None, message: str, via: str | None) -> None:
    route = router().route(topic)
    assert (route.kind, route.device, route.message, route.via) == (kind, device, message, via)


def test_rights_are_asked_again_after_a_change() -> None:
    allowed: set[str] = set()
    made = Router(rights=lambda device, topic: "" if device in allowed else None, echo_topic="e", probes=[])
    made.use(["v/{device}"])
    assert made.route(b"v/g").kind is RouteKind.FOREIGN
    allowed.add("g")
    made.use(["v/{device}"])
    assert made.route(b"v/g").kind is RouteKind.FRAME


def test_filters_and_the_refused_shared_subscription() -> None:
    assert topic_filters(["b/{device}", "a/{device}/x"]) == [
        "cs/v1/+/up/+",
        "cs/v1/+/child/+/up/+",
        "a/+/x",
        "b/+",
    ]
    with pytest.raises(SetupError, match="shared subscription"):
        topic_filters(["$share/group/v/{device}"])


# --- packets


def packet(topic: bytes, payload: bytes, *, qos: int, packet_id: int = 7, dup: bool = False, v5: bool) -> bytes:
    body = len(topic).to_bytes(2, "big") + topic + (packet_id.to_bytes(2, "big") if qos else b"")
    body += (b"\x05\x02\x00\x00\x00\x3c" if v5 else b"") + payload
    length = len(body)
    head = bytearray([0x30 | dup << 3 | qos << 1])
    while True:
        length, low = divmod(length, 128)
        head.append(low | (128 if length else 0))
        if not length:
            return bytes(head) + body


@given(
    messages=st.lists(
        st.tuples(st.binary(max_size=40), st.binary(max_size=300), st.integers(0, 1), st.booleans()), max_size=6
    ),
    v5=st.booleans(),
    cut=st.integers(0, 2000),
)
def test_any_cut_of_a_stream_gives_the_whole_packets_before_it(
    messages: list[tuple[bytes, bytes, int, bool]], v5: bool, cut: int
) -> None:
    stream, ends = b"", []
    for topic, payload, qos, dup in messages:
        stream += packet(topic, payload, qos=qos, dup=dup, v5=v5)
        ends.append(len(stream))
    cut = min(cut, len(stream))
    found, at = take_publishes(stream[:cut], 0, v5=v5, largest=1 << 20)
    whole = [message for message, end in zip(messages, ends, strict=True) if end <= cut]
    assert [(m.topic, m.payload, bool(m.packet_id), m.dup) for m in found] == [
        (topic, payload, bool(qos), dup) for topic, payload, qos, dup in whole
    ]
    assert at == (ends[len(whole) - 1] if whole else 0)


@given(data=st.binary(max_size=60), v5=st.booleans())
def test_no_bytes_raise_anything_else(data: bytes, v5: bool) -> None:
    try:
        found, at = take_publishes(b"\x32" + data, 0, v5=v5, largest=1 << 20)
    except BadPacket:
        return
    assert 0 <= at <= len(data) + 1
    assert all(isinstance(message.payload, bytes) for message in found)


@pytest.mark.parametrize(
    "data",
    [
        b"\x32\xff\xff\xff\xff\x01",
        b"\x34\x05\x00\x01t\x00\x01",
        b"\x32\x03\x00\x05t",
        b"\x32\x05\x00\x01t\x00\x00",
        b"\x30\x90\x80\x80\x01x",
    ],
)
def test_what_is_no_publish_is_refused(data: bytes) -> None:
    with pytest.raises(BadPacket):
        take_publishes(data, 0, v5=False, largest=1 << 20)


def test_other_packets_are_left_for_paho() -> None:
    data = packet(b"t", b"1", qos=1, v5=False) + b"\xd0\x00" + packet(b"t", b"2", qos=1, v5=False)
    found, at = take_publishes(data, 0, v5=False, largest=100)
    assert [message.payload for message in found] == [b"1"]
    assert data[at] == 0xD0


# --- acknowledgements


@given(order=st.permutations(range(12)), aside=st.sets(st.integers(0, 11)))
def test_every_message_is_acknowledged_once_and_in_order_unless_it_stepped_aside(
    order: list[int], aside: set[int]
) -> None:
    window = Window(most=100, most_bytes=1000)
    held = [window.hold(number + 1, 5) for number in range(12)]
    for number in aside:
        window.step_aside(held[number])
    sent = b""
    for number in order:
        window.settle(held[number])
        sent += window.take_due()
    ids = [int.from_bytes(sent[at + 2 : at + 4], "big") for at in range(0, len(sent), 4)]
    assert sorted(ids) == list(range(1, 13))
    straight = [one for one in ids if one - 1 not in aside]
    assert straight == sorted(straight)
    assert len(window) == 0


def test_nothing_is_due_before_the_first_is_settled() -> None:
    window = Window(most=4, most_bytes=100)
    first, second = window.hold(1, 1), window.hold(2, 1)
    window.settle(second)
    assert window.take_due() == b""
    window.settle(first)
    assert window.take_due() == puback(1) + puback(2)


def test_both_bounds_and_room() -> None:
    window = Window(most=4, most_bytes=100)
    held: list[Held] = [window.hold(number, 1) for number in range(1, 5)]
    assert window.full
    window.settle(held[0])
    assert (window.full, window.roomy) == (False, False)
    window.settle(held[1])
    assert window.roomy
    window.hold(9, 100)
    assert window.full


# --- gaps and receipts


def stored(seq: int, kind: Kind = Kind.STORED) -> Verdict:
    return Verdict(kind=kind, receipt=Receipt(boot=1, seq=seq))


def test_a_receipt_that_stands_still_over_new_messages_is_told_again_ever_more_rarely() -> None:
    gaps = Gaps()
    gaps.note("g", stored(3), 0.0)
    assert len(gaps) == 0
    gaps.note("g", stored(3), 1.0)
    assert gaps.since("g") == 1.0
    assert gaps.due(1.0 + FIRST_S - 0.1) == []
    assert gaps.due(1.0 + FIRST_S) == [("g", Receipt(boot=1, seq=3))]
    assert gaps.due(1.0 + 2 * FIRST_S) == []
    assert gaps.due(1.0 + 3 * FIRST_S) == [("g", Receipt(boot=1, seq=3))]


@pytest.mark.parametrize(
    "verdict",
    [stored(9), Verdict(kind=Kind.STORED, receipt=Receipt(boot=2, seq=3))],
    ids=["the gap is filled", "another boot"],
)
def test_a_receipt_that_moves_closes_the_gap(verdict: Verdict) -> None:
    gaps = Gaps()
    for verdict_now in (stored(3), stored(3), verdict):
        gaps.note("g", verdict_now, 0.0)
    assert len(gaps) == 0
    assert gaps.due(1000.0) == []


def test_repeats_and_frames_without_a_counter_open_no_gap() -> None:
    gaps = Gaps()
    gaps.note("g", stored(3), 0.0)
    gaps.note("g", stored(3, Kind.DUPLICATE), 1.0)
    gaps.note("g", Verdict(kind=Kind.STORED), 2.0)
    assert len(gaps) == 0


def test_a_device_that_never_answers_is_given_up_and_one_that_is_gone_forgotten() -> None:
    gaps = Gaps()
    for device in ("a", "b"):
        gaps.note(device, stored(3), 0.0)
        gaps.note(device, stored(3), 0.0)
    gaps.forget("b")
    told = [device for hour in range(1, 3 * MOST_REPEATS) for device, _ in gaps.due(hour * 3600.0)]
    assert told == ["a"] * MOST_REPEATS


def test_the_newest_receipt_of_a_device_stands_for_all() -> None:
    receipts = Receipts(Version.V3_1_1)
    receipts.note("g", "", stored(1), 0.0)
    receipts.note("g", "", stored(2), 0.0)
    assert receipts.take() == b"\x30\x1f\x00\x0bcs/v1/g/ack" + b'{"boot":1,"seq":2}'
    assert receipts.take() == b""


def topics_of(stream: bytes) -> list[bytes]:
    return [message.topic for message in take_publishes(stream, 0, v5=False, largest=1000)[0]]


def test_a_child_s_receipt_goes_to_the_concentrator_that_spoke_for_it() -> None:
    receipts = Receipts(Version.V3_1_1)
    receipts.note("g", "hub", stored(1), 0.0)
    receipts.note("g", "", stored(2), 0.0)
    assert topics_of(receipts.take()) == [b"cs/v1/hub/child/g/ack", b"cs/v1/g/ack"]
    receipts.note("g", "hub", stored(1), 1.0)
    receipts.take()
    assert receipts.repeat(1.0 + FIRST_S) == 1
    assert topics_of(receipts.take()) == [b"cs/v1/hub/child/g/ack"], "each way has gaps of its own"


@pytest.mark.parametrize("gone", ["g", "hub"])
def test_a_device_that_is_gone_and_one_behind_it_are_told_nothing_more(gone: str) -> None:
    receipts = Receipts(Version.V3_1_1)
    for _ in range(2):
        receipts.note("g", "hub", stored(1), 0.0)
    receipts.forget([gone])
    assert receipts.take() == b""
    assert receipts.repeat(FIRST_S) == 0


# --- liveness


def test_silence_ends_a_connection_and_a_missing_echo_says_what_to_allow() -> None:
    live = Liveness(0.0)
    assert live.echo_due(0.0)
    assert not live.echo_due(ECHO_EVERY_S - 0.1)
    assert live.verdict(SILENT_S - 0.1, "t") is None
    assert "write and read" in (live.verdict(SILENT_S, "t") or "")
    live.echo_came(SILENT_S)
    assert "nothing has come through" in (live.verdict(2 * SILENT_S, "t") or "")
    live.hold(2 * SILENT_S)
    assert live.verdict(2 * SILENT_S, "t") is None


# --- the proof's judgement


def test_judgement() -> None:
    allowed = [Attempt(sender="a", topic=own_topic("a"), mark=b"1")]
    forbidden = [Attempt(sender="a", topic=own_topic("b"), mark=b"2"), Attempt(sender=None, topic="t", mark=b"3")]
    assert judge({b"1"}, allowed, forbidden) is None
    assert "did not arrive" in (judge(set(), allowed, forbidden) or "")
    assert "bind the device's segment" in (judge({b"1", b"2"}, allowed, forbidden) or "")
    assert "anonymous" in (judge({b"1", b"3"}, allowed, forbidden) or "")


def test_every_kind_of_topic_is_tried() -> None:
    assert foreign_topics("b", ["v/{device}/x"]) == [
        "cs/v1/b/up/acl-probe",
        "cs/v1/b/child/b/up/acl-probe",
        "v/b/x",
    ]


# --- post


class Source:
    def __init__(self, *mail: Mail) -> None:
        self.mail = list(mail)
        self.begun: list[str] = []
        self.full = False

    def waiting(self, device: str) -> tuple[Mail, ...]:
        return tuple(m for m in self.mail if m.device == device and not (m.once and m.id in self.begun))

    async def begin(self, mail: Mail) -> bool:
        if self.full:
            raise StorageFull("no space")
        self.begun.append(mail.id)
        return True

    async def delivered(self, mail: Mail) -> None:
        raise AssertionError

    async def refused(self, mail: Mail, detail: str) -> None:
        raise AssertionError

    def listen(self, on_mail: object) -> None:
        raise AssertionError


def mail(one: str, *, once: bool = False) -> Mail:
    return Mail(id=one, device="g", message="m", payload=b"", content=50, values={}, expires=1, priority=0, once=once)


async def yes(_: Mail, topic: str) -> bool:
    return True


async def test_only_devices_heard_here_get_mail_and_repeats_are_ever_rarer() -> None:
    source = Source(mail("again"), mail("once", once=True))
    post = Post(source)
    post.wake("g")
    assert post.idle
    post.heard("g", "")
    assert await post.deliver(yes, 0.0) == 2
    assert await post.deliver(yes, AGAIN_S - 1) == 0
    assert await post.deliver(yes, AGAIN_S) == 1
    assert await post.deliver(yes, 2 * AGAIN_S) == 0
    assert await post.deliver(yes, 3 * AGAIN_S) == 1
    assert source.begun == ["again", "once", "again", "again"]


async def test_mail_goes_the_way_on_which_the_device_was_heard_last() -> None:
    source = Source(mail("one"))
    post = Post(source)
    topics: list[str] = []

    async def note(_: Mail, topic: str) -> bool:
        topics.append(topic)
        return True

    post.heard("g", "hub")
    await post.deliver(note, 0.0)
    post.heard("g", "")
    await post.deliver(note, AGAIN_S)
    assert topics == ["cs/v1/hub/child/g/down/m", "cs/v1/g/down/m"]


@pytest.mark.parametrize("gone", ["g", "hub"])
async def test_who_is_gone_and_who_is_behind_it_get_no_mail(gone: str) -> None:
    source = Source(mail("one"))
    post = Post(source)
    post.heard("g", "hub")
    assert await post.deliver(yes, 0.0) == 1
    post.forget([gone])
    assert await post.deliver(yes, AGAIN_S) == 0
    assert post.idle, "what was handed over to it is not looked after any more"


async def test_what_is_taken_back_is_forgotten() -> None:
    source = Source(mail("one"))
    post = Post(source)
    post.heard("g", "")
    await post.deliver(yes, 0.0)
    source.mail.clear()
    await post.deliver(yes, AGAIN_S)
    assert post.idle


async def test_mail_that_wakes_the_device_during_a_delivery_is_not_lost() -> None:
    source = Source(mail("one"))
    post = Post(source)

    async def brings_more(_: Mail, topic: str) -> bool:
        if len(source.mail) == 1:
            source.mail.append(mail("two"))
            post.wake("g")
        return True

    post.heard("g", "")
    await post.deliver(brings_more, 0.0)
    assert await post.deliver(brings_more, 0.1) == 1
    assert source.begun == ["one", "two"]


async def test_a_lost_connection_leaves_the_mail_due_and_a_full_disk_sends_nothing() -> None:
    source = Source(mail("one"))
    post = Post(source)
    post.heard("g", "")

    async def lost(_: Mail, topic: str) -> bool:
        raise LinkLost("gone")

    with pytest.raises(LinkLost):
        await post.deliver(lost, 0.0)
    source.full = True
    assert await post.deliver(yes, 0.1) == 0
    source.full = False
    post.wake("g")
    assert await post.deliver(yes, 0.2) == 1


# --- what the launcher hands on


def test_the_launcher_hands_the_broker_on_and_keeps_secrets_off_the_command_line() -> None:
    settings, _ = load_settings(
        {"broker": "mqtts://b:1", "broker_ca": "ca.pem"},
        {"CITYSENSE_BROKER_PASSWORD": "hidden", "CITYSENSE_BROKER_PROBES": "a:hidden,b:hidden"},
    )
    gateway = next(program for program in programs(settings, Path("d"), None) if program.name == "gateway")
    line = " ".join(gateway.arguments)
    assert "--broker mqtts://b:1 --broker-user gateway --broker-protocol 5 --broker-ca ca.pem" in line
    assert "hidden" not in line
    assert gateway.environment["CITYSENSE_BROKER_PASSWORD"] == "hidden"
    assert is_secret("broker_password")
    assert is_secret("broker_probes")
    parsed = parse([*gateway.arguments])
    assert (parsed.broker, parsed.broker_protocol, parsed.broker_ca) == ("mqtts://b:1", "5", Path("ca.pem"))


def test_without_a_broker_nothing_is_handed_on() -> None:
    settings, _ = load_settings({}, {})
    gateway = next(program for program in programs(settings, Path("d"), None) if program.name == "gateway")
    assert "--broker" not in gateway.arguments
