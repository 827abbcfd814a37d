"""The kill test of brokers, against mosquitto with several ways of saving."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from citysense.cli.gateway_qualify import Kill, KillTest, Way, figures
from citysense.cli.main import main
from citysense.cli.own_mosquitto import OwnMosquitto, local_configuration
from citysense.cli.stack import HOST
from citysense.clock import SystemClock
from citysense_gateway.broker.options import Account

READER, SENDER = Account(user="gateway", password="r"), Account(user="probe-a", password="s")
MESSAGES = 60


async def kills(folder: Path, changed: dict[str, str], count: int = 1) -> list[Kill]:
    broker = OwnMosquitto(folder / "broker", {"gateway": "r", "probe-a": "s"}, changed=changed)
    broker.prepare()
    way = Way(host=HOST, port=broker.port, protocol=5, reader=READER, sender=SENDER)
    test = KillTest(broker, way, ledger=folder / "acked", messages=MESSAGES, at_once=1, clock=SystemClock())
    return await test.run(count, lambda text: None)


@pytest.mark.peer("mosquitto")
async def test_saving_seldom_loses_about_that_much_and_the_rest_is_found(tmp_path: Path) -> None:
    (kill,) = await kills(tmp_path, {"autosave_interval": "20"})
    assert kill.session
    assert 0 < kill.lost <= 20
    assert kill.found == MESSAGES - kill.lost


@pytest.mark.peer("mosquitto")
async def test_the_shipped_configuration_loses_at_most_the_last_one(tmp_path: Path) -> None:
    for kill in await kills(tmp_path, {}, count=2):
        assert kill.session
        assert kill.lost <= 1


@pytest.mark.peer("mosquitto")
async def test_without_persistence_all_is_lost_and_so_is_the_session(tmp_path: Path) -> None:
    (kill,) = await kills(tmp_path, {"persistence": "false"})
    assert (kill.session, kill.found) == (False, 0)


@pytest.mark.peer("mosquitto")
def test_the_command_prints_figures_and_says_when_no_session_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = OwnMosquitto(tmp_path / "broker", {"gateway": "r", "probe-a": "s"}, changed={"persistence": "false"})
    broker.prepare()
    monkeypatch.setenv("CITYSENSE_BROKER_PASSWORD", "r")
    monkeypatch.setenv("CITYSENSE_BROKER_PROBES", "probe-a:s,probe-b:s")
    start = f"mosquitto -c {tmp_path}/broker/mosquitto.conf"
    options = ["--kills", "1", "--messages", "20", "--start", start, "--broker", broker.address, "--json"]
    assert main(["gateway", "qualify-broker", *options]) == 1
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (found["acked"], found["found"], found["loss_window"], found["sessions_kept"]) == (20, 0, 20, 0)


def test_figures_add_up() -> None:
    some = [
        Kill(acked=10, found=9, session=True, acked_per_s=5),
        Kill(acked=10, found=10, session=True, acked_per_s=7),
    ]
    found = figures(some)
    assert (found["lost"], found["loss_window"], found["kills_with_loss"], found["acked_per_s"]) == (1, 1, 1, 6)


@pytest.mark.parametrize("options", [["--kills", "0"], ["--start", "x"], ["--broker", "mqtt://127.0.0.1:1"]])
def test_wrong_use_is_said(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gateway", "qualify-broker", *options]) == 2
    assert "--" in capsys.readouterr().err


def test_only_places_of_the_machine_change_in_the_shipped_file() -> None:
    shipped = "# x\nlistener 8883\ncafile /a\npersistence true\nacl_file /b\nautosave_interval 1\n"
    local = local_configuration(shipped, Path("/f"), 1234, {"autosave_interval": "5"})
    assert local == f"# x\nlistener 1234 {HOST}\npersistence true\nacl_file /f/acl\nautosave_interval 5\n"
