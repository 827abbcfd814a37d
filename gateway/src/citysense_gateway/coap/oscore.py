"""OSCORE (RFC 8613): which device sent a protected request, and the way of its reply.

Owns the contexts of all devices, one per credential, in this one process; the library does the cryptography. What a
request says is decided elsewhere. A context's replay window is empty until the device has answered an Echo (appendix
B.1.2) or until it comes from the disk after a clean stop; before that, nothing it sends is taken.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

import msgspec
from aiocoap import Message, error, oscore
from aiocoap.numbers.codes import FETCH, POST

from citysense import wire
from citysense.errors import StorageError
from citysense_gateway.coap.oscore_store import OscoreStore, Window

_LOG = logging.getLogger(__name__)
_ECHO_BYTES = 8
_MAX_IV = 5
"""Bytes of a partial IV; the header has room for 7, and the library would trip over them."""
_MAX_ID = 7
"""Bytes of a sender id with AES-CCM-16-64-128: the nonce's length less 6 (section 3.3)."""


class Failure(Enum):
    """Why a protected request was not opened, with the words of RFC 8613 section 8.2."""

    MALFORMED = "Failed to decode COSE"
    UNKNOWN = "Security context not found"
    REPLAY = "Replay detected"
    FORGED = "Decryption failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Not opened. `device` is the one that the key id stands for; nothing proves that it sent this."""

    failure: Failure
    device: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """Genuine, but perhaps an old one: the device is to send it again with the Echo in `response`.

    `response` is None while there is no sender number to protect it with; the device repeats its request.
    """

    response: Message | None


class Sealing:
    """Protects what answers one request: its reply, and the notifications of its observation."""

    __slots__ = ("_context", "_request")

    def __init__(self, context: Context, request: oscore.RequestIdentifiers) -> None:
        self._context = context
        self._request = request

    def protect(self, response: Message) -> Message | None:
        """The protected response; None while there is no sender number for it.

        The first one shares the request's nonce, each further one has a number of its own. The outer message carries
        the Observe value; the inner one is empty (section 4.1.3.5).
        """
        observe = response.opt.observe
        if observe is not None:
            response.opt.observe = 0
        try:
            outer, _ = self._context.protect(response, self._request)
        except oscore.ContextUnavailable:
            return None
        outer.opt.observe = observe
        return outer


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A fresh request of `device`, as it was before it was protected."""

    device: str
    message: Message
    sealing: Sealing


class Context(oscore.CanProtect, oscore.CanUnprotect, oscore.SecurityContextUtils):  # type: ignore[misc]
    """The library's context of one device. `take` gives a sender number that was never used, or None."""

    alg_aead = oscore.algorithms[oscore.DEFAULT_ALGORITHM]
    hashfun = oscore.hashfunctions[oscore.DEFAULT_HASHFUNCTION]

    def __init__(self, keys: wire.Oscore, echo: bytes, take: Callable[[], int | None]) -> None:
        self.sender_id = keys.sender
        self.recipient_id = keys.recipient
        self.id_context = keys.context or None
        self._echo = echo
        self._take = take
        self.recipient_replay_window = oscore.ReplayWindow(oscore.DEFAULT_WINDOWSIZE, _nothing)
        self.derive_keys(keys.salt, keys.secret)

    @property
    def echo_recovery(self) -> bytes | None:
        """What the device must echo before its first request is taken; None once it has."""
        return None if self.recipient_replay_window.is_initialized() else self._echo

    def new_sequence_number(self) -> int:
        number = self._take()
        if number is None:
            raise oscore.ContextUnavailable("no sender number is reserved")
        return number

    def post_seqnoincrease(self) -> None:
        """The store has reserved the number before it gave it out."""


def _nothing() -> None:
    """Windows are written at a clean stop, not with each request."""


@dataclass(slots=True, kw_only=True)
class _Entry:
    device: str
    keys: wire.Oscore
    context: Context | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Header:
    """The OSCORE option of a request (RFC 8613 section 6.1)."""

    kid: bytes
    context: bytes | None


class OscoreContexts:
    """The contexts of all devices. `keys` gives their credentials; `random_bytes` makes Echo values."""

    def __init__(
        self,
        *,
        keys: Callable[[], Mapping[str, wire.Oscore]],
        store: OscoreStore,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._keys = keys
        self._store = store
        self._random_bytes = random_bytes
        self._devices: dict[str, _Entry] = {}
        self._by_kid: dict[bytes, list[_Entry]] = {}
        self._saved: dict[bytes, Window] = {}

    async def start(self) -> None:
        """Take up what is on disk. Raises StorageError."""
        self._saved = await self._store.open()
        self.refresh()

    async def stop(self) -> None:
        """Keep the windows for a quick restart."""
        windows = dict(self._saved)
        for entry in self._devices.values():
            window = entry.context.recipient_replay_window if entry.context is not None else None
            if window is not None and window.is_initialized():
                state = window.persist()
                windows[_name(entry.keys)] = Window(lowest=state["index"], seen=state["bitfield"])
        try:
            await self._store.close(windows)
        except StorageError as e:
            _LOG.warning("OSCORE windows were not kept (%s); devices are asked for an Echo after the restart", e)

    def refresh(self) -> None:
        """Take over the present credentials. A context lives on as long as its keys stay the same."""
        devices: dict[str, _Entry] = {}
        by_kid: dict[bytes, list[_Entry]] = {}
        for device, keys in self._keys().items():
            if max(len(keys.sender), len(keys.recipient)) > _MAX_ID:
                _LOG.error("device %s: an OSCORE id has more than %d bytes; register it anew", device, _MAX_ID)
                continue
            known = self._devices.get(device)
            entry = known if known is not None and known.keys == keys else _Entry(device=device, keys=keys)
            devices[device] = entry
            by_kid.setdefault(keys.recipient, []).append(entry)
        self._devices, self._by_kid = devices, by_kid

    def has(self, device: str) -> bool:
        """Whether the device has OSCORE keys."""
        return device in self._devices

    def open(self, message: Message) -> Opened | Challenge | Refused:
        """Open a request that carries the OSCORE option."""
        header = _header(bytes(message.opt.oscore))
        if header is None or message.code not in (POST, FETCH):
            return Refused(failure=Failure.MALFORMED)
        entry = self._entry(header)
        if entry is None:
            return Refused(failure=Failure.UNKNOWN)
        context = self.context_of(entry.device)
        try:
            inner, request = context.unprotect(message)
        except oscore.ReplayErrorWithEcho as e:
            return Challenge(response=_echo_of(e))
        except oscore.ReplayError:
            return Refused(failure=Failure.REPLAY, device=entry.device)
        except oscore.ProtectionInvalid:
            return Refused(failure=Failure.FORGED, device=entry.device)
        except (error.UnparsableMessage, ValueError):
            # Genuine, and no CoAP message all the same.
            return Refused(failure=Failure.MALFORMED, device=entry.device)
        return Opened(device=entry.device, message=inner, sealing=Sealing(context, request))

    def _entry(self, header: _Header) -> _Entry | None:
        candidates = self._by_kid.get(header.kid, [])
        if header.context is None and len(candidates) == 1:
            return candidates[0]
        context = header.context or b""
        return next((entry for entry in candidates if entry.keys.context == context), None)

    def context_of(self, device: str) -> Context:
        """The context of a device that has keys. Raises KeyError for another."""
        entry = self._devices[device]
        # Made at the first request: deriving the keys of ten thousand devices at the start would stop the loop.
        if entry.context is None:
            entry.context = Context(entry.keys, self._random_bytes(_ECHO_BYTES), self._store.take)
            saved = self._saved.pop(_name(entry.keys), None)
            if saved is not None:
                state = {"index": saved.lowest, "bitfield": saved.seen}
                entry.context.recipient_replay_window.initialize_from_persisted(state)
        return entry.context


def _echo_of(challenge: oscore.ReplayErrorWithEcho) -> Message | None:
    try:
        return challenge.to_message()
    except oscore.ContextUnavailable:
        return None


def _name(keys: wire.Oscore) -> bytes:
    """What a window is kept under: other keys, another name."""
    return hashlib.sha256(msgspec.msgpack.encode(keys)).digest()


def _header(option: bytes) -> _Header | None:
    """Key id and context of a request; None where it has no key id or partial IV, or is cut short."""
    if not option:
        return None
    flags, rest = option[0], option[1:]
    length = flags & 0b111
    # Bits 5 to 7 are reserved; group OSCORE uses the lowest of them.
    if flags & 0b1110_0000 or not flags & 0b1000 or not 1 <= length <= min(_MAX_IV, len(rest)):
        return None
    rest = rest[length:]
    if not flags & 0b1_0000:
        return _Header(kid=rest, context=None)
    if not rest or len(rest) - 1 < rest[0]:
        return None
    end = 1 + rest[0]
    return _Header(kid=rest[end:], context=rest[1:end])
