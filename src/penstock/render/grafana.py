"""Grafana's files: the dashboards as JSON, and what makes it find them and their data.

Needs `grafana-foundation-sdk`, Grafana's own account of its schema.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    GraphTresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
)

from penstock.core.config import Config
from penstock.core.config_clickhouse import PORTS as CLICKHOUSE_PORTS
from penstock.render.dashboards.all import PAGES
from penstock.render.dashboards.page import MODEL, Page, Panel, Query
from penstock.render.runbook import INDEX
from penstock.render.yaml_text import yaml_text

PROMETHEUS = DataSourceRef("prometheus", "penstock-prometheus")
CLICKHOUSE = DataSourceRef("grafana-clickhouse-datasource", "penstock-clickhouse")
_GRAFANA = DataSourceRef("grafana", "-- Grafana --")
DASHBOARDS = "dashboards"
# Where the files lie in the container of Grafana's image.
_FOLDER = "/etc/grafana/penstock/dashboards"
_HEIGHT = 8
_STAT_HEIGHT = 4
_COLUMNS = 24
TAG = "penstock"

# What is marked on every dashboard: its name, its colour, and a query whose series are moments.
ANNOTATIONS: tuple[tuple[str, str, str], ...] = (
    ("Alerts that page", "red", 'ALERTS{alertstate="firing", severity="page"}'),
    ("Restarts", "orange", "changes(penstock_part_restarts_total[1m]) > 0"),
    ("Reloads", "blue", 'changes(penstock_config_reloads_total{result="applied"}[1m]) > 0'),
)
# Written by `penstock bench run --annotate` and by drills.
MARKS = (("Load tests", "purple", "penstock-loadtest"), ("Drills", "yellow", "penstock-drill"))


def grafana(config: Config) -> Mapping[str, str]:
    """All files, by their paths."""
    return {
        **{f"{DASHBOARDS}/{page.uid}.json": _json(page, config.monitoring.runbooks) for page in PAGES},
        "provisioning/datasources/penstock.yaml": yaml_text(_datasources(config)),
        "provisioning/dashboards/penstock.yaml": yaml_text(_provider()),
    }


def _json(page: Page, runbooks: str) -> str:
    return JSONEncoder(sort_keys=True, indent=2).encode(_dashboard(page, runbooks).build()) + "\n"


def _dashboard(page: Page, runbooks: str) -> dashboard.Dashboard:
    made = (
        dashboard.Dashboard(page.title)
        .uid(page.uid)
        .description(page.about)
        .tags([TAG])
        .time("now-1h", "now")
        .refresh("30s")
        .timezone("browser")
        .editable()
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .link(
            dashboard.DashboardLink("Penstock")
            .type(DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .as_dropdown(True)
            .keep_time(True)
            .include_vars(True)
        )
    )
    if runbooks.startswith("http"):  # Grafana has no folder that another link could begin in
        link = dashboard.DashboardLink("Runbooks").type(DashboardLinkType.LINK).url(f"{runbooks}{INDEX}")
        made = made.link(link.target_blank(True))
    if any(MODEL in query.text for panel in page.panels for query in panel.queries):
        made = made.with_variable(_model_variable())
    for note in _annotations():
        made = made.annotation(note)
    for row in page.rows:
        made = made.with_row(dashboard.Row(row.title))
        for panel in row.panels:
            made = made.with_panel(_KINDS[panel.kind](panel))
    return made


def _model_variable() -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable("model")
        .label("Model")
        .datasource(PROMETHEUS)
        .query("label_values(penstock_tokens_total, model)")
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .include_all(True)
        .all_value(".*")
        .multi(True)
    )


def _annotations() -> Iterator[dashboard.AnnotationQuery]:
    for name, color, expr in ANNOTATIONS:
        yield (
            dashboard.AnnotationQuery()
            .name(name)
            .datasource(PROMETHEUS)
            .enable(True)
            .icon_color(color)
            .expr(expr)
        )
    for name, color, tag in MARKS:
        target = dashboard.AnnotationTarget().limit(100).match_any(True).tags([tag]).type("tags")
        yield (
            dashboard.AnnotationQuery()
            .name(name)
            .datasource(_GRAFANA)
            .enable(True)
            .icon_color(color)
            .target(target)
        )


# -- panels -------------------------------------------------------------------------------------------


def _timeseries(panel: Panel) -> Any:
    made = (
        _with_data(timeseries.Panel(), panel, _HEIGHT)
        .legend(
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
        .fill_opacity(30 if panel.stacked else 5)
        .axis_soft_min(0)
        .span_nulls(False)
    )
    if panel.stacked:
        made = made.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    if panel.limits is not None:
        style = common.GraphThresholdsStyleConfig().mode(GraphTresholdsStyleMode.DASHED)
        made = made.thresholds_style(style)
    return made


def _stat(panel: Panel) -> Any:
    return _with_data(stat.Panel(), panel, _STAT_HEIGHT)


def _table(panel: Panel) -> Any:
    return _with_data(table.Panel(), panel, _HEIGHT)


def _bars(panel: Panel) -> Any:
    return _with_data(bargauge.Panel(), panel, _HEIGHT)


def _states(panel: Panel) -> Any:
    return _with_data(statetimeline.Panel(), panel, _HEIGHT)


_KINDS: Mapping[str, Callable[[Panel], Any]] = {
    "timeseries": _timeseries,
    "stat": _stat,
    "table": _table,
    "bars": _bars,
    "states": _states,
}


def _with_data(made: Any, panel: Panel, height: int) -> Any:
    """The panel with what all kinds have."""
    made = (
        made.title(panel.title)
        .description(panel.about)
        .unit(panel.unit)
        .height(height)
        .span(panel.width)
        .datasource(PROMETHEUS if panel.source == "prometheus" else CLICKHOUSE)
        .no_value("nothing")
    )
    if panel.most is not None:
        made = made.min(0).max(panel.most)
    if panel.limits is not None:
        made = made.thresholds(_thresholds(*panel.limits))
    for number, query in enumerate(panel.queries):
        made = made.with_target(_TARGETS[panel.source](panel, query, "ABCDEFGH"[number]))
    return made


def _thresholds(yellow: float, red: float) -> dashboard.ThresholdsConfig:
    """From the first limit on it is yellow, from the second red; falling limits count downwards."""
    rising = [("green", None), ("yellow", yellow), ("red", red)]
    falling = [("red", None), ("yellow", red), ("green", yellow)]
    steps = [Threshold(value, color) for color, value in (rising if yellow <= red else falling)]
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)


def _prometheus_target(panel: Panel, query: Query, ref_id: str) -> Any:
    made = prometheus.Dataquery().expr(query.text).ref_id(ref_id).datasource(PROMETHEUS)
    made = made.legend_format(query.legend or "__auto")
    return made.instant() if panel.kind in ("bars", "stat", "table") else made.range()


class _ClickHouseTarget:
    """A query of the ClickHouse plugin, which the SDK does not know."""

    def __init__(self, panel: Panel, query: Query, ref_id: str) -> None:
        self._built = _ClickHouseQuery(panel.kind, query.text, ref_id)

    def build(self) -> _ClickHouseQuery:
        return self._built


class _ClickHouseQuery:
    def __init__(self, kind: str, sql: str, ref_id: str) -> None:
        self._json: dict[str, object] = {
            "datasource": CLICKHOUSE.to_json(),
            "editorType": "sql",
            "rawSql": sql,
            "format": 1 if kind == "table" else 0,
            "queryType": "table" if kind == "table" else "timeseries",
            "refId": ref_id,
        }

    def to_json(self) -> dict[str, object]:
        return self._json


_TARGETS: Mapping[str, Callable[[Panel, Query, str], Any]] = {
    "prometheus": _prometheus_target,
    "clickhouse": _ClickHouseTarget,
}


# -- provisioning -------------------------------------------------------------------------------------


def _datasources(config: Config) -> dict[str, Any]:
    """Where the data is; a password is Grafana's own variable, and in no file of ours."""
    found: list[dict[str, Any]] = [
        {
            "name": "Penstock metrics",
            "type": PROMETHEUS.type_val,
            "uid": PROMETHEUS.uid,
            "access": "proxy",
            "url": f"http://{config.monitoring.prometheus.reachable()}",
            "isDefault": True,
            "jsonData": {"timeInterval": f"{config.monitoring.scrape_every_s:g}s", "httpMethod": "POST"},
        }
    ]
    if config.clickhouse.url is not None:
        url = urlsplit(config.clickhouse.url)
        found.append(
            {
                "name": "Penstock accounts",
                "type": CLICKHOUSE.type_val,
                "uid": CLICKHOUSE.uid,
                "jsonData": {
                    "host": url.hostname,
                    "port": url.port or CLICKHOUSE_PORTS[url.scheme],
                    "protocol": "http",
                    "secure": url.scheme == "https",
                    "defaultDatabase": config.clickhouse.database,
                    "username": "$CLICKHOUSE_USER",
                },
                "secureJsonData": {"password": "$CLICKHOUSE_PASSWORD"},
            }
        )
    return {"apiVersion": 1, "datasources": found}


def _provider() -> dict[str, Any]:
    return {
        "apiVersion": 1,
        "providers": [
            {
                "name": "penstock",
                "folder": "Penstock",
                "type": "file",
                "allowUiUpdates": False,
                "updateIntervalSeconds": 30,
                "options": {"path": _FOLDER},
            }
        ],
    }
