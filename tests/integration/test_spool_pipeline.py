"""A frame's way through the gateway onto the disk, with the real spool and the real profiles."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from citysense import wire
from citysense.clock import SetClock
from citysense.crash_points import CrashPoints
from citysense.errors import Overloaded, StorageFull
from citysense.keys import Sealer, TagPseudonym
from citysense.wire import Roster, RosterDevice
from citysense_gateway.counters import FrameCounters
from citysense_gateway.dead_letters import GATEWAY, Quota
from citysense_gateway.devices import Devices
from citysense_gateway.fingerprint import COAP_EXCHANGE_MS, KEPT_MS
from citysense_gateway.frame import Frame, Identity, Kind, Reason, Receipt, Transport, Verdict
from citysense_gateway.pipeline import Pipeline
from citysense_gateway.received_numbers import BOOTS_KEPT
from citysense_gateway.sequence import Sequence, receive
from citysense_gateway.spool import JOB_BOUND, MAX_KEYS, Spool
from citysense_profiles.catalogue import load_catalogue
from citysense_profiles.profile import Profile
from citysense_profiles.reading import ReadingClass
from citysense_profiles.vocabulary import load_vocabulary

CATALOGUE = load_catalogue()
NOW = 1_795_190_934_423
SEALER = Sealer(bytes(32))
DEVICES = (
    RosterDevice(id="gauge-1", profile="generic/water-gauge"),
    RosterDevice(id="reader-1", profile="impinj/r700", serial="001625012345"),
    RosterDevice(id="level-1", profile="dfrobot/sen0676"),
    RosterDevice(id="lock-1", profile="generic/nbiot-lock"),
)


@dataclass
class Bench:
    """A gateway without doors and uplink."""

    spool: Spool
    pipeline: Pipeline
    counters: FrameCounters
    clock: SetClock
    crash: CrashPoints

    def records(self, cls: ReadingClass) -> list[wire.Body]:
        return [wire.decode_body(record.body) for record in self.spool.log.read(cls, after=0, limit=10_000)]

    def letters(self) -> list[wire.DeadLetter]:
        return [body for body in self.records(ReadingClass.STATE) if isinstance(body, wire.DeadLetter)]

    def levels(self) -> list[wire.Readings]:
        return [body for body in self.records(ReadingClass.SAFETY) if isinstance(body, wire.Readings)]


def bench(folder: Path, *, max_keys: int = MAX_KEYS) -> Bench:
    clock, crash, counters = SetClock(NOW), CrashPoints(), FrameCounters()
    spool = Spool(folder / "spool.db", clock=clock, crash=crash, reserve_bytes=1 << 16, max_keys=max_keys)
    devices = Devices(CATALOGUE)
    devices.replace(Roster(version=1, devices=list(DEVICES)))
    pipeline = Pipeline(
        devices=devices,
        spool=spool,
        vocabulary=load_vocabulary(),
        pseudonym=TagPseudonym(bytes(32)),
        seal=SEALER.seal,
        counters=counters,
        crash=crash,
        quota=Quota(letters=50),
    )
    spool.open()
    return Bench(spool, pipeline, counters, clock, crash)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Bench]:
    made = bench(tmp_path)
    yield made
    made.spool.close()


def frame(payload: object, device: str | None = "gauge-1", **changes: object) -> Frame:
    fields: dict[str, object] = {
        "transport": Transport.MQTT,
        "channel": f"cs/v1/{device}/up/report",
        "device": device,
        "identity": Identity.CREDENTIAL,
        "source": "192.0.2.1:5000",
        "received_at": NOW,
        "payload": payload if isinstance(payload, bytes) else json.dumps(payload).encode(),
    }
    return Frame(**{**fields, **changes})  # type: ignore[arg-type]


def report(seq: int, boot: int = 3, base: int | None = None, level: float = 12.3) -> dict[str, object]:
    body: dict[str, object] = {"boot": boot, "seq": seq, "t": NOW - 1_000, "v": {"water.level": level}}
    return body if base is None else {**body, "base": base}


def test_a_frame_is_stored_split_by_class_and_receipted(gateway: Bench) -> None:
    async def run() -> None:
        payload = {"boot": 3, "seq": 0, "t": NOW, "v": {"water.level": 12.3, "battery.voltage": 3.61}}
        verdict = await gateway.pipeline.accept(frame(payload))
        assert verdict == Verdict(kind=Kind.STORED, receipt=Receipt(boot=3, seq=0))

    asyncio.run(run())
    (level,) = gateway.levels()
    assert level.samples == [wire.SampleBody(time=NOW, values={"water.level": 12.3})]
    (battery,) = gateway.records(ReadingClass.BULK)
    assert isinstance(battery, wire.Readings)
    assert battery.samples[0].values == {"battery.voltage": 3.61}
    assert (battery.boot, battery.seq) == (level.boot, level.seq) == (3, 0)


async def test_a_repeat_is_answered_as_the_first_time_and_stored_once(gateway: Bench, tmp_path: Path) -> None:
    first = await gateway.pipeline.accept(frame(report(0)))
    again = await gateway.pipeline.accept(frame(report(0)))
    assert (first.kind, again.kind) == (Kind.STORED, Kind.DUPLICATE)
    assert first.receipt == again.receipt == Receipt(boot=3, seq=0)
    gateway.spool.close()
    reopened = bench(tmp_path)
    try:
        after_restart = await reopened.pipeline.accept(frame(report(0)))
        assert after_restart.kind is Kind.DUPLICATE
        assert len(reopened.levels()) == 1
    finally:
        reopened.spool.close()


async def test_repeats_at_the_same_moment_are_one(gateway: Bench) -> None:
    verdicts = await asyncio.gather(*(gateway.pipeline.accept(frame(report(0))) for _ in range(20)))
    assert [verdict.kind for verdict in verdicts].count(Kind.STORED) == 1
    assert len(gateway.levels()) == 1


async def test_frames_without_a_time_repeat_only_where_the_protocol_says_so(gateway: Bench) -> None:
    senml = [{"n": "/3/0/9", "v": 87.0}]

    async def sent(flag: bytes, packet: bytes) -> Kind:
        made = frame(senml, "lock-1", message="report", content=110, delivery=flag + packet)
        return (await gateway.pipeline.accept(made)).kind

    assert await sent(b"\x00", b"1") is Kind.STORED
    assert await sent(b"\x00", b"1") is Kind.STORED, "the same number again without DUP is another reading"
    assert await sent(b"\x01", b"1") is Kind.DUPLICATE
    assert await sent(b"\x01", b"2") is Kind.STORED, "DUP of a message that never arrived"


async def test_a_coap_message_id_is_forgotten_after_its_lifetime(gateway: Bench) -> None:
    async def sent(after_ms: int) -> Kind:
        made = frame(
            [{"n": "/3/0/9", "v": 87.0}],
            "lock-1",
            transport=Transport.COAP,
            content=110,
            delivery=b"peer/7",
            received_at=NOW + after_ms,
        )
        return (await gateway.pipeline.accept(made)).kind

    assert await sent(0) is Kind.STORED
    assert await sent(COAP_EXCHANGE_MS) is Kind.DUPLICATE
    assert await sent(COAP_EXCHANGE_MS + 1) is Kind.STORED


async def test_two_equal_polls_are_two_readings(gateway: Bench) -> None:
    for _ in range(2):
        made = frame(b"", "level-1", transport=Transport.MODBUS, registers={("holding", 3): 123})
        assert (await gateway.pipeline.accept(made)).kind is Kind.STORED
    assert [reading.samples[0].values for reading in gateway.levels()] == [{"water.level": 12.3}] * 2


@pytest.mark.parametrize(
    ("made", "reason", "sealed_for"),
    [
        (frame(b"{", message="report"), Reason.UNDECODABLE, ""),
        (frame(report(0), message="rapport"), Reason.NO_SUCH_MESSAGE, ""),
        (frame(report(0), "level-1", message="status"), Reason.NO_SUCH_MESSAGE, ""),
        (frame(report(0), "stranger"), Reason.UNKNOWN_DEVICE, GATEWAY),
        (frame(b"x", None), Reason.UNKNOWN_DEVICE, GATEWAY),
        (frame(b"[1, 2]", "reader-1"), Reason.UNDECODABLE, "device/reader-1"),
        (
            frame(
                {"eventType": "tagInventory", "hostname": "impinj-99-99-99", "tagInventoryEvent": {"epcHex": "7EDA"}},
                "reader-1",
            ),
            Reason.IDENTITY_MISMATCH,
            "device/reader-1",
        ),
        (
            frame(b"", "level-1", transport=Transport.MODBUS, registers={("holding", 4000): 1}),
            Reason.NO_MATCH,
            "",
        ),
    ],
    ids=[
        "cut short",
        "no such message",
        "polled only",
        "stranger",
        "nobody",
        "personal",
        "another's serial",
        "registers",
    ],
)
async def test_what_cannot_be_used_is_kept_with_the_reason(
    gateway: Bench, made: Frame, reason: Reason, sealed_for: str
) -> None:
    verdict = await gateway.pipeline.accept(made)
    assert (verdict.kind, verdict.reason) == (Kind.REJECTED, reason)
    assert verdict.detail
    (letter,) = gateway.letters()
    assert (letter.reason, letter.detail, letter.seal) == (reason.value, verdict.detail, sealed_for)
    raw = SEALER.open(sealed_for, letter.raw) if sealed_for else letter.raw
    assert raw == (made.payload or b'{"holding":{"4000":1}}')
    assert gateway.levels() == []
    assert gateway.counters.snapshot()[f"rejected.{reason.value}"] == 1


async def test_a_personal_frames_detail_tells_the_place_and_not_the_value(gateway: Bench) -> None:
    payload = [{"eventType": "tagInventory", "tagInventoryEvent": {"epcHex": "SECRET-TAG"}}]
    verdict = await gateway.pipeline.accept(frame(payload, "reader-1"))
    assert verdict.reason is Reason.UNDECODABLE
    assert "SECRET" not in verdict.detail
    assert "field" in verdict.detail


async def test_doors_refusals_are_kept_and_counted(gateway: Bench) -> None:
    verdict = await gateway.pipeline.refuse(
        frame(b"", None, identity=Identity.ASSERTED), Reason.BAD_CREDENTIAL, "CONNECT with a wrong password"
    )
    assert (verdict.kind, verdict.reason) == (Kind.REJECTED, Reason.BAD_CREDENTIAL)
    (letter,) = gateway.letters()
    assert letter.raw == b""


async def test_a_flood_of_rubbish_does_not_fill_the_disk(gateway: Bench) -> None:
    verdicts = await asyncio.gather(*(gateway.pipeline.accept(frame(b"{")) for _ in range(60)))
    assert {verdict.kind for verdict in verdicts} == {Kind.REJECTED}
    assert len(gateway.letters()) == 50
    figures = gateway.counters.snapshot()
    assert (figures["rejected.undecodable"], figures["dead_letters.over_quota"]) == (60, 10)
    assert (await gateway.pipeline.accept(frame(report(0)))).kind is Kind.STORED


async def test_every_frame_ends_in_exactly_one_bin(gateway: Bench) -> None:
    for made in (frame(report(0)), frame(report(0)), frame(report(1)), frame(b"{"), frame(report(0), "stranger")):
        await gateway.pipeline.accept(made)
    gateway.spool.close()
    assert (await gateway.pipeline.accept(frame(report(2)))).kind is Kind.UNAVAILABLE
    assert (await gateway.pipeline.accept(frame(b"{"))).kind is Kind.UNAVAILABLE
    figures = gateway.counters.snapshot()
    came_in = sum(figures[f"frames.{transport.value}"] for transport in Transport)
    ended = sum(
        v for name, v in figures.items() if name in ("stored", "duplicate", "unavailable") or "rejected." in name
    )
    assert came_in == ended == 7
    assert (figures["stored"], figures["duplicate"], figures["unavailable"]) == (2, 1, 2)


@pytest.mark.parametrize(
    "defect", [KeyError("SECRET"), TypeError("SECRET"), ZeroDivisionError("SECRET"), RecursionError("SECRET")]
)
@pytest.mark.parametrize("device", ["gauge-1", "reader-1"])
async def test_a_defect_stops_one_frame_and_nothing_else(
    gateway: Bench,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    defect: Exception,
    device: str,
) -> None:
    def poisoned(*_: object, **__: object) -> object:
        raise defect

    with monkeypatch.context() as patch:
        patch.setattr(Profile, "decode", poisoned)
        verdicts = [await gateway.pipeline.accept(frame(b"payload", device)) for _ in range(3)]
        assert {(verdict.kind, verdict.reason) for verdict in verdicts} == {(Kind.REJECTED, Reason.INTERNAL)}
    assert (await gateway.pipeline.accept(frame(report(0)))).kind is Kind.STORED
    figures = gateway.counters.snapshot()
    assert (figures["rejected.internal"], figures["unavailable"], figures["stored"]) == (3, 0, 1)
    assert figures["frames.mqtt"] == 4
    letters = gateway.letters()
    assert [letter.reason for letter in letters] == ["internal"] * 3
    personal = device == "reader-1"
    assert bool(letters[0].seal) == personal
    assert (b"payload" in letters[0].raw) != personal
    assert type(defect).__name__ in letters[0].detail
    assert "SECRET" not in letters[0].detail + verdicts[0].detail
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1, "one place, one traceback"
    assert "in poisoned" in told[0]
    assert ("SECRET" in told[0]) != personal, "what a person's device sent does not stand in a log"


async def test_a_defect_in_a_doors_refusal_and_in_keeping_it_is_counted_too(
    gateway: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poisoned(*_: object) -> bytes:
        raise ValueError("no key")

    with monkeypatch.context() as patch:
        patch.setattr(gateway.pipeline, "_seal", poisoned)
        verdict = await gateway.pipeline.refuse(frame(b"x", "stranger"), Reason.FOREIGN_TOPIC, "not its own")
        assert verdict.kind is Kind.UNAVAILABLE
    assert gateway.counters.snapshot()["rejected.internal"] == 1
    assert gateway.letters() == []
    assert (await gateway.pipeline.accept(frame(report(0)))).kind is Kind.STORED


async def test_a_gap_is_counted_and_kept_once_however_often_its_frame_comes(gateway: Bench) -> None:
    gap = {**report(0), "v": {"water.level": None}}
    kinds = [(await gateway.pipeline.accept(frame(gap))).kind for _ in range(60)]
    assert (kinds.count(Kind.STORED), kinds.count(Kind.DUPLICATE)) == (1, 59)
    assert [letter.reason for letter in gateway.letters()] == ["no_value"]
    figures = gateway.counters.snapshot()
    assert figures["no_value"] == 1
    assert "dead_letters.over_quota" not in figures
    await gateway.pipeline.accept(frame(b"{"))
    assert len(gateway.letters()) == 2, "repeats have used nothing up"


async def test_gaps_beyond_the_quota_are_counted_and_stored_without_a_copy(gateway: Bench) -> None:
    for seq in range(52):
        assert (await gateway.pipeline.accept(frame({**report(seq), "v": {"water.level": None}}))).kind is Kind.STORED
    figures = gateway.counters.snapshot()
    assert (figures["no_value"], figures["dead_letters.over_quota"], len(gateway.letters())) == (52, 2, 50)


async def test_a_frame_without_any_value_makes_no_record_and_is_receipted(gateway: Bench) -> None:
    empty = {"boot": 3, "seq": 0, "v": {}}
    receipt = Receipt(boot=3, seq=0)
    assert await gateway.pipeline.accept(frame(empty)) == Verdict(kind=Kind.STORED, receipt=receipt)
    assert await gateway.pipeline.accept(frame(empty)) == Verdict(kind=Kind.DUPLICATE, receipt=receipt)
    assert [gateway.records(cls) for cls in ReadingClass] == [[], [], []]
    figures = gateway.counters.snapshot()
    assert (figures["stored"], figures["duplicate"]) == (1, 1)


async def test_a_crash_point_that_is_not_armed_costs_the_loop_nothing(
    gateway: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("citysense_gateway.pipeline._after_turns", lambda *_: pytest.fail("scheduled"))
    assert (await gateway.pipeline.accept(frame(report(0)))).kind is Kind.STORED


async def test_a_full_disk_is_told_to_the_device(gateway: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise StorageFull("no space left")

    monkeypatch.setattr(gateway.spool.log, "_write", full)
    assert (await gateway.pipeline.accept(frame(report(0)))).kind is Kind.UNAVAILABLE


@pytest.mark.parametrize("field", ["boot", "seq", "base"])
async def test_numbers_that_cannot_be_counted_with_are_refused(gateway: Bench, field: str) -> None:
    verdict = await gateway.pipeline.accept(frame({**report(5), field: 1 << 63}))
    assert verdict.kind is Kind.REJECTED
    assert (await gateway.pipeline.accept(frame(report(5)))).kind is Kind.STORED


async def test_the_crash_point_after_the_ack_lies_behind_the_doors_answer(tmp_path: Path) -> None:
    order: list[str] = []
    made = bench(tmp_path)
    made.pipeline._crash = CrashPoints("door.after_ack", die=lambda: order.append("dead"))
    loop = asyncio.get_running_loop()
    try:
        # As the MQTT door does it: a task, its callback, and a flush in the next turn.
        task = asyncio.create_task(made.pipeline.accept(frame(report(0))))
        task.add_done_callback(lambda _: loop.call_soon(order.append, "acknowledged"))
        await task
        for _ in range(6):
            await asyncio.sleep(0)
    finally:
        made.spool.close()
    assert order == ["acknowledged", "dead"]


async def test_only_the_last_boots_of_a_device_are_remembered(gateway: Bench) -> None:
    for boot in range(BOOTS_KEPT + 5):
        await gateway.pipeline.accept(frame(report(0, boot=boot)))
    boots = [row[0] for row in gateway.spool.log.select("SELECT boot FROM sequence ORDER BY boot")]
    assert boots == list(range(5, BOOTS_KEPT + 5))
    assert (await gateway.pipeline.accept(frame(report(0, boot=10)))).kind is Kind.DUPLICATE


async def test_a_device_whose_boot_counter_was_reset_is_still_counted(gateway: Bench) -> None:
    for boot in range(100, 100 + BOOTS_KEPT + 1):
        await gateway.pipeline.accept(frame(report(0, boot=boot)))
    verdicts = [await gateway.pipeline.accept(frame(report(seq, boot=0))) for seq in (0, 0, 1)]
    assert [verdict.kind for verdict in verdicts] == [Kind.STORED, Kind.DUPLICATE, Kind.STORED]
    assert verdicts[-1].receipt == Receipt(boot=0, seq=1)


async def test_keys_go_when_they_are_old_or_too_many(tmp_path: Path) -> None:
    made = bench(tmp_path, max_keys=3)

    async def send(number: int, at: int) -> Kind:
        sent = frame([{"n": "/3/0/9", "v": 1.0, "t": NOW / 1000 + number}], "lock-1", content=110, received_at=at)
        return (await made.pipeline.accept(sent)).kind

    def keys() -> int:
        return int(made.spool.log.select("SELECT count(*) FROM fingerprint")[0][0])

    try:
        assert {await send(number, NOW) for number in range(5)} == {Kind.STORED}
        assert await send(4, NOW) is Kind.DUPLICATE
        await made.spool.tend()
        assert keys() == 3
        made.clock.advance(KEPT_MS + 1)
        await made.spool.tend()
        assert keys() == 0
    finally:
        made.spool.close()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    events=st.lists(
        st.one_of(st.just("restart"), st.tuples(st.integers(0, 1), st.integers(0, 9), st.none() | st.integers(0, 9))),
        max_size=25,
    )
)
def test_receipts_and_repeats_survive_any_order_and_restarts(
    tmp_path_factory: pytest.TempPathFactory, events: list[str | tuple[int, int, int | None]]
) -> None:
    folder = tmp_path_factory.mktemp("spool")

    async def play() -> None:
        made = bench(folder)
        states: dict[int, Sequence] = {}
        stored = 0
        try:
            for event in events:
                if isinstance(event, str):
                    made.spool.close()
                    made = bench(folder)
                    continue
                boot, seq, base = event
                base = None if base is None else min(base, seq)
                states[boot], is_new = receive(states.get(boot, Sequence()), seq, base)
                stored += is_new
                verdict = await made.pipeline.accept(frame(report(seq, boot, base)))
                done = states[boot].contiguous
                assert verdict == Verdict(
                    kind=Kind.STORED if is_new else Kind.DUPLICATE,
                    receipt=None if done is None else Receipt(boot=boot, seq=done),
                )
            assert len(made.levels()) == stored
        finally:
            made.spool.close()

    asyncio.run(play())


async def test_a_defect_of_one_door_keeps_no_verdict_from_another(
    gateway: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[int] = []

    def take(seq: int, verdict: Verdict) -> None:
        if seq == 1:
            raise KeyError("a door's own defect")
        told.append(seq)

    for seq in range(5):
        gateway.pipeline.deliver(frame(report(seq)), partial(take, seq))
    async with asyncio.timeout(10):
        while len(told) < 4:
            await asyncio.sleep(0)
    assert told == [0, 2, 3, 4]
    assert "in take" in caplog.text


async def test_no_verdict_comes_from_within_the_delivery(gateway: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def overloaded(*_: object, **__: object) -> None:
        raise Overloaded("too many writes wait")

    monkeypatch.setattr(gateway.spool.log, "post", overloaded)
    told: list[Verdict] = []
    for seq in range(JOB_BOUND + 1):
        gateway.pipeline.deliver(frame(report(seq)), told.append)
        assert not told
    async with asyncio.timeout(10):
        while len(told) <= JOB_BOUND:
            await asyncio.sleep(0)
    assert {verdict.kind for verdict in told} == {Kind.UNAVAILABLE}
