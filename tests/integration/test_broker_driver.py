"""The broker's driver against a real mosquitto with the shipped configuration: what is acknowledged, kept and refused."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

from citysense import wire
from citysense.cli.own_mosquitto import SHIPPED, OwnMosquitto
from citysense.cli.stack import HOST
from citysense.clock import SystemClock
from citysense_gateway.broker import driver as driver_module
from citysense_gateway.broker import liveness
from citysense_gateway.broker import proof as proof_module
from citysense_gateway.broker.counters import Standing
from citysense_gateway.broker.driver import BrokerDriver
from citysense_gateway.broker.link import Link, LinkLost, LinkOptions
from citysense_gateway.broker.options import Account, BrokerOptions
from citysense_gateway.broker.proof import Proof, ProofFailed
from citysense_gateway.broker.trust import Trust
from citysense_gateway.devices import Changes, Devices
from citysense_gateway.frame import Done, Frame, Identity, Kind, Reason, Receipt, Verdict
from citysense_gateway.mail import Mail
from citysense_profiles.catalogue import load_catalogue

pytestmark = pytest.mark.peer("mosquitto")
ACCOUNTS = {name: f"pw-{name}" for name in ("gateway", "probe-a", "probe-b", "gauge-1", "gauge-2", "hub-1")}
STORED = Verdict(kind=Kind.STORED)
SESSION = {"id": ""}
VERSIONS = pytest.mark.parametrize("protocol", [5, 4])


class Sink:
    """Stands for the pipeline: answers as `judge` says, a turn of the loop later, while `open`."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.refused: list[tuple[Frame, Reason | None]] = []
        self.judge: Callable[[Frame], Verdict] = lambda frame: STORED
        self.open = True
        self._held: list[tuple[Frame, Done]] = []

    def deliver(self, frame: Frame, done: Done, *, reason: Reason | None = None, detail: str = "") -> None:
        if reason is not None:
            self.refused.append((frame, reason))
            asyncio.get_running_loop().call_soon(done, Verdict(kind=Kind.REJECTED, reason=reason, detail=detail))
            return
        self.frames.append(frame)
        if self.open:
            asyncio.get_running_loop().call_soon(done, self.judge(frame))
        else:
            self._held.append((frame, done))

    def release(self) -> None:
        self.open = True
        held, self._held = self._held, []
        for frame, done in held:
            done(self.judge(frame))

    async def accept(self, frame: Frame) -> Verdict:
        raise NotImplementedError

    async def refuse(self, frame: Frame, reason: Reason, detail: str) -> Verdict:
        raise NotImplementedError

    @property
    def payloads(self) -> list[bytes]:
        return [frame.payload for frame in self.frames]


def letter(device: str, number: int = 1) -> Mail:
    return Mail(
        id=f"m{number}",
        device=device,
        message="set",
        payload=b"%d" % number,
        content=50,
        values={},
        expires=SystemClock().now_ms() + 60_000,
        priority=0,
        once=True,
    )


class Letters:
    """Mail for devices, in memory."""

    def __init__(self) -> None:
        self.mail: list[Mail] = []
        self.begun: list[str] = []
        self._tell: Callable[[str], None] = lambda device: None

    def waiting(self, device: str) -> tuple[Mail, ...]:
        return tuple(m for m in self.mail if m.device == device and not (m.once and m.id in self.begun))

    async def begin(self, mail: Mail) -> bool:
        self.begun.append(mail.id)
        return True

    async def delivered(self, mail: Mail) -> None:
        raise AssertionError("a broker's word is not the device's")

    async def refused(self, mail: Mail, detail: str) -> None:
        raise AssertionError(detail)

    def listen(self, on_mail: Callable[[str], None]) -> None:
        self._tell = on_mail

    def put(self, mail: Mail) -> None:
        self.mail.append(mail)
        self._tell(mail.device)


@pytest.fixture(autouse=True)
def one_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """No publish overtakes another on one mosquitto, and receipts need no second to gather."""
    monkeypatch.setattr(proof_module, "GRACE_S", 0.02)
    monkeypatch.setattr(driver_module, "RECEIPTS_EVERY_S", 0.1)


_sessions = itertools.count(1)


@pytest.fixture(autouse=True)
def session_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session of its own for every test: they share a broker."""
    monkeypatch.setitem(SESSION, "id", f"citysense-test-{next(_sessions)}")


@pytest.fixture(scope="module")
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnMosquitto]:
    broker = OwnMosquitto(tmp_path_factory.mktemp("broker"), ACCOUNTS, changed={"autosave_on_changes": "false"})
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture
def own_mosquitto(tmp_path: Path) -> Iterator[OwnMosquitto]:
    """One that a test may kill."""
    broker = OwnMosquitto(tmp_path / "broker", ACCOUNTS)
    broker.start()
    yield broker
    broker.kill()


def options(broker: OwnMosquitto, protocol: int = 5) -> BrokerOptions:
    return BrokerOptions(
        host=HOST,
        port=broker.port,
        tls=False,
        account=Account(user="gateway", password=ACCOUNTS["gateway"]),
        probes=(
            Account(user="probe-a", password=ACCOUNTS["probe-a"]),
            Account(user="probe-b", password=ACCOUNTS["probe-b"]),
        ),
        client_id=SESSION["id"],
        protocol=protocol,
    )


class Nonces:
    def __init__(self) -> None:
        self._count = 0

    def __call__(self) -> bytes:
        self._count += 1
        return b"nonce-%d" % self._count


@asynccontextmanager
async def reading(
    broker: OwnMosquitto, sink: Sink, *, protocol: int = 5, mail: Letters | None = None
) -> AsyncIterator[BrokerDriver]:
    devices = Devices(load_catalogue())
    driver = BrokerDriver(
        options(broker, protocol),
        sink=sink,
        devices=devices,
        mail=mail,
        clock=SystemClock(),
        random=lambda: 0.5,
        nonce=Nonces(),
    )
    task = asyncio.create_task(driver.run())
    try:
        yield driver
        await driver.stop()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if driver.counters.connected:
            await driver.stop()


async def until(condition: Callable[[], Any], what: str, patience: float = 20) -> None:
    async with asyncio.timeout(patience):
        while not condition():
            await asyncio.sleep(0.01)


def client(broker: OwnMosquitto, user: str, **more: Any) -> aiomqtt.Client:
    return aiomqtt.Client(HOST, broker.port, username=user, password=ACCOUNTS[user], identifier=user, **more)


async def publish(broker: OwnMosquitto, user: str, topic: str, *payloads: bytes, **more: Any) -> None:
    async with client(broker, user) as device:
        for payload in payloads:
            await device.publish(topic, payload, qos=1, **more)


@VERSIONS
async def test_frames_come_with_device_message_and_identity(mosquitto: OwnMosquitto, protocol: int) -> None:
    sink = Sink()
    async with reading(mosquitto, sink, protocol=protocol) as driver:
        await until(lambda: driver.counters.connected, "connected")
        await publish(mosquitto, "gauge-1", "cs/v1/gauge-1/up/report", b"one", b"two")
        await publish(mosquitto, "hub-1", "cs/v1/hub-1/child/gauge-2/up/report", b"three")
        await until(lambda: len(sink.frames) == 3, "three frames")
    first, _, child = sink.frames
    assert (first.device, first.message, first.via, first.identity) == ("gauge-1", "report", None, Identity.BROKER)
    assert (child.device, child.message, child.via, child.identity) == ("gauge-2", "report", "hub-1", Identity.BROKER)
    assert sink.payloads == [b"one", b"two", b"three"]
    assert driver.counters.figures()["broker.proved"] == 1


@VERSIONS
async def test_what_was_not_committed_comes_again_and_what_was_does_not(mosquitto: OwnMosquitto, protocol: int) -> None:
    sink = Sink()
    async with reading(mosquitto, sink, protocol=protocol) as driver:
        await until(lambda: driver.counters.connected, "connected")
        await publish(mosquitto, "gauge-1", "cs/v1/gauge-1/up/report", b"committed")
        await until(lambda: len(sink.frames) == 1, "a frame")
        await asyncio.sleep(0)
        sink.open = False
        await publish(mosquitto, "gauge-1", "cs/v1/gauge-1/up/report", b"open")
        await until(lambda: len(sink.frames) == 2, "a frame without verdict")
        driver._under_way = 0  # as if the process went: stop() waits for nothing
    again = Sink()
    async with reading(mosquitto, again, protocol=protocol):
        await until(lambda: again.frames, "the open frame")
        await publish(mosquitto, "gauge-1", "cs/v1/gauge-1/up/report", b"new")
        await until(lambda: len(again.frames) == 2, "the new frame")
    assert again.payloads == [b"open", b"new"]
    assert again.frames[0].delivery is not None
    assert again.frames[0].delivery[:1] == b"\x01", "the broker's DUP"


async def test_storage_trouble_keeps_the_message_and_lets_others_pass(mosquitto: OwnMosquitto) -> None:
    sink = Sink()
    bad = {b"two": 3}

    def judge(frame: Frame) -> Verdict:
        if bad.get(frame.payload, 0):
            bad[frame.payload] -= 1
            return Verdict(kind=Kind.UNAVAILABLE)
        return STORED

    sink.judge = judge
    async with reading(mosquitto, sink) as driver:
        await until(lambda: driver.counters.connected, "connected")
        await publish(mosquitto, "gauge-1", "cs/v1/gauge-1/up/report", b"one", b"two", b"three")
        await until(lambda: sink.payloads.count(b"two") == 4, "the fourth try")
    assert sink.payloads.count(b"one") == sink.payloads.count(b"three") == 1
    after = Sink()
    async with reading(mosquitto, after) as driver:
        await until(lambda: driver.counters.connected, "connected")
        await publish(mosquitto, "gauge-1", "cs/v1/gauge-1/up/report", b"marker")
        await until(lambda: b"marker" in after.payloads, "the marker")
    assert after.payloads == [b"marker"], "all before it were acknowledged"


async def test_an_unread_socket_bounds_what_is_held(mosquitto: OwnMosquitto, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "WINDOW", 10)
    sink = Sink()
    sink.open = False
    async with reading(mosquitto, sink, protocol=4) as driver:
        await until(lambda: driver.counters.connected, "connected")
        payloads = [b"%d" % number + bytes(60_000) for number in range(60)]
        await publish(mosquitto, "gauge-1", "cs/v1/gauge-1/up/report", *payloads)
        await until(lambda: len(sink.frames) >= 10, "ten frames")
        link = driver._link
        assert link is not None
        assert link.paused
        held = len(sink.frames)
        assert held <= 12, "one filling of the buffer beyond the bound at most"
        sink.release()
        await until(lambda: len(sink.frames) == 60, "all of them")
    assert sink.payloads == payloads


@VERSIONS
async def test_retained_messages_of_before_are_no_readings(mosquitto: OwnMosquitto, protocol: int) -> None:
    await publish(mosquitto, "gauge-1", "cs/v1/gauge-1/up/report", b"old", retain=True)
    sink = Sink()
    async with reading(mosquitto, sink, protocol=protocol) as driver:
        await until(lambda: driver.counters.connected, "connected")
        await publish(mosquitto, "gauge-1", "cs/v1/gauge-1/up/report", b"now", retain=True)
        await until(lambda: sink.frames, "a frame")
    assert sink.payloads == [b"now"], "published while we listened, so it is one"


async def test_receipts_reach_the_device_and_come_again_while_a_gap_is_open(
    mosquitto: OwnMosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = Sink()

    def judge(frame: Frame) -> Verdict:
        seq = json.loads(frame.payload)["seq"]
        return Verdict(kind=Kind.STORED, receipt=Receipt(boot=1, seq=min(seq, 1)))

    sink.judge = judge
    async with reading(mosquitto, sink) as driver:
        monkeypatch.setattr(driver._receipts, "_first", 0.2)
        await until(lambda: driver.counters.connected, "connected")
        async with client(mosquitto, "gauge-1") as device:
            await device.subscribe("cs/v1/gauge-1/ack")
            for seq in (0, 1, 3):
                await device.publish("cs/v1/gauge-1/up/report", json.dumps({"boot": 1, "seq": seq}), qos=1)
            heard: list[Any] = []
            async with asyncio.timeout(10):
                async for message in device.messages:
                    heard.append(json.loads(message.payload))
                    if driver.counters.figures()["broker.receipts_again"] >= 2:
                        break
    assert heard[-1] == heard[-2] == {"boot": 1, "seq": 1}


async def test_a_message_for_a_device_goes_out_once_it_is_heard_here(mosquitto: OwnMosquitto) -> None:
    sink, letters = Sink(), Letters()
    async with reading(mosquitto, sink, mail=letters) as driver:
        await until(lambda: driver.counters.connected, "connected")
        async with client(mosquitto, "gauge-1") as device:
            await device.subscribe("cs/v1/gauge-1/down/+", qos=1)
            letters.put(letter("gauge-1"))
            await device.publish("cs/v1/gauge-1/up/report", b"here", qos=1)
            async with asyncio.timeout(10):
                first = await anext(aiter(device.messages))
                letters.put(letter("gauge-1", 2))
                second = await anext(aiter(device.messages))
    assert [(str(m.topic), m.payload, m.qos, m.retain) for m in (first, second)] == [
        ("cs/v1/gauge-1/down/set", b"1", 1, False),
        ("cs/v1/gauge-1/down/set", b"2", 1, False),
    ]
    assert letters.begun == ["m1", "m2"]


async def test_a_child_hears_receipts_and_messages_through_its_concentrator(mosquitto: OwnMosquitto) -> None:
    sink, letters = Sink(), Letters()
    sink.judge = lambda frame: Verdict(kind=Kind.STORED, receipt=Receipt(boot=1, seq=7))
    letters.put(letter("gauge-2"))
    heard: dict[str, bytes] = {}
    async with reading(mosquitto, sink, mail=letters) as driver:
        await until(lambda: driver.counters.connected, "connected")
        async with client(mosquitto, "hub-1") as hub:
            await hub.subscribe("cs/v1/hub-1/child/+/ack")
            await hub.subscribe("cs/v1/hub-1/child/+/down/+", qos=1)
            await hub.publish("cs/v1/hub-1/child/gauge-2/up/report", b"here", qos=1)
            async with asyncio.timeout(10):
                async for message in hub.messages:
                    heard[str(message.topic)] = message.payload
                    if len(heard) == 2:
                        break
    assert heard == {
        "cs/v1/hub-1/child/gauge-2/ack": b'{"boot":1,"seq":7}',
        "cs/v1/hub-1/child/gauge-2/down/set": b"1",
    }


@pytest.mark.parametrize(("concentrator", "still"), [("hub-1", "hub-1"), ("hub-2", ""), ("", "")])
def test_mail_no_longer_goes_to_a_former_concentrator(mosquitto: OwnMosquitto, concentrator: str, still: str) -> None:
    devices, letters = Devices(load_catalogue()), Letters()
    driver = BrokerDriver(
        options(mosquitto),
        sink=Sink(),
        devices=devices,
        mail=letters,
        clock=SystemClock(),
        random=lambda: 0.5,
        nonce=Nonces(),
    )

    def behind(hub: str, serial: str) -> Changes:
        one = wire.RosterDevice(id="gauge-2", profile="generic/water-gauge", concentrator=hub, serial=serial)
        return devices.replace(wire.Roster(version=1, devices=[one]))

    driver.devices_changed(behind("hub-1", "first"))
    post = driver._post
    assert post is not None
    post.heard("gauge-2", "hub-1")
    driver.devices_changed(behind(concentrator, "second"))
    assert post.via("gauge-2") == still


async def test_a_killed_and_a_wiped_broker_are_read_again_within_ten_seconds(
    own_mosquitto: OwnMosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    sink = Sink()
    async with reading(own_mosquitto, sink) as driver:
        await until(lambda: driver.counters.connected, "connected")
        for wiped, mark in ((False, b"after the kill"), (True, b"after the wipe")):
            own_mosquitto.kill()
            await until(lambda: not driver.counters.connected, "noticed")
            if wiped:
                own_mosquitto.wipe()
            await asyncio.to_thread(own_mosquitto.start)
            await until(lambda: driver.counters.connected, "connected again", patience=10)
            await publish(own_mosquitto, "gauge-1", "cs/v1/gauge-1/up/report", mark)
            while mark not in sink.payloads:
                await asyncio.sleep(0.01)
    starts = [record for record in caplog.records if "trying again" in record.message]
    assert len(starts) == 2, "an outage is told once"


async def test_a_silent_broker_is_left(own_mosquitto: OwnMosquitto, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "ECHO_EVERY_S", 0.2)
    monkeypatch.setattr(liveness, "SILENT_S", 0.8)
    sink = Sink()
    async with reading(own_mosquitto, sink) as driver:
        await until(lambda: driver.counters.connected, "connected")
        os.kill(own_mosquitto.pid, signal.SIGSTOP)
        try:
            await until(lambda: not driver.counters.connected, "given up", patience=10)
        finally:
            os.kill(own_mosquitto.pid, signal.SIGCONT)
        await until(lambda: driver.counters.connected, "connected again", patience=15)


# --- the proof


async def prove(broker: OwnMosquitto, protocol: int = 5, templates: tuple[str, ...] = ()) -> None:
    given = options(broker, protocol)
    await Proof(given, trust=Trust(given, random=lambda: 0.5), nonce=Nonces()).run(templates)


@VERSIONS
async def test_the_shipped_rules_pass(mosquitto: OwnMosquitto, protocol: int) -> None:
    await prove(mosquitto, protocol)


BROKEN = {
    "write to all": ("pattern write cs/v1/%u/up/+", "pattern write cs/v1/+/up/+", "could publish to cs/v1/probe-"),
    "write by client id": ("pattern write cs/v1/%u/up/+", "pattern write cs/v1/%c/up/+", "did not arrive"),
    "children of others": (
        "pattern write cs/v1/%u/child/+/up/+",
        "pattern write cs/v1/%u/child/+/up/+\npattern write cs/v1/+/child/+/up/+",
        "/child/",
    ),
    "nobody may write": ("pattern write cs/v1/%u/up/+", "", "did not arrive"),
    "the gateway may not read": ("topic read cs/v1/+/up/+", "", "did not arrive"),
}


@pytest.mark.parametrize("rule", BROKEN)
async def test_broken_rules_are_found(tmp_path: Path, rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof_module, "ARRIVES_S", 0.5)
    shipped, broken, words = BROKEN[rule]
    acl = (SHIPPED / "acl").read_text()
    assert shipped in acl
    broker = OwnMosquitto(tmp_path / "broker", ACCOUNTS, acl=acl.replace(shipped, broken))
    broker.start()
    try:
        with pytest.raises(ProofFailed, match=words):
            await prove(broker)
    finally:
        broker.kill()


async def test_a_broker_that_lets_nobodies_in_is_found(tmp_path: Path) -> None:
    acl = "topic write cs/v1/+/up/+\n" + (SHIPPED / "acl").read_text()
    broker = OwnMosquitto(tmp_path / "broker", ACCOUNTS, acl=acl, changed={"allow_anonymous": "true"})
    broker.start()
    try:
        with pytest.raises(ProofFailed, match="anonymous"):
            await prove(broker)
    finally:
        broker.kill()


async def test_a_wrong_probe_password_says_so(tmp_path: Path) -> None:
    broker = OwnMosquitto(tmp_path / "broker", {**ACCOUNTS, "probe-b": "another"})
    broker.start()
    try:
        with pytest.raises(ProofFailed, match="probe-b"):
            await prove(broker)
    finally:
        broker.kill()


async def test_nothing_is_read_from_a_broker_with_broken_rules(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    acl = (SHIPPED / "acl").read_text().replace("pattern write cs/v1/%u/up/+", "pattern write cs/v1/+/up/+")
    broker = OwnMosquitto(tmp_path / "broker", ACCOUNTS, acl=acl)
    broker.start()
    sink = Sink()
    try:
        async with reading(broker, sink) as driver:
            await until(lambda: "readings may come from anybody" in caplog.text, "the sentence")
            assert not driver.counters.connected
            await publish(broker, "gauge-1", "cs/v1/gauge-2/up/report", b"forged")
    finally:
        broker.kill()
    assert sink.frames == []


async def test_reading_goes_on_while_the_rules_are_proved_again(
    mosquitto: OwnMosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proof can take minutes where the broker is slow; echo, receipts and messages must not wait for it."""
    begun, go_on = asyncio.Event(), asyncio.Event()
    prove_once = Proof.run

    async def slow(self: Proof, templates: Iterable[str]) -> None:
        begun.set()
        await go_on.wait()
        await prove_once(self, templates)

    monkeypatch.setattr(liveness, "ECHO_EVERY_S", 0.1)
    monkeypatch.setattr(liveness, "SILENT_S", 0.5)
    sink, letters = Sink(), Letters()
    sink.judge = lambda frame: Verdict(kind=Kind.STORED, receipt=Receipt(boot=1, seq=7))
    async with reading(mosquitto, sink, mail=letters) as driver:
        await until(lambda: driver.counters.connected, "connected")
        monkeypatch.setattr(driver_module, "PROOF_EVERY_S", 0.1)
        monkeypatch.setattr(Proof, "run", slow)
        await begun.wait()
        proof = driver._proving._task
        assert proof is not None
        link, sent = driver._link, driver.counters.figures()["broker.receipts"]
        await publish(mosquitto, "gauge-1", "cs/v1/gauge-1/up/report", b"meanwhile")
        await until(lambda: driver.counters.figures()["broker.receipts"] > sent, "a receipt")
        echoes = driver.counters.figures()["broker.messages"]
        await until(lambda: driver.counters.figures()["broker.messages"] >= echoes + 10, "ten echoes")
        assert driver._link is link, "the connection is as good as before"
        monkeypatch.setattr(driver_module, "PROOF_EVERY_S", 900.0)
        go_on.set()
        await until(proof.done, "proved")
        assert driver.counters.proved


async def test_reading_goes_on_while_messages_for_devices_are_handed_over(
    mosquitto: OwnMosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mailbox may wait for a disk, and the broker may take its time with each of many messages."""
    monkeypatch.setattr(liveness, "ECHO_EVERY_S", 0.1)
    go_on = asyncio.Event()

    class SlowLetters(Letters):
        async def begin(self, mail: Mail) -> bool:
            self.begun.append(mail.id)
            await go_on.wait()
            return True

    letters = SlowLetters()
    letters.put(letter("gauge-1"))
    async with reading(mosquitto, Sink(), mail=letters) as driver:
        await until(lambda: driver.counters.connected, "connected")
        await publish(mosquitto, "gauge-1", "cs/v1/gauge-1/up/report", b"here")
        await until(lambda: letters.begun, "begun")
        echoes = driver.counters.figures()["broker.messages"]
        await until(lambda: driver.counters.figures()["broker.messages"] >= echoes + 5, "five echoes")
        go_on.set()
        await until(lambda: driver.counters.figures()["broker.downlinks"] == 1, "handed over")


async def test_a_link_that_is_lost_says_so_at_once(mosquitto: OwnMosquitto) -> None:
    account = Account(user="gateway", password=ACCOUNTS["gateway"])
    link = Link(
        LinkOptions(
            host=HOST, port=mosquitto.port, client_id="gone", account=account, tls=None, protocol=5, durable=False
        ),
        lambda messages: None,
    )
    await link.open()
    link._lose("enough")  # as by a socket that fails, of which paho has not heard
    async with asyncio.timeout(2):
        with pytest.raises(LinkLost, match="enough"):
            await link.publish("cs/v1/gauge-1/ack", b"")
        with pytest.raises(LinkLost, match="enough"):
            await link.subscribe(["cs/v1/+/up/+"])


async def test_a_rule_that_is_broken_later_ends_the_reading(
    mosquitto: OwnMosquitto, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails(self: Proof, templates: Iterable[str]) -> None:
        raise ProofFailed("it lets everybody in")

    async with reading(mosquitto, Sink()) as driver:
        await until(lambda: driver.standing is Standing.READING, "reading")
        monkeypatch.setattr(Proof, "run", fails)
        monkeypatch.setattr(driver_module, "PROOF_EVERY_S", 0.1)
        await until(lambda: driver.standing is Standing.MISTRUSTED, "mistrusted")
        assert not driver.counters.proved
        assert not driver.counters.connected
    assert "it lets everybody in" in caplog.text


async def test_a_profile_with_a_shared_subscription_stops_nothing_else(
    mosquitto: OwnMosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    async with reading(mosquitto, Sink()) as driver:
        await until(lambda: driver.standing is Standing.READING, "reading")
        driver._templates = frozenset({"$share/group/v/{device}"})
        driver._filters_changed.set()
        await until(lambda: driver.standing is Standing.UNUSABLE, "refused")
        driver._templates = frozenset()
        await until(lambda: driver.standing is Standing.READING, "reading again")
    assert "shared subscription" in caplog.text


async def test_a_stop_reads_nothing_more_while_it_waits_for_verdicts(
    mosquitto: OwnMosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = Sink()
    async with reading(mosquitto, sink) as driver:
        await until(lambda: driver.counters.connected, "connected")
        sink.open = False
        await publish(mosquitto, "gauge-1", "cs/v1/gauge-1/up/report", b"1", b"2")
        await until(lambda: len(sink.frames) == 2, "two frames")
        link = driver._link
        assert link is not None
        resumed: list[bool] = []
        monkeypatch.setattr(link, "resume", lambda: resumed.append(True))
        stopping = asyncio.create_task(driver.stop())
        await until(lambda: link.paused, "paused")
        (_, done), sink._held = sink._held[0], sink._held[1:]
        done(STORED)
        for _ in range(3):
            await asyncio.sleep(0)
        assert not stopping.done()
        sink.release()
        await stopping
    assert resumed == []


async def test_a_defect_of_ours_ends_the_connection_and_says_so(
    mosquitto: OwnMosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception in paho's callback would end its reading without a word, while it calls itself connected."""

    def breaks(messages: list[Any]) -> None:
        raise LookupError("a defect")

    link = Link(
        LinkOptions(
            host=HOST,
            port=mosquitto.port,
            client_id="broken",
            account=Account(user="gateway", password=ACCOUNTS["gateway"]),
            tls=None,
            protocol=5,
            durable=False,
        ),
        breaks,
    )
    await link.open()
    await link.subscribe(["cs/v1/+/up/+"])
    await publish(mosquitto, "gauge-1", "cs/v1/gauge-1/up/report", b"1")
    async with asyncio.timeout(5):
        await link.lost.wait()
    assert "LookupError in breaks" in link.why
    assert "a defect stopped a frame" in caplog.text
