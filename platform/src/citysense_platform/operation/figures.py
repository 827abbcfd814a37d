"""The same figures for Prometheus: gateways' counters as they last reported them, and the platform's own.

A collector: values are read when they are asked for, so nothing is counted twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

Counters = Mapping[str, float]


class GatewayFigures(Collector):
    """What gateways reported with their last heartbeat."""

    def __init__(self, latest: Callable[[], Mapping[str, Counters]]) -> None:
        self._latest = latest

    def collect(self) -> Iterator[Metric]:
        """Frames by protocol, frames by fate, records waiting, everything else as a gauge."""
        frames = CounterMetricFamily("citysense_gateway_frames", "Frames in.", labels=["gateway", "transport"])
        ends = CounterMetricFamily(
            "citysense_gateway_frames_ended",
            "Frames by the one way in which each ended.",
            labels=["gateway", "end", "reason"],
        )
        waiting = GaugeMetricFamily(
            "citysense_gateway_spool_records", "Records in the spool.", labels=["gateway", "class"]
        )
        other = GaugeMetricFamily("citysense_gateway_figure", "Other figures of a gateway.", labels=["gateway", "name"])
        for gateway, counters in self._latest().items():
            for name, value in counters.items():
                head, _, tail = name.partition(".")
                if head == "frames":
                    frames.add_metric([gateway, tail], value)
                elif head in ("stored", "duplicate", "rejected", "unavailable"):
                    ends.add_metric([gateway, head, tail], value)
                elif head == "spool":
                    waiting.add_metric([gateway, tail], value)
                else:
                    other.add_metric([gateway, name], value)
        yield from (frames, ends, waiting, other)


class PlatformFigures(Collector):
    """Figures of this process, each a function that is asked when Prometheus asks."""

    def __init__(self, gauges: Mapping[str, tuple[str, Callable[[], float]]]) -> None:
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        """One gauge per figure, named `citysense_NAME`."""
        for name, (meaning, value) in self._gauges.items():
            gauge = GaugeMetricFamily(f"citysense_{name}", meaning)
            gauge.add_metric([], value())
            yield gauge
