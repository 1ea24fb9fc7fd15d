"""A real Prometheus scrapes the real exporter; every query and rule must find data."""

import json
import math
import os
import random
import re
import shutil
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, start_http_server

from llumnix.commands import dashboards
from llumnix.dashboards.rows import ROWS
from llumnix.metrics.catalogue import (
    MIGRATION_REASONS,
    MIGRATION_RESULTS,
    OUTCOMES,
    RESUME_REASONS,
    RESUME_RESULTS,
    FleetMetrics,
)

CLASSES = ("high", "normal")
INSTANCES = ("a", "b")
DEADLINE_S = 60.0
PATIENCE_S = 0.25
FILLED_IN = {"$job": ".+", "$__rate_interval": "5s", "$__range": "1m"}


def required(program: str) -> str:
    """Find a program of Prometheus; its absence fails where it is required, else skips loudly."""
    path = shutil.which(program)
    if path is None:
        advice = f"{program} is missing: apt-get install -y --no-install-recommends prometheus"
        if os.environ.get("LLUMNIX_REQUIRE_PROMETHEUS"):
            pytest.fail(advice)
        pytest.skip(advice)
    return path


def feed(metrics: FleetMetrics, dice: random.Random) -> None:
    """Let a little of everything happen."""
    for class_name in CLASSES:
        for outcome in OUTCOMES:
            metrics.requests_total.labels(class_name=class_name, outcome=outcome).inc()
        metrics.output_tokens_total.labels(class_name=class_name).inc(dice.randrange(50, 100))
        metrics.ttft_seconds.labels(class_name=class_name).observe(dice.expovariate(0.5))
        metrics.tpot_seconds.labels(class_name=class_name).observe(dice.uniform(0.03, 0.06))
        metrics.e2e_seconds.labels(class_name=class_name).observe(dice.expovariate(0.1))
        metrics.queue_wait_seconds.labels(class_name=class_name).observe(dice.expovariate(1))
        metrics.queue_length.labels(class_name=class_name).set(dice.randrange(80, 90))
    metrics.queue_limit.set(200)
    metrics.streams_open.set(dice.randrange(10, 20))
    for reason in MIGRATION_REASONS:
        for result in MIGRATION_RESULTS:
            metrics.migrations_total.labels(reason=reason, result=result).inc()
    metrics.migration_downtime_seconds.observe(dice.uniform(0.001, 0.03))
    metrics.migration_gap_seconds.observe(dice.uniform(0.04, 0.08))
    metrics.migration_copied_bytes_total.inc(1 << 20)
    for reason in RESUME_REASONS:
        for result in RESUME_RESULTS:
            metrics.resumes_total.labels(reason=reason, result=result).inc()
    metrics.stream_mismatch_total.inc()
    metrics.tenant_requests_total.labels(tenant="acme", status="2xx").inc()
    metrics.control_frames_refused_total.labels(reason="bad_hmac").inc()
    for up, instance_id in enumerate(INSTANCES):
        feed_instance(metrics, dice, instance_id, up)


def feed_instance(metrics: FleetMetrics, dice: random.Random, instance_id: str, up: int) -> None:
    metrics.dispatch_total.labels(policy="freeness", instance_id=instance_id).inc()
    metrics.instance_up.labels(instance_id=instance_id).set(up)
    metrics.instance_not_up.labels(instance_id=instance_id, cause="lost").set(1 - up)
    metrics.instance_freeness.labels(instance_id=instance_id).set(dice.uniform(-50, 500))
    metrics.instance_running.labels(instance_id=instance_id).set(dice.randrange(32))
    metrics.instance_waiting.labels(instance_id=instance_id).set(dice.randrange(4))
    metrics.instance_prefill_backlog_tokens.labels(instance_id=instance_id).set(
        dice.randrange(4000)
    )
    metrics.snapshot_age_seconds.labels(instance_id=instance_id).set(99)
    for kind, tokens in (("physical", 9000), ("reserved", 500), ("capacity", 13616)):
        metrics.instance_kv_tokens.labels(instance_id=instance_id, kind=kind).set(tokens)


@pytest.fixture(scope="module")
def exporter_port() -> Iterator[int]:
    """Serve a fleet's metrics over HTTP while things go on happening to it."""
    metrics = FleetMetrics(CollectorRegistry())
    metrics.declare_classes(CLASSES)
    server, thread = start_http_server(0, addr="127.0.0.1", registry=metrics.registry)
    stop = threading.Event()

    def keep_feeding() -> None:
        dice = random.Random(0)
        while not stop.wait(0.1):
            feed(metrics, dice)

    feeder = threading.Thread(target=keep_feeding)
    feeder.start()
    yield server.server_port
    stop.set()
    feeder.join(timeout=5)
    server.shutdown()
    server.server_close()
    thread.join(timeout=5)


class Prometheus:
    """A running Prometheus; asks it over its HTTP API."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/api/v1/"

    def get(self, path: str, **params: str) -> Any:
        """Return the answer's data; an error answer raises."""
        query = urllib.parse.urlencode(params)
        with urllib.request.urlopen(f"{self.url}{path}?{query}", timeout=10) as answer:
            return json.load(answer)["data"]

    def numbers(self, expression: str) -> list[float]:
        """Return the values of the series an expression gives now, NaN left out."""
        result = self.get("query", query=expression)["result"]
        values = [float(series["value"][1]) for series in result]
        return [value for value in values if not math.isnan(value)]

    def empty(self, expressions: list[str]) -> list[str]:
        """Wait until every expression has data; return those that have none at the deadline."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            expressions = [text for text in expressions if not self.numbers(text)]
            if not expressions or time.monotonic() > deadline:
                return expressions
            time.sleep(PATIENCE_S)


@pytest.fixture(scope="module")
def prometheus(
    exporter_port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """Start Prometheus on a free loopback port, with our rules, scraping the exporter."""
    program = required("prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(dashboards.home() / "rules.yml")],
        "scrape_configs": [
            {
                "job_name": "fleet",
                "static_configs": [{"targets": [f"127.0.0.1:{exporter_port}"]}],
            }
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                program,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                "--web.listen-address=127.0.0.1:0",
            ],
            stdout=output,
            stderr=output,
        )
    try:
        yield Prometheus(listening_port(process, log))
    finally:
        process.kill()
        process.wait(timeout=10)


def listening_port(process: "subprocess.Popen[bytes]", log: Path) -> int:
    """Read from its log which port it was given, once it is ready to answer."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline and process.poll() is None:
        text = log.read_text()
        port = re.search(r'msg="Listening on" address=127\.0\.0\.1:(\d+)', text)
        if port and "Server is ready" in text:
            return int(port[1])
        time.sleep(PATIENCE_S)
    raise AssertionError(f"Prometheus did not start:\n{log.read_text()}")


def filled_in(expression: str) -> str:
    for variable, value in FILLED_IN.items():
        expression = expression.replace(variable, value)
    return expression


def test_every_query_of_the_dashboard_returns_data(prometheus: Prometheus) -> None:
    """Scraped through the real exposition, no panel stays empty."""
    queries = [filled_in(q.expr) for row in ROWS for panel in row.panels for q in panel.queries]
    assert prometheus.empty(queries) == []


def test_the_dashboards_figures_are_those_that_were_fed(prometheus: Prometheus) -> None:
    """A few panels whose value is known show that value."""
    panels = {panel.title: panel for row in ROWS for panel in row.panels}

    def shown(title: str) -> list[list[float]]:
        queries = [filled_in(query.expr) for query in panels[title].queries]
        assert prometheus.empty(list(queries)) == []
        return [prometheus.numbers(query) for query in queries]

    assert shown("Instances up") == [[1.0], [2.0]]
    assert shown("KV cache in use") == [[pytest.approx(9500 / 13616)] * len(INSTANCES)]
    p50, p99 = shown("Downtime")
    assert 0.001 <= p50[0] <= p99[0] <= 0.03


def test_every_recording_rule_records_and_every_alert_evaluates(prometheus: Prometheus) -> None:
    """All rules are healthy in a real server, and all recorded series hold data."""
    groups = yaml.safe_load((dashboards.home() / "rules.yml").read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert prometheus.empty([rule["record"] for rule in rules if "record" in rule]) == []
    # The traffic fed is bad in every way but one: a frontend is there, and one instance is up.
    silent = {"LlumnixFrontendGone", "LlumnixNoInstanceUp"}
    alerts = [rule["expr"] for rule in rules if rule.get("alert", "Llumnix") not in silent]
    assert prometheus.empty(alerts) == []
    loaded = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert len(loaded) == len(rules)
    assert {(rule["health"], rule.get("lastError")) for rule in loaded} == {("ok", None)}


@pytest.mark.parametrize(
    "arguments", [("check", "rules", "rules.yml"), ("test", "rules", "rules_test.yml")]
)
def test_promtool_accepts_the_rules_and_their_unit_tests(arguments: tuple[str, ...]) -> None:
    """Alerts fire when they should and are silent when not (dashboards/rules_test.yml)."""
    done = subprocess.run(
        [required("promtool"), *arguments],
        cwd=dashboards.home(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout
