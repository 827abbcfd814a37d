"""Every decision of one MQTT connection, without a socket or a clock.

Owns what a connection may do and what it is answered: packets, verdicts and endings go in, actions come out, to be
carried out in their order. It must not decide what a payload means, nor do I/O.

Wills: they are not served. A will on a topic of the device itself is accepted with CONNECT, so that a device which is
set up to leave one can connect, and is never published. A will on a foreign topic is refused like a PUBLISH there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum

from citysense_gateway.frame import Frame, Identity, Kind, PasswordCheck, Reason, Receipt, Transport, Verdict
from citysense_gateway.mqtt.actions import (
    QUOTA_EXCEEDED,
    Action,
    Close,
    CloseReason,
    Delivery,
    Opened,
    disconnect_code,
    puback_code,
)
from citysense_gateway.mqtt.fields import Fault, ProtocolViolation
from citysense_gateway.mqtt.limits import MqttCounters, MqttSettings
from citysense_gateway.mqtt.packets import (
    PINGRESP,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Publish,
    Subscribe,
    Unsubscribe,
    Version,
    encode_connack,
    encode_disconnect,
    encode_puback,
    encode_publish,
    encode_suback,
    encode_unsuback,
)
from citysense_gateway.mqtt.properties import Properties, Property
from citysense_gateway.mqtt.topics import DEVICE_ID, TopicRights, ack_topic, granted_qos, own_message

# An MQTT name may have 65,535 bytes; what a dead letter shows of a foreign one is enough to see the mistake.
_SHOWN_TOPIC = 256
_SHOWN_DETAIL = 200


class _Phase(Enum):
    WAITING = "no CONNECT yet"
    REFUSING = "CONNECT refused, its dead letter under way"
    OPEN = "CONNACK sent"
    CLOSED = "closed"


class Session:
    """State of one connection. `source` is the peer's address for dead letters; `new_client_id` names the nameless."""

    def __init__(
        self,
        *,
        source: str,
        check_password: PasswordCheck,
        topic_rights: TopicRights,
        new_client_id: Callable[[], str],
        settings: MqttSettings,
        counters: MqttCounters,
    ) -> None:
        self._source = source
        self._check_password = check_password
        self._topic_rights = topic_rights
        self._new_client_id = new_client_id
        self._settings = settings
        self._counters = counters
        self._phase = _Phase.WAITING
        self._version = Version.V3_1_1
        self._device = ""
        self._client_id = ""
        self._keep_alive = 0
        self._client_max_packet: int | None = None
        self._explain = True
        self._subscriptions: set[str] = set()
        self._in_flight: deque[Delivery] = deque()
        self._in_flight_bytes = 0
        self._receipt: Receipt | None = None
        self._draining = False

    @property
    def wants_packets(self) -> bool:
        """False while the peer has to wait: too much without a verdict, or nothing more is taken from it."""
        return (
            (self._phase is _Phase.OPEN or self._phase is _Phase.WAITING)
            and len(self._in_flight) < self._settings.receive_maximum
            and self._in_flight_bytes < self._settings.max_in_flight_bytes
            and not self._draining
        )

    @property
    def idle(self) -> bool:
        """True when every frame has its verdict."""
        return not self._in_flight

    def receive(self, packet: Packet, now_ms: int) -> tuple[Action, ...]:
        """Decide on one packet that was received at `now_ms`."""
        if isinstance(packet, Publish):
            return self._publish(packet, now_ms) if self._phase is _Phase.OPEN else ()
        if isinstance(packet, Connect):
            return self._connect(packet, now_ms) if self._phase is _Phase.WAITING else ()
        if self._phase is not _Phase.OPEN:
            return ()
        if isinstance(packet, Pingreq):
            return (PINGRESP,)
        if isinstance(packet, Subscribe):
            return self._subscribe(packet)
        if isinstance(packet, Unsubscribe):
            return self._unsubscribe(packet)
        if isinstance(packet, Disconnect):
            return self._close(CloseReason.CLIENT_DISCONNECT)
        # What is left is PUBACK, and nothing was sent that asks for one.
        return ()

    def settle(self, delivery: Delivery, verdict: Verdict) -> tuple[Action, ...]:
        """Take the verdict on a delivery; the answers that are due go out in the order in which the frames came."""
        delivery.verdict = verdict
        actions: list[Action] = []
        while self._in_flight and (due := self._in_flight[0].verdict) is not None:
            done = self._in_flight.popleft()
            self._in_flight_bytes -= len(done.frame.payload)
            actions += self._answer(done, due)
        return tuple(actions)

    def violated(self, fault: Fault) -> tuple[Action, ...]:
        """End after the peer broke the protocol."""
        if self._phase is _Phase.WAITING and fault is Fault.UNSUPPORTED_VERSION:
            # The form of 3.1.1, which is the one that clients of every other level know best.
            return (encode_connack(Version.V3_1_1, 1), *self._close(fault))
        return self.end(fault)

    def unreadable(self, violation: ProtocolViolation, now_ms: int) -> tuple[Action, ...]:
        """End after bytes that are no packet; a PUBLISH lost by it leaves a trace, without its payload.

        The peer does not wait for the trace to be kept: it gets no PUBACK either way.
        """
        opened = self._phase is _Phase.OPEN
        ending = self.violated(violation.fault)
        if not opened or violation.lost is None:
            return ending
        reason = Reason.TOO_LARGE if violation.fault is Fault.TOO_LARGE else Reason.FOREIGN_TOPIC
        trace = Delivery(self._frame(now_ms, violation.lost, b""), reason=reason, detail=violation.detail)
        return (self._deliver(trace), *ending)

    def end(self, reason: CloseReason | Fault) -> tuple[Action, ...]:
        """End from our side; nothing when it has ended before."""
        code = disconnect_code(reason)
        if self._phase is _Phase.OPEN and self._version is Version.V5 and code is not None:
            return (encode_disconnect(code), *self._close(reason))
        return self._close(reason)

    def drain(self) -> None:
        """Take no further packet; verdicts are still answered."""
        self._draining = True

    def overdue(
        self, now: float, *, opened: float, last_packet: float, partial_since: float | None
    ) -> CloseReason | None:
        """Which deadline has passed, if any. All times in monotonic seconds.

        Keep-alive counts whole packets (MQTT-3.1.2-22): a peer that sends a byte now and then does not stay alive.
        """
        if self._phase is _Phase.WAITING:
            return CloseReason.CONNECT_TIMEOUT if now - opened >= self._settings.connect_timeout else None
        if self._phase is not _Phase.OPEN:
            return None
        if partial_since is not None and now - partial_since >= self._settings.packet_timeout:
            return CloseReason.PACKET_TIMEOUT
        if self._keep_alive and now - last_packet > 1.5 * self._keep_alive:
            return CloseReason.KEEP_ALIVE
        return None

    def take_receipt(self) -> bytes | None:
        """The newest receipt not sent yet as a PUBLISH to the device's ack topic; None when there is none."""
        receipt, self._receipt = self._receipt, None
        if receipt is None or self._phase is not _Phase.OPEN:
            return None
        payload = b'{"boot":%d,"seq":%d}' % (receipt.boot, receipt.seq)
        packet = encode_publish(self._version, ack_topic(self._device), payload)
        return packet if self._fits(packet) else None

    def _close(self, reason: CloseReason | Fault) -> tuple[Action, ...]:
        if self._phase is _Phase.CLOSED:
            return ()
        self._phase = _Phase.CLOSED
        return (Close(reason),)

    def _fits(self, packet: bytes) -> bool:
        return self._client_max_packet is None or len(packet) <= self._client_max_packet

    # CONNECT

    def _connect(self, packet: Connect, now_ms: int) -> tuple[Action, ...]:
        self._version = packet.version
        device = packet.username
        if device is None or not DEVICE_ID.fullmatch(device):
            # The name itself is not kept: people type passwords into the wrong field.
            return self._refuse(None, Reason.UNKNOWN_DEVICE, "the user name of CONNECT is not a device id", now_ms)
        if not self._check_password(device, packet.password or b""):
            return self._refuse(device, Reason.BAD_CREDENTIAL, "CONNECT with a wrong or revoked password", now_ms)
        self._device = device
        refusal = self._connect_refusal(packet)
        if refusal is not None:
            return (encode_connack(self._version, refusal), *self._close(CloseReason.CONNECT_REFUSED))
        will = packet.will
        if will and own_message(device, will.topic, self._topic_rights) is None:
            frame = self._frame(now_ms, will.topic, will.payload)
            return self._refuse_frame(frame, Reason.FOREIGN_TOPIC, "the will's topic is not the device's own")
        return self._open(packet)

    def _connect_refusal(self, packet: Connect) -> int | None:
        """Code of the CONNACK that refuses what we do not serve; None when all is well."""
        v5 = packet.version is Version.V5
        if len(packet.client_id) > self._settings.max_client_id:
            return 0x85 if v5 else 2
        if not v5:
            return 2 if not packet.client_id and not packet.clean_start else None
        if Property.AUTHENTICATION_METHOD in packet.properties or Property.AUTHENTICATION_DATA in packet.properties:
            return 0x8C
        if packet.will and packet.will.qos > 1:
            return 0x9B
        if packet.will and packet.will.retain:
            return 0x9A
        return None

    def _refuse(self, device: str | None, reason: Reason, detail: str, now_ms: int) -> tuple[Action, ...]:
        """Refuse for the credential. The frame has no payload, so no password can get into a dead letter."""
        frame = Frame(
            transport=Transport.MQTT,
            channel="CONNECT",
            device=device,
            identity=Identity.ASSERTED,
            source=self._source,
            received_at=now_ms,
        )
        return self._refuse_frame(frame, reason, detail)

    def _refuse_frame(self, frame: Frame, reason: Reason, detail: str) -> tuple[Action, ...]:
        """CONNACK follows the verdict: who guesses passwords is no faster than our commits."""
        self._phase = _Phase.REFUSING
        return (self._deliver(Delivery(frame, reason=reason, detail=detail)),)

    def _open(self, packet: Connect) -> tuple[Action, ...]:
        self._phase = _Phase.OPEN
        self._keep_alive = packet.keep_alive
        self._client_id = packet.client_id or self._new_client_id()
        max_packet = packet.properties.get(Property.MAXIMUM_PACKET_SIZE)
        self._client_max_packet = max_packet if isinstance(max_packet, int) else None
        self._explain = packet.properties.get(Property.REQUEST_PROBLEM_INFORMATION) != 0
        connack = encode_connack(self._version, 0, properties=self._offer(packet))
        return (Opened(self._device, self._client_id, with_will=packet.will is not None), connack)

    def _offer(self, packet: Connect) -> Properties:
        """What CONNACK says about us. No topic aliases, which is the default when left out."""
        offer: dict[Property, int | str | bytes] = {
            Property.RECEIVE_MAXIMUM: self._settings.receive_maximum,
            Property.MAXIMUM_QOS: 1,
            Property.RETAIN_AVAILABLE: 0,
            Property.MAXIMUM_PACKET_SIZE: self._settings.max_packet,
            Property.SUBSCRIPTION_ID_AVAILABLE: 0,
            Property.SHARED_AVAILABLE: 0,
        }
        if packet.properties.get(Property.SESSION_EXPIRY):
            offer[Property.SESSION_EXPIRY] = 0
        if not packet.client_id:
            offer[Property.ASSIGNED_CLIENT_ID] = self._client_id
        return offer

    # PUBLISH

    def _publish(self, packet: Publish, now_ms: int) -> tuple[Action, ...]:
        if packet.qos > 1:
            return self.violated(Fault.QOS_NOT_SUPPORTED)
        self._counters.publishes += 1
        message = own_message(self._device, packet.topic, self._topic_rights)
        frame = self._frame(
            now_ms,
            packet.topic,
            packet.payload,
            message=message,
            delivery=self._delivery_key(packet) if packet.packet_id else None,
        )
        if message is None:
            detail = "the topic is not the device's own"
            return (self._deliver(Delivery(frame, packet.packet_id, reason=Reason.FOREIGN_TOPIC, detail=detail)),)
        return (self._deliver(Delivery(frame, packet.packet_id)),)

    def _delivery_key(self, packet: Publish) -> bytes:
        """The DUP flag, then who calls this message by which number."""
        flag = b"\x01" if packet.dup else b"\x00"
        return flag + f"{self._device}/{self._client_id}/{packet.packet_id}".encode()

    def _frame(
        self, now_ms: int, topic: str, payload: bytes, *, message: str | None = None, delivery: bytes | None = None
    ) -> Frame:
        return Frame(
            transport=Transport.MQTT,
            channel=topic[:_SHOWN_TOPIC] if message is None else topic,
            device=self._device,
            identity=Identity.CREDENTIAL,
            source=self._source,
            received_at=now_ms,
            payload=payload,
            message=message,
            delivery=delivery,
        )

    def _deliver(self, delivery: Delivery) -> Delivery:
        self._in_flight.append(delivery)
        self._in_flight_bytes += len(delivery.frame.payload)
        return delivery

    def _answer(self, delivery: Delivery, verdict: Verdict) -> tuple[Action, ...]:
        if verdict.kind is Kind.UNAVAILABLE:
            self._counters.refused["unavailable"] += 1
        elif verdict.kind is Kind.REJECTED:
            self._counters.refused[verdict.reason or "rejected"] += 1
        if self._phase is _Phase.REFUSING:
            code = 0x87 if self._version is Version.V5 else 5
            return (encode_connack(self._version, code), *self._close(CloseReason.CONNECT_REFUSED))
        if self._phase is _Phase.CLOSED:
            return ()
        if verdict.receipt is not None and ack_topic(self._device) in self._subscriptions:
            self._receipt = verdict.receipt
        if delivery.packet_id is None:
            return ()
        code_or_close = puback_code(self._version, verdict)
        if code_or_close is None:
            return self._close(CloseReason.STORAGE_UNAVAILABLE)
        return (self._puback(delivery.packet_id, code_or_close, verdict.detail),)

    def _puback(self, packet_id: int, code: int, detail: str) -> bytes:
        if code and detail and self._explain:
            shown = detail[:_SHOWN_DETAIL].replace("\0", "?").encode(errors="replace").decode()
            packet = encode_puback(self._version, packet_id, code, reason_string=shown)
            if self._fits(packet):
                return packet
        return encode_puback(self._version, packet_id, code)

    # SUBSCRIBE

    def _subscribe(self, packet: Subscribe) -> tuple[Action, ...]:
        if Property.SUBSCRIPTION_ID in packet.properties:
            return self.violated(Fault.SUBSCRIPTION_ID)
        codes = bytes(self._grant(wanted, qos) for wanted, qos in packet.filters)
        return (encode_suback(self._version, packet.packet_id, codes),)

    def _grant(self, topic_filter: str, wanted: int) -> int:
        v5 = self._version is Version.V5
        granted = granted_qos(self._device, topic_filter, wanted)
        if granted is None:
            self._counters.denied_subscriptions += 1
            return 0x87 if v5 else 0x80
        if topic_filter not in self._subscriptions and len(self._subscriptions) >= self._settings.max_subscriptions:
            return QUOTA_EXCEEDED if v5 else 0x80
        self._subscriptions.add(topic_filter)
        return granted

    def _unsubscribe(self, packet: Unsubscribe) -> tuple[Action, ...]:
        codes = bytes(0 if wanted in self._subscriptions else 0x11 for wanted in packet.filters)
        self._subscriptions.difference_update(packet.filters)
        return (encode_unsuback(self._version, packet.packet_id, codes),)
