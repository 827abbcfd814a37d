"""Frames without the secrets in them: what a profile marks `secret` never reaches the disk.

Owns how a secret is found in a frame and zeroed there. Where the profile cannot read the frame it cannot say where its
secrets stand either, and then nothing of the frame may be kept. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import cbor2

from citysense_profiles.errors import DecodeError, EncodeError
from citysense_profiles.profile import Profile
from citysense_profiles.vocabulary import load_vocabulary

_MOST_PROFILES = 1_024


@lru_cache(maxsize=_MOST_PROFILES)
def secret_names(profile: Profile) -> Mapping[str, frozenset[str]]:
    """By message, the names of the fields that are secret, by their own mark or by that of their metric."""
    vocabulary = load_vocabulary()
    found = {
        message: frozenset(
            field.name
            for field in profile.fields(message)
            if field.entry.secret or (field.metric is not None and vocabulary.metric(field.metric).secret)
        )
        for message in profile.messages
    }
    return {message: names for message, names in found.items() if names}


def without_secrets(
    payload: bytes, profile: Profile, *, message: str | None, content: int | None, settings: Mapping[str, float]
) -> bytes | None:
    """The frame with zeros where its secrets stood, of which none is left; None where that cannot be made sure of.

    Where the profile writes the very frame that it has read, the new one carries a check sum that is right, and can be
    read again.
    """
    names = secret_names(profile)
    if not names:
        return payload
    try:
        named = profile.decode_fields(payload, message=message, content=content, settings=settings)
    except DecodeError:
        return None
    secrets = {name: named.values[name] for name in names.get(named.message, ()) if name in named.values}
    if not any(_says_something(value) for value in secrets.values()):
        return payload
    zeroed = {**named.values, **{name: _zero(value) for name, value in secrets.items()}}
    try:
        if profile.encode_fields(named.message, named.values, content=content, settings=settings) == payload:
            return profile.encode_fields(named.message, zeroed, content=content, settings=settings)
    except EncodeError:
        pass  # not a frame that the profile would write; then in its place
    places = [place for name, value in secrets.items() for place in _places(value, named.where[name])]
    return _in_document(payload, places) if isinstance(places[0][1], str) else _in_bytes(payload, places)


def _says_something(value: Any) -> bool:
    if isinstance(value, list):
        return any(_says_something(one) for one in value)
    return value is not None and value != ""


def _zero(value: Any) -> Any:
    """The same kind of value, of the same length, that says nothing."""
    if isinstance(value, list):
        return [_zero(one) for one in value]
    if isinstance(value, str):
        return "0" * len(value)
    return None if value is None else type(value)()


def _places(value: Any, where: Any) -> list[tuple[Any, Any]]:
    """Each single value of a secret, and where it stood."""
    if isinstance(value, list):
        return [place for one, at in zip(value, where, strict=True) for place in _places(one, at)]
    return [(value, where)] if _says_something(value) else []


def _in_bytes(payload: bytes, places: Sequence[tuple[Any, Any]]) -> bytes | None:
    """Zeros over each value, if it is seen to stand where it should."""
    kept = bytearray(payload)
    for value, at in places:
        for written, zero in _written(value):
            end = at + len(written)
            if bytes(kept[at:end]).upper() == written.upper():
                kept[at:end] = zero * len(written)
                break
        else:
            return None
    return bytes(kept)


def _written(value: Any) -> list[tuple[bytes, bytes]]:
    """How a value may stand in a frame, and the byte that blots it out: digits of two each, or as a text."""
    if not isinstance(value, str):
        return []
    forms = [(value.encode(), b"0")]
    try:
        forms.append((bytes.fromhex(value), b"\x00"))
    except ValueError:
        return forms
    return forms


def _in_document(payload: bytes, places: Sequence[tuple[Any, Any]]) -> bytes | None:
    """The JSON or CBOR document with zeros at the pointers."""
    write: Callable[[Any], bytes] = _json
    try:
        document = json.loads(payload)
    except (ValueError, RecursionError):
        write = cbor2.dumps
        try:
            document = cbor2.loads(payload)
        except (cbor2.CBORDecodeError, RecursionError):
            return None
    try:
        for value, pointer in places:
            document = _replaced(document, [_plain(part) for part in pointer.split("/")[1:]], value)
        return write(document)
    except (LookupError, ValueError, TypeError, cbor2.CBOREncodeError):
        return None


def _replaced(node: Any, path: Sequence[str], value: Any) -> Any:
    """`node` with a zero at `path`. Raises ValueError or LookupError where `value` does not stand there."""
    if not path:
        if str(node) != str(value):
            raise ValueError("another value stands here")
        return _zero(node)
    if isinstance(node, str):
        # A document inside a text, as cloud services send it.
        return _json(_replaced(json.loads(node), path, value)).decode()
    key: Any = path[0]
    if isinstance(node, list):
        key = int(key)
    elif key not in node:
        key = key.removesuffix("#")  # so profiles mark a text that holds a document
    node[key] = _replaced(node[key], path[1:], value)
    return node


def _json(document: Any) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def _plain(part: str) -> str:
    """A part of a JSON pointer without its escapes (RFC 6901 section 4)."""
    return part.replace("~1", "/").replace("~0", "~")
