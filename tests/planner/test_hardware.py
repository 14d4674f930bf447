"""The table of GPUs, and their names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.planner.hardware import GPUS, known_gpu, parse_gpus
from penstock.planner.shapes import PlanError


def test_there_are_gpus_from_a_t4_to_a_b200_each_with_its_source() -> None:
    names = [gpu.name for gpu in GPUS]

    assert len(set(names)) == len(names) >= 25
    assert {"T4", "B200", "RTX A6000", "RTX 3060"} <= set(names)
    assert all(gpu.source and gpu.memory_mib > 8000 and gpu.bandwidth_gb_s > 100 for gpu in GPUS)
    assert all(60 <= gpu.capability <= 120 for gpu in GPUS)


@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)
def test_a_gpu_is_found_by_its_name(gpu: object) -> None:
    assert known_gpu(gpu.name) is gpu  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("said", "count", "name"),
    [
        ("2xA6000", 2, "RTX A6000"),
        ("8 x H100", 8, "H100 80GB"),
        ("rtx 4090", 1, "RTX 4090"),
        ("4090", 1, "RTX 4090"),
        ("4*l40s", 4, "L40S"),
        ("a100", 1, "A100 80GB"),
        ("NVIDIA A100-SXM4-40GB", 1, "A100 40GB"),
        ("NVIDIA A100 80GB PCIe", 1, "A100 80GB"),
        ("NVIDIA H100 80GB HBM3", 1, "H100 80GB"),
        ("NVIDIA H100 NVL", 1, "H100 NVL"),
        ("Tesla V100-SXM2-32GB", 1, "V100 32GB"),
        ("NVIDIA GeForce RTX 3060", 1, "RTX 3060"),
        ("NVIDIA RTX 6000 Ada Generation", 1, "RTX 6000 Ada"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", 1, "RTX PRO 6000"),
        ("NVIDIA B300 SXM6 AC", 1, "B300"),
        ("NVIDIA GH200 480GB", 1, "GH200 96GB"),
    ],
)
def test_people_and_drivers_write_names_in_many_ways(said: str, count: int, name: str) -> None:
    found = parse_gpus(said)

    assert (found[0], found[1].name) == (count, name)


def test_an_unknown_gpu_is_a_mistake_that_names_the_nearest_and_all_known() -> None:
    with pytest.raises(PlanError) as caught:
        parse_gpus("2xA6001")

    assert "'A6001' is not known here; the nearest known is RTX A6000" in caught.value.message
    assert (caught.value.code, "B200" in caught.value.hint) == ("usage", True)


@pytest.mark.parametrize("said", ["0xT4", "99999xT4"])
def test_a_number_that_nobody_has_is_a_mistake(said: str) -> None:
    with pytest.raises(PlanError, match="expected 1 to 1024 GPUs"):
        parse_gpus(said)


@given(st.text(max_size=40))
def test_any_text_is_a_gpu_or_a_mistake(said: str) -> None:
    try:
        count, gpu = parse_gpus(said)
    except PlanError:
        return

    assert count >= 1
    assert gpu in GPUS
