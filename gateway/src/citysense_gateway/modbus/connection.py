"""One connection to one Modbus line: a request, its reply or the reason why not.

Owns the client of pymodbus 3.16 (pinned) and the rule that keeps values at their registers: whatever goes wrong in an
exchange ends the connection. Measured with that version: over RTU framing, which has no transaction id, a connection that
was kept after one timeout gave every later read the value of the read before it; over TCP framing, a truncated reply and
some garbage made all later reads fail. One caller at a time; decides nothing about when.
"""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from pymodbus.client.base import ModbusBaseClient
from pymodbus.exceptions import ModbusException
from pymodbus.pdu import ModbusPDU

from citysense_gateway.modbus.endpoint import Line
from citysense_gateway.modbus.links import is_rtu, new_client
from citysense_gateway.modbus.resync import Request, data_bytes, function_of
from citysense_gateway.modbus.rtu import Found, Wanted, describe, sift
from citysense_profiles import Read, Write

CONNECT_TIMEOUT = 3.0
"""Seconds for a connection to open, TLS included. A converter in the same city needs some milliseconds."""
MOST_UNASKED = 1_024
"""Bytes that a peer may send between two requests: four replies of full size that came late. Whoever sends on and on would
be listened to at a fifth of a core."""
_SPOILT_SILENCE = 0.25
"""Share of the timeout after which bytes that are as many as the reply, and are none, count as the reply, spoilt: on a line
where somebody spoke into it, no other one follows."""
_BITS_A_BYTE = 11
"""Start, 8 data, parity or second stop, stop: Modbus over serial line 1.02, section 2.5.1."""
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
    """No reply that can be trusted; the connection is closed. The text says why.

    `damaged`: a reply did come, and was spoilt on the way.
    """

    def __init__(self, text: str, *, damaged: bool = False) -> None:
        super().__init__(text)
        self.damaged = damaged


class LineDown(Exception):
    """The line takes no connection. The text says why."""


class Refused(Exception):
    """The device answered that it does not serve this request; the connection is good. `code` is Modbus's own."""

    def __init__(self, code: int) -> None:
        super().__init__(f"exception {code} ({_EXCEPTIONS.get(code, 'not in the standard')})")
        self.code = code


class _Damaged(ModbusException):
    """Tells the waiting exchange that no better reply will come."""


class Connection:
    """`on_stray` is told bytes that came while nothing was asked. `tls` is there where the line needs it."""

    def __init__(
        self,
        line: Line,
        *,
        tls: ssl.SSLContext | None = None,
        connect_timeout: float = CONNECT_TIMEOUT,
        on_stray: Callable[[bytes], None] | None = None,
    ) -> None:
        self._line = line
        self._tls = tls
        self._connect_timeout = connect_timeout
        self._on_stray = on_stray
        self._rtu = is_rtu(line)
        self._client: ModbusBaseClient | None = None
        self._awaiting = False
        self._unasked = 0
        self._transaction = 0
        self._heard = b""
        self._wanted: Wanted | None = None
        self._spoilt: asyncio.TimerHandle | None = None
        self._patience = 0.0
        self._echoing = False
        """Whether the line gives back what is sent; the last read told."""

    @property
    def is_open(self) -> bool:
        """Whether requests can go out."""
        return self._client is not None and self._client.connected

    async def open(self) -> None:
        """Connect, if not connected. Raises LineDown. What comes in from then on and was not asked for is dropped."""
        if self.is_open:
            return
        self.close()
        client = new_client(self._line, tls=self._tls, trace_packet=self._note, trace_connect=self._link_changed)
        reasons: list[Exception] = []
        client.ctx.call_create = _telling(client.ctx.call_create, reasons)
        self._client = client
        self._guard(client)
        try:
            async with asyncio.timeout(self._connect_timeout):
                connected = await client.connect()
        except TimeoutError as error:
            self.close()
            raise LineDown(f"{self._line} takes no connection within {self._connect_timeout:g} s") from error
        except BaseException:
            self.close()
            raise
        if not connected:
            self.close()
            raise LineDown(f"{self._line} takes no connection: {_cause(reasons)}")
        client.ctx.next_tid = self._transaction

    async def exchange(self, unit: int, request: Request, within: float) -> tuple[int, ...]:
        """What a read brought: its words (bits as 0 and 1) in the order of their addresses. Nothing for a write, which
        is confirmed when this returns.

        `within` in seconds, from the request's last byte on. Raises ExchangeFailed and Refused. Cancelling it closes
        the connection.
        """
        try:
            reply = await self._reply(unit, request, within)
            if isinstance(request, Read):
                return _words(reply, unit, request)
            _check_confirmed(reply, unit, request)
            return ()
        except Refused:
            raise
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Hang up. The socket is gone after the loop's next turn."""
        client, self._client = self._client, None
        if client is not None:
            # Carried on, so that a late reply of this connection never has the number of a request on the next one.
            self._transaction = client.ctx.next_tid or self._transaction
            client.close()

    async def _reply(self, unit: int, request: Request, within: float) -> ModbusPDU:
        client = self._client
        if client is None or not client.connected:
            raise ExchangeFailed(f"{self._line} hung up")
        place = _place(request)
        data = data_bytes(request) if isinstance(request, Read) else None
        self._wanted = Wanted(unit=unit, function=function_of(request), request=b"", data=data)
        self._heard = b""
        self._patience = within * _SPOILT_SILENCE
        self._awaiting = True
        self._unasked = 0
        try:
            async with asyncio.timeout(within + self._wire_time(request)):
                return await _ask(client, unit, request)
        except TimeoutError as error:
            told = describe(self._heard, self._wanted) if self._rtu and self._heard else ""
            raise ExchangeFailed(f"{place}: {told or 'no reply'} within {within:g} s") from error
        except _Damaged as error:
            raise ExchangeFailed(f"{place}: {error.string}", damaged=self._rtu) from error
        except (ModbusException, OSError, ValueError) as error:
            raise ExchangeFailed(f"{place}: {str(error).removeprefix('Modbus Error: ')}") from error
        finally:
            self._awaiting = False
            self._be_patient()

    def _wire_time(self, request: Request) -> float:
        """Seconds that request and reply take on a serial port; unknown, and left to the timeout, behind a converter."""
        if not self._line.baud:
            return 0.0
        data = data_bytes(request) if isinstance(request, Read) else 2 * len(request.words)
        return (16 + data) * _BITS_A_BYTE / self._line.baud

    def _note(self, sending: bool, data: bytes) -> bytes:
        if sending and self._wanted is not None:
            self._wanted = replace(self._wanted, request=data)
        return data

    def _guard(self, client: ModbusBaseClient) -> None:
        """Between the socket and the library's parser: what nobody asked for is dropped, what breaks it is a failure.

        Without it an undecodable reply would surface as an unhandled error of the event loop, and the request would
        wait for its timeout. On RTU lines the parser gets the reply and nothing else.
        """
        parse: Callable[..., int] = client.ctx.callback_data

        def guarded(data: bytes, addr: Any = None) -> int:
            if not self._awaiting:
                if self._on_stray is not None and self._rtu:
                    self._on_stray(data)
                return len(data)
            try:
                return self._sifted(client, data, parse) if self._rtu else parse(data, addr)
            except (ModbusException, ValueError, IndexError, struct.error) as error:
                self._fail(client, ModbusException(f"undecodable reply: {error}"))
                return len(data)

        client.ctx.callback_data = guarded  # type: ignore[method-assign]
        receive: Callable[[bytes], None] = client.ctx.data_received

        def counted(data: bytes) -> None:
            # Before the library's own bound, which throws away what is longer than a telegram without a word.
            if not self._awaiting:
                self._unasked += len(data)
                if self._unasked > MOST_UNASKED:
                    self.close()
                    return
            receive(data)

        client.ctx.data_received = counted  # type: ignore[method-assign]

    def _sifted(self, client: ModbusBaseClient, data: bytes, parse: Callable[..., int]) -> int:
        assert self._wanted is not None
        self._heard = data
        sifted = sift(data, self._wanted, echoing=self._echoing)
        self._be_patient()
        if sifted.found is Found.NOTHING:
            if len(data) - len(self._wanted.request) * sifted.echoed >= self._wanted.length:
                spoilt = _Damaged(describe(data, self._wanted))
                self._spoilt = client.ctx.loop.call_later(self._patience, self._fail, client, spoilt)
            return 0
        if sifted.found is Found.DAMAGED:
            self._fail(client, _Damaged("the reply is damaged: its check sum is wrong, or more follows it"))
            return len(data)
        if self._wanted.data is not None:
            self._echoing = sifted.echoed
        parse(sifted.frame, None)
        return len(data)

    def _be_patient(self) -> None:
        if self._spoilt is not None:
            self._spoilt.cancel()
            self._spoilt = None

    def _link_changed(self, up: bool) -> None:
        if not up and self._awaiting and self._client is not None:
            self._fail(self._client, ModbusException("the peer hung up"))

    def _fail(self, client: ModbusBaseClient, error: ModbusException) -> None:
        future = client.ctx.response_future
        if not future.done():
            future.set_exception(error)


def _telling(create: Callable[[], Awaitable[Any]], reasons: list[Exception]) -> Callable[[], Any]:
    """`create`, which also tells why it fails: the library only logs it."""

    async def told() -> Any:
        try:
            return await create()
        except OSError as error:
            reasons.append(error)
            raise
        except ValueError as error:
            # pyserial's word for settings that the port does not have.
            reasons.append(error)
            raise OSError(str(error)) from error

    return told


def _cause(reasons: list[Exception]) -> str:
    if not reasons:
        return "no reason given"
    last = reasons[-1]
    return (last.strerror if isinstance(last, OSError) else None) or str(last) or type(last).__name__


def _ask(client: ModbusBaseClient, unit: int, request: Request) -> Awaitable[ModbusPDU]:
    if isinstance(request, Read):
        ask = {
            "coil": client.read_coils,
            "discrete": client.read_discrete_inputs,
            "holding": client.read_holding_registers,
            "input": client.read_input_registers,
        }[request.table]
        return ask(request.address, count=request.count, device_id=unit)
    words = request.words
    if request.function == 5:
        return client.write_coil(request.address, bool(words[0]), device_id=unit)
    if request.function == 6:
        return client.write_register(request.address, words[0], device_id=unit)
    if request.function == 15:
        return client.write_coils(request.address, [bool(word) for word in words], device_id=unit)
    return client.write_registers(request.address, list(words), device_id=unit)


def _place(request: Request) -> str:
    return f"{request.table} {request.address}"


def _check_sender(reply: ModbusPDU, unit: int, request: Request) -> None:
    """That the reply is to this request, which the library does not compare. Raises ExchangeFailed and Refused."""
    function = function_of(request)
    if unit and reply.dev_id != unit:
        raise ExchangeFailed(f"{_place(request)}: unit {reply.dev_id} answered instead of {unit}")
    if reply.function_code & 0x7F != function:
        answered = reply.function_code & 0x7F
        raise ExchangeFailed(f"{_place(request)}: the reply is to function {answered}, not {function}")
    if reply.isError():
        raise Refused(reply.exception_code)


def _words(reply: ModbusPDU, unit: int, read: Read) -> tuple[int, ...]:
    """The reply's words if it is the answer to `read`: the library compares neither function nor count."""
    _check_sender(reply, unit, read)
    if read.table in ("coil", "discrete"):
        # Bits come in whole bytes.
        if len(reply.bits) != -(-read.count // 8) * 8:
            raise ExchangeFailed(f"{_place(read)}: {len(reply.bits)} bits came, {read.count} were asked for")
        return tuple(int(bit) for bit in reply.bits[: read.count])
    if len(reply.registers) != read.count:
        raise ExchangeFailed(f"{_place(read)}: {len(reply.registers)} registers came, {read.count} were asked for")
    return tuple(reply.registers)


def _check_confirmed(reply: ModbusPDU, unit: int, write: Write) -> None:
    """That the device repeats what was written (functions 5 and 6) or where and how much (15 and 16)."""
    _check_sender(reply, unit, write)
    said: list[int]
    if write.function in (15, 16):
        said, wrote = [reply.count], [len(write.words)]
    elif write.function == 5:
        said, wrote = [int(bit) for bit in reply.bits[:1]], [int(bool(write.words[0]))]
    else:
        said, wrote = list(reply.registers), list(write.words)
    if reply.address != write.address or said != wrote:
        raise ExchangeFailed(f"{_place(write)}: the device confirms another write ({reply.address}: {said})")
