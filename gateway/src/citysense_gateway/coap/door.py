"""The CoAP server: takes `POST /v1/{device}/{message}` and answers after the commit.

Owns the way of one request: parse, assemble, hand to the pipeline, reply. It knows nothing of meaning; which reply
fits is decided in `replies`. 2.04 leaves only after the sink has returned; the empty ACK that CoAP sends after 0.1 s
promises nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiocoap import Message, interfaces

from citysense.clock import Clock
from citysense_gateway.coap import replies
from citysense_gateway.coap.replies import Code, Reply, Request, Target
from citysense_gateway.coap.transport import DatagramCounters, ServingContext
from citysense_gateway.coap.uploads import Block, Refusal, Uploads
from citysense_gateway.frame import Frame, FrameSink, Identity, Reason, Transport, Verdict

_LOG = logging.getLogger(__name__)
_MAX_IN_FLIGHT = 1024
"""Frames without a verdict; beyond it 5.03. At 64 kB each they could hold 64 MB; a usual one has 200 bytes."""
_STOP_GRACE = 5.0
"""Seconds that stop() waits for verdicts under way."""
_DELIVERY_MARK = b"\x02"
"""First byte of the delivery keys of CoAP, so that they never equal another door's."""
_EXCHANGE_LIFETIME = 247_000
"""Milliseconds (RFC 7252) within which a sender may not use a message id again."""


@dataclass(slots=True, kw_only=True)
class CoapCounters:
    """Totals since start, except `in_flight` and `uploads`, which are now."""

    requests: int = 0
    busy: int = 0
    """Refused with 5.03 because too much was under way."""
    refused: int = 0
    """Answered with an error before there was a frame: path, method, option, format, or a block out of place."""
    in_flight: int = 0
    uploads: int = 0
    malformed: int = 0
    repeats: int = 0
    unsent: int = 0


class CoapDoor:
    """Serves devices over CoAP on UDP. `known` says whether a device id is assigned to this gateway.

    `max_payload` in bytes; it bounds a body however it comes, in one datagram or in blocks.
    """

    def __init__(
        self,
        *,
        sink: FrameSink,
        known: Callable[[str], bool],
        clock: Clock,
        max_payload: int = 65536,
        max_in_flight: int = _MAX_IN_FLIGHT,
    ) -> None:
        self._sink = sink
        self._known = known
        self._clock = clock
        self._max_payload = max_payload
        self._max_in_flight = max_in_flight
        self._uploads = Uploads(max_payload=max_payload)
        self._context: ServingContext | None = None
        self._closing = False
        self._under_way: set[asyncio.Task[Verdict]] = set()
        self._requests = 0
        self._busy = 0
        self._refused = 0

    @property
    def port(self) -> int:
        """The port it listens on."""
        if self._context is None:
            raise RuntimeError("the CoAP door is not open: call start() first")
        return self._context.port

    @property
    def counters(self) -> CoapCounters:
        """What was counted so far."""
        datagrams = self._context.counters if self._context is not None else DatagramCounters()
        return CoapCounters(
            requests=self._requests,
            busy=self._busy,
            refused=self._refused,
            in_flight=len(self._under_way),
            uploads=len(self._uploads),
            malformed=datagrams.malformed,
            repeats=datagrams.repeats,
            unsent=datagrams.unsent,
        )

    async def start(self, host: str, port: int) -> None:
        """Listen; port 0 takes a free one. OSError comes through as it is: whoever configured the address words it."""
        context = ServingContext(_Site(self._answer), self._clock)
        await context.bind(host, port)
        self._closing = False
        self._context = context

    async def stop(self) -> None:
        """Take nothing new, wait a little for verdicts under way and answer them, then close the socket."""
        context = self._context
        if context is None:
            return
        self._closing = True
        if self._under_way:
            _, late = await asyncio.wait(self._under_way, timeout=_STOP_GRACE)
            for task in late:
                task.cancel()
            # Their replies are written by tasks of the library, which run after ours have ended.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        self._context = None
        await context.shutdown()

    async def _answer(self, message: Message) -> tuple[Reply, Block | None]:
        """The reply to one request, and the block it acknowledges."""
        self._requests += 1
        block = _block_of(message)
        target = replies.target_of(_request_of(message))
        if isinstance(target, Reply):
            if target.code >= Code.BAD_REQUEST:
                self._refused += 1
            return target, block
        if self._closing or len(self._under_way) >= self._max_in_flight:
            self._busy += 1
            return replies.unavailable("busy; send it again"), block
        announced = message.opt.size1 or 0
        size = max(announced, len(message.payload))
        if size > self._max_payload:
            return await self._refuse_size(message, target, size), block
        if block is None:
            return await self._deliver(message, target, message.payload), None
        if block.more and not self._known(target.device):
            # A stranger's blocks are not kept: the pipeline sees the first one and says that it knows nobody.
            return await self._deliver(message, target, message.payload), block
        return await self._add_block(message, target, block), block

    async def _add_block(self, message: Message, target: Target, block: Block) -> Reply:
        key = (message.remote.hostinfo, target, message.opt.request_tag)
        body = self._uploads.add(key, block, message.payload, self._clock.monotonic())
        if body is None:
            return Reply(code=Code.CONTINUE)
        if not isinstance(body, Refusal):
            return await self._deliver(message, target, body)
        if body is Refusal.TOO_LARGE:
            return await self._refuse_size(message, target, block.start + len(message.payload))
        if body is Refusal.FULL:
            self._busy += 1
            return replies.unavailable(body.value)
        self._refused += 1
        return Reply(code=Code.INCOMPLETE if body is Refusal.GAP else Code.BAD_REQUEST, text=body.value)

    async def _deliver(self, message: Message, target: Target, payload: bytes) -> Reply:
        frame = self._frame(message, target, payload)
        task = asyncio.create_task(self._sink.accept(frame), name=f"frame of {target.device}")
        self._under_way.add(task)
        task.add_done_callback(self._ended)
        # Shielded: a device that loses interest in the reply must not tear its frame out of the pipeline.
        return replies.reply_to(await asyncio.shield(task))

    def _ended(self, task: asyncio.Task[Verdict]) -> None:
        self._under_way.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _LOG.error("a frame came to no verdict", exc_info=task.exception())

    async def _refuse_size(self, message: Message, target: Target, size: int) -> Reply:
        reply = replies.too_large(size, self._max_payload)
        await self._sink.refuse(self._frame(message, target, message.payload), Reason.TOO_LARGE, reply.text)
        return reply

    def _frame(self, message: Message, target: Target, payload: bytes) -> Frame:
        received_at = self._clock.now_ms()
        source: str = message.remote.hostinfo
        return Frame(
            transport=Transport.COAP,
            channel=target.channel,
            device=target.device,
            identity=Identity.ASSERTED,
            source=source,
            received_at=received_at,
            payload=payload,
            message=target.message,
            content=target.content,
            delivery=delivery_key(source, message.mid, message.token, received_at),
        )


def delivery_key(source: str, message_id: int, token: bytes, received_at: int) -> bytes:
    """What vouches for "the same message again": peer, message id and token, within one exchange lifetime.

    The time is part of it because simple devices begin with the same message id after each restart: without it their
    next reading of the same value would be taken for a repeat, and lost.
    """
    lifetime = received_at // _EXCHANGE_LIFETIME
    place = message_id.to_bytes(2, "big") + lifetime.to_bytes(6, "big")
    return _DELIVERY_MARK + source.encode() + b"\0" + place + token


def _request_of(message: Message) -> Request:
    content, accept = message.opt.content_format, message.opt.accept
    return Request(
        method=int(message.code),
        path=message.opt.uri_path,
        options=frozenset(int(option.number) for option in message.opt.option_list()),
        content=None if content is None else int(content),
        accept=None if accept is None else int(accept),
    )


def _block_of(message: Message) -> Block | None:
    block = message.opt.block1
    if block is None:
        return None
    return Block(number=block.block_number, more=block.more, exponent=block.size_exponent)


class _Site(interfaces.Resource):  # type: ignore[misc]
    """Everything under the root, as the library wants it."""

    def __init__(self, answer: Callable[[Message], Any]) -> None:
        super().__init__()
        self._answer = answer

    async def needs_blockwise_assembly(self, request: Message) -> bool:
        return False

    async def render(self, request: Message) -> Message:
        reply, block = await self._answer(request)
        response = Message(code=int(reply.code), payload=reply.text.encode("utf-8", "replace"))
        response.opt.max_age = reply.max_age
        response.opt.size1 = reply.limit
        if reply.content is not None:
            response.opt.content_format = reply.content
        if block is not None:
            # What is acknowledged; "more" only says that the body goes on.
            response.opt.block1 = (block.number, reply.code is Code.CONTINUE, min(block.exponent, 6))
        response.opt.no_response = request.opt.no_response
        return response

    async def render_to_pipe(self, pipe: Any) -> None:
        pipe.add_response(await self.render(pipe.request), is_last=True)
