"""One gateway per data folder, and where it can be found.

Owns DIR/gateway.lock: held while the gateway runs, with its process id and the port of its status server inside. Two
gateways on one spool would each acknowledge readings that the other one trims.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import IO

import msgspec

from citysense.errors import SetupError

NAME = "gateway.lock"


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """The gateway that holds a folder. `status_port` is 0 until its status server listens."""

    pid: int
    status_port: int = 0


class FolderLock:
    """Holds a folder for one gateway; use as a context manager. Raises SetupError where another one has it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._file: IO[bytes] | None = None

    def __enter__(self) -> FolderLock:
        try:
            self._file = self._path.open("a+b")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            self.__exit__(None, None, None)
            holder = holder_of(self._path.parent)
            who = f"pid {holder.pid}" if holder is not None else "its process id is not known yet"
            raise SetupError(
                f"{self._path.parent} is in use by another gateway ({who}): stop it, or choose another folder with --data"
            ) from e
        except OSError as e:
            raise SetupError(
                f"{self._path} cannot be opened ({e.strerror}); check the folder's owner and rights"
            ) from e
        self.say(0)
        return self

    def say(self, status_port: int) -> None:
        """Write down who holds the folder. A full disk is no obstacle: the lock itself needs no byte."""
        assert self._file is not None, "enter the lock first"
        try:
            self._file.truncate(0)
            self._file.write(msgspec.json.encode(Holder(pid=os.getpid(), status_port=status_port)))
            self._file.flush()
        except OSError:
            return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def holder_of(folder: Path) -> Holder | None:
    """The gateway that runs on `folder`; None where none does, or where it has not said so yet."""
    try:
        with (folder / NAME).open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return msgspec.json.decode(file.read(), type=Holder)
    except (OSError, msgspec.DecodeError):
        return None
    return None
