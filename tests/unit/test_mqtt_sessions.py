"""Sessions of MQTT devices: resumption, take-over, expiry, wills and what a restart leaves of them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from citysense_gateway.frame import Receipt
from citysense_gateway.mail import Mail
from citysense_gateway.mqtt.actions import CloseReason
from citysense_gateway.mqtt.fields import Fault
from citysense_gateway.mqtt.limits import MqttSettings
from citysense_gateway.mqtt.packets import Will
from citysense_gateway.mqtt.session import StoredSession
from citysense_gateway.mqtt.sessions import LastWord, Opened, Opening, Sessions

DAY = 86_400
GONE = Will(topic="cs/v1/gauge-1/up/gone", payload=b"gone", qos=1, retain=False)
LATER = Will(topic="cs/v1/gauge-1/up/gone", payload=b"later", qos=1, retain=False, delay=30)
LOST = CloseReason.PEER_LOST


class Holder:
    def finish(self, reason: CloseReason) -> None: ...

    def next_mail(self, waiting: Sequence[Mail]) -> Mail | None:
        return None

    def repeat_receipt(self, device: str, receipt: Receipt) -> None:
        raise AssertionError("no gap is played here")

    def send_mail(self, mail: Mail) -> bool:
        return False


class Store:
    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], StoredSession] = {}

    def load(self) -> list[StoredSession]:
        return list(self.kept.values())

    def put(self, session: StoredSession) -> None:
        self.kept[(session.device, session.client_id)] = session

    def drop(self, device: str, client_id: str) -> None:
        self.kept.pop((device, client_id), None)

    async def flush(self) -> None: ...


class Bench:
    def __init__(self, store: Store | None = None, *, now_ms: int = 0, **settings: int) -> None:
        self.store = store or Store()
        self.sessions = Sessions(settings=MqttSettings(**settings), store=self.store)
        self.sessions.load(now_ms)

    def open(
        self, name: str = "c", *, expiry: int = DAY, clean: bool = False, will: Will | None = None, now_ms: int = 0
    ) -> Opened:
        opening = Opening(device="gauge-1", client_id=name, clean=clean, expiry=expiry, will=will, holder=Holder())
        return self.sessions.open(opening, now_ms)

    def release(self, opened: Opened, now_ms: int = 0, reason: CloseReason | Fault = LOST) -> list[bytes]:
        holder = opened.session.holder
        assert holder is not None
        return said(self.sessions.release(opened.session, holder, now_ms, reason=reason))


def said(words: Sequence[LastWord]) -> list[bytes]:
    assert all(word.device == "gauge-1" for word in words)
    return [word.will.payload for word in words]


def test_a_session_is_there_again_until_it_expires() -> None:
    bench = Bench()
    first = bench.open(expiry=60)
    first.session.subscribe("x", 1)
    assert not first.present
    bench.release(first, 1_000)
    again = bench.open(expiry=60, now_ms=60_999)
    assert again.present
    assert again.session is first.session
    bench.release(again, 100_000)
    assert bench.sessions.due(159_999) == ()
    assert bench.sessions.offline == 1
    assert bench.sessions.due(160_000) == ()
    assert (bench.sessions.offline, bench.store.kept) == (0, {})
    assert not bench.open(now_ms=160_001).present


def test_a_clean_start_and_an_unkept_session_begin_anew() -> None:
    bench = Bench()
    bench.release(bench.open())
    assert not bench.open(clean=True).present
    bench = Bench()
    bench.release(bench.open(expiry=0))
    assert bench.store.kept == {}
    assert not bench.open().present


@pytest.mark.parametrize("clean", [False, True])
def test_a_take_over_cuts_the_older_connection_which_then_ends_nothing(clean: bool) -> None:
    bench = Bench()
    older = bench.open()
    old_holder = older.session.holder
    assert old_holder is not None
    newer = bench.open(clean=clean)
    assert newer.cut == ((old_holder, CloseReason.TAKEN_OVER),)
    assert newer.present is not clean
    assert bench.sessions.release(older.session, old_holder, 5, reason=CloseReason.TAKEN_OVER) == ()
    assert newer.session.holder is not None
    assert list(bench.sessions.live("gauge-1")) == [newer.session]
    assert bench.store.kept[("gauge-1", "c")].ended_ms is None


def test_the_oldest_session_without_a_connection_goes_first_then_the_oldest_of_all() -> None:
    bench = Bench(max_sessions=2)
    first = bench.open("a")
    second = bench.open("b")
    bench.release(second)
    third = bench.open("c")
    assert third.cut == ()
    assert set(bench.store.kept) == {("gauge-1", "a"), ("gauge-1", "c")}
    holder = first.session.holder
    fourth = bench.open("d")
    assert fourth.cut == ((holder, CloseReason.TOO_MANY_SESSIONS),)
    assert [session.client_id for session in bench.sessions.live("gauge-1")] == ["d", "c"]


def test_a_device_whose_rights_ended_leaves_nothing() -> None:
    bench = Bench()
    bench.release(bench.open("a", will=LATER))
    live = bench.open("b", will=GONE)
    holder = live.session.holder
    assert bench.sessions.drop("gauge-1") == [holder]
    assert (bench.store.kept, bench.sessions.offline) == ({}, 0)
    assert bench.sessions.due(10**9) == ()
    assert bench.sessions.drop("gauge-1") == []


# Wills


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        (CloseReason.CLIENT_DISCONNECT, []),
        (CloseReason.SHUTTING_DOWN, []),
        (CloseReason.WITH_WILL, [b"gone"]),
        (CloseReason.PEER_LOST, [b"gone"]),
        (CloseReason.KEEP_ALIVE, [b"gone"]),
        (Fault.BAD_TOPIC, [b"gone"]),
    ],
)
@pytest.mark.parametrize("expiry", [0, DAY])
def test_a_will_is_published_unless_the_device_took_leave(
    reason: CloseReason | Fault, expected: list[bytes], expiry: int
) -> None:
    bench = Bench()
    assert bench.release(bench.open(expiry=expiry, will=GONE), reason=reason) == expected
    if reason is not CloseReason.SHUTTING_DOWN:
        assert bench.sessions.due(10**9) == ()


def test_a_delayed_will_waits_and_a_device_that_is_back_cancels_it() -> None:
    bench = Bench()
    assert bench.release(bench.open(will=LATER), 1_000) == []
    assert bench.sessions.due(30_999) == ()
    assert said(bench.sessions.due(31_000)) == [b"later"]
    assert bench.store.kept[("gauge-1", "c")].will is None
    back = bench.open(will=LATER, now_ms=40_000)
    assert (back.present, back.wills) == (True, ())
    bench.release(back, 50_000)
    again = bench.open(now_ms=79_999)
    assert again.wills == ()
    assert bench.sessions.due(200_000) == ()


def test_a_session_that_ends_takes_its_delayed_will_along() -> None:
    bench = Bench()
    assert bench.release(bench.open(expiry=0, will=LATER)) == [b"later"]
    bench.release(bench.open(expiry=10, will=LATER), 1_000)
    assert bench.sessions.due(10_999) == ()
    assert said(bench.sessions.due(11_000)) == [b"later"]
    bench.release(bench.open(will=LATER, now_ms=20_000), 20_000)
    assert said(bench.open(clean=True, now_ms=20_001).wills) == [b"later"]


@pytest.mark.parametrize(
    ("will", "clean", "expected"),
    [(GONE, False, [b"gone"]), (GONE, True, [b"gone"]), (LATER, False, []), (LATER, True, [b"later"])],
)
def test_a_take_over_publishes_the_will_unless_it_is_delayed(will: Will, clean: bool, expected: list[bytes]) -> None:
    bench = Bench()
    bench.open(will=will)
    assert said(bench.open(clean=clean).wills) == expected


# Restarts


def test_sessions_survive_a_kill_and_count_from_then_on() -> None:
    before = Bench()
    session = before.open(expiry=60).session
    session.subscribe("cs/v1/gauge-1/down/+", 1)
    before.sessions.changed(session)
    after = Bench(before.store, now_ms=1_000_000)
    assert after.sessions.due(1_059_999) == ()
    again = after.open(expiry=60, now_ms=1_059_999)
    assert again.present
    assert again.session.subscriptions == {"cs/v1/gauge-1/down/+": 1}
    expired = Bench(before.store, now_ms=2_000_000)
    expired.sessions.due(2_060_000)
    assert not expired.open(now_ms=2_060_001).present


@pytest.mark.parametrize("end", ["kill", "stop"])
@pytest.mark.parametrize(("expiry", "will"), [(0, GONE), (DAY, GONE), (DAY, LATER)])
def test_a_will_waits_over_our_own_restart_for_the_device_to_come_back(end: str, expiry: int, will: Will) -> None:
    before = Bench()
    opened = before.open(expiry=expiry, will=will)
    if end == "stop":
        assert before.release(opened, reason=CloseReason.SHUTTING_DOWN) == []
    back = Bench(before.store, now_ms=1_000_000)
    assert back.open(now_ms=1_010_000, expiry=expiry).wills == ()
    assert back.sessions.due(10**10) == ()


@pytest.mark.parametrize(("expiry", "will"), [(0, GONE), (DAY, GONE), (DAY, LATER)])
def test_a_device_that_does_not_come_back_after_our_restart_has_its_will(expiry: int, will: Will) -> None:
    before = Bench()
    before.open(expiry=expiry, will=will)
    after = Bench(before.store, now_ms=1_000_000, will_after_restart=120)
    assert after.sessions.due(1_119_000) == ()
    assert said(after.sessions.due(1_120_000)) == [will.payload]
    assert after.sessions.due(10**9) == ()


def test_what_need_not_survive_is_not_written() -> None:
    bench = Bench()
    session = bench.open(expiry=0).session
    session.subscribe("x", 1)
    bench.sessions.changed(session)
    assert bench.store.kept == {}
