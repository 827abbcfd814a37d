"""Bad input at the real listeners: answered as its protocol wants, kept with its reason, and the next frame is fine."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(180)
LEVEL_FRAME = "800001011107d000190000000000010081"
"""A published level frame (see published_frames.json, dt-df555-1)."""

Post = Callable[..., str]
Publish = Callable[..., tuple[int, str]]


@pytest.fixture
def post(city: Any, tmp_path: Path) -> Post:
    """POST bytes with coap-client; gives the code of the answer and its text."""

    def run(path: str, payload: bytes, content: int = 42) -> str:
        frame = tmp_path / "payload"
        frame.write_bytes(payload)
        url = f"coap://127.0.0.1:{city.coap_port}{path}"
        command = ["coap-client-notls", "-m", "post", "-t", str(content), "-f", str(frame), "-B", "15", "-v", "6", url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        answers = [line for line in (done.stdout + done.stderr).splitlines() if " c:" in line and "c:POST" not in line]
        code = answers[-1].split(" c:")[1].split()[0]
        return f"{code} {done.stdout} {done.stderr}"

    return run


@pytest.fixture
def publish(city: Any) -> Publish:
    """Publish with mosquitto_pub at QoS 1; gives its exit code and what it said."""

    def run(device: str, secret: str, topic: str, payload: bytes, version: str = "mqttv5") -> tuple[int, str]:
        command = [
            "mosquitto_pub",
            "-h",
            "127.0.0.1",
            "-p",
            str(city.mqtt_port),
            "-u",
            device,
            "-P",
            secret,
            "-i",
            device,
        ]
        command += ["-q", "1", "-V", version, "-t", topic, "-s"]
        done = subprocess.run(command, input=payload, capture_output=True, timeout=20, check=False)
        return done.returncode, (done.stdout + done.stderr).decode()

    return run


def native(seq: int, level: float) -> bytes:
    return b'{"boot": 1, "seq": %d, "v": {"water.level": %.1f}}' % (seq, level)


@pytest.mark.peer("coap-client")
@pytest.mark.parametrize(
    ("name", "message", "payload", "code", "reason", "words"),
    [
        ("unknown-message", "weather", bytes.fromhex(LEVEL_FRAME), "4.04", "no_such_message", "weather"),
        ("other-layout", "report", b"\x01" * 17, "4.00", "no_match", "byte is 01"),
        ("truncated", "report", bytes.fromhex(LEVEL_FRAME)[:9], "4.00", "undecodable", "truncated"),
        ("empty", "report", b"", "4.00", "undecodable", "truncated"),
    ],
)
def test_a_binary_frame_that_is_none(
    city: Any, post: Post, name: str, message: str, payload: bytes, code: str, reason: str, words: str
) -> None:
    device = f"bin-{name}"
    city.register(device, "dingtek/df555")
    answer = post(f"/v1/{device}/{message}", payload)
    assert answer.startswith(code), answer
    assert words in answer
    letter = city.dead_letter(device=device, raw=payload.hex())
    assert (letter["transport"], letter["reason"], letter["size"]) == ("coap", reason, len(payload))
    assert words in letter["detail"]
    assert letter["source"].startswith("127.0.0.1")
    assert letter["received"].endswith("Z")
    assert post(f"/v1/{device}/report", bytes.fromhex(LEVEL_FRAME)).startswith("2.04")
    city.metric(device, "water.distance", 200.0)


@pytest.mark.peer("mosquitto_pub")
@pytest.mark.parametrize("version", ["mqttv311", "mqttv5"])
def test_a_wrong_check_sum(city: Any, publish: Publish, published: dict[str, Any], version: str) -> None:
    device = f"terminal-crc-{version}"
    secret = city.register(device, "szy206/terminal", credential={"kind": "password"})["credential"]["secret"]
    frame = bytes.fromhex(published["szy206-test"]["input"])
    wrong = frame[:-2] + bytes([frame[-2] ^ 1]) + frame[-1:]
    code, said = publish(device, secret, f"cs/v1/{device}/up/report", wrong, version)
    assert code == 0, said
    assert ("Payload format invalid" in said) == (version == "mqttv5")
    letter = city.dead_letter(device=device, raw=wrong.hex())
    assert letter["reason"] == "undecodable"
    assert "checksum" in letter["detail"]
    code, said = publish(device, secret, f"cs/v1/{device}/up/report", frame, version)
    assert (code, said) == (0, "")


@pytest.mark.peer("mosquitto_pub")
@pytest.mark.parametrize("version", ["mqttv311", "mqttv5"])
def test_a_wrong_check_sum_of_a_profile_with_personal_fields(
    city: Any, publish: Publish, published: dict[str, Any], version: str
) -> None:
    device = f"pile-crc-{version}"
    secret = city.register(device, "ykc/pile-v1-6", credential={"kind": "password"})["credential"]["secret"]
    vector = published["ykc-03-badcrc"]
    assert vector["expected"]["error"] == "crc"
    frame = bytes.fromhex(vector["input"])
    code, said = publish(device, secret, f"cs/v1/{device}/up/heartbeat", frame, version)
    assert code == 0, said
    letter = city.dead_letter(device=device, raw=None)
    assert (letter["reason"], letter["size"]) == ("undecodable", len(frame))
    assert "checksum" in letter["detail"]
    good = frame[:-2] + bytes.fromhex(vector["expected"]["crc_calculated"])
    code, said = publish(device, secret, f"cs/v1/{device}/up/heartbeat", good, version)
    assert (code, said) == (0, "")
    city.metric(device, "pile.fault", False)


@pytest.mark.peer("coap-client")
@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"{", "encoding"),
        (b"[1, 2]", "shape"),
        (b'{"boot": 1, "seq": 0, "v": {"water.level": "deep"}}', "water.level"),
        (b'{"boot": -1, "seq": 0, "v": {}}', "boot"),
        (b'{"boot": 1, "seq": 0, "v": {"fire.level": 3}}', "fire.level"),
        (b"[" * 60_000, ""),
    ],
)
def test_json_of_the_wrong_shape(city: Any, post: Post, payload: bytes, words: str) -> None:
    device = f"gauge-{abs(hash(payload)) % 10**9:09d}-json"
    city.register(device, "generic/water-gauge")
    answer = post(f"/v1/{device}/report", payload, 50)
    assert answer.startswith("4.00"), answer
    assert words in answer
    letter = city.dead_letter(device=device, size=len(payload))
    assert letter["reason"] in ("undecodable", "no_match")
    assert post(f"/v1/{device}/report", native(1, 12.3), 50).startswith("2.04")
    city.metric(device, "water.level", 12.3)


@pytest.mark.peer("coap-client")
def test_a_value_that_means_none_is_not_zero(city: Any, post: Post) -> None:
    city.register("gauge-sentinel", "generic/water-gauge")
    nothing = b'{"boot": 1, "seq": 0, "v": {"water.level": null}}'
    assert post("/v1/gauge-sentinel/report", nothing, 50).startswith("2.04")
    letter = city.dead_letter(device="gauge-sentinel", reason="no_value")
    assert "water.level" in letter["detail"]
    assert city.get("/api/v1/devices/gauge-sentinel/latest")["metrics"] == {}
    assert post("/v1/gauge-sentinel/report", native(1, 7.0), 50).startswith("2.04")
    city.metric("gauge-sentinel", "water.level", 7.0)


@pytest.mark.peer("coap-client")
def test_an_unknown_device_over_coap_is_kept_sealed(city: Any, post: Post) -> None:
    assert post("/v1/nobody-knows-me/report", b"\x13\x37secret plate", 42).startswith("4.01")
    letter = city.dead_letter(device="nobody-knows-me")
    assert (letter["reason"], letter["raw"], letter["size"]) == ("unknown_device", None, 14)
    everything = b"".join(path.read_bytes() for path in city.data.rglob("*") if path.is_file())
    assert b"secret plate" not in everything


@pytest.mark.peer("mosquitto_pub")
@pytest.mark.parametrize(("version", "refused"), [("mqttv311", 5), ("mqttv5", 135)])
def test_a_wrong_password_and_a_revoked_device(city: Any, publish: Publish, version: str, refused: int) -> None:
    device = f"gauge-locked-{version}"
    secret = city.register(device, "generic/water-gauge", credential={"kind": "password"})["credential"]["secret"]
    topic = f"cs/v1/{device}/up/report"
    assert publish(device, "wrong", topic, native(0, 1.0), version)[0] == refused
    assert city.dead_letter(device=device)["reason"] == "bad_credential"
    assert publish(device, secret, topic, native(0, 2.0), version)[0] == 0
    city.metric(device, "water.level", 2.0)
    assert city.ask("POST", f"/api/v1/devices/{device}/revoke")[0] == 200
    city.until(
        lambda: publish(device, secret, topic, native(1, 3.0), version)[0] == refused, "the password is refused", 5
    )


@pytest.mark.peer("mosquitto_pub")
def test_another_devices_topic(city: Any, publish: Publish) -> None:
    secrets = {
        device: city.register(device, "generic/water-gauge", credential={"kind": "password"})["credential"]["secret"]
        for device in ("gauge-honest-one", "gauge-forger-one")
    }
    foreign = "cs/v1/gauge-honest-one/up/report"
    code, said = publish("gauge-forger-one", secrets["gauge-forger-one"], foreign, native(0, 99.0))
    assert "Not authorized" in said
    code, said = publish("gauge-forger-one", secrets["gauge-forger-one"], foreign, native(0, 98.0), "mqttv311")
    assert (code, said) == (0, ""), "3.1.1 has no word for it: acknowledged, kept, counted"
    letter = city.dead_letter(device="gauge-forger-one", reason="foreign_topic")
    assert letter["channel"] == foreign
    honest = publish("gauge-honest-one", secrets["gauge-honest-one"], foreign, native(0, 5.0))
    assert honest == (0, "")
    city.metric("gauge-honest-one", "water.level", 5.0)
    city.until(lambda: city.get("/api/v1/status")["rejected"].get("foreign_topic", 0) >= 2, "both are counted")
