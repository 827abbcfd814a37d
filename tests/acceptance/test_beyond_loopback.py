"""Listening beyond loopback: with TLS and credentials, or openly called insecure."""

from __future__ import annotations

import datetime
import ssl
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A self-signed certificate for loopback, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "citysense test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = tmp_path / "cert.pem", tmp_path / "key.pem"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths


@pytest.mark.peer("mosquitto_pub")
def test_with_tls_api_and_mqtt_speak_it_and_plain_coap_stays_shut(
    instance: Any, certificate: tuple[Path, Path], peer_path: str
) -> None:
    cert, key = certificate
    trusted = ssl.create_default_context(cafile=str(cert))
    trusted.check_hostname = False
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=trusted))
    instance.scheme, instance.open = "https", opener.open
    instance.start("--scenario", "none", "--bind", "0.0.0.0", "--tls-cert", str(cert), "--tls-key", str(key))
    known = instance.register("gauge-001", "generic/water-gauge", credential={"kind": "password"})
    command = [
        peer_path,
        "-h",
        "localhost",
        "-p",
        str(instance.mqtt_port),
        "--cafile",
        str(cert),
        "-q",
        "1",
        "-u",
        "gauge-001",
    ]
    command += ["-P", known["credential"]["secret"], "-t", "cs/v1/gauge-001/up/report", "-m"]
    command += ['{"boot": 1, "seq": 0, "v": {"water.level": 3.5}}']
    done = subprocess.run(command, capture_output=True, timeout=20, check=False)
    assert done.returncode == 0, done
    instance.metric("gauge-001", "water.level", 3.5)
    plain = [word for word in command if word not in ("--cafile", str(cert))]
    assert subprocess.run(plain, capture_output=True, timeout=20, check=False).returncode != 0
    rows = Path("/proc/net/udp").read_text().splitlines()[1:]
    assert not any(int(row.split()[1].split(":")[1], 16) == instance.coap_port for row in rows)
    assert instance.stop() == 0


def test_without_tls_it_must_be_called_insecure(instance: Any) -> None:
    instance.start("--scenario", "none", "--bind", "0.0.0.0", "--insecure")
    instance.register("gauge-001", "generic/water-gauge")
    assert instance.stop() == 0
