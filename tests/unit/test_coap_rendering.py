"""Blocks and options of replies, who is verified, and the pieces of DTLS datagrams."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from citysense_gateway.coap.amplification import Addresses, most_for
from citysense_gateway.coap.dtls import is_greeting, records
from citysense_gateway.coap.exchanges import wanted
from citysense_gateway.coap.mail_resource import etag
from citysense_gateway.coap.rendering import rendered
from citysense_gateway.coap.replies import Code, MailTarget, Reply, Request, Target, target_of
from citysense_gateway.coap.uploads import Block


class Clock:
    """Moves only when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def now_ms(self) -> int:
        return int(self.now * 1000)


@given(st.binary(min_size=1, max_size=5000), st.integers(0, 7))
def test_blocks_make_up_the_payload(payload: bytes, exponent: int) -> None:
    got, number = b"", 0
    while True:
        message = rendered(
            Reply(code=Code.CONTENT, payload=payload), block2=Block(number=number, more=False, exponent=exponent)
        )
        block = message.opt.block2
        assert (block.block_number, block.size_exponent) == (number, min(exponent, 6))
        assert message.opt.size2 == (len(payload) if number == 0 else None)
        got, number = got + message.payload, number + 1
        if not block.more:
            break
        assert len(message.payload) == block.size
    assert got == payload
    beyond = rendered(
        Reply(code=Code.CONTENT, payload=payload), block2=Block(number=number + 7, more=False, exponent=exponent)
    )
    assert beyond.code.dotted == "4.00"


def test_a_small_payload_needs_no_block() -> None:
    assert rendered(Reply(code=Code.CONTENT, payload=b"x" * 1024)).opt.block2 is None
    first = rendered(Reply(code=Code.CONTENT, payload=b"x" * 1025))
    assert (first.opt.block2.more, len(first.payload)) == (True, 1024)


def test_an_echo_is_good_for_its_address_and_for_a_while() -> None:
    clock = Clock()
    addresses = Addresses(secret=b"s", clock=clock)
    echo = addresses.echo("192.0.2.1:5")
    assert not addresses.verified("192.0.2.1:5")
    assert not addresses.answered("192.0.2.1:6", echo)
    assert not Addresses(secret=b"other", clock=clock).answered("192.0.2.1:5", echo)
    clock.now += 60
    assert addresses.answered("192.0.2.1:5", echo)
    assert addresses.verified("192.0.2.1:5")
    assert not addresses.verified("192.0.2.1:6")
    clock.now += 601
    assert not addresses.verified("192.0.2.1:5")
    assert not addresses.answered("192.0.2.1:5", echo)


def test_addresses_are_bounded() -> None:
    addresses = Addresses(secret=b"s", clock=Clock())
    for port in range(10_001):
        assert addresses.answered(f"h:{port}", addresses.echo(f"h:{port}"))
    assert not addresses.verified("h:0")
    assert addresses.verified("h:10000")


def test_three_times_and_no_more() -> None:
    assert most_for(10) == 30


def test_replies_that_nobody_wants() -> None:
    message = rendered(Reply(code=Code.CHANGED))
    assert [wanted(message, value) for value in (None, 0, 2, 8, 26)] == [True, True, False, True, False]
    assert not wanted(rendered(Reply(code=Code.NOT_FOUND)), 8)
    assert not wanted(rendered(Reply(code=Code.UNAVAILABLE)), 16)


def test_paths_of_the_mailbox() -> None:
    def asked(method: int, *path: str, query: tuple[str, ...] = ()) -> object:
        return target_of(Request(method=method, path=path, query=query))

    assert asked(1, "v1", "gauge", "down") == MailTarget(device="gauge")
    assert asked(4, "v1", "gauge", "down", "order-1") == MailTarget(device="gauge", confirmed="order-1")
    with_mail = asked(2, "v1", "gauge", "report", query=("mail",))
    assert isinstance(with_mail, Target)
    assert with_mail.with_mail
    for answer, code in (
        (asked(1, "v1", "gauge", "down", "order-1"), Code.METHOD_NOT_ALLOWED),
        (asked(4, "v1", "gauge", "down", "a b"), Code.NOT_FOUND),
        (asked(4, "v1", "gauge", "up", "order-1"), Code.NOT_FOUND),
        (asked(4, "v1", "gauge", "down"), Code.METHOD_NOT_ALLOWED),
        (asked(1, "v1", "ga uge", "down"), Code.NOT_FOUND),
    ):
        assert isinstance(answer, Reply)
        assert answer.code is code


def test_etags_fit_the_option() -> None:
    assert etag("abc") == b"abc"
    assert len(etag("order-0001")) == 8
    assert etag("order-0001") != etag("order-0002")


def test_records_of_a_flight_go_one_by_one() -> None:
    one = b"\x16\xfe\xfd" + bytes(8) + b"\0\x03abc"
    other = b"\x14\xfe\xfd" + bytes(8) + b"\0\x01x"
    assert list(records(one + other)) == [one, other]
    assert is_greeting(b"\x16\xfe\xfd\0\0" + bytes(6) + b"\0\x03\x01bc")
    assert not is_greeting(b"\x16\xfe\xfd\0\1" + bytes(6) + b"\0\x03\x01bc"), "encrypted"
    assert not is_greeting(b"\x16\xfe\xfd\0\0" + bytes(6) + b"\0\x03\x10bc"), "a later step of one"
