"""The CoAP server: takes `POST /v1/{device}/{message}` and answers after the commit; hands out what waits for devices.

Owns the way of one request: who sent it, what it is about, its frame, its reply. It knows nothing of meaning; which
reply fits is decided in `replies`. 2.04 leaves only after the sink has told its verdict; the empty ACK that CoAP sends
after 0.1 s promises nothing.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from random import Random, SystemRandom

from aiocoap import Message

from citysense import wire
from citysense.clock import Clock
from citysense.progress import Pulse
from citysense_gateway.coap import replies
from citysense_gateway.coap.amplification import Addresses
from citysense_gateway.coap.answers import Answers, Caller, block_of
from citysense_gateway.coap.dtls import DtlsCounters, DtlsLayer
from citysense_gateway.coap.exchanges import Exchanges, Request
from citysense_gateway.coap.frames import frame_of
from citysense_gateway.coap.mail_service import MailService
from citysense_gateway.coap.oscore import Challenge, Failure, Opened, OscoreContexts, Refused
from citysense_gateway.coap.oscore_store import OscoreStore
from citysense_gateway.coap.protected import leaves_trace, open_request, refusal
from citysense_gateway.coap.replies import Code, MailTarget, Reply, Target
from citysense_gateway.coap.transport import DatagramCounters, UdpSocket, open_socket
from citysense_gateway.coap.uploads import Block, Refusal, Uploads
from citysense_gateway.frame import Frame, FrameSink, Kind, Reason, Verdict
from citysense_gateway.mail import MailSource
from citysense_gateway.rounds import Rounds

_LOG = logging.getLogger(__name__)
_MAX_IN_FLIGHT = 1024
"""Frames without a verdict; beyond it 5.03. At 64 kB each they could hold 64 MB; a usual one has 200 bytes."""
_STOP_GRACE = 5.0
"""Seconds that stop() waits for verdicts under way."""
_CHANCE = SystemRandom()
"""Message ids and pauses that a stranger cannot foresee."""


@dataclass(slots=True, kw_only=True)
class CoapCounters:
    """Totals since start, except `in_flight`, `uploads`, `observers`, `sessions` and `handshakes`, which are now."""

    requests: int = 0
    busy: int = 0
    """Refused with 5.03 because too much was under way."""
    refused: int = 0
    """Answered with an error before there was a frame: path, method, option, format, or a block out of place."""
    unproven: int = 0
    """Without the credential that the device has, or with another device's."""
    replays: int = 0
    """Protected requests that had come before."""
    challenged: int = 0
    """Asked for an Echo: an address that has to show itself, or a device after a restart."""
    in_flight: int = 0
    uploads: int = 0
    malformed: int = 0
    repeats: int = 0
    unsent: int = 0
    observers: int = 0
    notified: int = 0
    sessions: int = 0
    handshakes: int = 0
    failed_handshakes: int = 0
    crowded_handshakes: int = 0
    """Not begun, or not finished, because there was no room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CoapKeys:
    """The devices' credentials for CoAP, asked live: keys of DTLS by device, OSCORE of all devices."""

    psk: Callable[[str], bytes | None]
    oscore: Callable[[], Mapping[str, wire.Oscore]]


_NO_KEYS = CoapKeys(psk=lambda device: None, oscore=dict)


class CoapDoor:
    """Serves devices over CoAP on UDP. `known` says whether a device id is assigned to this gateway.

    `store` keeps what OSCORE needs; without it no protected request is opened. With `asserted`, devices that have no
    credential for CoAP are believed (loopback, --insecure); else each request needs one. `max_payload` in bytes; it
    bounds a body however it comes, in one datagram or in blocks. `pulse` beats with each round of the door's upkeep.
    """

    def __init__(
        self,
        *,
        sink: FrameSink,
        known: Callable[[str], bool],
        clock: Clock,
        random: Random = _CHANCE,
        keys: CoapKeys = _NO_KEYS,
        store: OscoreStore | None = None,
        mail: MailSource | None = None,
        asserted: bool = True,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
        max_payload: int = 65536,
        max_in_flight: int = _MAX_IN_FLIGHT,
        pulse: Pulse | None = None,
    ) -> None:
        self._sink = sink
        self._known = known
        self._clock = clock
        self._psk = keys.psk
        self._asserted = asserted
        self._max_payload = max_payload
        self._max_in_flight = max_in_flight
        self._uploads = Uploads(max_payload=max_payload)
        self._datagrams = DatagramCounters()
        self._exchanges = Exchanges(serve=self._serve, clock=clock, random=random, counters=self._datagrams)
        self._answers = Answers(Addresses(secret=random_bytes(32), clock=clock))
        self._contexts = OscoreContexts(keys=keys.oscore, store=store, random_bytes=random_bytes) if store else None
        self._dtls = DtlsLayer(psk=keys.psk, arrived=self._exchanges.received, clock=clock)
        self._mail: MailService | None = None
        if mail is not None:  # an empty mailbox has no length, and is one all the same
            self._mail = MailService(mail, self._exchanges, self._answers, clock=clock, random=random)
        chores = (self._exchanges.tidy, self._dtls.tidy, lambda: self._uploads.tidy(clock.monotonic()))
        self._rounds = Rounds("the CoAP door's upkeep", chores, pulse=pulse)
        self._sockets: list[UdpSocket] = []
        self._ports: dict[str, int] = {}
        self._contexts_open = False
        self._closing = False
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._count = CoapCounters()

    # -- opening and closing ------------------------------------------------------------------------------------------

    @property
    def port(self) -> int:
        """The port of plain CoAP and OSCORE."""
        return self._port("coap")

    @property
    def dtls_port(self) -> int:
        """The port of CoAP over DTLS."""
        return self._port("coaps")

    def _port(self, scheme: str) -> int:
        if scheme not in self._ports:
            raise RuntimeError("the CoAP door is not open: call start() first")
        return self._ports[scheme]

    @property
    def counters(self) -> CoapCounters:
        """What was counted so far."""
        dtls: DtlsCounters = self._dtls.counters
        return replace(
            self._count,
            in_flight=self._in_flight,
            uploads=len(self._uploads),
            malformed=self._datagrams.malformed,
            repeats=self._datagrams.repeats,
            unsent=self._datagrams.unsent,
            challenged=self._count.challenged + self._answers.challenged,
            observers=len(self._mail.observers) if self._mail is not None else 0,
            notified=self._mail.observers.notified if self._mail is not None else 0,
            sessions=dtls.sessions,
            handshakes=dtls.handshakes,
            failed_handshakes=dtls.failed,
            crowded_handshakes=dtls.crowded,
        )

    async def start(self, host: str, port: int, *, dtls_port: int | None = None) -> None:
        """Listen; port 0 takes a free one; no DTLS without its port.

        OSError comes through as it is: whoever configured the address words it. Raises SetupError where DTLS is asked
        for and its library is missing, StorageError where OSCORE's table cannot be used.
        """
        if dtls_port is not None:
            self._dtls.start()
        if self._contexts is not None and not self._contexts_open:
            await self._contexts.start()
            self._contexts_open = True
        self._closing = False
        self._exchanges.open()
        await self._listen("coap", host, port, self._exchanges.received)
        if dtls_port is not None:
            await self._listen("coaps", host, dtls_port, self._dtls.received)
        self._rounds.start()

    async def _listen(self, scheme: str, host: str, port: int, arrived: Callable[..., None]) -> None:
        opened, self._ports[scheme] = await open_socket(host, port, arrived, self._datagrams)
        self._sockets.append(opened)

    async def stop(self) -> None:
        """Take nothing new, wait a little for verdicts under way and answer them, then close the sockets."""
        self._closing = True
        if self._in_flight:
            self._idle.clear()
            try:
                await asyncio.wait_for(self._idle.wait(), _STOP_GRACE)
            except TimeoutError:
                _LOG.warning("%d CoAP frames came to no verdict before the stop", self._in_flight)
        if self._mail is not None:
            await self._mail.stop()
        for opened in self._sockets:
            await opened.close()
        self._sockets.clear()
        self._ports.clear()
        self._rounds.stop()
        self._exchanges.close()
        self._dtls.close()
        if self._contexts is not None and self._contexts_open:
            self._contexts_open = False
            await self._contexts.stop()

    def devices_changed(self, cut: Iterable[str]) -> None:
        """There is a new roster. What devices in `cut` opened ends now: their rights are gone."""
        if self._contexts is not None and self._contexts_open:
            self._contexts.refresh()
        for device in cut:
            self._dtls.drop(device)
            if self._mail is not None:
                self._mail.forget(device)

    # -- who it is ----------------------------------------------------------------------------------------------------

    def _serve(self, exchange: Request) -> None:
        self._count.requests += 1
        message = exchange.message
        if message.opt.oscore is not None:
            self._open(exchange)
        else:
            self._take(Caller(exchange=exchange, message=message, device=exchange.peer.device))

    def _open(self, exchange: Request) -> None:
        """Serve what a protected request holds."""
        outcome = open_request(exchange, self._contexts)
        if isinstance(outcome, Opened):
            self._take(
                Caller(exchange=exchange, message=outcome.message, device=outcome.device, sealing=outcome.sealing)
            )
        elif isinstance(outcome, Challenge):
            self._count.challenged += 1
            exchange.reply(outcome.response)
        elif isinstance(outcome, Reply):
            self._count.refused += 1
            self._answers.respond(Caller(exchange=exchange, message=exchange.message, device=None), outcome)
        else:
            self._not_opened(exchange, outcome)

    def _not_opened(self, exchange: Request, why: Refused) -> None:
        caller = Caller(exchange=exchange, message=exchange.message, device=None)
        reply = refusal(why)
        if why.failure is Failure.REPLAY:
            self._count.replays += 1
        if not leaves_trace(why):
            self._answers.respond(caller, reply)
            return
        self._count.unproven += 1
        if self._crowded(caller):
            return
        frame = self._frame(caller, None, exchange.message.payload, device=why.device)
        self._hand_in(
            frame,
            lambda verdict: self._answers.respond(caller, reply),
            reason=Reason.BAD_CREDENTIAL,
            detail=f"OSCORE: {why.failure.value.lower()}",
        )

    def _trespass(self, caller: Caller, device: str) -> tuple[Reason, str] | None:
        """Why the caller may not act as `device`; None where it may."""
        if caller.device is not None:
            if caller.device == device:
                return None
            return Reason.FOREIGN_TOPIC, f"the path is {device}'s, the credential {caller.device}'s"
        if self._psk(device) is not None or (self._contexts is not None and self._contexts.has(device)):
            return Reason.BAD_CREDENTIAL, "the device has a credential for CoAP; this request does not carry it"
        if not self._asserted:
            return Reason.BAD_CREDENTIAL, "plain CoAP is not served here; use OSCORE or DTLS"
        return None

    # -- what it wants ------------------------------------------------------------------------------------------------

    def _take(self, caller: Caller) -> None:
        """Serve one request whose sender is settled."""
        message = caller.message
        self._answers.note_echo(caller)
        target = replies.target_of(_request_of(message))
        if isinstance(target, Reply):
            if target.code >= Code.BAD_REQUEST:
                self._count.refused += 1
            self._answers.respond(caller, target, block1=block_of(message.opt.block1))
        elif self._crowded(caller):
            pass
        elif isinstance(target, MailTarget):
            self._take_mail(caller, target)
        else:
            self._take_frame(caller, target)

    def _crowded(self, caller: Caller) -> bool:
        if not self._closing and self._in_flight < self._max_in_flight:
            return False
        self._count.busy += 1
        self._answers.respond(
            caller, replies.unavailable("busy; send it again"), block1=block_of(caller.message.opt.block1)
        )
        return True

    def _take_mail(self, caller: Caller, target: MailTarget) -> None:
        trespass = self._trespass(caller, target.device)
        if trespass is not None:
            self._count.unproven += 1
            self._answers.respond(caller, Reply(code=Code.UNAUTHORIZED, text=trespass[1]))
        elif not self._known(target.device):
            self._answers.respond(caller, Reply(code=Code.UNAUTHORIZED, text="unknown device"))
        elif self._mail is None:
            self._answers.respond(caller, Reply(code=Code.NOT_FOUND, text="this gateway has no mailbox"))
        else:
            self._mail.serve(caller, target)

    def _take_frame(self, caller: Caller, target: Target) -> None:
        message = caller.message
        block = block_of(message.opt.block1)
        trespass = self._trespass(caller, target.device)
        if trespass is not None:
            self._count.unproven += 1
            reason, detail = trespass
            # The frame is the sender's, where the channel proves one: nobody's account is charged by a stranger's claim.
            frame = self._frame(caller, target, message.payload, device=caller.device or target.device)
            self._hand_in(frame, lambda v: self._answer(caller, target, v, block), reason=reason, detail=detail)
            return
        size = max(message.opt.size1 or 0, len(message.payload))
        if size > self._max_payload:
            self._refuse_size(caller, target, size, block)
        elif block is None:
            self._deliver(caller, target, message.payload, None)
        elif block.more and not self._known(target.device):
            # A stranger's blocks are not kept: the pipeline sees the first one and says that it knows nobody.
            self._deliver(caller, target, message.payload, block)
        else:
            self._add_block(caller, target, block)

    def _add_block(self, caller: Caller, target: Target, block: Block) -> None:
        message = caller.message
        key = (caller.source, target, message.opt.request_tag)
        body = self._uploads.add(key, block, message.payload, self._clock.monotonic())
        if body is None:
            self._answers.respond(caller, Reply(code=Code.CONTINUE), block1=block)
        elif not isinstance(body, Refusal):
            self._deliver(caller, target, body, block)
        elif body is Refusal.TOO_LARGE:
            self._refuse_size(caller, target, block.start + len(message.payload), block)
        elif body is Refusal.FULL:
            self._count.busy += 1
            self._answers.respond(caller, replies.unavailable(body.value), block1=block)
        else:
            self._count.refused += 1
            code = Code.INCOMPLETE if body is Refusal.GAP else Code.BAD_REQUEST
            self._answers.respond(caller, Reply(code=code, text=body.value), block1=block)

    def _refuse_size(self, caller: Caller, target: Target, size: int, block: Block | None) -> None:
        reply = replies.too_large(size, self._max_payload)
        frame = self._frame(caller, target, caller.message.payload)
        self._hand_in(
            frame,
            lambda verdict: self._answers.respond(caller, reply, block1=block),
            reason=Reason.TOO_LARGE,
            detail=reply.text,
        )

    def _deliver(self, caller: Caller, target: Target, payload: bytes, block: Block | None) -> None:
        frame = self._frame(caller, target, payload)
        self._hand_in(frame, lambda verdict: self._answer(caller, target, verdict, block))

    def _hand_in(
        self, frame: Frame, told: Callable[[Verdict], None], *, reason: Reason | None = None, detail: str = ""
    ) -> None:
        self._in_flight += 1

        def done(verdict: Verdict) -> None:
            self._in_flight -= 1
            told(verdict)
            if self._in_flight == 0:
                self._idle.set()

        self._sink.deliver(frame, done, reason=reason, detail=detail)

    def _answer(self, caller: Caller, target: Target, verdict: Verdict, block: Block | None) -> None:
        """Answer after the commit, with the device's next message where it asked for it, or right before that message."""
        reply = replies.reply_to(verdict)
        if verdict.kind not in (Kind.STORED, Kind.DUPLICATE):
            self._answers.respond(caller, reply, block1=block)
        elif self._mail is not None and not self._closing:
            self._mail.answer(caller, target, block)
        else:
            self._answers.respond(caller, reply, block1=block)

    def _frame(self, caller: Caller, target: Target | None, payload: bytes, *, device: str | None = None) -> Frame:
        return frame_of(caller, target, payload, device=device, now_ms=self._clock.now_ms())


def _request_of(message: Message) -> replies.Request:
    content, accept = message.opt.content_format, message.opt.accept
    return replies.Request(
        method=int(message.code),
        path=message.opt.uri_path,
        query=message.opt.uri_query,
        options=frozenset(int(option.number) for option in message.opt.option_list()),
        content=None if content is None else int(content),
        accept=None if accept is None else int(accept),
    )
