"""The gateway's figures in Prometheus' text format.

Owns the names and what they mean; the numbers come from the counters as they are at the moment of asking.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from citysense_gateway.figures import NOW
from citysense_gateway.traffic import BOUNDS_S, Durations, Traffic

_NOW = NOW | {
    "devices",
    "mail.waiting",
    "short_of_space",
    "ledger.unbalanced",
    "broker.connected",
    "broker.proved",
}
"""Figures that can fall; all others are totals since the start."""
_CLOSED, _REFUSED = "mqtt.closed.", "mqtt.refused."
_LEFT_OUT = frozenset({"cpu", "ledger.minute"})
_VERDICTS = frozenset({"stored", "duplicate", "unavailable"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where the numbers are. `figures` are those of the heartbeat; `ages` the seconds since each loop's last step."""

    figures: Callable[[], Mapping[str, float]]
    traffic: Traffic
    commits: Durations
    ages: Callable[[], Mapping[str, float | None]]


class GatewayCollector(Collector):
    """Reads the sources when it is asked."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def collect(self) -> Iterator[Metric]:
        """Every metric of the gateway."""
        figures = self._sources.figures()
        yield from _frames(figures)
        yield from _others(figures)
        yield from _calls(self._sources.traffic)
        commits = HistogramMetricFamily(
            "citysense_gateway_commit_seconds", "Until the spool has committed, asked once a second"
        )
        _add(commits, [], self._sources.commits)
        yield commits
        ages = GaugeMetricFamily("citysense_gateway_loop_age_seconds", "Since a loop's last step", labels=["loop"])
        for name, age in self._sources.ages().items():
            if age is not None:
                ages.add_metric([name], age)
        yield ages


def exposition(sources: Sources) -> Callable[[], bytes]:
    """A function that gives the text of the moment."""
    registry = CollectorRegistry()
    registry.register(GatewayCollector(sources))
    return lambda: generate_latest(registry)


def _frames(figures: Mapping[str, float]) -> Iterator[Metric]:
    frames = CounterMetricFamily("citysense_gateway_frames", "Frames by the way they came in", labels=["transport"])
    verdicts = CounterMetricFamily(
        "citysense_gateway_verdicts", "Frames by what became of them", labels=["kind", "reason"]
    )
    depth = GaugeMetricFamily("citysense_gateway_spool_records", "Records that wait for the platform", labels=["lane"])
    closed = CounterMetricFamily(
        "citysense_gateway_mqtt_closed", "MQTT connections by why they ended", labels=["reason"]
    )
    refused = CounterMetricFamily(
        "citysense_gateway_mqtt_refused", "MQTT messages that were not taken, by why", labels=["reason"]
    )
    for name, value in figures.items():
        family, _, rest = name.partition(".")
        if family == "frames":
            frames.add_metric([rest], value)
        elif name in _VERDICTS:
            verdicts.add_metric([name, ""], value)
        elif family == "rejected":
            verdicts.add_metric([family, rest], value)
        elif family == "spool":
            depth.add_metric([rest], value)
        elif name.startswith(_CLOSED):
            closed.add_metric([name.removeprefix(_CLOSED)], value)
        elif name.startswith(_REFUSED):
            refused.add_metric([name.removeprefix(_REFUSED)], value)
    yield from (frames, verdicts, depth, closed, refused)


def _others(figures: Mapping[str, float]) -> Iterator[Metric]:
    """Every other figure under its own name: doors, sessions, mail, ledger, space."""
    yield CounterMetricFamily("citysense_gateway_cpu_seconds", "CPU of the process", value=figures.get("cpu", 0.0))
    for name, value in sorted(figures.items()):
        family = name.partition(".")[0]
        if name in _LEFT_OUT or name in _VERDICTS or family in ("frames", "rejected", "spool"):
            continue
        if name.startswith((_CLOSED, _REFUSED)):
            continue
        plain = "citysense_gateway_" + name.replace(".", "_").replace("-", "_")
        kind = GaugeMetricFamily if name in _NOW else CounterMetricFamily
        yield kind(plain, f"Figure {name} of the heartbeat", value=value)


def _calls(traffic: Traffic) -> Iterator[Metric]:
    seconds = HistogramMetricFamily(
        "citysense_gateway_call_seconds", "Calls to the platform that worked", labels=["kind"]
    )
    failed = CounterMetricFamily(
        "citysense_gateway_calls_failed", "Calls to the platform that did not work", labels=["kind"]
    )
    for kind, calls in sorted(traffic.calls.items()):
        _add(seconds, [kind], calls.durations)
        failed.add_metric([kind], calls.failed)
    yield from (seconds, failed)


def _add(family: HistogramMetricFamily, labels: list[str], durations: Durations) -> None:
    total = 0
    buckets: list[tuple[str, float]] = []
    for bound, count in zip([*map(str, BOUNDS_S), "+Inf"], durations.counts, strict=True):
        total += count
        buckets.append((bound, float(total)))
    family.add_metric(labels, buckets=buckets, sum_value=durations.total)
