"""One InfluxDB server over HTTP: which one is meant, is it there, take lines, answer a query.

Owns the two ways of writing (1.x: `/write` through aiohttp; 2.x and 3.x: `/api/v2/write` through influxdb-client) and
turns each answer into a word of ours. Must not decide what to do about it.
"""

from __future__ import annotations

import gzip
import logging
from dataclasses import dataclass
from enum import Enum
from urllib.parse import parse_qs, urlsplit

import aiohttp
from influxdb_client.client.influxdb_client_async import InfluxDBClientAsync
from influxdb_client.rest import ApiException

from citysense.errors import SetupError
from citysense_platform.store import influx_queries
from citysense_platform.store.port import StoreUnavailable

log = logging.getLogger(__name__)

TIMEOUT_S = 30.0
"""A write of 5,000 lines takes milliseconds; a server that needs longer than this is down for us."""
FORM = "http://HOST:8086?db=citysense for InfluxDB 1.x, http://HOST:8086?org=ORG&bucket=BUCKET for 2.x and 3.x"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Which server and where in it. `org` and `bucket` are set for 2.x and 3.x, `database` always (for queries)."""

    base: str
    database: str
    org: str = ""
    bucket: str = ""
    token: str = ""


class Outcome(Enum):
    """What a server said to a batch of lines."""

    STORED = "stored"
    REFUSED = "refused"
    """At least one line is not acceptable, and will never be."""
    TOO_LARGE = "too_large"


def parse_target(url: str, token: str = "") -> Target:
    """The server that `--influx URL` means. `token` comes from the environment: an API token, or `user:password` for 1.x.

    Raises SetupError.
    """
    parts = urlsplit(url)
    if parts.username or parts.password:
        raise SetupError(
            "--influx: a password in the URL would be seen by everyone; put user:password into CITYSENSE_INFLUX_TOKEN"
        )
    try:
        port = parts.port or 8086
    except ValueError as e:
        raise SetupError(f"--influx {url!r}: {e}; write {FORM}") from e
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
        raise SetupError(f"--influx {url!r} is not understood; write {FORM}")
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    base = f"{parts.scheme}://{host}:{port}"
    match sorted(query):
        case ["db"]:
            return Target(base=base, database=query["db"], token=token)
        case ["bucket", "org"]:
            return Target(base=base, database=query["bucket"], org=query["org"], bucket=query["bucket"], token=token)
    raise SetupError(f"--influx {url!r} does not say where in the server; write {FORM}")


class InfluxServer:
    """Connections to one server. Create and use it inside a running event loop, after `open`."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._session: aiohttp.ClientSession | None = None
        self._client: InfluxDBClientAsync | None = None
        self._ready = False
        self.version = ""
        """What the server calls itself; empty until it was reached."""

    async def open(self) -> None:
        """Make the connection pools; asks nothing yet."""
        target = self._target
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        self._session = aiohttp.ClientSession(base_url=target.base, timeout=timeout, headers=_authorization(target))
        if target.bucket:
            self._client = InfluxDBClientAsync(
                url=target.base, token=target.token, org=target.org, timeout=int(TIMEOUT_S * 1000), enable_gzip=True
            )

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.close()  # type: ignore[no-untyped-call]  # the library's
            self._client = None
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def prepare(self) -> None:
        """Once per connection: see that it is a server of the right kind, and make the database in 1.x.

        Raises StoreUnavailable when it cannot be reached, SetupError when it is of the wrong kind.
        """
        if self._ready:
            return
        status, _, headers = await self._request("GET", "/ping", {})
        version = headers.get("X-Influxdb-Version", "")
        if status not in (200, 204):
            raise StoreUnavailable(f"{self._target.base} answered {status} to /ping; is it an InfluxDB?")
        if self._target.bucket and version.removeprefix("v").startswith("1."):
            raise SetupError(
                f"{self._target.base} is InfluxDB {version}, which has databases, not buckets;"
                f" write --influx '{self._target.base}?db=citysense'"
            )
        if not self._target.bucket:
            statement = influx_queries.create_database(self._target.database)
            self._check(*await self._request("POST", "/query", {"q": statement}))
        self.version = version
        self._ready = True

    async def _greet(self) -> None:
        """`prepare` while running: a server that came back as another kind does not end the process."""
        try:
            await self.prepare()
        except SetupError as e:
            raise StoreUnavailable(str(e)) from e

    async def write(self, lines: bytes) -> tuple[Outcome, str]:
        """Send lines (ms precision), gzipped; the server's words beside the outcome. Raises StoreUnavailable."""
        await self._greet()
        status, words, retry_after = await (
            self._write_v2(lines) if self._client is not None else self._write_v1(lines)
        )
        if status in (200, 204):
            return Outcome.STORED, ""
        if status in (400, 422):
            return Outcome.REFUSED, words
        if status == 413:
            return Outcome.TOO_LARGE, words
        if status == 404:
            self._ready = False  # the database was dropped while we were connected
        raise StoreUnavailable(_complaint(self._target, status, words), retry_after=retry_after)

    async def _write_v1(self, lines: bytes) -> tuple[int, str, float | None]:
        # Level 1 leaves a sixth of the bytes; level 6 saves an eighth of that for four times the processor time.
        body = gzip.compress(lines, compresslevel=1)
        parameters = {"db": self._target.database, "precision": "ms"}
        status, answer, headers = await self._request("POST", "/write", parameters, body)
        return status, _words(answer, headers), _seconds(headers.get("Retry-After"))

    async def _write_v2(self, lines: bytes) -> tuple[int, str, float | None]:
        assert self._client is not None
        try:
            stored = await self._client.write_api().write(
                bucket=self._target.bucket,
                record=lines,
                write_precision="ms",  # type: ignore[arg-type]  # the library's constants are plain str, too
            )
        except ApiException as e:
            return int(e.status), str(e.message), _seconds(e.retry_after)
        except (aiohttp.ClientError, TimeoutError, OSError) as e:
            raise StoreUnavailable(f"InfluxDB at {self._target.base} cannot be reached: {_said(e)}") from e
        return (204 if stored else 500), "", None

    async def query(self, statements: str) -> influx_queries.Reply:
        """Answers of InfluxQL statements, times in ms. Raises StoreUnavailable."""
        await self._greet()
        parameters = {"db": self._target.database, "q": statements, "epoch": "ms"}
        answer = await self._request("GET", "/query", parameters)
        self._check(*answer)
        return influx_queries.parse_reply(answer[1])

    def _check(self, status: int, answer: bytes, headers: dict[str, str]) -> None:
        if status != 200:
            raise StoreUnavailable(
                _complaint(self._target, status, _words(answer, headers)),
                retry_after=_seconds(headers.get("Retry-After")),
            )

    async def _request(
        self, method: str, path: str, parameters: dict[str, str], body: bytes | None = None
    ) -> tuple[int, bytes, dict[str, str]]:
        if self._session is None:
            raise StoreUnavailable("the connection to InfluxDB is closed")
        headers = {"Content-Encoding": "gzip"} if body is not None else {}
        try:
            async with self._session.request(method, path, params=parameters, data=body, headers=headers) as response:
                return response.status, await response.read(), dict(response.headers)
        except (aiohttp.ClientError, TimeoutError, OSError) as e:
            raise StoreUnavailable(f"InfluxDB at {self._target.base} cannot be reached: {_said(e)}") from e


def _authorization(target: Target) -> dict[str, str]:
    if not target.token:
        return {}
    if target.bucket:
        return {"Authorization": f"Token {target.token}"}
    user, _, password = target.token.partition(":")
    return {"Authorization": aiohttp.encode_basic_auth(user, password, "utf-8")}


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__


def _words(answer: bytes, headers: dict[str, str]) -> str:
    return (answer.decode("utf-8", "replace").strip() or headers.get("X-Influxdb-Error", ""))[:1000]


def _complaint(target: Target, status: int, words: str) -> str:
    if status in (401, 403):
        return f"InfluxDB at {target.base} refuses our credential ({status} {words}); set CITYSENSE_INFLUX_TOKEN"
    if status == 404:
        return f"InfluxDB at {target.base} knows no {target.database!r} ({words})"
    return f"InfluxDB at {target.base} answered {status} {words}"


def _seconds(retry_after: str | None) -> float | None:
    """Seconds of a Retry-After header; a date counts as none, our own back-off is good enough then."""
    return float(retry_after) if retry_after is not None and retry_after.strip().isdigit() else None
