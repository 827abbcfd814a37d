"""Text that is written one way on the wire and read another, part by part: "IMEI:860374051096202", "reader-01-23-45".

Owns the two templates of `reshape`. Both have the same parts in the same order, so the way back always exists.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from citysense_profiles.errors import RefusedError
from citysense_profiles.format.meaning import Reshape
from citysense_profiles.values.words import portable

_PART = re.compile(r"\{(\d+)\}", re.ASCII)
LONGEST_PART = 256
"""Characters; serial numbers and addresses are far shorter."""


def compile_reshape(entry: Reshape) -> tuple[Callable[[Any], str], Callable[[Any], str]]:
    """Wire to value and back. Raises ValueError with a sentence where the templates do not fit each other."""
    if not _PART.findall(entry.wire) or _PART.findall(entry.wire) != _PART.findall(entry.value):
        raise ValueError("reshape: wire and value hold the same parts, such as {4}, in the same order")
    if any(not 1 <= int(count) <= LONGEST_PART for count in _PART.findall(entry.wire)):
        raise ValueError(f"reshape: a part has 1 to {LONGEST_PART} characters")
    return _between(entry.wire, entry.value), _between(entry.value, entry.wire)


def _between(source: str, target: str) -> Callable[[Any], str]:
    pattern = re.compile("".join(_piece(piece) for piece in re.split(r"(\{\d+\})", source)), re.DOTALL)
    literals = _PART.split(target)[::2]

    def rearrange(text: Any) -> str:
        match = pattern.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise RefusedError(f"{text!r} is not of the form {source}")
        rearranged = literals[0] + "".join(
            part + after for part, after in zip(match.groups(), literals[1:], strict=True)
        )
        return str(portable(rearranged))

    return rearrange


def _piece(piece: str) -> str:
    part = _PART.fullmatch(piece)
    return f"(.{{{part[1]}}})" if part else re.escape(piece)
