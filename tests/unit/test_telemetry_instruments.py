"""Counters, histograms and gauges, and what Prometheus and OTLP make of them."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.metrics import export
from opentelemetry.sdk.resources import Resource

from drawdown_server.telemetry.instruments import OTHER, SERIES_MAX, Distribution, Registry
from drawdown_server.telemetry.metrics import Metrics
from drawdown_server.telemetry.otlp import metrics_data
from drawdown_server.telemetry.prometheus import prometheus_name, render


def test_a_value_on_a_bound_belongs_to_the_bucket_below_it() -> None:
    registry = Registry()
    ages = registry.histogram("age", "s", "", bounds=(1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 2.5):
        ages.record(value)
    (reading,) = registry.read()
    assert reading.points == {(): Distribution((1.0, 2.0), [2, 2, 1], 7.5)}


def test_what_was_read_does_not_change_any_more() -> None:
    registry = Registry()
    count, ages = registry.counter("n", "", "", "who"), registry.histogram("age", "s", "", bounds=(1.0,))
    count.add("a")
    ages.record(0.1)
    before = registry.read()
    count.add("a", count=5)
    ages.record(0.1)
    assert before[0].points == {("a",): 1}
    assert before[1].points == {(): Distribution((1.0,), [1, 0], 0.1)}


def test_no_caller_makes_more_series_than_the_limit() -> None:
    registry = Registry()
    count, ages = registry.counter("n", "", "", "who"), registry.histogram("age", "s", "", "who", bounds=(1.0,))
    for number in range(SERIES_MAX + 10):
        count.add(str(number))
        ages.record(0.0, str(number))
    count.add("0")
    counted, aged = registry.read()
    assert len(counted.points) == len(aged.points) == SERIES_MAX + 1
    assert counted.points["0",] == 2
    assert counted.points[OTHER,] == 10
    assert aged.points[OTHER,] == Distribution((1.0,), [10, 0], 0.0)


def test_an_asset_that_nobody_created_makes_no_series() -> None:
    metrics = Metrics()
    for code in ("A", "B", "C"):
        metrics.decision("authorize", "ASSET_NOT_FOUND", code)
    reading = next(r for r in metrics.registry.read() if r.definition.name == "drawdown.decisions")
    assert reading.points == {("authorize", "DENIED", "ASSET_NOT_FOUND", OTHER): 3}


def test_what_others_count_is_read_where_it_is_counted() -> None:
    metrics = Metrics()
    epochs, abandoned = [0, 0], {("commit", "OK"): 2}
    metrics.follow_store(lambda: 7, lambda: abandoned, epochs)
    epochs[:] = [1, 3]
    read = {reading.definition.name: reading.points for reading in metrics.registry.read()}
    assert read["drawdown.store.in_flight"] == {(): 7}
    assert read["drawdown.scripts.abandoned"] == {("commit", "OK"): 2}
    assert (read["drawdown.epoch.max"], read["drawdown.rebuilds"]) == ({(): 3}, {(): 2})


def test_prometheus_reads_cumulative_buckets_units_and_totals() -> None:
    registry = Registry()
    registry.histogram("a.time", "s", "Time.", "verb", bounds=(0.5, 1.0)).record(0.7, "go")
    registry.counter("a.count", "{thing}", "Things.", "a.kind").add('odd "one"')
    registry.gauge("a.level", "{thing}", "Level.").follow_one(lambda: 3)
    registry.gauge("a.silent", "{thing}", "Nobody says.")
    lines = render(registry.read()).decode().splitlines()
    assert 'a_time_seconds_bucket{le="0.5",verb="go"} 0.0' in lines
    assert 'a_time_seconds_bucket{le="1.0",verb="go"} 1.0' in lines
    assert 'a_time_seconds_bucket{le="+Inf",verb="go"} 1.0' in lines
    assert 'a_time_seconds_sum{verb="go"} 0.7' in lines
    assert 'a_count_total{a_kind="odd \\"one\\""} 1.0' in lines
    assert "# TYPE a_level gauge" in lines
    assert "a_level 3.0" in lines
    assert [prometheus_name(definition) for definition in registry.definitions] == [
        "a_time_seconds",
        "a_count_total",
        "a_level",
        "a_silent",
    ]
    assert any(line.startswith("process_cpu_seconds_total") for line in lines)


def test_otlp_carries_sums_gauges_and_histograms_without_empty_attributes() -> None:
    registry = Registry()
    registry.histogram("a.time", "s", "Time.", "verb", "error.type", bounds=(0.5, 1.0)).record(0.7, "go", "")
    registry.counter("a.count", "{thing}", "Things.").add(count=2)
    registry.gauge("a.level", "{thing}", "Level.").follow_one(lambda: 3.5)
    registry.gauge("a.silent", "{thing}", "Nobody says.")
    data = metrics_data(registry.read(), Resource({}), 10, 20)
    time, count, level = data.resource_metrics[0].scope_metrics[0].metrics
    assert isinstance(time.data, export.Histogram)
    assert isinstance(count.data, export.Sum)
    assert isinstance(level.data, export.Gauge)
    (point,) = time.data.data_points
    assert (point.attributes, point.count, point.sum) == ({"verb": "go"}, 1, pytest.approx(0.7))
    assert (list(point.bucket_counts), list(point.explicit_bounds)) == ([0, 1, 0], [0.5, 1.0])
    assert (point.start_time_unix_nano, point.time_unix_nano) == (10, 20)
    assert (count.data.is_monotonic, count.data.data_points[0].value) == (True, 2)
    assert level.data.data_points[0].value == 3.5
