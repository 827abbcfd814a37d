"""Looking after a gateway: `gateway check` before and while it runs, `gateway reload`, and one gateway per folder."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import aiomqtt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from citysense import wire
from citysense.cli import gateway_check, gateway_reload
from citysense.cli.gateway_check import FAIL, OK, WARN, Finding
from citysense.clock import SetClock
from citysense.crash_points import CrashPoints
from citysense.durable_log import Entry
from citysense.errors import SetupError
from citysense.keys import Sealer, load_or_create_key, password_digest
from citysense.settings import Settings
from citysense_gateway.dead_letters import GATEWAY as SEALED_FOR
from citysense_gateway.folder_lock import FolderLock, holder_of
from citysense_gateway.spool import Spool
from citysense_profiles.reading import ReadingClass

NOW = datetime(2026, 11, 21, tzinfo=UTC)
PROFILE = """\
schema: 1
id: acme/gauge
kind: waterlogging_gauge
title: A gauge
product: {vendor: acme, model: gauge, source: made for this test}
transport: {mqtt: {}}
report_every: 60s
messages:
  report:
    title: Report
    codec: {type: binary}
    fields:
      - {name: level, type: u16, unit: cm, metric: water.level}
vectors:
  - {name: one, basis: computed, message: report, wire: {hex: "0010"}, samples: [{values: {water.level: 16}}]}
"""


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_certificate(folder: Path, *, days: int = 365, name: str = "gateway") -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(days=30))
        .not_valid_after(NOW + timedelta(days=days))
        .sign(key, hashes.SHA256())
    )
    shown, secret = folder / "cert.pem", folder / "key.pem"
    shown.write_bytes(certificate.public_bytes(Encoding.PEM))
    secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return shown, secret


def settings_of(folder: Path, **changes: object) -> Settings:
    given: dict[str, object] = {
        "data": folder,
        "api_port": free_port(),
        "mqtt_port": free_port(),
        "coap_port": free_port(socket.SOCK_DGRAM),
    }
    return Settings.model_validate({**given, **changes})


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.what: finding for finding in findings}


def fill_spool(folder: Path, count: int) -> None:
    async def fill() -> None:
        spool = Spool(folder / "spool.db", clock=SetClock(1), crash=CrashPoints(), reserve_bytes=1 << 16)
        spool.open()
        entry = Entry(cls=ReadingClass.BULK, body=b"body", device="d", time=1)
        await spool.log.append_entries([entry] * count, urgent=True)
        spool.close()

    asyncio.run(fill())


# -- check ------------------------------------------------------------------------------------------------------------


def test_an_empty_folder_has_nothing_wrong_and_is_left_empty(tmp_path: Path) -> None:
    findings = gateway_check.check_all(settings_of(tmp_path), None, NOW)
    assert [finding for finding in findings if finding.state == FAIL] == []
    assert by_name(findings)["platform"].state == WARN
    assert list(tmp_path.iterdir()) == []


def test_a_spool_is_read_through_and_left_as_it_is(tmp_path: Path) -> None:
    fill_spool(tmp_path, 5)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert [finding.found for finding in gateway_check.spool(tmp_path / "spool.db")] == [
        "waiting: 5 bulk",
        "5 records read, all whole",
    ]
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_damaged_and_vanished_records_are_found(tmp_path: Path) -> None:
    fill_spool(tmp_path, 5)
    connection = sqlite3.connect(tmp_path / "spool.db")
    connection.execute("UPDATE record SET blob=CAST(substr(blob, 1, length(blob)-1)||x'00' AS BLOB) WHERE offset=2")
    connection.execute("DELETE FROM record WHERE offset=3")
    connection.execute("INSERT INTO tombstone VALUES('d', 2, 'disk_full', 1, 2, 7)")
    connection.commit()
    connection.close()
    findings = list(gateway_check.spool(tmp_path / "spool.db"))
    assert [(finding.state, finding.found) for finding in findings[1:]] == [
        (FAIL, "records are not accounted for: 1 of bulk"),
        (WARN, "1 of 4 records have a wrong check sum"),
        (WARN, "7 readings of class bulk were given up (disk_full)"),
    ]


def test_a_file_that_is_no_spool_fails(tmp_path: Path) -> None:
    (tmp_path / "spool.db").write_bytes(b"no database at all" * 100)
    assert [finding.state for finding in gateway_check.spool(tmp_path / "spool.db")] == [FAIL]


@pytest.mark.parametrize(
    ("days", "state", "words"), [(365, OK, "until 2027-11-21"), (10, WARN, "10 days"), (-1, FAIL, "has ended")]
)
def test_a_certificate_is_judged_by_what_is_left_of_it(tmp_path: Path, days: int, state: str, words: str) -> None:
    cert, key = write_certificate(tmp_path, days=days)
    (found,) = gateway_check.certificate(settings_of(tmp_path, tls_cert=cert, tls_key=key), NOW)
    assert found.state == state
    assert words in found.found


def test_a_key_of_another_certificate_fails(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    cert, _ = write_certificate(tmp_path)
    _, key = write_certificate(tmp_path / "other")
    (found,) = gateway_check.certificate(settings_of(tmp_path, tls_cert=cert, tls_key=key), NOW)
    assert found.state == FAIL
    assert "is not the key of" in found.found


def test_a_wrong_profile_fails_with_its_file(tmp_path: Path) -> None:
    (tmp_path / "acme").mkdir()
    (tmp_path / "acme" / "gauge.yaml").write_text(PROFILE.replace("u16", "u17"))
    found = gateway_check.check_profiles(tmp_path)
    assert found.state == FAIL
    assert "acme/gauge.yaml" in found.found


@contextmanager
def answering(status: int) -> Iterator[int]:
    """A platform that answers everything with one status."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(("status", "state"), [(200, OK), (204, OK), (401, FAIL), (403, FAIL), (500, WARN)])
def test_the_platform_must_take_the_token(tmp_path: Path, status: int, state: str) -> None:
    (tmp_path / "gateway-token").write_text("token")
    with answering(status) as port:
        found = asyncio.run(gateway_check.platform(settings_of(tmp_path, api_port=port)))
    assert found.state == state, found


def test_a_port_of_somebody_else_fails_and_says_whose(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        found = list(gateway_check.ports(settings_of(tmp_path, mqtt_port=taken.getsockname()[1]), None))
    assert [finding.state for finding in found] == [FAIL, OK]
    assert "in use by" in found[0].found


def test_a_broker_that_is_configured_must_answer(tmp_path: Path) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        address = f"mqtt://127.0.0.1:{listening.getsockname()[1]}"
        (found,) = gateway_check.broker(settings_of(tmp_path, broker=address))
    assert found.state == OK
    (found,) = gateway_check.broker(settings_of(tmp_path, broker=address))
    assert (found.state, address in found.found) == (FAIL, True)
    assert list(gateway_check.broker(settings_of(tmp_path))) == []


def test_the_table_says_what_to_do() -> None:
    lines = gateway_check.table([Finding(what="spool", state=FAIL, found="broken", do="mend it")])
    assert lines[1].split() == ["fail", "spool", "broken:", "mend", "it"]


# -- one gateway per folder -------------------------------------------------------------------------------------------


def test_a_second_gateway_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    with FolderLock(tmp_path) as lock:
        lock.say(4711)
        holder = holder_of(tmp_path)
        assert holder is not None
        assert holder.status_port == 4711
        with pytest.raises(SetupError, match=f"in use by another gateway .pid {holder.pid}"):
            FolderLock(tmp_path).__enter__()
    assert holder_of(tmp_path) is None
    with FolderLock(tmp_path):
        pass


# -- a gateway that runs ----------------------------------------------------------------------------------------------


@contextmanager
def running(folder: Path, settings: Settings, *more: str) -> Iterator[list[str]]:
    """A gateway process; the list holds what it has said up to being ready."""
    process = subprocess.Popen(
        [
            *(
                sys.executable,
                "-m",
                "citysense_gateway.app",
                "--data",
                str(folder),
                "--platform",
                "https://127.0.0.1:9",
            ),
            *("--mqtt-port", str(settings.mqtt_port), "--coap-port", str(settings.coap_port), *more),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    said = []
    try:
        for line in process.stderr:
            said.append(line)
            if "gateway ready" in line:
                break
        assert process.poll() is None, said
        yield said
    finally:
        process.terminate()
        process.communicate(timeout=20)


def certificate_at(port: int) -> str:
    """What a new connection to the MQTT door is shown."""
    return ssl.get_server_certificate(("127.0.0.1", port), timeout=10)


def test_a_running_gateway_is_checked_and_reloaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, own = tmp_path / "data", tmp_path / "profiles"
    (own / "acme").mkdir(parents=True)
    profile = own / "acme" / "gauge.yaml"
    profile.write_text(PROFILE)
    cert, key = write_certificate(tmp_path, name="first")
    settings = settings_of(data)
    tls = ("--tls-cert", str(cert), "--tls-key", str(key))

    def reload() -> tuple[int, dict[str, list[str]]]:
        code = gateway_reload.run(argparse.Namespace(data=str(data), config=None, json=True))
        return code, json.loads(capsys.readouterr().out)

    with running(data, settings, "--profiles", str(own), *tls):
        found = {finding.what: finding.state for finding in gateway_check.check_all(settings, own, NOW)}
        assert found[f"port {settings.mqtt_port}"] == found[f"port {settings.coap_port}"] == OK
        assert found["gateway"] == WARN, "it was started with other profiles and a certificate than the settings say"
        second = subprocess.run(
            [sys.executable, "-m", "citysense_gateway.app", "--data", str(data), "--platform", "http://127.0.0.1:9"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert (second.returncode, "in use by another gateway" in second.stderr) == (1, True)

        code, done = reload()
        assert (code, done["changes"], done["problems"]) == (0, [], [])

        profile.write_text(PROFILE.replace("A gauge", "Another gauge"))
        shown = certificate_at(settings.mqtt_port)
        write_certificate(tmp_path, name="second")
        code, done = reload()
        assert (code, done["problems"]) == (0, [])
        assert done["changes"] == ["profiles changed: acme/gauge", "certificate: new connections get the new one"]
        assert certificate_at(settings.mqtt_port) != shown

        shown = certificate_at(settings.mqtt_port)
        profile.write_text(PROFILE.replace("u16", "u17"))
        key_in_force = key.read_bytes()
        write_certificate(tmp_path, name="third")
        # A certificate that came without its key: nothing of the pair is taken.
        key.write_bytes(key_in_force)
        code, done = reload()
        assert (code, done["changes"], len(done["problems"])) == (1, [], 2)
        assert "acme/gauge.yaml" in done["problems"][0]
        assert certificate_at(settings.mqtt_port) == shown
    assert holder_of(data) is None


class Publisher:
    """Publishes with QoS 1, one after another, over one connection that it never makes anew."""

    def __init__(self, port: int) -> None:
        self.acknowledged = 0
        self.trouble: list[BaseException] = []
        self._port = port
        self._end = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> Publisher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    async def _run(self) -> None:
        try:
            async with aiomqtt.Client(
                "127.0.0.1", self._port, username="gauge-1", password="secret", identifier="c1", timeout=20
            ) as client:
                while not self._end.is_set():
                    level = (self.acknowledged % 1000).to_bytes(2, "big")
                    await client.publish("cs/v1/gauge-1/up/report", level, qos=1)
                    self.acknowledged += 1
        except aiomqtt.MqttError as e:
            self.trouble.append(e)


def remember_roster(folder: Path, *devices: wire.RosterDevice) -> None:
    """As a gateway's last run did, so that it serves them without a platform."""
    sealer = Sealer(load_or_create_key(folder / "keys" / "sealing.key"))
    sealed = sealer.seal(SEALED_FOR, wire.encode(wire.Roster(version=1, devices=list(devices))))
    (folder / "roster.sealed").write_bytes(sealed)


def test_reloads_under_load_touch_neither_spool_nor_sessions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, own = tmp_path / "data", tmp_path / "profiles"
    (own / "acme").mkdir(parents=True)
    profile = own / "acme" / "gauge.yaml"
    profile.write_text(PROFILE)
    settings = settings_of(data)
    digest = password_digest(b"salt", b"secret")
    remember_roster(data, wire.RosterDevice(id="gauge-1", profile="acme/gauge", salt=b"salt", digest=digest))
    with running(data, settings, "--profiles", str(own)), Publisher(settings.mqtt_port) as publisher:
        inode = (data / "spool.db").stat().st_ino
        stored = [0]
        for number in range(20):
            profile.write_text(PROFILE.replace("A gauge", f"Gauge {number}"))
            assert gateway_reload.run(argparse.Namespace(data=str(data), config=None, json=True)) == 0
            assert json.loads(capsys.readouterr().out)["changes"] == ["profiles changed: acme/gauge"]
            stored.append(records(data))
        publisher.__exit__()
        assert publisher.trouble == []
        assert (data / "spool.db").stat().st_ino == inode
    # The platform is away: all that was acknowledged lies in the spool, and nothing of it was written anew.
    assert stored == sorted(stored)
    assert 20 < publisher.acknowledged == records(data)
    found = list(gateway_check.spool(data / "spool.db"))
    assert [finding.state for finding in found] == [OK] * len(found), found


def records(folder: Path) -> int:
    """How many records stand in the spool, while its gateway runs."""
    with contextlib.closing(sqlite3.connect(f"file:{folder / 'spool.db'}?mode=ro", uri=True)) as connection:
        first, last, count = connection.execute("SELECT min(offset), max(offset), count(*) FROM record").fetchone()
    assert count == 0 or last - first + 1 == count
    return int(count)


def test_reload_without_a_gateway_says_so(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="no gateway runs on"):
        gateway_reload.run(argparse.Namespace(data=str(tmp_path), config=None, json=False))
