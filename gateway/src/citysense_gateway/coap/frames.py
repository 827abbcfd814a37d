"""The frames that this door makes of requests.

Owns what stands in which field of `Frame`, and what vouches for a repeat. Pure.
"""

from __future__ import annotations

from citysense_gateway.coap.answers import Caller
from citysense_gateway.coap.replies import Target
from citysense_gateway.frame import Frame, Identity, Transport

_DELIVERY_MARK = b"\x02"
"""First byte of the delivery keys of CoAP, so that they never equal another door's."""
_PROTECTED = "oscore"
"""The channel of a frame that nobody could open: its path is inside."""


def frame_of(caller: Caller, target: Target | None, payload: bytes, *, device: str | None, now_ms: int) -> Frame:
    """What `caller` sent to `target`, None where nobody could read what it is. `device` is whose account it is on, where
    that is not the target's."""
    outer = caller.exchange.message
    return Frame(
        transport=Transport.COAP,
        channel=_PROTECTED if target is None else target.channel,
        device=device or (None if target is None else target.device),
        identity=Identity.ASSERTED if caller.device is None else Identity.CREDENTIAL,
        source=caller.source,
        received_at=now_ms,
        payload=payload,
        message=None if target is None else target.message,
        content=None if target is None else target.content,
        delivery=delivery_key(caller.source, outer.mid, outer.token),
    )


def delivery_key(source: str, message_id: int, token: bytes) -> bytes:
    """What vouches for "the same message again": peer, message id and token.

    It holds for EXCHANGE_LIFETIME, 247 s (RFC 7252 section 4.8.2), counted from the first time by who remembers it
    (`fingerprint`): a key with a clock of its own would change in the middle of an exchange, and what is repeated over
    a restart of ours would be stored twice. Within that time a sender may not use an id again (section 4.4). A device
    that does, because it begins with the same id after each restart of its own, loses no reading that differs from the
    one before; of equal ones without a time or counter it keeps one in 247 s, as it would with any clock in the key.
    """
    return _DELIVERY_MARK + source.encode() + b"\0" + message_id.to_bytes(2, "big") + token
