"""The broker over TLS: its certificate is checked, and ours may stand for the password."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from citysense.cli.own_mosquitto import OwnMosquitto
from citysense.cli.stack import HOST
from citysense.errors import SetupError
from citysense_gateway.broker.inbound import Inbound
from citysense_gateway.broker.link import Link, LinkLost, LinkOptions
from citysense_gateway.broker.options import Account, BrokerOptions
from citysense_gateway.broker.proof import Proof

pytestmark = pytest.mark.peer("mosquitto")
ACCOUNTS = {"gateway": "g", "probe-a": "a", "probe-b": "b"}


def certificate(
    folder: Path, name: str, issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """NAME.pem and NAME.key in the folder; without an issuer it signs itself and may sign others."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signer = issuer[0].subject if issuer else subject
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(HOST))]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    signed_with = issuer[1] if issuer else key
    made = made.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(signed_with.public_key()), critical=False
    )
    found = made.sign(signed_with, hashes.SHA256())
    (folder / f"{name}.pem").write_bytes(found.public_bytes(serialization.Encoding.PEM))
    (folder / f"{name}.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return found, key


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tls")
    authority = certificate(made, "authority", None)
    certificate(made, "broker", authority)
    certificate(made, "gateway", authority)
    certificate(made, "other", None)
    return made


@pytest.fixture(scope="module")
def broker(folder: Path) -> Iterator[OwnMosquitto]:
    places = {name: str(folder / file) for name, file in (("cafile", "authority.pem"), ("certfile", "broker.pem"))}
    one = OwnMosquitto(folder / "broker", ACCOUNTS, changed={**places, "keyfile": str(folder / "broker.key")})
    one.start()
    yield one
    one.kill()


def options(broker: OwnMosquitto, folder: Path) -> BrokerOptions:
    return BrokerOptions(
        host=HOST,
        port=broker.port,
        tls=True,
        account=Account(user="gateway", password="g"),
        probes=(Account(user="probe-a", password="a"), Account(user="probe-b", password="b")),
        client_id="citysense-tls",
        ca=folder / "authority.pem",
    )


async def test_the_proof_runs_over_tls(broker: OwnMosquitto, folder: Path) -> None:
    numbers = iter(range(100))
    await Proof(options(broker, folder), nonce=lambda: b"%d" % next(numbers)).run([])


async def test_large_messages_come_whole_over_tls(broker: OwnMosquitto, folder: Path) -> None:
    """TLS hands out one record at a time and tells of no other; a reader that only polls would stand still."""
    came: list[Inbound] = []
    all_here = asyncio.Event()

    def note(messages: list[Inbound]) -> None:
        came.extend(messages)
        if len(came) == 20:
            all_here.set()

    def link_options(account: Account) -> LinkOptions:
        return LinkOptions(
            host=HOST,
            port=broker.port,
            client_id=account.user,
            account=account,
            tls=options(broker, folder).tls_context(),
            protocol=5,
            durable=False,
        )

    reader = Link(link_options(Account(user="gateway", password="g")), note)
    sender = Link(link_options(Account(user="probe-a", password="a")), note)
    payloads = [bytes([number]) * 100_000 for number in range(20)]
    try:
        await reader.open()
        await reader.subscribe(["cs/v1/+/up/+"])
        await sender.open()
        await asyncio.gather(*(sender.publish("cs/v1/probe-a/up/x", payload) for payload in payloads))
        async with asyncio.timeout(10):
            await all_here.wait()
    finally:
        reader.close()
        sender.close()
    assert [message.payload for message in came] == payloads


async def test_a_broker_that_shows_another_certificate_is_not_trusted(broker: OwnMosquitto, folder: Path) -> None:
    wrong = replace(options(broker, folder), ca=folder / "other.pem")
    with pytest.raises(LinkLost, match="certificate verify failed"):
        await Proof(wrong, nonce=lambda: b"x").run([])


def test_files_that_are_no_certificates_are_said(broker: OwnMosquitto, folder: Path) -> None:
    with pytest.raises(SetupError, match="PEM"):
        replace(options(broker, folder), ca=folder / "gateway.key").tls_context()
    fine = replace(options(broker, folder), cert=folder / "gateway.pem", key=folder / "gateway.key")
    assert fine.tls_context() is not None
