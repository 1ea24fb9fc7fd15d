"""The few shapes of PromQL the dashboard is made of.

Every expression selects by `$job`, and counters are only read over `$__rate_interval` (or the
whole range shown), as Grafana fills them in. An instance's gauges are exported by each frontend
that serves the fleet, so they are reduced by `max by (instance_id)` before anything is summed.
"""

from typing import Final

JOB: Final = 'job=~"$job"'
WINDOW: Final = "[$__rate_interval]"


def rate(metric: str, by: str = "") -> str:
    """Sum a counter's rate per second, grouped by labels."""
    grouping = f" by ({by})" if by else ""
    return f"sum{grouping} (rate({metric}{{{JOB}}}{WINDOW}))"


def total(metric: str, where: str = "") -> str:
    """Count events in the whole time range shown; 0 where the series does not exist yet."""
    return f"sum(increase({metric}{{{JOB}{where}}}[$__range])) or vector(0)"


def quantile(share: float, histogram: str, by: str = "") -> str:
    """Estimate a quantile over the whole fleet, not of each series."""
    return (
        f"histogram_quantile({share}, {rate(f'{histogram}_bucket', f'le, {by}' if by else 'le')})"
    )


def spread(histogram: str) -> str:
    """Count a histogram's observations by bucket, for a heatmap."""
    return f"sum by (le) (increase({histogram}_bucket{{{JOB}}}{WINDOW}))"


def newest(aggregate: str, gauge: str) -> str:
    """Aggregate a gauge that each frontend has for itself."""
    return f"{aggregate} ({gauge}{{{JOB}}})"


def instance_gauge(gauge: str, where: str = "") -> str:
    """Read a gauge of each instance, once however many frontends export it."""
    return f"max by (instance_id) ({gauge}{{{JOB}{where}}})"


def kv_share() -> str:
    """Divide the KV memory held or reserved on each instance by its capacity."""
    held = f'llumnix_instance_kv_tokens{{{JOB},kind=~"physical|reserved"}}'
    capacity = instance_gauge("llumnix_instance_kv_tokens", ',kind="capacity"')
    return f"sum by (instance_id) (max by (instance_id, kind) ({held})) / {capacity}"
