"""What is made for Prometheus and Alertmanager follows the configuration, and is taken by their own tools."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.tools import needs
from tools.generate_reference import example_monitoring

from penstock.cli.render_prometheus import check
from penstock.core.config import Config
from penstock.core.errors import PenstockError
from penstock.render.alerts import ALERTS
from penstock.render.alerts.objectives import PAGE, TICKET
from penstock.render.prometheus import prometheus
from penstock.render.recording import LONG_WINDOWS, WINDOWS
from penstock.render.rule import Style
from penstock.render.yaml_text import yaml_text

ROOT = Path(__file__).parents[2]


def files(**sections: Any) -> dict[str, Any]:
    made = prometheus(Config.model_validate(sections))
    return {name: yaml.safe_load(text) for name, text in made.items()}


def test_the_committed_files_are_those_of_the_example() -> None:
    on_disk = {name: (ROOT / name).read_text(encoding="utf-8") for name in example_monitoring()}

    assert on_disk == example_monitoring(), "run tools/generate_reference.py"


@pytest.mark.parametrize("time_scale", [1.0, 0.01])
def test_their_own_tools_take_them(time_scale: float) -> None:
    needs("promtool", "prometheus")
    needs("amtool", "prometheus-alertmanager")
    config = Config.model_validate({"monitoring": {"page_webhook": 'http://127.0.0.1:1/a"b#{{c}}'}})

    check(prometheus(config, time_scale))


def test_what_a_tool_refuses_is_an_error_with_its_words() -> None:
    needs("promtool", "prometheus")
    made = prometheus(Config())

    with pytest.raises(PenstockError, match="promtool refuses"):
        check({**made, "rules/alerts.yml": made["rules/alerts.yml"].replace("== 0", "=== 0")})


def test_replicas_that_are_known_are_scraped_with_their_names_and_others_by_the_exporter() -> None:
    models = [
        {"name": "a", "engine": "remote", "source": ["http://h1:8000", "http://[::1]:8001"]},
        {"name": "b", "engine": "sim"},
    ]

    jobs = {job["job_name"]: job for job in files(models=models)["prometheus.yml"]["scrape_configs"]}

    assert jobs["penstock-engines"]["static_configs"] == [
        {"targets": ["h1:8000"], "labels": {"model": "a", "replica": "a-0"}},
        {"targets": ["[::1]:8001"], "labels": {"model": "a", "replica": "a-1"}},
    ]
    assert "penstock-exporter" in jobs


def test_a_gateway_that_listens_everywhere_is_scraped_where_it_is_reached() -> None:
    made = files(gateway={"admin": "0.0.0.0:8081"})["prometheus.yml"]

    assert made["scrape_configs"][0]["static_configs"] == [{"targets": ["127.0.0.1:8081"]}]


def test_who_is_told_is_configured_and_nobody_else() -> None:
    made = files(monitoring={"page_webhook": "http://h/page"})["alertmanager.yml"]

    receivers = {receiver["name"]: receiver for receiver in made["receivers"]}
    assert receivers["page"]["webhook_configs"][0]["url"] == "http://h/page"
    assert "webhook_configs" not in receivers["ticket"]


def test_every_window_of_an_alert_is_recorded() -> None:
    for _, long, short in (*PAGE, *TICKET):
        assert long in LONG_WINDOWS
        assert {long, short} <= set(WINDOWS)


def test_times_are_scaled_in_ranges_subqueries_offsets_and_nowhere_else() -> None:
    scaled = Style(time_scale=0.1).expr('x_rate5m{a="5m"}[30d:1h] offset 10m > 5 and rate(y[1m])')

    assert scaled == 'x_rate5m{a="5m"}[3d:6m] offset 1m > 5 and rate(y[6s])'


def test_links_to_pages_begin_where_the_configuration_says() -> None:
    rules = files(monitoring={"runbooks": "https://git/x/"})["rules/alerts.yml"]["groups"]

    links = {rule["annotations"]["runbook_url"] for group in rules for rule in group["rules"]}
    assert links == {f"https://git/x/{alert.page}" for alert in ALERTS}


def test_a_link_that_prometheus_would_take_for_a_template_is_refused() -> None:
    with pytest.raises(ValueError, match="no braces"):
        files(monitoring={"runbooks": "https://git/{{x}}/"})


def test_the_command_writes_nothing_that_a_tool_refuses(tmp_path: Path) -> None:
    tool = tmp_path / "bin" / "promtool"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho no >&2; exit 1\n")
    tool.chmod(0o755)

    done = subprocess.run(
        ["python", "-m", "penstock", "render", "prometheus", "-o", "out"],
        cwd=tmp_path,
        env={"PATH": f"{tool.parent}:{ROOT / '.venv' / 'bin'}", "PENSTOCK_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 1
    assert "promtool refuses" in done.stderr
    assert not (tmp_path / "out").exists()


def test_text_that_yaml_would_take_for_something_else_is_quoted() -> None:
    value = {"a": "yes", "b": "1", "c": "x: y", "d": ["- z", "#"], "e": "é\tü", "f": "", "g": "l1\nl2"}

    assert yaml.safe_load(yaml_text(value, "head")) == value
