"""What can't fit is said before anything is started."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from penstock.core.config import ModelConfig
from penstock.core.errors import PenstockError
from penstock.engines.paths import DEMO_FOLDER
from penstock.planner.hardware import Gpu, parse_gpus
from penstock.supervisor.fit import check_fit
from penstock.telemetry.gpu import NoGpuError
from tests.engines.test_model_files import safetensors
from tests.planner.models import FOLDER

_, RTX_4090 = parse_gpus("RTX 4090")


@pytest.fixture
def llama(tmp_path: Path) -> str:
    (tmp_path / "config.json").write_text((FOLDER / "llama-3.1-8b.json").read_text())
    return str(tmp_path)


def complaints(source: str, *gpus: Gpu, **args: Any) -> list[str]:
    model = ModelConfig(name="a", engine="vllm", source=source, engine_args=args)
    try:
        check_fit([ModelConfig(name="sim", engine="sim"), model], lambda: gpus)
    except PenstockError as error:
        return error.message.splitlines()
    return []


def test_a_context_that_can_not_fit_is_refused_with_numbers_and_what_would_do(llama: str) -> None:
    (line,) = complaints(llama, RTX_4090)

    assert line.startswith(
        "models.1.engine_args.max_model_len: a sequence of 131072 tokens takes 16.0 GiB of KV cache beside 15.0 GiB "
        "of weights on each GPU, and 24.0 GiB of each RTX 4090 may be used; set at most "
    )


@pytest.mark.parametrize(
    "args",
    [
        {"max_model_len": 8192},
        {"tensor_parallel_size": 2},
        {"kv_cache_dtype": "fp8", "max_model_len": 131072},
        {"quantization": "fp8", "max_model_len": 120_000},
        {"quantization": "something_new"},
        {"cpu_offload_gb": 40},
        {"max_model_len": "auto"},
        {"max_model_len": -1},
    ],
)
def test_what_fits_or_can_not_be_known_to_misfit_is_started(llama: str, args: dict[str, Any]) -> None:
    gpus = (RTX_4090, RTX_4090)

    assert complaints(llama, *gpus, **args) == []


def test_more_gpus_than_there_are_is_refused(llama: str) -> None:
    assert complaints(llama, RTX_4090, tensor_parallel_size=4) == [
        "models.1.engine_args.tensor_parallel_size: 4 GPUs are asked for; there is 1 here"
    ]


def test_a_number_that_does_not_divide_the_heads_is_refused(llama: str) -> None:
    (line,) = complaints(llama, *[RTX_4090] * 3, tensor_parallel_size=3, max_model_len=1024)

    assert "3 does not divide 32 attention heads" in line


def test_a_machine_without_a_gpu_is_not_judged(llama: str) -> None:
    def none() -> tuple[Gpu, ...]:
        raise NoGpuError("no driver")

    check_fit([ModelConfig(name="a", engine="vllm", source=llama)], none)


def test_gpus_are_not_looked_for_without_a_model_on_this_disk() -> None:
    models = [ModelConfig(name="a", engine="vllm", source="owner/model"), ModelConfig(name="b", engine="sim")]

    check_fit(models, lambda: pytest.fail("looked"))


def test_an_unknown_family_is_left_to_the_engine(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "new"}))

    assert complaints(str(tmp_path), RTX_4090) == []


def cached(folder: Path, files: dict[str, bytes]) -> dict[str, str]:
    """A Hub's cache that has owner/model."""
    snapshot = folder / "hub" / "models--owner--model" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    for name, content in files.items():
        (snapshot / name).write_bytes(content)
    return {"HF_HOME": str(folder)}


def hub_complaints(cache: dict[str, str], *gpus: Gpu, lacking: str = "", **args: Any) -> list[str]:
    model = ModelConfig(name="a", engine="vllm", source="owner/model", engine_args=args)
    try:
        check_fit([model], lambda: gpus, lacking=lambda *_: lacking, cache=cache)
    except PenstockError as error:
        return error.message.splitlines()
    return []


def test_a_model_of_the_hub_that_lies_in_its_cache_is_judged_as_a_folder_is(tmp_path: Path) -> None:
    config = (FOLDER / "llama-3.1-8b.json").read_bytes()
    cache = cached(tmp_path, {"config.json": config, "model.safetensors": safetensors("x")})

    (context,) = hub_complaints(cache, RTX_4090)
    (heads,) = hub_complaints(cache, *[RTX_4090] * 3, tensor_parallel_size=3, max_model_len=1024)

    assert context.startswith(
        "models.0.engine_args.max_model_len: a sequence of 131072 tokens takes 16.0 GiB"
    )
    assert "3 does not divide 32 attention heads" in heads
    assert hub_complaints(cache, RTX_4090, max_model_len=8192) == []


def test_a_model_of_the_hub_that_is_half_there_is_refused_with_how_to_go_on(tmp_path: Path) -> None:
    cache = cached(tmp_path, {"config.json": b"{}", "model-00001-of-00002.safetensors": safetensors("x")})

    (line,) = hub_complaints(cache)

    assert line.startswith("models.0.source: owner/model is half-downloaded in the Hub's cache; ")
    assert line.endswith(
        "1 of 2 files are missing, as model-00002-of-00002.safetensors; "
        "penstock pull owner/model goes on with it"
    )


def test_a_size_that_does_not_divide_the_heads_is_refused_also_without_a_gpu(tmp_path: Path) -> None:
    config = (FOLDER / "llama-3.1-8b.json").read_bytes()
    cache = cached(tmp_path, {"config.json": config, "model.safetensors": safetensors("x")})

    (line,) = hub_complaints(cache, tensor_parallel_size=3)

    assert line.startswith("models.0.engine_args.tensor_parallel_size: 3 does not divide 32 attention heads")


def test_a_name_without_an_owner_is_looked_for_as_well() -> None:
    model = ModelConfig(name="a", engine="vllm", source="gpt2")
    asked: list[str] = []

    check_fit([model], tuple, lacking=lambda name, revision: asked.append(name.repo) or "", cache={})

    assert asked == ["gpt2"]


def test_a_model_that_the_hub_does_not_give_is_refused_with_what_it_says(tmp_path: Path) -> None:
    cache = {"HF_HOME": str(tmp_path)}

    assert hub_complaints(cache, lacking="there is no owner/model on the Hub; check the spelling") == [
        "models.0.source: there is no owner/model on the Hub; check the spelling"
    ]
    assert hub_complaints(cache) == []


def test_gguf_files_of_the_hub_are_not_for_this_engine(tmp_path: Path) -> None:
    cache = cached(tmp_path, {"x.gguf": (DEMO_FOLDER / "demo.gguf").read_bytes()})

    (line,) = hub_complaints(cache)

    assert line == (
        'models.0.source: owner/model has GGUF files, which vllm does not load; set engine = "llamacpp"'
    )


def test_the_hub_is_not_asked_for_what_is_here_or_for_other_engines(llama: str) -> None:
    models = [
        ModelConfig(name="a", engine="vllm", source=llama),
        ModelConfig(name="b", engine="sim"),
        ModelConfig(
            name="c", engine="vllm", source="owner/model", engine_args={"download_dir": "/elsewhere"}
        ),
    ]

    check_fit(models, tuple, lacking=lambda *_: pytest.fail("asked"))


def test_files_that_are_not_whole_are_refused_also_without_a_gpu(llama: str) -> None:
    (Path(llama) / "model-00001-of-00002.safetensors").write_bytes(b"")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (Path(llama) / "model.safetensors.index.json").write_text(json.dumps(index))

    assert complaints(llama) == [
        f"models.1.source: {llama} is incomplete: 1 of 2 files are missing, as model-00002-of-00002.safetensors; "
        "finish the download"
    ]
