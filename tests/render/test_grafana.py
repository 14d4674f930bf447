"""Every panel says what it shows in which unit, asks for what there is, and gets an answer from a real ClickHouse."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.clickhouse import ClickHouseServer, clickhouse
from tests.render.test_names import OTHERS, OWN, RECORDS, TARGET, selectors, shown
from tests.render.test_names import PAGES as PAGES_READ

from penstock.core.config import ClickHouseConfig, Config
from penstock.exporter.exporter import CATALOG as EXPORTED
from penstock.render.alerts import ALERTS
from penstock.render.dashboards.all import PAGES
from penstock.render.dashboards.page import Panel
from penstock.render.grafana import ANNOTATIONS, grafana
from penstock.store.clickhouse.migrations import migrations
from penstock.telemetry.catalog import CATALOG

ROOT = Path(__file__).parents[2]
FILES = grafana(Config())
BOARDS = {name: json.loads(text) for name, text in FILES.items() if name.endswith(".json")}
# Of Prometheus itself.
KNOWN = OWN | {
    "ALERTS",
    "scrape_samples_scraped",
    "process_resident_memory_bytes",
    "process_cpu_seconds_total",
}


def promql_of(text: str) -> str:
    """A query as Grafana sends it."""
    return text.replace("$model", ".*").replace("$__rate_interval", "1m")


def queries(source: str) -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for panel in page.panels:
            if panel.source == source:
                for query in panel.queries:
                    yield f"{page.uid}: {panel.title}", query.text


METRICS = [*queries("prometheus"), *((f"annotation: {name}", expr) for name, _, expr in ANNOTATIONS)]


@pytest.mark.parametrize(("where", "text"), METRICS, ids=[f"{number}" for number in range(len(METRICS))])
def test_every_name_and_label_that_a_panel_asks_for_is_there(where: str, text: str) -> None:
    names = shown()
    for selector in selectors(promql_of(text)):
        name = selector.name
        if name in RECORDS or name in KNOWN or OTHERS.fullmatch(name):
            continue
        assert name in names, where
        matched = {matcher.name for matcher in selector.matchers.matchers}
        assert matched <= names[name] | TARGET, (where, name)


LEGENDS = [
    (query.text, query.legend)
    for page in PAGES
    for panel in page.panels
    for query in panel.queries
    if "{{" in query.legend
]


@pytest.mark.parametrize(("text", "legend"), LEGENDS, ids=[f"{number}" for number in range(len(LEGENDS))])
def test_a_series_is_called_by_labels_that_it_has(text: str, legend: str) -> None:
    for _ in range(3):  # records are made of records
        for name in sorted(RECORDS, key=len, reverse=True):
            text = text.replace(name, f"({RECORDS[name].expr})")
    kept = {label for labels in re.findall(r"by \(([^)]*)\)", text) for label in re.split(r",\s*", labels)}

    assert set(re.findall(r"{{(\w+)}}", legend)) <= kept


def test_reloads_are_marked_by_the_result_that_the_gateway_tells() -> None:
    (expr,) = (expr for name, _, expr in ANNOTATIONS if name == "Reloads")
    asked = next(selectors(expr))

    page = (PAGES_READ / "gateway.txt").read_text(encoding="utf-8")
    assert f'{asked.name}{{{asked.matchers.matchers[0].name}="{asked.matchers.matchers[0].value}"}}' in page


def test_what_the_gateway_tells_is_on_a_dashboard_or_watched_by_an_alert() -> None:
    texts = [text for _, text in METRICS] + [alert.expr for alert in ALERTS]
    texts += [rule.expr for rule in RECORDS.values()]
    asked = {selector.name for text in texts for selector in selectors(promql_of(text))}
    told_elsewhere = {
        "penstock_build_info",  # which version runs: `penstock --version`
        "penstock_requests_in_progress",  # of all models; `penstock_streams` and permits tell more
        "penstock_replays_total",
        "penstock_slo_limit_seconds",  # joins an objective with its limit, for a query of one's own
        "penstock_config_generation",
        "penstock_draining",
        "penstock_journal_lines_total",
        "penstock_clickhouse_sent_rows_total",
    }
    missed = [
        family.name
        for _, group in CATALOG
        for family in group
        if family.name not in told_elsewhere
        and not any(name in asked for name in (family.name, f"{family.name}_bucket", f"{family.name}_sum"))
    ]

    assert missed == []


@pytest.mark.parametrize(
    "panel", [panel for page in PAGES for panel in page.panels], ids=lambda panel: panel.title
)
def test_a_panel_says_what_it_shows_and_in_which_unit(panel: Panel) -> None:
    assert panel.title
    assert panel.about.endswith(".")
    assert panel.unit
    assert 1 <= panel.width <= 24


@pytest.mark.parametrize("name", BOARDS)
def test_panels_lie_beside_each_other_and_not_over_each_other(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in BOARDS[name]["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_dashboards_are_told_apart_and_lead_to_each_other() -> None:
    uids = [board["uid"] for board in BOARDS.values()]
    assert len(set(uids)) == len(uids) == 6
    assert all(board["links"][0]["tags"] == ["penstock"] for board in BOARDS.values())


def test_the_committed_files_are_those_of_the_example() -> None:
    from tools.generate_reference import example_monitoring

    for name, text in example_monitoring().items():
        assert (ROOT / name).read_text(encoding="utf-8") == text, "run tools/generate_reference.py"


def test_a_password_is_in_no_file() -> None:
    config = Config.model_validate(
        {"clickhouse": {"url": "http://ch:8123", "user": "somebody", "password": "its-password"}}
    )
    text = "".join(grafana(config).values())

    assert "its-password" not in text
    assert "$CLICKHOUSE_PASSWORD" in text


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://ch", ("host: ch", "port: 8123", "secure: false")),
        ("https://ch.example", ("host: ch.example", "port: 8443", "secure: true")),
        ("https://[::1]:9/", ('host: "::1"', "port: 9", "secure: true")),
        ("http://[::1]", ('host: "::1"', "port: 8123", "secure: false")),
    ],
)
def test_clickhouse_is_asked_where_its_url_leads(url: str, told: tuple[str, ...]) -> None:
    made = grafana(Config.model_validate({"clickhouse": {"url": url}}))

    lines = made["provisioning/datasources/penstock.yaml"].replace(" ", "").splitlines()
    assert {line.replace(" ", "") for line in told} <= set(lines)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    with clickhouse(tmp_path_factory.mktemp("clickhouse")) as server:
        for migration in migrations(ClickHouseConfig()):
            for statement in migration.statements:
                server.run(statement)
        server.run(
            "INSERT INTO llm_requests (entry_id, request_id, tenant, key_id, model, started_at, ended_at, duration_s, "
            "ttft_s, tpot_s, status, outcome, cost_nano_usd, prompt_tokens, completion_tokens, sign) VALUES "
            "('e1', 'r1', 'search', 'k1', 'm', now64(6), now64(6), 1, 0.2, 0.01, 200, 'complete', 1000, 10, 20, 1)"
        )
        yield server


@pytest.mark.parametrize("sql", [text for _, text in queries("clickhouse")], ids=[str(n) for n in range(5)])
def test_accounts_are_answered_by_a_real_clickhouse(server: ClickHouseServer, sql: str) -> None:
    now = "now()"
    text = re.sub(r"\$__fromTime", f"({now} - INTERVAL 1 HOUR)", sql)
    text = re.sub(r"\$__toTime", f"({now} + INTERVAL 1 MINUTE)", text)

    assert server.query(text)


def test_every_metric_of_ours_is_looked_at_somewhere() -> None:
    """By a panel, an alert or a recording rule: what nobody looks at need not be counted."""
    texts = [*(text for _, text in METRICS), *(rule.expr for rule in (*ALERTS, *RECORDS.values()))]
    asked = {selector.name for text in texts for selector in selectors(promql_of(text))}

    unseen = [
        family.name
        for _, families in (*CATALOG, *EXPORTED)
        for family in families
        if not {family.name, f"{family.name}_bucket", f"{family.name}_sum"} & asked
    ]

    assert unseen == []
