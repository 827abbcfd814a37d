"""The platform's own authority for devices' certificates: makes keys and certificates, and signs requests.

Owns DIR/keys/device-authority.pem and what stands in a certificate. Must not decide who gets one, and keeps no key of a
device: a private key made here leaves in the answer and is forgotten.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from citysense.errors import SetupError
from citysense.keys import load_or_create_file

AUTHORITY_DAYS = 365 * 30
DEVICE_DAYS = 365 * 10
"""As long as a gauge or a lock stays in the street: nobody drives out to renew certificates. What ends a certificate
early is its removal from the roster, within a second, not its date."""
SKEW = timedelta(days=1)
"""A device or gateway whose clock is set to local time takes a fresh certificate all the same."""
SMALLEST_RSA = 2048

_ONE_REQUEST = re.compile(
    r"\s*-----BEGIN (NEW )?CERTIFICATE REQUEST-----[A-Za-z0-9+/=\s]+-----END (?(1)NEW )CERTIFICATE REQUEST-----\s*"
)
"""One block of PEM (RFC 7468; NEW is an old name of the same) and nothing else but blanks."""

RequestKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey


class RequestUnfit(ValueError):
    """A signing request that cannot be signed; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A certificate just made (PEM), SHA-256 of its DER, its end in ms since 1970, and the private key (PEM) if we made it."""

    certificate: str
    fingerprint: bytes
    expires: int
    private_key: str | None


class DeviceAuthority:
    """Signs devices' certificates. `certificate` is its own, as PEM: what a gateway trusts."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self._key = key
        self._own = certificate
        self.certificate = _pem(certificate)

    def issue(self, device: str, *, now_ms: int) -> Issued:
        """A fresh P-256 key and its certificate."""
        key = ec.generate_private_key(ec.SECP256R1())
        return self._sign(device, key.public_key(), now_ms, private_key=_private_pem(key))

    def sign(self, device: str, request: str, *, now_ms: int) -> Issued:
        """A certificate for the public key of a request (PKCS #10, PEM); its subject and extensions are ignored.

        Raises RequestUnfit.
        """
        return self._sign(device, _requested_key(request), now_ms, private_key=None)

    def _sign(self, device: str, public_key: RequestKey, now_ms: int, *, private_key: str | None) -> Issued:
        now = datetime.fromtimestamp(now_ms // 1000, tz=UTC)
        expires = min(now + timedelta(days=DEVICE_DAYS), self._own.not_valid_after_utc)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(_name(device))
            .issuer_name(self._own.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - SKEW)
            .not_valid_after(expires)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        return Issued(
            certificate=_pem(certificate),
            fingerprint=hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).digest(),
            expires=int(expires.timestamp()) * 1000,
            private_key=private_key,
        )


def load_or_create_authority(path: Path, *, now_ms: int) -> DeviceAuthority:
    """The authority whose key and certificate stand in `path` (PEM, mode 0600), made on first use. Raises SetupError."""
    text = load_or_create_file(path, lambda: _fresh_authority(now_ms))
    try:
        key = serialization.load_pem_private_key(text, password=None)
        certificate = x509.load_pem_x509_certificate(text)
    except (ValueError, TypeError, UnsupportedAlgorithm) as e:
        raise SetupError(
            f"{path} holds no key and certificate; restore it from a backup: devices with a certificate of this "
            "authority are strangers without it"
        ) from e
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise SetupError(f"{path}: key and certificate do not belong together; restore the file from a backup")
    return DeviceAuthority(key, certificate)


def _fresh_authority(now_ms: int) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.fromtimestamp(now_ms // 1000, tz=UTC)
    name = _name("citysense device authority")
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return (_private_pem(key) + _pem(certificate)).encode()


def _requested_key(request: str) -> RequestKey:
    if "PRIVATE KEY" in request:
        raise RequestUnfit(
            "a private key stands in the request, and that key must not travel: it is no secret any more. Make a new key "
            "in the device, and send the signing request alone"
        )
    if "CERTIFICATE REQUEST" in request and not _ONE_REQUEST.fullmatch(request):
        raise RequestUnfit(
            "there is more than one signing request here, or something beside it; send the one block from -----BEGIN to "
            "END-----, which openssl req prints without -text"
        )
    try:
        parsed = x509.load_pem_x509_csr(request.encode())
        key = parsed.public_key()
        proven = parsed.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature) as e:
        raise RequestUnfit(
            "this is no certificate signing request in PEM; make one with: openssl req -new -newkey ec "
            "-pkeyopt ec_paramgen_curve:P-256 -nodes -keyout device.key -subj /CN=device"
        ) from e
    if not proven:
        raise RequestUnfit(
            "the request is not signed with its own key; make it anew with the key that the device holds"
        )
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1):
        return key
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= SMALLEST_RSA:
        return key
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    raise RequestUnfit(
        f"the request's key is of a kind that is not signed; use P-256, P-384, Ed25519 or RSA from {SMALLEST_RSA} bits"
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _private_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
