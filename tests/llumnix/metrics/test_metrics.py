"""The catalogue of metrics and the client objects built from it."""

import re

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from llumnix.metrics.catalogue import CATALOGUE, OUTCOMES, PREFIX, FleetMetrics, Metric


def exposed(metrics: FleetMetrics) -> dict[str, set[tuple[tuple[str, str], ...]]]:
    """Map each exposed series name to its label sets."""
    series: dict[str, set[tuple[tuple[str, str], ...]]] = {}
    text = generate_latest(metrics.registry).decode()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            series.setdefault(sample.name, set()).add(tuple(sorted(sample.labels.items())))
    return series


def touch(metrics: FleetMetrics, metric: Metric) -> None:
    """Create one row of a metric, each label holding its own name."""
    attribute = getattr(metrics, metric.name.removeprefix(PREFIX))
    if metric.labels:
        attribute.labels(**{label: label for label in metric.labels})


@pytest.fixture
def metrics() -> FleetMetrics:
    return FleetMetrics(CollectorRegistry())


def test_every_metric_is_an_attribute_and_is_exposed_under_its_name(metrics: FleetMetrics) -> None:
    """The catalogue is what a scrape shows: same names, same labels."""
    for metric in CATALOGUE:
        touch(metrics, metric)
    series = exposed(metrics)
    for metric in CATALOGUE:
        for name in metric.series():
            assert name in series, name
            labels = {key for row in series[name] for key, _ in row} - {"le"}
            assert labels == set(metric.labels), name


def test_nothing_is_exposed_that_the_catalogue_does_not_name(metrics: FleetMetrics) -> None:
    """No series escapes the catalogue (`_created` is the client library's own)."""
    for metric in CATALOGUE:
        touch(metrics, metric)
    known = {name for metric in CATALOGUE for name in metric.series()}
    assert {name for name in exposed(metrics) if not name.endswith("_created")} == known


def test_names_survive_every_exporter_and_no_label_collides_with_prometheus() -> None:
    """No colon (exporters escape it), and no `instance` or `job` (Prometheus writes those)."""
    for metric in CATALOGUE:
        assert re.fullmatch(r"llumnix_[a-z0-9_]+", metric.name)
        assert not {"instance", "job", "le", "quantile"} & set(metric.labels)
        assert (metric.kind == "counter") == metric.name.endswith("_total")
        assert metric.help.endswith(".")


def test_histograms_can_judge_the_bounds_people_choose() -> None:
    """A share within an objective is exact only at a bucket bound."""
    buckets = {metric.name: metric.buckets for metric in CATALOGUE if metric.kind == "histogram"}
    for bounds in buckets.values():
        assert list(bounds) == sorted(set(bounds))
    assert {0.2, 0.5, 1.0, 2.0, 3.0, 10.0} <= set(buckets["llumnix_ttft_seconds"])
    assert {0.02, 0.05, 0.1, 0.2} <= set(buckets["llumnix_tpot_seconds"])


def test_declared_classes_start_at_zero_so_that_the_first_failure_is_an_increase(
    metrics: FleetMetrics,
) -> None:
    """Each class has every outcome before the first request."""
    metrics.declare_classes(["high", "normal"])
    rows = exposed(metrics)["llumnix_requests_total"]
    expected = {(("class_name", c), ("outcome", o)) for c in ("high", "normal") for o in OUTCOMES}
    assert rows == expected


def test_an_instance_that_left_takes_all_its_series_along_and_no_others(
    metrics: FleetMetrics,
) -> None:
    """One that is down keeps its counters and `instance_up`: that it is down must be seen."""
    for metric in CATALOGUE:
        if "instance_id" not in metric.labels:
            continue
        attribute = getattr(metrics, metric.name.removeprefix(PREFIX))
        for instance_id in ("stays", "is down", "leaves"):
            others = {label: "x" for label in metric.labels if label != "instance_id"}
            attribute.labels(instance_id=instance_id, **others)
    for _ in range(2):
        metrics.retain_instances(known=("stays", "is down"), reporting=("stays",))
    shown = {
        (name, value)
        for name, rows in exposed(metrics).items()
        for row in rows
        for key, value in row
        if key == "instance_id"
    }
    lasting = {"llumnix_dispatch_total", "llumnix_dispatch_created", "llumnix_instance_up"}
    assert {name for name, value in shown if value == "is down"} == lasting
    assert {value for _, value in shown} == {"stays", "is down"}
    assert len({name for name, value in shown if value == "stays"}) > len(lasting)
