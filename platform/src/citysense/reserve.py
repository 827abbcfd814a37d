"""Disk space set aside, given back to the file system when the disk is full.

A full disk must not silence a flood: the reserve lets safety readings and tombstones be written after the last byte
is gone. Owns one file of known size beside the log; knows nothing of records.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from citysense.errors import SetupError

RESERVE_BYTES = 16 << 20
"""Room for about 60,000 safety readings of 250 bytes: an hour of a county's gauges in a storm."""

SLACK_BYTES = 1 << 20
"""Left over after the reserve is taken again, so that the very next write does not need it."""


class Reserve:
    """A file of `size` bytes that is either allocated or released."""

    def __init__(self, path: Path, *, size: int = RESERVE_BYTES) -> None:
        self._path = path
        self._size = size
        self._held = False

    @property
    def held(self) -> bool:
        """True while the space is set aside."""
        return self._held

    @property
    def size(self) -> int:
        """Bytes that are set aside, or would be."""
        return self._size

    def allocate(self) -> bool:
        """Set the space aside; False when the disk has not enough. Other failures raise SetupError."""
        if self._held:
            return True
        try:
            if not self._path.exists() and shutil.disk_usage(self._path.parent).free < self._size + SLACK_BYTES:
                # Not even tried: an attempt takes all that is left for a moment, just when a flood needs it.
                return False
            with self._path.open("r+b" if self._path.exists() else "w+b") as file:
                os.posix_fallocate(file.fileno(), 0, self._size)
        except OSError as e:
            if e.errno in (errno.ENOSPC, errno.EDQUOT):
                self._path.unlink(missing_ok=True)
                self._held = False
                return False
            raise SetupError(
                f"{self._path} cannot be written ({e.strerror}); check the folder's owner and rights"
            ) from e
        self._held = True
        return True

    def release(self) -> bool:
        """Give the space back; False if it was already given."""
        was_held = self._held
        try:
            self._path.unlink(missing_ok=True)
        except OSError:
            # A folder that has become read-only: nothing is given back, and the caller's next write says why.
            return False
        self._held = False
        return was_held
