"""By what a repeat of a frame is recognised.

Two equal payloads are two readings unless something says that they are one: the message's own counter, a time inside
the frame, or the protocol that vouches for "the same again". Pure; whether the key was seen before is the spool's
business.
"""

from __future__ import annotations

import hashlib

import msgspec

from citysense_gateway.frame import Frame, Transport
from citysense_profiles.reading import Decoded

COAP_EXCHANGE_MS = 247_000
"""RFC 7252 EXCHANGE_LIFETIME: after it a sender may use a message id for something else."""
KEPT_MS = 48 * 3600 * 1000
"""How long keys are kept; devices that hold readings back longer than two days send a counter or a time."""
DUP_MS = 10 * 60 * 1000
"""How long MQTT's DUP flag is believed for a frame without a time. A device that sends again does so within minutes; one that
wakes hours later and begins with packet id 1 again means something new, and a reading twice is better than none."""
_DUP = b"\x01"
_KEY_BYTES = 16


class Counted(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The message counts itself."""

    boot: int
    seq: int
    base: int | None


class Keyed(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A key that is remembered. Where `may_repeat` is false the frame is new in any case, and a later one may not be."""

    key: bytes
    may_repeat: bool
    lifetime_ms: int


Fingerprint = Counted | Keyed | None
"""None: nothing can tell a repeat of this frame; it is stored as often as it comes."""


def fingerprint(frame: Frame, device: str, decoded: Decoded) -> Fingerprint:
    """The de-duplication key of a decoded frame of `device`."""
    if decoded.boot is not None and decoded.seq is not None:
        return Counted(boot=decoded.boot, seq=decoded.seq, base=decoded.base)
    if frame.transport is Transport.MODBUS:
        # Each poll is a reading of its own: two equal answers are two.
        return None
    times = [sample.time for sample in decoded.samples if sample.time is not None]
    if times:
        return Keyed(key=_key(b"time", device, str(max(times)).encode(), frame), may_repeat=True, lifetime_ms=KEPT_MS)
    if frame.delivery is None:
        return None
    if frame.transport is Transport.MQTT:
        flag, message = frame.delivery[:1], frame.delivery[1:]
        return Keyed(key=_key(b"mqtt", device, message, frame), may_repeat=flag == _DUP, lifetime_ms=DUP_MS)
    return Keyed(key=_key(b"coap", device, frame.delivery, frame), may_repeat=True, lifetime_ms=COAP_EXCHANGE_MS)


def _key(kind: bytes, device: str, what: bytes, frame: Frame) -> bytes:
    """Digest of length-prefixed parts. The payload is always among them: an id that was used again for another reading
    must not swallow it."""
    digest = hashlib.sha256()
    for part in (kind, device.encode(), what, hashlib.sha256(frame.payload).digest()):
        digest.update(len(part).to_bytes(4, "big"))
        digest.update(part)
    return digest.digest()[:_KEY_BYTES]
