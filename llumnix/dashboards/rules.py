"""The recording and alerting rules, as plain data, and their YAML.

Recorded names follow Prometheus' `level:metric:operation` convention; only names that are scraped
must not hold colons. The error-budget alerts look at two windows at once (the SRE workbook's
multi-window rule): the long one says that it matters, the short one that it is still going on.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import yaml

# At least this share of a class's requests shall have their first token within so many seconds.
# Bounds are bucket bounds of llumnix_ttft_seconds; edit them to your own objectives and regenerate.
TTFT_OBJECTIVE: Final = 0.99
TTFT_BOUND_S: Final = {"high": 1.0, "normal": 3.0}

# (severity, short window, long window, burn factor): the first spends 2 % of a 30-day budget in an
# hour, the second 5 % in six.
_BURNS: Final = (("critical", "5m", "1h", 14.4), ("warning", "30m", "6h", 6.0))

_HEADER: Final = "# Made by `llumnix dashboards`; edit llumnix/dashboards/rules.py instead.\n"


@dataclass(frozen=True, slots=True)
class Alert:
    """One alerting rule; `held` is Prometheus' `for`, and `runbook` what to do about it."""

    name: str
    expr: str
    severity: str
    summary: str
    description: str
    runbook: str
    held: str = "0s"


def rules_yaml() -> str:
    """Return rules.yml as text."""
    groups = [
        {"name": "llumnix-recorded", "rules": list(_recorded())},
        {"name": "llumnix-alerts", "rules": [_rule(alert) for alert in (*ALERTS, *_burns())]},
    ]
    return _HEADER + yaml.dump({"groups": groups}, Dumper=_Dumper, sort_keys=False, width=100)


def _recorded() -> Iterator[dict[str, Any]]:
    for window in ("5m", "30m", "1h", "6h"):
        for class_name, bound_s in TTFT_BOUND_S.items():
            yield {
                "record": f"llumnix:ttft_slow:ratio_rate{window}",
                "labels": {"class_name": class_name},
                "expr": _slow_share(class_name, bound_s, window),
            }
    for share, name in ((0.5, "p50"), (0.99, "p99")):
        yield {
            "record": f"llumnix:ttft_seconds:{name}_5m",
            "expr": f"histogram_quantile({share}, sum by (job, class_name, le) "
            "(rate(llumnix_ttft_seconds_bucket[5m])))",
        }
    yield {
        "record": "llumnix:migrations_aborted:ratio_rate15m",
        "expr": 'sum by (job) (rate(llumnix_migrations_total{result="aborted"}[15m]))\n'
        "/ (sum by (job) (rate(llumnix_migrations_total[15m])) > 0)",
    }
    yield {
        "record": "llumnix:queue_fill:ratio",
        "expr": "sum by (job) (llumnix_queue_length) / (sum by (job) (llumnix_queue_limit) > 0)",
    }


def _slow_share(class_name: str, bound_s: float, window: str) -> str:
    within = f'llumnix_ttft_seconds_bucket{{class_name="{class_name}",le="{bound_s}"}}'
    every = f'llumnix_ttft_seconds_count{{class_name="{class_name}"}}'
    met = f"sum by (job) (rate({within}[{window}]))"
    return f"1 - {met}\n/ (sum by (job) (rate({every}[{window}])) > 0)"


ALERTS: Final = (
    Alert(
        name="LlumnixFrontendGone",
        expr="absent(llumnix_build_info)",
        held="2m",
        severity="critical",
        summary="No Llumnix frontend is being scraped.",
        description="Prometheus has seen no llumnix_build_info for 2 minutes.",
        runbook="Is `llumnix serve` running, and does Prometheus reach its /metrics?",
    ),
    Alert(
        name="LlumnixNoInstanceUp",
        expr="sum by (job) (max by (job, instance_id) (llumnix_instance_up)) == 0",
        held="30s",
        severity="critical",
        summary="No instance of {{ $labels.job }} answers.",
        description="Every request is held in the queue or rejected until one is back.",
        runbook="Run `llumnix instances`; start instances or look at their logs.",
    ),
    Alert(
        name="LlumnixInstanceDown",
        expr="max by (job, instance_id) (llumnix_instance_up) == 0",
        held="1m",
        severity="warning",
        summary="Instance {{ $labels.instance_id }} of {{ $labels.job }} is down.",
        description="It has not answered for a minute. Its streams were resumed elsewhere.",
        runbook="Look at the instance's log and host; `llumnix instances` shows the rest.",
    ),
    Alert(
        name="LlumnixRequestsFailed",
        expr='sum by (job) (increase(llumnix_requests_total{outcome="failed"}[5m])) > 0',
        severity="critical",
        summary="Requests are failing on {{ $labels.job }}.",
        description='{{ $value | printf "%.0f" }} requests ended without their full answer in '
        "5 minutes. A fleet with one healthy instance should lose none.",
        runbook="Run `llumnix top` and look at the events; the frontend's log names each request.",
    ),
    Alert(
        name="LlumnixResumesFailing",
        expr='sum by (job, reason) (increase(llumnix_resumes_total{result="failed"}[10m])) > 0',
        severity="critical",
        summary="Streams could not be carried on elsewhere ({{ $labels.reason }}).",
        description='{{ $value | printf "%.0f" }} streams of {{ $labels.job }} could not be '
        "re-attached to another instance in 10 minutes; their clients saw them break.",
        runbook="Is any instance up with room left? Do all instances share one LLUMNIX_SECRET?",
    ),
    Alert(
        name="LlumnixStreamMismatch",
        expr="sum by (job) (increase(llumnix_stream_mismatch_total[15m])) > 0",
        severity="critical",
        summary="A moved stream did not continue the text its client already had.",
        description='The replay of {{ $value | printf "%.0f" }} streams of {{ $labels.job }} '
        "differed in 15 minutes. Do all instances run the same model, weights and numerics?",
        runbook="Compare model, dtype and versions of the instances; serve without migration until "
        "they agree.",
    ),
    Alert(
        name="LlumnixMigrationsAborting",
        expr="llumnix:migrations_aborted:ratio_rate15m > 0.2\n"
        "and sum by (job) (increase(llumnix_migrations_total[15m])) >= 10",
        held="5m",
        severity="warning",
        summary="Over a fifth of the migrations of {{ $labels.job }} abort.",
        description="{{ $value | humanizePercentage }} aborted in 15 minutes. Requests are safe, "
        "but load is not being balanced and the copying is wasted.",
        runbook="Run `llumnix top`: the events give each abort's reason. Look at the links first.",
    ),
    Alert(
        name="LlumnixQueueNearLimit",
        expr="llumnix:queue_fill:ratio > 0.8",
        held="1m",
        severity="warning",
        summary="The queue of {{ $labels.job }} is {{ $value | humanizePercentage }} full.",
        description="At its limit, new requests are rejected with 429.",
        runbook="Add instances, or admit less. `llumnix instances` shows whether any has room.",
    ),
    Alert(
        name="LlumnixReportsStale",
        expr="max by (job, instance_id) (llumnix_snapshot_age_seconds) > 10\n"
        "and max by (job, instance_id) (llumnix_instance_up) == 1",
        held="1m",
        severity="warning",
        summary="Instance {{ $labels.instance_id }} is up but no longer reports its load.",
        description="Its last report is {{ $value | humanizeDuration }} old, so it is dispatched "
        "to by stale figures and takes no part in migration.",
        runbook="Can the frontend reach the instance's control port? Do their secrets agree?",
    ),
    Alert(
        name="LlumnixControlFramesRefused",
        expr="sum by (job, reason) (increase(llumnix_control_frames_refused_total[15m])) > 0",
        severity="warning",
        summary="Control ports refused frames ({{ $labels.reason }}).",
        description='{{ $value | printf "%.0f" }} frames of {{ $labels.job }} were refused in '
        "15 minutes: a wrong secret, mixed versions, or somebody knocking.",
        runbook="Keep control ports off public networks; compare LLUMNIX_SECRET and versions.",
    ),
)


def _burns() -> Iterator[Alert]:
    for severity, short, long, factor in _BURNS:
        limit = f"{factor} * {1 - TTFT_OBJECTIVE:.2f}"
        yield Alert(
            name="LlumnixTtftBudgetBurn",
            expr=f"llumnix:ttft_slow:ratio_rate{short} > {limit}\n"
            f"and llumnix:ttft_slow:ratio_rate{long} > {limit}",
            severity=severity,
            summary="First tokens of class {{ $labels.class_name }} come too late on "
            "{{ $labels.job }}.",
            description="{{ $value | humanizePercentage }} of its requests waited too long in the "
            f"last {short}; over {long}, its error budget burns {factor:g} times too fast "
            f"(objective: {TTFT_OBJECTIVE:.0%} within {_bounds()}).",
            runbook="Compare freeness and queue in the dashboard: all low means too few instances, "
            "uneven means migration is not keeping up.",
        )


def _bounds() -> str:
    return ", ".join(f"{bound_s:g} s for {name}" for name, bound_s in TTFT_BOUND_S.items())


def _rule(alert: Alert) -> dict[str, Any]:
    rule: dict[str, Any] = {"alert": alert.name, "expr": alert.expr}
    if alert.held != "0s":
        rule["for"] = alert.held
    rule["labels"] = {"severity": alert.severity}
    rule["annotations"] = {
        "summary": alert.summary,
        "description": alert.description,
        "runbook": alert.runbook,
    }
    return rule


class _Dumper(yaml.SafeDumper):
    """Writes long expressions as literal blocks, the way people write them."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)
