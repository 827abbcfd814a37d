"""The MQTT door over TLS: certificates of devices, handshakes that take long, and a new certificate of our own."""

from __future__ import annotations

import asyncio
import datetime
import ssl
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import aiomqtt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from citysense.clock import SystemClock
from citysense_gateway.frame import Done, Frame, Kind, Reason, Verdict
from citysense_gateway.mqtt import acceptor
from citysense_gateway.mqtt.door import MqttDoor
from citysense_gateway.mqtt.limits import MqttSettings

UP = "cs/v1/gauge-1/up/report"


@dataclass
class Sink:
    """Stores everything in the next turn of the loop."""

    frames: list[Frame] = field(default_factory=list)
    refused: list[tuple[str | None, Reason]] = field(default_factory=list)

    def deliver(self, frame: Frame, done: Done, *, reason: Reason | None = None, detail: str = "") -> None:
        if reason is None:
            self.frames.append(frame)
            verdict = Verdict(kind=Kind.STORED)
        else:
            self.refused.append((frame.device, reason))
            verdict = Verdict(kind=Kind.REJECTED, reason=reason, detail=detail)
        asyncio.get_running_loop().call_soon(done, verdict)

    async def accept(self, frame: Frame) -> Verdict:
        raise AssertionError("the door delivers without a task")

    async def refuse(self, frame: Frame, reason: Reason, detail: str) -> Verdict:
        raise AssertionError("the door delivers without a task")


@dataclass
class Gateway:
    """A door that knows the certificate with the serial number 77, and the password "right"."""

    sink: Sink = field(default_factory=Sink)

    @asynccontextmanager
    async def open(self, *, tls: ssl.SSLContext, **settings: Any) -> AsyncIterator[MqttDoor]:
        door = MqttDoor(
            sink=self.sink,
            check_password=lambda device, secret: secret == b"right",
            check_certificate=lambda device, der: x509.load_der_x509_certificate(der).serial_number == 77,
            topic_rights=lambda device, topic: None,
            clock=SystemClock(),
            settings=MqttSettings(**({"sweep_every": 0.05, "linger": 0.5} | settings)),
        )
        await door.start("127.0.0.1", 0, tls=tls)
        try:
            yield door
        finally:
            await door.stop()


@pytest.fixture
def gateway() -> Gateway:
    return Gateway()


class Authority:
    """Signs certificates of devices."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "authority")])
        self.certificate = self._sign(self._name, self._key, 1, authority=True)
        self.pem = self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def _sign(
        self, name: x509.Name, key: ec.EllipticCurvePrivateKey, serial: int, *, authority: bool = False
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(serial)
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def issue(self, name: str, serial: int = 77) -> Path:
        """A file with the key and the certificate."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        certificate = self._sign(subject, key, serial)
        file = self._folder / f"{name}-{serial}-{x509.random_serial_number()}.pem"
        file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        return file

    def server(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.issue("door"))
        context.verify_mode = ssl.CERT_OPTIONAL
        context.load_verify_locations(cadata=self.pem)
        return context

    def client(self, own: Path | None) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=self.pem)
        if own is not None:
            context.load_cert_chain(own)
        return context


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.mark.parametrize(
    ("name", "serial", "login", "accepted"),
    [
        ("gauge-1", 77, {}, True),
        ("gauge-1", 77, {"username": "gauge-1"}, True),
        ("gauge-1", 78, {}, False),
        ("gauge-1", 77, {"username": "gauge-2", "password": "right"}, False),
        ("gauge-1", 78, {"username": "gauge-1", "password": "right"}, False),
        (None, 0, {"username": "gauge-1", "password": "right"}, True),
        (None, 0, {}, False),
    ],
)
async def test_a_certificate_proves_the_device(
    gateway: Gateway, authority: Authority, name: str | None, serial: int, login: dict[str, Any], accepted: bool
) -> None:
    own = authority.issue(name, serial) if name is not None else None
    async with gateway.open(tls=authority.server()) as door:
        client = aiomqtt.Client("127.0.0.1", door.port, tls_context=authority.client(own), **login)
        if accepted:
            async with client:
                await client.publish(UP, b"x", qos=1)
            assert [frame.device for frame in gateway.sink.frames] == ["gauge-1"]
        else:
            with pytest.raises(aiomqtt.MqttError):
                async with client:
                    pass
            device = login.get("username", name)
            reason = Reason.UNKNOWN_DEVICE if device is None else Reason.BAD_CREDENTIAL
            assert gateway.sink.refused == [(device, reason)]


async def test_a_certificate_of_another_authority_gets_no_connection(
    gateway: Gateway, authority: Authority, tmp_path: Path
) -> None:
    other = Authority(tmp_path)
    async with gateway.open(tls=authority.server()) as door:
        with pytest.raises(aiomqtt.MqttError):
            async with aiomqtt.Client(
                "127.0.0.1", door.port, tls_context=authority.client(other.issue("gauge-1")), timeout=1
            ):
                pass
        assert door.counters.closed == {"handshake_failed": 1}
    assert gateway.sink.refused == []


async def test_handshakes_under_way_are_bounded_and_who_waits_comes_in_later(
    gateway: Gateway, authority: Authority
) -> None:
    async with gateway.open(tls=authority.server(), max_handshakes=2, connect_timeout=1.0) as door:
        # They say nothing, each from another address, so none is over its share.
        silent = [
            await asyncio.open_connection("127.0.0.1", door.port, local_addr=(f"127.0.0.{number}", 0))
            for number in (2, 3, 4, 5)
        ]
        async with aiomqtt.Client(
            "127.0.0.1", door.port, username="gauge-1", password="right", tls_context=authority.client(None), timeout=20
        ) as client:
            assert door.counters.closed["handshake_failed"] >= 3
            await client.publish(UP, b"x", qos=1)
        for _, writer in silent:
            writer.close()


async def test_strangers_who_say_nothing_hold_no_place_for_long(
    gateway: Gateway, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceptor, "_STALLED_S", 0.1)
    async with gateway.open(tls=authority.server(), max_handshakes=2, connect_timeout=60.0) as door:
        silent = [
            await asyncio.open_connection("127.0.0.1", door.port, local_addr=(f"127.0.0.{number}", 0))
            for number in (2, 3, 4, 5, 6)
        ]
        async with aiomqtt.Client(
            "127.0.0.1", door.port, username="gauge-1", password="right", tls_context=authority.client(None), timeout=20
        ) as client:
            await client.publish(UP, b"x", qos=1)
        for _, writer in silent:
            writer.close()


async def test_a_new_certificate_is_used_from_now_on_and_cuts_nobody(
    gateway: Gateway, authority: Authority, tmp_path: Path
) -> None:
    other = Authority(tmp_path)
    async with gateway.open(tls=authority.server()) as door:
        login: dict[str, Any] = {"username": "gauge-1", "password": "right"}
        async with aiomqtt.Client("127.0.0.1", door.port, tls_context=authority.client(None), **login) as first:
            door.use_tls(other.server())
            async with aiomqtt.Client(
                "127.0.0.1", door.port, identifier="second", tls_context=other.client(None), **login
            ) as second:
                await second.publish(UP, b"2", qos=1)
            await first.publish(UP, b"1", qos=1)
    assert sorted(frame.payload for frame in gateway.sink.frames) == [b"1", b"2"]


async def test_an_idle_tls_connection_is_small(gateway: Gateway, authority: Authority) -> None:
    async with gateway.open(tls=authority.server()) as door:
        context = authority.client(authority.issue("gauge-1"))
        login = b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04c-%02d"
        writers = []
        tracemalloc.start()
        try:
            for number in range(20):
                reader, writer = await asyncio.open_connection("127.0.0.1", door.port, ssl=context)
                writer.write(login % number)
                assert await reader.readexactly(4) == b"\x20\x02\x00\x00"
                writers.append(writer)
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        # Both ends are in this process. What OpenSSL takes for itself is not in it.
        assert held / 20 < 2 * 40_000
        for writer in writers:
            writer.close()
            await writer.wait_closed()
