"""`penstock metrics`: once, without a server."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.cli.conftest import Command
from tests.exporter.test_otlp import receiver


def test_a_dry_run_prints_what_prometheus_would_see_and_says_why_there_is_no_gpu(
    penstock: Command, folder: Path
) -> None:
    (folder / "gpus.json").write_text('{"error": "NVML_ERROR_DRIVER_NOT_LOADED"}')

    result = penstock("metrics", "--dry-run", "--log-level", "DEBUG", "--fake-gpus", "gpus.json")

    families = {family.name: family for family in text_string_to_metric_families(result.out)}
    assert result.code == 0
    assert families["penstock_gpu_driver_up"].samples[0].value == 0
    assert families["penstock_gpu_driver_up"].samples[0].labels == {"reason": "driver_not_loaded"}
    assert families["penstock_host_memory_total_bytes"].samples[0].value > 0
    assert "gpu: no NVIDIA driver answers here: Driver Not Loaded (driver_not_loaded)" in result.err
    assert "engines: no replica is registered" in result.err
    assert "host: " in result.err


def test_debug_says_which_fields_a_gpu_does_not_tell(penstock: Command, folder: Path) -> None:
    (folder / "gpus.json").write_text(
        '{"gpus": [{"errors": {"nvmlDeviceGetPowerUsage": "NVML_ERROR_NO_PERMISSION"}}]}'
    )

    result = penstock("metrics", "--dry-run", "--log-level", "debug", "--fake-gpus", "gpus.json")

    assert "gpu 0: power_watts: denied" in result.err
    assert "penstock_gpu_temperature_celsius{" in result.out
    assert "penstock_gpu_power_watts{" not in result.out


def test_without_a_dry_run_it_is_pushed(
    penstock: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiver() as server:
        monkeypatch.setenv("PENSTOCK_EXPORTER__OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        result = penstock("metrics")

    names = {m.name for m in server.taken[0].resource_metrics[0].scope_metrics[0].metrics}
    assert result.code == 0
    assert "penstock_host_memory_total_bytes" in names
    assert "samples to http://127.0.0.1" in result.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "there is nowhere to push to: exporter.otlp_endpoint is not set"),
        (("--dry-run", "--log-level", "loud"), "--log-level: expected debug, info, warning, error"),
    ],
)
def test_a_wrong_command_line_is_said(arguments: tuple[str, ...], said: str, penstock: Command) -> None:
    result = penstock("metrics", *arguments)

    assert (result.code, result.out) == (2, "")
    assert said in result.err


def test_gpus_that_can_not_be_faked_are_said(penstock: Command, folder: Path) -> None:
    (folder / "gpus.json").write_text('{"gpus": [{"temperature": 91}]}')

    result = penstock("metrics", "--dry-run", "--fake-gpus", "gpus.json")

    assert result.code == 1
    assert "gpus.json: Object contains unknown field `temperature`" in result.err
    assert "hint: " in result.err
