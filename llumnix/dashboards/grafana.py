"""Turns the panels into Grafana's classic dashboard JSON, using Grafana's own SDK."""

import json
import warnings
from typing import TYPE_CHECKING, Any, Final

from llumnix.dashboards.panels import Panel
from llumnix.dashboards.rows import ROWS
from llumnix.errors import LlumnixError

if TYPE_CHECKING:
    from grafana_foundation_sdk.models.common import DataSourceRef

SCHEMA_VERSION: Final = 41  # loads in Grafana 11.6 and later; newer ones migrate it upward
UID: Final = "llumnix-fleet"
_ROW_HEIGHT: Final = 1
_PANEL_HEIGHT: Final = {"stat": 4, "lines": 8, "stack": 8, "heatmap": 8, "states": 8}
_COLUMNS: Final = 24


class SdkMissingError(LlumnixError):
    """The optional Grafana SDK is not installed; the message says how to install it."""

    def __init__(self) -> None:
        super().__init__(
            "building dashboards needs Grafana's SDK: "
            "pip install 'llumnix-scheduler[dashboards]' (it pins grafana-foundation-sdk==0.0.21; "
            "an unpinned install picks an older build)"
        )


def fleet_dashboard() -> str:
    """Return the fleet dashboard as JSON text; raises SdkMissingError without the SDK."""
    try:
        from grafana_foundation_sdk.cog.encoder import JSONEncoder
    except ImportError as error:
        raise SdkMissingError from error
    with warnings.catch_warnings():
        # The SDK would rather build Grafana 12's new format; the classic one loads everywhere.
        warnings.simplefilter("ignore", DeprecationWarning)
        model = _dashboard()
    tree = json.loads(json.dumps(model, cls=JSONEncoder))
    tree["schemaVersion"] = SCHEMA_VERSION
    tree["id"] = None
    return json.dumps(tree, indent=2) + "\n"


def _dashboard() -> Any:
    from grafana_foundation_sdk.builders import dashboard as build
    from grafana_foundation_sdk.models.dashboard import DashboardCursorSync, VariableOption

    builder = (
        build.Dashboard("Llumnix fleet")
        .uid(UID)
        .description("A fleet of LLM instances with live migration of running requests.")
        .tags(["llumnix", "llm"])
        .time("now-30m", "now")
        .refresh("10s")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(
            build.DatasourceVariable("datasource").label("Data source").type("prometheus")
        )
        .with_variable(
            build.QueryVariable("job")
            .label("Fleet (job)")
            .datasource(_datasource())
            .query("label_values(llumnix_build_info, job)")
            .current(VariableOption(text="All", value="$__all"))
            .include_all(True)
            .all_value(".+")
            .multi(True)
        )
    )
    _place_rows(builder)
    return builder.build()


def _place_rows(builder: Any) -> None:
    from grafana_foundation_sdk.builders import dashboard as build
    from grafana_foundation_sdk.models.dashboard import GridPos

    top, next_id = 0, 1
    for row in ROWS:
        position = GridPos(h=_ROW_HEIGHT, w=_COLUMNS, x=0, y=top)
        builder.with_row(build.Row(row.title).id(next_id).grid_pos(position))
        top, next_id = top + _ROW_HEIGHT, next_id + 1
        left = line_height = 0
        for panel in row.panels:
            if left + panel.width > _COLUMNS:
                top, left, line_height = top + line_height, 0, 0
            height = _PANEL_HEIGHT[panel.kind]
            position = GridPos(h=height, w=panel.width, x=left, y=top)
            builder.with_panel(_panel(panel).id(next_id).grid_pos(position))
            left, line_height, next_id = left + panel.width, max(line_height, height), next_id + 1
        top += line_height


def _panel(panel: Panel) -> Any:
    from grafana_foundation_sdk.builders import prometheus
    from grafana_foundation_sdk.models.prometheus import PromQueryFormat

    builder = _bare_panel(panel).title(panel.title).description(panel.description)
    builder = builder.unit(panel.unit).datasource(_datasource())
    for index, query in enumerate(panel.queries):
        target = (
            prometheus.Dataquery()
            .ref_id(chr(ord("A") + index))
            .expr(query.expr)
            .legend_format(query.legend)
            .datasource(_datasource())
        )
        if panel.kind == "heatmap":
            target = target.format(PromQueryFormat.HEATMAP)
        builder = builder.with_target(target.instant() if panel.kind == "stat" else target.range())
    return builder


def _bare_panel(panel: Panel) -> Any:
    if panel.kind == "stat":
        return _stat(panel)
    if panel.kind == "heatmap":
        return _heatmap()
    if panel.kind == "states":
        return _states()
    return _timeseries(stacked=panel.kind == "stack")


def _stat(panel: Panel) -> Any:
    from grafana_foundation_sdk.builders import common, stat
    from grafana_foundation_sdk.builders.dashboard import ThresholdsConfig
    from grafana_foundation_sdk.models.common import BigValueColorMode, BigValueTextMode
    from grafana_foundation_sdk.models.dashboard import Threshold, ThresholdsMode

    steps = [Threshold(value=None, color="green")]
    steps += [Threshold(value=float(at), color=colour) for at, colour in panel.steps]
    builder = (
        stat.Panel()
        .thresholds(ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
        .color_mode(BigValueColorMode.VALUE if panel.steps else BigValueColorMode.NONE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .decimals(0)
    )
    return builder.text_mode(BigValueTextMode.NAME) if panel.text == "name" else builder


def _heatmap() -> Any:
    from grafana_foundation_sdk.builders import heatmap
    from grafana_foundation_sdk.models.heatmap import HeatmapColorMode

    colours = heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Blues").steps(32)
    return (
        heatmap.Panel()
        .calculate(False)
        .color(colours)
        .y_axis(heatmap.YAxisConfig().unit("s"))
        .show_legend()
    )


def _states() -> Any:
    from grafana_foundation_sdk.builders import statetimeline
    from grafana_foundation_sdk.models.dashboard import ValueMap, ValueMappingResult

    shown = {
        "0": ValueMappingResult(text="down", color="red", index=0),
        "1": ValueMappingResult(text="up", color="green", index=1),
    }
    return statetimeline.Panel().mappings([ValueMap(options=shown)]).fill_opacity(70)


def _timeseries(*, stacked: bool) -> Any:
    from grafana_foundation_sdk.builders import common, timeseries
    from grafana_foundation_sdk.models.common import (
        LegendDisplayMode,
        LegendPlacement,
        StackingMode,
        TooltipDisplayMode,
        VisibilityMode,
    )

    legend = (
        common.VizLegendOptions()
        .show_legend(True)
        .display_mode(LegendDisplayMode.LIST)
        .placement(LegendPlacement.BOTTOM)
    )
    builder = (
        timeseries.Panel()
        .legend(legend)
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
        .show_points(VisibilityMode.NEVER)
        .line_width(1)
        .fill_opacity(30 if stacked else 0)
    )
    if stacked:
        builder = builder.stacking(common.StackingConfig().mode(StackingMode.NORMAL)).min(0)
    return builder


def _datasource() -> "DataSourceRef":
    from grafana_foundation_sdk.models.common import DataSourceRef

    return DataSourceRef(type_val="prometheus", uid="${datasource}")
