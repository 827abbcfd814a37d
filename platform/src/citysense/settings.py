"""All settings of the product: one schema, three sources, and where each value came from.

A value comes from the command line, else from a CITYSENSE_* variable, else from citysense.toml, else from the default.
Nothing is read at import.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from citysense.errors import SetupError, WrongUse
from citysense.parent import SUPERVISED

PREFIX = "CITYSENSE_"
FILE_NAME = "citysense.toml"
OTHER_VARIABLES = frozenset({SUPERVISED, "CITYSENSE_CRASH_AT", "CITYSENSE_FUZZ_SECONDS", "CITYSENSE_FUZZ_SEED"})
"""Variables of ours that are no settings: what a process we start is told, and what the tests take."""
_NEAREST = 3


class Settings(BaseModel):
    """What `citysense up` can be told. Names are the same in citysense.toml, and in CITYSENSE_NAME upper case."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: Path = Field(Path("data"), description="Folder of all data, keys and logs; made when it is missing.")
    bind: str = Field(
        "127.0.0.1", description="IP address to listen on. Beyond loopback: tls_cert and tls_key, or insecure."
    )
    api_port: int = Field(8080, ge=1, le=65535, description="TCP port of the API and its documentation.")
    mqtt_port: int = Field(1883, ge=1, le=65535, description="TCP port of the MQTT front door.")
    coap_port: int = Field(5683, ge=1, le=65535, description="UDP port of the CoAP front door.")
    dtls_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="UDP port of CoAP over DTLS with pre-shared keys (usually 5684); needs the extra 'dtls'.",
    )
    gateway_status_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="TCP port on loopback of the gateway's health and figures; 0 takes a free one, named in its log.",
    )
    speed: float = Field(1.0, gt=0, le=1000, description="Compresses the scenario and the holds of the demo's rules.")
    scenario: str = Field(
        "storm", description="Scenario file, the name of one that is shipped, or 'none' to wait for real devices."
    )
    rules: Path | None = Field(None, description="Rule pack to use instead of the shipped one.")
    profiles: Path | None = Field(None, description="Folder of a city's own device profiles, beside the shipped ones.")
    influx: str | None = Field(
        None,
        description="InfluxDB to keep telemetry in: http://host:8086?db=NAME (1.x) or ?org=ORG&bucket=NAME (2.x, 3.x).",
    )
    influx_token: str | None = Field(
        None, description="Token for InfluxDB 2.x and 3.x.", json_schema_extra={"secret": True}
    )
    tls_cert: Path | None = Field(None, description="Certificate chain (PEM) of the API and the MQTT front door.")
    tls_key: Path | None = Field(None, description="Private key (PEM) of tls_cert.")
    broker: str | None = Field(
        None, description="The city's own MQTT broker to read from as well: mqtts://host:port (docs/broker.md)."
    )
    broker_user: str = Field("gateway", description="The gateway's account at the broker.")
    broker_password: str | None = Field(
        None, description="Its password; not needed with a certificate.", json_schema_extra={"secret": True}
    )
    broker_probes: str | None = Field(
        None,
        description="Two more accounts there, user:password,user:password, to prove that the broker keeps devices apart.",
        json_schema_extra={"secret": True},
    )
    broker_protocol: Literal["5", "3.1.1"] = Field("5", description="Version of MQTT to speak with the broker.")
    broker_ca: Path | None = Field(None, description="Who signed the broker's certificate (PEM).")
    broker_cert: Path | None = Field(None, description="The gateway's certificate for the broker (PEM).")
    broker_key: Path | None = Field(None, description="Private key (PEM) of broker_cert.")
    modbus_ca: Path | None = Field(None, description="Who signed the certificates of devices at modbus+tls (PEM).")
    modbus_cert: Path | None = Field(None, description="The gateway's certificate for those devices (PEM).")
    modbus_key: Path | None = Field(None, description="Private key (PEM) of modbus_cert.")
    insecure: bool = Field(
        False, description="Listen beyond loopback without TLS, and take plain CoAP there. For test benches."
    )
    responsible_unit: str = Field("值班室 / duty office", min_length=1, description="Unit that new cases go to.")

    @model_validator(mode="after")
    def _listening_is_safe(self) -> Settings:
        try:
            address = ip_address(self.bind)
        except ValueError as e:
            raise ValueError(
                f"bind: {self.bind!r} is no IP address; write 127.0.0.1, 0.0.0.0 or an address of this machine"
            ) from e
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key go together; one of them is missing")
        if not address.is_loopback and self.tls_cert is None and not self.insecure:
            raise ValueError(
                f"bind: {self.bind} is not loopback; devices and staff would speak in clear over the network. "
                "Give tls_cert and tls_key, or --insecure on a test bench"
            )
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a setting's value came from: `flag`, the variable's name, the file's path, or `default`."""

    name: str
    value: Any
    source: str


def load_settings(
    flags: Mapping[str, Any], environment: Mapping[str, str], file: Path | None = None
) -> tuple[Settings, list[Origin]]:
    """Settings in force and the origin of each.

    `flags` holds only what was given on the command line. `file` must exist when it is named; without one,
    citysense.toml in the working folder is read if it is there. Raises SetupError naming source, setting and
    value; WrongUse when only the command line and the environment are to blame, and for a variable nobody knows.
    """
    refuse_unknown(environment)
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    path = file or Path(FILE_NAME)
    if file is not None or path.exists():
        for name, value in _read_toml(path).items():
            values[name], sources[name] = value, str(path)
    for name in Settings.model_fields:
        variable = PREFIX + name.upper()
        if variable in environment:
            values[name], sources[name] = environment[variable], variable
    for name, value in flags.items():
        values[name], sources[name] = value, "flag"
    try:
        settings = Settings.model_validate(values)
    except ValidationError as e:
        given = {"flag", *environment}
        from_caller = all(sources.get(str(item["loc"][0]) if item["loc"] else "") in given for item in e.errors())
        raise (WrongUse if from_caller else SetupError)(_sentence(e, sources)) from e
    origins = [
        Origin(name=name, value=getattr(settings, name), source=sources.get(name, "default"))
        for name in Settings.model_fields
    ]
    return settings, origins


def refuse_unknown(environment: Mapping[str, str]) -> None:
    """Raises WrongUse for a CITYSENSE_* variable that means nothing here, with the names nearest to it.

    Its value is not shown: it may be a password under a mistyped name.
    """
    known = OTHER_VARIABLES | {PREFIX + name.upper() for name in Settings.model_fields}
    wrong = sorted(name for name in environment if name.startswith(PREFIX) and name not in known)
    if wrong:
        raise WrongUse("; ".join(_unknown(name, sorted(known - OTHER_VARIABLES)) for name in wrong))


def _unknown(name: str, known: list[str]) -> str:
    # Without the prefix, which all of them share and which would make every name look near.
    bare = [one.removeprefix(PREFIX) for one in known]
    near = difflib.get_close_matches(name.removeprefix(PREFIX), bare, n=_NEAREST)
    what = f"did you mean {' or '.join(PREFIX + one for one in near)}?" if near else "citysense config show lists them"
    return f"the variable {name} is set, but there is no such setting: correct or unset it; {what}"


def is_secret(name: str) -> bool:
    """True for a setting whose value must not be printed."""
    extra = Settings.model_fields[name].json_schema_extra
    return isinstance(extra, dict) and bool(extra.get("secret"))


def secret_variables() -> frozenset[str]:
    """The CITYSENSE_* variables whose values are secrets."""
    return frozenset(PREFIX + name.upper() for name in Settings.model_fields if is_secret(name))


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise SetupError(f"{path} cannot be read ({e.strerror}).") from e
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise SetupError(f"{path} is no valid TOML: {e}.") from e


def _sentence(error: ValidationError, sources: Mapping[str, str]) -> str:
    parts = []
    for item in error.errors():
        name = ".".join(str(part) for part in item["loc"])
        text = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            known = ", ".join(Settings.model_fields)
            text = f"there is no such setting; known: {known}"
        where = f" (from {sources[name]})" if name in sources else ""
        parts.append(f"{name}{where}: {text}" if name else text)
    return "; ".join(parts) + "."
