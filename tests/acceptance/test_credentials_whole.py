"""Every kind of credential from its registration to its end: as the registry shows it, with programs of others."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import aiocoap
import pytest
from aiocoap import Message, oscore

from citysense import wire
from citysense.record_format import unpack

pytestmark = pytest.mark.timeout(180)
PROFILE = "generic/water-gauge"
VENDOR_PROFILE = "decentlab/dl-lid"
NOT_AUTHORISED = {"mqttv5": 135, "mqttv311": 5}
"""What mosquitto's clients end with when CONNACK says so (MQTT 5.0 section 3.2.2.2, 3.1.1 section 3.2.2.3)."""
REVOKED_WITHIN_S = 5
EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def native(seq: int, level: float) -> str:
    return json.dumps({"boot": 1, "seq": seq, "v": {"water.level": level}})


def openssl(*words: str) -> None:
    subprocess.run(["openssl", *words], capture_output=True, timeout=20, check=True)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the certificate and key of the doors; devices' files come beside them."""
    folder = tmp_path_factory.mktemp("files")
    name = ("-subj", "/CN=doors", "-addext", "subjectAltName=DNS:localhost")
    paths = ("-keyout", str(folder / "doors.key"), "-out", str(folder / "doors.pem"))
    openssl("req", "-x509", "-days", "2", *EC, *name, *paths)
    return folder


@pytest.fixture(scope="module")
def house(module_instance: Any, files: Path) -> Iterator[Any]:
    """An instance with TLS, and CoAP over DTLS."""
    trusted = ssl.create_default_context(cafile=str(files / "doors.pem"))
    trusted.check_hostname = False
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=trusted))
    module_instance.scheme, module_instance.open = "https", opener.open
    tls = ("--tls-cert", str(files / "doors.pem"), "--tls-key", str(files / "doors.key"))
    module_instance.start("--scenario", "none", "--dtls-port", str(dtls_port()), *tls)
    yield module_instance
    assert module_instance.stop() == 0
    assert "Traceback" not in module_instance.output() + module_instance.logs()


_chosen: list[int] = []


def dtls_port() -> int:
    """The one port of CoAP over DTLS."""
    if not _chosen:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            _chosen.append(int(probe.getsockname()[1]))
    return _chosen[0]


def identities(house: Any, device: str) -> set[str]:
    """How sure the gateway was of who sent the readings of a device, as the platform's log has it."""
    with closing(sqlite3.connect(f"file:{house.data / 'log.db'}?mode=ro", uri=True)) as connection:
        blobs = [blob for (blob,) in connection.execute("SELECT blob FROM record")]
    bodies = [wire.decode_body(unpack(blob).body) for blob in blobs]
    return {body.identity for body in bodies if isinstance(body, wire.Readings) and body.device == device}


# -- certificates -----------------------------------------------------------------------------------------------------


def keep(files: Path, credential: Mapping[str, str], name: str) -> tuple[str, ...]:
    """Write what a registration shows into files; the options with which mosquitto's clients use them."""
    pem, key = files / f"{name}.pem", files / f"{name}.key"
    pem.write_text(credential["certificate"])
    if credential["secret"] is not None:
        key.write_text(credential["secret"])
    return ("--cert", str(pem), "--key", str(key))


def mosquitto(house: Any, files: Path, *words: str, program: str = "mosquitto_pub") -> list[str]:
    door = ["-h", "localhost", "-p", str(house.mqtt_port), "--cafile", str(files / "doors.pem"), "-q", "1"]
    return [program, *door, *words]


def publish(house: Any, files: Path, topic: str, payload: str, *words: str) -> int:
    """The exit code of mosquitto_pub."""
    command = mosquitto(house, files, "-V", "mqttv5", *words, "-t", topic, "-m", payload)
    return subprocess.run(command, capture_output=True, timeout=20, check=False).returncode


def listening(house: Any, files: Path, device: str, own: tuple[str, ...]) -> subprocess.Popen[str]:
    """A mosquitto_sub with a session open. With 3.1.1 it connects again by itself, and ends when it is refused."""
    filter_ = ("-d", "-V", "mqttv311", "-t", f"cs/v1/{device}/ack")
    command = mosquitto(house, files, *own, *filter_, program="mosquitto_sub")
    # Its output is a pipe, and would come in blocks.
    process = subprocess.Popen(["stdbuf", "-oL", *command], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert any("Subscribed" in line for line in process.stdout)
    return process


def refused(process: subprocess.Popen[str]) -> bool:
    """True if the session was cut, and the next CONNECT refused, in time."""
    try:
        process.communicate(timeout=REVOKED_WITHIN_S)
    finally:
        process.kill()
        process.wait()
    return process.returncode == NOT_AUTHORISED["mqttv311"]


@pytest.mark.peer("mosquitto_pub")
def test_a_certificate_until_it_is_replaced_and_revoked(house: Any, files: Path) -> None:
    shown = house.register("gauge-cert", PROFILE, credential={"kind": "x509"})["credential"]
    topic = "cs/v1/gauge-cert/up/report"
    first = keep(files, shown, "first")
    assert publish(house, files, topic, native(0, 1.0), *first) == 0
    assert publish(house, files, topic, native(1, 2.0), *first, "-u", "gauge-cert") == 0
    house.metric("gauge-cert", "water.level", 2.0)
    assert identities(house, "gauge-cert") == {"credential"}

    other = house.register("gauge-other", PROFILE, credential={"kind": "x509"})["credential"]
    assert (
        publish(house, files, topic, native(2, 9.0), *keep(files, other, "other"), "-u", "gauge-cert")
        == NOT_AUTHORISED["mqttv5"]
    )
    assert house.dead_letter(device="gauge-cert", reason="bad_credential")["transport"] == "mqtt"

    session = listening(house, files, "gauge-cert", first)
    status, again = house.ask("POST", "/api/v1/devices/gauge-cert/credential", {"kind": "x509"})
    assert status == 201
    assert refused(session), "who came in with the old certificate is out"
    second = keep(files, again["credential"], "second")
    house.until_known("gauge-cert")
    assert publish(house, files, topic, native(2, 3.0), *second) == 0
    house.metric("gauge-cert", "water.level", 3.0)

    session = listening(house, files, "gauge-cert", second)
    assert house.ask("POST", "/api/v1/devices/gauge-cert/revoke")[0] == 200
    assert refused(session)
    assert publish(house, files, topic, native(3, 4.0), *second) == NOT_AUTHORISED["mqttv5"]
    known = house.get("/api/v1/devices/gauge-cert")
    assert (known["credential"], known["revoked"] is None) == (None, False)


@pytest.mark.peer("mosquitto_pub")
def test_a_signing_request_keeps_the_key_in_the_device(house: Any, files: Path) -> None:
    key, request = files / "own.key", files / "own.csr"
    openssl("req", "-new", *EC, "-keyout", str(key), "-out", str(request), "-subj", "/CN=whatever")
    credential = {"kind": "x509", "csr": request.read_text()}
    shown = house.register("gauge-csr", PROFILE, credential=credential)["credential"]
    assert shown["secret"] is None
    authority = files / "authority.pem"
    authority.write_text(shown["authority"])
    own = keep(files, shown, "own")
    openssl("verify", "-CAfile", str(authority), own[1])
    assert publish(house, files, "cs/v1/gauge-csr/up/report", native(0, 5.5), *own) == 0
    house.metric("gauge-csr", "water.level", 5.5)


# -- pre-shared keys --------------------------------------------------------------------------------------------------


def coap(program: str, url: str, payload: str, *words: str | bytes) -> str:
    """What coap-client says of a POST."""
    command = [program, "-v", "6", "-B", "3", "-m", "post", "-t", "50", "-f", "-", *words, url]
    done = subprocess.run(command, input=payload, capture_output=True, text=True, timeout=20, check=False)
    return done.stdout + done.stderr


@pytest.mark.peer("coap-client")
def test_a_pre_shared_key(house: Any) -> None:
    key = bytes.fromhex(house.register("gauge-psk", PROFILE, credential={"kind": "psk"})["credential"]["secret"])
    while b"\0" in key:  # coap-client takes the key's bytes as a word of its command line, where this one cannot stand
        answer = house.ask("POST", "/api/v1/devices/gauge-psk/credential", {"kind": "psk"})[1]
        key = bytes.fromhex(answer["credential"]["secret"])
    house.until_known("gauge-psk")
    path = "/v1/gauge-psk/report"
    secured = f"coaps://127.0.0.1:{dtls_port()}{path}"
    for seq, program in enumerate(("coap-client-openssl", "coap-client-gnutls")):
        assert "2.04" in coap(program, secured, native(seq, 10.0 + seq), "-u", "gauge-psk", "-k", key), program
        house.metric("gauge-psk", "water.level", 10.0 + seq)
        wrong = bytes([key[0] % 255 + 1]) + key[1:]
        assert "2.04" not in coap(program, secured, native(9, 99.0), "-u", "gauge-psk", "-k", wrong), program
    plain = coap("coap-client-notls", f"coap://127.0.0.1:{house.coap_port}{path}", native(9, 99.0))
    assert "4.01" in plain
    assert house.dead_letter(device="gauge-psk", transport="coap")["reason"] == "bad_credential"
    assert house.metric("gauge-psk", "water.level", 11.0)
    assert identities(house, "gauge-psk") == {"credential"}


# -- OSCORE -----------------------------------------------------------------------------------------------------------


class Device(oscore.CanProtect, oscore.CanUnprotect, oscore.SecurityContextUtils):  # type: ignore[misc]
    """A device's context, of what the registration has shown. Sends datagrams, and keeps them as an eavesdropper has them."""

    id_context = None
    echo_recovery = None

    def __init__(self, port: int, shown: Mapping[str, str]) -> None:
        self.alg_aead = oscore.algorithms[shown["algorithm"]]
        self.hashfun = oscore.hashfunctions["sha256"]
        assert shown["hkdf"] == "HKDF SHA-256"
        self.sender_id, self.recipient_id = bytes.fromhex(shown["sender"]), bytes.fromhex(shown["recipient"])
        self.sender_sequence_number = 0
        self.recipient_replay_window = oscore.ReplayWindow(32, lambda: None)
        self.recipient_replay_window.initialize_empty()
        self.derive_keys(bytes.fromhex(shown["salt"]), bytes.fromhex(shown["secret"]))
        self.heard: list[bytes] = []
        self._port = port

    def post_seqnoincrease(self) -> None:
        pass

    def post(self, path: str, payload: bytes) -> str:
        """The code of the answer; an Echo is given back once (RFC 9175 section 2.3)."""
        answer = self._ask(path, payload, None)
        if answer.opt.echo is not None and answer.code.dotted == "4.01":
            answer = self._ask(path, payload, answer.opt.echo)
        return str(answer.code.dotted)

    def _ask(self, path: str, payload: bytes, echo: bytes | None) -> Message:
        uri = path[1:].split("/")
        inner = Message(code=aiocoap.POST, payload=payload, content_format=42, uri_path=uri, echo=echo)
        outer, request = self.protect(inner)
        outer.mtype, outer.mid, outer.token = aiocoap.CON, len(self.heard), b"t"
        self.heard.append(outer.encode())
        answer, _ = self.unprotect(exchange(self._port, self.heard[-1]), request)
        return answer


def exchange(port: int, datagram: bytes) -> Message:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as radio:
        radio.settimeout(10)
        radio.connect(("127.0.0.1", port))
        radio.send(datagram)
        return Message.decode(radio.recv(2048))


def ready_gateway(house: Any) -> int:
    """Process id of the gateway that is ready; zero while none is."""
    try:
        holder = json.loads((house.data / "gateway.lock").read_bytes())
        with urllib.request.urlopen(f"http://127.0.0.1:{holder['status_port']}/readyz", timeout=5):
            return int(holder["pid"])
    except urllib.error.HTTPError as answer:
        answer.close()
    except (OSError, ValueError):
        pass  # between two processes: nothing is written down yet, or nobody listens any more
    return 0


def battery(millivolts: int) -> bytes:
    """A report of the profile, which has no number that would tell a repeat: flags 2, then the battery's word."""
    return bytes.fromhex("0200010002") + millivolts.to_bytes(2, "big")


def test_oscore_and_what_an_eavesdropper_can_do_with_it(house: Any) -> None:
    shown = house.register("gauge-oscore", VENDOR_PROFILE, credential={"kind": "oscore"})["credential"]
    path = "/v1/gauge-oscore/report"
    device = Device(house.coap_port, shown)
    for millivolts in (3100, 3200):
        assert device.post(path, battery(millivolts)) == "2.04"
    house.metric("gauge-oscore", "battery.voltage", 3.2)
    stored = rows(house, "gauge-oscore")
    for datagram in device.heard:
        assert exchange(house.coap_port, datagram).code.dotted == "4.01"

    pid = house.until(lambda: ready_gateway(house), "the gateway is ready")
    os.kill(pid, signal.SIGKILL)
    house.until(lambda: ready_gateway(house) not in (0, pid), "the gateway is ready again")
    for datagram in device.heard:
        # What it says is sealed: an Echo to give back, which only the device can.
        assert exchange(house.coap_port, datagram).opt.oscore is not None
    before = len(device.heard)
    assert device.post(path, battery(3300)) == "2.04"
    assert len(device.heard) == before + 2, "the first one after a crash comes with an Echo"
    house.metric("gauge-oscore", "battery.voltage", 3.3)
    assert rows(house, "gauge-oscore") == stored + 1, "no replay was stored"
    assert identities(house, "gauge-oscore") == {"credential"}

    plain = coap("coap-client-notls", f"coap://127.0.0.1:{house.coap_port}{path}", native(9, 99.0))
    assert "4.01" in plain


def rows(house: Any, device: str) -> int:
    """Readings of a device's battery."""
    window = "metric=battery.voltage&start=2020-01-01T00:00:00Z&end=2100-01-01T00:00:00Z"
    return len(house.get(f"/api/v1/devices/{device}/series?{window}")["points"])


# -- concentrators ----------------------------------------------------------------------------------------------------


@pytest.mark.peer("mosquitto_pub")
def test_a_concentrator_speaks_for_its_own_and_no_other(house: Any, files: Path) -> None:
    password = {"kind": "password"}
    secrets = {
        name: house.register(name, PROFILE, credential=password)["credential"]["secret"] for name in ("hub", "stranger")
    }
    house.register("child", PROFILE, concentrator="hub")

    def speak(hub: str, level: float) -> int:
        topic = f"cs/v1/{hub}/child/child/up/report"
        return publish(house, files, topic, native(0, level), "-u", hub, "-P", secrets[hub])

    assert speak("stranger", 66.0) == 0, "the answer to the publish says no"
    letter = house.dead_letter(device="stranger", reason="foreign_topic")
    assert letter["channel"] == "cs/v1/stranger/child/child/up/report"
    assert speak("hub", 6.0) == 0
    house.metric("child", "water.level", 6.0)
    assert identities(house, "child") == {"concentrator"}
    assert house.get("/api/v1/devices/hub/latest")["metrics"] == {}
    assert house.ask("PATCH", "/api/v1/devices/child", {"concentrator": "stranger"})[0] == 200
    house.until_known("child")
    assert speak("hub", 7.0) == 0
    house.dead_letter(device="hub", reason="foreign_topic")
    assert house.metric("child", "water.level", 6.0)
