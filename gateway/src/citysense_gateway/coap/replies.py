"""Which reply a device gets over CoAP, and why.

Pure: from the fields of a request to "take this frame" or a reply, and from a verdict of the pipeline to a reply.
Nothing here does I/O, and nothing knows the CoAP library.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum

from citysense_gateway.frame import Kind, Reason, Verdict

CONTENT_FORMATS = (42, 50, 60, 110, 112)
"""Bytes as the profile's codec, JSON, CBOR, SenML JSON, SenML CBOR."""
BYTES = 42
LINK_FORMAT = 40
RETRY_AFTER = 5
"""Seconds a device waits after 5.03; the pipeline heals within 10 s of space returning."""
MAX_TEXT = 200
"""Bytes of a diagnostic text: it must fit one datagram of any radio network, and a small request must not draw much."""

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_MESSAGE = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
_DISCOVERY = (".well-known", "core")
_LINKS = (
    '</v1>;rt="citysense.up";title="POST /v1/{device}/{message}"'
    f';ct="{" ".join(str(number) for number in CONTENT_FORMATS)}"'
    ',</v1>;rt="citysense.down";obs;title="GET /v1/{device}/down"'
)
_GET, _POST, _DELETE = 1, 2, 4
DOWN = "down"
"""The path segment of a device's mailbox."""
WITH_MAIL = "mail"
"""The query by which a device asks for its next message in the reply to its frame."""
_PROXY_OPTIONS = frozenset({35, 39})
_KNOWN_CRITICAL = frozenset({3, 7, 11, 15, 17, 23, 27})
"""Uri-Host, Uri-Port, Uri-Path, Uri-Query, Accept, Block2, Block1."""


class Code(IntEnum):
    """The reply codes in use; 0x44 reads 2.04."""

    DELETED = 0x42
    CHANGED = 0x44
    CONTENT = 0x45
    CONTINUE = 0x5F
    BAD_REQUEST = 0x80
    UNAUTHORIZED = 0x81
    BAD_OPTION = 0x82
    NOT_FOUND = 0x84
    METHOD_NOT_ALLOWED = 0x85
    NOT_ACCEPTABLE = 0x86
    INCOMPLETE = 0x88
    TOO_LARGE = 0x8D
    UNSUPPORTED_FORMAT = 0x8F
    UNAVAILABLE = 0xA3
    NO_PROXY = 0xA5


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer. `max_age` in seconds; `limit` is the Size1 option: the largest body we take, in bytes.

    `payload` is what a device asked for, `text` what a person may read; never both. `location` and `query` name the
    message that came along (`mail_resource`), `observe` is set in replies to a registration.
    """

    code: Code
    text: str = ""
    payload: bytes = b""
    max_age: int | None = None
    content: int | None = None
    limit: int | None = None
    etag: bytes | None = None
    location: tuple[str, ...] = ()
    query: tuple[str, ...] = ()
    observe: int | None = None
    echo: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a request says of itself. `options` are all option numbers present; `content` is None where not given."""

    method: int
    path: tuple[str, ...]
    query: tuple[str, ...] = ()
    options: frozenset[int] = frozenset()
    content: int | None = None
    accept: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A request that brings a frame: of which device, which message, in which content format."""

    device: str
    message: str
    content: int
    with_mail: bool = False
    """The reply may carry the device's next message."""

    @property
    def channel(self) -> str:
        """The path the frame came in by."""
        return f"/v1/{self.device}/{self.message}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MailTarget:
    """A request about a device's mailbox: for the next message, or to confirm the one that `confirmed` names."""

    device: str
    confirmed: str | None = None


def target_of(request: Request) -> Target | MailTarget | Reply:
    """What the request is about, or the reply that ends it here."""
    if request.options & _PROXY_OPTIONS:
        return Reply(code=Code.NO_PROXY, text="this is no proxy; address the gateway itself")
    unknown = sorted(number for number in request.options if number & 1 and number not in _KNOWN_CRITICAL)
    if unknown:
        return Reply(code=Code.BAD_OPTION, text=f"critical option {unknown[0]} is not understood here")
    if request.path == _DISCOVERY:
        return _discovery(request)
    if len(request.path) not in (3, 4) or request.path[0] != "v1":
        return Reply(code=Code.NOT_FOUND, text="no such path; use /v1/{device}/{message}")
    device, message = request.path[1:3]
    if not _ID.fullmatch(device):
        return Reply(code=Code.NOT_FOUND, text="device: not 1 to 64 of letters, digits, _ and -")
    if len(request.path) == 4 or (message == DOWN and request.method == _GET):
        return _mail_target(request, device)
    if not _MESSAGE.fullmatch(message):
        return Reply(code=Code.NOT_FOUND, text="message: not 1 to 64 of letters, digits, _ . and -")
    if request.method != _POST:
        return Reply(code=Code.METHOD_NOT_ALLOWED, text="only POST is served here")
    content = BYTES if request.content is None else request.content
    if content not in CONTENT_FORMATS:
        known = ", ".join(str(number) for number in CONTENT_FORMATS)
        return Reply(code=Code.UNSUPPORTED_FORMAT, text=f"content format {content} is not taken; known: {known}")
    return Target(device=device, message=message, content=content, with_mail=WITH_MAIL in request.query)


def _mail_target(request: Request, device: str) -> MailTarget | Reply:
    if request.path[2] != DOWN:
        return Reply(code=Code.NOT_FOUND, text="no such path; use /v1/{device}/{message}")
    if len(request.path) == 3:
        return MailTarget(device=device)
    if request.method != _DELETE:
        return Reply(code=Code.METHOD_NOT_ALLOWED, text="only DELETE is served here")
    if not _ID.fullmatch(request.path[3]):
        return Reply(code=Code.NOT_FOUND, text="no such message waits")
    return MailTarget(device=device, confirmed=request.path[3])


def _discovery(request: Request) -> Reply:
    if request.method != _GET:
        return Reply(code=Code.METHOD_NOT_ALLOWED, text="only GET is served here")
    if request.accept not in (None, LINK_FORMAT):
        return Reply(code=Code.NOT_ACCEPTABLE, text=f"only content format {LINK_FORMAT} is served here")
    return Reply(code=Code.CONTENT, payload=_LINKS.encode(), content=LINK_FORMAT)


_CODE_OF: dict[Reason, tuple[Code, str]] = {
    Reason.UNKNOWN_DEVICE: (Code.UNAUTHORIZED, "unknown device"),
    Reason.BAD_CREDENTIAL: (Code.UNAUTHORIZED, "wrong or revoked credential"),
    Reason.FOREIGN_TOPIC: (Code.UNAUTHORIZED, "the path is another device's"),
    Reason.IDENTITY_MISMATCH: (Code.UNAUTHORIZED, "the payload names another device"),
    Reason.NO_SUCH_MESSAGE: (Code.NOT_FOUND, "the device's profile sends no such message"),
    Reason.NO_MATCH: (Code.BAD_REQUEST, "no message of the device's profile fits"),
    Reason.UNDECODABLE: (Code.BAD_REQUEST, "not decodable"),
    Reason.TOO_LARGE: (Code.TOO_LARGE, "too large"),
    # Not 5.00, after which a device would send it again: it is kept, and a mend of ours reads it again.
    Reason.INTERNAL: (Code.BAD_REQUEST, "kept, but not understood"),
}


def reply_to(verdict: Verdict) -> Reply:
    """The reply that carries a verdict. Only 2.04 means that the frame is durable."""
    if verdict.kind in (Kind.STORED, Kind.DUPLICATE):
        return Reply(code=Code.CHANGED)
    if verdict.kind is Kind.UNAVAILABLE:
        return unavailable("cannot store now; keep the reading and send it again")
    code, words = _CODE_OF[verdict.reason or Reason.UNDECODABLE]
    return Reply(code=code, text=clipped(verdict.detail or words))


def unavailable(text: str) -> Reply:
    """5.03 with the time to wait."""
    return Reply(code=Code.UNAVAILABLE, text=text, max_age=RETRY_AFTER)


def too_large(size: int, limit: int) -> Reply:
    """4.13, saying what would fit. Sizes in bytes."""
    return Reply(code=Code.TOO_LARGE, text=f"{size} bytes; at most {limit} are taken", limit=limit)


def clipped(text: str) -> str:
    """`text` cut to MAX_TEXT bytes of UTF-8, never inside a character."""
    data = text.encode("utf-8", "replace")
    return text if len(data) <= MAX_TEXT else data[:MAX_TEXT].decode("utf-8", "ignore")
