"""Reading YAML that people wrote, without YAML's surprises.

Owns the loader (safe types only, a key twice in one mapping is refused, aliases are refused) and the translation of a
pydantic error into one place and one sentence. Opens no files.
"""

from __future__ import annotations

from typing import Any

import yaml
from pydantic import ValidationError

from citysense_profiles.errors import ProfileError

MAX_DEPTH = 40
"""A profile is some ten levels deep; the rest is room for the documents in its vectors."""


def load_yaml(text: str, file: str) -> Any:
    """The document in `text`. Raises ProfileError naming `file` and the line."""
    try:
        _refuse_dangers(text, file)
        loader = yaml.CSafeLoader(text)  # the C loader: hundreds of profiles load in a fraction of a second
        try:
            node = loader.get_single_node()
            if node is None:
                raise ProfileError("the file is empty", file=file)
            _refuse_repeated_keys(node, file)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ProfileError(f"{line}{error.problem or 'not valid YAML'}", file=file) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ProfileError(f"not valid YAML: {error}", file=file) from error


def _refuse_dangers(text: str, file: str) -> None:
    """Aliases (a few lines can unfold to gigabytes) and deep nesting (the C loader would overflow the stack)."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        line = f"line {event.start_mark.line + 1}: " if event.start_mark else ""
        if isinstance(event, yaml.AliasEvent):
            raise ProfileError(f"{line}aliases (&, *) are not allowed here; write it out", file=file)
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise ProfileError(f"{line}nested deeper than {MAX_DEPTH}", file=file)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _refuse_repeated_keys(root: yaml.Node, file: str) -> None:
    """A key that stands twice: the last would win silently."""
    todo = [root]
    while todo:
        node = todo.pop()
        if isinstance(node, yaml.SequenceNode):
            todo.extend(node.value)
        elif isinstance(node, yaml.MappingNode):
            seen: set[tuple[str, str]] = set()
            for key, value in node.value:
                mark = (key.tag, str(key.value))
                if mark in seen:
                    line = key.start_mark.line + 1
                    raise ProfileError(f"line {line}: the key {key.value!r} stands twice in one mapping", file=file)
                seen.add(mark)
                todo.append(value)


def first_fault(error: ValidationError) -> tuple[tuple[str | int, ...], str]:
    """Where the first fault lies (keys and list positions from the top) and a sentence about it."""
    fault = error.errors(include_url=False)[0]
    if fault["type"] == "extra_forbidden":
        return fault["loc"], f"{fault['loc'][-1]!r} is not a key that may stand here"
    sentence = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "missing":
        sentence = "is required and missing"
    elif not isinstance(fault["input"], dict | list):
        sentence = f"{sentence} (found {fault['input']!r})"
    return fault["loc"], sentence
