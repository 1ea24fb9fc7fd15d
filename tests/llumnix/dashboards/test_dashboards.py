"""The generated dashboard and rules: current, complete, and written the way that works."""

import argparse
import builtins
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from llumnix.commands import dashboards
from llumnix.dashboards.grafana import SdkMissingError
from llumnix.dashboards.rules import TTFT_BOUND_S
from llumnix.metrics.catalogue import CATALOGUE

HISTOGRAM_PARTS = ("_bucket", "_sum", "_count")
OWN_SERIES = {name for metric in CATALOGUE for name in metric.series()}


@pytest.fixture(scope="module")
def fleet() -> dict[str, Any]:
    model: dict[str, Any] = json.loads((dashboards.home() / "fleet.json").read_text())
    return model


@pytest.fixture(scope="module")
def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((dashboards.home() / "rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels(fleet: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in fleet["panels"] if panel["type"] != "row"]


def expressions(fleet: dict[str, Any], rules: list[dict[str, Any]]) -> Iterator[str]:
    for panel in panels(fleet):
        yield from (target["expr"] for target in panel["targets"])
    yield from (rule["expr"] for rule in rules)


def scraped_names(expression: str) -> set[str]:
    """Name the scraped series an expression reads (recorded ones hold a colon)."""
    return set(re.findall(r"(?<![\w:])llumnix_\w+(?![\w:])", expression))


def test_the_committed_files_are_what_the_code_makes() -> None:
    """`llumnix dashboards` would change nothing."""
    assert dashboards.stale(dashboards.home()) == []


def test_every_series_read_exists_and_every_metric_is_shown_or_watched(
    fleet: dict[str, Any], rules: list[dict[str, Any]]
) -> None:
    """Dashboard and rules know exactly the catalogue."""
    read = {name for text in expressions(fleet, rules) for name in scraped_names(text)}
    assert read <= OWN_SERIES
    for metric in CATALOGUE:
        assert read & set(metric.series()), f"{metric.name} is neither shown nor watched"


def test_recorded_series_that_alerts_read_are_recorded(rules: list[dict[str, Any]]) -> None:
    """No alert waits for a series that nobody makes."""
    recorded = {rule["record"] for rule in rules if "record" in rule}
    read = {name for rule in rules for name in re.findall(r"llumnix:[\w:]+", rule["expr"])}
    assert read
    assert read <= recorded


def test_counters_are_only_read_as_rates(
    fleet: dict[str, Any], rules: list[dict[str, Any]]
) -> None:
    """A counter's bare value means nothing after a restart."""
    cumulative = {
        name for metric in CATALOGUE if metric.kind != "gauge" for name in metric.series()
    }
    for text in expressions(fleet, rules):
        for name in scraped_names(text) & cumulative:
            bare = re.sub(rf"(rate|increase)\({name}(\{{[^}}]*\}})?\[[^\]]+\]\)", "", text)
            assert name not in scraped_names(bare), text


def test_quantiles_are_taken_over_the_fleet_not_of_each_series(
    fleet: dict[str, Any], rules: list[dict[str, Any]]
) -> None:
    """histogram_quantile reads a sum that keeps `le`."""
    asked = [text for text in expressions(fleet, rules) if "histogram_quantile" in text]
    assert asked
    for text in asked:
        assert re.search(r"histogram_quantile\([\d.]+, sum by \([^)]*\ble\b[^)]*\) \(rate\(", text)


def test_objectives_stand_on_bucket_bounds() -> None:
    """A share within a bound that is no bucket would silently read nothing."""
    (ttft,) = (metric for metric in CATALOGUE if metric.name == "llumnix_ttft_seconds")
    assert set(TTFT_BOUND_S.values()) <= set(ttft.buckets)


def test_the_dashboard_can_be_provisioned_anywhere(fleet: dict[str, Any]) -> None:
    """A stable uid, no database id, no inputs to fill in, and no data source of this house."""
    assert fleet["uid"] == "llumnix-fleet"
    assert fleet["id"] is None
    assert fleet["schemaVersion"] == 41
    assert fleet["graphTooltip"] == 1
    assert "__inputs" not in fleet
    variables = {variable["name"]: variable["type"] for variable in fleet["templating"]["list"]}
    assert variables == {"datasource": "datasource", "job": "query"}
    for panel in panels(fleet):
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"


def test_every_panel_explains_itself(fleet: dict[str, Any]) -> None:
    """Title, description and unit; selectors follow the fleet chosen; windows follow the zoom."""
    titles = [panel["title"] for panel in panels(fleet)]
    assert len(set(titles)) == len(titles)
    for panel in panels(fleet):
        assert panel["description"].endswith((".", "none."))
        assert panel["fieldConfig"]["defaults"]["unit"]
        for target in panel["targets"]:
            assert 'job=~"$job"' in target["expr"]
            assert set(re.findall(r"\[(.*?)\]", target["expr"])) <= {
                "$__rate_interval",
                "$__range",
            }


def test_panels_fill_the_grid_without_overlap_in_the_order_a_request_flows(
    fleet: dict[str, Any],
) -> None:
    """No two panels share a cell, ids are unique, and the rows follow the request."""
    taken: set[tuple[int, int]] = set()
    for panel in fleet["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    assert max(x for x, _ in taken) == 23
    assert len({panel["id"] for panel in fleet["panels"]}) == len(fleet["panels"])
    rows = [panel["title"] for panel in fleet["panels"] if panel["type"] == "row"]
    assert rows == [
        "Health",
        "Requests and latency",
        "Callers",
        "Queue and dispatch",
        "Migration",
        "Instances",
    ]


def test_every_alert_says_what_it_is_and_what_to_do(rules: list[dict[str, Any]]) -> None:
    """Summary, description, runbook and a severity, on each."""
    alerts = [rule for rule in rules if "alert" in rule]
    assert alerts
    for alert in alerts:
        assert set(alert["annotations"]) == {"summary", "description", "runbook"}
        assert all(alert["annotations"].values())
        assert alert["labels"]["severity"] in {"warning", "critical"}


def command(*words: str) -> int:
    parser = argparse.ArgumentParser()
    dashboards.add_arguments(parser.add_subparsers())
    return dashboards.run(parser.parse_args(["dashboards", *words]))


def test_the_command_writes_and_then_finds_current(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--check exits with 1 and names what is stale, 0 after writing."""
    assert command("--check", "--out", str(tmp_path)) == 1
    assert "rules.yml is not current" in capsys.readouterr().err
    assert command("--out", str(tmp_path)) == 0
    assert command("--check", "--out", str(tmp_path)) == 0
    (tmp_path / "fleet.json").write_text("{}")
    assert command("--check", "--out", str(tmp_path)) == 1


def test_without_the_sdk_the_command_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK is optional; lacking it is explained, not a traceback."""
    real_import = builtins.__import__

    def without_sdk(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("grafana_foundation_sdk"):
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_sdk)
    with pytest.raises(SdkMissingError, match=r"llumnix-scheduler\[dashboards\]"):
        command("--out", str(tmp_path))
