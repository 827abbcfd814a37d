"""Taking new profiles, certificates and the token into use while the gateway runs; spool and sessions are not touched.

Owns the order of a reload and the record of what the last ones changed. Each part is taken whole or not at all: what is
wrong with a new one is said, and the old one stays in force. All other settings are the command line's, which a running
process cannot read again: they need a restart.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from citysense.clock import Clock
from citysense.errors import SetupError
from citysense.progress import Pulse
from citysense_profiles.catalogue import Catalogue, load_catalogue
from citysense_profiles.errors import ProfileError

log = logging.getLogger(__name__)

REMEMBERED = 20
RELOAD_LIMIT_S = 60.0
"""A reload takes no longer unless it hangs: a thousand profiles are read and compiled in some seconds, beside the devices'
own work, on a slow disk in several times that."""
_NAMED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Reloaded:
    """One reload: its number since the start, its time (ms), what it changed, and what could not be taken."""

    number: int
    time: int
    changes: tuple[str, ...]
    problems: tuple[str, ...]


def profile_changes(before: Catalogue, after: Catalogue) -> tuple[str, ...]:
    """What a new catalogue changes, a sentence for each kind of change."""
    old, new = {profile.id: profile.file for profile in before}, {profile.id: profile.file for profile in after}
    changed = [name for name in new if name in old and new[name] != old[name]]
    found = (
        ("profiles added", [name for name in new if name not in old]),
        ("profiles removed", [name for name in old if name not in new]),
        ("profiles changed", changed),
    )
    return tuple(f"{what}: {_listed(names)}" for what, names in found if names)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


class Certificates:
    """The certificate of the doors, and whom they believe about devices. New connections get what `context` holds."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self._certificate = certificate
        self._key = key
        self._shown = b""
        self._authority = ""
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)

    def load(self) -> bool:
        """Take what the files hold; False where it is the same as before. Raises SetupError, and changes nothing then."""
        try:
            shown = self._certificate.read_bytes() + self._key.read_bytes()
            if shown == self._shown:
                return False
            # Into a context of its own first: half of a new pair must not meet half of the old one.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self._certificate, self._key)
            self.context.load_cert_chain(self._certificate, self._key)
        except (OSError, ssl.SSLError) as e:
            raise SetupError(
                f"{self._certificate} and {self._key} cannot be used ({e}); give a PEM certificate and its key"
            ) from e
        self._shown = shown
        return True

    def believe(self, authority: str) -> bool:
        """Let devices show certificates that `authority` (PEM; empty for none) has signed; True where that is new.

        Then `context` is another one: OpenSSL takes nobody back whom it once trusts. Raises SetupError.
        """
        if authority == self._authority:
            return False
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            context.load_cert_chain(self._certificate, self._key)
            if authority:
                context.load_verify_locations(cadata=authority)
                # A device with a password shows no certificate.
                context.verify_mode = ssl.CERT_OPTIONAL
        except (OSError, ssl.SSLError) as e:
            raise SetupError(f"the certificate of the devices' authority cannot be used ({e})") from e
        self._authority, self.context = authority, context
        return True


class Reloader:
    """Reloads when asked. `use_profiles` serves the devices by a new catalogue; `others` are further parts, each of which
    returns what it changed (empty for nothing) or raises SetupError. `pulse` rests between reloads."""

    def __init__(
        self,
        *,
        profiles: Path | None,
        catalogue: Catalogue,
        use_profiles: Callable[[Catalogue], None],
        others: Sequence[Callable[[], str]],
        clock: Clock,
        pulse: Pulse | None = None,
    ) -> None:
        self._profiles = profiles
        self._catalogue = catalogue
        self._use_profiles = use_profiles
        self._others = others
        self._clock = clock
        self._pulse = pulse or Pulse()
        self._number = 0
        self._asked = asyncio.Event()
        self.done: deque[Reloaded] = deque(maxlen=REMEMBERED)
        """The last reloads, the newest last."""

    def ask(self) -> None:
        """Have everything read again soon. Asking twice before that is asking once."""
        self._asked.set()

    async def run(self) -> None:
        """Reload whenever asked, until cancelled."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            self._pulse.beat()
            await self.reload()
            self._pulse.rest()

    async def reload(self) -> Reloaded:
        """Read everything again, and say what came of it."""
        changes: list[str] = []
        problems: list[str] = []
        try:
            catalogue = await asyncio.to_thread(load_catalogue, self._profiles)
        except ProfileError as e:
            problems.append(f"profiles stay as they were: {e}")
        else:
            changes += profile_changes(self._catalogue, catalogue)
            if changes:
                self._catalogue = catalogue
                self._use_profiles(catalogue)
        for other in self._others:
            try:
                said = other()
            except SetupError as e:
                problems.append(str(e))
            else:
                changes += [said] if said else []
        self._number += 1
        reloaded = Reloaded(
            number=self._number, time=self._clock.now_ms(), changes=tuple(changes), problems=tuple(problems)
        )
        self.done.append(reloaded)
        log.info("reloaded: %s", "; ".join(changes) or "nothing has changed")
        for problem in problems:
            log.error("not reloaded: %s", problem)
        return reloaded
