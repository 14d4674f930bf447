"""Several workers' metrics are one exposition that Prometheus can read."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from penstock.telemetry.together import together


def exposition(count: int) -> str:
    registry = CollectorRegistry()
    Counter("a", "An a, with {braces} and spaces.", ("model", "text"), registry=registry).labels(
        "m", 'q"{} \\'
    ).inc(count)
    Gauge("b", "A b.", registry=registry).set(count)
    Histogram("c_seconds", "A c.", buckets=(0.1, 1), registry=registry).observe(count)
    return generate_latest(registry).decode()


def test_every_series_is_kept_with_its_worker() -> None:
    merged = together([(0, exposition(1)), (1, exposition(2))])

    families = {family.name: family for family in text_string_to_metric_families(merged)}
    counted = {
        (sample.labels["worker"], sample.labels["text"]): sample.value
        for sample in families["a"].samples
        if sample.name == "a_total"
    }
    assert counted == {("0", 'q"{} \\'): 1.0, ("1", 'q"{} \\'): 2.0}
    assert {sample.labels["worker"]: sample.value for sample in families["b"].samples} == {"0": 1.0, "1": 2.0}
    assert len(families["c_seconds"].samples) == 2 * len(
        next(f for f in text_string_to_metric_families(exposition(1)) if f.name == "c_seconds").samples
    )


def test_a_family_is_described_once() -> None:
    merged = together([(0, exposition(1)), (1, exposition(1))])

    assert merged.count("# TYPE a_total counter") == 1
