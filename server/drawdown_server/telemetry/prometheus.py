"""The metrics as Prometheus reads them: names with underscores, units spelled out, buckets cumulative."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from drawdown_server.telemetry.instruments import Distribution, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import Metric

    from drawdown_server.telemetry.instruments import Definition, Key, Reading

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
_UNITS: Final = {"s": "_seconds"}
"""UCUM's name of a unit -> the suffix. Units in braces count things, and have none."""


def prometheus_name(definition: Definition) -> str:
    """What Prometheus calls this metric: ``drawdown.outbox.age`` in seconds is ``drawdown_outbox_age_seconds``."""
    total = "_total" if definition.kind is Kind.COUNTER else ""
    return _base_name(definition) + total


def render(readings: list[Reading]) -> bytes:
    """The text of a scrape: our metrics, and the CPU, memory and file descriptors of this process."""
    registry = CollectorRegistry()
    registry.register(_Readings(readings))
    ProcessCollector(registry=registry)
    return generate_latest(registry)


class _Readings(Collector):
    def __init__(self, readings: list[Reading]) -> None:
        self._readings = readings

    def collect(self) -> Iterator[Metric]:
        for reading in self._readings:
            yield _family(reading)


def _base_name(definition: Definition) -> str:
    return definition.name.replace(".", "_") + _UNITS.get(definition.unit, "")


def _family(reading: Reading) -> Metric:
    definition = reading.definition
    name, text = _base_name(definition), definition.description
    labels = [attribute.replace(".", "_") for attribute in definition.attributes]
    if definition.kind is Kind.HISTOGRAM:
        histogram = HistogramMetricFamily(name, text, labels=labels)
        for key, point in reading.points.items():
            assert isinstance(point, Distribution)  # noqa: S101  # instruments.Histogram has no other points
            histogram.add_metric(key, _buckets(point), point.total)
        return histogram
    numbers = [(key, point) for key, point in reading.points.items() if not isinstance(point, Distribution)]
    family = (
        CounterMetricFamily(name, text, labels=labels)
        if definition.kind is Kind.COUNTER
        else GaugeMetricFamily(name, text, labels=labels)
    )
    return _filled(family, numbers)


def _filled(
    family: CounterMetricFamily | GaugeMetricFamily, numbers: list[tuple[Key, float]]
) -> CounterMetricFamily | GaugeMetricFamily:
    for key, number in numbers:
        family.add_metric(key, number)
    return family


def _buckets(point: Distribution) -> list[tuple[str, float]]:
    bounds = [*(repr(bound) for bound in point.bounds), "+Inf"]
    return list(zip(bounds, accumulate(point.counts), strict=True))
