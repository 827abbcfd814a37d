"""How often a separate reply is repeated: whoever has not shown that it receives where it says may draw three times its bytes."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any, cast

import pytest
from aiocoap import Message
from aiocoap.numbers.codes import POST, UNAUTHORIZED
from aiocoap.numbers.types import CON

from citysense.clock import SystemClock
from citysense_gateway.coap import exchanges
from citysense_gateway.coap.amplification import FACTOR
from citysense_gateway.coap.exchanges import MAX_RETRANSMIT, Exchanges, Request
from citysense_gateway.coap.transport import DatagramCounters, Peer


class Sent:
    """A peer that never acknowledges."""

    key, name = ("udp", 1), "192.0.2.1:5683"

    def __init__(self) -> None:
        self.data: list[bytes] = []

    def send(self, data: bytes) -> None:
        self.data.append(data)


def datagram(token: bytes, payload: bytes) -> bytes:
    message = Message(code=POST, payload=payload, _mtype=CON, _mid=7, _token=token)
    return cast(bytes, message.encode())


@pytest.mark.parametrize("verified", [False, True])
async def test_a_forged_source_draws_no_more_than_three_times_its_bytes(
    monkeypatch: pytest.MonkeyPatch, verified: bool
) -> None:
    monkeypatch.setattr(exchanges, "ACK_TIMEOUT", 0.001)
    requests: list[Request] = []
    layer = Exchanges(serve=requests.append, clock=SystemClock(), random=Random(1), counters=DatagramCounters())
    peer = Sent()
    came = [datagram(b"A", b"x"), datagram(b"B", b"x")]
    try:
        for data in came:
            # The second takes the message id of the first, whose reply then needs one of its own.
            layer.received(data, cast(Peer, cast(Any, peer)))
        for request in requests:
            request.verified = verified
            request.reply(Message(code=UNAUTHORIZED, payload=b"0123456789"))
        await asyncio.sleep(0.2)
    finally:
        layer.close()
    if verified:
        assert len(peer.data) == 1 + 1 + MAX_RETRANSMIT
    else:
        assert sum(map(len, peer.data)) <= FACTOR * sum(map(len, came))
        assert len(peer.data) == 2
