"""Block-wise uploads (RFC 7959, Block1) on their way to becoming whole payloads.

Owns the half-finished bodies, within bounds: a stranger must not make us keep more than `max_uploads` of `max_payload`
bytes, and one address or one device must not take all of that room from the others. Does no I/O; the time is handed in.
(The library's own assembly has no bound on size or number.)
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from citysense_gateway.coap.replies import Target

_SHARE = 4
"""Half-finished uploads per source address and per target device. A device sends one at a time (NSTART of RFC 7252 is
1); the others are for a restart in the middle of one, and for neighbours behind the same address."""

UploadKey = tuple[str, Target, bytes | None]
"""Which blocks belong together: the peer as `host:port`, the target, and the request tag."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One block's place: its number, its size exponent on the wire (0..6), and whether others follow."""

    number: int
    more: bool
    exponent: int

    @property
    def size(self) -> int:
        """Bytes of every block but the last."""
        return int(2 ** (self.exponent + 4))

    @property
    def start(self) -> int:
        """Offset of the block's first byte in the body."""
        return self.number * self.size


class Refusal(Enum):
    """Why a block was not taken."""

    SHAPE = "the block's payload does not have the size that its option says"
    GAP = "blocks before this one are missing; start again with block 0"
    TOO_LARGE = "the body is too large"
    FULL = "too many block-wise uploads at once"


@dataclass(slots=True)
class _Upload:
    touched: float
    body: bytearray = field(default_factory=bytearray)


class Uploads:
    """Bodies being assembled, one per key; the key says which blocks belong together.

    `lifetime` is how long, in seconds, an upload may stand still before its room is given to another. At most `share`
    uploads come from one source address, whatever its ports, and go to one device: one more pushes out the one among
    them that stood still longest, first among the sender's own.
    """

    def __init__(
        self, *, max_payload: int, max_uploads: int = 256, share: int = _SHARE, lifetime: float = 93.0
    ) -> None:
        # 93 s is MAX_TRANSMIT_WAIT of RFC 7252: after it a sender has given its block up.
        self._max_payload = max_payload
        self._max_uploads = max_uploads
        self._share = share
        self._lifetime = lifetime
        self._uploads: OrderedDict[UploadKey, _Upload] = OrderedDict()

    def __len__(self) -> int:
        return len(self._uploads)

    def add(self, key: UploadKey, block: Block, payload: bytes, now: float) -> bytes | Refusal | None:
        """The whole body once `block` completes it, None while blocks are missing, or why it is refused.

        Block 0 begins anew. Blocks come in order: one that does not continue the body ends the upload with GAP.
        """
        if block.exponent > 6 or (len(payload) != block.size if block.more else len(payload) > block.size):
            self._uploads.pop(key, None)
            return Refusal.SHAPE
        if block.start + len(payload) > self._max_payload:
            self._uploads.pop(key, None)
            return Refusal.TOO_LARGE
        if block.number == 0:
            self._uploads.pop(key, None)
            if not block.more:
                return payload
            if not self._make_room(key, now):
                return Refusal.FULL
            self._uploads[key] = _Upload(now)
        upload = self._uploads.get(key)
        if upload is None or len(upload.body) != block.start:
            self._uploads.pop(key, None)
            return Refusal.GAP
        upload.body += payload
        upload.touched = now
        self._uploads.move_to_end(key)
        if block.more:
            return None
        del self._uploads[key]
        return bytes(upload.body)

    def tidy(self, now: float) -> None:
        """Forget what has stood still for its lifetime."""
        while self._uploads:
            oldest = next(iter(self._uploads))
            if now - self._uploads[oldest].touched < self._lifetime:
                return
            del self._uploads[oldest]

    def _make_room(self, key: UploadKey, now: float) -> bool:
        self.tidy(now)
        source, device = _address(key), key[1].device
        self._keep_to_share(source, lambda other: _address(other) == source)
        self._keep_to_share(source, lambda other: other[1].device == device)
        return len(self._uploads) < self._max_uploads

    def _keep_to_share(self, source: str, shares: Callable[[UploadKey], bool]) -> None:
        """Leave room for one more among the uploads that share something."""
        sharing = [key for key in self._uploads if shares(key)]
        if len(sharing) >= self._share:
            # A device whose uploads all stand still elsewhere must not be shut out by them.
            del self._uploads[next((key for key in sharing if _address(key) == source), sharing[0])]


def _address(key: UploadKey) -> str:
    """The peer's address without its port: ports cost a sender nothing."""
    host, _, port = key[0].rpartition(":")
    # CoAP's own port is left out of what the library calls a peer.
    return host if port.isdecimal() else key[0]
