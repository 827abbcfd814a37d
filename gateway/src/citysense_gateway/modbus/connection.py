"""One connection to one Modbus line: a request, its reply or the reason why not.

Owns the socket, through pymodbus 3.16 (pinned), and the rule that keeps values at their registers: whatever goes wrong
in an exchange ends the connection. Measured with that version: over RTU framing, which has no transaction id, a
connection that was kept after one timeout gave every later read the value of the read before it; over TCP framing, a
truncated reply and some garbage made all later reads fail. One caller at a time; decides nothing about when.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Awaitable, Callable

from pymodbus import FramerType
from pymodbus.client import AsyncModbusTcpClient
from pymodbus.exceptions import ModbusException
from pymodbus.pdu import ModbusPDU

from citysense_gateway.modbus.endpoint import Line, Link
from citysense_profiles import Read

REPLY_TIMEOUT = 1.0
"""Seconds for a connection to open and for a reply to come."""
LATE_REPLY = 3.0
"""Seconds after which no reply to an earlier request is expected any more: three reply timeouts, a choice.

On RTU over TCP nothing in a late reply tells it from the one that is awaited."""
_FUNCTION = {"coil": 1, "discrete": 2, "holding": 3, "input": 4}
_EXCEPTIONS = {
    1: "illegal function",
    2: "illegal address",
    3: "illegal value",
    4: "device failure",
    5: "acknowledged, not done",
    6: "device busy",
    8: "memory parity error",
    10: "gateway: no path",
    11: "gateway: no reply from the unit",
}


class ExchangeFailed(Exception):
    """No reply that can be trusted; the connection is closed. The text says why."""


class ReadRefused(Exception):
    """The device answered that it does not serve this read; the connection is good. `code` is Modbus's own."""

    def __init__(self, code: int) -> None:
        super().__init__(f"exception {code} ({_EXCEPTIONS.get(code, 'not in the standard')})")
        self.code = code


class Connection:
    """Opens itself when it is needed. `late_reply` only matters on RTU over TCP."""

    def __init__(self, line: Line, *, reply_timeout: float = REPLY_TIMEOUT, late_reply: float = LATE_REPLY) -> None:
        self._line = line
        self._reply_timeout = reply_timeout
        self._late_reply = late_reply
        self._client: AsyncModbusTcpClient | None = None
        self._awaiting = False
        self._transaction = 0

    async def read(self, unit: int, read: Read) -> tuple[int, ...]:
        """The words (bits as 0 and 1) of one read, in order of their addresses.

        Raises ExchangeFailed and ReadRefused. Cancelling it closes the connection.
        """
        try:
            client = await self._opened()
            reply = await self._exchange(client, unit, read)
            return _words(reply, unit, read)
        except ReadRefused:
            raise
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Hang up. The socket is gone after the loop's next turn."""
        client, self._client = self._client, None
        if client is not None:
            # Carried on, so that a late reply of this connection never has the number of a request on the next one.
            self._transaction = client.ctx.next_tid
            client.close()

    async def _opened(self) -> AsyncModbusTcpClient:
        if self._client is not None and self._client.connected:
            return self._client
        self.close()
        rtu = self._line.link is Link.RTU_TCP
        client = AsyncModbusTcpClient(
            self._line.host,
            port=self._line.port,
            framer=FramerType.RTU if rtu else FramerType.SOCKET,
            reconnect_delay=0,
            timeout=self._reply_timeout,
            retries=0,
            trace_connect=self._link_changed,
        )
        self._client = client
        self._guard(client)
        if not await client.connect():
            raise ExchangeFailed(f"{self._line} takes no connection")
        client.ctx.next_tid = self._transaction
        if rtu:
            # A serial server hands a slave's late reply to whoever is connected by then: let it come, and drop it.
            await asyncio.sleep(self._late_reply)
            if not client.connected:
                raise ExchangeFailed(f"{self._line} hung up")
        return client

    async def _exchange(self, client: AsyncModbusTcpClient, unit: int, read: Read) -> ModbusPDU:
        ask = _ask(client, read.table)
        self._awaiting = True
        try:
            return await ask(read.address, count=read.count, device_id=unit)
        except (ModbusException, OSError, ValueError) as error:
            raise ExchangeFailed(f"{read.table} {read.address}: {_reason(error, self._reply_timeout)}") from error
        finally:
            self._awaiting = False

    def _guard(self, client: AsyncModbusTcpClient) -> None:
        """Between the socket and the library's parser: what nobody asked for is dropped, what breaks it is a failure.

        Without it an undecodable reply would surface as an unhandled error of the event loop, and the request would
        wait for its timeout.
        """
        parse: Callable[..., int] = client.ctx.callback_data

        def guarded(data: bytes, addr: tuple[str, int] | None = None) -> int:
            if not self._awaiting:
                return len(data)
            try:
                return parse(data, addr)
            except (ModbusException, ValueError, IndexError, struct.error) as error:
                self._fail(client, f"undecodable reply: {error}")
                return len(data)

        client.ctx.callback_data = guarded  # type: ignore[method-assign]

    def _link_changed(self, up: bool) -> None:
        if not up and self._awaiting and self._client is not None:
            self._fail(self._client, "the peer hung up")

    def _fail(self, client: AsyncModbusTcpClient, text: str) -> None:
        future = client.ctx.response_future
        if not future.done():
            future.set_exception(ModbusException(text))


def silence_library() -> None:
    """Keep pymodbus from logging every failed request on its own: outages are logged once, by the poller."""
    logging.getLogger("pymodbus.logging").setLevel(logging.CRITICAL)


def _ask(client: AsyncModbusTcpClient, table: str) -> Callable[..., Awaitable[ModbusPDU]]:
    return {
        "coil": client.read_coils,
        "discrete": client.read_discrete_inputs,
        "holding": client.read_holding_registers,
        "input": client.read_input_registers,
    }[table]


def _words(reply: ModbusPDU, unit: int, read: Read) -> tuple[int, ...]:
    """The reply's words if it is the answer to `read`: the library compares neither function nor count."""
    function = _FUNCTION[read.table]
    place = f"{read.table} {read.address}"
    if unit and reply.dev_id != unit:
        raise ExchangeFailed(f"{place}: unit {reply.dev_id} answered instead of {unit}")
    if reply.function_code & 0x7F != function:
        raise ExchangeFailed(f"{place}: the reply is to function {reply.function_code & 0x7F}, not {function}")
    if reply.isError():
        raise ReadRefused(reply.exception_code)
    if read.table in ("coil", "discrete"):
        # Bits come in whole bytes.
        if len(reply.bits) != -(-read.count // 8) * 8:
            raise ExchangeFailed(f"{place}: {len(reply.bits)} bits came, {read.count} were asked for")
        return tuple(int(bit) for bit in reply.bits[: read.count])
    if len(reply.registers) != read.count:
        raise ExchangeFailed(f"{place}: {len(reply.registers)} registers came, {read.count} were asked for")
    return tuple(reply.registers)


def _reason(error: Exception, timeout: float) -> str:
    text = str(error).removeprefix("Modbus Error: ")
    return f"no reply within {timeout:g} s" if "No response received" in text else text
