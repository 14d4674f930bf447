"""Engines that somebody else runs, and vLLM in an installation of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.core.config import ModelConfig
from penstock.engines import remote, vllm
from penstock.engines.spec import Placement

PLACEMENT = Placement("127.0.0.1", 41231, "secret-of-the-replica")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A vLLM that is installed in a virtual environment."""
    command = tmp_path / "bin" / "vllm"
    command.parent.mkdir()
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    monkeypatch.setenv("PENSTOCK_VLLM_VENV", str(tmp_path))
    return command


def vllm_model(**engine_args: object) -> ModelConfig:
    """A model for vLLM."""
    return ModelConfig(name="llama", engine="vllm", source="meta-llama/Llama", engine_args=engine_args)


def test_remote_sources_with_a_port_are_right() -> None:
    model = ModelConfig(name="r", engine="remote", source=("http://10.0.0.1:8000", "http://[::1]:8000"))

    assert remote.check(model) == []
    assert remote.SPEC.launch is None


@pytest.mark.parametrize("source", ["https://h:1", "http://h:1/v1", "http://h", "http://h:1?x=1"])
def test_other_remote_sources_are_refused(source: str) -> None:
    model = ModelConfig.model_construct(name="r", engine="remote", source=source)

    (mistake,) = remote.check(model)

    assert mistake.startswith(f"source: {source!r} should ")


def test_the_command_line_of_vllm_has_its_arguments_and_not_its_key(installed: Path) -> None:
    model = vllm_model(
        max_model_len=8192, enforce_eager=True, enable_prefix_caching=False, lora_modules=["a", "b"]
    )

    launch = vllm.launch(model, PLACEMENT)

    assert launch.argv == (
        *(str(installed), "serve", "meta-llama/Llama", "--host", "127.0.0.1", "--port", "41231"),
        *("--served-model-name", "llama", "--shutdown-timeout", "20", "--max-model-len", "8192"),
        *("--enforce-eager", "--no-enable-prefix-caching", "--lora-modules", "a", "b"),
    )
    assert launch.env == {"VLLM_API_KEY": "secret-of-the-replica"}


def test_a_shutdown_timeout_of_the_owner_is_the_only_one(installed: Path) -> None:
    argv = vllm.launch(vllm_model(shutdown_timeout=5), PLACEMENT).argv

    assert argv[-2:] == ("--shutdown-timeout", "5")
    assert argv.count("--shutdown-timeout") == 1


def test_a_missing_vllm_is_said_with_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_VLLM_VENV", str(tmp_path))

    (mistake,) = vllm.check(vllm_model())

    assert "pip install vllm" in mistake
    assert "PENSTOCK_VLLM_VENV" in mistake


def test_removed_and_reserved_arguments_are_said_with_the_reason(installed: Path) -> None:
    mistakes = vllm.check(vllm_model(swap_space=4, disable_log_requests=True, port=1))

    assert [mistake.split(":")[0] for mistake in mistakes] == [
        "engine_args.swap_space",
        "engine_args.disable_log_requests",
        "engine_args.port",
    ]
    assert "enable_log_requests" in mistakes[1]
