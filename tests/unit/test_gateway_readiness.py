"""When a gateway counts as ready, and how its figures stand in Prometheus' format."""

from __future__ import annotations

from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from citysense_gateway.broker.counters import Standing
from citysense_gateway.exposition import Sources, exposition
from citysense_gateway.readiness import Moment, checks, ready
from citysense_gateway.traffic import BOUNDS_S, Durations, Traffic

WELL = Moment(
    doors={"mqtt": True, "coap": True},
    pulses={"roster": 3.0, "uplink bulk": None},
    overdue=(),
    commit_age=0.4,
    commit_limit=10,
    devices_known=True,
    roster_current=True,
    waiting={"safety": 0, "bulk": 12},
    uplink_ages={"safety": None, "bulk": 0.1},
    unbalanced=0,
    polling=True,
    broker=Standing.READING,
)


def states(moment: Moment) -> dict[str, str]:
    """The checks that are not ok."""
    return {check.name: check.state for check in checks(moment) if check.state != "ok"}


def test_all_is_well() -> None:
    assert states(WELL) == {}
    assert ready(checks(WELL))


@pytest.mark.parametrize(
    ("moment", "failed"),
    [
        (replace(WELL, doors={"mqtt": False, "coap": True}), "door mqtt"),
        (replace(WELL, commit_age=None), "spool"),
        (replace(WELL, commit_age=10.1), "spool"),
        (replace(WELL, devices_known=False, roster_current=False), "roster"),
        (replace(WELL, overdue=("roster",)), "loop roster"),
        (replace(WELL, doors={"mqtt": True, "coap": True, "coaps": False}), "door coaps"),
        (replace(WELL, polling=False), "modbus"),
        (replace(WELL, broker=Standing.MISTRUSTED), "broker"),
        (replace(WELL, broker=Standing.UNUSABLE), "broker"),
    ],
)
def test_what_makes_a_gateway_unready(moment: Moment, failed: str) -> None:
    assert states(moment) == {failed: "failed"}
    assert not ready(checks(moment))


@pytest.mark.parametrize(
    ("moment", "late"),
    [
        (replace(WELL, roster_current=False), "roster"),
        (replace(WELL, uplink_ages={"safety": None, "bulk": None}), "uplink bulk"),
        (replace(WELL, uplink_ages={"safety": None, "bulk": 61.0}), "uplink bulk"),
        (replace(WELL, unbalanced=1), "ledger"),
        (replace(WELL, broker=Standing.AWAY), "broker"),
    ],
)
def test_what_is_worth_a_look_while_readings_are_safe(moment: Moment, late: str) -> None:
    assert states(moment) == {late: "late"}
    assert ready(checks(moment))


def test_without_a_broker_nothing_is_said_of_one() -> None:
    assert not any(check.name == "broker" for check in checks(replace(WELL, broker=None)))


def samples(figures: dict[str, float], traffic: Traffic, commits: Durations) -> dict[tuple[str, ...], float]:
    """Name and labels of each sample, and its value."""
    sources = Sources(
        figures=lambda: figures, traffic=traffic, commits=commits, ages=lambda: {"roster": 2.0, "x": None}
    )
    families = text_string_to_metric_families(exposition(sources)().decode())
    return {
        (sample.name, *(f"{key}={value}" for key, value in sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_figures_become_metrics_of_their_kind() -> None:
    figures = {
        "frames.mqtt": 7.0,
        "stored": 4.0,
        "rejected.no_match": 2.0,
        "spool.bulk": 9.0,
        "mqtt.closed.taken_over": 1.0,
        "mqtt.refused.no_match": 6.0,
        "mqtt.connections": 5.0,
        "coap.repeats": 3.0,
        "ledger.unbalanced": 0.0,
        "ledger.minute": 1.0,
        "cpu": 1.5,
    }
    traffic, commits = Traffic(), Durations()
    traffic.calls["bulk"].worked(began=1.0, now=1.002)
    traffic.calls["bulk"].failed = 2
    commits.add(0.003)
    commits.add(99.0)
    found = samples(figures, traffic, commits)
    name = "citysense_gateway_"
    assert found[f"{name}frames_total", "transport=mqtt"] == 7
    assert found[f"{name}verdicts_total", "kind=stored", "reason="] == 4
    assert found[f"{name}verdicts_total", "kind=rejected", "reason=no_match"] == 2
    assert found[f"{name}spool_records", "lane=bulk"] == 9
    assert found[f"{name}mqtt_closed_total", "reason=taken_over"] == 1
    assert found[f"{name}mqtt_refused_total", "reason=no_match"] == 6
    assert found[(f"{name}mqtt_connections",)] == 5
    assert found[(f"{name}coap_repeats_total",)] == 3
    assert found[(f"{name}ledger_unbalanced",)] == 0
    assert found[(f"{name}cpu_seconds_total",)] == 1.5
    assert found[f"{name}calls_failed_total", "kind=bulk"] == 2
    assert found[f"{name}call_seconds_count", "kind=bulk"] == 1
    assert found[f"{name}call_seconds_bucket", "kind=bulk", "le=0.001"] == 0
    assert found[f"{name}call_seconds_bucket", "kind=bulk", "le=0.0025"] == 1
    assert found[f"{name}commit_seconds_bucket", f"le={BOUNDS_S[-1]}"] == 1
    assert found[f"{name}commit_seconds_bucket", "le=+Inf"] == 2
    assert found[f"{name}loop_age_seconds", "loop=roster"] == 2
    assert not any("ledger_minute" in key[0] for key in found)
    assert (f"{name}loop_age_seconds", "loop=x") not in found
