"""Certificates of devices: what is in them, who can read the key, and which requests are signed."""

from __future__ import annotations

import hashlib
import ssl
import stat
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from citysense.errors import SetupError
from citysense_platform.registry.authority import DeviceAuthority, Issued, RequestUnfit, load_or_create_authority

NOW = 1_795_190_934_423
MOMENT = datetime.fromtimestamp(NOW // 1000, tz=UTC)


@pytest.fixture
def authority(tmp_path: Path) -> DeviceAuthority:
    return load_or_create_authority(tmp_path / "keys" / "device-authority.pem", now_ms=NOW)


def request_of(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey, name: str) -> str:
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    )
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.PEM).decode()


def parsed(certificate: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(certificate.encode())


def common_name(certificate: x509.Certificate) -> object:
    [name] = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return name.value


def test_the_authority_is_made_once_and_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "device-authority.pem"
    first = load_or_create_authority(path, now_ms=NOW)
    assert load_or_create_authority(path, now_ms=NOW + 5_000).certificate == first.certificate
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "PRIVATE" not in first.certificate


@pytest.mark.parametrize("text", ["", "no key", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_damaged_authority_is_a_sentence_and_stays(tmp_path: Path, text: str) -> None:
    path = tmp_path / "device-authority.pem"
    path.write_text(text)
    with pytest.raises(SetupError, match="restore it from a backup"):
        load_or_create_authority(path, now_ms=NOW)
    assert path.read_text() == text


def test_a_foreign_key_beside_the_certificate_is_noticed(tmp_path: Path) -> None:
    load_or_create_authority(tmp_path / "a.pem", now_ms=NOW)
    other = load_or_create_authority(tmp_path / "b.pem", now_ms=NOW)
    key = (tmp_path / "a.pem").read_text().partition("-----BEGIN CERTIFICATE")[0]
    (tmp_path / "a.pem").write_text(key + other.certificate)
    with pytest.raises(SetupError, match="do not belong together"):
        load_or_create_authority(tmp_path / "a.pem", now_ms=NOW)


def test_an_issued_certificate_is_the_devices_for_ten_years(authority: DeviceAuthority) -> None:
    issued = authority.issue("gauge-001", now_ms=NOW)
    leaf = parsed(issued.certificate)
    assert common_name(leaf) == "gauge-001"
    assert issued.fingerprint == hashlib.sha256(ssl.PEM_cert_to_DER_cert(issued.certificate)).digest()
    assert issued.expires == int(leaf.not_valid_after_utc.timestamp()) * 1000
    assert leaf.not_valid_after_utc == MOMENT + timedelta(days=3650)
    assert issued.private_key is not None
    key = serialization.load_pem_private_key(issued.private_key.encode(), None)
    assert key.public_key() == leaf.public_key()
    assert authority.issue("gauge-001", now_ms=NOW).fingerprint != issued.fingerprint


def test_no_certificate_outlives_its_authority(authority: DeviceAuthority) -> None:
    late = MOMENT + timedelta(days=365 * 30 - 1)
    issued = authority.issue("gauge-001", now_ms=int(late.timestamp() * 1000))
    own = parsed(authority.certificate)
    assert issued.expires == int(own.not_valid_after_utc.timestamp()) * 1000


def test_the_longest_device_id_fits(authority: DeviceAuthority) -> None:
    assert common_name(parsed(authority.issue("g" * 64, now_ms=NOW).certificate)) == "g" * 64


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(public_exponent=65537, key_size=2048),
    ],
    ids=["P-256", "P-384", "Ed25519", "RSA"],
)
def test_of_a_request_only_the_public_key_counts(
    authority: DeviceAuthority, key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
) -> None:
    issued = authority.sign("gauge-001", request_of(key, "somebody-else"), now_ms=NOW)
    assert issued.private_key is None
    leaf = parsed(issued.certificate)
    assert leaf.public_key() == key.public_key()
    assert common_name(leaf) == "gauge-001"
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    leaf.verify_directly_issued_by(parsed(authority.certificate))


def test_what_cannot_be_signed_is_told(authority: DeviceAuthority) -> None:
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    odd = ec.generate_private_key(ec.SECP521R1())
    for key in (weak, odd):
        with pytest.raises(RequestUnfit, match="P-256, P-384"):
            authority.sign("gauge-001", request_of(key, "x"), now_ms=NOW)
    sound = request_of(ec.generate_private_key(ec.SECP256R1()), "x")
    forged = x509.load_pem_x509_csr(sound.encode()).public_bytes(serialization.Encoding.DER)
    forged = forged[:-1] + bytes([forged[-1] ^ 1])
    pem = ssl.DER_cert_to_PEM_cert(forged).replace("CERTIFICATE", "CERTIFICATE REQUEST")
    for text in (pem, "", "\x00", authority.certificate, sound[:200], "é"):
        with pytest.raises(RequestUnfit):
            authority.sign("gauge-001", text, now_ms=NOW)


def test_a_request_comes_alone(authority: DeviceAuthority) -> None:
    """What stands beside it was never meant for us; a private key that has travelled is no secret any more."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = request_of(key, "x")
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
    secrets = [
        key.private_bytes(*plain, serialization.NoEncryption()).decode(),
        key.private_bytes(*plain, serialization.BestAvailableEncryption(b"hush")).decode(),
        key.private_bytes(
            plain[0], serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        ).decode(),
    ]
    for secret in secrets:
        for text in (secret + request, request + secret, secret):
            with pytest.raises(RequestUnfit, match="must not travel"):
                authority.sign("gauge-001", text, now_ms=NOW)
    for text in (request + request, "Subject: CN=x\n" + request, request + "me", request + authority.certificate):
        with pytest.raises(RequestUnfit, match="something beside it"):
            authority.sign("gauge-001", text, now_ms=NOW)
    old_name = request.replace("BEGIN ", "BEGIN NEW ").replace("END ", "END NEW ")
    for text in (f"\r\n{request}\n", request.replace("\n", "\r\n"), old_name):
        assert parsed(authority.sign("gauge-001", text, now_ms=NOW).certificate).public_key() == key.public_key()


def shake(server: ssl.SSLContext, client: ssl.SSLContext) -> bytes | None:
    """The client's certificate (DER) after a handshake of the two. Raises ssl.SSLError."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    gateway = server.wrap_bio(to_server, to_client, server_side=True)
    device = client.wrap_bio(to_client, to_server)
    for side in (device, gateway, device, gateway):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return gateway.getpeercert(binary_form=True)


def test_openssl_takes_it_for_a_client_of_this_authority_and_no_other(tmp_path: Path) -> None:
    now = time.time_ns() // 1_000_000
    authority = load_or_create_authority(tmp_path / "one.pem", now_ms=now)
    other = load_or_create_authority(tmp_path / "other.pem", now_ms=now)

    def files(issued: Issued, name: str) -> tuple[Path, Path]:
        (tmp_path / f"{name}.crt").write_text(issued.certificate)
        (tmp_path / f"{name}.key").write_text(issued.private_key or "")
        return tmp_path / f"{name}.crt", tmp_path / f"{name}.key"

    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*files(authority.issue("door", now_ms=now), "door"))
    server.load_verify_locations(cadata=authority.certificate)
    server.verify_mode = ssl.CERT_REQUIRED
    # As Python does by itself from 3.13 on.
    server.verify_flags |= ssl.VERIFY_X509_STRICT
    for issuer, taken in ((authority, True), (other, False)):
        issued = issuer.issue("gauge-001", now_ms=now)
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
        client.load_cert_chain(*files(issued, "device"))
        if taken:
            shown = shake(server, client)
            assert shown is not None
            assert hashlib.sha256(shown).digest() == issued.fingerprint
        else:
            with pytest.raises(ssl.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
                shake(server, client)
