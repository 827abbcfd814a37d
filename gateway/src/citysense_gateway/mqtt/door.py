"""The MQTT server: admits connections, knows which device is on which of them, and cuts them off.

Owns the connections as a whole and their deadlines; each one is a `Connection`, every decision about it is its
`Conversation`'s, and which session it gets is decided by `Sessions`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import ssl
from collections.abc import Callable, Iterable
from random import Random, SystemRandom

from citysense.clock import Clock
from citysense.progress import Pulse
from citysense_gateway.frame import FrameSink, PasswordCheck, Verdict
from citysense_gateway.gaps import Gaps
from citysense_gateway.mail import MailSource
from citysense_gateway.mqtt.acceptor import Acceptor
from citysense_gateway.mqtt.actions import CloseReason, Delivery
from citysense_gateway.mqtt.admission import ConnectRate, Strangers
from citysense_gateway.mqtt.budget import Budget
from citysense_gateway.mqtt.connection import READ_BYTES, Common, Connection
from citysense_gateway.mqtt.credentials import CertificateCheck
from citysense_gateway.mqtt.deadlines import Deadlines
from citysense_gateway.mqtt.fields import Fault
from citysense_gateway.mqtt.frames import frame_of
from citysense_gateway.mqtt.limits import MqttCounters, MqttSettings
from citysense_gateway.mqtt.postman import Postman
from citysense_gateway.mqtt.session import Session, SessionStore
from citysense_gateway.mqtt.sessions import LastWord, Opened, Sessions
from citysense_gateway.mqtt.surroundings import Surroundings
from citysense_gateway.mqtt.sweep import Sweep
from citysense_gateway.mqtt.topics import SpeaksFor, TopicRights, origin_of

_log = logging.getLogger(__name__)


class MqttDoor:
    """Serves devices over MQTT 3.1.1 and 5.0. `counters` may be read at any time.

    `mail` is where downlinks come from, `store` where sessions survive a restart; without them there are none.
    `children_of` and `concentrator_of` (empty: none) say who takes mail for whom. `pulse` beats with each sweep.
    """

    def __init__(
        self,
        *,
        sink: FrameSink,
        check_password: PasswordCheck,
        topic_rights: TopicRights,
        clock: Clock,
        settings: MqttSettings,
        check_certificate: CertificateCheck = lambda device, certificate: False,
        speaks_for: SpeaksFor = lambda concentrator, child: False,
        children_of: Callable[[str], Iterable[str]] = lambda concentrator: (),
        concentrator_of: Callable[[str], str] = lambda child: "",
        mail: MailSource | None = None,
        store: SessionStore | None = None,
        random: Random | None = None,
        pulse: Pulse | None = None,
    ) -> None:
        self._counters = MqttCounters()
        self._clock = clock
        self._settings = settings
        self._store = store
        self._concentrator_of = concentrator_of
        chance = (random or SystemRandom()).random
        self._sessions = Sessions(settings=settings, store=store)
        self._rate = ConnectRate(rate=settings.connect_rate, burst=settings.connect_burst, random=chance)
        self._strangers = Strangers(most=settings.max_strangers, rate=settings.stranger_rate)
        self._ids = itertools.count(1)
        self._id_prefix = ""
        self._around = Surroundings(
            check_password=check_password,
            check_certificate=check_certificate,
            topic_rights=topic_rights,
            speaks_for=speaks_for,
            admit=lambda told: self._rate.ask(clock.monotonic(), told=told),
            new_client_id=lambda: f"{self._id_prefix}-{next(self._ids):x}",
            sessions=self._sessions,
            settings=settings,
            counters=self._counters,
            gaps=Gaps(first=settings.repeat_receipt_after),
            budget=Budget(settings.max_held_bytes),
        )
        self._common = Common(
            host=self, sink=sink, clock=clock, around=self._around, buffer=memoryview(bytearray(READ_BYTES))
        )
        self._postman: Postman | None = None
        if mail is not None:
            self._postman = Postman(
                mail,
                sessions=self._sessions,
                children_of=children_of,
                concentrator_of=concentrator_of,
                random=chance,
            )
        self._acceptor = Acceptor(
            self,
            max_handshakes=settings.max_handshakes,
            handshake_timeout=settings.connect_timeout,
            random=chance,
        )
        self._open = False
        self._connections: set[Connection] = set()
        self._deadlines: Deadlines[Connection] = Deadlines()
        self._sweep = Sweep(
            chores=(self._tidy, self._speak_due, self._retry_mail, self._repeat_receipts),
            deadlines=self._deadlines,
            clock=clock,
            every=settings.sweep_every,
            chunk=settings.sweep_chunk,
            pulse=pulse,
        )
        self._to_flush: list[Connection] = []
        self._last_words: set[Delivery] = set()
        self._unsettled: set[Connection] = set()
        self._changed = asyncio.Event()

    @property
    def counters(self) -> MqttCounters:
        """What was counted so far, and how things are now."""
        counters, budget = self._counters, self._around.budget
        counters.sessions_kept = self._sessions.offline
        counters.handshakes = self._acceptor.opening
        counters.held_bytes = budget.held
        counters.held_up = budget.waiting
        return counters

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._acceptor.port

    async def start(self, host: str, port: int, *, tls: ssl.SSLContext | None = None) -> None:
        """Listen; port 0 takes a free one. `tls` asks for a client's certificate where devices may have one.

        OSError comes through as it is: whoever configured the address words it. Raises StorageError where the sessions
        that were kept cannot be read.
        """
        now_ms = self._clock.now_ms()
        # Names that we give are never given twice, also not by the next process: they are part of delivery keys.
        self._id_prefix = f"auto-{now_ms:x}"
        self._sessions.load(now_ms)
        self._acceptor.tls = tls
        self._acceptor.open(host, port)
        self._open = True
        if self._postman is not None:
            self._postman.start()
        self._sweep.start()

    def use_tls(self, tls: ssl.SSLContext) -> None:
        """Take this context for connections from now on; those that are open keep theirs."""
        self._acceptor.tls = tls

    async def stop(self) -> None:
        """Take nothing new, wait `stop_grace` for verdicts under way, answer them, and hang up on everybody."""
        if not self._open:
            return
        self._open = False
        await self._acceptor.close()
        self._sweep.stop()
        for connection in self._connections:
            connection.drain()
        self._unsettled = {connection for connection in self._connections if not connection.idle}
        answered = await self._until(lambda: not self._unsettled and not self._last_words, self._settings.stop_grace)
        if not answered:
            _log.warning("stopping before the pipeline has answered all frames; their senders keep them")
        for connection in tuple(self._connections):
            connection.finish(CloseReason.SHUTTING_DOWN)
        if not await self._until(lambda: not self._connections, self._settings.linger):
            # Peers that would not hang up themselves, or frames that nobody answers.
            for connection in tuple(self._connections):
                connection.abort()
            await self._until(lambda: not self._connections, self._settings.linger)
        if self._postman is not None:
            await self._postman.close()
        if self._store is not None:
            await self._store.flush()

    def disconnect(self, device: str) -> int:
        """Cut all live sessions of a device whose rights have ended, and forget those it left; how many were live.

        The password check must refuse the device already, or it is back at once.
        """
        holders = self._sessions.drop(device)
        self._around.gaps.forget(device)
        for holder in holders:
            holder.finish(CloseReason.REVOKED)
        return len(holders)

    # Called by the acceptor

    def admit(self, address: str, source: str) -> Connection | None:
        """See `acceptor.Gate`."""
        self._counters.connections_accepted += 1
        if len(self._connections) + self._acceptor.opening >= self._settings.max_connections:
            self._counters.closed[CloseReason.TOO_MANY_CONNECTIONS] += 1
            return None
        if not self._strangers.admit(address, self._clock.monotonic()):
            self._counters.closed[CloseReason.TOO_MANY_STRANGERS] += 1
            return None
        return Connection(self._common, address=address, source=source)

    def turned_away(self, connection: Connection) -> None:
        """See `acceptor.Gate`."""
        self._counters.closed[CloseReason.HANDSHAKE_FAILED] += 1
        self._no_stranger(connection)

    # Called by connections

    def connection_made(self, connection: Connection) -> bool:
        """See `connection.Host`."""
        self._connections.add(connection)
        self._counters.connections = len(self._connections)
        return self._open

    def proven(self, connection: Connection) -> None:
        """See `connection.Host`."""
        if connection.stranger:
            connection.stranger = False
            self._strangers.proven(connection.address)

    def session_opened(self, connection: Connection, opened: Opened) -> None:
        """See `connection.Host`."""
        self._counters.sessions_opened += 1
        for holder, reason in opened.cut:
            holder.finish(reason)
        if self._postman is not None:
            self._postman.opened(opened.session)
        self._speak(opened.wills)

    def session_ended(self, connection: Connection, session: Session, reason: CloseReason | Fault) -> None:
        """See `connection.Host`."""
        held = session.holder is connection
        self._speak(self._sessions.release(session, connection, self._clock.now_ms(), reason=reason))
        if held and self._postman is not None:
            self._postman.left(session)

    def attend(self, connection: Connection) -> None:
        """See `connection.Host`."""
        if self._postman is not None and connection.session is not None:
            self._postman.visit(connection.session)

    def watch(self, connection: Connection, due: float | None) -> None:
        """See `connection.Host`."""
        if due is None:
            self._deadlines.forget(connection)
        else:
            self._deadlines.file(connection, due)

    def flush_soon(self, connection: Connection) -> None:
        """See `connection.Host`."""
        if not self._to_flush:
            asyncio.get_running_loop().call_soon(self._flush)
        self._to_flush.append(connection)

    def settled_all(self, connection: Connection) -> None:
        """See `connection.Host`."""
        self._unsettled.discard(connection)
        self._changed.set()

    def connection_done(self, connection: Connection) -> None:
        """See `connection.Host`."""
        self._connections.discard(connection)
        self._unsettled.discard(connection)
        self._deadlines.forget(connection)
        self._no_stranger(connection)
        self._counters.connections = len(self._connections)
        self._changed.set()

    def settled(self, delivery: Delivery, verdict: Verdict) -> None:
        """The pipeline has answered for a will; see `actions.Settler`."""
        self._last_words.discard(delivery)
        self._changed.set()

    def _no_stranger(self, connection: Connection) -> None:
        if connection.stranger:
            connection.stranger = False
            self._strangers.gone(connection.address)

    def _flush(self) -> None:
        connections, self._to_flush = self._to_flush, []
        for connection in connections:
            connection.flush()

    def _speak(self, words: Iterable[LastWord]) -> None:
        """Publish wills as frames of their devices; a device that has lost the right to the topic leaves none."""
        for word in words:
            around = self._around
            origin = origin_of(word.device, word.will.topic, around.topic_rights, around.speaks_for)
            if origin is None:
                continue
            self._counters.wills += 1
            source = f"will of {word.client_id}"
            frame = frame_of(origin, word.will.topic, word.will.payload, source=source, now_ms=self._clock.now_ms())
            delivery = Delivery(frame)
            delivery.settler = self
            self._last_words.add(delivery)
            self._common.sink.deliver(frame, delivery.told)

    # What the clock alone brings about; see `sweep`

    def _tidy(self) -> None:
        self._strangers.tidy(self._clock.monotonic())

    def _speak_due(self) -> None:
        self._speak(self._sessions.due(self._clock.now_ms()))

    def _retry_mail(self) -> None:
        if self._postman is not None:
            self._postman.tick()

    def _repeat_receipts(self) -> None:
        """Devices with a gap in their numbers hear again from where to send: the receipt before may have been lost."""
        for device, receipt in self._around.gaps.due(self._clock.now_ms() / 1_000):
            for session in self._sessions.live(self._concentrator_of(device) or device):
                if session.holder is not None:
                    session.holder.repeat_receipt(device, receipt)

    async def _until(self, done: Callable[[], bool], within: float) -> bool:
        """Wait for `done`, at most `within` seconds; whether it is so."""
        try:
            async with asyncio.timeout(within):
                while not done():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return done()
        return True
