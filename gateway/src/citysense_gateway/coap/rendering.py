"""From a reply to the library's message: options, and the block of the payload that was asked for (RFC 7959, Block2).

Pure. Which reply it is, is decided in `replies`.
"""

from __future__ import annotations

from aiocoap import Message

from citysense_gateway.coap.replies import Code, Reply
from citysense_gateway.coap.uploads import Block

LARGEST_BLOCK = 6
"""Size exponent of 1024 bytes."""


def rendered(
    reply: Reply, *, block1: Block | None = None, block2: Block | None = None, exponent: int = LARGEST_BLOCK
) -> Message:
    """The message of `reply`. `block1` is the block it acknowledges, `block2` the one it was asked for; without one, a
    payload larger than a block of `exponent` gives its first block."""
    if reply.payload:
        return _with_payload(reply, block2 or Block(number=0, more=False, exponent=exponent), block2 is not None)
    message = _plain(reply)
    message.payload = reply.text.encode("utf-8", "replace")
    if block1 is not None:
        # What is acknowledged; "more" only says that the body goes on.
        message.opt.block1 = (block1.number, reply.code is Code.CONTINUE, min(block1.exponent, LARGEST_BLOCK))
    return message


def _with_payload(reply: Reply, block: Block, asked: bool) -> Message:
    exponent = min(block.exponent, LARGEST_BLOCK)
    block = Block(number=block.number, more=False, exponent=exponent)
    size = len(reply.payload)
    if block.number and block.start >= size:
        return Message(code=int(Code.BAD_REQUEST), payload=b"there is no such block")
    message = _plain(reply)
    message.payload = reply.payload[block.start : block.start + block.size]
    more = block.start + block.size < size
    if asked or more:
        message.opt.block2 = (block.number, more, exponent)
        if block.number == 0:
            message.opt.size2 = size
    return message


def _plain(reply: Reply) -> Message:
    message = Message(code=int(reply.code))
    options = message.opt
    if reply.max_age is not None:
        options.max_age = reply.max_age
    if reply.limit is not None:
        options.size1 = reply.limit
    if reply.content is not None:
        options.content_format = reply.content
    if reply.etag is not None:
        options.etag = reply.etag
    if reply.location:
        options.location_path = reply.location
        options.location_query = reply.query
    if reply.observe is not None:
        options.observe = reply.observe
    if reply.echo is not None:
        options.echo = reply.echo
    return message
