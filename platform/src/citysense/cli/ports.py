"""Are the ports free, and if not, who has them? Answered before anything is started, in one sentence a port."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from citysense.errors import SetupError

_LISTEN = "0A"  # the kernel's word for a listening TCP socket in /proc/net/tcp


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """A port that is wanted, and the option that chooses another."""

    number: int
    kind: socket.SocketKind
    purpose: str
    option: str

    @property
    def protocol(self) -> str:
        """`TCP` or `UDP`."""
        return "TCP" if self.kind is socket.SOCK_STREAM else "UDP"


def require_free(address: str, ports: Sequence[Port]) -> None:
    """Raises SetupError naming every port that cannot be had, who has it, and what to do."""
    problems = [problem for port in ports if (problem := problem_with(address, port))]
    if problems:
        raise SetupError(" ".join(problems))


def problem_with(address: str, port: Port) -> str | None:
    """Why the port cannot be had, as a sentence that says who has it; None where it is free."""
    family = socket.AF_INET6 if ip_address(address).version == 6 else socket.AF_INET
    with socket.socket(family, port.kind) as probe:
        if port.kind is socket.SOCK_STREAM:
            # As the servers do: a connection in TIME_WAIT from our own last run is no obstacle.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port.number))
        except OSError as e:
            return _explain(address, port, e)
    return None


def _explain(address: str, port: Port, error: OSError) -> str:
    name = f"{port.protocol} port {port.number} ({port.purpose})"
    if error.errno == errno.EADDRINUSE:
        return f"{name} is in use by {holder(port)}: stop it, or choose another port with {port.option}."
    if error.errno == errno.EACCES:
        return f"{name} may not be opened by this user: choose one above 1023 with {port.option}."
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{address} is no address of this machine: choose another with --bind."
    return f"{name} cannot be opened ({error.strerror}): choose another with {port.option}."


def holder(port: Port) -> str:
    """Who listens there, as `mosquitto (pid 812)`; says so when the system does not tell."""
    inodes = {f"socket:[{inode}]" for inode in _inodes(port)}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and inodes & _open_links(folder / "fd"):
            return f"{(folder / 'comm').read_text().strip()} (pid {folder.name})"
    return "a program of another user"


def _open_links(folder: Path) -> set[str]:
    """What the descriptors of a process point at; empty when it has just ended or belongs to another user."""
    links = set()
    try:
        for entry in folder.iterdir():
            try:
                links.add(entry.readlink().name)
            except FileNotFoundError:
                continue  # closed since it was listed, as the descriptor of this very listing is
    except OSError:
        return links
    return links


def _inodes(port: Port) -> list[str]:
    found = []
    for table in (f"/proc/net/{port.protocol.lower()}", f"/proc/net/{port.protocol.lower()}6"):
        try:
            rows = [line.split() for line in Path(table).read_text().splitlines()[1:]]
        except OSError:
            continue  # no IPv6 here
        for row in rows:
            local, state, inode = row[1], row[3], row[9]
            if int(local.rsplit(":", 1)[1], 16) == port.number and (port.kind is socket.SOCK_DGRAM or state == _LISTEN):
                found.append(inode)
    return found
