"""A mosquitto of one's own, in a folder and on a free port, with the configuration that is shipped for cities.

Owns the process and the few lines of the shipped file that name places of the machine; every other line is taken as it is, so
that what is measured and tested is what cities are given.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import citysense_gateway
from citysense.cli.paho_reference import find_mosquitto
from citysense.cli.stack import HOST, free_port
from citysense.errors import SetupError

SHIPPED = Path(citysense_gateway.__file__).parents[2] / "broker"
START_S = 20.0
STOP_S = 20.0


def local_configuration(shipped: str, folder: Path, port: int, changed: Mapping[str, str]) -> str:
    """The shipped mosquitto.conf with the folder's files, without TLS, on a port of this machine; `changed` options get
    another value."""
    places: dict[str, str | None] = {
        "listener": f"{port} {HOST}",
        "cafile": None,
        "certfile": None,
        "keyfile": None,
        "password_file": str(folder / "passwords"),
        "acl_file": str(folder / "acl"),
        "persistence_location": f"{folder}/",
        **changed,
    }
    lines = []
    for line in shipped.splitlines():
        name, _, _ = line.partition(" ")
        if name not in places:
            lines.append(line)
        elif places[name] is not None:
            lines.append(f"{name} {places[name]}")
    return "\n".join(lines) + "\n"


class OwnMosquitto:
    """`start`, `kill` or `stop`, `start` again. `accounts` are user names and passwords."""

    def __init__(
        self,
        folder: Path,
        accounts: Mapping[str, str],
        *,
        acl: str | None = None,
        changed: Mapping[str, str] | None = None,
    ) -> None:
        """`acl` replaces the shipped rules; `changed` are options with another value than the shipped one."""
        self.folder = folder
        self.port = 0
        self._accounts = accounts
        self._acl = acl
        self._changed = changed or {}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """For --broker."""
        return f"mqtt://{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None
        return self._process.pid

    def prepare(self) -> None:
        """Write the folder's files and choose the port, once. Raises SetupError."""
        if self.port:
            return
        program = find_mosquitto()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port(socket.SOCK_STREAM)
        shipped = local_configuration((SHIPPED / "mosquitto.conf").read_text(), self.folder, self.port, self._changed)
        # Started by root it would become another user, who may not write here.
        (self.folder / "mosquitto.conf").write_text(f"{shipped}user root\n")
        self.rules(self._acl if self._acl is not None else (SHIPPED / "acl").read_text())
        passwords = self.folder / "passwords"
        passwords.write_text("".join(f"{user}:{password}\n" for user, password in self._accounts.items()))
        hasher = shutil.which("mosquitto_passwd") or str(Path(program).with_name("mosquitto_passwd"))
        subprocess.run([hasher, "-U", str(passwords)], check=True, capture_output=True)  # noqa: S603 - our own arguments

    def rules(self, acl: str) -> None:
        """Write the access rules; they hold from the next start on."""
        (self.folder / "acl").write_text(acl)

    def start(self) -> None:
        """Start it and wait until it listens. Raises SetupError with its last words."""
        program = find_mosquitto()
        self.prepare()
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own arguments
                [program, "-c", str(self.folder / "mosquitto.conf")], stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_S
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > deadline:
                words = (self.folder / "log").read_text().splitlines()
                raise SetupError(f"mosquitto does not start: {words[-1] if words else 'it said nothing'}")
            time.sleep(0.02)

    def _listens(self) -> bool:
        try:
            with socket.create_connection((HOST, self.port), timeout=1):
                return True
        except OSError:
            return False

    def kill(self) -> None:
        """SIGKILL; what it had not saved is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """Let it save and end."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(timeout=STOP_S)

    def wipe(self) -> None:
        """Forget all sessions and messages; only while it is down."""
        for file in self.folder.glob("mosquitto.db*"):
            file.unlink()
