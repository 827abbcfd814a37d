"""System calls of a process, as strace wrote them down: which bytes went where, in which order.

Owns the form of strace's lines (`-f -y -xx -s` with full buffers). Knows files by path; judges nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

TRACED = "pwrite64,write,fdatasync,fsync,ftruncate,openat,unlink,unlinkat,rename,fallocate"
_LINE = re.compile(r"^(?P<pid>\d+) +(?P<rest>.*)$")
_CALL = re.compile(r"^(?P<name>\w+)\((?P<body>.*)$")
_RESUMED = re.compile(r"^<\.\.\. (?P<name>\w+) resumed>(?P<body>.*)$")
_UNFINISHED = " <unfinished ...>"
_DESCRIPTOR = re.compile(r"^(?P<number>\d+|AT_FDCWD)<(?P<path>[^>]*)>")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_RESULT = re.compile(r"\) += (?P<result>-?\d+)")
_LAST_NUMBER = re.compile(r", (\d+)\) +=")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One system call that succeeded. `path` is its file; `data` and `offset` are a write's, `offset` also the size of a
    truncation; `to` is a renaming's new path; `creates` says that an opening may have made the file."""

    name: str
    path: str
    data: bytes = b""
    offset: int = 0
    to: str = ""
    creates: bool = False


def strace(program: str, trace: Path, *more: str) -> list[str]:
    """The words that run a command under strace, written to `trace`; `more` are further options."""
    # A buffer is written down whole: one that is cut short would make another file.
    options = ["-f", "-y", "-xx", "-s", "1000000", "-e", "signal=none", "-o", str(trace)]
    return [program, *options, *more]


def calls(lines: Iterable[str]) -> list[Call]:
    """Successful calls in the order in which they ended; interrupted ones are put together again."""
    begun: dict[str, tuple[str, str]] = {}
    found: list[Call] = []
    for raw in lines:
        line = _LINE.match(raw.rstrip("\n"))
        if line is None:
            continue
        pid, rest = line["pid"], line["rest"]
        if resumed := _RESUMED.match(rest):
            name, body = begun.pop(pid, (resumed["name"], ""))
            body += resumed["body"]
        elif started := _CALL.match(rest):
            name, body = started["name"], started["body"]
            if body.endswith(_UNFINISHED):
                begun[pid] = (name, body.removesuffix(_UNFINISHED))
                continue
        else:
            continue
        call = _call(name, body)
        if call is not None:
            found.append(call)
    return found


def _call(name: str, body: str) -> Call | None:
    result = _RESULT.search(body)
    if result is None or int(result["result"]) < 0:
        return None
    strings = [_bytes(text) for text in _STRING.findall(body)]
    descriptor = _DESCRIPTOR.match(body)
    path = _path(descriptor["path"]) if descriptor else ""
    last = _LAST_NUMBER.search(body)
    match name:
        case "pwrite64" | "write":
            # What was asked for may be more than what was done.
            data = strings[0][: int(result["result"])] if strings else b""
            return Call(name=name, path=path, data=data, offset=int(last[1]) if last and name == "pwrite64" else 0)
        case "fdatasync" | "fsync":
            return Call(name=name, path=path)
        case "ftruncate":
            return Call(name=name, path=path, offset=int(last[1]) if last else 0)
        case "openat":
            return Call(name=name, path=_path_of(strings, path), creates="O_CREAT" in body)
        case "unlink" | "unlinkat":
            return Call(name="unlink", path=_path_of(strings, path))
        case "rename":
            return Call(name=name, path=strings[0].decode(), to=strings[1].decode())
    return None


def _path_of(strings: Sequence[bytes], folder: str) -> str:
    named = strings[0].decode() if strings else ""
    return named if named.startswith("/") else f"{folder}/{named}"


def _path(shown: str) -> str:
    """With -xx strace writes a descriptor's path in hex, too."""
    return _bytes(shown).decode() if shown.startswith("\\x") else shown


def _bytes(escaped: str) -> bytes:
    return bytes.fromhex(escaped.replace("\\x", ""))
