"""A flood of MQTT 3.1.1 publishes over many connections, from packets that are built beforehand: the load of benches.

Owns sockets, windows and counts of a sender that costs as little as Python can (about 5 us a message), because it shares
the machine with what is measured. It never publishes again, never reconnects once it runs and judges nothing. It runs as a
process of its own and speaks JSON lines:

    plan on stdin -> {"ready": true, ...} -> a round on stdin -> {"done": true, ...} -> another round ... -> end of stdin

Monotonic times are the machine's, so whoever asked can compare them with its own.
"""

from __future__ import annotations

import errno
import gc
import json
import os
import select
import socket
import struct
import sys
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from citysense.clock import Clock, SystemClock
from citysense.errors import CitysenseError, SetupError, UpstreamError
from citysense.parent import end_with_parent
from citysense_sim.mqtt_flood_packets import Template, connect_packet, packets

CONNECTING_AT_ONCE = 64
"""A listener's queue holds a hundred or so; more at once would be tried again a second later by the kernel."""
RETRY_S = 0.3
"""A door that admits at a bounded rate closes the rest; they come again after this."""
READ_SIZE = 65_536
DRAIN_S = 10.0
"""PUBACKs that take longer than this after the last publish are not waited for; they are counted as open."""


class FloodMember(BaseModel):
    """One connection: client id, user name and the topic that it publishes to."""

    model_config = ConfigDict(extra="forbid")

    device: str
    secret: str = ""
    topic: str


class FloodPlan(BaseModel):
    """Who connects where. `payload` may contain `{seq}`, `{t}` (ms since 1970) and `{value}`, each at most once; other
    braces stand for themselves. `seq` grows by one per message of a connection, over all rounds."""

    model_config = ConfigDict(extra="forbid")

    host: str
    port: int
    members: list[FloodMember] = Field(min_length=1)
    payload: str = '{"boot": 1, "seq": {seq}, "t": {t}, "v": {"water.level": {value}}}'
    connect_within: float = Field(60.0, gt=0)


class FloodRound(BaseModel):
    """One measured stretch. `rate` is messages a second over all connections (open model: each has its moment), 0 sends
    as fast as the windows allow. `window` bounds the messages of one connection without PUBACK. It ends after `seconds`
    or `count` messages, whichever comes first; `start_at` is a monotonic time, 0 is now."""

    model_config = ConfigDict(extra="forbid")

    rate: float = Field(0.0, ge=0)
    window: int = Field(20, ge=1, le=60_000)
    seconds: float = Field(gt=0)
    count: int = Field(2**62, ge=1)
    start_at: float = 0.0


class FloodDone(BaseModel):
    """What a round was. `elapsed` is from its start to the last PUBACK, `sending` to the last publish, both in seconds.

    `p50`, `p99` and `longest` are milliseconds from a message's moment to its PUBACK; `open` messages had none in time;
    `lost` connections broke, their open messages among them. `late` messages waited for their window at their moment.
    """

    done: bool = True
    sent: int
    acked: int
    open: int
    lost: int
    late: int
    elapsed: float
    sending: float
    cpu: float
    p50: float
    p99: float
    longest: float


class _Line:
    """One connection: its socket, what is on the wire and what waits for the window."""

    __slots__ = (
        "in_flight",
        "member",
        "next_id",
        "number",
        "out",
        "rest",
        "retry_at",
        "seq",
        "sock",
        "template",
        "up",
        "waiting",
    )

    def __init__(self, number: int, member: FloodMember, payload: str) -> None:
        self.number = number
        self.member = member
        self.template = Template(member.topic, payload)
        self.sock: socket.socket | None = None
        self.up = False
        self.retry_at = 0.0
        self.out = b""
        self.rest = b""
        self.seq = 0
        self.next_id = 1
        self.in_flight: dict[int, float] = {}  # packet id -> the message's moment
        self.waiting: deque[float] = deque()


class Flood:
    """`connect`, then any number of `play`, then `close`. One thread, one epoll."""

    def __init__(self, plan: FloodPlan, *, clock: Clock) -> None:
        self._plan, self._clock = plan, clock
        self._lines = [_Line(number, member, plan.payload) for number, member in enumerate(plan.members)]
        self._by_fd: dict[int, _Line] = {}
        self._poll: select.epoll | None = None
        self._latencies = array("d")
        self._window = 1
        self._saturated = False
        self._budget = 0
        self._sent = self._lost = self._late = self._open = 0

    # --- connecting

    def connect(self) -> int:
        """Connect everybody; the number of attempts that were turned away. Raises UpstreamError when time is up."""
        self._poll = select.epoll()
        deadline = self._clock.monotonic() + self._plan.connect_within
        missing = deque(self._lines)
        connecting: set[_Line] = set()
        turned_away = 0
        while missing or connecting:
            now = self._clock.monotonic()
            if now > deadline:
                raise UpstreamError(
                    f"{len(missing) + len(connecting)} of {len(self._lines)} connections to {self._plan.host}:"
                    f"{self._plan.port} were not let in within {self._plan.connect_within:.0f} s"
                )
            while missing and len(connecting) < CONNECTING_AT_ONCE and missing[0].retry_at <= now:
                line = missing.popleft()
                if self._open_line(line):
                    connecting.add(line)
                else:
                    turned_away += 1
                    missing.append(line)
            for fd, _ in self._poll.poll(0.02):
                line = self._by_fd[fd]
                answer = self._connack(line)
                if answer is None:
                    continue
                connecting.discard(line)
                if not answer:
                    turned_away += 1
                    self._drop(line)
                    line.retry_at = now + RETRY_S
                    missing.append(line)
        return turned_away

    def _open_line(self, line: _Line) -> bool:
        assert self._poll is not None
        try:
            sock = socket.create_connection((self._plan.host, self._plan.port), timeout=5)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.sendall(connect_packet(line.member.device, line.member.secret))
            sock.setblocking(False)
        except OSError:
            line.retry_at = self._clock.monotonic() + RETRY_S
            return False
        line.sock = sock
        self._by_fd[sock.fileno()] = line
        self._poll.register(sock, select.EPOLLIN)
        return True

    def _connack(self, line: _Line) -> bool | None:
        """True let in, False turned away for now, None nothing yet. Raises UpstreamError for wrong credentials."""
        data = self._receive(line)
        if data is None:
            return False
        line.rest += data
        for first, body, after in packets(line.rest):
            line.rest = line.rest[after:]
            if first == 0x20 and body[1:] == b"\x00":
                line.up = True
                return True
            if first == 0x20 and body[1:] in (b"\x04", b"\x05"):
                raise UpstreamError(
                    f"{self._plan.host}:{self._plan.port} refuses {line.member.device} (CONNACK {body[1]}); "
                    "give the flood the device's own password"
                )
            return False
        return None

    # --- a round

    def play(self, plan: FloodRound) -> FloodDone:
        """Send as planned and wait for the PUBACKs."""
        self._latencies = array("d")
        self._sent = self._lost = self._late = self._open = 0
        self._window, self._budget = plan.window, plan.count
        start = max(plan.start_at, self._clock.monotonic())
        self._wait_until(start)
        cpu = _cpu()
        end = start + plan.seconds
        if plan.rate:
            self._keep_rate(plan.rate, start, end)
        else:
            self._saturate(end)
        sending = self._clock.monotonic() - start
        self._drain()
        elapsed = self._clock.monotonic() - start
        return self._account(elapsed=elapsed, sending=sending, cpu=_cpu() - cpu)

    def _keep_rate(self, rate: float, start: float, end: float) -> None:
        lines, count, made = self._lines, len(self._lines), 0
        while True:
            now = self._clock.monotonic()
            due = min(int((min(now, end) - start) * rate), self._budget)
            now_ms = self._clock.now_ms()
            while made < due:
                line = lines[made % count]
                moment = start + made / rate
                made += 1
                if not line.up:
                    continue
                if line.waiting or len(line.in_flight) >= self._window:
                    self._late += 1
                    line.waiting.append(moment)
                else:
                    self._send(line, (moment,), now_ms)
            if now >= end or made >= self._budget:
                return
            self._turn(max(0.0, start + (made + 1) / rate - self._clock.monotonic()))

    def _saturate(self, end: float) -> None:
        self._saturated = True
        for line in self._lines:
            self._refill(line)
        while self._clock.monotonic() < end and self._sent < self._budget and any(line.up for line in self._lines):
            self._turn(0.1)
        self._saturated = False

    def _refill(self, line: _Line) -> None:
        """Send what the window allows: messages that waited for it, or new ones when saturated."""
        if not line.up:
            return
        free = self._window - len(line.in_flight)
        if self._saturated:
            free = min(free, self._budget - self._sent)
            if free > 0:
                self._send(line, (self._clock.monotonic(),) * free, self._clock.now_ms())
        elif line.waiting and free > 0:
            moments = [line.waiting.popleft() for _ in range(min(free, len(line.waiting)))]
            self._send(line, moments, self._clock.now_ms())

    def _send(self, line: _Line, moments: Sequence[float], now_ms: int) -> None:
        parts = [line.out] if line.out else []
        for moment in moments:
            number = line.next_id
            line.next_id = number % 65_535 + 1
            line.in_flight[number] = moment
            value = (line.seq * 7 + line.number) % 1000 / 10
            parts.append(line.template.packet(number.to_bytes(2, "big"), line.seq, now_ms, value))
            line.seq += 1
        self._sent += len(moments)
        had_rest = bool(line.out)
        line.out = b"".join(parts)
        self._flush(line, had_rest)

    def _flush(self, line: _Line, had_rest: bool) -> None:
        assert self._poll is not None
        assert line.sock is not None
        try:
            gone = line.sock.send(line.out)
        except BlockingIOError:
            gone = 0
        except OSError as e:
            if e.errno not in (errno.EPIPE, errno.ECONNRESET):
                raise
            self._drop(line)
            return
        line.out = line.out[gone:]
        if bool(line.out) != had_rest:
            self._poll.modify(line.sock, select.EPOLLIN | (select.EPOLLOUT if line.out else 0))

    def _turn(self, wait: float) -> None:
        assert self._poll is not None
        for fd, event in self._poll.poll(wait):
            line = self._by_fd[fd]
            if event & select.EPOLLOUT and line.out:
                self._flush(line, True)
            if line.up and event & ~select.EPOLLOUT:
                self._read(line)

    def _read(self, line: _Line) -> None:
        data = self._receive(line)
        if data is None:
            self._drop(line)
            return
        line.rest = line.rest + data if line.rest else data
        whole = len(line.rest) // 4 * 4
        if line.rest[:whole:4].count(b"\x40") * 4 == whole and line.rest[1:whole:4].count(b"\x02") * 4 == whole:
            numbers: Sequence[int] = struct.unpack(">" + "xxH" * (whole // 4), line.rest[:whole])
            line.rest = line.rest[whole:]
        else:
            numbers = self._pubacks_among_others(line)
        now = self._clock.monotonic()
        for number in numbers:
            moment = line.in_flight.pop(number, None)
            if moment is not None:
                self._latencies.append(now - moment)
        self._refill(line)

    @staticmethod
    def _pubacks_among_others(line: _Line) -> list[int]:
        numbers, used = [], 0
        for first, body, after in packets(line.rest):
            used = after
            if first == 0x40:
                numbers.append(int.from_bytes(body[:2], "big"))
        line.rest = line.rest[used:]
        return numbers

    def _drain(self) -> None:
        deadline = self._clock.monotonic() + DRAIN_S
        while any(line.in_flight or line.waiting for line in self._lines) and self._clock.monotonic() < deadline:
            self._turn(0.05)
        for line in self._lines:
            # Given up on: a late PUBACK must not count for the next round.
            self._open += len(line.in_flight)
            line.in_flight.clear()
            line.waiting.clear()

    def _account(self, *, elapsed: float, sending: float, cpu: float) -> FloodDone:
        ordered = sorted(self._latencies)

        def rank(share: float) -> float:
            return 1000 * ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0

        return FloodDone(
            sent=self._sent,
            acked=len(ordered),
            open=self._open,
            lost=self._lost,
            late=self._late,
            elapsed=elapsed,
            sending=sending,
            cpu=cpu,
            p50=rank(0.5),
            p99=rank(0.99),
            longest=rank(1.0),
        )

    # --- sockets

    def _receive(self, line: _Line) -> bytes | None:
        """What has come; None where the peer has gone."""
        assert line.sock is not None
        try:
            return line.sock.recv(READ_SIZE) or None
        except BlockingIOError:
            return b""
        except OSError as e:
            if e.errno not in (errno.EPIPE, errno.ECONNRESET):
                raise
            return None

    def _drop(self, line: _Line) -> None:
        assert self._poll is not None
        assert line.sock is not None
        if line.up:
            self._lost += 1
            self._open += len(line.in_flight)
        self._poll.unregister(line.sock)
        del self._by_fd[line.sock.fileno()]
        line.sock.close()
        line.sock, line.up, line.out, line.rest = None, False, b"", b""
        line.in_flight.clear()
        line.waiting.clear()

    def _wait_until(self, moment: float) -> None:
        while (left := moment - self._clock.monotonic()) > 0:
            self._turn(min(left, 0.1))

    def close(self) -> None:
        """Hang up."""
        for line in self._lines:
            if line.sock is not None:
                self._drop(line)
        if self._poll is not None:
            self._poll.close()


def run(ask: Callable[[], str], tell: Callable[[dict[str, Any]], None], clock: Clock) -> None:
    """One plan and its rounds. Raises CitysenseError."""
    try:
        plan = FloodPlan.model_validate_json(ask())
    except ValidationError as e:
        raise SetupError(f"the flood's plan is wrong: {e}") from e
    flood = Flood(plan, clock=clock)
    began = clock.monotonic()
    try:
        turned_away = flood.connect()
        gc.collect()
        gc.freeze()  # a collection over thousands of connections would make the sender late
        tell({"ready": True, "connect_s": clock.monotonic() - began, "turned_away": turned_away})
        while line := ask():
            try:
                measured = FloodRound.model_validate_json(line)
            except ValidationError as e:
                raise SetupError(f"the flood's round is wrong: {e}") from e
            tell(flood.play(measured).model_dump())
    finally:
        flood.close()


def _cpu() -> float:
    times = os.times()
    return times.user + times.system


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
