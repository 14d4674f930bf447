"""The process tells of itself what Prometheus's own client would."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.process_collector import ProcessCollector

from penstock.telemetry.process import process_lines


def samples(page: str) -> dict[str, float]:
    return {one.name: one.value for family in text_string_to_metric_families(page) for one in family.samples}


def test_a_process_tells_what_the_client_of_prometheus_tells() -> None:
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)

    theirs = samples(generate_latest(registry).decode())
    ours = samples("\n".join([*process_lines(), ""]))

    assert ours.keys() == theirs.keys()
    assert ours == pytest.approx(theirs, rel=0.05)
