"""Frames that could not be used, as they are kept.

Owns what is kept of such a frame and when it is sealed: it may hold
personal data unless its device is known and its profile has no personal field. Pure but for the counting of the quota.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

from citysense import wire
from citysense_gateway.devices import Device
from citysense_gateway.frame import Frame, Identity, Reason
from citysense_gateway.secrets_zeroed import secret_names, without_secrets

MAX_RAW = 65_536
"""Bytes kept of a frame; `size` says how many there were."""
GATEWAY = "gateway"
"""Owner of the seal of frames of no known device."""

NO_VALUE = "no_value"
"""Reason of a letter beside a stored frame: a sentinel of the device's stands where a value should."""

Seal = Callable[[str, bytes], bytes]
"""(owner, clear) -> sealed; see `keys.Sealer.seal`."""


def seal_owner(device: Device | None) -> str:
    """Whose key seals a frame; empty where it may stand in clear. No device id has a slash, so owners never clash."""
    if device is None:
        return GATEWAY
    return f"device/{device.id}" if device.profile.personal else ""


def dead_letter(frame: Frame, *, reason: str, detail: str, device: Device | None, seal: Seal) -> wire.DeadLetter:
    """The record of a frame that was not usable. `device` is None where it is not a registered one."""
    clear = b"" if reason == Reason.BAD_CREDENTIAL else raw_bytes(frame)
    kept = _without_secrets(frame, clear, device) if device is not None else clear
    if kept is None:
        digest = hashlib.sha256(clear).hexdigest()
        detail += f"; not kept, since it may hold a secret and nobody can say where (SHA-256 {digest})"
        kept = b""
    kept = kept[:MAX_RAW]
    owner = seal_owner(device) if kept else ""
    return wire.DeadLetter(
        received=frame.received_at,
        transport=frame.transport.value,
        source=frame.source,
        channel=frame.channel,
        device=frame.device or "",
        profile="" if device is None else device.profile.id,
        reason=reason,
        detail=printable(detail),
        size=len(clear),
        raw=seal(owner, kept) if owner else kept,
        seal=owner,
        message=frame.message or "",
        content=-1 if frame.content is None else frame.content,
        identity=frame.identity.value,
        via=frame.via or "",
    )


def _without_secrets(frame: Frame, clear: bytes, device: Device) -> bytes | None:
    """What may be kept of a device's frame; None: nothing of it."""
    if not clear or not secret_names(device.profile):
        return clear
    if frame.registers is not None:
        return None
    return without_secrets(
        clear, device.profile, message=frame.message or None, content=frame.content, settings=device.settings
    )


def raw_bytes(frame: Frame) -> bytes:
    """What came in, as bytes; registers as JSON: {"holding": {"40001": 17}}."""
    if frame.registers is None:
        return frame.payload
    tables: dict[str, dict[str, int]] = {}
    for (table, address), word in sorted(frame.registers.items()):
        tables.setdefault(table, {})[str(address)] = word
    return json.dumps(tables, separators=(",", ":")).encode()


def printable(text: str) -> str:
    """`text` without what cannot be stored as UTF-8; a device may send half a surrogate pair."""
    return text.encode("utf-8", errors="replace").decode("utf-8")


class Quota:
    """How many dead letters one sender may cause in a minute.

    Whoever sends rubbish or guesses passwords at full speed must not fill the disk that other devices need. What is
    over the quota is refused and counted all the same; only its copy is not kept.
    """

    def __init__(self, *, letters: int = 1_000, raw: int = 16 << 20, senders: int = 10_000) -> None:
        self._letters = letters
        self._raw = raw
        self._senders = senders
        self._minute = -1
        self._used: dict[str, tuple[int, int]] = {}

    def take(self, frame: Frame) -> bool:
        """True if the frame may be kept."""
        minute = frame.received_at // 60_000
        if minute != self._minute:
            self._minute = minute
            self._used.clear()
        sender = self._sender(frame)
        letters, raw = self._used.get(sender, (0, 0))
        if letters >= self._letters or raw >= self._raw:
            return False
        self._used[sender] = (letters + 1, raw + min(len(frame.payload), MAX_RAW))
        return True

    def give_back(self, frame: Frame) -> None:
        """Undo `take`: nothing was kept of the frame after all."""
        sender = self._sender(frame)
        if frame.received_at // 60_000 == self._minute and sender in self._used:
            letters, raw = self._used[sender]
            self._used[sender] = (max(0, letters - 1), max(0, raw - min(len(frame.payload), MAX_RAW)))

    def _sender(self, frame: Frame) -> str:
        """The device where it proved to be itself, else the address without its port. What a concentrator sends for
        others is on its own account: it alone can mend what it sends."""
        if frame.via is not None:
            sender = frame.via
        elif frame.identity is Identity.ASSERTED or frame.device is None:
            sender = frame.source.rpartition(":")[0] or frame.source
        else:
            sender = frame.device
        # Beyond the bound all newcomers share one account.
        return sender if sender in self._used or len(self._used) < self._senders else ""
