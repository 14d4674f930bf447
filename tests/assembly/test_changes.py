"""What a reload says of two configurations, and which engines are started anew for it."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.assembly.changes import changes, starts_otherwise
from penstock.core.config import Config, ExporterConfig, GatewayConfig, LogConfig, ModelConfig


def model(**members: Any) -> ModelConfig:
    return ModelConfig.model_validate({"name": "m", "engine": "vllm", "source": "owner/model", **members})


@pytest.mark.parametrize(
    "members",
    [
        {"venv": "/opt/vllm"},
        {"image": "vllm/vllm-openai:v0.32.0"},
        {"gpus": [1]},
        {"engine_args": {"seed": 1}},
    ],
)
def test_an_engine_that_another_program_would_be_is_started_anew(members: dict[str, Any]) -> None:
    assert starts_otherwise(model(), model(**members))


def test_an_engine_whose_requests_are_dealt_otherwise_goes_on() -> None:
    assert not starts_otherwise(model(), model(routing="round_robin", replicas=2))


def test_what_is_different_is_told_by_the_keys_of_the_file_with_when_it_takes_effect() -> None:
    before = Config(models=(model(),))
    after = Config(
        models=(model(start_timeout="3m"),),
        gateway=GatewayConfig.model_validate({"drain_timeout": "5s"}),
        log=LogConfig(level="debug"),
        exporter=ExporterConfig(enabled=True),
    )

    assert list(changes(before, before)) == []
    assert list(changes(before, after)) == [
        "models m: start_timeout has changed (for replicas that are started from now on)",
        "gateway: drain_timeout has changed (takes effect when the gateway is started again)",
        "log has changed (the exporter's when Penstock is started again)",
        "exporter has changed (takes effect when Penstock is started again)",
    ]
