"""`citysense gateway qualify-broker`: how many acknowledged messages a broker loses when it is killed.

Owns the kill test and its figures. A publisher goes on until the kill and keeps every acknowledgement that it saw in a file of
its own; a subscriber with a session of its own is offline meanwhile. What was acknowledged and is not delivered after the
restart is lost: the broker's promise, measured. The finding is a number, not a verdict, so it ends with 0.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import shlex
import signal
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.table import Table

from citysense.cli.own_mosquitto import OwnMosquitto
from citysense.clock import Clock, SystemClock
from citysense.errors import SetupError, UpstreamError, WrongUse
from citysense.settings import refuse_unknown
from citysense_gateway.broker.inbound import Inbound
from citysense_gateway.broker.link import Link, LinkLost, LinkOptions, LinkRefused
from citysense_gateway.broker.options import PASSWORD, PROBES, PROTOCOLS, Account, parse_address, parse_probes
from citysense_gateway.broker.window import puback

EXAMPLE = """\
examples:
  citysense gateway qualify-broker                      Debian's mosquitto with the shipped configuration, 6 kills
  citysense gateway qualify-broker --kills 100 --json   figures for programs
  citysense gateway qualify-broker --broker mqtt://127.0.0.1:1883 --start 'mosquitto -c my.conf'

With --start it needs the accounts of a gateway: CITYSENSE_BROKER_PASSWORD, and CITYSENSE_BROKER_PROBES of which the first
one publishes. The command must stay in the foreground; it is killed. Never give it a broker that somebody uses.

exit codes:
  0  measured; the loss window is the finding
  1  the broker keeps no session over a kill, or the measurement failed
  2  wrong use
"""
MESSAGE = "qualify"
START_S = 60.0
QUIET_S = 30.0
"""For the marker behind the last message; a broker that restores a large queue needs some seconds."""
_MARKER = b"marker"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """One kill: messages acknowledged before it, found after the restart, and whether the broker knew the session."""

    acked: int
    found: int
    session: bool
    acked_per_s: float

    @property
    def lost(self) -> int:
        """Acknowledged and gone."""
        return self.acked - self.found


class Broker(Protocol):
    """A broker that may be killed."""

    def start(self) -> None:
        """Start it. Raises SetupError."""
        ...

    def kill(self) -> None:
        """SIGKILL."""
        ...


class ForeignBroker:
    """A broker started by somebody's command."""

    def __init__(self, command: str) -> None:
        self._command = shlex.split(command)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; who connects waits until it listens. Raises SetupError."""
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the user's own command, without a shell
                self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
            )
        except OSError as e:
            raise SetupError(f"--start: {self._command[0]} cannot be started ({e.strerror})") from e

    def kill(self) -> None:
        """Kill it and what it started."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How to reach the broker, as reader and as sender."""

    host: str
    port: int
    protocol: int
    reader: Account
    sender: Account

    @property
    def topic(self) -> str:
        """The sender's own."""
        return f"cs/v1/{self.sender.user}/up/{MESSAGE}"

    def options(self, account: Account, *, durable: bool) -> LinkOptions:
        """Of a connection."""
        return LinkOptions(
            host=self.host,
            port=self.port,
            client_id=f"citysense-qualify-{account.user}",
            account=account,
            tls=None,
            protocol=self.protocol,
            durable=durable,
        )


def add_parser(subparsers: Any) -> None:
    """Add `qualify-broker`."""
    parser = subparsers.add_parser(
        "qualify-broker",
        help="kill a broker and count the acknowledged messages it lost",
        description="Publish to a broker, kill it with SIGKILL, start it again, and count what it acknowledged and lost.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kills", type=int, default=6, metavar="N", help="how often (default 6)")
    parser.add_argument("--messages", type=int, default=300, metavar="N", help="acknowledged before each (default 300)")
    parser.add_argument(
        "--at-once",
        type=int,
        default=1,
        metavar="N",
        help="messages under way at a time (default 1, which shows a broker that saves just behind its acknowledgement)",
    )
    parser.add_argument("--protocol", choices=tuple(PROTOCOLS), default="5", help="version of MQTT (default 5)")
    parser.add_argument("--start", metavar="COMMAND", help="how to start the broker, in the foreground")
    parser.add_argument("--broker", metavar="URL", help="where that one listens: mqtt://127.0.0.1:port")
    parser.add_argument("--broker-user", default="gateway", metavar="NAME", help="the gateway's account there")
    parser.add_argument("--json", action="store_true", help="print figures as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; 1 if the broker never knew the session again."""
    if min(arguments.kills, arguments.messages, arguments.at_once) < 1:
        raise WrongUse("--kills, --messages and --at-once must be at least 1")
    if (arguments.start is None) != (arguments.broker is None):
        raise WrongUse("--start and --broker go together; one of them is missing")
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="citysense-qualify-") as name:
        folder = Path(name)
        broker, way = _foreign(arguments) if arguments.start else _own(folder, PROTOCOLS[arguments.protocol])
        test = KillTest(
            broker,
            way,
            ledger=folder / "acked",
            messages=arguments.messages,
            at_once=arguments.at_once,
            clock=SystemClock(),
        )
        kills = asyncio.run(test.run(arguments.kills, lambda text: console.print(text, style="dim")))
    if arguments.json:
        print(json.dumps(figures(kills)))
    else:
        _print(kills)
    return 0 if any(kill.session for kill in kills) else 1


def _own(folder: Path, protocol: int) -> tuple[Broker, Way]:
    reader, sender = Account(user="gateway", password="qualify"), Account(user="probe-a", password="qualify")  # noqa: S106
    broker = OwnMosquitto(folder / "broker", {one.user: one.password for one in (reader, sender)})
    broker.prepare()
    return broker, Way(host="127.0.0.1", port=broker.port, protocol=protocol, reader=reader, sender=sender)


def _foreign(arguments: argparse.Namespace) -> tuple[Broker, Way]:
    host, port, tls = parse_address(arguments.broker)
    if tls:
        raise WrongUse(
            "--broker: the kill test speaks in clear with a broker on this machine; write mqtt://127.0.0.1:port"
        )
    refuse_unknown(os.environ)
    if PROBES not in os.environ:
        raise SetupError(f"{PROBES} is not set; its first account publishes here (user:password,user:password)")
    reader = Account(user=arguments.broker_user, password=os.environ.get(PASSWORD, ""))
    way = Way(
        host=host,
        port=port,
        protocol=PROTOCOLS[arguments.protocol],
        reader=reader,
        sender=parse_probes(os.environ[PROBES])[0],
    )
    return ForeignBroker(arguments.start), way


class KillTest:
    """Kills of one broker, one after the other."""

    def __init__(self, broker: Broker, way: Way, *, ledger: Path, messages: int, at_once: int, clock: Clock) -> None:
        self._broker, self._way = broker, way
        self._at_once = at_once
        self._ledger = ledger
        self._messages = messages
        self._clock = clock
        self._came: set[bytes] = set()
        self._news = asyncio.Event()

    async def run(self, kills: int, say: Callable[[str], None]) -> list[Kill]:
        """All kills. Raises SetupError, UpstreamError."""
        done: list[Kill] = []
        try:
            await asyncio.to_thread(self._broker.start)
            for number in range(1, kills + 1):
                done.append(await self._kill(number))
                say(f"kill {number} of {kills}: {done[-1].acked} acknowledged, {done[-1].lost} lost")
        finally:
            await asyncio.to_thread(self._broker.kill)
        return done

    async def _kill(self, number: int) -> Kill:
        self._came = set()
        # The session is made, and stays behind without its reader.
        reader = await self._reader()
        reader.close()
        began = self._clock.monotonic()
        acked = await self._publish(number)
        seconds = self._clock.monotonic() - began
        await asyncio.to_thread(self._broker.start)
        reader = await self._reader()
        try:
            session = reader.session_present
            await self._drain(number)
        finally:
            reader.close()
        found = len(acked & self._came)
        return Kill(acked=len(acked), found=found, session=session, acked_per_s=len(acked) / seconds)

    async def _open(self, account: Account, *, durable: bool) -> Link:
        """A connection, as soon as the broker listens."""
        deadline = self._clock.monotonic() + START_S
        while True:
            try:
                return await self._link(account, durable=durable)
            except LinkRefused:
                raise
            except LinkLost as e:
                if self._clock.monotonic() > deadline:
                    raise UpstreamError(f"the broker did not come up within {START_S:.0f} s: {e}") from e
                await asyncio.sleep(0.1)

    async def _link(self, account: Account, *, durable: bool) -> Link:
        def note(messages: list[Inbound]) -> None:
            self._came.update(message.payload for message in messages)
            link.send(b"".join(puback(message.packet_id) for message in messages if message.packet_id))
            self._news.set()

        link = Link(self._way.options(account, durable=durable), note)
        await link.open()
        return link

    async def _reader(self) -> Link:
        link = await self._open(self._way.reader, durable=True)
        await link.subscribe([self._way.topic])
        return link

    async def _publish(self, number: int) -> set[bytes]:
        """Publish until enough is acknowledged and on record, then kill the broker at once; the acknowledged ones."""
        link = await self._open(self._way.sender, durable=False)
        acked: list[bytes] = []

        async def send(first: int) -> None:
            """Go on until enough of all senders' messages are acknowledged; whoever sees the last one kills at once, while
            others are under way."""
            for count in itertools.count(first, self._at_once):
                payload = b"%d/%d" % (number, count)
                reason = await link.publish(self._way.topic, payload)
                if reason.is_failure:
                    raise UpstreamError(f"the broker refuses {self._way.topic}: {reason}")
                acked.append(payload)
                if len(acked) == self._messages:
                    self._broker.kill()
                    self._record(acked)
                    return

        senders = await asyncio.gather(*(send(first) for first in range(self._at_once)), return_exceptions=True)
        link.close()
        for ended in senders:
            # The connection ends with the broker; anything else is no part of the test.
            if isinstance(ended, BaseException) and (len(acked) < self._messages or not isinstance(ended, LinkLost)):
                raise ended
        return set(self._ledger.read_bytes().split(b"\n"))

    def _record(self, acked: list[bytes]) -> None:
        with self._ledger.open("wb") as ledger:
            ledger.write(b"\n".join(acked))
            ledger.flush()
            os.fsync(ledger.fileno())

    async def _drain(self, number: int) -> None:
        """Wait for a marker that is published now: what the broker still has stands before it."""
        marker = b"%b %d" % (_MARKER, number)
        link = await self._open(self._way.sender, durable=False)
        try:
            await link.publish(self._way.topic, marker)
            async with asyncio.timeout(QUIET_S):
                while marker not in self._came:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError as e:
            raise UpstreamError(f"nothing came from the broker within {QUIET_S:.0f} s after its restart") from e
        finally:
            link.close()


def figures(kills: list[Kill]) -> dict[str, Any]:
    """For programs. `loss_window` is the most messages that one kill cost."""
    lost = [kill.lost for kill in kills]
    return {
        "kills": len(kills),
        "acked": sum(kill.acked for kill in kills),
        "found": sum(kill.found for kill in kills),
        "lost": sum(lost),
        "loss_window": max(lost),
        "loss_median": statistics.median(lost),
        "kills_with_loss": sum(1 for one in lost if one),
        "sessions_kept": sum(kill.session for kill in kills),
        "acked_per_s": round(statistics.median(kill.acked_per_s for kill in kills)),
    }


def _print(kills: list[Kill]) -> None:
    table = Table(title="acknowledged by the broker, killed, started again", title_justify="left")
    for column in ("kill", "acknowledged", "found", "lost", "session kept"):
        table.add_column(column, justify="right")
    for number, kill in enumerate(kills, 1):
        table.add_row(str(number), str(kill.acked), str(kill.found), str(kill.lost), "yes" if kill.session else "no")
    Console().print(table)
    found = figures(kills)
    print(
        f"loss window: at most {found['loss_window']} of {kills[0].acked} acknowledged messages a kill, {found['lost']} in"
        f" {found['kills']} kills; {found['acked_per_s']} acknowledged a second"
    )
    if not found["sessions_kept"]:
        print(
            "the broker keeps no session over a kill: switch its persistence on (gateway/broker holds a configuration)"
        )
