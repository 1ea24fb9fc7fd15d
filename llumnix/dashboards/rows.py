"""What the fleet dashboard shows, in the order a request flows; the PromQL is in `promql`."""

from typing import Final

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
            "Instances that answer now, out of all that the fleet knows.",
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
            "Client streams being served now.",
            "none",
            (PanelQuery(newest("sum", "llumnix_streams_open")),),
            kind="stat",
            width=4,
        ),
        Panel(
            "Requests failed",
            "Requests that ended without their full answer, in the time range shown. Aim: none.",
            "none",
            (PanelQuery(total("llumnix_requests_total", ',outcome="failed"')),),
            kind="stat",
            width=4,
            steps=((1, "red"),),
        ),
        Panel(
            "Replay mismatches",
            "Moved streams whose replay differed from what the client already had. Aim: none.",
            "none",
            (PanelQuery(total("llumnix_stream_mismatch_total")),),
            kind="stat",
            width=4,
            steps=((1, "red"),),
        ),
        Panel(
            "Control frames refused",
            "Frames the control ports refused: malformed, too large or not authenticated.",
            "none",
            (PanelQuery(total("llumnix_control_frames_refused_total")),),
            kind="stat",
            width=4,
            steps=((1, "orange"),),
        ),
        Panel(
            "Version",
            "The version of each frontend that is scraped.",
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
            "Requests that ended each second, by how they ended.",
            "reqps",
            (PanelQuery(rate("llumnix_requests_total", "outcome"), "{{outcome}}"),),
            kind="stack",
        ),
        Panel(
            "Output tokens",
            "Output tokens sent to clients each second, by priority class.",
            "suffix: tok/s",
            (PanelQuery(rate("llumnix_output_tokens_total", "class_name"), "{{class_name}}"),),
            kind="stack",
        ),
        Panel(
            "Time to first token, all requests",
            "How many requests had their first token within each span of time.",
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
            "Mean time per output token after the first, of each request, by priority class.",
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
            "Requests the frontend holds because no instance could start them soon, and its limit; "
            "beyond the limit, requests are rejected.",
            "none",
            (
                PanelQuery(newest("sum by (class_name)", "llumnix_queue_length"), "{{class_name}}"),
                PanelQuery(newest("sum", "llumnix_queue_limit"), "limit"),
            ),
        ),
        _latency(
            "Queue wait",
            "llumnix_queue_wait_seconds",
            "Time requests were held in the frontend's queue, by priority class.",
        ),
        Panel(
            "Dispatched",
            "Requests sent to each instance each second, and the policy that chose it.",
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
            "Migrations that ended each minute, by why they were ordered and how they ended. "
            "A refused or aborted one leaves its request where it was.",
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
            "The pause a migration added for the client: last token from the source to first new "
            "token from the destination, less one mean inter-token interval of that stream.",
            "s",
            _quantiles("llumnix_migration_downtime_seconds"),
        ),
        Panel(
            "Gap between tokens at a move",
            "The whole gap the client saw at a move; never below one decode step, since the next "
            "token has to be computed too.",
            "s",
            _quantiles("llumnix_migration_gap_seconds"),
        ),
        Panel(
            "KV copied",
            "KV cache moved between instances each second.",
            "Bps",
            (PanelQuery(rate("llumnix_migration_copied_bytes_total"), "copied"),),
            width=12,
        ),
        Panel(
            "Streams carried on elsewhere",
            "Client streams re-attached to another instance each minute: after a migration, after "
            "their instance died, or bounced out of its queue by a drain.",
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

INSTANCES: Final = PanelRow(
    "Instances",
    (
        _instances(
            "Freeness",
            "llumnix_instance_freeness",
            "suffix: steps",
            "Decode steps each instance can still take, as the scheduler sees it: virtual usage "
            "counts queued requests and headroom, so it may be negative.",
            width=12,
        ),
        Panel(
            "KV memory in use",
            "Share of each instance's KV cache held by running requests or reserved for requests "
            "migrating in.",
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
            "Tokens that each instance must still prefill for requests it has; a burst of long "
            "prompts shows here first. Servers without our plugin do not tell.",
            width=8,
        ),
        _instances(
            "Age of reports",
            "llumnix_snapshot_age_seconds",
            "s",
            "Time since each instance last reported its load; decisions are as old as this.",
            width=12,
        ),
        Panel(
            "State",
            "Whether each instance answers.",
            "none",
            (PanelQuery(instance_gauge("llumnix_instance_up"), "{{instance_id}}"),),
            kind="states",
            width=12,
        ),
    ),
)

ROWS: Final = (HEALTH, REQUESTS, QUEUE, MIGRATION, INSTANCES)
