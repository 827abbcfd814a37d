"""The broker's and the DTLS door's places in the live view."""

from __future__ import annotations

import io
from pathlib import Path

import aiohttp
from rich.console import Console

from citysense.cli.live_view import Surroundings, draw
from citysense.cli.status_feed import broker_standing


def drawn(*, coaps: str, broker: str, standing: str) -> str:
    around = Surroundings(
        api="http://h",
        data=Path("data"),
        mqtt="mqtt://h:1883",
        coap="coap://h:5683",
        coaps=coaps,
        broker=broker,
        story="none",
        insecure=False,
        language="en",
    )
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(draw(None, around, uptime=1.0, restarts={}, speed=1.0, broker=standing))
    return console.export_text()


def test_broker_and_dtls_are_shown_where_there_are_any() -> None:
    text = drawn(coaps="coaps://h:5684", broker="mqtts://city:8883", standing="away")
    assert "mqtts://city:8883   away" in text
    assert "coap://h:5683   coaps://h:5684" in text


def test_neither_is_shown_without_one() -> None:
    text = drawn(coaps="", broker="", standing="")
    assert "broker" not in text
    assert "coaps" not in text


async def test_a_gateway_that_says_nothing_has_its_log_named(tmp_path: Path) -> None:
    async with aiohttp.ClientSession() as session:
        assert await broker_standing(session, tmp_path) == f"see {tmp_path}/logs/gateway.log"
