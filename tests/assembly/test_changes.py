"""What a reload says of two configurations, and which engines are started anew for it."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.assembly.changes import starts_otherwise
from penstock.core.config import ModelConfig


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
