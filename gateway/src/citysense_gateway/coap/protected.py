"""Requests protected with OSCORE: what is inside, or the answer to one that cannot be opened (RFC 8613 section 8.2).

Owns the bound on their size and the codes of the refusals. The contexts and their replay windows are `oscore`'s.
"""

from __future__ import annotations

from citysense_gateway.coap import replies
from citysense_gateway.coap.exchanges import Request
from citysense_gateway.coap.oscore import Challenge, Failure, Opened, OscoreContexts, Refused
from citysense_gateway.coap.replies import Code, Reply

_MAX_BYTES = 4_096
"""Bytes of a protected datagram. What is inside can be counted only by reading it; larger bodies come in blocks."""
_CODES = {
    Failure.MALFORMED: Code.BAD_OPTION,
    Failure.UNKNOWN: Code.UNAUTHORIZED,
    Failure.REPLAY: Code.UNAUTHORIZED,
    Failure.FORGED: Code.BAD_REQUEST,
}


def open_request(exchange: Request, contexts: OscoreContexts | None) -> Opened | Challenge | Refused | Reply:
    """What a protected request holds; a reply to one that is too large to be looked into. Without `contexts` no device is
    known."""
    if exchange.size > _MAX_BYTES:
        return replies.too_large(exchange.size, _MAX_BYTES)
    if contexts is None:
        return Refused(failure=Failure.UNKNOWN)
    if exchange.message.opt.block1 is not None:
        # Devices make blocks inside the protection; outside of it a proxy made them (section 4.1.3.4).
        return Refused(failure=Failure.MALFORMED)
    return contexts.open(exchange.message)


def refusal(why: Refused) -> Reply:
    """The reply to a request that could not be opened."""
    return Reply(code=_CODES[why.failure], text=why.failure.value, max_age=0)


def leaves_trace(why: Refused) -> bool:
    """Whether it is kept among the dead letters: somebody without the right credential, and no mere repeat."""
    return why.failure not in (Failure.REPLAY, Failure.MALFORMED)
