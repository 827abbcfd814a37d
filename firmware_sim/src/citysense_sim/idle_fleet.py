"""A fleet of MQTT connections that only stay: connects, pings in time, and comes back when it was hung up on.

Owns sockets, keep-alive and the manners of coming back (back-off with jitter, and the hint that a busy gateway gives with
MQTT 5). Publishes nothing and judges nothing. One epoll loop without a library layer, so that twenty thousand connections
cost little beside the gateway that is measured. Runs as a process of its own and speaks JSON lines:

    plan on stdin -> {"event": "online", ...} each time all are connected, {"event": "lost", ...} when the first of them
    was lost after that -> end of stdin ends it

Monotonic times are the machine's, so whoever asked can compare them with its own.
"""

from __future__ import annotations

import errno
import gc
import json
import os
import select
import socket
import sys
from collections.abc import Callable
from heapq import heappop, heappush
from random import Random
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from citysense.clock import Clock, SystemClock
from citysense.errors import CitysenseError, SetupError
from citysense.parent import end_with_parent
from citysense_sim.idle_packets import PINGREQ, Answer, Incomplete, connect_packet, read_answer

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 16.0
"""Back-off after the n-th failure in a row, unless the plan says otherwise: a random part of 1, 2, 4 ... 16 s. A fleet
that lost its gateway at one moment must not come back at one moment."""
ANSWER_S = 20.0
"""CONNACK takes no longer, or the attempt is given up: a gateway that is being restarted may never answer."""
CONNECTS_PER_TURN = 64
"""New sockets in one turn of the loop; between them the open ones are served."""
_WAITING, _CONNECTING, _ASKED, _ONLINE = range(4)


class IdlePlan(BaseModel):
    """Who stays connected where. Device ids are `prefix` and a number of five digits from `first` on; even ones speak
    MQTT 5, the others 3.1.1, which has no room for a hint. Connections leave from 127.0.0.2 on, `addresses` of them by
    turns."""

    model_config = ConfigDict(extra="forbid")

    host: str
    port: int
    prefix: str
    first: int = Field(0, ge=0)
    count: int = Field(ge=1, le=50_000)
    secret: str
    keep_alive: int = Field(300, ge=2, le=65_535)
    addresses: int = Field(4, ge=1, le=200)
    seed: int = 1
    spread: float = Field(10.0, ge=0)
    """The first connects are spread over this many seconds."""
    first_wait: float = Field(FIRST_WAIT_S, gt=0)
    longest_wait: float = Field(LONGEST_WAIT_S, gt=0)


class _Peer:
    """One connection, open or to be."""

    __slots__ = ("failures", "inbox", "index", "keep_alive", "sock", "state", "turn")

    def __init__(self, index: int) -> None:
        self.index = index
        self.state = _WAITING
        self.sock: socket.socket | None = None
        self.inbox = b""
        self.failures = 0
        self.keep_alive = 0
        self.turn = 0
        """Counts changes of state, so that a timer of before is known to be stale."""


class IdleFleet:
    """All connections of one plan. `tell` is given the events."""

    def __init__(self, plan: IdlePlan, *, clock: Clock, chance: Random, tell: Callable[[dict[str, Any]], None]) -> None:
        self._plan = plan
        self._clock = clock
        self._chance = chance
        self._tell = tell
        self._peers = [_Peer(index) for index in range(plan.count)]
        self._by_fd: dict[int, _Peer] = {}
        self._timers: list[tuple[float, int, int]] = []
        self._online = 0
        self._complete = False
        self._attempts = self._refused = self._hinted = self._broken = 0
        self._epoll: select.epoll

    def run(self, stop_fd: int) -> None:
        """Until `stop_fd` can be read (its end included)."""
        with select.epoll() as self._epoll:
            self._epoll.register(stop_fd, select.EPOLLIN)
            now = self._clock.monotonic()
            for peer in self._peers:
                self._set_timer(peer, now + self._chance.random() * self._plan.spread)
            try:
                while self._turn(stop_fd):
                    pass
            finally:
                for peer in self._peers:
                    if peer.sock is not None:
                        peer.sock.close()

    def _turn(self, stop_fd: int) -> bool:
        wait = max(0.0, self._timers[0][0] - self._clock.monotonic()) if self._timers else 1.0
        for fd, events in self._epoll.poll(wait, 1024):
            if fd == stop_fd:
                return False
            peer = self._by_fd.get(fd)
            if peer is not None:
                self._serve(peer, events)
        self._run_timers()
        return True

    def _run_timers(self) -> None:
        now = self._clock.monotonic()
        connects = 0
        while self._timers and self._timers[0][0] <= now and connects < CONNECTS_PER_TURN:
            _, index, turn = heappop(self._timers)
            peer = self._peers[index]
            if turn != peer.turn:
                continue
            if peer.state == _WAITING:
                connects += 1
                self._connect(peer)
            elif peer.state == _ONLINE:
                self._send(peer, PINGREQ)
                if peer.state == _ONLINE:
                    self._set_timer(peer, now + peer.keep_alive)
            else:
                self._lose(peer)

    def _set_timer(self, peer: _Peer, due: float) -> None:
        heappush(self._timers, (due, peer.index, peer.turn))

    def _enter(self, peer: _Peer, state: int) -> None:
        peer.state = state
        peer.turn += 1

    def _version(self, peer: _Peer) -> int:
        return 4 if (self._plan.first + peer.index) % 2 else 5

    # --- one connection

    def _connect(self, peer: _Peer) -> None:
        self._attempts += 1
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        # The port is then chosen with the destination known, so one address can be used for more than one connection.
        sock.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
        peer.sock, peer.inbox = sock, b""
        self._enter(peer, _CONNECTING)
        try:
            sock.bind((f"127.0.0.{2 + peer.index % self._plan.addresses}", 0))
            code = sock.connect_ex((self._plan.host, self._plan.port))
        except OSError:
            self._lose(peer)
            return
        if code not in (0, errno.EINPROGRESS):
            self._lose(peer)
            return
        self._by_fd[sock.fileno()] = peer
        self._epoll.register(sock.fileno(), select.EPOLLOUT)
        self._set_timer(peer, self._clock.monotonic() + ANSWER_S)

    def _serve(self, peer: _Peer, events: int) -> None:
        assert peer.sock is not None
        if peer.state == _CONNECTING:
            if peer.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self._lose(peer)
                return
            self._epoll.modify(peer.sock.fileno(), select.EPOLLIN)
            self._enter(peer, _ASKED)
            self._set_timer(peer, self._clock.monotonic() + ANSWER_S)
            device = f"{self._plan.prefix}{self._plan.first + peer.index:05}"
            packet = connect_packet(self._version(peer), device, self._plan.secret, self._plan.keep_alive)
            self._send(peer, packet)
            return
        try:
            data = peer.sock.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._hear(peer, peer.inbox + data)
        else:
            self._lose(peer)

    def _send(self, peer: _Peer, packet: bytes) -> None:
        assert peer.sock is not None
        try:
            peer.sock.send(packet)
        except OSError:
            self._lose(peer)

    def _hear(self, peer: _Peer, data: bytes) -> None:
        """Take the packets in `data`: CONNACK first, then whatever else comes; only a refusal and the end matter."""
        while data and peer.sock is not None:
            try:
                answer, data = read_answer(data, self._version(peer))
            except Incomplete:
                break
            if peer.state == _ASKED:
                self._answered(peer, answer)
        peer.inbox = data

    def _answered(self, peer: _Peer, answer: Answer) -> None:
        if answer.refused:
            self._refused += 1
            self._lose(peer, hint=answer.retry_after)
            return
        peer.failures = 0
        # Half of what was promised, as clients on radio do: one lost ping then costs no connection.
        peer.keep_alive = max(1, (answer.keep_alive or self._plan.keep_alive) // 2)
        self._enter(peer, _ONLINE)
        self._online += 1
        # The first ping at a random moment, so that those who came together do not ping together.
        self._set_timer(peer, self._clock.monotonic() + self._chance.random() * peer.keep_alive)
        if self._online == self._plan.count:
            self._complete = True
            self._say("online")

    def _lose(self, peer: _Peer, *, hint: float | None = None) -> None:
        assert peer.sock is not None
        self._by_fd.pop(peer.sock.fileno(), None)
        peer.sock.close()
        peer.sock = None
        if peer.state == _ONLINE:
            self._online -= 1
            if self._complete:
                self._complete = False
                self._say("lost")
        elif hint is None:
            self._broken += 1
        self._enter(peer, _WAITING)
        bound = min(self._plan.longest_wait, self._plan.first_wait * 2 ** min(peer.failures, 16))
        peer.failures += 1
        wait = bound * self._chance.random()
        if hint is not None:
            self._hinted += 1
            # The gateway has jittered it already; a little more keeps those apart who were told the same second.
            wait = hint + self._chance.random()
        self._set_timer(peer, self._clock.monotonic() + wait)

    def _say(self, event: str) -> None:
        self._tell(
            {
                "event": event,
                "at": self._clock.monotonic(),
                "attempts": self._attempts,
                "refused": self._refused,
                "hinted": self._hinted,
                "broken": self._broken,
            }
        )


_BIND_ADDRESS_NO_PORT = 24
"""IP_BIND_ADDRESS_NO_PORT of Linux; Python's socket module does not name it."""


def run(line: str, tell: Callable[[dict[str, Any]], None], stop_fd: int, clock: Clock) -> None:
    """Keep the plan in `line` until `stop_fd` can be read. Raises SetupError for a plan that cannot be read."""
    try:
        plan = IdlePlan.model_validate_json(line)
    except ValidationError as e:
        raise SetupError(f"the plan is wrong: {e}") from e
    fleet = IdleFleet(plan, clock=clock, chance=Random(plan.seed), tell=tell)
    gc.freeze()
    fleet.run(stop_fd)


def _tell(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def main() -> int:
    """The process. Exit codes: 0 done, 1 failed; the sentence is on stdout as `failed` too."""
    end_with_parent(os.environ)
    try:
        run(sys.stdin.readline(), _tell, sys.stdin.fileno(), SystemClock())
    except (CitysenseError, OSError) as e:
        _tell({"failed": str(e)})
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
