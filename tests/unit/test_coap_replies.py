"""Which reply a CoAP request or a verdict gets: every row of the table in INTERFACES, and what lies beside it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from citysense_gateway.coap.replies import (
    MAX_TEXT,
    RETRY_AFTER,
    Code,
    MailTarget,
    Reply,
    Request,
    Target,
    clipped,
    reply_to,
    target_of,
    too_large,
)
from citysense_gateway.frame import Kind, Reason, Receipt, Verdict

GET, POST, PUT = 1, 2, 3


def asked(
    *path: str,
    method: int = POST,
    content: int | None = None,
    options: tuple[int, ...] = (11,),
    accept: int | None = None,
) -> Target | Reply:
    target = target_of(
        Request(method=method, path=path, content=content, options=frozenset(options), accept=accept),
    )
    assert not isinstance(target, MailTarget)
    return target


def code(answer: Target | Reply) -> Code:
    assert isinstance(answer, Reply)
    return answer.code


def test_a_post_names_device_message_and_format() -> None:
    target = asked("v1", "gauge-001", "report", content=60)
    assert target == Target(device="gauge-001", message="report", content=60)
    assert target.channel == "/v1/gauge-001/report"


def test_without_a_content_format_the_payload_is_bytes() -> None:
    assert asked("v1", "d", "m") == Target(device="d", message="m", content=42)


@pytest.mark.parametrize("content", [50, 60, 110, 112, 42])
def test_known_formats(content: int) -> None:
    assert isinstance(asked("v1", "d", "m", content=content), Target)


@pytest.mark.parametrize("content", [0, 40, 41, 65535])
def test_other_formats_are_named_in_the_refusal(content: int) -> None:
    answer = asked("v1", "d", "m", content=content)
    assert code(answer) is Code.UNSUPPORTED_FORMAT
    assert isinstance(answer, Reply)
    assert str(content) in answer.text


@pytest.mark.parametrize(
    "path",
    [
        (),
        ("v1",),
        ("v1", "gauge-001"),
        ("v1", "gauge-001", "report", "more"),
        ("v2", "gauge-001", "report"),
        ("v1", "", "report"),
        ("v1", "gauge 001", "report"),
        ("v1", "gauge/001", "report"),
        ("v1", "积水-001", "report"),
        ("v1", "a" * 65, "report"),
        ("v1", "gauge-001\n", "report"),
        ("v1", "gauge-001", ""),
        ("v1", "gauge-001", "re port"),
        (".well-known",),
    ],
)
def test_other_paths_are_not_found(path: tuple[str, ...]) -> None:
    assert code(asked(*path)) is Code.NOT_FOUND


@pytest.mark.parametrize("method", [GET, PUT, 4, 5, 6, 7, 31])
def test_other_methods(method: int) -> None:
    assert code(asked("v1", "d", "m", method=method)) is Code.METHOD_NOT_ALLOWED


def test_discovery_lists_the_resource_and_its_formats() -> None:
    answer = asked(".well-known", "core", method=GET)
    assert isinstance(answer, Reply)
    assert (answer.code, answer.content) == (Code.CONTENT, 40)
    links = answer.payload.decode()
    assert links.startswith("</v1>;")
    assert "42 50 60 110 112" in links
    assert code(asked(".well-known", "core", method=POST)) is Code.METHOD_NOT_ALLOWED
    assert code(asked(".well-known", "core", method=GET, accept=50)) is Code.NOT_ACCEPTABLE


def test_what_must_be_understood_and_is_not() -> None:
    assert code(asked("v1", "d", "m", options=(9, 11))) is Code.BAD_OPTION
    assert code(asked("v1", "d", "m", options=(11, 35))) is Code.NO_PROXY
    # Elective options may be ignored.
    assert isinstance(asked("v1", "d", "m", options=(6, 11, 60, 258)), Target)


def test_verdicts() -> None:
    def verdict(reason: Reason, detail: str = "") -> Reply:
        return reply_to(Verdict(kind=Kind.REJECTED, reason=reason, detail=detail))

    assert reply_to(Verdict(kind=Kind.STORED, receipt=Receipt(boot=1, seq=2))) == Reply(code=Code.CHANGED)
    assert reply_to(Verdict(kind=Kind.DUPLICATE)) == Reply(code=Code.CHANGED)
    assert verdict(Reason.UNDECODABLE, "battery, offset 3: 0xff is no number") == Reply(
        code=Code.BAD_REQUEST, text="battery, offset 3: 0xff is no number"
    )
    assert verdict(Reason.NO_MATCH).code is Code.BAD_REQUEST
    assert verdict(Reason.NO_SUCH_MESSAGE).code is Code.NOT_FOUND
    assert verdict(Reason.UNKNOWN_DEVICE) == Reply(code=Code.UNAUTHORIZED, text="unknown device")
    assert verdict(Reason.BAD_CREDENTIAL).code is Code.UNAUTHORIZED
    assert verdict(Reason.IDENTITY_MISMATCH).code is Code.UNAUTHORIZED
    assert verdict(Reason.TOO_LARGE).code is Code.TOO_LARGE
    assert too_large(70_000, 65_536).limit == 65_536


def test_cannot_store_says_when_to_come_back() -> None:
    answer = reply_to(Verdict(kind=Kind.UNAVAILABLE))
    assert (answer.code, answer.max_age) == (Code.UNAVAILABLE, RETRY_AFTER)
    assert RETRY_AFTER == 5


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_has_a_reply_with_words(reason: Reason) -> None:
    answer = reply_to(Verdict(kind=Kind.REJECTED, reason=reason))
    assert answer.text
    assert answer.code >= Code.BAD_REQUEST


@given(st.text(max_size=400))
def test_texts_fit_a_datagram_and_stay_text(text: str) -> None:
    cut = clipped(text).encode("utf-8", "replace")
    assert len(cut) <= MAX_TEXT
    assert text.encode("utf-8", "replace").startswith(cut)


@given(st.text(max_size=70), st.text(max_size=70))
def test_nothing_but_ids_gets_through(device: str, message: str) -> None:
    answer = asked("v1", device, message)
    if isinstance(answer, Target):
        assert answer.channel.isascii()
        assert answer.channel.count("/") == 3
