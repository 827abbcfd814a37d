"""CBOR and JSON documents from devices, read with suspicion.

Owns the limits (depth, no repeated keys, no tags, nothing after the document) and the translation of every library
error into one `UnreadableError`. Knows nothing of what a document means.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import cbor2
import msgspec

MAX_DEPTH = 32
"""Device messages are two or three levels deep; the rest is room."""


class UnreadableError(ValueError):
    """Not a document of that format, or one that no device of ours would send."""


def _refuse_tag(*_: Any) -> Any:
    raise UnreadableError("CBOR tags have no place in these messages")


# Every tag that the library gives a meaning of its own: dates, big numbers, shared and cyclic references, patterns.
_LIBRARY_TAGS = (0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 43, 52, 54, 100, 256, 258, 260, 261, 1004, 43000, 55799)
_REFUSED_TAGS: dict[int, Callable[..., Any]] = dict.fromkeys(_LIBRARY_TAGS, _refuse_tag)


def read_cbor(payload: bytes) -> Any:
    """The document as None, bool, int, float, str, bytes, list and dict. Raises UnreadableError, nothing else."""
    stream = io.BytesIO(payload)
    try:
        document = cbor2.load(
            stream,
            tag_hook=_refuse_tag,
            semantic_decoders=_REFUSED_TAGS,
            max_depth=MAX_DEPTH,
            allow_duplicate_keys=False,
        )
    except (cbor2.CBORDecodeError, ValueError, TypeError, OverflowError, RecursionError, MemoryError) as error:
        raise UnreadableError(f"not valid CBOR: {error.__cause__ or error}") from error
    if stream.read(1):
        raise UnreadableError("bytes follow the CBOR document")
    return document


def write_cbor(document: Any) -> bytes:
    """CBOR of plain documents, definite lengths, floats as doubles."""
    return cbor2.dumps(document)


_JSON = msgspec.json.Decoder()


def read_json(payload: bytes) -> Any:
    """The document as None, bool, int, float, str, list and dict. Raises UnreadableError, nothing else."""
    try:
        return _JSON.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnreadableError(f"not valid JSON: {error}") from error


def write_json(document: Any) -> bytes:
    """JSON in UTF-8 without spaces; None is null."""
    return msgspec.json.encode(document)


def is_json(payload: bytes, content: int | None, *, json_formats: frozenset[int], cbor_formats: frozenset[int]) -> bool:
    """JSON or CBOR: by the CoAP content format where it is one of the two, else by the first byte."""
    if content in json_formats:
        return True
    if content in cbor_formats:
        return False
    # JSON text begins with white space, a bracket or a brace; in CBOR those bytes begin numbers and short strings.
    return payload[:1] in (b"{", b"[", b" ", b"\n", b"\r", b"\t")
