"""Key files of a data folder, sealing of personal frames, and the HMAC that stands in for a tag id.

Owns the 32-byte keys in `DIR/keys` (mode 0600) and their use; never logs or returns a key in an error.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from citysense.errors import CitysenseError, SetupError

KEY_BYTES = 32
NONCE_BYTES = 12


class SealBroken(CitysenseError):
    """A sealed text was altered, or sealed with another key."""


def load_or_create_secret(path: Path) -> str:
    """The text secret in `path` (mode 0600), made on first use: 160 random bits in base64url. Raises SetupError."""
    return load_or_create_file(path, lambda: secrets.token_urlsafe(20).encode()).decode().strip()


def load_or_create_key(path: Path) -> bytes:
    """The 32-byte key in `path` (hex, mode 0600), made on first use. Raises SetupError."""
    text = load_or_create_file(path, lambda: secrets.token_hex(KEY_BYTES).encode())
    try:
        key = bytes.fromhex(text.decode())
    except ValueError as e:
        raise SetupError(
            f"{path} holds no key in hex; restore it from a backup: what it sealed cannot be read without it"
        ) from e
    if len(key) != KEY_BYTES:
        raise SetupError(f"{path} holds {len(key)} bytes, a key has {KEY_BYTES}; restore it from a backup")
    return key


def load_or_create_file(path: Path, fresh: Callable[[], bytes]) -> bytes:
    """Content of a secret file (mode 0600), made of `fresh` on first use. Raises SetupError.

    It is created whole and synced under a temporary name first, so that no half key is ever read.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path.exists():
            draft = path.with_name(f"{path.name}.{os.getpid()}")
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(fresh())
                file.flush()
                os.fsync(file.fileno())
            try:
                # A link fails where a rename would overwrite: of two processes that start at once, one key wins.
                path.hardlink_to(draft)
            except FileExistsError:
                pass  # the other process was first; its key is read below
            draft.unlink()
            # The content is on the disk, its name is not yet: a key that a power cut takes takes what it sealed along.
            for folder in (path.parent, path.parent.parent):
                _sync_folder(folder)
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
        return path.read_bytes()
    except OSError as e:
        raise SetupError(f"{path} cannot be read or made ({e.strerror}); check the folder's owner and rights") from e


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Sealer:
    """Seals bytes with a key derived per owner (a device, or the gateway itself), so that one owner can be shredded."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def seal(self, owner: str, clear: bytes) -> bytes:
        """Nonce and AES-256-GCM text; the owner is bound in."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + AESGCM(self._derive(owner)).encrypt(nonce, clear, owner.encode())

    def open(self, owner: str, sealed: bytes) -> bytes:
        """The clear bytes. Raises SealBroken."""
        try:
            return AESGCM(self._derive(owner)).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], owner.encode())
        except (InvalidTag, ValueError) as e:
            raise SealBroken(f"what is sealed for {owner!r} cannot be opened with this key") from e

    def _derive(self, owner: str) -> bytes:
        return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=b"citysense seal " + owner.encode()).derive(
            self._key
        )


class TagPseudonym:
    """Turns a tag id into the HMAC under which sightings are kept."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def __call__(self, tag: str) -> str:
        """HMAC-SHA-256 of the upper-case id, 32 hex digits: enough to tell half a million tags apart."""
        return hmac.new(self._key, tag.upper().encode(), hashlib.sha256).hexdigest()[:32]


def password_digest(salt: bytes, password: bytes) -> bytes:
    """SHA-256 of salt and password; see `wire.RosterDevice.digest` for why no slow hash is needed."""
    return hashlib.sha256(salt + password).digest()


def token_digest(token: str) -> bytes:
    """SHA-256 of a bearer token, for keeping and comparing."""
    return hashlib.sha256(token.encode()).digest()
