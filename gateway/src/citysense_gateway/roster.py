"""Keeps the gateway's devices current, and remembers them for a start without the platform.

Owns the long poll and DIR/roster.sealed, the last roster under the gateway's own key: credentials of devices never lie
on the disk in clear.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from citysense import wire
from citysense.errors import SetupError
from citysense.keys import SealBroken, Sealer
from citysense.progress import Pulse
from citysense_gateway.dead_letters import GATEWAY
from citysense_gateway.devices import Changes, Devices
from citysense_gateway.outage import Outage
from citysense_gateway.platform_client import BatchRefused, PlatformClient, Unreachable

log = logging.getLogger(__name__)

_UNKNOWN = 10**18 - 1
"""No roster has this version, so the present one comes at once. The first poll of a process asks with it: the cache may
be of another database."""


LONGEST_WAIT_S = 1.0
"""Between two tries. Until the roster is there, new devices are strangers; asking costs the platform next to nothing."""


class RosterKeeper:
    """Polls for the roster. `on_change` is called after the devices were replaced, before the cache is written.

    `pulse` beats with each poll, which takes POLL_S at most.
    """

    def __init__(
        self,
        path: Path,
        *,
        devices: Devices,
        client: PlatformClient,
        sealer: Sealer,
        random: Callable[[], float],
        on_change: Callable[[Changes], None],
        pulse: Pulse | None = None,
    ) -> None:
        self._path = path
        self._devices = devices
        self._client = client
        self._sealer = sealer
        self._outage = Outage("roster", random, longest=LONGEST_WAIT_S)
        self._cache = Outage("cache of the roster", random)
        self._on_change = on_change
        self._pulse = pulse or Pulse()
        self._roster: wire.Roster | None = None
        self._version = _UNKNOWN
        self._unwritten: wire.Roster | None = None
        self._cached: wire.Roster | None = None
        """What the cache holds, as far as it is known; None for nothing that could be read."""
        self.current = asyncio.Event()
        """Set once the platform itself has said who the devices are, and a start without it would know them too."""

    def load(self) -> None:
        """Serve the devices of the cache, if there is one. A cache that cannot be read is as good as none."""
        try:
            sealed = self._path.read_bytes()
            roster = msgspec.msgpack.decode(self._sealer.open(GATEWAY, sealed), type=wire.Roster)
        except FileNotFoundError:
            return
        except (OSError, SealBroken, msgspec.DecodeError) as e:
            log.warning("%s is not used (%s); devices are served once the platform answers", self._path, e)
            return
        self._cached = roster
        self._serve(roster)

    async def run(self) -> None:
        """Follow the platform's roster until cancelled."""
        while True:
            self._pulse.beat()
            try:
                roster = await self._client.roster(self._version)
            except Unreachable as e:
                await asyncio.sleep(self._outage.failed(e, e.retry_after))
                continue
            except BatchRefused as e:
                await asyncio.sleep(self._outage.failed(e))
                continue
            self._outage.worked()
            if roster is not None:
                self._version = roster.version
                self._serve(roster)
                self._unwritten = roster
            if self._unwritten is not None:
                await asyncio.to_thread(self._remember, self._unwritten)
            self.current.set()

    def serve_again(self) -> Changes:
        """Fit the roster in force to the devices' profiles anew, after those have changed."""
        return Changes() if self._roster is None else self._serve(self._roster)

    def _serve(self, roster: wire.Roster) -> Changes:
        self._roster = roster
        changes = self._devices.replace(roster)
        for device, profile in changes.unsupported:
            log.error("device %s is not served: its profile %s is not known here; update this gateway", device, profile)
        for device, sentence in changes.unfit:
            log.error("device %s is not served: %s; correct its settings in the registry", device, sentence)
        self._on_change(changes)
        return changes

    def _remember(self, roster: wire.Roster) -> None:
        """Write the cache whole or not at all; what it held must not bring back a right that is gone."""
        try:
            self._write(wire.encode(roster))
        except OSError as e:
            # It is tried again after the next poll.
            self._cache.failed(e)
            if self._cached is not None and takes_rights(self._cached, roster):
                self._delete_cache()
        else:
            self._cache.worked()
            self._unwritten, self._cached = None, roster

    def _delete_cache(self) -> None:
        try:
            self._path.unlink(missing_ok=True)
            _sync_folder(self._path.parent)
        except OSError as e:
            log.error(
                "%s cannot be deleted either (%s); delete it: a start without the platform would serve devices that are "
                "revoked",
                self._path,
                e.strerror,
            )
        else:
            self._cached = None
            log.warning(
                "%s is deleted, since it would let in devices that are revoked; until it can be written, a start without "
                "the platform serves nobody",
                self._path,
            )

    def _write(self, roster: bytes) -> None:
        """Raises OSError; then the old cache stands."""
        draft = self._path.with_name(f"{self._path.name}.new")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(self._sealer.seal(GATEWAY, roster))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._path)
        # Without it a power cut may bring the old file back, and those who were revoked since.
        _sync_folder(self._path.parent)


def takes_rights(before: wire.Roster, after: wire.Roster) -> bool:
    """Whether somebody whom `before` lets in is not let in by `after`, or only in another way. A revoked authority shows in
    the certificates of its devices."""
    now = {device.id: device for device in after.devices}
    return any(device.id not in now or _rights(device) != _rights(now[device.id]) for device in before.devices)


def _rights(device: wire.RosterDevice) -> tuple[object, ...]:
    return (device.salt, device.digest, device.fingerprint, device.psk, device.oscore, device.concentrator)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_folder(path: Path) -> None:
    """Raise SetupError where the data folder cannot be used."""
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as e:
        raise SetupError(f"{path} cannot be made ({e.strerror}); choose another folder with --data") from e
