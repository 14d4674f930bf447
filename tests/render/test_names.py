"""No rule and no alert asks for what nobody shows: every name and label is in a page that was read from the real thing.

The pages are of vLLM 0.32 (CPU), llama.cpp's server, the simulated engine, a gateway, the exporter with a GPU that is
not there, Prometheus 2.42 and Alertmanager 0.25.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import promql_parser as promql
import pytest

from penstock.exporter.exporter import CATALOG as EXPORTED
from penstock.render.alerts import ALERTS
from penstock.render.recording import RECORDING
from penstock.render.rule import Alert, Record
from penstock.telemetry.catalog import CATALOG

PAGES = Path(__file__).parent / "pages"
RECORDS = {rule.name: rule for group in RECORDING for rule in group.rules if isinstance(rule, Record)}
# Prometheus makes these itself, of every target, with the labels of the target.
OWN = {"up", "scrape_duration_seconds", "scrape_samples_post_metric_relabeling"}
# Of engines and releases that are not here; they stand behind names that are.
OTHERS = re.compile(r"sglang:\w+|vllm:gpu_\w+|llamacpp:kv_cache_usage_ratio")
TARGET = {"job", "instance", "model", "replica", "worker"}
_SAMPLE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? \S+$")


def shown() -> dict[str, set[str]]:
    """Every name of the pages, with its labels."""
    found: dict[str, set[str]] = {}
    for page in PAGES.glob("*.txt"):
        for line in page.read_text().splitlines():
            if line.startswith("# TYPE "):
                found.setdefault(line.split()[2], set())
            elif match := _SAMPLE.match(line):
                found.setdefault(match[1], set()).update(re.findall(r'(\w+)="', match[2] or ""))
    for family in (family for _, group in (*CATALOG, *EXPORTED) for family in group):
        for suffix in ("_bucket", "_sum", "_count") if family.kind == "histogram" else ("",):
            found.setdefault(f"{family.name}{suffix}", set()).update(family.labels, {"le"})
    return found


def selectors(expr: str) -> Iterator[promql.VectorSelector]:
    found: list[promql.VectorSelector] = []

    def see(node: object) -> None:
        if isinstance(node, promql.VectorSelector):
            found.append(node)
        elif isinstance(node, promql.MatrixSelector):
            found.append(node.vector_selector)

    promql.walk(promql.parse(expr), see)
    yield from found


@pytest.mark.parametrize("rule", [*RECORDS.values(), *ALERTS], ids=lambda rule: rule.name)
def test_every_name_and_label_is_shown_by_somebody(rule: Record | Alert) -> None:
    names = shown()

    asked = list(selectors(rule.expr))

    assert asked or rule.expr == "vector(1)"
    for selector in asked:
        name = selector.name
        if name in RECORDS or name in OWN or OTHERS.fullmatch(name):
            continue
        assert name in names
        matched = {matcher.name for matcher in selector.matchers.matchers}
        assert matched <= names[name] | TARGET, name


def test_an_alert_asks_for_engines_of_other_kinds_by_the_common_words_alone() -> None:
    for alert in ALERTS:
        assert not any(OTHERS.fullmatch(selector.name) for selector in selectors(alert.expr)), alert.name


def test_every_record_is_asked_for_or_is_for_dashboards() -> None:
    assert all(name.startswith("llm:") for name in RECORDS)
    assert len(RECORDS) == sum(len(group.rules) for group in RECORDING)


def test_the_page_of_a_gateway_has_the_families_of_the_catalogue() -> None:
    text = (PAGES / "gateway.txt").read_text()
    on_page = set(re.findall(r"# TYPE (penstock_\w+)", text))

    catalogued = {family.name for subject, group in CATALOG for family in group if "where" not in subject}
    assert catalogued == on_page, "read the page anew: tests/render/pages"
