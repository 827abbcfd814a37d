"""Whole names of fields, from within groups and repeats, and which of them encoding fills in by itself.

Owns how the parts of a frame give names to what stands inside them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from citysense_profiles.format.binary import BinaryField, Block, Elements, Item, Items, Part, Repeat, SizeField
from citysense_profiles.format.documents import JsonBytes
from citysense_profiles.format.profile_file import BinaryMessage, TlvMessage
from citysense_profiles.profile import Profile


def filled_in(profile: Profile, message: str) -> frozenset[str]:
    """The names that encoding fills in by itself, whatever the caller gives: lengths, counts and check sums."""
    entry = profile.file.messages[message]
    names = frozenset(field.name for field in profile.fields(message))
    match entry:
        case BinaryMessage():
            return frozenset(_filled_in(entry.fields, "", names))
        case TlvMessage():
            return frozenset(name for item in entry.items for name in _filled_in(item.fields, within("", item), names))
        case _:
            return frozenset()


def _filled_in(parts: Sequence[Part], prefix: str, names: Collection[str]) -> Iterator[str]:
    for part in parts:
        size = part.length if isinstance(part, BinaryField) else getattr(part, "size", None)
        if isinstance(size, SizeField):
            yield resolved(size.field, prefix, names)
        if isinstance(part, Repeat) and isinstance(part.to, str) and part.to != "end":
            yield resolved(part.to, prefix, names)
        if isinstance(part, BinaryField) and part.checksum is not None and part.name is not None:
            yield prefix + part.name
        if isinstance(part, Block | Repeat):
            yield from _filled_in(part.fields, within(prefix, part), names)
        elif isinstance(part, Items):
            for item in part.items:
                yield from _filled_in(item.fields, within(prefix, item), names)
        elif isinstance(part, Elements):
            for element in part.elements:
                yield from _filled_in(element.fields or [], prefix, names)


def resolved(name: str, prefix: str, names: Collection[str]) -> str:
    """The whole name of a field that is named from within groups and repeats: the nearest one."""
    while prefix and prefix + name not in names:
        prefix = prefix[: prefix.rstrip(".").rfind(".") + 1]
    return prefix + name


def within(prefix: str, part: Block | Repeat | Item | JsonBytes) -> str:
    """What stands before the names inside a part; `prefix` is what stands before its own."""
    name = part.repeat if isinstance(part, Repeat) else part.group
    return f"{prefix}{name}." if name else prefix
