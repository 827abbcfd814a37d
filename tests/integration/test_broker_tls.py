"""The broker over TLS: its certificate is checked, and ours may stand for the password."""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
import shutil
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
from citysense.clock import SystemClock
from citysense.errors import SetupError
from citysense_gateway.broker.counters import Standing
from citysense_gateway.broker.driver import BrokerDriver
from citysense_gateway.broker.inbound import Inbound
from citysense_gateway.broker.link import Link, LinkLost, LinkOptions
from citysense_gateway.broker.options import Account, BrokerOptions
from citysense_gateway.broker.proof import Proof
from citysense_gateway.broker.trust import Trust
from citysense_gateway.devices import Devices
from citysense_gateway.frame import Done, Frame, Reason, Verdict
from citysense_profiles.catalogue import load_catalogue

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


def trusting(given: BrokerOptions) -> Trust:
    trust = Trust(given, random=lambda: 0.5)
    trust.renew()
    return trust


async def test_the_proof_runs_over_tls(broker: OwnMosquitto, folder: Path) -> None:
    numbers = iter(range(100))
    given = options(broker, folder)
    await Proof(given, trust=trusting(given), nonce=lambda: b"%d" % next(numbers)).run([])


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
        await Proof(wrong, trust=trusting(wrong), nonce=lambda: b"x").run([])


def test_files_that_are_no_certificates_are_said(broker: OwnMosquitto, folder: Path) -> None:
    with pytest.raises(SetupError, match="PEM"):
        replace(options(broker, folder), ca=folder / "gateway.key").tls_context()
    fine = replace(options(broker, folder), cert=folder / "gateway.pem", key=folder / "gateway.key")
    assert fine.tls_context() is not None


def test_certificates_that_cannot_be_used_for_a_while_leave_the_former_ones_in_use(
    folder: Path, tmp_path: Path, broker: OwnMosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("authority.pem", "gateway.pem", "gateway.key"):
        shutil.copy(folder / name, tmp_path)
    given = replace(options(broker, tmp_path), cert=tmp_path / "gateway.pem", key=tmp_path / "gateway.key")
    trust = trusting(given)
    first = trust.own, trust.nameless
    trust.renew()
    assert (trust.own, trust.nameless) == first, "made once"
    shutil.copy(folder / "other.pem", tmp_path / "gateway.pem")  # half of a new pair
    trust.renew()
    (tmp_path / "authority.pem").unlink()
    trust.renew()
    assert (trust.own, trust.nameless) == first
    assert len([record for record in caplog.records if "former certificates stay in use" in record.message]) == 1
    shutil.copy(folder / "authority.pem", tmp_path)
    shutil.copy(folder / "other.key", tmp_path / "gateway.key")
    trust.renew()
    assert trust.own is not first[0]
    assert trust.nameless is not first[1]
    assert "works again after 2 failed tries" in caplog.text


def test_where_nothing_was_ever_usable_it_is_said(broker: OwnMosquitto, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"nowhere\.pem"):
        trusting(replace(options(broker, folder), ca=tmp_path / "nowhere.pem"))
    assert trusting(replace(options(broker, folder), tls=False, ca=tmp_path / "nowhere.pem")).own is None


class NoSink:
    """Nobody delivers here."""

    def deliver(self, frame: Frame, done: Done, *, reason: Reason | None = None, detail: str = "") -> None:
        raise AssertionError

    async def accept(self, frame: Frame) -> Verdict:
        raise AssertionError

    async def refuse(self, frame: Frame, reason: Reason, detail: str) -> Verdict:
        raise AssertionError


async def test_a_missing_file_is_an_outage_that_ends_when_the_file_is_there(
    broker: OwnMosquitto, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    driver = BrokerDriver(
        replace(options(broker, folder), ca=tmp_path / "late.pem"),
        sink=NoSink(),
        devices=Devices(load_catalogue()),
        mail=None,
        clock=SystemClock(),
        random=lambda: 0.5,
        nonce=lambda: secrets.token_bytes(16),
    )

    async def until(standing: Standing) -> None:
        async with asyncio.timeout(20):
            while driver.standing is not standing:
                await asyncio.sleep(0.01)

    running = asyncio.create_task(driver.run())
    try:
        await until(Standing.UNUSABLE)
        shutil.copy(folder / "authority.pem", tmp_path / "late.pem")
        await until(Standing.READING)
        assert not running.done()
        assert len([record for record in caplog.records if "late.pem" in record.message]) == 1
        await driver.stop()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
