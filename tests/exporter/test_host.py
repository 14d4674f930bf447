"""The machine is read as far as its kernel tells."""

from __future__ import annotations

from pathlib import Path

from penstock.exporter.host import METRICS, existing, host_families


def test_this_machine_tells_of_everything(tmp_path: Path) -> None:
    families = {family.name: dict(samples) for family, samples in host_families({"home": tmp_path})}

    optional = {"penstock_host_pressure_seconds_total", "penstock_host_oom_kills_total"}  # by the kernel
    assert {metric.name for metric in METRICS} - optional <= set(families)
    assert {place for (place,) in families["penstock_host_disk_free_bytes"]} == {"home", "shm"}
    assert families["penstock_host_memory_available_bytes"][()] > 0
    assert families["penstock_host_file_descriptors_open"][()] > 10


def test_a_folder_that_is_not_there_yet_has_the_disk_it_will_be_on(tmp_path: Path) -> None:
    assert existing(tmp_path / "a" / "b") == tmp_path

    families = {family.name: dict(samples) for family, samples in host_families({"cache": tmp_path / "a"})}
    assert ("cache",) in families["penstock_host_disk_total_bytes"]


def test_a_folder_that_can_not_be_looked_at_is_none_and_no_bug(tmp_path: Path) -> None:
    assert existing(tmp_path / ("a" * 300)) == tmp_path


def test_a_kernel_that_tells_nothing_leaves_out_what_it_does_not_tell(tmp_path: Path) -> None:
    families = {family.name for family, _ in host_families({}, proc=tmp_path)}

    assert "penstock_host_file_descriptors_open" not in families
    assert "penstock_host_pressure_seconds_total" not in families
    assert "penstock_host_memory_total_bytes" in families
