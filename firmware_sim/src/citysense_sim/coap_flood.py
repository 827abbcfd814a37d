"""A flood of CoAP requests from many clients, each with one request under way (NSTART of RFC 7252 is 1): the load of benches.

Owns sockets, repeats and counts of a sender that costs little, because it shares the machine with what is measured. Plain
requests are bytes with holes; protected ones go through the library's OSCORE, replies are opened and checked. It judges
nothing. It runs as a process of its own and speaks JSON lines:

    plan on stdin -> {"ready": true} -> a round on stdin -> {"done": true, ...} -> another round ... -> end of stdin
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import sys
from array import array
from collections import Counter
from collections.abc import Callable
from typing import Any

from aiocoap import Message, error, oscore
from aiocoap.numbers.codes import POST
from aiocoap.numbers.types import ACK, CON
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from citysense.clock import Clock, SystemClock
from citysense.errors import CitysenseError, SetupError, UpstreamError
from citysense.parent import end_with_parent

REPEAT_S = 2.0
"""ACK_TIMEOUT of RFC 7252."""
DRAIN_S = 10.0
"""Requests without an answer this long after the end are counted as open."""
READ_SIZE = 2048
CHANGED, UNAUTHORIZED, UNAVAILABLE = 0x44, 0x81, 0xA3
_TOKEN = b"\x01\x02"
_JSON = 50


class CoapMember(BaseModel):
    """One client. The hex fields are its OSCORE keys as the device sees them; all empty for plain CoAP."""

    model_config = ConfigDict(extra="forbid")

    device: str
    secret: str = ""
    salt: str = ""
    sender: str = ""
    recipient: str = ""


class CoapPlan(BaseModel):
    """Who posts where. `payload` may contain `{seq}`, `{t}` and `{value}`; other braces stand for themselves."""

    model_config = ConfigDict(extra="forbid")

    host: str
    port: int
    message: str
    members: list[CoapMember] = Field(min_length=1)
    payload: str = '{"boot": 1, "seq": {seq}, "t": {t}, "v": {"water.level": {value}}}'


class CoapRound(BaseModel):
    """One measured stretch: each client sends its next request as soon as its last one is answered."""

    model_config = ConfigDict(extra="forbid")

    seconds: float = Field(gt=0)


class CoapDone(BaseModel):
    """What a round was. `codes` counts replies by code ("2.04"); `p50`, `p99` and `longest` are milliseconds from the first
    sending of a request to its reply; `open` requests had none in time; `cpu` is the flood's own, in seconds."""

    done: bool = True
    answered: int
    codes: dict[str, int]
    repeated: int
    open: int
    elapsed: float
    cpu: float
    p50: float
    p99: float
    longest: float


class _DeviceContext(oscore.CanProtect, oscore.CanUnprotect, oscore.SecurityContextUtils):  # type: ignore[misc]
    """The device's side of an OSCORE context that lives as long as this process."""

    alg_aead = oscore.algorithms[oscore.DEFAULT_ALGORITHM]
    hashfun = oscore.hashfunctions[oscore.DEFAULT_HASHFUNCTION]
    id_context = None
    echo_recovery = None

    def __init__(self, member: CoapMember, start: int) -> None:
        self.sender_id, self.recipient_id = bytes.fromhex(member.sender), bytes.fromhex(member.recipient)
        self.sender_sequence_number = start
        self.recipient_replay_window = oscore.ReplayWindow(oscore.DEFAULT_WINDOWSIZE, lambda: None)
        self.recipient_replay_window.initialize_empty()
        self.derive_keys(bytes.fromhex(member.salt), bytes.fromhex(member.secret))

    def post_seqnoincrease(self) -> None:
        """Nothing to keep: the keys are used by one process, once."""


class _Client:
    """One socket and its one request under way."""

    __slots__ = (
        "context",
        "data",
        "echo",
        "first_sent",
        "last_sent",
        "message_id",
        "number",
        "plan",
        "request",
        "seq",
        "sock",
    )

    def __init__(self, number: int, plan: CoapPlan, first_number: int) -> None:
        member = plan.members[number]
        self.number = number
        self.plan = plan
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.connect((plan.host, plan.port))
        self.sock.setblocking(False)
        self.context = _DeviceContext(member, first_number) if member.secret else None
        self.message_id = number * 257 & 0xFFFF
        self.seq = 0
        self.echo: bytes | None = None
        self.data = b""
        self.request: Any = None
        self.first_sent = self.last_sent = 0.0

    def make(self, now_ms: int) -> None:
        """The next request, in `data`."""
        value = (self.seq * 7 + self.number) % 1000 / 10
        text = self.plan.payload.replace("{seq}", str(self.seq)).replace("{t}", str(now_ms))
        self.seq += 1
        self.message_id = (self.message_id + 1) & 0xFFFF
        self.data = self._written(text.replace("{value}", str(value)).encode())

    def _written(self, payload: bytes) -> bytes:
        device = self.plan.members[self.number].device
        message = Message(code=POST, payload=payload, content_format=_JSON)
        message.opt.uri_path = ("v1", device, self.plan.message)
        if self.context is not None:
            message.opt.echo = self.echo
            message, self.request = self.context.protect(message)
        message.mtype, message.mid, message.token = CON, self.message_id, _TOKEN
        return bytes(message.encode())

    def code_of(self, data: bytes) -> int | None:
        """The code of the reply to the request under way; None for anything else. An Echo in it is taken up."""
        if len(data) < 4 or data[1] == 0 or data[4 : 4 + len(_TOKEN)] != _TOKEN:
            return None
        kind, message_id = data[0] >> 4 & 3, struct.unpack("!H", data[2:4])[0]
        if kind == ACK and message_id != self.message_id:
            return None
        if kind == CON:
            self.sock.send(struct.pack("!BBH", 0x60, 0, message_id))
        if self.context is None:
            return data[1]
        try:
            reply, _ = self.context.unprotect(Message.decode(data), self.request)
        except (error.UnparsableMessage, oscore.ProtectionInvalid, oscore.NotAProtectedMessage):
            return data[1] if data[1] != CHANGED else None
        self.echo = reply.opt.echo
        return int(reply.code)


class CoapFlood:
    """`open`, any number of `play`, `close`. One thread, one epoll."""

    def __init__(self, plan: CoapPlan, *, clock: Clock) -> None:
        self._plan, self._clock = plan, clock
        self._clients: dict[int, _Client] = {}
        self._poll: select.epoll | None = None

    def open(self) -> None:
        """Make the sockets, and with OSCORE answer each Echo. Raises UpstreamError where that does not work."""
        self._poll = select.epoll()
        # Numbers must grow under one key even if the bench runs again with the same devices.
        first = self._clock.now_ms() & 0xFF_FFFF_FFFF
        for number in range(len(self._plan.members)):
            client = _Client(number, self._plan, first)
            self._clients[client.sock.fileno()] = client
            self._poll.register(client.sock, select.EPOLLIN)
        warm: Counter[str] = Counter()
        for _ in range(2):
            warm = Counter(self.play(CoapRound(seconds=0.001)).codes)
        if set(warm) != {"2.04"}:
            raise UpstreamError(
                f"{self._plan.host}:{self._plan.port} answers {dict(warm) or 'nothing'} instead of 2.04"
            )

    def play(self, plan: CoapRound) -> CoapDone:
        """Keep every client busy for a while, then wait for what is under way."""
        assert self._poll is not None
        latencies = array("d")
        codes: Counter[int] = Counter()
        repeated = 0
        cpu, start = _cpu(), self._clock.monotonic()
        end = start + plan.seconds
        waiting = set(self._clients)
        for client in self._clients.values():
            self._send_next(client)
        check = start + REPEAT_S
        while waiting:
            events = self._poll.poll(0.1)
            now = self._clock.monotonic()
            if now > end + DRAIN_S:
                break
            for fd, _ in events:
                client = self._clients[fd]
                for code in self._read(client):
                    if fd not in waiting:
                        break
                    latencies.append(now - client.first_sent)
                    codes[code] += 1
                    if now < end:
                        self._send_next(client)
                    else:
                        waiting.discard(fd)
            if now >= check:
                check = now + REPEAT_S / 4
                repeated += self._repeat(waiting, now)
        return _account(latencies, codes, repeated, len(waiting), self._clock.monotonic() - start, _cpu() - cpu)

    def _send_next(self, client: _Client) -> None:
        client.make(self._clock.now_ms())
        client.first_sent = client.last_sent = self._clock.monotonic()
        self._send(client)

    def _repeat(self, waiting: set[int], now: float) -> int:
        late = [self._clients[fd] for fd in waiting if now - self._clients[fd].last_sent >= REPEAT_S]
        for client in late:
            client.last_sent = now
            self._send(client)
        return len(late)

    @staticmethod
    def _send(client: _Client) -> None:
        try:
            client.sock.send(client.data)
        except (BlockingIOError, ConnectionRefusedError):
            pass  # sent again after a while, as by any device

    @staticmethod
    def _read(client: _Client) -> list[int]:
        """Codes of replies to the request under way: one at most, unless datagrams were doubled."""
        codes: list[int] = []
        while True:
            try:
                data = client.sock.recv(READ_SIZE)
            except (BlockingIOError, ConnectionRefusedError):
                return codes[:1]
            code = client.code_of(data)
            if code is not None:
                codes.append(code)

    def close(self) -> None:
        """Close the sockets."""
        for client in self._clients.values():
            client.sock.close()
        if self._poll is not None:
            self._poll.close()


def _account(
    latencies: array[float], codes: Counter[int], repeated: int, left: int, elapsed: float, cpu: float
) -> CoapDone:
    ordered = sorted(latencies)

    def rank(share: float) -> float:
        return 1000 * ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0

    return CoapDone(
        answered=len(ordered),
        codes={f"{code >> 5}.{code & 31:02}": count for code, count in sorted(codes.items())},
        repeated=repeated,
        open=left,
        elapsed=elapsed,
        cpu=cpu,
        p50=rank(0.5),
        p99=rank(0.99),
        longest=rank(1.0),
    )


def _cpu() -> float:
    times = os.times()
    return times.user + times.system


def run(ask: Callable[[], str], tell: Callable[[dict[str, Any]], None], clock: Clock) -> None:
    """One plan, and rounds until the input ends. Raises CitysenseError."""
    try:
        flood = CoapFlood(CoapPlan.model_validate_json(ask()), clock=clock)
        try:
            flood.open()
            tell({"ready": True})
            while line := ask():
                tell(flood.play(CoapRound.model_validate_json(line)).model_dump())
        finally:
            flood.close()
    except ValidationError as e:
        raise SetupError(f"the flood's plan is wrong: {e}") from e


def _tell(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def main() -> int:
    """The process. Exit codes: 0 done, 1 failed; the sentence is on stdout as `failed` too."""
    end_with_parent(os.environ)
    try:
        run(sys.stdin.readline, _tell, SystemClock())
    except CitysenseError as e:
        _tell({"failed": str(e)})
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
