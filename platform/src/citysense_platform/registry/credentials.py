"""Devices' credentials of all kinds: what is made, what is kept of it, what its owner sees once, what a gateway gets.

Owns the making and the sealing. A secret in clear is in the value `Made` and nowhere else here; keys that gateways need
are kept sealed and opened only for their roster.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from citysense.clock import rfc3339
from citysense.keys import Sealer, password_digest
from citysense.wire import Oscore
from citysense_platform.registry.authority import DeviceAuthority, Issued
from citysense_platform.registry.device import Credential, CredentialKind, Device, Wanted

SALT_BYTES = 16
PSK_BYTES = 16
"""What AES-128 takes in; longer keys only cost constrained devices memory."""
OSCORE_SECRET_BYTES = 16
OSCORE_SALT_BYTES = 8
"""RFC 8613 section 3.1 and 5.2: a random secret of the cipher's strength, and a salt as in the examples of its appendix C."""
GATEWAY_ID = b"\x01"
"""Sender id of every gateway towards its devices. Devices' own ids are longer, so the two never clash."""
DEVICE_ID_BYTES = 3
"""At least; RFC 8613 allows 7 bytes with this cipher. The number of the credential fills them, so that no two credentials
ever share an id, whichever gateway the device goes to, and a renewed key never meets an old context."""
ALGORITHM = "AES-CCM-16-64-128"
HKDF = "HKDF SHA-256"


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A fresh credential: what is kept, and what is shown this once, by field of the answer."""

    kept: Credential
    shown: Mapping[str, str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayKeys:
    """What a gateway gets of a credential beyond digest and fingerprint."""

    psk: bytes = b""
    oscore: Oscore | None = None


class Credentials:
    """Makes credentials and opens them for gateways. `new_password` and `new_bytes` are the randomness."""

    def __init__(
        self,
        *,
        authority: DeviceAuthority,
        sealer: Sealer,
        new_password: Callable[[], str],
        new_bytes: Callable[[int], bytes],
    ) -> None:
        self._authority = authority
        self._sealer = sealer
        self._new_password = new_password
        self._new_bytes = new_bytes

    @property
    def authority(self) -> str:
        """The certificate (PEM) that gateways trust."""
        return self._authority.certificate

    def make(self, wanted: Wanted, device: str, *, now_ms: int) -> Made:
        """A credential of the kind wanted. Raises RequestUnfit for a signing request that cannot be signed."""
        match wanted.kind:
            case CredentialKind.PASSWORD:
                return self._password()
            case CredentialKind.X509:
                return self._x509(wanted, device, now_ms)
            case CredentialKind.PSK:
                key = self._new_bytes(PSK_BYTES)
                return self._sealed(wanted.kind, device, key, {"secret": key.hex()})
            case CredentialKind.OSCORE:
                secret, salt = self._new_bytes(OSCORE_SECRET_BYTES), self._new_bytes(OSCORE_SALT_BYTES)
                words = {"secret": secret.hex(), "salt": salt.hex(), "algorithm": ALGORITHM, "hkdf": HKDF}
                return self._sealed(wanted.kind, device, secret + salt, words)

    def for_gateway(self, device: Device) -> GatewayKeys:
        """The keys of a device in clear. Raises SealBroken where they were sealed with another key."""
        credential = device.credential
        if credential is None or not credential.sealed:
            return GatewayKeys()
        keys = self._sealer.open(_owner(credential.kind, device.id), credential.sealed)
        if credential.kind is CredentialKind.PSK:
            return GatewayKeys(psk=keys)
        return GatewayKeys(
            oscore=Oscore(
                secret=keys[:OSCORE_SECRET_BYTES],
                salt=keys[OSCORE_SECRET_BYTES:],
                sender=GATEWAY_ID,
                recipient=oscore_id(credential.number),
                context=b"",
            )
        )

    def _password(self) -> Made:
        secret, salt = self._new_password(), self._new_bytes(SALT_BYTES)
        kept = Credential(kind=CredentialKind.PASSWORD, salt=salt, digest=password_digest(salt, secret.encode()))
        return Made(kept=kept, shown={"secret": secret})

    def _x509(self, wanted: Wanted, device: str, now_ms: int) -> Made:
        if wanted.request is None:
            issued = self._authority.issue(device, now_ms=now_ms)
        else:
            issued = self._authority.sign(device, wanted.request, now_ms=now_ms)
        kept = Credential(kind=CredentialKind.X509, fingerprint=issued.fingerprint, expires=issued.expires)
        return Made(kept=kept, shown=_certificate_shown(issued, self.authority))

    def _sealed(self, kind: CredentialKind, device: str, keys: bytes, shown: Mapping[str, str]) -> Made:
        return Made(kept=Credential(kind=kind, sealed=self._sealer.seal(_owner(kind, device), keys)), shown=shown)


def oscore_id(number: int) -> bytes:
    """The id that a device with credential `number` sends under; its gateway's recipient id."""
    return number.to_bytes(max(DEVICE_ID_BYTES, (number.bit_length() + 7) // 8), "big")


def shown_once(made: Made, device: Device) -> dict[str, str | None]:
    """All of the answer that is shown this once, now that the credential has its number."""
    shown: dict[str, str | None] = dict(made.shown)
    if device.credential is not None and device.credential.kind is CredentialKind.OSCORE:
        # From the device's side: it sends under its own id.
        shown |= {"sender": oscore_id(device.credential.number).hex(), "recipient": GATEWAY_ID.hex()}
    return shown


def public_part(credential: Credential) -> dict[str, str]:
    """What may be seen of a credential at any time, beside its kind and user name."""
    if credential.expires is None:
        return {}
    return {"fingerprint": credential.fingerprint.hex(), "expires": rfc3339(credential.expires)}


def _certificate_shown(issued: Issued, authority: str) -> dict[str, str | None]:
    return {"secret": issued.private_key, "certificate": issued.certificate, "authority": authority}


def _owner(kind: CredentialKind, device: str) -> str:
    return f"credential/{kind}/{device}"
