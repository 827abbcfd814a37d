"""`citysense gateway reload`: have a running gateway take new profiles, certificates and its token into use.

Owns finding the gateway of a folder, the signal, and the report of what it changed. Sessions and spool are not touched.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import aiohttp

from citysense.clock import Clock, SystemClock
from citysense.errors import SetupError, UpstreamError
from citysense.settings import load_settings
from citysense_gateway.folder_lock import Holder, holder_of

EXAMPLE = """\
example:
  citysense gateway reload --data /srv/city
"""
PATIENCE_S = 30.0
LOOK_S = 0.1


def add_parser(commands: Any) -> None:
    """Add `reload`."""
    parser = commands.add_parser(
        "reload",
        help="take new profiles, certificates and the token into use",
        description="Have the running gateway read profiles, certificate, key and token again. What is wrong with a new one"
        " is said, and the old one stays in force. All other settings need a restart, and so does the API of the platform, which"
        " keeps its certificate until then.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", default=None, metavar="DIR", help="folder of the gateway")
    parser.add_argument("--config", type=Path, metavar="FILE", help="read this file instead of ./citysense.toml")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Reload and print what changed; 1 where something could not be taken."""
    settings, _ = load_settings({"data": arguments.data} if arguments.data else {}, os.environ, arguments.config)
    holder = holder_of(settings.data)
    if holder is None or not holder.status_port:
        raise SetupError(f"no gateway runs on {settings.data}; start it, or name its folder with --data")
    done = asyncio.run(reload(holder, SystemClock()))
    if arguments.json:
        print(json.dumps(done, indent=2, ensure_ascii=False))
    else:
        for change in done["changes"] or ["nothing has changed"]:
            print(change)
        if settings.tls_cert is not None:
            print("the platform's API keeps its certificate until it is started again")
        for problem in done["problems"]:
            print(f"not taken: {problem}")
    return 1 if done["problems"] else 0


async def reload(holder: Holder, clock: Clock) -> dict[str, Any]:
    """Signal the gateway and wait for its report. Raises UpstreamError where there is none."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
        before = await _last(session, holder)
        try:
            os.kill(holder.pid, signal.SIGHUP)
        except OSError as e:
            raise SetupError(f"pid {holder.pid} cannot be signalled ({e.strerror}); be the gateway's user") from e
        deadline = clock.monotonic() + PATIENCE_S
        while clock.monotonic() < deadline:
            await asyncio.sleep(LOOK_S)
            last = await _last(session, holder)
            if last["number"] > before["number"]:
                return last
    raise UpstreamError(f"pid {holder.pid} has not reloaded within {PATIENCE_S:.0f} s; look at its log")


async def _last(session: aiohttp.ClientSession, holder: Holder) -> dict[str, Any]:
    """The last reload; number 0 before the first."""
    try:
        async with session.get(f"http://127.0.0.1:{holder.status_port}/reloads") as answer:
            items: list[dict[str, Any]] = (await answer.json())["items"]
    except (aiohttp.ClientError, TimeoutError, ValueError, KeyError) as e:
        raise UpstreamError(f"the gateway's status server does not answer ({e or type(e).__name__})") from e
    return items[-1] if items else {"number": 0, "changes": [], "problems": []}
