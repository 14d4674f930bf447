"""What makes vLLM and SGLang send spans of their own, and what is said where they can't."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

import pytest
from pydantic import ValidationError

from penstock.core.config import ModelConfig, TracesConfig
from penstock.engines import sglang, vllm
from penstock.engines.spans import PACKAGES
from penstock.engines.spec import Placement
from tests.engines import installed

ARGUMENT = 'group.add_argument("--otlp-traces-endpoint", **observability_kwargs["otlp_traces_endpoint"])'
TRACES = TracesConfig(endpoint="http://127.0.0.1:4318", engines=True)
PLACEMENT = Placement("127.0.0.1", 41231, "key", traces=TRACES)


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_TRACES_SAMPLER", "OTEL_SERVICE_NAME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """A vLLM 0.32 with OpenTelemetry beside it."""
    folder = installed.vllm(tmp_path / "venv", more=ARGUMENT)
    return installed.environment(folder, (), dict.fromkeys(PACKAGES, "1.45.2"))


def model(venv: Path, engine: str = "vllm", image: str | None = None, **engine_args: object) -> ModelConfig:
    """A model whose engine is there, or in this image."""
    place = {"image": image} if image else {"venv": str(venv)}
    return ModelConfig(name="m", engine=engine, source="demo", engine_args=engine_args, **place)  # type: ignore[arg-type]


def argument(argv: tuple[str, ...]) -> str:
    return argv[argv.index("--otlp-traces-endpoint") + 1]


def test_vllm_is_told_where_its_spans_go_and_of_which_requests_it_makes_them(venv: Path) -> None:
    launch = vllm.launch(model(venv), PLACEMENT)

    assert argument(launch.argv) == "http://127.0.0.1:4318/v1/traces"
    assert launch.env["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] == "http/protobuf"
    assert launch.env["OTEL_TRACES_SAMPLER"] == "parentbased_always_off"
    assert launch.env["OTEL_SERVICE_NAME"] == "vllm"
    assert "OTEL_EXPORTER_OTLP_TRACES_HEADERS" not in launch.env
    assert list(vllm.check_spans(model(venv), TRACES)) == []


def test_sglang_is_told_too(tmp_path: Path) -> None:
    folder = installed.environment(
        tmp_path / "venv", ("sglang",), {"sglang": "0.5.23", **dict.fromkeys(PACKAGES, "1.45.2")}
    )
    launch = sglang.launch(model(folder, "sglang"), PLACEMENT)

    assert "--enable-trace" in launch.argv
    assert argument(launch.argv) == "http://127.0.0.1:4318/v1/traces"
    assert launch.env["OTEL_SERVICE_NAME"] == "sglang"
    assert list(sglang.check_spans(model(folder, "sglang"), TRACES)) == []


def test_a_collector_that_speaks_grpc_and_asks_for_a_key_gets_both(venv: Path) -> None:
    traces = TracesConfig(
        endpoint="https://otel:4317", protocol="grpc", engines=True, headers={"x-api-key": "a,b=c%"}
    )
    launch = vllm.launch(model(venv), Placement("127.0.0.1", 1, "key", traces=traces))

    name, _, value = launch.env["OTEL_EXPORTER_OTLP_TRACES_HEADERS"].partition("=")
    assert argument(launch.argv) == "https://otel:4317"
    assert launch.env["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] == "grpc"
    assert (name, unquote(value)) == ("x-api-key", "a,b=c%")
    assert "," not in value
    assert "a,b=c%" not in " ".join(launch.argv)


def test_an_engine_that_is_told_nothing_makes_no_spans(venv: Path) -> None:
    launch = vllm.launch(model(venv), Placement("127.0.0.1", 1, "key"))

    assert not any("otlp" in word for word in launch.argv)
    assert not any(name.startswith("OTEL_") for name in launch.env)


def test_what_the_owner_of_an_engine_has_said_stays(venv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_on")
    by_hand = model(venv, otlp_traces_endpoint="http://mine:4317")

    launch = vllm.launch(by_hand, PLACEMENT)

    assert list(vllm.check_spans(by_hand, TRACES)) == []
    assert argument(launch.argv) == "http://mine:4317"
    assert launch.argv.count("--otlp-traces-endpoint") == 1
    assert not any(name.startswith("OTEL_") for name in launch.env)
    assert "OTEL_TRACES_SAMPLER" not in vllm.launch(model(venv), PLACEMENT).env


def test_an_environment_that_lacks_packages_is_said_with_the_cure(tmp_path: Path) -> None:
    bare = installed.vllm(tmp_path / "bare", more=ARGUMENT)

    (said,) = vllm.check_spans(model(bare), TRACES)

    assert said.startswith(
        "venv: traces.engines needs opentelemetry-sdk, opentelemetry-exporter-otlp-proto-grpc,"
    )
    assert f"`pip install opentelemetry-exporter-otlp` in {bare}, or set traces.engines to false" in said


def test_a_vllm_that_would_break_or_refuse_is_said(venv: Path, tmp_path: Path) -> None:
    old = installed.environment(installed.vllm(tmp_path / "old"), (), dict.fromkeys(PACKAGES, "1.45.2"))

    (blind,) = vllm.check_spans(model(venv, disable_log_stats=True), TRACES)
    (without,) = vllm.check_spans(model(old), TRACES)

    assert blind.startswith("engine_args.disable_log_stats: vLLM 0.32.0 makes its spans of these figures")
    assert without.startswith("engine: vLLM 0.32.0 has no otlp_traces_endpoint")


@pytest.mark.parametrize(
    ("endpoint", "reaches"),
    [
        ("http://127.0.0.1:4318", False),
        ("http://localhost:4318", False),
        ("http://[::1]:4318", False),
        ("http://collector:4318", True),
    ],
)
def test_a_container_can_not_reach_a_collector_on_loopback(venv: Path, endpoint: str, reaches: bool) -> None:
    traces = TracesConfig(endpoint=endpoint, engines=True)

    said = list(vllm.check_spans(model(venv, image="vllm/vllm-openai:v0.32.0"), traces))

    assert said == ([] if reaches else [said[0]])
    assert reaches or said[0].startswith(
        f"image: to a container the traces.endpoint {endpoint} is the container"
    )


def test_a_container_gets_the_variables(venv: Path) -> None:
    launch = vllm.launch(model(venv, image="vllm/vllm-openai:v0.32.0"), PLACEMENT)

    assert argument(launch.argv) == "http://127.0.0.1:4318/v1/traces"
    assert "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL" in launch.argv
    assert launch.env["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] == "http/protobuf"


@pytest.mark.parametrize(
    ("endpoint", "protocol", "url"),
    [
        ("http://c:4318", "http", "http://c:4318/v1/traces"),
        ("http://c:4318/", "http", "http://c:4318/v1/traces"),
        ("http://c/otlp/v1/traces", "http", "http://c/otlp/v1/traces"),
        ("http://c:4317", "grpc", "http://c:4317"),
    ],
)
def test_the_url_has_the_path_that_spans_go_to(endpoint: str, protocol: str, url: str) -> None:
    assert TracesConfig(endpoint=endpoint, protocol=protocol).url == url  # type: ignore[arg-type]


def test_spans_of_engines_without_a_collector_are_a_mistake() -> None:
    with pytest.raises(ValidationError, match=r"expected traces\.endpoint beside it"):
        TracesConfig(engines=True)
