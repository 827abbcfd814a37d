"""The order of disk and network, read off the kernel's own trace of gateway and platform.

For each of hundreds of devices that send one frame, the gateway's system calls must show: the frame's bytes written to the
spool's write-ahead log, then a completed fdatasync of that log, then the PUBACK, PUBREC or 2.04 leaving. The same holds for
the platform, its log and the 2xx of its ingest. With `synchronous=NORMAL` the same frames must turn the oracle red in each
of the four: an oracle that cannot is none.
"""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from citysense import wire

DEVICES = 125  # of each of four ways in
CALLS = "pwrite64,pwritev,fdatasync,fsync,sendto,sendmsg,write,writev"
_LINE = re.compile(r"^(?P<pid>\d+) +(?P<rest>.*)$")
_CALL = re.compile(r"^(?P<name>\w+)\((?P<body>.*)$")
_RESUMED = re.compile(r"^<\.\.\. (?P<name>\w+) resumed>(?P<body>.*)$")
_PATH = re.compile(r"^\d+<([^>]*)>")
_BYTES = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_TCP_PEER = re.compile(r"->(?:\[[^\]]*\]|[\d.]+):(\d+)\]>")
_UDP_PEER = re.compile(r"sin6?_port=htons\((\d+)\)")


Sender = tuple[str, int]
"""Protocol and port: TCP and UDP number their ports apart."""


@dataclass
class Call:
    """One system call: the lines on which it began and ended, and its text."""

    name: str
    began: int
    ended: int
    text: str

    @property
    def path(self) -> str:
        """What the first argument, a descriptor, points at. With -xx strace writes paths in hex, too."""
        shown = _PATH.search(self.text)
        if shown is None:
            return ""
        return bytes.fromhex(shown[1].replace("\\x", "")).decode() if shown[1].startswith("\\x") else shown[1]

    @property
    def data(self) -> bytes:
        return b"".join(bytes.fromhex(found.replace("\\x", "")) for found in _BYTES.findall(self.text))


@dataclass
class Findings:
    """What the oracle says of a trace."""

    acknowledged: set[str] = field(default_factory=set)
    too_early: set[str] = field(default_factory=set)


def calls(lines: Iterator[str]) -> list[Call]:
    """System calls in order of their beginning, interrupted ones put together again."""
    open_calls: dict[str, Call] = {}
    found: list[Call] = []
    for number, raw in enumerate(lines):
        line = _LINE.match(raw.rstrip("\n"))
        if line is None:
            continue
        pid, rest = line["pid"], line["rest"]
        if resumed := _RESUMED.match(rest):
            call = open_calls.pop(pid, None)
            if call is not None:
                call.ended, call.text = number, call.text + resumed["body"]
        elif started := _CALL.match(rest):
            call = Call(started["name"], number, number, started["body"])
            if rest.endswith("<unfinished ...>"):
                open_calls[pid] = call
            found.append(call)
    return found


def judge(trace: list[Call], senders: dict[Sender, str], log: str = "spool.db") -> Findings:
    """Hold each acknowledgement against the writes and syncs of `log` before it. `senders` maps protocol and local port to
    device ids."""
    findings = Findings()
    wal_writes = [call for call in trace if call.name.startswith("pwrite") and call.path.endswith(f"/{log}-wal")]
    syncs = [call for call in trace if call.name in ("fdatasync", "fsync") and call.path.endswith(f"/{log}-wal")]
    written: dict[str, int] = {}
    for call in wal_writes:
        data = call.data
        for device in senders.values():
            if device not in written and device.encode() in data:
                written[device] = call.ended
    for call in trace:
        receiver = _acknowledged(call, senders)
        if receiver is None:
            continue
        findings.acknowledged.add(receiver)
        at = written.get(receiver)
        if at is None or not any(at < sync.began and sync.ended < call.began for sync in syncs):
            findings.too_early.add(receiver)
    return findings


def _acknowledged(call: Call, senders: dict[Sender, str]) -> str | None:
    """The device to which this call sends its PUBACK, PUBREC, 2xx or 2.04, if that is what it does."""
    if call.name not in ("sendto", "sendmsg", "write", "writev"):
        return None
    data = call.data
    if (tcp := _TCP_PEER.search(call.text)) and data.startswith((b"\x40", b"\x50", b"HTTP/1.1 2")):
        return senders.get(("tcp", int(tcp[1])))
    if (udp := _UDP_PEER.search(call.text)) and data[1:2] == b"\x44":
        return senders.get(("udp", int(udp[1])))
    return None


# -- the oracle itself, on traces made by hand --------------------------------------------------------------------------


def _trace(*rest: str) -> list[Call]:
    return calls(iter(f"100 {line}" for line in rest))


def _hex(data: bytes) -> str:
    return '"' + "".join(f"\\x{byte:02x}" for byte in data) + '"'


HEX_PATH = "".join(f"\\x{byte:02x}" for byte in b"DIR/spool.db-wal")
SENDERS = {("tcp", 4000): "gauge-1", ("udp", 4000): "gauge-1"}
WRITE = f"pwrite64(5<DIR/spool.db-wal>, {_hex(b'..gauge-1..')}, 11, 0) = 11"
SYNC = "fdatasync(5<DIR/spool.db-wal>) = 0"
PUBACK = f"sendto(9<TCP:[127.0.0.1:1883->127.0.0.1:4000]>, {_hex(bytes([0x40, 2, 0, 1]))}, 4, 0, NULL, 0) = 4"
PUBREC = PUBACK.replace("\\x40", "\\x50", 1)
ACCEPTED = f"sendto(9<TCP:[127.0.0.1:8080->127.0.0.1:4000]>, {_hex(b'HTTP/1.1 200 OK')}, 15, 0, NULL, 0) = 15"
CHANGED = (
    f"sendto(9<UDP:[127.0.0.1:5683]>, {_hex(bytes([0x60, 0x44, 0, 1]))}, 4, 0, "
    '{sa_family=AF_INET, sin_port=htons(4000), sin_addr=inet_addr("127.0.0.1")}, 16) = 4'
)


@pytest.mark.parametrize("ack", [PUBACK, PUBREC, ACCEPTED, CHANGED])
@pytest.mark.parametrize("path", ["DIR/spool.db-wal", HEX_PATH])
def test_the_oracle_accepts_write_sync_ack(ack: str, path: str) -> None:
    trace = [line.replace("DIR/spool.db-wal", path) for line in (WRITE, SYNC, ack)]
    assert judge(_trace(*trace), SENDERS) == Findings({"gauge-1"}, set())


@pytest.mark.parametrize("ack", [PUBACK, PUBREC, ACCEPTED, CHANGED])
@pytest.mark.parametrize(
    "before",
    [
        [],
        [WRITE],
        [SYNC],
        [SYNC, WRITE],
        [WRITE, SYNC.replace("spool.db-wal", "other.db-wal")],
        [WRITE, "fdatasync(5<DIR/spool.db-wal> <unfinished ...>"],
        [WRITE.replace("pwrite64", "pread64"), SYNC],
    ],
)
def test_the_oracle_refuses_any_other_order(ack: str, before: list[str]) -> None:
    found = judge(_trace(*before, ack, "<... fdatasync resumed>) = 0"), SENDERS)
    assert found.too_early == {"gauge-1"}


def test_the_oracle_looks_at_the_log_that_it_is_told_of() -> None:
    platform = [line.replace("spool.db", "log.db") for line in (WRITE, SYNC, ACCEPTED)]
    assert judge(_trace(*platform), SENDERS, "log.db") == Findings({"gauge-1"}, set())
    assert judge(_trace(*platform), SENDERS).too_early == {"gauge-1"}


@pytest.mark.parametrize(
    "other",
    [PUBREC.replace("\\x50", "\\x70", 1), ACCEPTED.replace(_hex(b"HTTP/1.1 2")[1:-1], _hex(b"HTTP/1.1 5")[1:-1])],
)
def test_what_is_no_acknowledgement_is_none(other: str) -> None:
    assert judge(_trace(other), SENDERS) == Findings()


# -- gateway and platform under the trace ---------------------------------------------------------------------------------


def connect_mqtt(port: int, device: str, secret: str) -> socket.socket:
    """A 3.1.1 connection made of hand-written bytes; returns after the CONNACK."""

    def text(value: str) -> bytes:
        return struct.pack(">H", len(value)) + value.encode()

    body = text("MQTT") + bytes([4, 0b1100_0010]) + struct.pack(">H", 60) + text(device) + text(device) + text(secret)
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    connection.sendall(bytes([0x10, *_remaining(len(body))]) + body)
    assert connection.recv(4) == bytes([0x20, 2, 0, 0])
    return connection


def publish_bytes(device: str, payload: bytes, qos: int = 1) -> bytes:
    topic = f"cs/v1/{device}/up/report".encode()
    body = struct.pack(">H", len(topic)) + topic + struct.pack(">H", 1) + payload
    return bytes([0x30 | qos << 1, *_remaining(len(body))]) + body


def _remaining(length: int) -> bytes:
    out = bytearray()
    while True:
        length, digit = divmod(length, 128)
        out.append(digit | (0x80 if length else 0))
        if not length:
            return bytes(out)


def coap_post_bytes(device: str, payload: bytes, message_id: int) -> bytes:
    """A confirmable POST /v1/{device}/report, content format 50, with a token of two bytes."""

    def option(delta: int, value: bytes) -> bytes:
        assert delta < 13
        if len(value) < 13:
            return bytes([delta << 4 | len(value)]) + value
        return bytes([delta << 4 | 13, len(value) - 13]) + value

    path = option(11, b"v1") + option(0, device.encode()) + option(0, b"report")
    head = bytes([0x42, 0x02]) + struct.pack(">HH", message_id, message_id)
    return head + path + option(1, bytes([50])) + b"\xff" + payload


def report(level: float) -> bytes:
    return b'{"boot": 1, "seq": 0, "v": {"water.level": %.1f}}' % level


def send_over_mqtt(port: int, secrets: dict[str, str], qos: int) -> dict[Sender, str]:
    """One publish for each device on a connection of its own, all before the first PUBACK or PUBREC is read."""
    connections = {device: connect_mqtt(port, device, secret) for device, secret in secrets.items()}
    for device, connection in connections.items():
        connection.sendall(publish_bytes(device, report(3.0), qos))
    senders = {}
    for device, connection in connections.items():
        assert connection.recv(4) == bytes([0x40 if qos == 1 else 0x50, 2, 0, 1]), device
        senders["tcp", connection.getsockname()[1]] = device
        if qos == 2:
            connection.sendall(bytes([0x62, 2, 0, 1]))
            assert connection.recv(4) == bytes([0x70, 2, 0, 1]), device
    for connection in connections.values():
        connection.close()
    return senders


def send_over_coap(port: int, devices: list[str]) -> dict[Sender, str]:
    """One confirmable POST for each device from a socket of its own, all before the first answer is read."""
    sockets = {}
    for number, device in enumerate(devices):
        sockets[device] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sockets[device].settimeout(30)
        sockets[device].connect(("127.0.0.1", port))
        sockets[device].send(coap_post_bytes(device, report(4.0), number))
    senders = {}
    for device, opened in sockets.items():
        while (answer := opened.recv(100))[1] == 0:
            continue  # the empty ACK promises nothing
        assert answer[1] == 0x44, (device, answer)
        senders["udp", opened.getsockname()[1]] = device
        opened.close()
    return senders


def send_over_http(port: int, token: str, devices: list[str]) -> dict[Sender, str]:
    """A batch with one reading for each device, as its gateway sends it, on a connection of its own; all before the first
    answer is read."""
    connections = {}
    for number, device in enumerate(devices, 1):
        body = batch(device, number)
        head = f"POST /ingest/v1/safety HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
        head += f"Content-Type: application/msgpack\r\nContent-Length: {len(body)}\r\n\r\n"
        connections[device] = socket.create_connection(("127.0.0.1", port), timeout=30)
        connections[device].sendall(head.encode() + body)
    senders = {}
    for device, connection in connections.items():
        with connection.makefile("rb") as answer:
            assert answer.readline().startswith(b"HTTP/1.1 200"), device
            headers = dict(line.lower().split(b": ") for line in iter(lambda: answer.readline().strip(), b""))
            said = msgspec.msgpack.decode(answer.read(int(headers[b"content-length"])), type=wire.Answer)
        assert len(said.accepted) == 1, (device, said)
        senders["tcp", connection.getsockname()[1]] = device
        connection.close()
    return senders


def batch(device: str, offset: int) -> bytes:
    reading = wire.Readings(
        device=device,
        profile="generic/water-gauge",
        kind="waterlogging_gauge",
        message="report",
        received=1_795_190_934_423,
        identity="password",
        samples=[wire.SampleBody(time=1_795_190_934_423, values={"water.level": 5.0})],
        boot=1,
        seq=0,
    )
    # A spool of its own for each: their batches must not be repeats of each other's.
    return wire.encode(wire.Batch(spool=f"{offset:032x}", items=[(offset, wire.encode(reading))]))


def strace(program: str, trace: Path) -> list[str]:
    options = ["-f", "--seccomp-bpf", "-yy", "-xx", "-s", "9000", "-e", f"trace={CALLS}", "-e", "signal=none"]
    return [program, *options, "-o", str(trace)]


def register(instance: Any, way: str) -> dict[str, str]:
    """Devices of one way in, with their passwords where they need one."""
    credential = {"credential": {"kind": "password"}} if way.startswith("mqtt") else {}

    def one(device: str) -> str:
        made = instance.register(device, "generic/water-gauge", wait=False, **credential)
        return str(made["credential"]["secret"]) if credential else ""

    devices = [f"{way}-gauge-{number:04d}" for number in range(DEVICES)]
    with ThreadPoolExecutor(8) as side_by_side:
        return dict(zip(devices, side_by_side.map(one, devices), strict=True))


@pytest.mark.peer("strace")
@pytest.mark.timeout(240)
@pytest.mark.parametrize("synchronous", ["FULL", "NORMAL"])
def test_every_acknowledgement_leaves_after_the_sync(
    synchronous: str, tmp_path: Path, peer_path: str, instance: Any
) -> None:
    gateway, platform = tmp_path / "gateway", tmp_path / "platform"
    instance.start_processes(
        tracer=strace(peer_path, gateway),
        gateway_options=["--synchronous", synchronous],
        platform_tracer=strace(peer_path, platform),
        platform_options=["--synchronous", synchronous],
    )
    known = {way: register(instance, way) for way in ("http", "mqtt1", "mqtt2", "coap")}
    instance.register("the-last-gauge", "generic/water-gauge")  # who knows it knows all before it
    token = (instance.data / "gateway-token").read_text().strip()
    senders = {
        "http": send_over_http(instance.api_port, token, list(known["http"])),
        "mqtt1": send_over_mqtt(instance.mqtt_port, known["mqtt1"], 1),
        "mqtt2": send_over_mqtt(instance.mqtt_port, known["mqtt2"], 2),
        "coap": send_over_coap(instance.coap_port, list(known["coap"])),
    }
    instance.close()
    traces = {
        log: calls(iter(path.read_text().splitlines())) for log, path in (("spool.db", gateway), ("log.db", platform))
    }
    for way, those in senders.items():
        log = "log.db" if way == "http" else "spool.db"
        findings = judge(traces[log], those, log)
        assert findings.acknowledged == set(known[way]), way
        if synchronous == "FULL":
            assert findings.too_early == set(), way
        else:
            # NORMAL syncs at checkpoints only: nearly every acknowledgement is a promise that a power cut would break.
            assert len(findings.too_early) > DEVICES / 2, way
