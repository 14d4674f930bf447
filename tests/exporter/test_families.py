"""Families are written as Prometheus reads them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from penstock.exporter.exporter import METRICS
from penstock.exporter.families import VALUE_CHARS_MAX, Families, Kind, Metric, exposition

HEAT = Metric("penstock_gpu_temperature_celsius", Kind.GAUGE, "Of its chip.", ("gpu", "name"))
READS = Metric("penstock_exporter_reads_total", Kind.COUNTER, "Readings.")


def test_what_is_written_is_what_prometheus_reads() -> None:
    families = Families()
    families.add(HEAT, 91, "0", 'a "quoted" name\\ of two\nlines')
    families.add(HEAT, 33.25, "1", "é")
    families.add(READS, 2**60)

    heat, reads = text_string_to_metric_families(exposition(families).decode())

    assert [(sample.labels["name"], sample.value) for sample in heat.samples] == [
        ('a "quoted" name\\ of two\nlines', 91.0),
        ("é", 33.25),
    ]
    assert (reads.type, reads.samples[0].value) == ("counter", 2.0**60)


@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=VALUE_CHARS_MAX),
    st.floats(allow_nan=False, allow_infinity=False),
)
def test_any_name_and_any_number_come_back(name: str, value: float) -> None:
    families = Families()
    families.add(HEAT, value, "0", name)
    families.add(HEAT, 1, "1", "behind it")

    (family,) = text_string_to_metric_families(exposition(families).decode())

    assert [sample.labels["name"] for sample in family.samples] == [name, "behind it"]
    assert family.samples[0].value == value


def test_no_number_is_no_sample_and_no_sample_is_no_family() -> None:
    families = Families()
    families.add(HEAT, float("nan"), "0", "x")
    families.add(READS, float("inf"))

    assert exposition(families) == b""


def test_a_long_name_is_cut() -> None:
    families = Families()
    families.add(HEAT, 1, "0", "x" * 10_000)

    assert len(exposition(families)) < VALUE_CHARS_MAX + 300


def test_names_are_unique_have_a_text_and_follow_the_rules() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert metric.name.startswith(("penstock_gpu_", "penstock_host_", "penstock_exporter_", "llm_"))
        assert metric.name.endswith("_total") is (metric.kind is Kind.COUNTER), metric.name
        assert metric.text.endswith("."), metric.name
        assert metric.source, metric.name
