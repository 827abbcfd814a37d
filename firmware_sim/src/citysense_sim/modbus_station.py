"""A virtual Modbus device: a TCP server whose registers are computed in the moment they are read.

Owns the server's socket and the shape of pymodbus's register blocks. What the registers say is the caller's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from pymodbus.constants import ExcCodes
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from citysense.errors import SetupError

Registers = Mapping[tuple[str, int], int]
UNIT = 1
_TABLE_OF_FUNCTION = {
    1: "coil",
    2: "discrete",
    3: "holding",
    4: "input",
    5: "coil",
    6: "holding",
    15: "coil",
    16: "holding",
}
"""Modbus Application Protocol V1.1b3 section 6."""
_TABLES = ("coil", "discrete", "holding", "input")  # pymodbus's order of blocks
_UNUSED = 65_535
"""pymodbus wants every block to hold something; an empty table gets its last address, which no profile reads."""


class ModbusStation:
    """Serves unit 1 of one device on 127.0.0.1. `registers` is called at every read and names every address there is.

    What was written is read back from then on, whatever `registers` says; it has no effect beyond that.
    """

    def __init__(self, registers: Callable[[], Registers]) -> None:
        self._registers = registers
        self._written: dict[tuple[str, int], int] = {}
        self._server: ModbusTcpServer | None = None
        self.port = 0

    async def start(self, wanted: int = 0) -> None:
        """Listen on the wanted port, or on a free one when it is 0 or taken. Raises SetupError."""
        for port in dict.fromkeys((wanted, 0)):
            server = ModbusTcpServer(
                [SimDevice(id=UNIT, simdata=_blocks(self._registers()), action=self._answer)],
                address=("127.0.0.1", port),
            )
            try:
                await server.serve_forever(background=True)
            except RuntimeError:
                continue  # taken; 0 lets the system choose
            self._server = server
            # pymodbus declares its transport wider than what a TCP listener is.
            assert isinstance(server.transport, asyncio.Server)
            self.port = server.transport.sockets[0].getsockname()[1]
            return
        raise SetupError("no TCP port is free on 127.0.0.1 for a virtual Modbus device")

    async def stop(self) -> None:
        """Close the listener and its connections."""
        if self._server is not None:
            await self._server.shutdown()  # type: ignore[no-untyped-call]  # pymodbus leaves it unannotated
            self._server = None

    async def _answer(
        self,
        function: int,
        start: int,
        address: int,
        count: int,
        words: list[int],
        written: list[int] | list[bool] | None,
    ) -> ExcCodes | None:
        table = _TABLE_OF_FUNCTION.get(function)
        if table is None:
            return ExcCodes.ILLEGAL_FUNCTION
        if written is not None:
            self._written.update({(table, address + offset): int(word) for offset, word in enumerate(written)})
            return None
        for (of, where), word in (dict(self._registers()) | self._written).items():
            if of != table:
                continue
            if table in ("holding", "input"):
                words[where - start] = word
            else:
                _set_bit(words, where - start * 16, bool(word))
        return None


def _set_bit(words: list[int], bit: int, value: bool) -> None:
    mask = 1 << (bit % 16)
    words[bit // 16] = words[bit // 16] | mask if value else words[bit // 16] & ~mask


def _blocks(registers: Registers) -> tuple[list[SimData], list[SimData], list[SimData], list[SimData]]:
    """One contiguous block per table: a real device answers for the gaps in its map too."""
    built: list[list[SimData]] = []
    for table in _TABLES:
        addresses = [address for of, address in registers if of == table]
        bits = table in ("coil", "discrete")
        kind = DataType.BITS if bits else DataType.REGISTERS
        if not addresses:
            built.append([SimData(_UNUSED - (15 if bits else 0), values=[False] * 16 if bits else 0, datatype=kind)])
            continue
        low, high = min(addresses), max(addresses)
        words = [registers.get((table, address), 0) for address in range(low, high + 1)]
        built.append([SimData(low, values=[bool(word) for word in words] if bits else words, datatype=kind)])
    return built[0], built[1], built[2], built[3]
