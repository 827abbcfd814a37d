"""The gateway as a process: real doors, a real spool, kills at named points, and a platform that comes and goes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiomqtt
import msgspec
import pytest
from aiocoap import POST, Context, Message
from aiohttp import web

from citysense import wire
from citysense.errors import SetupError
from citysense.keys import load_or_create_secret, password_digest
from citysense_gateway.settings import parse

PASSWORD = "a password of a gauge"
GAUGE = wire.RosterDevice(
    id="gauge-1", profile="generic/water-gauge", salt=b"salt", digest=password_digest(b"salt", PASSWORD.encode())
)
PATIENCE_S = 20


def free_port(kind: socket.SocketKind) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Platform:
    """Accepts everything, once per offset, as the real one does."""

    def __init__(self, port: int, token: str) -> None:
        self._port = port
        self._token = token
        self.roster = wire.Roster(version=1, devices=[GAUGE])
        self.taken: dict[tuple[str, int], wire.Body] = {}
        self.sent = 0
        self.orders: list[wire.Order] = []
        self.asked = 0
        self.outcomes: list[wire.Outcome] = []
        self.beats: list[wire.Heartbeat] = []
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        app = web.Application(middlewares=[self._checked])
        app.router.add_post("/ingest/v1/heartbeat", self._heartbeat)
        app.router.add_get("/ingest/v1/roster", self._poll)
        app.router.add_get("/ingest/v1/orders", self._poll_orders)
        app.router.add_post("/ingest/v1/outcomes", self._outcomes)
        app.router.add_post("/ingest/v1/{lane}", self._submit)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self._port).start()
        try:
            yield
        finally:
            await self.publish(wire.Roster(version=self.roster.version, devices=[]), quietly=True)
            await runner.cleanup()

    @web.middleware
    async def _checked(self, request: web.Request, handler: Callable[[web.Request], object]) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {self._token}":
            return web.Response(status=401)
        return await handler(request)  # type: ignore[misc, no-any-return]

    async def publish(self, roster: wire.Roster, *, quietly: bool = False) -> None:
        async with self._changed:
            if not quietly:
                self.roster = roster
            self._changed.notify_all()

    async def _poll(self, request: web.Request) -> web.Response:
        if int(request.query["version"]) == self.roster.version:
            async with self._changed:
                await self._changed.wait()
            if int(request.query["version"]) == self.roster.version:
                return web.Response(status=204)
        return web.Response(body=wire.encode(self.roster))

    async def order(self, *orders: wire.Order) -> None:
        async with self._changed:
            self.orders += orders
            self._changed.notify_all()

    async def _poll_orders(self, request: web.Request) -> web.Response:
        after = int(request.query["after"])
        async with self._changed:
            self.asked = after
            self._changed.notify_all()
        due = [order for order in self.orders if order.number > after]
        if not due:
            async with self._changed:
                await self._changed.wait()
            due = [order for order in self.orders if order.number > after]
        return web.Response(body=wire.encode(wire.Orders(orders=due))) if due else web.Response(status=204)

    async def _outcomes(self, request: web.Request) -> web.Response:
        async with self._changed:
            self.outcomes += msgspec.msgpack.decode(await request.read(), type=wire.Outcomes).outcomes
            self._changed.notify_all()
        return web.Response(status=204)

    async def _submit(self, request: web.Request) -> web.Response:
        batch = msgspec.msgpack.decode(await request.read(), type=wire.Batch)
        async with self._changed:
            for offset, body in batch.items:
                self.sent += 1
                self.taken.setdefault((batch.spool, offset), wire.decode_body(body))
            self._changed.notify_all()
        accepted = [(offset, offset) for offset, _ in batch.items]
        return web.Response(body=wire.encode(wire.Answer(accepted=accepted)))

    async def _heartbeat(self, request: web.Request) -> web.Response:
        async with self._changed:
            self.beats.append(msgspec.msgpack.decode(await request.read(), type=wire.Heartbeat))
            self._changed.notify_all()
        return web.Response(status=204)

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            async with self._changed:
                await self._changed.wait_for(true)

    def seqs(self) -> list[int]:
        readings = (body for body in self.taken.values() if isinstance(body, wire.Readings))
        return sorted(body.seq for body in readings if "water.level" in body.samples[0].values)


class Process:
    """One gateway process after another on the same folder and ports."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.api_port, self.mqtt_port = free_port(socket.SOCK_STREAM), free_port(socket.SOCK_STREAM)
        self.coap_port = free_port(socket.SOCK_DGRAM)
        self.token = load_or_create_secret(data / "gateway-token")
        self.process: asyncio.subprocess.Process | None = None
        self.said: list[str] = []
        self._listening: asyncio.Task[None] | None = None

    async def start(self, crash_at: str = "", *, ready: bool = True) -> None:
        self.said = []
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "citysense_gateway.app",
            *("--data", str(self.data), "--platform", f"http://127.0.0.1:{self.api_port}"),
            *("--mqtt-port", str(self.mqtt_port), "--coap-port", str(self.coap_port)),
            env={**os.environ, "CITYSENSE_CRASH_AT": crash_at},
            stderr=asyncio.subprocess.PIPE,
        )
        is_ready = asyncio.Event()
        self._listening = asyncio.create_task(self._listen(self.process, is_ready))
        if ready:
            async with asyncio.timeout(PATIENCE_S):
                await is_ready.wait()
            assert self.process.returncode is None, self.said

    async def _listen(self, process: asyncio.subprocess.Process, ready: asyncio.Event) -> None:
        assert process.stderr is not None
        async for line in process.stderr:
            self.said.append(line.decode().rstrip())
            if "gateway ready" in self.said[-1]:
                ready.set()
        ready.set()

    async def ended(self) -> int:
        assert self.process is not None
        assert self._listening is not None
        async with asyncio.timeout(PATIENCE_S):
            code = await self.process.wait()
            await self._listening
        return code

    async def stop(self, signum: int = signal.SIGTERM) -> int:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(signum)
        return await self.ended()

    def mqtt(self, password: str = PASSWORD) -> aiomqtt.Client:
        return aiomqtt.Client(
            "127.0.0.1", self.mqtt_port, username="gauge-1", password=password, identifier="c1", timeout=PATIENCE_S
        )


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Process]:
    made = Process(tmp_path)
    yield made
    if made.process is not None:
        await made.stop(signal.SIGKILL)


@pytest.fixture
async def platform(gateway: Process) -> Platform:
    return Platform(gateway.api_port, gateway.token)


def report(seq: int) -> str:
    return json.dumps({"boot": 1, "seq": seq, "v": {"water.level": 12.3, "battery.voltage": 3.6}})


async def send_until_it_dies(gateway: Process) -> list[int]:
    """Sequence numbers that were acknowledged before the process was gone."""
    acknowledged: list[int] = []

    async def send(client: aiomqtt.Client) -> None:
        for seq in range(200):
            await publish(client, seq)
            acknowledged.append(seq)

    assert gateway.process is not None
    try:
        async with gateway.mqtt() as client:
            sending, dying = asyncio.create_task(send(client)), asyncio.create_task(gateway.process.wait())
            await asyncio.wait({sending, dying}, return_when=asyncio.FIRST_COMPLETED)
            sending.cancel()
            await asyncio.gather(sending, dying, return_exceptions=True)
    except aiomqtt.MqttError:
        pass  # the connection went with the process; what was acknowledged stands in the list
    return acknowledged


async def publish(client: aiomqtt.Client, seq: int) -> None:
    await client.publish("cs/v1/gauge-1/up/report", report(seq), qos=1)


async def test_readings_come_in_by_mqtt_and_coap_and_reach_the_platform(gateway: Process, platform: Platform) -> None:
    async with platform.serving():
        await gateway.start()
        await platform.until(lambda: any(beat.counters["devices"] == 1 for beat in platform.beats))
        async with gateway.mqtt() as client:
            await client.subscribe("cs/v1/gauge-1/ack")
            for seq in range(3):
                await publish(client, seq)
            async with asyncio.timeout(PATIENCE_S):
                async for message in client.messages:
                    assert isinstance(message.payload, bytes)
                    if json.loads(message.payload) == {"boot": 1, "seq": 2}:
                        break
        context = await Context.create_client_context()
        uri = f"coap://127.0.0.1:{gateway.coap_port}/v1/gauge-1/report"
        try:
            sent = Message(code=POST, uri=uri, payload=report(3).encode(), content_format=50)
            response = await asyncio.wait_for(context.request(sent).response, PATIENCE_S)
            assert response.code.dotted == "2.04"
        finally:
            await context.shutdown()
        await platform.until(lambda: len(platform.taken) == 8 and platform.beats[-1].counters["stored"] == 4)
        assert platform.seqs() == [0, 1, 2, 3]
        figures = platform.beats[-1].counters
        assert (figures["frames.mqtt"], figures["frames.coap"], figures["duplicate"]) == (3, 1, 0)
        assert (figures["coap.busy"], figures["coap.refused"], figures["coap.malformed"]) == (0, 0, 0)
        assert await gateway.stop() == 0
    lines = [json.loads(line) for line in gateway.said]
    assert [line["message"] for line in lines if line["level"] != "info"] == []


@pytest.mark.parametrize(
    "point",
    [
        "spool.before_commit:3",
        "spool.after_commit:3",
        "door.after_ack:3",
        "uplink.before_post:3",
        "uplink.after_post:3",
    ],
)
async def test_what_was_acknowledged_before_a_kill_arrives_once(
    gateway: Process, platform: Platform, point: str
) -> None:
    async with platform.serving():
        await gateway.start()
        await platform.until(lambda: any(beat.counters["devices"] == 1 for beat in platform.beats))
        assert await gateway.stop() == 0
        await gateway.start(crash_at=point)
        acknowledged = await send_until_it_dies(gateway)
        assert await gateway.ended() == -signal.SIGKILL
        await gateway.start()
        await platform.until(lambda: set(acknowledged) <= set(platform.seqs()))
        async with gateway.mqtt() as client:
            # The device sends again what it holds no acknowledgement for, and one before it to be safe.
            for seq in range(max(0, len(acknowledged) - 1), len(acknowledged) + 3):
                await publish(client, seq)
        await platform.until(lambda: len(platform.seqs()) >= len(acknowledged) + 3)
        assert platform.seqs() == list(range(len(acknowledged) + 3))


async def test_devices_are_served_while_the_platform_is_down(gateway: Process, platform: Platform) -> None:
    async with platform.serving():
        await gateway.start()
        await platform.until(lambda: any(beat.counters["devices"] == 1 for beat in platform.beats))
    assert await gateway.stop(signal.SIGINT) == 0
    await gateway.start()
    async with gateway.mqtt() as client:
        await publish(client, 0)
    assert platform.taken == {}
    async with platform.serving():
        await platform.until(lambda: platform.seqs() == [0])


async def test_a_revoked_device_is_cut_off_at_once(gateway: Process, platform: Platform) -> None:
    async with platform.serving():
        await gateway.start()
        await platform.until(lambda: any(beat.counters["devices"] == 1 for beat in platform.beats))
        with pytest.raises(aiomqtt.MqttError):
            async with gateway.mqtt() as client:
                await publish(client, 0)
                await platform.publish(wire.Roster(version=2, devices=[]))
                async with asyncio.timeout(PATIENCE_S):
                    async for _ in client.messages:
                        raise AssertionError("nothing is sent to it")
        with pytest.raises(aiomqtt.MqttError):
            async with gateway.mqtt():
                raise AssertionError("it must not get in again")
        refused = [body for body in platform.taken.values() if isinstance(body, wire.DeadLetter)]
        await platform.until(
            lambda: any(
                isinstance(body, wire.DeadLetter) and body.reason == "bad_credential"
                for body in platform.taken.values()
            )
        )
        assert all(letter.raw == b"" for letter in refused)


async def test_a_message_for_a_device_that_is_then_revoked_is_refused(gateway: Process, platform: Platform) -> None:
    async with platform.serving():
        await gateway.start()
        values: dict[str, wire.Value] = {"config.report_interval": 60.0}
        orders = [
            wire.Downlink(number=number, id=f"m{number}", device="gauge-1", message="x", values=values, expires=1 << 42)
            for number in (1, 2)
        ]
        await platform.order(*orders)
        # The gateway asks beyond an order once it has it.
        await platform.until(lambda: platform.asked == 2)
        assert platform.outcomes == []
        await platform.publish(wire.Roster(version=2, devices=[]))
        await platform.until(lambda: len(platform.outcomes) == 2)
    assert {(outcome.id, outcome.state) for outcome in platform.outcomes} == {("m1", "refused"), ("m2", "refused")}
    assert "revoked" in platform.outcomes[0].detail


async def test_a_port_in_use_ends_the_start_with_a_sentence(gateway: Process) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", gateway.mqtt_port))
        taken.listen()
        await gateway.start(ready=False)
        assert await gateway.ended() == 1
    assert "MQTT" in gateway.said[-1]
    assert str(gateway.mqtt_port) in gateway.said[-1]
    assert "Traceback" not in "".join(gateway.said)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--bind", "0.0.0.0"], "not loopback"),
        (["--bind", "localhost"], "no IP address"),
        (["--tls-cert", "cert.pem"], "go together"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(options: list[str], words: str) -> None:
    with pytest.raises(SetupError, match=words):
        parse(["--data", "d", "--platform", "http://127.0.0.1:8080", *options])


def test_the_command_line_gives_the_settings() -> None:
    ports = ["--mqtt-port", "1", "--coap-port", "2"]
    settings = parse(["--data", "d", "--platform", "http://h:1", "--bind", "0.0.0.0", "--insecure", *ports])
    assert (settings.data, settings.platform_url) == (Path("d"), "http://h:1")
    assert (settings.mqtt_port, settings.coap_port, settings.on_loopback) == (1, 2, False)
