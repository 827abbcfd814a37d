"""The read that proves a slave to be in step."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from citysense_gateway.modbus.resync import Request, Step, options, shape_of
from citysense_profiles import Read, Write


def holding(address: int, count: int) -> Read:
    return Read(table="holding", address=address, count=count)


ONE = holding(7, 1)
FLOAT = holding(7, 2)
reads = st.builds(
    Read,
    table=st.sampled_from(["coil", "discrete", "holding", "input"]),
    address=st.integers(0, 65_400),
    count=st.integers(1, 120),
)


def step(*planned: Read) -> Step:
    made = Step()
    made.plan(planned)
    return made


def asked(slave: Step) -> Read:
    read = slave.next_read()
    assert read is not None
    return read


def test_a_part_of_a_planned_read_comes_before_registers_that_nobody_planned() -> None:
    assert options([FLOAT])[:2] == (FLOAT, holding(7, 1))
    assert options([ONE]) == (
        ONE,
        holding(7, 2),
        Read(table="input", address=7, count=1),
        Read(table="input", address=7, count=2),
    )


def test_a_planned_read_of_another_shape_is_best() -> None:
    slave = step(FLOAT, holding(40, 5))
    slave.answered(asked(slave))
    slave.lost(FLOAT)
    assert asked(slave) == holding(40, 5)


@settings(max_examples=150)
@given(st.lists(reads, min_size=1, max_size=5), st.data())
def test_it_never_looks_like_what_was_lost_until_all_that_differ_were_tried(
    planned: list[Read], data: st.DataObject
) -> None:
    slave = step(*planned)
    slave.proven = True
    slave._lost.clear()
    lost: list[Request] = [data.draw(st.sampled_from(planned))]
    slave.lost(lost[0])
    for _ in range(len(options(planned)) - len({shape_of(lost[0])})):
        read = asked(slave)
        assert shape_of(read) not in {shape_of(one) for one in lost}
        assert 0 <= read.address <= 65_536 - read.count
        slave.lost(read)
        lost.append(read)
    # Then the one whose reply would have come out by now.
    assert shape_of(asked(slave)) == shape_of(lost[0])


def test_data_proves_the_step() -> None:
    slave = step(ONE)
    assert not slave.proven
    assert slave.answered(asked(slave))
    assert slave.proven


@pytest.mark.parametrize(
    ("code", "served", "proves"), [(2, True, True), (2, False, False), (6, True, False), (4, True, False)]
)
def test_an_exception_proves_only_what_a_late_one_could_not_be(code: int, served: bool, proves: bool) -> None:
    slave = step(ONE)
    slave.answered(asked(slave))
    if served:
        slave.served(ONE)
    slave.lost(ONE)
    assert slave.answered(holding(7, 2), code) is proves
    assert slave.proven is proves


def test_an_exception_to_another_function_proves_the_step() -> None:
    slave = step(ONE)
    slave.lost(ONE)
    assert slave.answered(Read(table="input", address=7, count=1), 1)


def test_a_lost_write_is_followed_by_a_read() -> None:
    slave = step(ONE, FLOAT)
    slave.answered(asked(slave))
    slave.lost(Write(function=6, table="holding", address=3, words=(1,)))
    assert not slave.proven
    assert asked(slave) == ONE


def test_what_nobody_asked_for_raises_doubt() -> None:
    slave = step(ONE)
    slave.answered(asked(slave))
    slave.served(ONE)
    slave.doubt()
    assert not slave.proven
    assert asked(slave) == holding(7, 2)


def test_a_slave_without_reads_has_nothing_to_prove_with() -> None:
    assert Step().next_read() is None
