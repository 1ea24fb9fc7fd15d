"""A dashboard as plain data: rows of panels, each a few queries."""

from dataclasses import dataclass
from typing import Literal

PanelKind = Literal["stat", "lines", "stack", "heatmap", "states"]


@dataclass(frozen=True, slots=True)
class PanelQuery:
    """One PromQL expression and how its series are named in the legend."""

    expr: str
    legend: str = "__auto"


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel; `width` is in Grafana's 24 columns, `unit` a Grafana unit id.

    `steps` are thresholds as (from value, colour) above a green base; they colour `stat` panels.
    """

    title: str
    description: str
    unit: str
    queries: tuple[PanelQuery, ...]
    kind: PanelKind = "lines"
    width: int = 8
    steps: tuple[tuple[float, str], ...] = ()
    text: Literal["value", "name"] = "value"


@dataclass(frozen=True, slots=True)
class PanelRow:
    """A titled band of panels."""

    title: str
    panels: tuple[Panel, ...]
