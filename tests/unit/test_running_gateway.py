"""A running gateway's command line, compared with the settings of this shell."""

from __future__ import annotations

from pathlib import Path

from citysense.cli.programs import programs
from citysense.cli.running_gateway import started_with
from citysense.settings import Settings


def words_of(settings: Settings) -> list[str]:
    found = programs(settings, settings.data, None)
    return list(next(program.arguments for program in found if program.name == "gateway"))


def test_a_gateway_of_these_settings_differs_in_nothing() -> None:
    settings = Settings(
        dtls_port=5684, broker="mqtts://city:8883", broker_ca=Path("ca.pem"), insecure=True, api_port=8181
    )
    started = started_with(words_of(settings), Path.cwd(), settings)
    assert started is not None
    assert started.differences == ()


def test_every_other_value_is_named_and_taken() -> None:
    told = Settings(mqtt_port=1884, dtls_port=5690, api_port=8181, broker_ca=Path("ca.pem"), broker="mqtts://b:1")
    started = started_with(words_of(told), Path("/srv"), Settings(influx_token="hush"))
    assert started is not None
    assert started.settings.mqtt_port == 1884
    assert started.settings.broker_ca == Path("/srv/ca.pem")
    assert set(started.differences) == {
        "mqtt_port 1884 (settings here: 1883)",
        "dtls_port 5690 (settings here: none)",
        "api_port 8181 (settings here: 8080)",
        "broker mqtts://b:1 (settings here: none)",
        "broker_ca /srv/ca.pem (settings here: none)",
    }


def test_what_the_gateway_was_not_told_is_not_taken_from_here() -> None:
    started = started_with(words_of(Settings()), Path.cwd(), Settings(dtls_port=5684))
    assert started is not None
    assert started.settings.dtls_port is None
    assert started.differences == ("dtls_port none (settings here: 5684)",)


def test_a_command_line_that_is_no_gateways_is_not_taken() -> None:
    assert started_with(["--mqtt-port", "many"], Path("/"), Settings()) is None
