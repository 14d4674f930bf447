"""Every alert fires when it should and at no other time, has a page that helps, and asks for names that exist."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.render.alert_cases import CASES, Case
from tests.tools import needs

from penstock.render.alerts import ALERTS
from penstock.render.recording import RECORDING
from penstock.render.rule import Group, Record, Severity, Style
from penstock.render.yaml_text import yaml_text

# How often rules are evaluated: no more often than anything changes.
STEPS = {"5m": "5m", "10m": "10m"}
ALERT = {alert.name: alert for alert in ALERTS}


def test_every_alert_has_a_case_that_fires_and_one_that_does_not() -> None:
    fires = {case.alert for case in CASES}
    quiet = {case.alert for case in CASES if case.quiet}

    assert fires == set(ALERT)
    assert set(ALERT) - quiet == {alert.name for alert in ALERTS if alert.severity is Severity.NONE}


def test_promtool_sees_them_fire_and_keep_quiet(tmp_path: Path) -> None:
    promtool = needs("promtool", "prometheus")
    names = [_write(tmp_path, number, case) for number, case in enumerate(CASES)]

    done = subprocess.run(
        [promtool, "test", "rules", *names], cwd=tmp_path, capture_output=True, text=True, timeout=100
    )

    assert done.returncode == 0, done.stdout + done.stderr


def _write(folder: Path, number: int, case: Case) -> str:
    """Writes a test of one case; with no more rules than it needs, which takes a tenth of the time."""
    alert = ALERT[case.alert]
    needed = [alert.expr]
    records: list[Record] = []
    for record in reversed([rule for group in RECORDING for rule in group.rules if isinstance(rule, Record)]):
        if any(re.search(rf"{record.name}(?![\w:])", expr) for expr in needed):
            records.insert(0, record)
            needed.append(record.expr)
    style = Style()
    rules = {"groups": [style.group(Group("rules", (*records, alert)))]}
    (folder / f"rules-{number}.yml").write_text(yaml_text(rules))
    told = {
        "rule_files": [f"rules-{number}.yml"],
        "evaluation_interval": STEPS.get(case.every, "1m"),
        "tests": _tests(case),
    }
    (folder / f"{number}.yml").write_text(yaml_text(told))
    return f"{number}.yml"


def _tests(case: Case) -> list[Mapping[str, Any]]:
    labels = {
        "alertname": case.alert,
        "alertstate": "firing",
        "severity": ALERT[case.alert].severity.value,
        **case.labels,
    }
    text = ",".join(f'{name}="{value}"' for name, value in labels.items())
    fires = [{"labels": f"ALERTS{{{text}}}", "value": 1}]
    firing = f'ALERTS{{alertname="{case.alert}",alertstate="firing"}}'
    # one that keeps quiet does so at any time
    ever = f"max_over_time({firing}[{case.minutes}m:{STEPS.get(case.every, '1m')}])"
    return [
        _test(case, case.fires, firing, fires),
        *(_test(case, quiet, ever, []) for quiet in case.quiet),
        *(_test(case, over, firing, []) for over in (case.over,) if over is not None),
    ]


def _test(case: Case, series: Mapping[str, str], expr: str, expected: list[Any]) -> Mapping[str, Any]:
    return {
        "interval": case.every,
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [{"expr": expr, "eval_time": f"{case.minutes}m", "exp_samples": expected}],
    }
