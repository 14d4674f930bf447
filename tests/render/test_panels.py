"""What panels show is true: with several workers, without traffic, and beside what clients did wrong."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.tools import needs

from penstock.core.config import Config
from penstock.render.dashboards.all import PAGES
from penstock.render.grafana import grafana
from penstock.render.yaml_text import yaml_text

# One of 5 requests a second; what each took, in seconds.
LINE, GATEWAY_S, TTFT, WHOLE = 0.4, 0.01, 1.41, 4.41


def queries(title: str) -> list[str]:
    """Those of the first panel of this title, as Grafana sends them."""
    found = next(panel for page in PAGES for panel in page.panels if panel.title == title)
    return [query.text.replace("$model", ".*").replace("$__rate_interval", "5m") for query in found.queries]


def counter(name: str, each_s: float, **labels: str) -> dict[str, str]:
    """A counter that grows by so much in a second."""
    told = ",".join(f'{label}="{value}"' for label, value in {"instance": "g", **labels}.items())
    return {f"{name}{{{told}}}": f"0+{each_s * 60:g}x20"}


def gauge(name: str, value: float, **labels: str) -> dict[str, str]:
    (series,) = counter(name, 0, **labels)
    return {series: f"{value:g}x20"}


def check(folder: Path, series: Mapping[str, str], expected: Mapping[str, list[tuple[str, float]]]) -> None:
    """Has Prometheus's own tool answer queries."""
    told: dict[str, Any] = {
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "promql_expr_test": [
                    {
                        "expr": f"round({query}, 0.0001)",
                        "eval_time": "15m",
                        "exp_samples": [{"labels": labels, "value": value} for labels, value in samples],
                    }
                    for query, samples in expected.items()
                ],
            }
        ]
    }
    (folder / "test.yml").write_text(yaml_text(told))
    done = subprocess.run(
        [needs("promtool", "prometheus"), "test", "rules", "test.yml"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_replica_that_one_worker_finds_busy_and_another_ready_is_one(tmp_path: Path) -> None:
    series = {
        **gauge("penstock_replicas", 1, model="m", state="ready", worker="0"),
        **gauge("penstock_replicas", 0, model="m", state="busy", worker="0"),
        **gauge("penstock_replicas", 0, model="m", state="ready", worker="1"),
        **gauge("penstock_replicas", 1, model="m", state="busy", worker="1"),
    }

    (query,) = queries("Replicas ready")

    check(tmp_path, series, {query: [('{model="m"}', 1)]})


@pytest.mark.parametrize(
    ("traffic", "share"),
    [
        ({"": 8.0, "client": 90.0, "engine": 2.0}, [("{}", 0.2)]),  # who is refused hides nobody's failure
        ({"": 8.0}, [("{}", 0.0)]),
        ({"": 0.0, "engine": 0.0}, []),  # no traffic is neither good nor bad
        ({"client": 5.0}, []),
    ],
)
def test_failures_are_told_of_what_we_could_have_answered(
    tmp_path: Path, traffic: Mapping[str, float], share: list[tuple[str, float]]
) -> None:
    series: dict[str, str] = {}
    for fault, each_s in traffic.items():
        series |= counter("penstock_requests_total", each_s, model="m", fault=fault)

    (query,) = queries("Our failures")

    check(tmp_path, series, {query: share})


@pytest.mark.parametrize("streams", [5, 0])
def test_the_phases_of_streams_and_of_plain_requests_add_up_to_the_whole(
    tmp_path: Path, streams: int
) -> None:
    series = {
        **counter("penstock_queue_wait_seconds_sum", 5 * LINE, model="m"),
        **counter("penstock_gateway_overhead_seconds_sum", 5 * GATEWAY_S, model="m"),
        **counter("penstock_ttft_seconds_sum", streams * TTFT, model="m"),
        **counter("penstock_request_duration_seconds_sum", 5 * WHOLE, model="m", outcome="complete"),
    }

    line, gateway, first, after = queries("Requests in each phase")

    check(
        tmp_path,
        series,
        {
            line: [("{}", 2.0)],
            gateway: [("{}", 0.05)],
            first: [("{}", 5.0 if streams else 0.0)],
            after: [("{}", 15.0 if streams else 20.0)],
        },
    )


def test_a_reload_that_each_worker_follows_is_one(tmp_path: Path) -> None:
    series: dict[str, str] = {}
    for worker in "01":
        (name,) = counter("penstock_config_reloads_total", 0, result="applied", worker=worker)
        series[name] = "0x5 1x15"

    reloads, _ = (query.replace("[1h]", "[15m]") for query in queries("Reloads and failures nobody expected"))

    check(tmp_path, series, {reloads: [('{result="applied"}', 1)]})


def test_rows_wait_in_the_ledger_of_each_gateway(tmp_path: Path) -> None:
    series: dict[str, str] = {}
    for instance, worker, rows in (("a", "0", 3), ("a", "1", 5), ("b", "0", 2)):
        series |= gauge("penstock_clickhouse_unsent_rows", rows, instance=instance, worker=worker)

    (query,) = queries("Rows that wait for ClickHouse")

    check(tmp_path, series, {query: [('{instance="a"}', 5), ('{instance="b"}', 2)]})


def test_a_quantile_of_nothing_is_nothing(tmp_path: Path) -> None:
    series = counter("penstock_ttft_seconds_bucket", 0, model="m", le="1.0")
    series |= counter("penstock_ttft_seconds_bucket", 0, model="m", le="+Inf")

    check(tmp_path, series, {query: [] for query in queries("TTFT p95")})


def test_a_variable_is_where_it_chooses_something() -> None:
    for name, text in grafana(Config()).items():
        if name.endswith(".json"):
            chosen = [one["name"] for one in json.loads(text)["templating"].get("list", [])]
            assert ("model" in chosen) == ("$model" in text), name


def test_runbooks_are_linked_where_they_can_be_reached() -> None:
    def links(**monitoring: str) -> set[str]:
        boards = grafana(Config.model_validate({"monitoring": monitoring}))
        return {
            link["url"]
            for name, text in boards.items()
            if name.endswith(".json")
            for link in json.loads(text)["links"]
        } - {""}

    assert links() == set()
    assert links(runbooks="https://git/x/") == {"https://git/x/README.md"}
