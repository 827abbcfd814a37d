"""What a virtual device keeps over its restarts: its password, its boot number, the port it listens on.

Owns DIR/sim/state.json (mode 0600), written whole and synced before anything relies on it: a boot number that was used
once must never come again, or the gateway takes new messages for repeats.
"""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from citysense.errors import SetupError


class DeviceMemory(BaseModel):
    """One device's flash. `boot` counts starts from 1; `port` is that of a Modbus device, 0 before the first start."""

    model_config = ConfigDict(extra="forbid")

    secret: str | None = None
    boot: int = Field(0, ge=0)
    port: int = Field(0, ge=0, le=65535)


class _Content(BaseModel):
    model_config = ConfigDict(extra="forbid")

    version: int = Field(1, ge=1, le=1)
    devices: dict[str, DeviceMemory] = {}


class StateFile:
    """The memory of all virtual devices of a data folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._content = _Content()

    def load(self) -> None:
        """Read the file; a missing one is an empty memory. Raises SetupError: guessing would mix up boots."""
        try:
            self._content = _Content.model_validate_json(self.path.read_bytes())
        except FileNotFoundError:
            self._content = _Content()
        except OSError as e:
            raise SetupError(f"{self.path} cannot be read ({e.strerror}); check its owner and rights") from e
        except ValidationError as e:
            first = e.errors()[0]
            where = ".".join(map(str, first["loc"])) or "file"
            raise SetupError(
                f"{self.path} is damaged ({where}: {first['msg']}); restore it, or remove it together with the data folder"
            ) from e

    def of(self, device: str) -> DeviceMemory:
        """The device's memory, to be changed in place and then saved."""
        return self._content.devices.setdefault(device, DeviceMemory())

    def save(self) -> None:
        """Replace the file; after the return the new content survives a power cut. Raises SetupError."""
        draft = self.path.with_suffix(".draft")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(self._content.model_dump_json(indent=1))
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self.path)
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as e:
            raise SetupError(
                f"{self.path} cannot be written ({e.strerror}); check the folder's rights and space"
            ) from e
