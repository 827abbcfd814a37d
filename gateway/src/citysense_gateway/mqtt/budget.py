"""How many bytes of frames all connections of the door may have under way together.

Owns the account, and who waits for room. Each connection has bounds of its own; but a disk that stalls stalls them all,
and a thousand connections at their bounds are a gigabyte. What a peer has not been read from waits in its own memory.
"""

from __future__ import annotations

from collections.abc import Callable

FRAME_BYTES = 2_048
"""What a frame takes beside its payload, from its packet to its verdict: measured 1,910 bytes for a report of one value,
with its readings and its place in the queue of the spool."""
_AGAIN = 0.75
"""Reading goes on below this share, so that thousands of connections are not stopped and started for each frame."""


class Budget:
    """`most` in bytes; `held` of them are in use. `full` is a plain attribute because each packet asks for it."""

    __slots__ = ("_again", "_most", "_waiting", "full", "held")

    def __init__(self, most: int) -> None:
        self._most = most
        self._again = int(most * _AGAIN)
        # In the order in which they began to wait, so that each has its turn.
        self._waiting: dict[Callable[[], None], None] = {}
        self.held = 0
        self.full = False

    @property
    def waiting(self) -> int:
        """How many wait for room."""
        return len(self._waiting)

    def take(self, size: int) -> None:
        """A frame with so many bytes of payload is under way. Never refused: who is not to bring one looks at `full`."""
        self.held += size + FRAME_BYTES
        if self.held >= self._most:
            self.full = True

    def give_back(self, size: int) -> None:
        """That frame has its verdict."""
        self.held -= size + FRAME_BYTES
        if self.full and self.held <= self._again:
            self.full = False
            waiting, self._waiting = self._waiting, {}
            for call in waiting:
                call()

    def call_when_free(self, call: Callable[[], None]) -> None:
        """Call `call` once when there is room again; it is asked for once, however often it asks."""
        self._waiting[call] = None

    def forget(self, call: Callable[[], None]) -> None:
        """It does not wait any more."""
        self._waiting.pop(call, None)
