"""The data folder: made, checked and locked before anything is started in it."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import IO

from citysense.errors import SetupError

LEAST_FREE_BYTES = 128 << 20
"""Two reserves of 16 MB, two write-ahead logs at their limit of 64 MB less what a fresh start needs; below it a start
would only be followed by a stop."""


class DataFolder:
    """Holds the folder for one instance; a second one on the same folder is refused."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._lock: IO[str] | None = None

    def __enter__(self) -> DataFolder:
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = (self.path / "lock").open("a+")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            self.__exit__(None, None, None)
            raise SetupError(
                f"{self.path} is in use by another citysense (pid {self._holder()}): stop it, or choose another with --data."
            ) from e
        except OSError as e:
            raise SetupError(
                f"{self.path} cannot be written ({e.strerror}): check its owner and rights, or choose another folder with --data."
            ) from e
        free = shutil.disk_usage(self.path).free
        # A folder in use has its reserves already: after a power cut on a full disk, alarms must be taken again.
        if free < LEAST_FREE_BYTES and not (self.path / "spool.db").exists():
            self.__exit__(None, None, None)
            raise SetupError(
                f"{self.path} has {free >> 20} MB of disk space left, citysense needs {LEAST_FREE_BYTES >> 20} MB to start: "
                "free some space, or choose another folder with --data."
            )
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _holder(self) -> str:
        try:
            return (self.path / "lock").read_text().strip() or "unknown"
        except OSError:
            return "unknown"
