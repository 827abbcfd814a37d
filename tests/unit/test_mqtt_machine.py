"""The MQTT door without its sockets under any order of events: connections break, the gateway restarts, acknowledgements
get lost, and still a QoS 2 message is one frame, a downlink arrives, and one that may go out once does so once at most."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from citysense.clock import SetClock
from citysense_gateway.frame import Frame, Kind, Receipt, Verdict
from citysense_gateway.gaps import Gaps
from citysense_gateway.mail import Mail
from citysense_gateway.mqtt.actions import Action, Close, CloseReason, Delivery, Signal
from citysense_gateway.mqtt.budget import Budget
from citysense_gateway.mqtt.conversation import Conversation
from citysense_gateway.mqtt.limits import MqttCounters, MqttSettings
from citysense_gateway.mqtt.packets import Connect, Puback, Publish, Pubrel, Subscribe, Version
from citysense_gateway.mqtt.postman import Postman
from citysense_gateway.mqtt.properties import Property
from citysense_gateway.mqtt.session import StoredSession
from citysense_gateway.mqtt.sessions import Sessions
from citysense_gateway.mqtt.surroundings import Surroundings

DEVICE = "gauge-1"
NAMES = ("a", "b")
LIFE_MS = 3_600_000


class Store:
    """What is on the disk of the gateway."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], StoredSession] = {}

    def load(self) -> list[StoredSession]:
        return list(self.kept.values())

    def put(self, session: StoredSession) -> None:
        self.kept[(session.device, session.client_id)] = session

    def drop(self, device: str, client_id: str) -> None:
        self.kept.pop((device, client_id), None)

    async def flush(self) -> None: ...


class Box:
    """A mailbox that forgets nothing."""

    def __init__(self, clock: SetClock) -> None:
        self._clock = clock
        self._listener: Callable[[str], None] = lambda device: None
        self.mail: dict[str, Mail] = {}
        self.begun: Counter[str] = Counter()
        self.confirmed: set[str] = set()

    def post(self, *, once: bool) -> None:
        number = str(len(self.mail))
        expires = self._clock.now_ms() + LIFE_MS
        self.mail[number] = Mail(
            id=number,
            device=DEVICE,
            message="set",
            payload=number.encode(),
            content=50,
            values={},
            expires=expires,
            priority=1,
            once=once,
        )
        self._listener(DEVICE)

    def _open(self, mail: Mail) -> bool:
        return mail.id not in self.confirmed and not (mail.once and self.begun[mail.id])

    def waiting(self, device: str) -> tuple[Mail, ...]:
        return tuple(mail for mail in self.mail.values() if mail.device == device and self._open(mail))

    async def begin(self, mail: Mail) -> bool:
        await asyncio.sleep(0)
        if not self._open(mail):
            return False
        self.begun[mail.id] += 1
        return True

    async def delivered(self, mail: Mail) -> None:
        await asyncio.sleep(0)
        self.confirmed.add(mail.id)

    async def refused(self, mail: Mail, detail: str) -> None:
        raise AssertionError(f"nothing is refused here: {detail}")

    def listen(self, on_mail: Callable[[str], None]) -> None:
        self._listener = on_mail


class Client:
    """The device's end: what of its own is not finished, and what it was given."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.link: Link | None = None
        self.unfinished: dict[int, tuple[bytes, bool]] = {}
        """Payload by packet id, and whether PUBREC was heard."""
        self.unacknowledged: dict[int, bytes] = {}
        """On this connection, payload by packet id."""
        self.seen: dict[bytes, int] = {}
        """Packet id of what was not acknowledged, by payload, over all connections."""
        self.received: list[bytes] = []
        self.last_id = 0


class Link:
    """A connection: the door's side of it as a holder, and what the client hears."""

    def __init__(self, world: World, client: Client, version: Version) -> None:
        self._world = world
        self._client = client
        self.version = version
        self.conversation = Conversation(world.around, source="x", holder=self)
        self.present = False
        self.open = True

    def take(self, actions: tuple[Action, ...]) -> None:
        for action in actions:
            if isinstance(action, Delivery):
                action.settler = self
                if action.frame is not None:
                    self._world.frames[action.frame.payload] += 1
                    self._world.pipeline.append(action)
            elif isinstance(action, bytes):
                self._hear(action)
            elif isinstance(action, Close):
                self._end(action.reason)
            elif action is Signal.OPENED:
                opened = self.conversation.take_opened()
                for holder, reason in opened.cut:
                    holder.finish(reason)
                self._world.postman.opened(opened.session)
            elif action is Signal.ATTEND and self.conversation.session is not None:
                self._world.postman.visit(self.conversation.session)

    def settled(self, delivery: Delivery, verdict: Verdict) -> None:
        self.take(self.conversation.settle(delivery, verdict))

    def finish(self, reason: CloseReason) -> None:
        self.take(self.conversation.end(reason))

    def next_mail(self, waiting: Sequence[Mail]) -> Mail | None:
        return self.conversation.next_mail(waiting)

    def repeat_receipt(self, device: str, receipt: Receipt) -> None:
        raise AssertionError("no gap is played here")

    def send_mail(self, mail: Mail) -> bool:
        actions = self.conversation.send(mail, self._world.clock.now_ms())
        self.take(actions)
        return bool(actions)

    def _end(self, reason: object) -> None:
        self.open = False
        if self._client.link is self:
            self._client.link = None
            self._client.unacknowledged.clear()
        session = self.conversation.session
        if session is not None:
            held = session.holder is self
            self._world.sessions.release(session, self, self._world.clock.now_ms(), reason=reason)
            if held:
                self._world.postman.left(session)

    def _hear(self, packet: bytes) -> None:
        kind = packet[0] >> 4
        if kind == 2:
            assert packet[3] == 0
            self.present = packet[2] == 1
        if not self.open or self._client.link is not self:
            return
        number = int.from_bytes(packet[2:4], "big")
        if kind == 5:
            assert len(packet) == 4
            if number in self._client.unfinished:
                self._client.unfinished[number] = (self._client.unfinished[number][0], True)
        elif kind == 7:
            self._client.unfinished.pop(number, None)
        elif kind == 3:
            topic_end = 4 + int.from_bytes(packet[2:4], "big")
            assert packet[4:topic_end] == b"cs/v1/gauge-1/down/set"
            payload = packet[topic_end + 2 :]
            if self.version is Version.V5:
                payload = payload[1 + payload[0] :]
            number = int.from_bytes(packet[topic_end : topic_end + 2], "big")
            dup = packet[0] & 8 == 8
            assert (payload in self._client.seen) is dup
            assert self._client.seen.setdefault(payload, number) == number
            self._client.received.append(payload)
            self._client.unacknowledged[number] = payload


class World:
    """The gateway's process, the pipeline behind it with what it remembers, and the devices."""

    def __init__(self) -> None:
        self.clock = SetClock(1_000_000)
        self.store = Store()
        self.box = Box(self.clock)
        self.clients = {name: Client(name) for name in NAMES}
        self.stored: Counter[bytes] = Counter()
        self._keys: set[tuple[bytes, bytes]] = set()
        self.loop = asyncio.new_event_loop()
        self.start()

    def start(self) -> None:
        """A new process: only the disk, the mailbox and the spool are as they were."""
        self.frames: Counter[bytes] = Counter()
        self.pipeline: list[Delivery] = []
        self.sessions = Sessions(settings=MqttSettings(), store=self.store)
        self.around = Surroundings(
            gaps=Gaps(),
            budget=Budget(MqttSettings().max_held_bytes),
            check_password=lambda device, secret: True,
            check_certificate=lambda device, der: False,
            topic_rights=lambda device, topic: None,
            speaks_for=lambda concentrator, child: False,
            admit=lambda _told: None,
            new_client_id=lambda: "auto",
            sessions=self.sessions,
            settings=MqttSettings(),
            counters=MqttCounters(),
        )
        self.postman = Postman(
            self.box,
            sessions=self.sessions,
            children_of=lambda device: (),
            concentrator_of=lambda device: "",
            random=lambda: 0.5,
        )
        self.sessions.load(self.clock.now_ms())
        self.postman.start()

    def kill(self) -> None:
        self.run(self.postman.close())
        for client in self.clients.values():
            client.link = None
            client.unacknowledged.clear()
        self.start()

    def run(self, what: Coroutine[Any, Any, None]) -> None:
        self.loop.run_until_complete(what)

    def commit(self, delivery: Delivery) -> None:
        """The spool's rule: only what says that it is a repeat is one (DUP), and only if it was stored."""
        frame = delivery.frame
        assert isinstance(frame, Frame) and frame.delivery is not None
        key = (frame.delivery[1:], frame.payload)
        duplicate = frame.delivery[:1] == b"\x01" and key in self._keys
        if not duplicate:
            self._keys.add(key)
            self.stored[frame.payload] += 1
        delivery.told(Verdict(kind=Kind.DUPLICATE if duplicate else Kind.STORED))

    def act(self, do: Callable[[], None]) -> None:
        """Do something inside the loop, and let the postman finish what it can."""

        async def inside() -> None:
            do()
            await self.postman.close()

        self.run(inside())


class Door(RuleBasedStateMachine):
    names = st.sampled_from(NAMES)

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.sent = 0

    @initialize()
    def begin(self) -> None:
        assert self.world.sessions.offline == 0

    @rule(name=names, version=st.sampled_from(Version))
    def connect(self, name: str, version: Version) -> None:
        """Also while the old connection stands: then it is taken over."""
        self.world.act(lambda: self._connect(name, version))

    def _connect(self, name: str, version: Version) -> None:
        client = self.world.clients[name]
        had = (DEVICE, name) in self.world.store.kept
        link = Link(self.world, client, version)
        client.link = link
        client.unacknowledged.clear()
        properties = {Property.SESSION_EXPIRY: 86_400} if version is Version.V5 else {}
        connect = Connect(
            version=version,
            client_id=name,
            clean_start=False,
            keep_alive=60,
            username=DEVICE,
            password=b"",
            properties=properties,
        )
        now = self.world.clock.now_ms()
        link.take(link.conversation.receive(connect, now))
        assert link.present is had
        if not link.present:
            subscribe = Subscribe(packet_id=1, filters=((f"cs/v1/{DEVICE}/down/+", 1),))
            link.take(link.conversation.receive(subscribe, now))
        for number, (payload, heard) in list(client.unfinished.items()):
            self._say(link, number, payload, heard, dup=True)

    def _say(self, link: Link, number: int, payload: bytes, heard: bool, *, dup: bool) -> None:
        topic = f"cs/v1/{DEVICE}/up/report"
        publish = Publish(topic=topic, payload=payload, qos=2, dup=dup, retain=False, packet_id=number)
        packet = Pubrel(packet_id=number) if heard else publish
        link.take(link.conversation.receive(packet, self.world.clock.now_ms()))

    @rule(name=names)
    def publish(self, name: str) -> None:
        client = self.world.clients[name]
        if client.link is None or len(client.unfinished) >= 5:
            return
        client.last_id += 1
        self.sent += 1
        payload = b"%d" % self.sent
        client.unfinished[client.last_id] = (payload, False)
        link = client.link
        self.world.act(lambda: self._say(link, client.last_id, payload, False, dup=False))

    @rule(name=names)
    def release(self, name: str) -> None:
        client = self.world.clients[name]
        for number, (payload, heard) in list(client.unfinished.items()):
            if heard and client.link is not None:
                link = client.link
                self.world.act(lambda: self._say(link, number, payload, True, dup=False))  # noqa: B023

    @precondition(lambda self: self.world.pipeline)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        which = data.draw(st.integers(0, len(self.world.pipeline) - 1))
        delivery = self.world.pipeline.pop(which)
        self.world.act(lambda: self.world.commit(delivery))

    @rule(once=st.booleans())
    def post(self, once: bool) -> None:
        self.world.act(lambda: self.world.box.post(once=once))

    @rule(name=names, count=st.integers(1, 4))
    def acknowledge(self, name: str, count: int) -> None:
        client = self.world.clients[name]
        if client.link is not None and client.unacknowledged:
            numbers = list(client.unacknowledged)[:count]
            self.world.act(lambda: self._acknowledge(client, numbers))

    def _acknowledge(self, client: Client, numbers: list[int]) -> None:
        for number in numbers:
            assert client.link is not None
            del client.seen[client.unacknowledged.pop(number)]
            puback = Puback(packet_id=number)
            client.link.take(client.link.conversation.receive(puback, self.world.clock.now_ms()))

    @rule(name=names)
    def cut(self, name: str) -> None:
        link = self.world.clients[name].link
        if link is not None:
            self.world.act(lambda: link.finish(CloseReason.PEER_LOST))

    @rule()
    def kill(self) -> None:
        """Frames that were not committed are gone with the process."""
        self.world.kill()

    @invariant()
    def once_is_once(self) -> None:
        received = Counter(payload for client in self.world.clients.values() for payload in client.received)
        for mail in self.world.box.mail.values():
            if mail.once:
                assert received[mail.payload] <= 1
                assert self.world.box.begun[mail.id] <= 1

    @invariant()
    def no_downlink_is_on_two_ways(self) -> None:
        on_its_way = [payload for client in self.world.clients.values() for payload in client.unacknowledged.values()]
        assert len(on_its_way) == len(set(on_its_way))

    @invariant()
    def nothing_is_stored_twice(self) -> None:
        assert all(count == 1 for count in self.world.stored.values())
        # A process that has forgotten hands a repeat on, for the spool to tell; one that has not makes one frame.
        assert all(count == 1 for count in self.world.frames.values())

    @invariant()
    def what_is_released_is_stored(self) -> None:
        for client in self.world.clients.values():
            for payload, heard in client.unfinished.values():
                assert not heard or self.world.stored[payload] == 1

    def teardown(self) -> None:
        """Let everything come to its end: each message was one frame, each downlink was confirmed or went out once."""
        for name in NAMES:
            self._settle(name)
        assert not any(client.unfinished for client in self.world.clients.values())
        assert len(self.world.stored) == self.sent
        for mail in self.world.box.mail.values():
            assert mail.id in self.world.box.confirmed or (mail.once and self.world.box.begun[mail.id] == 1)
        self.world.loop.close()

    def _settle(self, name: str) -> None:
        client = self.world.clients[name]
        self.world.act(lambda: self._connect(name, Version.V3_1_1))
        for _ in range(3):
            while self.world.pipeline:
                delivery = self.world.pipeline.pop(0)
                self.world.act(lambda: self.world.commit(delivery))  # noqa: B023
            self.release(name)
        while client.unacknowledged:
            self.acknowledge(name, 2)


TestDoor = Door.TestCase
TestDoor.settings = hypothesis_settings(max_examples=60, stateful_step_count=40, deadline=None)
