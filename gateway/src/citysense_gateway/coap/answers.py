"""How a reply leaves: protected, in the block that was asked for, not at all, or smaller than it draws.

Owns who sent a request (`Caller`) and the rule that an address which has not shown itself gets little. Which reply it is,
is decided elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aiocoap import Message

from citysense_gateway.coap import amplification
from citysense_gateway.coap.amplification import Addresses
from citysense_gateway.coap.exchanges import Request, wanted
from citysense_gateway.coap.oscore import Sealing
from citysense_gateway.coap.rendering import rendered
from citysense_gateway.coap.replies import Code, Reply
from citysense_gateway.coap.uploads import Block

_FRAMING = 5
"""Bytes of a message's header, and the marker before its payload."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """A request and who it is from: `device` is proven, None where the channel proves nothing."""

    exchange: Request
    message: Message
    device: str | None
    sealing: Sealing | None = None

    @property
    def source(self) -> str:
        """Where it came from, as `host:port`."""
        return self.exchange.peer.name


class Answers:
    """Sends replies."""

    def __init__(self, addresses: Addresses) -> None:
        self._addresses = addresses
        self.challenged = 0
        """Addresses that were asked to show themselves, since the start."""

    def note_echo(self, caller: Caller) -> None:
        """Take the Echo of a request that came over plain CoAP, if it has one."""
        if caller.device is None and caller.message.opt.echo is not None:
            self._addresses.answered(caller.source, caller.message.opt.echo)

    def unverified(self, caller: Caller) -> bool:
        """Whether nothing shows that the caller receives where it says."""
        return caller.device is None and not self._addresses.verified(caller.source)

    def echo_for(self, caller: Caller) -> bytes:
        """What the caller is to send back."""
        return self._addresses.echo(caller.source)

    def challenge(self, caller: Caller) -> None:
        """Ask for an Echo instead of an answer."""
        self.challenged += 1
        caller.exchange.reply(rendered(Reply(code=Code.UNAUTHORIZED, echo=self.echo_for(caller))))

    def respond(self, caller: Caller, reply: Reply, *, block1: Block | None = None) -> None:
        """Send `reply`. `block1` is the block of the request that it acknowledges."""
        caller.exchange.verified = not self.unverified(caller)
        message = rendered(reply, block1=block1, block2=block_of(caller.message.opt.block2))
        if not wanted(message, caller.message.opt.no_response):
            caller.exchange.reply(None)
        elif caller.sealing is not None:
            caller.exchange.reply(caller.sealing.protect(message))
        elif caller.exchange.verified or len(message.payload) <= (room := self._room(caller, message)):
            caller.exchange.reply(message)
        elif reply.payload:
            self.challenge(caller)
        else:
            # A diagnostic text is for people, and its beginning says most; the code says enough.
            message.payload = message.payload[:room].decode(errors="ignore").encode()
            caller.exchange.reply(message)

    def _room(self, caller: Caller, message: Message) -> int:
        """Bytes of payload that a reply to an unverified address may have."""
        head = _FRAMING + len(caller.exchange.message.token) + len(message.opt.encode())
        return max(0, amplification.most_for(caller.exchange.size) - head)


def block_of(option: Any) -> Block | None:
    """The library's block option in our words."""
    if option is None:
        return None
    return Block(number=option.block_number, more=option.more, exponent=option.size_exponent)
