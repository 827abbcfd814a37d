"""Reading YAML that people wrote, without YAML's surprises.

Owns turning the parser's events into plain documents: null, true, false, numbers and text as YAML 1.2 has them (`on`,
`2026-11-20` and `0012` are text), no aliases, no tag but !!binary, no key twice in one mapping. And the translation of a pydantic
error into one place and one sentence. Opens no files.
"""

from __future__ import annotations

import base64
import re
import reprlib
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
_NO_KEY = object()
_NUMERIC_START = frozenset("-+.0123456789")


def load_yaml(text: str, file: str) -> Any:
    """The document in `text`. Raises ProfileError naming `file` and the line."""
    try:
        # The C parser, asked without a generator of Python between: a hundred profiles load in a blink.
        return _Document(iter(yaml.CSafeLoader(text).get_event, None), file).read()
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
        top: list[Any] = []
        # The collection that is being filled and, for a mapping, the key that waits for its value; outer ones below.
        into: dict[Any, Any] | list[Any] = top
        key: Any = _NO_KEY
        stack: list[tuple[dict[Any, Any] | list[Any], Any]] = []
        for event in self._events:
            if isinstance(event, yaml.ScalarEvent):
                value = self._scalar(event)
            elif isinstance(event, yaml.CollectionStartEvent):
                self._check_start(event, len(stack))
                stack.append((into, key))
                into, key = ({} if isinstance(event, yaml.MappingStartEvent) else []), _NO_KEY
                continue
            elif isinstance(event, yaml.CollectionEndEvent):
                value = into
                into, key = stack.pop()
            elif isinstance(event, yaml.AliasEvent):
                self._refuse(event, "aliases (&, *) are not allowed here; write it out")
            else:
                continue
            if isinstance(into, list):
                into.append(value)
            elif key is _NO_KEY:
                if type(value) is not str or value in into:
                    self._check_key(event, into, value)
                key = value
            else:
                into[key] = value
                key = _NO_KEY
        if not top or top == [None]:
            raise ProfileError("the file is empty", file=self._file)
        if len(top) > 1:
            raise ProfileError("one file holds one document", file=self._file)
        return top[0]

    def _check_start(self, event: yaml.CollectionStartEvent, depth: int) -> None:
        if event.tag is not None:
            self._refuse(event, f"could not determine a constructor for the tag {event.tag!r}; remove it")
        if depth >= MAX_DEPTH:
            self._refuse(event, f"nested deeper than {MAX_DEPTH}")

    def _check_key(self, event: yaml.Event, into: Any, value: Any) -> None:
        if isinstance(value, dict | list):
            self._refuse(event, "a key is text or a number")
        if value not in into:
            return
        # 1, 1.0 and true are one key in Python and three in YAML.
        if any(type(known) is type(value) and known == value for known in into):
            self._refuse(event, f"the key {value!r} stands twice in one mapping")
        self._refuse(event, f"the key {value!r} is the same as another of this mapping; write both as text")

    def _scalar(self, event: yaml.ScalarEvent) -> Any:
        text: str = event.value
        if event.tag is not None and event.tag != "!":
            if event.tag == _BINARY:
                return base64.b64decode(text)
            self._refuse(event, f"could not determine a constructor for the tag {event.tag!r}; remove it")
        if event.style or not event.implicit[0]:  # quoted, or a block of text
            return text
        if text[:1] not in _NUMERIC_START:
            return _WORDS.get(text, text)
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
        sentence = f"{sentence} (found {reprlib.repr(fault['input'])})"
    return fault["loc"], sentence
