"""The TLS contexts of one broker: made of its files, made anew when these have changed, kept while they cannot be used.

Certificates are renewed while the gateway runs, and for a moment the new file may be missing, or half of a pair be old. That
must not end what works. Owns the contexts; reads the files in `renew` only.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

from citysense.errors import SetupError
from citysense_gateway.broker.options import BrokerOptions
from citysense_gateway.outage import Outage


class Trust:
    """Call `renew` before connecting; then `own` and `nameless` are for the gateway and for the probes."""

    def __init__(self, options: BrokerOptions, *, random: Callable[[], float]) -> None:
        self._options = options
        self._outage = Outage(f"broker {options.name}, whose former certificates stay in use", random)
        self._shown: tuple[bytes, ...] | None = None
        self.own: ssl.SSLContext | None = None
        """Shows the gateway's certificate, where it has one. None for mqtt://."""
        self.nameless: ssl.SSLContext | None = None
        """Shows none: the gateway's certificate is the gateway's name, and a probe is known by its password."""

    def renew(self) -> None:
        """Take what the files hold now. Raises SetupError where they cannot be used and nothing was ever taken."""
        options = self._options
        if not options.tls:
            return
        try:
            shown = tuple(_bytes_of(path) for path in (options.ca, options.cert, options.key) if path is not None)
            if shown != self._shown:
                own, nameless = options.tls_context(), options.tls_context(with_certificate=False)
                self.own, self.nameless, self._shown = own, nameless, shown
        except SetupError as e:
            if self.own is None:
                raise
            self._outage.failed(e)
        else:
            self._outage.worked()


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise SetupError(f"--broker: {path} cannot be read ({e.strerror or e}); put a PEM file there") from e
