"""Reads devices' messages from the city's own broker: proves its rules, connects, reads, acknowledges after the commit.

Owns the life of the session: when to connect, when to give a connection up, and what an acknowledgement waits for. It must
not decide what a payload means, nor whether a device is registered; `routes` reads topics, the pipeline does the rest.

A retained message is not a reading of now, and by its flag the broker says that it was kept for whoever comes later: it is
acknowledged, counted and dropped. (A device's retained publish that comes while we listen carries no flag and is taken.)
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from citysense.clock import Clock
from citysense.errors import CitysenseError, SetupError
from citysense.progress import Pulse
from citysense_gateway.broker.beside import Beside
from citysense_gateway.broker.counters import BrokerCounters, Standing
from citysense_gateway.broker.inbound import Inbound
from citysense_gateway.broker.link import Link, LinkLost, LinkOptions
from citysense_gateway.broker.liveness import Liveness
from citysense_gateway.broker.options import BrokerOptions
from citysense_gateway.broker.post import Post
from citysense_gateway.broker.proof import Proof, ProofFailed
from citysense_gateway.broker.receipts import EVERY_S as RECEIPTS_EVERY_S
from citysense_gateway.broker.receipts import Receipts
from citysense_gateway.broker.routes import Route, RouteKind, Router, topic_filters
from citysense_gateway.broker.trust import Trust
from citysense_gateway.broker.window import Held, Window
from citysense_gateway.devices import Changes, Devices
from citysense_gateway.frame import Frame, FrameSink, Identity, Kind, Reason, Transport, Verdict
from citysense_gateway.mail import Mail, MailSource
from citysense_gateway.mqtt.packets import Version, encode_publish
from citysense_gateway.outage import Outage, back_off

log = logging.getLogger(__name__)

WINDOW = 1000
"""Un-acknowledged messages, told to an MQTT 5 broker as ReceiveMaximum. Under 3.1.1 the broker's own limit holds only until
the first acknowledgement (measured with mosquitto 2.0), so the socket is not read beyond this either."""
WINDOW_BYTES = 8 << 20
PROOF_EVERY_S = 900.0
"""Rules may be changed while we are connected."""
PROOF_FRESH_S = 60.0
"""A reconnect within this time believes the last proof: a flapping line must not mean a dozen log-ins each time."""
PROOF_AGAIN_S = 30.0
"""Between two tries while the broker's rules are wrong. Somebody has to change them; it need not be sooner."""
TURN_S = 0.1
STOP_GRACE_S = 5.0
LONGEST_RETRY_S = 10.0


class _Arrival(msgspec.Struct, gc=False):
    """A message under way. `held` is None for QoS 0, which nobody sends again."""

    frame: Frame
    route: Route
    link: Link
    window: Window
    held: Held | None
    tries: int = 0


class BrokerDriver:
    """`run` until cancelled, then `stop`. `counters` may be read at any time. `pulse` beats while there is a connection."""

    def __init__(
        self,
        options: BrokerOptions,
        *,
        sink: FrameSink,
        devices: Devices,
        mail: MailSource | None,
        clock: Clock,
        random: Callable[[], float],
        nonce: Callable[[], bytes],
        pulse: Pulse | None = None,
    ) -> None:
        self.counters = BrokerCounters()
        self._options = options
        self._sink = sink
        self._devices = devices
        self._clock = clock
        self._random = random
        self._nonce = nonce
        self._pulse = pulse or Pulse()
        self._version = Version(options.protocol)
        self._client_id = options.client_id.encode()
        self._source = options.name
        self._router = Router(
            rights=devices.topic_rights,
            echo_topic=options.echo_topic,
            probes=[probe.user for probe in options.probes],
        )
        self._outage = Outage(f"broker {options.name}", random)
        self._mistrust = Outage(f"rules of the broker {options.name}", random)
        self._unusable = Outage(f"set-up of the broker {options.name}", random)
        self._trust = Trust(options, random=random)
        self._proving, self._delivering = Beside(), Beside()
        self._receipts = Receipts(self._version)
        self._receipts_at = 0.0
        self._post = Post(mail) if mail is not None else None
        if mail is not None and self._post is not None:
            mail.listen(self._post.wake)
        self._templates: frozenset[str] = frozenset()
        self._filters_changed = asyncio.Event()
        self._proved_at: float | None = None
        self._link: Link | None = None
        self._window: Window | None = None
        self._live = Liveness(0.0)
        self._stopping = False
        self._ack_due = False
        self._under_way = 0
        self._all_answered = asyncio.Event()

    # --- from outside

    def devices_changed(self, changes: Changes) -> None:
        """The roster is another one."""
        gone = {*changes.removed, *changes.rekeyed}
        if self._post is not None:
            gone |= {
                one for one in changes.changed if self._post.via(one) not in ("", self._devices.concentrator_of(one))
            }
            self._post.forget(gone)
        self._receipts.forget(gone)
        templates = frozenset(template for device in self._devices for template in device.profile.mqtt_topics)
        self._router.use(templates)
        if templates != self._templates:
            self._templates = templates
            self._proved_at = None
            self._filters_changed.set()

    @property
    def standing(self) -> Standing:
        """How it stands now."""
        if self._mistrust.failures:
            return Standing.MISTRUSTED
        if self._unusable.failures:
            return Standing.UNUSABLE
        return Standing.READING if self.counters.connected else Standing.AWAY

    async def run(self) -> None:
        """Read until cancelled or stopped, through every outage of the broker."""
        while not self._stopping:
            try:
                await self._session()
            except ProofFailed as e:
                self._mistrust.failed(e)
                wait = PROOF_AGAIN_S * (0.75 + self._random() / 2)
            except SetupError as e:
                wait = self._unusable.failed(e)
            except LinkLost as e:
                if self._stopping:
                    return
                wait = self._outage.failed(e)
            else:
                continue
            await asyncio.sleep(wait)

    async def stop(self) -> None:
        """Wait for verdicts under way, acknowledge them, and hang up; the session stays with the broker."""
        self._stopping = True
        link = self._link
        if link is None:
            return
        link.pause()
        try:
            async with asyncio.timeout(STOP_GRACE_S):
                while self._under_way:
                    self._all_answered.clear()
                    await self._all_answered.wait()
        except TimeoutError:
            pass  # the broker keeps what was not acknowledged
        self._acknowledge()
        self._end(link, "stopping")

    # --- the session

    async def _session(self) -> None:
        """One connection from proof to loss; returns only when other topics are wanted.

        Raises LinkLost, ProofFailed, SetupError.
        """
        self._filters_changed.clear()
        filters = topic_filters(self._templates)
        self._trust.renew()
        self._unusable.worked()
        if self._proved_at is None or self._clock.monotonic() - self._proved_at > PROOF_FRESH_S:
            self._unprove()
            await self._prove()
        window = Window(most=WINDOW, most_bytes=WINDOW_BYTES)
        link = Link(self._link_options(), lambda messages: self._take(messages, link, window))
        self._link, self._window = link, window
        self._live = Liveness(self._clock.monotonic())
        try:
            await link.open()
            if not link.session_present:
                self.counters.add("sessions_lost")
            await link.subscribe([*filters, self._options.echo_topic])
            self._outage.worked()
            self.counters.add("connections")
            self.counters.connected = True
            await self._tend(link)
        finally:
            self._pulse.rest()
            self._end(link, "given up")
            await self._proving.end(cancel=True)
            # Not cancelled: what the mailbox has on record as handed over should be, and a closed link ends it at once.
            await self._delivering.end(cancel=False)

    def _link_options(self) -> LinkOptions:
        options = self._options
        return LinkOptions(
            host=options.host,
            port=options.port,
            client_id=options.client_id,
            account=options.account,
            tls=self._trust.own,
            protocol=options.protocol,
            durable=True,
            receive=WINDOW,
        )

    def _end(self, link: Link, why: str) -> None:
        link.close(why)
        if self._link is link:
            self._link = self._window = None
            self.counters.connected = False

    async def _prove(self) -> None:
        """Raises ProofFailed, LinkLost; then nothing is proved any more. Until then the last proof holds."""
        templates = self._templates
        try:
            await Proof(self._options, trust=self._trust, nonce=self._nonce).run(templates)
        except CitysenseError:
            self._unprove()
            raise
        self._mistrust.worked()
        if templates == self._templates:
            self.counters.proved = True
            self._proved_at = self._clock.monotonic()

    def _unprove(self) -> None:
        self.counters.proved = False
        self._proved_at = None

    async def _tend(self, link: Link) -> None:
        """All that has to be done beside reading, ten times a second."""
        while not self._filters_changed.is_set():
            now = self._clock.monotonic()
            self._pulse.beat()
            self._proving.check()
            self._delivering.check()
            if self._proved_at is not None and now - self._proved_at > PROOF_EVERY_S and not self._proving.busy:
                self._trust.renew()
                self._proving.start(self._prove())
            self._watch(link, now)
            self._send_receipts(link, now)
            if self._post is not None and not (self._post.idle or self._delivering.busy or self._stopping):
                self._delivering.start(self._bring(self._post, link, now))
            try:
                await asyncio.wait_for(link.lost.wait(), TURN_S)
            except TimeoutError:
                continue
            raise LinkLost(link.why)

    def _watch(self, link: Link, now: float) -> None:
        """Raises LinkLost when nothing comes through any more."""
        live = self._live
        link.tick()
        if link.paused:
            live.hold(now)
        if live.echo_due(now):
            link.send(encode_publish(self._version, self._options.echo_topic, b"."))
        silent = live.verdict(now, self._options.echo_topic)
        if silent is not None:
            raise LinkLost(silent)

    def _send_receipts(self, link: Link, now: float) -> None:
        self.counters.add("receipts_again", self._receipts.repeat(now))
        if len(self._receipts) and now >= self._receipts_at:
            self._receipts_at = now + RECEIPTS_EVERY_S
            self.counters.add("receipts", len(self._receipts))
            link.send(self._receipts.take())

    async def _bring(self, post: Post, link: Link, now: float) -> None:
        self.counters.add("downlinks", await post.deliver(partial(self._hand_over, link), now))

    async def _hand_over(self, link: Link, mail: Mail, topic: str) -> bool:
        left = mail.expires - self._clock.now_ms()
        if left <= 0:
            return False
        reason = await link.publish(topic, mail.payload, expiry_s=-(-left // 1000))
        if reason.is_failure:
            self.counters.add("downlinks_refused")
            log.warning(
                "the broker refuses message %s on %s (%s); let the gateway's account write there, as the shipped rules do",
                mail.id,
                topic,
                reason,
            )
        return not reason.is_failure

    # --- messages

    def _take(self, messages: Sequence[Inbound], link: Link, window: Window) -> None:
        """Called by the link; must not raise for anything that a message holds."""
        now_ms = self._clock.now_ms()
        for message in messages:
            route = self._router.route(message.topic)
            if route.kind is RouteKind.ECHO:
                self._live.echo_came(self._clock.monotonic())
                continue
            held = window.hold(message.packet_id, len(message.payload)) if message.packet_id else None
            if route.kind is RouteKind.PROBE or message.retain:
                self.counters.add("retained", int(message.retain))
                self._settle(window, held)
                continue
            if message.dup:
                self.counters.add("again")
            self._deliver(_Arrival(self._frame(route, message, now_ms), route, link, window, held))
        self.counters.add("messages", len(messages))
        self._live.came(self._clock.monotonic())
        if window.full:
            link.pause()

    def _frame(self, route: Route, message: Inbound, now_ms: int) -> Frame:
        # The flag is the broker's: it tells a repeat of our own session, not one of the device.
        delivery = None
        if message.packet_id:
            delivery = b"%b%b/%d" % (b"\x01" if message.dup else b"\x00", self._client_id, message.packet_id)
        return Frame(
            transport=Transport.MQTT,
            channel=route.channel,
            device=route.device,
            identity=Identity.BROKER,
            source=self._source,
            received_at=now_ms,
            payload=message.payload,
            message=route.message or None,
            delivery=delivery,
            via=route.via,
        )

    def _deliver(self, arrival: _Arrival) -> None:
        self._under_way += 1
        answered = partial(self._answered, arrival)
        if arrival.route.kind is RouteKind.FOREIGN:
            self.counters.add("foreign")
            detail = "no device of this gateway may publish to this topic of the broker"
            self._sink.deliver(arrival.frame, answered, reason=Reason.FOREIGN_TOPIC, detail=detail)
        else:
            self._sink.deliver(arrival.frame, answered)

    def _answered(self, arrival: _Arrival, verdict: Verdict) -> None:
        """The verdict on one message. An acknowledgement is due once its fate is durable, never before."""
        self._under_way -= 1
        if not self._under_way:
            self._all_answered.set()
        if verdict.kind is Kind.UNAVAILABLE:
            self._try_again(arrival)
            return
        self._settle(arrival.window, arrival.held)
        device, via = arrival.frame.device, arrival.frame.via or ""
        if device is None or verdict.kind is Kind.REJECTED:
            return
        self._receipts.note(device, via, verdict, self._clock.monotonic())
        if self._post is not None:
            self._post.heard(device, via)

    def _try_again(self, arrival: _Arrival) -> None:
        """Nothing could be stored: the broker keeps the message, and so do we until it can be."""
        self.counters.add("unavailable")
        if arrival.held is None or arrival.link.lost.is_set():
            return  # nobody holds QoS 0 for us; and what a lost connection owed comes again with the next
        arrival.window.step_aside(arrival.held)
        arrival.tries += 1
        wait = back_off(arrival.tries, self._random, LONGEST_RETRY_S)
        asyncio.get_running_loop().call_later(wait, self._deliver_again, arrival)

    def _deliver_again(self, arrival: _Arrival) -> None:
        if not arrival.link.lost.is_set():
            self._deliver(arrival)

    def _settle(self, window: Window, held: Held | None) -> None:
        if held is None:
            return
        window.settle(held)
        if not self._ack_due and window is self._window:
            self._ack_due = True
            asyncio.get_running_loop().call_soon(self._acknowledge)

    def _acknowledge(self) -> None:
        """Send what is due, joined: verdicts of one commit come in one turn of the loop."""
        self._ack_due = False
        link, window = self._link, self._window
        if link is None or window is None:
            return
        due = window.take_due()
        if due:
            link.send(due)
        if link.paused and window.roomy and not self._stopping:
            link.resume()
