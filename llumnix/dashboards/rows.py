"""The fleet dashboard's rows, in the order in which a request flows; `promql` holds the PromQL."""

from typing import Final

from llumnix.dashboards.callers import CALLERS
from llumnix.dashboards.panels import Panel, PanelQuery, PanelRow
from llumnix.dashboards.promql import (
    instance_gauge,
    kv_share,
    newest,
    quantile,
    rate,
    spread,
    total,
)


def _quantiles(metric: str, by: str = "", legend: str = "") -> tuple[PanelQuery, ...]:
    return tuple(
        PanelQuery(quantile(share, metric, by), f"{legend} {name}".strip())
        for share, name in ((0.5, "p50"), (0.99, "p99"))
    )


def _latency(title: str, metric: str, description: str) -> Panel:
    queries = _quantiles(metric, "class_name", "{{class_name}}")
    return Panel(title, description, "s", queries)


def _instances(title: str, metric: str, unit: str, description: str, width: int) -> Panel:
    queries = (PanelQuery(instance_gauge(metric), "{{instance_id}}"),)
    return Panel(title, description, unit, queries, width=width)


HEALTH: Final = PanelRow(
    "Health",
    (
        Panel(
            "Instances up",
            "Instances that are up, out of all that the fleet knows.",
            "none",
            (
                PanelQuery(f"sum({instance_gauge('llumnix_instance_up')})", "up"),
                PanelQuery(f"count({instance_gauge('llumnix_instance_up')})", "known"),
            ),
            kind="stat",
            width=4,
        ),
        Panel(
            "Streams open",
            "Client streams that are being served.",
            "none",
            (PanelQuery(newest("sum", "llumnix_streams_open")),),
            kind="stat",
            width=4,
        ),
        Panel(
            "Requests failed",
            "Requests that ended without a complete response in the time range. Target: none.",
            "none",
            (PanelQuery(total("llumnix_requests_total", ',outcome="failed"')),),
            kind="stat",
            width=4,
            steps=((1, "red"),),
        ),
        Panel(
            "Replay mismatches",
            "Moved streams whose replay differed from what the client already had. Target: none.",
            "none",
            (PanelQuery(total("llumnix_stream_mismatch_total")),),
            kind="stat",
            width=4,
            steps=((1, "red"),),
        ),
        Panel(
            "Control frames refused",
            "Frames that control ports refused: malformed, too large or not authenticated.",
            "none",
            (PanelQuery(total("llumnix_control_frames_refused_total")),),
            kind="stat",
            width=4,
            steps=((1, "orange"),),
        ),
        Panel(
            "Version",
            "The version of each scraped frontend.",
            "none",
            (PanelQuery(newest("count by (version)", "llumnix_build_info"), "{{version}}"),),
            kind="stat",
            width=4,
            text="name",
        ),
    ),
)

REQUESTS: Final = PanelRow(
    "Requests and latency",
    (
        Panel(
            "Requests ended",
            "Requests that ended per second, by outcome.",
            "reqps",
            (PanelQuery(rate("llumnix_requests_total", "outcome"), "{{outcome}}"),),
            kind="stack",
        ),
        Panel(
            "Output tokens",
            "Output tokens sent to clients per second, by priority class.",
            "suffix: tok/s",
            (PanelQuery(rate("llumnix_output_tokens_total", "class_name"), "{{class_name}}"),),
            kind="stack",
        ),
        Panel(
            "Time to first token, all requests",
            "How many requests got their first token within each interval of time.",
            "s",
            (PanelQuery(spread("llumnix_ttft_seconds"), "{{le}}"),),
            kind="heatmap",
        ),
        _latency(
            "Time to first token (TTFT)",
            "llumnix_ttft_seconds",
            "From arrival at the frontend to the first output token, by priority class.",
        ),
        _latency(
            "Time per output token (TPOT)",
            "llumnix_tpot_seconds",
            "Mean time per output token after the first, per request, by priority class.",
        ),
        _latency(
            "End to end",
            "llumnix_e2e_seconds",
            "From arrival at the frontend to the last output token, by priority class.",
        ),
    ),
)

QUEUE: Final = PanelRow(
    "Queue and dispatch",
    (
        Panel(
            "Queue length",
            "Requests queued at the frontend because no instance can start them soon, and the "
            "queue's "
            "limit, beyond which requests are rejected.",
            "none",
            (
                PanelQuery(newest("sum by (class_name)", "llumnix_queue_length"), "{{class_name}}"),
                PanelQuery(newest("sum", "llumnix_queue_limit"), "limit"),
            ),
        ),
        _latency(
            "Queue wait",
            "llumnix_queue_wait_seconds",
            "Time that requests spent in the frontend's queue, by priority class.",
        ),
        Panel(
            "Dispatched",
            "Requests dispatched to each instance per second, with the policy that chose it.",
            "reqps",
            (
                PanelQuery(
                    rate("llumnix_dispatch_total", "policy, instance_id"),
                    "{{instance_id}} ({{policy}})",
                ),
            ),
            kind="stack",
        ),
    ),
)

MIGRATION: Final = PanelRow(
    "Migration",
    (
        Panel(
            "Migrations",
            "Migrations that ended per minute, by reason and result. A refused or aborted "
            "migration "
            "leaves its request where it was.",
            "suffix: /min",
            (
                PanelQuery(
                    f"60 * {rate('llumnix_migrations_total', 'reason, result')}",
                    "{{reason}} {{result}}",
                ),
            ),
            kind="stack",
        ),
        Panel(
            "Downtime",
            "The pause that a migration added for the client: from the last token of the source to "
            "the first new token of the destination, less one mean inter-token interval of the "
            "stream.",
            "s",
            _quantiles("llumnix_migration_downtime_seconds"),
        ),
        Panel(
            "Gap between tokens at a move",
            "The whole gap that the client saw at a move; never less than one decode step, because "
            "the next token has to be computed too.",
            "s",
            _quantiles("llumnix_migration_gap_seconds"),
        ),
        Panel(
            "KV copied",
            "KV cache copied between instances per second.",
            "Bps",
            (PanelQuery(rate("llumnix_migration_copied_bytes_total"), "copied"),),
            width=12,
        ),
        Panel(
            "Streams resumed elsewhere",
            "Client streams resumed on another instance per minute: after a migration, after their "
            "instance died, or after a drain sent them back from its queue.",
            "suffix: /min",
            (
                PanelQuery(
                    f"60 * {rate('llumnix_resumes_total', 'reason, result')}",
                    "{{reason}} {{result}}",
                ),
            ),
            width=12,
        ),
    ),
)

_NOT_UP: Final = newest("max by (instance_id, cause)", "llumnix_instance_not_up")
INSTANCES: Final = PanelRow(
    "Instances",
    (
        _instances(
            "Freeness",
            "llumnix_instance_freeness",
            "suffix: steps",
            "Decode steps that each instance can still run, as the scheduler sees it: virtual "
            "usage "
            "includes queued requests and headroom, so freeness may be negative.",
            width=12,
        ),
        Panel(
            "KV cache in use",
            "Share of each instance's KV cache that running requests hold or that is reserved for "
            "requests migrating in.",
            "percentunit",
            (PanelQuery(kv_share(), "{{instance_id}}"),),
            width=12,
        ),
        _instances(
            "Running requests",
            "llumnix_instance_running",
            "none",
            "Requests in each instance's batch.",
            width=8,
        ),
        _instances(
            "Waiting requests",
            "llumnix_instance_waiting",
            "none",
            "Requests in each instance's own queue.",
            width=8,
        ),
        _instances(
            "Prefill backlog",
            "llumnix_instance_prefill_backlog_tokens",
            "suffix: tokens",
            "Tokens that each instance has yet to prefill for the requests it holds; a burst of "
            "long "
            "prompts shows here first. Servers without the Llumnix plugin do not report it.",
            width=8,
        ),
        _instances(
            "Age of reports",
            "llumnix_snapshot_age_seconds",
            "s",
            "Time since each instance last reported its load; decisions rest on figures this old.",
            width=12,
        ),
        Panel(
            "State",
            "Whether each instance is up.",
            "none",
            (PanelQuery(instance_gauge("llumnix_instance_up"), "{{instance_id}}"),),
            kind="states",
            width=12,
        ),
        Panel(
            "Not up",
            "Why instances are not up: `llumnix instances` says what to do about each.",
            "none",
            (PanelQuery(_NOT_UP, "{{instance_id}}: {{cause}}"),),
            width=24,
        ),
    ),
)

ROWS: Final = (HEALTH, REQUESTS, CALLERS, QUEUE, MIGRATION, INSTANCES)
