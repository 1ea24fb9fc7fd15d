"""Announces the control port's address, and the plugin's counters, to the fleet.

The port is known in the engine's process, `/metrics` is served by another. Both know the
connector's `engine_id`, so the engine writes one small file under that name and the API server's
collector reads it at every scrape. (It is created in `build_prom_metrics`, vLLM's hook for metrics
of connectors.)
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prometheus_client import REGISTRY
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

INFO = "llumnix_llumlet_info"
COUNTS = "llumnix_plugin_events"
LEVELS = "llumnix_plugin_now"


def path_for(engine_id: str) -> Path:
    """Return where an engine's announcement lies: a folder of this user alone."""
    folder = Path(tempfile.gettempdir()) / f"llumnix-{os.geteuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder / f"{engine_id}.json"


def announce(
    engine_id: str,
    labels: Mapping[str, str],
    counts: Mapping[str, int],
    levels: Mapping[str, int],
) -> None:
    """Write, or rewrite, what `/metrics` shows of this engine: counts only grow, levels vary."""
    path = path_for(engine_id)
    told = {"labels": dict(labels), "counts": dict(counts), "levels": dict(levels)}
    text = json.dumps(told)
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def withdraw(engine_id: str) -> None:
    """Remove the announcement."""
    with contextlib.suppress(OSError):
        path_for(engine_id).unlink(missing_ok=True)


class Announcement:
    """A Prometheus collector that shows what an engine has announced."""

    def __init__(self, engine_id: str) -> None:
        self._path = path_for(engine_id)

    def describe(self) -> list[Metric]:
        """Describe nothing in advance: the engine may not be up yet."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the announcement, if there is one."""
        try:
            told: dict[str, Any] = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return
        labels = told["labels"]
        info = GaugeMetricFamily(INFO, "The address of this engine's llumlet.", labels=list(labels))
        info.add_metric(list(labels.values()), 1)
        yield info
        counts = CounterMetricFamily(COUNTS, "Events the plugin has counted.", labels=["what"])
        for what, value in sorted(told["counts"].items()):
            counts.add_metric([what], value)
        yield counts
        levels = GaugeMetricFamily(LEVELS, "The plugin's current levels.", labels=["what"])
        for what, value in sorted(told["levels"].items()):
            levels.add_metric([what], value)
        yield levels


def show(engine_id: str) -> None:
    """Add an engine's announcement to this process's `/metrics`; once."""
    shown = Announcement(engine_id)
    with contextlib.suppress(ValueError):
        REGISTRY.register(shown)
