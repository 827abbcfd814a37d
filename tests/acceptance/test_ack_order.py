"""The order of disk and network, read off the kernel's own trace of the gateway.

For each of 500 devices that send one frame, the gateway's system calls must show: the frame's bytes written to the
spool's write-ahead log, then a completed fdatasync of that log, then the PUBACK or 2.04 leaving. With
`synchronous=NORMAL` the same frames must turn the oracle red: an oracle that cannot is none.
"""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

DEVICES = 250  # of each protocol
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


def judge(trace: list[Call], senders: dict[Sender, str]) -> Findings:
    """Hold each acknowledgement against the writes and syncs before it. `senders` maps protocol and local port to device ids."""
    findings = Findings()
    wal_writes = [call for call in trace if call.name.startswith("pwrite") and call.path.endswith("spool.db-wal")]
    syncs = [call for call in trace if call.name in ("fdatasync", "fsync") and call.path.endswith("spool.db-wal")]
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
    """The device to which this call sends its PUBACK or 2.04, if that is what it does."""
    if call.name not in ("sendto", "sendmsg", "write", "writev"):
        return None
    data = call.data
    if (tcp := _TCP_PEER.search(call.text)) and data[:1] == b"\x40":
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
CHANGED = (
    f"sendto(9<UDP:[127.0.0.1:5683]>, {_hex(bytes([0x60, 0x44, 0, 1]))}, 4, 0, "
    '{sa_family=AF_INET, sin_port=htons(4000), sin_addr=inet_addr("127.0.0.1")}, 16) = 4'
)


@pytest.mark.parametrize("ack", [PUBACK, CHANGED])
@pytest.mark.parametrize("path", ["DIR/spool.db-wal", HEX_PATH])
def test_the_oracle_accepts_write_sync_ack(ack: str, path: str) -> None:
    trace = [line.replace("DIR/spool.db-wal", path) for line in (WRITE, SYNC, ack)]
    assert judge(_trace(*trace), SENDERS) == Findings({"gauge-1"}, set())


@pytest.mark.parametrize("ack", [PUBACK, CHANGED])
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


# -- the gateway under the trace ------------------------------------------------------------------------------------------


def connect_mqtt(port: int, device: str, secret: str) -> socket.socket:
    """A 3.1.1 connection made of hand-written bytes; returns after the CONNACK."""

    def text(value: str) -> bytes:
        return struct.pack(">H", len(value)) + value.encode()

    body = text("MQTT") + bytes([4, 0b1100_0010]) + struct.pack(">H", 60) + text(device) + text(device) + text(secret)
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    connection.sendall(bytes([0x10, *_remaining(len(body))]) + body)
    assert connection.recv(4) == bytes([0x20, 2, 0, 0])
    return connection


def publish_bytes(device: str, payload: bytes) -> bytes:
    topic = f"cs/v1/{device}/up/report".encode()
    body = struct.pack(">H", len(topic)) + topic + struct.pack(">H", 1) + payload
    return bytes([0x32, *_remaining(len(body))]) + body


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


def send_over_mqtt(port: int, secrets: dict[str, str]) -> dict[Sender, str]:
    """One QoS 1 publish for each device on a connection of its own, all before the first PUBACK is read."""
    connections = {device: connect_mqtt(port, device, secret) for device, secret in secrets.items()}
    for device, connection in connections.items():
        connection.sendall(publish_bytes(device, report(3.0)))
    senders = {}
    for device, connection in connections.items():
        assert connection.recv(4) == bytes([0x40, 2, 0, 1]), device
        senders["tcp", connection.getsockname()[1]] = device
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


@pytest.mark.peer("strace")
@pytest.mark.timeout(240)
@pytest.mark.parametrize("synchronous", ["FULL", "NORMAL"])
def test_every_acknowledgement_leaves_after_the_sync(
    synchronous: str, tmp_path: Path, peer_path: str, instance: Any
) -> None:
    trace_file = tmp_path / "trace"
    tracer = [
        peer_path,
        "-f",
        "--seccomp-bpf",
        "-yy",
        "-xx",
        "-s",
        "9000",
        "-e",
        f"trace={CALLS}",
        "-e",
        "signal=none",
        "-o",
        str(trace_file),
    ]
    instance.start_processes(tracer=tracer, gateway_options=["--synchronous", synchronous])
    by_mqtt = [f"mqtt-gauge-{number:04d}" for number in range(DEVICES)]
    by_coap = [f"coap-gauge-{number:04d}" for number in range(DEVICES)]
    secrets = {
        device: instance.register(device, "generic/water-gauge", wait=False, credential={"kind": "password"})[
            "credential"
        ]["secret"]
        for device in by_mqtt
    }
    for device in by_coap:
        instance.register(device, "generic/water-gauge", wait=False)
    instance.until_known(by_coap[-1])
    senders = send_over_mqtt(instance.mqtt_port, secrets) | send_over_coap(instance.coap_port, by_coap)
    instance.close()
    findings = judge(calls(iter(trace_file.read_text().splitlines())), senders)
    assert set(senders.values()) - findings.acknowledged == set()
    assert len(findings.acknowledged) == 2 * DEVICES
    if synchronous == "FULL":
        assert findings.too_early == set()
    else:
        # NORMAL syncs at checkpoints only: nearly every acknowledgement is a promise that a power cut would break.
        assert len(findings.too_early) > DEVICES
