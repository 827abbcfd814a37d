"""What the gateway asks of the platform over HTTP, and its errors as ours.

Owns one HTTP session and the addresses of the ingest interface. A call either gives what was asked for, or raises
`Unreachable` (worth another try later) or `BatchRefused` (not this request as a whole). Does not try again itself.
"""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import TypeVar

import aiohttp
import msgspec

from citysense import wire
from citysense.errors import Refused, UpstreamError
from citysense.pinned_tls import pinned
from citysense_gateway.traffic import Traffic
from citysense_profiles.reading import ReadingClass

POST_S = 5.0
"""A request that hangs in a dead connection holds its lane up for as long; the platform answers within milliseconds, and for a
slow link the lanes send less at once."""
CONNECTIONS = 16
"""Two requests for each of three lanes, three polls, heartbeat and outcomes, and room."""
POLL_S = 25.0 + 10.0
"""The platform answers a poll after 25 s at the latest."""
LONGEST_WAIT_S = 30.0
"""However long the platform asks us to wait: it may be well again sooner than it thought."""
_REFUSED = frozenset({400, 413, 415, 422})
"""Answers that speak of the body itself; every other one is about the platform's or our own state."""
_MEDIA = "application/msgpack"

T = TypeVar("T")


class Unreachable(UpstreamError):
    """No useful answer. `retry_after` in seconds where the platform said so."""

    def __init__(self, text: str, *, retry_after: float | None = None) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class TooSlow(Unreachable):
    """No answer in time: the platform hangs, or the link is too slow for what was sent."""


class BatchRefused(Refused):
    """The platform, or something before it, will not take this request as a whole. `status` is that of HTTP."""

    def __init__(self, text: str, *, status: int) -> None:
        super().__init__(text)
        self.status = status


class PlatformClient:
    """The ingest interface of one platform. Use as an asynchronous context manager.

    `traffic` counts the calls by kind: the name of a lane, heartbeat, roster, orders, outcomes.
    """

    def __init__(self, url: str, token: str, *, certificate: Path | None = None) -> None:
        self._url = url.rstrip("/")
        self._token = token
        self._certificate = certificate
        self._tls: ssl.SSLContext | None = None
        self._session: aiohttp.ClientSession | None = None
        self.traffic = Traffic()
        self._answers = msgspec.msgpack.Decoder(wire.Answer)
        self._rosters = msgspec.msgpack.Decoder(wire.Roster)
        self._orders = msgspec.msgpack.Decoder(wire.Orders)

    async def __aenter__(self) -> PlatformClient:
        self._tls = pinned(self._certificate) if self._certificate is not None else None
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=CONNECTIONS, ssl=True if self._tls is None else self._tls),
            auto_decompress=False,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session is not None
        await self._session.close()
        self._session = None

    def use_token(self, token: str) -> bool:
        """Show this token from the next call on; False where it is the one in use."""
        changed, self._token = token != self._token, token
        return changed

    def trust_again(self) -> None:
        """Trust what the certificate's file holds now, as well. Raises SetupError."""
        if self._certificate is None or self._tls is None:
            return
        pinned(self._certificate)  # says what is wrong with the file, if something is
        self._tls.load_verify_locations(cafile=self._certificate)

    async def submit(self, lane: ReadingClass, batch: wire.Batch) -> wire.Answer:
        """Hand over a batch; the answer comes after the platform's commit."""
        _, body = await self._call(lane.value, "POST", f"/ingest/v1/{lane.value}", body=wire.encode(batch))
        return _decoded(self._answers, body)

    async def heartbeat(self, sign: wire.Heartbeat) -> None:
        """Give a sign of life."""
        await self._call("heartbeat", "POST", "/ingest/v1/heartbeat", body=wire.encode(sign))

    async def roster(self, version: int) -> wire.Roster | None:
        """The roster as soon as it is another than `version`; None when the poll ran out."""
        status, body = await self._call("roster", "GET", f"/ingest/v1/roster?version={version}", within=POLL_S)
        return None if status == 204 else _decoded(self._rosters, body)

    async def orders(self, after: int, *, wait: bool = True) -> list[wire.Order]:
        """Orders with numbers above `after`, as soon as there are some; none when the poll ran out, or when there are none
        yet and nobody wants to `wait`."""
        path = f"/ingest/v1/orders?after={after}" if wait else f"/ingest/v1/orders?after={after}&wait=0"
        status, body = await self._call("orders", "GET", path, within=POLL_S)
        return [] if status == 204 else _decoded(self._orders, body).orders

    async def outcomes(self, outcomes: list[wire.Outcome]) -> None:
        """Tell what became of orders; returns after the platform's commit."""
        await self._call("outcomes", "POST", "/ingest/v1/outcomes", body=wire.encode(wire.Outcomes(outcomes=outcomes)))

    async def _call(
        self, kind: str, method: str, path: str, *, within: float = POST_S, body: bytes | None = None
    ) -> tuple[int, bytes]:
        calls, clock = self.traffic.calls[kind], asyncio.get_running_loop().time
        began = clock()
        calls.begun += 1
        try:
            answer = await self._exchange(method, path, within=within, body=body)
        except (Unreachable, BatchRefused):
            calls.failed += 1
            raise
        calls.worked(began=began, now=clock())
        return answer

    async def _exchange(self, method: str, path: str, *, within: float, body: bytes | None) -> tuple[int, bytes]:
        assert self._session is not None, "enter the client first"
        try:
            async with self._session.request(
                method,
                self._url + path,
                data=body,
                headers=self._headers(body is not None),
                timeout=aiohttp.ClientTimeout(total=within),
                allow_redirects=False,
            ) as answer:
                status, content = answer.status, await answer.read()
                retry_after = answer.headers.get("Retry-After", "")
        except TimeoutError as e:
            raise TooSlow(f"{self._url} did not answer within {within:.0f} s") from e
        except (aiohttp.ClientError, OSError) as e:
            raise Unreachable(f"{self._url} cannot be reached ({e})") from e
        if status in (200, 204):
            return status, content
        if status in _REFUSED:
            raise BatchRefused(f"{status}: {_words(content)}", status=status)
        raise Unreachable(_explain(self._url, status, content), retry_after=_seconds(retry_after))

    def _headers(self, with_body: bool) -> dict[str, str]:
        credential = {"Authorization": f"Bearer {self._token}"}
        return {**credential, "Content-Type": _MEDIA} if with_body else credential


def _decoded(decoder: msgspec.msgpack.Decoder[T], body: bytes) -> T:
    try:
        return decoder.decode(body)
    except msgspec.DecodeError as e:
        raise Unreachable(f"the platform's answer cannot be read ({e}); are both of the same version?") from e


def _explain(url: str, status: int, content: bytes) -> str:
    if status == 401:
        return f"{url} does not know our token (401); is gateway-token the one that the platform was started with?"
    if status == 403:
        return f"{url} does not let this gateway submit (403); look at its registration"
    return f"{url} answered {status}: {_words(content)}"


def _words(content: bytes) -> str:
    return content[:300].decode("utf-8", errors="replace").strip() or "without a word"


def _seconds(retry_after: str) -> float | None:
    """Only the form in seconds; the form as a date would hang on two clocks."""
    return min(float(retry_after), LONGEST_WAIT_S) if retry_after.isdigit() else None
