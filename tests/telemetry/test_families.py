"""Families are written as Prometheus reads them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from penstock.telemetry.families import VALUE_CHARS_MAX, Families, Family, exposition, number

HEAT = Family("penstock_gpu_temperature_celsius", "gauge", "Of its chip.", ("gpu", "name"))
READS = Family("penstock_exporter_reads_total", "counter", "Readings.")


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


@given(st.one_of(st.integers(-(2**70), 2**70), st.floats(), st.booleans()))
def test_a_number_is_read_as_what_it_was(value: float) -> None:
    read = float(number(value))

    assert read == float(value) or (math.isnan(read) and math.isnan(value))


@pytest.mark.parametrize(
    ("value", "text"),
    [(3, "3"), (3.0, "3"), (True, "1"), (0.25, "0.25"), (8e9, "8000000000"), (1e300, "1e+300")],
)
def test_whole_numbers_are_written_as_such(value: float, text: str) -> None:
    assert number(value) == text
