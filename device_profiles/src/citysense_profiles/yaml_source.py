"""Reading YAML that people wrote, without YAML's surprises.

Owns turning the parser's events into plain documents: null, true, false, numbers and text as YAML 1.2 has them (`on`,
`2026-11-20` and `0012` are text), no aliases, no tag but !!binary, no key twice in one mapping. And the translation of a pydantic
error into one place and one sentence. Opens no files.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from typing import Any, NoReturn

import yaml
from pydantic import ValidationError

from citysense_profiles.errors import ProfileError

MAX_DEPTH = 40
"""A profile is some ten levels deep; the rest is room for the documents in its vectors."""
MAX_DIGITS = 400
"""A longer run of digits is no number that anybody means, and turning it into one takes time."""

# Core schema of YAML 1.2, but for numbers that begin with a needless 0: those are ids that lost their quotes.
_NUMBER = re.compile(
    r"(?P<int>[-+]?(?:0|[1-9][0-9]*))|(?P<hex>0x[0-9a-fA-F]+)|(?P<oct>0o[0-7]+)"
    r"|(?P<float>[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?)"
    r"|(?P<inf>[-+]?\.(?:inf|Inf|INF))|(?P<nan>\.(?:nan|NaN|NAN))"
)
_WORDS: dict[str, Any] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_BINARY = "tag:yaml.org,2002:binary"
"""The one tag that is read: bytes in the CBOR of a vector have no other way to be written."""
_NUMERIC_START = frozenset("-+.0123456789")


def load_yaml(text: str, file: str) -> Any:
    """The document in `text`. Raises ProfileError naming `file` and the line."""
    try:
        events = yaml.parse(text, Loader=yaml.CSafeLoader)  # the C parser: a hundred profiles load in a blink
        return _Document(events, file).read()
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ProfileError(f"{line}{error.problem or 'not valid YAML'}", file=file) from error
    except (yaml.YAMLError, ValueError) as error:
        raise ProfileError(f"not valid YAML: {error}", file=file) from error


class _Document:
    """One document, built from events with a stack of our own: nesting cannot overflow Python's."""

    def __init__(self, events: Iterator[yaml.Event], file: str) -> None:
        self._events = events
        self._file = file

    def read(self) -> Any:
        """The one document of the file."""
        document: Any = None
        documents = 0
        # For each open collection: the collection and, for a mapping, the key that waits for its value.
        stack: list[tuple[dict[Any, Any] | list[Any], list[Any]]] = []
        for event in self._events:
            if isinstance(event, yaml.ScalarEvent):
                value = self._scalar(event)
            elif isinstance(event, yaml.CollectionStartEvent):
                if event.tag is not None:
                    self._refuse(event, f"could not determine a constructor for the tag {event.tag!r}; remove it")
                if len(stack) >= MAX_DEPTH:
                    self._refuse(event, f"nested deeper than {MAX_DEPTH}")
                stack.append(({} if isinstance(event, yaml.MappingStartEvent) else [], []))
                continue
            elif isinstance(event, yaml.CollectionEndEvent):
                value = stack.pop()[0]
            elif isinstance(event, yaml.AliasEvent):
                self._refuse(event, "aliases (&, *) are not allowed here; write it out")
            elif isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                continue
            else:
                continue
            if documents > 1:
                self._refuse(event, "one file holds one document")
            if stack:
                self._put(event, *stack[-1], value)
            else:
                document = value
        if documents == 0 or document is None:
            raise ProfileError("the file is empty", file=self._file)
        return document

    def _put(self, event: yaml.Event, into: dict[Any, Any] | list[Any], key: list[Any], value: Any) -> None:
        if isinstance(into, list):
            into.append(value)
        elif key:
            into[key.pop()] = value
        else:
            if isinstance(value, dict | list):
                self._refuse(event, "a key is text or a number")
            # 1, 1.0 and true are one key in Python and three in YAML.
            if value in into and any(type(known) is type(value) and known == value for known in into):
                self._refuse(event, f"the key {value!r} stands twice in one mapping")
            if value in into:
                self._refuse(event, f"the key {value!r} is the same as another of this mapping; write both as text")
            key.append(value)

    def _scalar(self, event: yaml.ScalarEvent) -> Any:
        text: str = event.value
        if event.tag == _BINARY:
            return base64.b64decode(text)
        if event.tag is not None and event.tag != "!":
            self._refuse(event, f"could not determine a constructor for the tag {event.tag!r}; remove it")
        if event.style or not event.implicit[0]:  # quoted, or a block of text
            return text
        if text in _WORDS:
            return _WORDS[text]
        if text[0] not in _NUMERIC_START:
            return text
        match = _NUMBER.fullmatch(text)
        if match is None:
            return text
        if len(text) > MAX_DIGITS:
            self._refuse(event, f"a number of {len(text)} characters")
        match match.lastgroup:
            case "int":
                return int(text)
            case "hex" | "oct":
                return int(text, 0)
            case "float":
                return float(text)
            case _:
                return float(text.replace(".", ""))

    def _refuse(self, event: yaml.Event, sentence: str) -> NoReturn:
        line = f"line {event.start_mark.line + 1}: " if event.start_mark else ""
        raise ProfileError(f"{line}{sentence}", file=self._file)


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
