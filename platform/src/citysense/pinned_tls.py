"""TLS between the processes of one box: the certificate file that both know is the identity."""

from __future__ import annotations

import ssl
from pathlib import Path

from citysense.errors import SetupError


def pinned(certificate: Path) -> ssl.SSLContext:
    """Trusts exactly this certificate (PEM), whatever host names it was made out for. Raises SetupError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(cafile=certificate)
    except (OSError, ssl.SSLError) as e:
        raise SetupError(f"{certificate} cannot be used as a certificate ({e}); give a PEM file") from e
    return context
