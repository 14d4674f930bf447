"""`penstock plan`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from penstock.telemetry.fake_nvml import FakeGpu, FakeMachine, FakeNvml
from tests.cli.conftest import Command
from tests.engines.test_model_files import safetensors
from tests.planner.models import FOLDER

LLAMA_70B = str(FOLDER / "llama-3-70b.json")


def test_a_model_that_fits_is_shown_with_its_memory_its_sequences_and_what_to_set(penstock: Command) -> None:
    result = penstock(
        "plan", LLAMA_70B, "--gpu", "2xA6000", "--quantization", "awq", "--tensor-parallel", "2"
    )

    assert (result.code, result.err) == (0, "")
    assert "70,553,706,496 parameters" in result.out
    assert "KV cache: 320 KiB a token" in result.out
    assert (
        "2 x RTX A6000, weights as awq, sequences of 8192 tokens: it fits on 2 GPUs together." in result.out
    )
    assert "weights      18.5 GiB" in result.out
    assert "--tensor-parallel-size 2 --max-model-len 8192" in result.out
    assert "note: awq needs files that are quantized so already" in result.out


def test_a_model_that_does_not_fit_says_why_and_how_many_gpus_would_do(penstock: Command) -> None:
    result = penstock("plan", LLAMA_70B, "--gpu", "2xA6000")

    assert result.code == 3
    assert (
        "it does not fit.\nThe weights alone take 65.7 GiB of 43.7 GiB; 4 x RTX A6000 would do." in result.out
    )
    assert "engine_args" not in result.out


def test_json_has_the_same_in_bytes(penstock: Command) -> None:
    result = penstock(
        "plan", LLAMA_70B, "--gpu", "4xA6000", "--context", "4096", "--concurrency", "8", "--json"
    )

    found = json.loads(result.out)
    assert (result.code, found["fits"], found["gpus_needed"], found["replicas"]) == (0, True, 4, 1)
    assert found["model"]["parameters"] == 70_553_706_496
    assert found["model"]["kv_bytes_per_token"] == 320 * 1024
    assert found["plan"]["kv_bytes_per_token"] == 80 * 1024
    assert found["engine_args"]["max_num_seqs"] == 8
    assert found["sequences_by_length"]["4096"] >= 8


def test_without_gpus_it_says_which_would_do(penstock: Command) -> None:
    text, data = penstock("plan", LLAMA_70B), penstock("plan", LLAMA_70B, "--json")

    rows = {row["gpu"]: row["count"] for row in json.loads(data.out)["gpus"]}
    assert (text.code, rows["H200"], rows["RTX A6000"]) == (0, 2, 4)
    assert "The fewest GPUs that do, for sequences of 8192 tokens:" in text.out


def test_the_demo_is_compared_with_its_files(penstock: Command) -> None:
    result = penstock("plan", "demo", "--gpu", "T4")

    assert result.code == 0
    assert "note: the safetensors files hold the same 2,885,888 parameters" in result.out


def test_windows_and_states_are_told(penstock: Command) -> None:
    gemma = penstock("plan", str(FOLDER / "gemma-3-27b.json")).out
    qwen = penstock("plan", str(FOLDER / "qwen3-next-80b-a3b.json")).out

    assert "496 KiB a token, 80 KiB beyond a window of 1024 that 52 of 62 layers have, at 16 bits" in gemma
    assert "24 KiB a token, beside a state of fixed size in 36 layers, at 16 bits" in qwen
    assert "of which a token is computed with 3,874,929,408" in qwen


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        (("nowhere",), 1, "error: nowhere: there is no such file or folder\nhint: "),
        (("demo", "--gpu", "X99"), 2, "error: --gpu: 'X99' is not known here"),
        (("demo", "--gpu", "T4", "--detect"), 2, "error: --gpu, --detect and --ram: "),
        (("demo", "--quantization", "int3"), 2, "error: --quantization: 'int3' is not known here"),
        (("demo", "--kv-cache", "int4"), 2, "error: --kv-cache: expected auto or fp8, found 'int4'"),
        (("demo", "--tensor-parallel", "2"), 2, "error: --tensor-parallel: has no effect without --gpu"),
        (
            ("demo", "--gpu", "8xT4", "--tensor-parallel", "3"),
            2,
            "error: --tensor-parallel 3: does not divide 4",
        ),
        (("demo", "--context", "0"), 2, "error: Invalid value for '--context'"),
        (("demo", "--utilization", "1.5"), 2, "error: Invalid value for '--utilization'"),
    ],
)
def test_a_mistake_is_an_error_with_a_hint_and_an_exit_code(
    penstock: Command, line: tuple[str, ...], code: int, said: str
) -> None:
    result = penstock("plan", *line)

    assert (result.code, result.out) == (code, "")
    assert said in result.err


@pytest.mark.parametrize(
    ("module", "line", "said"),
    [
        ("pynvml", ("demo", "--detect"), "GPUs can't be detected: nvidia-ml-py is not installed"),
        ("huggingface_hub", ("owner/model",), "the Hub can't be asked: huggingface_hub is not installed"),
    ],
)
def test_what_is_not_installed_is_said_with_what_to_do(
    penstock: Command, monkeypatch: pytest.MonkeyPatch, module: str, line: tuple[str, ...], said: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)

    result = penstock("plan", *line)

    assert (result.code, result.out) == (1, "")
    assert said in result.err
    assert "hint: pip install " in result.err


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    """A driver that knows two GPUs of different sizes."""
    large = FakeGpu(name="NVIDIA RTX A6000", memory_mib=49140, capability=(8, 6))
    small = FakeGpu(name="NVIDIA Thing 9", memory_mib=20000, used_mib=5000, reserved_mib=0, capability=(9, 9))
    nvml = FakeNvml(FakeMachine(gpus=[large, small]))
    monkeypatch.setitem(sys.modules, "pynvml", nvml)  # type: ignore[arg-type] - what is imported is what is there
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return nvml


def test_detected_gpus_are_planned_as_if_all_were_the_smallest(penstock: Command, driver: FakeNvml) -> None:
    result = penstock("plan", "demo", "--detect", "--kv-cache", "fp8")

    assert (result.code, result.err) == (0, "warning: GPUs differ; planned as if all 2 were the smallest\n")
    assert "2 x Thing 9" in result.out
    assert "note: 4.88 GiB of a GPU's memory are in use by others already" in result.out
    assert "--kv-cache-dtype fp8" in result.out


def test_what_files_hold_is_compared_with_what_their_configuration_says(
    penstock: Command, folder: Path
) -> None:
    (folder / "config.json").write_text((FOLDER / "gpt2.json").read_text())
    (folder / "a.safetensors").write_bytes(safetensors("x"))

    assert "hold 2 parameters, not the 124,439,808 that config.json describes" in penstock("plan", ".").out
    packed = json.loads((FOLDER / "gpt2.json").read_text()) | {"quantization_config": {"quant_method": "awq"}}
    (folder / "config.json").write_text(json.dumps(packed))
    assert "note: the safetensors files hold 0.00 GiB" in penstock("plan", ".", "--gpu", "T4").out


def test_a_kind_by_name_is_told_from_a_file(penstock: Command) -> None:
    result = penstock(
        "plan", str(FOLDER / "llama-3-8b.json"), "--gpu", "RTX 3060", "--quantization", "q4_k_m"
    )

    assert "note: q4_k_m is an estimate by llama.cpp's rules" in result.out
    assert "engine_args = { n_ctx = 8192, n_parallel = " in result.out
    assert "for vLLM alone" not in result.out


def test_what_no_gpu_can_do_is_said(penstock: Command) -> None:
    result = penstock("plan", LLAMA_70B, "--context", "100000000")

    assert result.code == 3
    assert "None of the surveyed GPUs would do, in any number." in result.out


def test_a_model_is_planned_for_the_memory_of_a_cpu(penstock: Command) -> None:
    small, large = (penstock("plan", LLAMA_70B, "--ram", size) for size in ("16GiB", "64GiB"))
    here = penstock("plan", "demo", "--ram", "detect", "--json")

    assert (small.code, large.code, here.code) == (3, 0, 0)
    assert "16.0 GiB of RAM, weights as q4_k_m, sequences of 8192 tokens: it does not fit." in small.out
    assert "GiB of free RAM would do." in small.out
    assert "64.0 GiB of RAM, weights as q4_k_m, sequences of 8192 tokens: it fits." in large.out
    assert "engine_args = { n_ctx = 8192, n_parallel = " in large.out
    assert "CUDA" not in large.out
    assert "note: q4_k_m is an estimate" in large.out
    assert json.loads(here.out)["engine"] == "llamacpp"


def test_a_price_of_gpus_becomes_one_of_tokens_marked_as_an_estimate(penstock: Command) -> None:
    text = penstock("plan", LLAMA_70B, "--gpu", "2xH100", "--price-per-gpu-hour", "2.5")
    data = penstock("plan", LLAMA_70B, "--gpu", "2xH100", "--price-per-gpu-hour", "2.5", "--json")

    assert "USD PER MILLION AT LEAST" in text.out
    assert "An estimate: generated tokens, sequences of 4096 tokens" in text.out
    one, many = json.loads(data.out)["costs_estimate"]
    assert one["sequences"] == 1
    assert one["usd_per_million_tokens_at_least"] > many["usd_per_million_tokens_at_least"] > 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--ram", "16GiB", "--gpu", "T4"], "--gpu, --detect and --ram"),
        (["--ram", "some"], "--ram: expected detect, or a size from 256MiB to 64TiB, found 'some'"),
        (["--ram", "1KB"], "--ram: expected detect"),
        (
            ["--ram", "16GiB", "--quantization", "awq"],
            "weights as awq: llama.cpp, which runs models on a CPU",
        ),
        (["--ram", "16GiB", "--price-per-gpu-hour", "1"], "has no effect without --gpu"),
        (["--price-per-gpu-hour", "1"], "--price-per-gpu-hour: has no effect without --gpu or --detect"),
    ],
)
def test_options_for_a_cpu_and_for_cost_are_refused_where_they_mean_nothing(
    penstock: Command, arguments: list[str], said: str
) -> None:
    result = penstock("plan", LLAMA_70B, *arguments)

    assert result.code == 2
    assert said in result.err
