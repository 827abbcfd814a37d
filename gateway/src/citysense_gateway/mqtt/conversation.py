"""Every decision of one MQTT connection, without a socket or a clock.

Owns what a connection may do and what it is answered: packets, verdicts and endings go in, actions come out, to be
carried out in their order. It must not decide what a payload means, nor do I/O.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from citysense_gateway.frame import Kind, Reason, Receipt, Verdict
from citysense_gateway.mail import Mail
from citysense_gateway.mqtt.actions import (
    Action,
    Close,
    CloseReason,
    Delivery,
    Signal,
    disconnect_code,
    publish_code,
)
from citysense_gateway.mqtt.connecting import Terms, terms_of
from citysense_gateway.mqtt.credentials import Certificate
from citysense_gateway.mqtt.downlinks import next_mail, packet_for
from citysense_gateway.mqtt.fields import Fault, ProtocolViolation
from citysense_gateway.mqtt.frames import frame_of, refused_frame
from citysense_gateway.mqtt.greeting import Impostor, TurnedAway, Welcome, greet
from citysense_gateway.mqtt.incoming import Incoming, digest_of
from citysense_gateway.mqtt.packets import (
    PINGRESP,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Puback,
    Publish,
    Pubrel,
    Subscribe,
    Unsubscribe,
    Version,
    encode_connack,
    encode_disconnect,
    encode_puback,
    encode_pubcomp,
    encode_publish,
    encode_pubrec,
)
from citysense_gateway.mqtt.properties import Property
from citysense_gateway.mqtt.session import Holder, Session
from citysense_gateway.mqtt.sessions import Opened, Opening
from citysense_gateway.mqtt.subscribing import subscribe, unsubscribe
from citysense_gateway.mqtt.surroundings import Surroundings
from citysense_gateway.mqtt.topics import Origin, ack_topic, origin_of

_SHOWN_DETAIL = 200
_AGAIN = Verdict(kind=Kind.DUPLICATE)
_NOT_FOUND = 0x92


class _Phase(Enum):
    WAITING = "no CONNECT yet"
    REFUSING = "CONNECT refused, its dead letter under way"
    OPEN = "CONNACK sent"
    CLOSED = "closed"


class Conversation:
    """State of one connection. `source` is the peer's address for dead letters, `holder` the connection itself."""

    __slots__ = (
        "_around",
        "_certificate",
        "_draining",
        "_first_flag",
        "_holder",
        "_incoming",
        "_opened",
        "_own_origin",
        "_own_topic",
        "_phase",
        "_receipts",
        "_repeat_flag",
        "_session",
        "_source",
        "_terms",
        "_v5",
    )

    def __init__(
        self, around: Surroundings, *, source: str, holder: Holder, certificate: Certificate | None = None
    ) -> None:
        self._around = around
        self._source = source
        self._holder = holder
        self._certificate = certificate
        self._phase = _Phase.WAITING
        self._terms = Terms()
        self._v5 = False
        self._draining = False
        self._incoming = Incoming(around.budget)
        self._session: Session | None = None
        self._opened: Opened | None = None
        # The last topic that was the device's own, and whose message comes on it.
        self._own_topic = ""
        self._own_origin: Origin | None = None
        self._first_flag = self._repeat_flag = b""
        self._receipts: dict[str, Receipt] | None = None

    @property
    def wants_packets(self) -> bool:
        """False while the peer has to wait: too much without a verdict, or nothing more is taken from it."""
        if self._incoming.idle:
            return (self._phase is _Phase.OPEN or self._phase is _Phase.WAITING) and not self._draining
        settings = self._around.settings
        return (
            self._phase is _Phase.OPEN
            and not self._draining
            and not self._incoming.is_full(settings.receive_maximum, settings.max_in_flight_bytes)
        )

    @property
    def idle(self) -> bool:
        """True when every frame has its verdict."""
        return self._incoming.idle

    @property
    def session(self) -> Session | None:
        """The session, from an accepted CONNECT to the end of the connection."""
        return self._session

    def take_opened(self) -> Opened:
        """What opening the session brought along; once, after `Signal.OPENED`."""
        assert self._opened is not None
        opened, self._opened = self._opened, None
        return opened

    def receive(self, packet: Packet, now_ms: int) -> tuple[Action, ...]:
        """Decide on one packet that was received at `now_ms`."""
        if type(packet) is Publish:
            return self._publish(packet, now_ms) if self._phase is _Phase.OPEN else ()
        if isinstance(packet, Connect):
            return self._connect(packet, now_ms) if self._phase is _Phase.WAITING else ()
        if self._phase is not _Phase.OPEN or self._session is None:
            return ()
        match packet:
            case Pingreq():
                return (PINGRESP,)
            case Puback():
                return self._confirmed(self._session, packet)
            case Pubrel():
                known = self._incoming.release(packet.packet_id)
                return (encode_pubcomp(self._terms.version, packet.packet_id, 0 if known else _NOT_FOUND),)
            case Subscribe():
                return self._subscribe(self._session, packet)
            case Unsubscribe():
                return self._unsubscribe(self._session, packet)
            case Disconnect():
                return self._disconnect(self._session, packet)
        return ()

    def settle(self, delivery: Delivery, verdict: Verdict) -> tuple[Action, ...]:
        """Take the verdict on a delivery; the answers that are due go out in the order in which the frames came."""
        if delivery.qos == 2:
            code = publish_code(self._terms.version, verdict)
            self._incoming.judged(delivery, taken=code is not None and code < 0x80)
        due = self._incoming.settle(delivery, verdict)
        if len(due) == 1:
            return self._answer(delivery, verdict)
        actions: list[Action] = []
        for done in due:
            assert done.verdict is not None
            actions += self._answer(done, done.verdict)
        return tuple(actions)

    def violated(self, fault: Fault) -> tuple[Action, ...]:
        """End after the peer broke the protocol."""
        if self._phase is _Phase.WAITING and fault is Fault.UNSUPPORTED_VERSION:
            # The form of 3.1.1, which is the one that clients of every other level know best.
            return (encode_connack(Version.V3_1_1, 1), *self._close(fault))
        return self.end(fault)

    def unreadable(self, violation: ProtocolViolation, now_ms: int) -> tuple[Action, ...]:
        """End after bytes that are no packet, or one that may not come; a PUBLISH lost by it leaves a trace, without its
        payload.

        The peer does not wait for the trace to be kept: it gets no PUBACK either way.
        """
        device = self._session.device if self._session is not None and self._phase is _Phase.OPEN else None
        ending = self.violated(violation.fault)
        if device is None or violation.lost is None:
            return ending
        reason = Reason.TOO_LARGE if violation.fault is Fault.TOO_LARGE else Reason.FOREIGN_TOPIC
        frame = refused_frame(device, violation.lost, b"", source=self._source, now_ms=now_ms)
        trace = Delivery(frame, reason=reason, detail=violation.detail)
        self._incoming.add(trace)
        return (trace, *ending)

    def end(self, reason: CloseReason | Fault) -> tuple[Action, ...]:
        """End from our side; nothing when it has ended before."""
        code = disconnect_code(reason)
        if self._phase is _Phase.OPEN and self._v5 and code is not None:
            return (encode_disconnect(code), *self._close(reason))
        return self._close(reason)

    def drain(self) -> None:
        """Take no further packet; verdicts are still answered."""
        self._draining = True

    def abandon(self) -> None:
        """Wait no more for verdicts."""
        self._incoming.abandon()

    def overdue(
        self, now: float, *, opened: float, last_packet: float, partial_since: float | None
    ) -> CloseReason | None:
        """Which deadline has passed, if any. All times in monotonic seconds.

        Keep-alive counts whole packets (MQTT-3.1.2-22): a peer that sends a byte now and then does not stay alive.
        """
        if self._phase is _Phase.WAITING:
            return CloseReason.CONNECT_TIMEOUT if now - opened >= self._around.settings.connect_timeout else None
        if self._phase is not _Phase.OPEN:
            return None
        if partial_since is not None and now - partial_since >= self._around.settings.packet_timeout:
            return CloseReason.PACKET_TIMEOUT
        keep_alive = self._terms.keep_alive
        if keep_alive and now - last_packet > 1.5 * keep_alive:
            return CloseReason.KEEP_ALIVE
        return None

    def deadline(self, *, opened: float, last_packet: float, partial_since: float | None) -> float | None:
        """The earliest moment at which `overdue` may say something; None for never as things are."""
        if self._phase is _Phase.WAITING:
            return opened + self._around.settings.connect_timeout
        if self._phase is not _Phase.OPEN:
            return None
        keep_alive = self._terms.keep_alive
        due = [last_packet + 1.5 * keep_alive] if keep_alive else []
        if partial_since is not None:
            due.append(partial_since + self._around.settings.packet_timeout)
        return min(due, default=None)

    def take_receipts(self) -> bytes:
        """The newest receipt of each device not sent yet, as PUBLISH to its ack topic."""
        if self._receipts is None:
            return b""
        receipts, self._receipts = self._receipts, None
        if self._phase is not _Phase.OPEN:
            return b""
        packets = (
            encode_publish(self._terms.version, topic, b'{"boot":%d,"seq":%d}' % (receipt.boot, receipt.seq))
            for topic, receipt in receipts.items()
        )
        return b"".join(packet for packet in packets if self._terms.fits(packet))

    def _close(self, reason: CloseReason | Fault) -> tuple[Action, ...]:
        if self._phase is _Phase.CLOSED:
            return ()
        self._phase = _Phase.CLOSED
        return (Close(reason),)

    # CONNECT

    def _connect(self, packet: Connect, now_ms: int) -> tuple[Action, ...]:
        around = self._around
        self._terms, self._v5 = terms_of(packet, around.settings), packet.version is Version.V5
        decided = greet(
            packet, self._terms, certificate=self._certificate, around=around, source=self._source, now_ms=now_ms
        )
        if isinstance(decided, Impostor):
            self._phase = _Phase.REFUSING
            self._incoming.add(decided.trace)
            return (Signal.PROVEN, decided.trace) if decided.proven else (decided.trace,)
        if isinstance(decided, TurnedAway):
            around.counters.put_off += decided.reason is CloseReason.BUSY
            told = (decided.told,) if decided.told else ()
            return (Signal.PROVEN, *told, *self._close(decided.reason))
        return self._open(packet, decided, now_ms)

    def _open(self, packet: Connect, welcome: Welcome, now_ms: int) -> tuple[Action, ...]:
        self._phase = _Phase.OPEN
        opening = Opening(
            device=welcome.device,
            client_id=welcome.client_id,
            clean=packet.clean_start,
            expiry=self._terms.expiry,
            will=packet.will,
            holder=self._holder,
        )
        opened = self._around.sessions.open(opening, now_ms)
        self._opened = opened
        self._session = self._incoming.session = opened.session
        name = f"{welcome.device}/{welcome.client_id}/".encode()
        self._first_flag, self._repeat_flag = b"\x00" + name, b"\x01" + name
        if opened.present:
            self._around.counters.sessions_resumed += 1
        connack = encode_connack(self._terms.version, 0, present=opened.present, properties=welcome.properties)
        attend = (Signal.ATTEND,) if opened.session.subscriptions else ()
        return (Signal.PROVEN, Signal.OPENED, connack, *attend)

    # PUBLISH

    def _publish(self, packet: Publish, now_ms: int) -> tuple[Action, ...]:
        session = self._session
        assert session is not None
        topic, qos, packet_id, digest = packet.topic, packet.qos, packet.packet_id, b""
        if packet.retain and self._v5:
            # MQTT-3.2.2-14. MQTT 3.1.1 has no way to say so; there the flag is not looked at.
            detail = "a message to be retained, and CONNACK said that nothing is"
            return self.unreadable(ProtocolViolation(Fault.RETAIN_NOT_SUPPORTED, detail, lost=topic), now_ms)
        if qos == 2:
            assert packet_id is not None
            digest = digest_of(topic, packet.payload)
            known = self._begun_before(packet_id, digest)
            if known is not None:
                return known
        self._around.counters.publishes += 1
        if topic != self._own_topic and not self._learn(session.device, topic):
            frame = refused_frame(session.device, topic, packet.payload, source=self._source, now_ms=now_ms)
            detail = "the topic is not the device's own"
            delivery = Delivery(frame, packet_id, qos, reason=Reason.FOREIGN_TOPIC, detail=detail, digest=digest)
        else:
            origin = self._own_origin
            assert origin is not None
            flag = self._repeat_flag if packet.dup else self._first_flag
            # The DUP flag, then who calls this message by which number.
            key = flag + b"%d" % packet_id if packet_id else None
            frame = frame_of(origin, topic, packet.payload, source=self._source, now_ms=now_ms, delivery=key)
            delivery = Delivery(frame, packet_id, qos, digest=digest)
        self._incoming.add(delivery)
        return (delivery,)

    def _learn(self, device: str, topic: str) -> bool:
        """Find out whose message comes on `topic`; false if the device may not publish there."""
        around = self._around
        origin = origin_of(device, topic, around.topic_rights, around.speaks_for)
        if origin is None:
            return False
        self._own_origin = origin
        # Only on native topics of its own are a device's rights fixed for the life of a connection.
        self._own_topic = topic if origin.message and not origin.via and topic.startswith("cs/v1/") else ""
        return True

    def _begun_before(self, packet_id: int, digest: bytes) -> tuple[Action, ...] | None:
        """The answer to a QoS 2 message that need not, or may not, become a frame; None if it does."""
        place = self._incoming.repeat(packet_id, digest)
        if place is not None:
            return self.settle(place, _AGAIN) if self._incoming.taken(packet_id) else (place,)
        settings = self._around.settings
        most = settings.receive_maximum if self._v5 else settings.max_unreleased
        return None if self._incoming.may_begin(packet_id, most) else self.violated(Fault.RECEIVE_MAXIMUM)

    def _answer(self, delivery: Delivery, verdict: Verdict) -> tuple[Action, ...]:
        if verdict.kind is Kind.UNAVAILABLE:
            self._around.counters.refused["unavailable"] += 1
        elif verdict.kind is Kind.REJECTED:
            self._around.counters.refused[verdict.reason or "rejected"] += 1
        if self._phase is not _Phase.OPEN:
            if self._phase is not _Phase.REFUSING:
                return ()
            code = 0x87 if self._v5 else 5
            return (encode_connack(self._terms.version, code), *self._close(CloseReason.CONNECT_REFUSED))
        if verdict.receipt is not None and delivery.frame is not None and delivery.frame.device is not None:
            self._around.gaps.note(delivery.frame.device, verdict, delivery.frame.received_at / 1_000)
            self.owe_receipt(delivery.frame.device, verdict.receipt)
        packet_id = delivery.packet_id
        if packet_id is None:
            return ()
        if delivery.qos == 1 and verdict.reason is None and verdict.kind is not Kind.UNAVAILABLE:
            return (b"\x40\x02" + packet_id.to_bytes(2, "big"),)
        code_or_close = publish_code(self._terms.version, verdict)
        if code_or_close is None:
            return self._close(CloseReason.STORAGE_UNAVAILABLE)
        return (self._publish_answer(delivery.qos, packet_id, code_or_close, verdict.detail),)

    def owe_receipt(self, device: str, receipt: Receipt) -> None:
        """Have `receipt` sent with the next flush, if the peer listens to the receipts of `device`."""
        session = self._session
        if session is None:
            return
        topic = ack_topic(device, "" if device == session.device else session.device)
        if session.wants(topic) is not None:
            if self._receipts is None:
                self._receipts = {}
            self._receipts[topic] = receipt

    def _publish_answer(self, qos: int, packet_id: int, code: int, detail: str) -> bytes:
        encode = encode_puback if qos == 1 else encode_pubrec
        if code and detail and self._terms.explain:
            shown = detail[:_SHOWN_DETAIL].replace("\0", "?").encode(errors="replace").decode()
            packet = encode(self._terms.version, packet_id, code, reason_string=shown)
            if self._terms.fits(packet):
                return packet
        return encode(self._terms.version, packet_id, code)

    # Downlinks

    def next_mail(self, waiting: Sequence[Mail]) -> Mail | None:
        """What of `waiting` is to be sent next; None for nothing, or nothing at this moment."""
        if self._phase is not _Phase.OPEN or self._session is None or self._draining:
            return None
        return next_mail(self._session, self._terms, waiting)

    def send(self, mail: Mail, now_ms: int) -> tuple[Action, ...]:
        """Send a message, if the device still wants it and its time is not over."""
        session = self._session
        if self._phase is not _Phase.OPEN or session is None:
            return ()
        packet = packet_for(session, self._terms, mail, now_ms)
        if packet is None:
            return ()
        self._around.counters.downlinks += 1
        self._around.sessions.changed(session)
        return (packet,)

    def _confirmed(self, session: Session, packet: Puback) -> tuple[Action, ...]:
        if not session.has_outgoing or not session.outgoing.answered(packet.packet_id, packet.reason):
            # Nothing was sent under that number; MQTT 5 has no answer to a PUBACK.
            return ()
        self._around.sessions.changed(session)
        return (Signal.ATTEND,)

    # SUBSCRIBE

    def _subscribe(self, session: Session, packet: Subscribe) -> tuple[Action, ...]:
        if Property.SUBSCRIPTION_ID in packet.properties:
            return self.violated(Fault.SUBSCRIPTION_ID)
        around = self._around
        most = around.settings.max_subscriptions
        suback = subscribe(session, packet, self._terms.version, around.speaks_for, most, around.counters)
        around.sessions.changed(session)
        return (suback, Signal.ATTEND)

    def _unsubscribe(self, session: Session, packet: Unsubscribe) -> tuple[Action, ...]:
        unsuback = unsubscribe(session, packet, self._terms.version)
        self._around.sessions.changed(session)
        return (unsuback,)

    # DISCONNECT

    def _disconnect(self, session: Session, packet: Disconnect) -> tuple[Action, ...]:
        if packet.session_expiry is not None:
            if packet.session_expiry and not session.expiry:
                # MQTT 5.0 section 3.14.2.2.2: what was not to be kept cannot be kept after all.
                return self.violated(Fault.BAD_PROPERTY)
            session.expiry = min(packet.session_expiry, self._around.settings.max_session_expiry)
        return self._close(CloseReason.WITH_WILL if packet.reason else CloseReason.CLIENT_DISCONNECT)
