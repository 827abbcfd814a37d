"""Who connects: the device that a CONNECT and the certificate of its TLS connection prove.

Owns that decision. Pure; the credentials themselves are checked by whoever knows the devices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from citysense_gateway.frame import PasswordCheck, Reason
from citysense_gateway.mqtt.packets import Connect
from citysense_gateway.mqtt.topics import DEVICE_ID


class CertificateCheck(Protocol):
    """Answers whether a certificate is a device's, from memory, in microseconds."""

    def __call__(self, device: str, certificate: bytes) -> bool:
        """True only for a registered, unrevoked device whose certificate (DER) this is."""
        ...


class Certificate(NamedTuple):
    """What the peer showed in the TLS handshake, which has checked that it holds the key: DER, and its one common name."""

    der: bytes
    name: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The device that was claimed, where there is one, and why it was not believed."""

    device: str | None
    reason: Reason
    detail: str


def common_name(subject: Mapping[str, Any]) -> str | None:
    """The common name in what `ssl.SSLSocket.getpeercert` returns; None where there is none or more than one."""
    names = [value for pairs in subject.get("subject", ()) for name, value in pairs if name == "commonName"]
    return names[0] if len(names) == 1 else None


def device_of(
    packet: Connect,
    certificate: Certificate | None,
    check_password: PasswordCheck,
    check_certificate: CertificateCheck,
) -> str | Refused:
    """The device that has proved who it is.

    A certificate decides alone: the device is its common name, and a user name, where one is given, must be the same.
    """
    device = packet.username
    if certificate is not None and not device:
        device = certificate.name
    if device is None or not DEVICE_ID.fullmatch(device):
        what = "the user name of CONNECT" if packet.username else "CONNECT has no user name, and its certificate's name"
        # The name itself is not kept: people type passwords into the wrong field.
        return Refused(device=None, reason=Reason.UNKNOWN_DEVICE, detail=f"{what} is not a device id")
    if certificate is None:
        if not check_password(device, packet.password or b""):
            detail = "CONNECT with a wrong or revoked password"
            return Refused(device=device, reason=Reason.BAD_CREDENTIAL, detail=detail)
        return device
    if certificate.name != device:
        detail = "CONNECT with the certificate of another device than the user name says"
        return Refused(device=device, reason=Reason.BAD_CREDENTIAL, detail=detail)
    if not check_certificate(device, certificate.der):
        detail = "CONNECT with a certificate that is not the one registered for the device"
        return Refused(device=device, reason=Reason.BAD_CREDENTIAL, detail=detail)
    return device
