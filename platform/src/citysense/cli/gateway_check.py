"""`citysense gateway check`: is everything in order that a gateway needs, before it starts or while it runs?

Owns the checks, each of which says what it found and what to do. It reads only: no folder, key or file is made, no port
is kept, and a running gateway is not disturbed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import socket
import sqlite3
import ssl
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from citysense import record_format
from citysense.cli.data_folder import LEAST_FREE_BYTES
from citysense.cli.ports import problem_with
from citysense.cli.programs import api_url, wanted_ports
from citysense.cli.running_gateway import Started, command_of, started_with
from citysense.cli.text_table import folded, screen_width
from citysense.errors import CitysenseError, SetupError, StorageError
from citysense.lane_account import ACCOUNTS, CLASSES, accounts
from citysense.pinned_tls import pinned
from citysense.settings import Settings, load_settings
from citysense.single_writer import open_for_reading
from citysense_gateway.broker.options import parse_address
from citysense_gateway.folder_lock import Holder, holder_of
from citysense_profiles.catalogue import load_catalogue
from citysense_profiles.errors import ProfileError

EXAMPLE = """\
examples:
  citysense gateway check                     the gateway of ./data, with the settings in force
  citysense gateway check --data /srv/city    another folder
"""
OK, WARN, FAIL = "ok", "warn", "fail"
SOON_DAYS = 30
"""A certificate that ends within a month: time enough to order a new one."""
CONNECT_S = 3.0
MOST_READ = 200_000
"""Records whose check sums are looked at; a second or two. A gateway looks at each one again when it reads it."""
CHUNK = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the table: what was looked at, ok, warn or fail, what was found, and what to do about it."""

    what: str
    state: str
    found: str
    do: str = ""


def add_parser(commands: Any) -> None:
    """Add `check`."""
    parser = commands.add_parser(
        "check",
        help="is everything in order that a gateway needs",
        description="Look at settings, certificate, profiles, data folder, spool, ports, platform and broker. Changes nothing.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", default=None, metavar="DIR", help="folder of the gateway")
    parser.add_argument("--profiles", type=Path, default=None, metavar="DIR", help="a city's own profiles, checked too")
    parser.add_argument("--config", type=Path, metavar="FILE", help="read this file instead of ./citysense.toml")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the table; 1 if anything failed."""
    flags = {"data": arguments.data} if arguments.data is not None else {}
    try:
        settings, _ = load_settings(flags, os.environ, arguments.config)
    except SetupError as e:
        findings = [Finding(what="settings", state=FAIL, found=str(e).rstrip("."), do="correct this setting")]
    else:
        findings = [Finding(what="settings", state=OK, found=f"data in {settings.data.absolute()}")]
        findings += check_all(settings, arguments.profiles or settings.profiles, datetime.now(UTC))
    if arguments.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2, ensure_ascii=False))
    else:
        for line in table(findings):
            print(line)
    return 1 if any(finding.state == FAIL for finding in findings) else 0


def table(findings: list[Finding]) -> list[str]:
    """The findings as aligned lines."""
    rows = [
        (finding.state, finding.what, finding.found + (f": {finding.do}" if finding.do else "")) for finding in findings
    ]
    return [line for lines in folded(("", "part", "found"), rows, screen_width()) for line in lines]


def check_all(settings: Settings, profiles: Path | None, now: datetime) -> list[Finding]:
    """Every check, in the order in which a start would meet what they look at."""
    holder = holder_of(settings.data)
    running: list[Finding] = []
    if holder is not None and (started := _started(holder, settings)) is not None:
        running = list(other_options(started, holder.pid))
        settings, profiles = started.settings, started.settings.profiles or profiles
    findings = [*certificate(settings, now), check_profiles(profiles), *folder(settings.data), process(holder)]
    findings += running
    findings += spool(settings.data / "spool.db")
    findings += ports(settings, holder)
    findings.append(asyncio.run(platform(settings)))
    findings += broker(settings)
    return findings


def _started(holder: Holder, settings: Settings) -> Started | None:
    command = command_of(holder.pid)
    return None if command is None else started_with(*command, settings)


def other_options(started: Started, pid: int) -> Iterator[Finding]:
    """What the running gateway was told otherwise than the settings here say."""
    if started.differences:
        yield Finding(
            what="gateway",
            state=WARN,
            found=f"pid {pid} was started with other options, which are checked here: {', '.join(started.differences)}",
            do="its next start takes the settings then in force",
        )


def certificate(settings: Settings, now: datetime) -> list[Finding]:
    """Certificate and key: readable, made for each other, in force."""
    if settings.tls_cert is None or settings.tls_key is None:
        return [Finding(what="certificate", state=OK, found="none is configured; devices speak in clear on loopback")]
    try:
        shown = x509.load_pem_x509_certificate(settings.tls_cert.read_bytes())
        key = load_pem_private_key(settings.tls_key.read_bytes(), password=None)
    except OSError as e:
        return [Finding(what="certificate", state=FAIL, found=str(e), do="look at tls_cert and tls_key")]
    except (ValueError, TypeError):
        said = f"{settings.tls_cert} holds no certificate, or {settings.tls_key} no key that can be read"
        return [Finding(what="certificate", state=FAIL, found=said, do="both must be PEM files, without a password")]
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if key.public_key().public_bytes(*form) != shown.public_key().public_bytes(*form):
        return [
            Finding(
                what="certificate",
                state=FAIL,
                found=f"{settings.tls_key} is not the key of {settings.tls_cert}",
                do="give the two that were made together",
            )
        ]
    left = (shown.not_valid_after_utc - now).days
    until = f"until {shown.not_valid_after_utc:%Y-%m-%d}, {left} days"
    if shown.not_valid_before_utc > now:
        return [Finding(what="certificate", state=FAIL, found=f"valid only {until[6:]} on", do="look at the clock")]
    if shown.not_valid_after_utc <= now:
        return [
            Finding(what="certificate", state=FAIL, found=f"has ended ({until[6:16]})", do="renew, then gateway reload")
        ]
    if left < SOON_DAYS:
        return [Finding(what="certificate", state=WARN, found=until, do="renew it, then citysense gateway reload")]
    return [Finding(what="certificate", state=OK, found=until)]


def check_profiles(own: Path | None) -> Finding:
    """Every profile compiles."""
    try:
        catalogue = load_catalogue(own)
    except ProfileError as e:
        return Finding(what="profiles", state=FAIL, found=str(e), do="correct the file")
    return Finding(what="profiles", state=OK, found=f"{len(catalogue)} load")


def folder(path: Path) -> Iterator[Finding]:
    """The data folder: there, writable, with room."""
    if not path.is_dir():
        yield Finding(what="data folder", state=WARN, found=f"{path} is not there", do="it is made at the first start")
        return
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        yield Finding(what="data folder", state=FAIL, found=f"{path} cannot be written", do="look at owner and rights")
        return
    free = shutil.disk_usage(path).free
    said = f"{free >> 20} MB free"
    if free < LEAST_FREE_BYTES:
        yield Finding(
            what="data folder", state=WARN, found=said, do="free some space; readings are given up without any"
        )
    else:
        yield Finding(what="data folder", state=OK, found=said)
    for secret in (path / "gateway-token", *sorted((path / "keys").glob("*"))):
        if secret.is_file() and secret.stat().st_mode & 0o077:
            yield Finding(
                what="data folder", state=WARN, found=f"{secret} can be read by others", do=f"chmod 600 {secret}"
            )


def process(holder: Holder | None) -> Finding:
    """Does a gateway run here?"""
    if holder is None:
        return Finding(what="gateway", state=OK, found="none runs on this folder")
    return Finding(what="gateway", state=OK, found=f"runs as pid {holder.pid}, status on port {holder.status_port}")


def spool(path: Path) -> Iterator[Finding]:
    """The spool's file: whole, its records too, how much waits, and what was given up."""
    if not path.exists():
        yield Finding(what="spool", state=OK, found="not made yet")
        return
    try:
        connection = _opened(path)
        try:
            yield from _spool(connection)
        finally:
            connection.close()
    except (StorageError, sqlite3.Error) as e:
        yield Finding(
            what="spool", state=FAIL, found=str(e), do="stop the gateway and start it again: it saves what can be read"
        )


def _opened(path: Path) -> sqlite3.Connection:
    """Raises StorageError. Without a write-ahead log beside the file nobody writes it, and it is read without one; SQLite
    would make one otherwise."""
    if path.with_name(f"{path.name}-wal").exists():
        return open_for_reading(path)
    return sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)


def _spool(connection: sqlite3.Connection) -> Iterator[Finding]:
    found = accounts(connection.execute(ACCOUNTS).fetchall())
    waiting = ", ".join(f"{account.present} {cls.value}" for cls, account in found.items()) or "nothing yet"
    yield Finding(what="spool", state=OK, found=f"waiting: {waiting}")
    missing = {cls.value: account.missing for cls, account in found.items() if account.missing}
    if missing:
        said = ", ".join(f"{count} of {lane}" for lane, count in missing.items())
        yield Finding(
            what="spool", state=FAIL, found=f"records are not accounted for: {said}", do="keep a copy, report it"
        )
    read, damaged = _damaged(connection)
    if damaged:
        said = f"{damaged} of {read} records have a wrong check sum"
        yield Finding(what="spool", state=WARN, found=said, do="the gateway sets them aside; look at the disk")
    else:
        yield Finding(what="spool", state=OK, found=f"{read} records read, all whole")
    buried = connection.execute("SELECT class, reason, sum(count) FROM tombstone GROUP BY class, reason").fetchall()
    for code, reason, count in buried:
        said = f"{count} readings of class {CLASSES[code].value} were given up ({reason})"
        yield Finding(what="tombstones", state=WARN, found=said, do="see the platform's dead letters for devices")


def _damaged(connection: sqlite3.Connection) -> tuple[int, int]:
    """How many records were read, and how many of them are not what was written. The newest are left out of very many."""
    read = damaged = 0
    for code in CLASSES:
        after = 0
        while read < MOST_READ:
            rows = connection.execute(
                "SELECT offset, blob FROM record WHERE class=? AND offset>? ORDER BY offset LIMIT ?",
                (code, after, CHUNK),
            ).fetchall()
            if not rows:
                break
            read, after = read + len(rows), rows[-1][0]
            damaged += sum(not _is_whole(offset, blob) for offset, blob in rows)
    return read, damaged


def _is_whole(offset: int, blob: bytes) -> bool:
    try:
        return record_format.unpack(blob).offset == offset
    except record_format.RecordDamaged:
        return False


def ports(settings: Settings, holder: Holder | None) -> Iterator[Finding]:
    """The gateway's own ports: free, or in use by the gateway that runs here."""
    for port in wanted_ports(settings):
        if port.option == "--api-port":
            continue
        name = f"port {port.number}"
        problem = problem_with(settings.bind, port)
        if problem is None:
            state, said = (OK, "free") if holder is None else (WARN, "free although the gateway runs")
            yield Finding(
                what=name, state=state, found=f"{port.purpose}: {said}", do="" if state == OK else _other_ports()
            )
        elif holder is not None and f"(pid {holder.pid})" in problem:
            yield Finding(what=name, state=OK, found=f"{port.purpose}: open")
        else:
            yield Finding(what=name, state=FAIL, found=problem)


def _other_ports() -> str:
    return "it was started with other ports, or serves this door not at all"


async def platform(settings: Settings) -> Finding:
    """The platform answers, and takes the gateway's token."""
    url = api_url(settings)
    file = settings.data / "gateway-token"
    try:
        token = file.read_text().strip()
        tls: ssl.SSLContext | bool = pinned(settings.tls_cert) if settings.tls_cert is not None else True
    except (OSError, UnicodeDecodeError):
        return Finding(what="platform", state=WARN, found=f"{file} cannot be read", do="it is made at the first start")
    except CitysenseError as e:
        return Finding(what="platform", state=FAIL, found=str(e))
    headers = {"Authorization": f"Bearer {token}"}
    timeout = aiohttp.ClientTimeout(total=CONNECT_S)
    try:
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(ssl=tls)) as session:
            # A version that no roster has is answered at once.
            async with session.get(f"{url}/ingest/v1/roster?version={10**18 - 1}", headers=headers) as answer:
                status = answer.status
    except (aiohttp.ClientError, TimeoutError, OSError) as e:
        said = f"{url} does not answer ({e or type(e).__name__})"
        return Finding(what="platform", state=WARN, found=said, do="start it; until then readings wait in the spool")
    if status in (200, 204):
        return Finding(what="platform", state=OK, found=f"{url} takes our token")
    if status in (401, 403):
        return Finding(
            what="platform",
            state=FAIL,
            found=f"{url} does not take our token ({status})",
            do=f"put the token of this gateway into {file}",
        )
    return Finding(what="platform", state=WARN, found=f"{url} answers {status}", do="look at the platform's log")


def broker(settings: Settings) -> Iterator[Finding]:
    """The city's own broker can be reached, where one is configured."""
    if settings.broker is None:
        return
    try:
        host, port, _ = parse_address(settings.broker)
        with socket.create_connection((host, port), timeout=CONNECT_S):
            yield Finding(what="broker", state=OK, found=f"{host} port {port} answers")
    except SetupError as e:
        yield Finding(what="broker", state=FAIL, found=str(e))
    except OSError as e:
        said = f"{settings.broker} cannot be reached ({e.strerror or e})"
        yield Finding(what="broker", state=FAIL, found=said, do="look at address, firewall and broker")
