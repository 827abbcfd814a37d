"""The gateway process: makes what its parts need from the outside, runs them, and turns their end into an exit code.

The only module of the gateway that reads the clock, the environment and the command line. Run as
`python -m citysense_gateway.app --data DIR --platform URL`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import sys
from collections.abc import Sequence
from random import SystemRandom

from citysense.clock import SystemClock
from citysense.crash_points import CrashPoints
from citysense.errors import CitysenseError, SetupError, StorageClosed
from citysense.keys import Sealer, TagPseudonym, load_or_create_key, load_or_create_secret
from citysense.log_lines import log_to_stderr
from citysense.parent import end_with_parent
from citysense.progress import HUNG, Progress, Watchdog
from citysense_gateway.broker.options import BrokerOptions, broker_options
from citysense_gateway.defects import DEFECTS
from citysense_gateway.folder_lock import FolderLock
from citysense_gateway.gateway import OWNERS, TOKEN, Gateway
from citysense_gateway.platform_client import PlatformClient
from citysense_gateway.roster import check_folder
from citysense_gateway.settings import GatewaySettings, parse
from citysense_gateway.spool import Spool
from citysense_profiles.errors import ProfileError

# By name: run as a module, __name__ would be "__main__", which is none of our loggers.
log = logging.getLogger("citysense_gateway.app")


async def run(settings: GatewaySettings, stop: asyncio.Event | None = None) -> None:
    """Run a gateway until SIGTERM, SIGINT or `stop`. Raises CitysenseError when it cannot start or go on."""
    stop = stop or asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    check_folder(settings.data)
    with FolderLock(settings.data) as lock:
        await _run_in_folder(settings, stop, lock)


async def _run_in_folder(settings: GatewaySettings, stop: asyncio.Event, lock: FolderLock) -> None:
    clock = SystemClock()
    try:
        crash = CrashPoints.from_environment(os.environ)
    except ValueError as e:
        raise SetupError(str(e)) from e
    sealer = Sealer(load_or_create_key(settings.data / "keys" / "sealing.key"))
    pseudonym = TagPseudonym(load_or_create_key(settings.data / "keys" / "pseudonym.key"))
    token = load_or_create_secret(settings.data / TOKEN)
    spool = Spool(settings.data / "spool.db", clock=clock, crash=crash, synchronous=settings.synchronous, owners=OWNERS)
    progress = Progress(clock)
    broker = _broker(settings, token)
    spool.open()
    try:
        async with PlatformClient(settings.platform_url, token, certificate=settings.tls_cert) as client:
            gateway = Gateway(
                settings,
                spool=spool,
                client=client,
                sealer=sealer,
                pseudonym=pseudonym,
                clock=clock,
                chance=SystemRandom(),
                crash=crash,
                progress=progress,
                lock=lock,
                broker=broker,
            )
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, gateway.reload)
            with Watchdog(progress):
                await gateway.serve(stop)
    except ProfileError as e:
        raise SetupError(str(e)) from e
    finally:
        spool.close()


def _broker(settings: GatewaySettings, token: str) -> BrokerOptions | None:
    """How to reach the city's broker, where there is one. Raises SetupError."""
    if settings.broker is None:
        return None
    return broker_options(
        address=settings.broker,
        user=settings.broker_user,
        gateway=settings.gateway,
        token=token,
        environment=os.environ,
        password_file=settings.broker_password_file,
        protocol=settings.broker_protocol,
        ca=settings.broker_ca,
        cert=settings.broker_cert,
        key=settings.broker_key,
        insecure=settings.insecure,
    )


def _raise_open_files() -> None:
    """As many open files as this user may have: each connection is one, and the usual limit is 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main(arguments: Sequence[str]) -> int:
    """The process. Exit codes: 0 stopped, 1 could not start or go on, 2 wrong use, 70 to be started again: a defect of ours
    ended a loop, or the watchdog found one that hung."""
    end_with_parent(os.environ)
    os.umask(0o077)
    log_to_stderr()
    _raise_open_files()
    try:
        asyncio.run(run(parse(arguments)))
    except StorageClosed as e:
        sys.stderr.write(f"{e}\n")
        return HUNG
    except CitysenseError as e:
        sys.stderr.write(f"{e}\n")
        return 1
    except (*DEFECTS, AssertionError, RuntimeError) as e:
        log.critical("a defect ended the gateway", exc_info=e)
        return HUNG
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
