"""Modbus in TLS: the server's certificate is checked, ours is shown."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import random
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from citysense.cli.modbus_model import JudgingSink, counted, tagged_slave
from citysense.clock import SystemClock
from citysense.errors import SetupError
from citysense_gateway.modbus.links import ModbusTls
from citysense_gateway.modbus.polled import PolledDevice
from citysense_gateway.modbus.poller import ModbusPoller
from citysense_profiles import Read
from citysense_sim.modbus_fleet import TcpUnit


class Authority:
    """Signs certificates into a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(self._signed(self._name, self._key, host=None).public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, host: str) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate, secret = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        certificate.write_bytes(self._signed(subject, key, host=host).public_bytes(serialization.Encoding.PEM))
        secret.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return certificate, secret

    def _signed(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, host: str | None) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=host is None, path_length=None), critical=True)
        )
        if host is not None:
            address = x509.IPAddress(ipaddress.ip_address(host))
            builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
        return builder.sign(self._key, hashes.SHA256())


@asynccontextmanager
async def server(certificate: Path, key: Path, *, clients: Path | None = None) -> AsyncIterator[int]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=clients)
    context.load_cert_chain(certificate, key)
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(lambda: TcpUnit(tagged_slave(1)), "127.0.0.1", 0, ssl=context)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()
        # The TLS good-bye of the other end takes some turns of the loop.
        await asyncio.sleep(0.05)


async def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def polling(port: int, tls: ModbusTls) -> AsyncIterator[tuple[ModbusPoller, JudgingSink]]:
    sink = JudgingSink({"d": 1}, SystemClock())
    poller = ModbusPoller(sink=sink, clock=SystemClock(), random=random.Random(1), tls=tls, reply_timeout=2.0)
    await poller.start()
    read = Read(table="holding", address=3, count=2)
    device = PolledDevice(id="d", endpoint=f"modbus+tls://127.0.0.1:{port}/1", plan=(read,), every=0.05, message=None)
    try:
        poller.set_devices([device])
        yield poller, sink
    finally:
        await poller.stop()
        await asyncio.sleep(0.05)


async def test_both_ends_show_certificates(tmp_path: Path) -> None:
    ours = Authority(tmp_path, "city")
    certificate, key = ours.issue("gauge", "127.0.0.1")
    mine, secret = ours.issue("gateway", "127.0.0.2")
    async with server(certificate, key, clients=ours.file) as port:
        async with polling(port, ModbusTls(authority=ours.file, certificate=mine, key=secret)) as (poller, sink):
            await until(lambda: counted(sink)["d"] >= 3)
            assert poller.counters.failures == 0
    assert sink.wrong == []


@pytest.mark.parametrize("case", ["unknown authority", "another host"])
async def test_a_server_that_proves_nothing_is_not_asked(
    case: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ours, others = Authority(tmp_path, "city"), Authority(tmp_path, "others")
    signer, host = (others, "127.0.0.1") if case == "unknown authority" else (ours, "192.0.2.1")
    certificate, key = signer.issue("gauge", host)
    async with server(certificate, key) as port:
        async with polling(port, ModbusTls(authority=ours.file)) as (poller, sink):
            await until(lambda: poller.counters.failing == 1)
            assert counted(sink)["d"] == 0
        assert "certificate verify failed" in caplog.text
        async with polling(port, ModbusTls(authority=ours.file, insecure=True)) as (_, sink):
            await until(lambda: counted(sink)["d"] >= 1)


async def test_a_file_that_is_no_certificate_is_said_at_the_start(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("no certificate")
    for tls in (ModbusTls(authority=wrong), ModbusTls(certificate=wrong), ModbusTls(authority=tmp_path / "none.pem")):
        poller = ModbusPoller(
            sink=JudgingSink({}, SystemClock()), clock=SystemClock(), random=random.Random(1), tls=tls
        )
        with pytest.raises(SetupError, match="give"):
            await poller.start()
