"""A native device behind the city's broker, as docs/broker.md has it: it keeps what has no receipt, and sends it again.

Owns what it made, what its receipts cover, and its connection. It believes no acknowledgement of the broker.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable

from citysense.cli.stack_api import GAUGE_MESSAGE, GAUGE_METRIC
from citysense.clock import Clock
from citysense_gateway.broker.inbound import Inbound
from citysense_gateway.broker.link import Link, LinkLost, LinkOptions
from citysense_gateway.broker.options import Account
from citysense_sim.ledger import Key, Sent

BOOT = 1
PACE_S = 0.2
RESEND_S = 2.5
"""A receipt that stands still for so long, while messages are kept: all of them are sent again."""
AGAIN_S = 0.1
_VALUES = 1_000


class Receipted:
    """The device's memory. `sent` is its book; `kept` is what no receipt covers."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.sent: list[Sent] = []
        self.kept: dict[int, bytes] = {}
        self.receipted = -1

    def make(self, now_ms: int) -> None:
        """One reading more, of a moment of its own."""
        seq = len(self.sent)
        time = max(now_ms, self.sent[-1].time + 1 if self.sent else 0)
        value = round(seq % _VALUES / 100, 2)
        self.sent.append(Sent(self.device, BOOT, seq, time, value))
        body = {"boot": BOOT, "seq": seq, "t": time, "v": {GAUGE_METRIC: value}}
        self.kept[seq] = json.dumps(body).encode()

    def take(self, receipts: Iterable[bytes]) -> bool:
        """Forget what they cover; true if they cover more than before."""
        before = self.receipted
        for receipt in receipts:
            told = json.loads(receipt)
            if told["boot"] == BOOT:
                self.receipted = max(self.receipted, told["seq"])
        for seq in range(before + 1, self.receipted + 1):
            self.kept.pop(seq, None)
        return self.receipted > before

    @property
    def acked(self) -> set[Key]:
        """What it was told is safe."""
        return {row.key for row in self.sent[: self.receipted + 1]}


class BrokerGauge:
    """`run` until cancelled; `making` may be switched off, then it only sends what it keeps."""

    def __init__(self, account: Account, *, port: Callable[[], int], host: str, protocol: int, clock: Clock) -> None:
        self.memory = Receipted(account.user)
        self.making = True
        self._account = account
        self._host, self._port, self._protocol = host, port, protocol
        self._clock = clock
        self._stood_since = clock.monotonic()

    async def run(self) -> None:
        """Connect, send, listen, and connect again."""
        while True:
            try:
                await self._session()
            except LinkLost:
                await asyncio.sleep(AGAIN_S)

    def _heard(self, messages: list[Inbound]) -> None:
        if self.memory.take(message.payload for message in messages):
            self._stood_since = self._clock.monotonic()

    async def _session(self) -> None:
        name = self._account.user
        options = LinkOptions(
            host=self._host,
            port=self._port(),
            client_id=name,
            account=self._account,
            tls=None,
            protocol=self._protocol,
            durable=False,
        )
        link = Link(options, self._heard)
        sent: set[int] = set()
        due = self._clock.monotonic()
        try:
            await link.open()
            await link.subscribe([f"cs/v1/{name}/ack"])
            while True:
                if self.making:
                    self.memory.make(self._clock.now_ms())
                if self._clock.monotonic() - self._stood_since > RESEND_S:
                    self._stood_since = self._clock.monotonic()
                    sent.clear()
                for seq in [seq for seq in self.memory.kept if seq not in sent]:
                    payload = self.memory.kept.get(seq)
                    if payload is not None:
                        await link.publish(f"cs/v1/{name}/up/{GAUGE_MESSAGE}", payload)
                        sent.add(seq)
                link.tick()
                due = max(due + PACE_S, self._clock.monotonic())
                await asyncio.sleep(due - self._clock.monotonic())
        finally:
            link.close()
