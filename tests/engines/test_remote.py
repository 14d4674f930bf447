"""Engines that somebody else runs."""

from __future__ import annotations

import pytest

from penstock.core.config import ModelConfig
from penstock.engines import remote
from penstock.engines.catalog import SPECS, spec_of
from penstock.wire.exposition import KV_USAGE, WAITING, EngineLoad, read_load


def test_remote_sources_with_a_port_are_right() -> None:
    model = ModelConfig(name="r", engine="remote", source=("http://10.0.0.1:8000", "http://[::1]:8000"))

    assert remote.check(model) == []
    assert remote.SPEC.launch is None


@pytest.mark.parametrize("source", ["https://h:1", "http://h:1/v1", "http://h", "http://h:1?x=1"])
def test_other_remote_sources_are_refused(source: str) -> None:
    model = ModelConfig.model_construct(name="r", engine="remote", source=source)

    (mistake,) = remote.check(model)

    assert mistake.startswith(f"source: {source!r} should ")


def test_its_owner_says_where_its_health_is_and_what_its_numbers_are_called() -> None:
    metrics = {"path": "/stats", "running": "mine:busy", "steps": "mine:steps_total"}
    model = ModelConfig.model_validate(
        {
            "name": "r",
            "engine": "remote",
            "source": "http://h:1",
            "health_path": "/health",
            "metrics": metrics,
        }
    )

    spec = spec_of("remote", model)

    assert (spec.health_path, spec.metrics_path) == ("/health", "/stats")
    assert (spec.load.running, spec.load.waiting, spec.load.kv_usage) == ((b"mine:busy",), WAITING, KV_USAGE)
    assert spec.steps == (b"mine:steps_total",)
    assert read_load(b"mine:busy 3\nsglang:num_queue_reqs 1\n", spec.load) == EngineLoad(3, 1, None)


def test_what_its_owner_does_not_say_is_as_usual() -> None:
    model = ModelConfig(name="r", engine="remote", source="http://h:1")

    assert spec_of("remote", model) == SPECS["remote"] == spec_of("remote", None)
    assert spec_of("vllm", model) is SPECS["vllm"]
