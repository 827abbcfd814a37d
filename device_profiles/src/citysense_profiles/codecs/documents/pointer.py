"""Places in a document: JSON pointers (RFC 6901), to walk along and to build along.

Owns parsing, walking and building of objects and lists. What stands at a place means nothing here. A number in a
pointer steps into a list; built documents have a list where every pointer through that place has a number next.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

ABSENT = object()
"""Nothing stands there; None is null."""
HIGHEST_INDEX = 255
"""In a pointer: a list is built with nulls up to it."""
Path = tuple[tuple[str, int | None], ...]
"""Each step as a key, and as an index where it is a number."""
Steps = tuple[str | int, ...]
"""The same, decided: a key steps into an object, an index into a list."""

_INDEX = re.compile(r"(0|[1-9]\d{0,8})", re.ASCII)
_STRAY_TILDE = re.compile(r"~(?![01])")


def parse(pointer: str) -> Path:
    """The steps of a pointer, () for the whole document. Raises ValueError with a sentence for the profile's author."""
    if pointer == "":
        return ()
    if not pointer.startswith("/"):
        raise ValueError(f"pointer {pointer!r} must begin with /")
    if _STRAY_TILDE.search(pointer):
        raise ValueError(f"pointer {pointer!r}: a ~ is written ~0, a / inside a key ~1")
    path = []
    for part in pointer[1:].split("/"):
        index = int(part) if _INDEX.fullmatch(part) else None
        if index is not None and index > HIGHEST_INDEX:
            raise ValueError(f"pointer {pointer!r}: lists are followed up to index {HIGHEST_INDEX}")
        path.append((part.replace("~1", "/").replace("~0", "~"), index))
    return tuple(path)


def walk(item: Any, path: Path) -> Any:
    """What stands at `path` below `item`, ABSENT where there is nothing."""
    for key, index in path:
        if type(item) is dict:
            if key not in item:
                return ABSENT
            item = item[key]
        elif type(item) is list and index is not None and index < len(item):
            item = item[index]
        else:
            return ABSENT
    return item


class Shape:
    """The objects and lists that a set of pointers runs through, so that a document can be built along them.

    `root` is list or dict. Raises ValueError where one pointer ends at a place that another one runs through.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        paths = tuple(paths)
        through = {path[:depth] for path in paths for depth in range(len(path))}
        for path in paths:
            if path in through:
                pointer = "".join(f"/{key}" for key, _ in path)
                raise ValueError(f"a value is wanted at {pointer!r}, and another one inside it")
        keyed = {path[:depth] for path in paths for depth, step in enumerate(path) if step[1] is None}
        self._lists = through - keyed
        self.root: type = list if () in self._lists else dict

    def steps(self, path: Path) -> Steps:
        """The steps of one of the paths."""
        return tuple(
            index if index is not None and path[:depth] in self._lists else key
            for depth, (key, index) in enumerate(path)
        )


def put(root: Any, steps: Steps, value: Any) -> None:
    """Set `value` at `steps` below `root`, which is of the shape that `steps` come from. Lists grow with nulls."""
    for step, following in pairwise(steps):
        child = _child(root, step)
        if child is None:
            child = [] if type(following) is int else {}
            _set(root, step, child)
        root = child
    _set(root, steps[-1], value)


def _child(container: Any, step: str | int) -> Any:
    if type(step) is int:
        return container[step] if step < len(container) else None
    return container.get(step)


def _set(container: Any, step: str | int, value: Any) -> None:
    if type(step) is int:
        container.extend([None] * (step + 1 - len(container)))
    container[step] = value
