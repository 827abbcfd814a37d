"""What is checked before anything starts: ports and the data folder, each with a sentence that says what to do."""

from __future__ import annotations

import os
import shutil
import socket
from collections import namedtuple
from pathlib import Path

import pytest

from citysense.cli.data_folder import DataFolder
from citysense.cli.ports import Port, require_free
from citysense.errors import SetupError

KINDS = [socket.SOCK_STREAM, socket.SOCK_DGRAM]


def wanted(number: int, kind: socket.SocketKind) -> Port:
    return Port(number=number, kind=kind, purpose="MQTT", option="--mqtt-port")


@pytest.mark.parametrize("kind", KINDS)
def test_a_port_in_use_is_named_with_its_holder_and_the_option(kind: socket.SocketKind) -> None:
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.1", 0))
        if kind is socket.SOCK_STREAM:
            taken.listen()
        port = wanted(taken.getsockname()[1], kind)
        with pytest.raises(SetupError) as caught:
            require_free("127.0.0.1", [port])
    assert f"port {port.number} (MQTT) is in use by" in str(caught.value)
    assert f"(pid {os.getpid()})" in str(caught.value)
    assert "--mqtt-port" in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_free_port_is_no_problem(kind: socket.SocketKind) -> None:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        number = probe.getsockname()[1]
    require_free("127.0.0.1", [wanted(number, kind)])


def test_every_port_in_the_way_is_named_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as a, socket.create_server(("127.0.0.1", 0)) as b:
        numbers = [s.getsockname()[1] for s in (a, b)]
        with pytest.raises(SetupError) as caught:
            require_free("127.0.0.1", [wanted(number, socket.SOCK_STREAM) for number in numbers])
    assert all(f"port {number}" in str(caught.value) for number in numbers)


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(SetupError, match=r"192\.0\.2\.1 is no address of this machine.*--bind"):
        require_free("192.0.2.1", [wanted(18830, socket.SOCK_STREAM)])


def test_a_folder_is_made_and_belongs_to_one_instance(tmp_path: Path) -> None:
    with DataFolder(tmp_path / "new" / "data") as folder:
        assert folder.path.is_dir()
        with pytest.raises(SetupError, match=rf"in use by another citysense \(pid {os.getpid()}\).*--data"):
            DataFolder(folder.path).__enter__()
    with DataFolder(folder.path):
        pass


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(SetupError, match=r"data cannot be written.*--data"):
        DataFolder(tmp_path / "data").__enter__()


def test_too_little_space_is_refused_and_the_folder_is_free_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda _path: usage(1 << 30, (1 << 30) - (5 << 20), 5 << 20))
        with pytest.raises(SetupError, match=r"has 5 MB of disk space left, citysense needs \d+ MB"):
            DataFolder(tmp_path).__enter__()
    with DataFolder(tmp_path):
        pass
