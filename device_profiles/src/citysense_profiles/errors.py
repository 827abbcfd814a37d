"""What can go wrong with a profile, told apart by who can mend it.

Owns the errors of this package: the author of a profile file mends a `ProfileError`, the installer of a device a
`SettingError`, the sender of a frame a `DecodeError`, the caller of encode an `EncodeError`. Nothing else leaves the
public functions. Nothing here logs.
"""

from __future__ import annotations

from typing import Literal

DecodeCode = Literal["no_match", "truncated", "trailing", "checksum", "shape", "value", "unit", "encoding"]
"""no_match: no message of the profile fits; truncated / trailing: too few or too many bytes; checksum; shape: not the
structure that the profile describes; value: a number or code outside what the field may carry; unit: the frame names
another unit; encoding: not JSON, CBOR or text at all."""


class RefusedError(ValueError):
    """A raw code or a value that a field cannot carry. Never leaves this package: the codec adds where it stood."""


class ProfileError(Exception):
    """A profile or the vocabulary is wrong; the text says what to change."""

    def __init__(self, text: str, *, file: str, message: str | None = None, field: str | None = None) -> None:
        self.file = file
        self.message = message
        self.field = field
        self.text = text
        where = "".join((f", message {message}" if message else "", f", field {field}" if field else ""))
        super().__init__(f"{file}{where}: {text}")


class SettingError(Exception):
    """A device's setting does not fit its profile; the text names it, its value and what it may be."""

    def __init__(self, setting: str, text: str) -> None:
        self.setting = setting
        self.text = text
        super().__init__(f"setting {setting}: {text}")


class DecodeError(Exception):
    """A frame does not say what its profile promises. `offset` counts bytes from 0 where the codec knows them."""

    def __init__(
        self,
        code: DecodeCode,
        text: str,
        *,
        profile: str,
        message: str | None = None,
        field: str | None = None,
        offset: int | None = None,
    ) -> None:
        self.code = code
        self.profile = profile
        self.message = message
        self.field = field
        self.offset = offset
        self.text = text
        where = [f"profile {profile}"]
        if message:
            where.append(f"message {message}")
        if field:
            where.append(f"field {field}")
        if offset is not None:
            where.append(f"byte {offset}")
        super().__init__(f"{code}: {text} ({', '.join(where)})")


class EncodeError(Exception):
    """The values do not fit the message; the text names the field, the value and what it may be."""

    def __init__(self, text: str, *, profile: str, message: str | None = None, field: str | None = None) -> None:
        self.profile = profile
        self.message = message
        self.field = field
        self.text = text
        where = [f"profile {profile}"]
        if message:
            where.append(f"message {message}")
        if field:
            where.append(f"field {field}")
        super().__init__(f"{text} ({', '.join(where)})")
