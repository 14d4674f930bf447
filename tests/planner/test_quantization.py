"""What weights take, by how they are stored."""

from __future__ import annotations

import pytest

from penstock.planner.quantization import METHODS, method, own_method, weight_bytes
from penstock.planner.shapes import PlanError
from tests.planner.models import TOTALS, model

GIB = 2**30

# What a file of Llama 3.1 8B has beside the weights: its tokens, its template, and the rotary factors (256 bytes).
LLAMA_METADATA_BYTES = 7_841_184


@pytest.mark.parametrize(
    ("name", "file_bytes"),
    [
        ("q4_k_m", 4_920_739_232),
        ("q5_k_m", 5_732_992_416),
        ("q6_k", 6_596_011_424),
        ("q8_0", 8_540_775_840),
    ],
)
def test_a_gguf_kind_takes_what_published_files_of_llama_3_1_8b_have(name: str, file_bytes: int) -> None:
    # Sizes of bartowski/Meta-Llama-3.1-8B-Instruct-GGUF on the Hub.
    assert weight_bytes(model("llama-3.1-8b"), method(name)) == file_bytes - LLAMA_METADATA_BYTES


@pytest.mark.parametrize(
    ("name", "way", "gpus", "gib"),
    [
        ("llama-3-8b", "bfloat16", 1, 14.96),
        ("llama-3-8b", "bfloat16", 2, 7.48),
        ("llama-2-7b", "float16", 1, 12.55),
        ("qwen2.5-1.5b", "float16", 1, 2.8875),
        ("qwen3-8b", "float16", 4, 3.85),
        ("qwen2.5-14b", "bfloat16", 2, 13.9476),
        ("llama-3-70b", "int8", 1, 67.7229),
    ],
)
def test_weights_take_what_vllm_logged_within_two_percent(name: str, way: str, gpus: int, gib: float) -> None:
    # "Loading model weights took" of vLLM 0.6 to 0.8 in its issues and pull requests: see docs/plan.md.
    assert weight_bytes(model(name), method(way), gpus=gpus) / GIB == pytest.approx(gib, rel=0.02)


def test_awq_has_scales_and_leaves_embedding_and_head_in_16_bits() -> None:
    model_70b = model("llama-3-70b")
    linear = 70_553_706_496 - 2 * 128256 * 8192 - (2 * 80 + 1) * 8192

    expected = linear * (4 + 20 / 128) / 8 + 2 * (70_553_706_496 - linear)
    assert weight_bytes(model_70b, method("awq")) == expected
    assert expected / 1e9 == pytest.approx(39.8, abs=0.1)


def test_the_router_of_a_mixture_stays_in_16_bits() -> None:
    mixtral = model("mixtral-8x7b")
    without = [weight for weight in mixtral.weights if weight.name == "router"]

    assert without[0].parameters == 32 * 8 * 4096
    assert weight_bytes(mixtral, method("int8")) / 1e9 == pytest.approx(47.0, abs=0.1)


def test_gpt_oss_has_only_its_experts_in_four_bits() -> None:
    # openai/gpt-oss-20b: "12.8 GiB checkpoint" in its model card's table.
    assert weight_bytes(model("gpt-oss-20b"), method("mxfp4")) / GIB == pytest.approx(12.8, abs=0.1)


@pytest.mark.parametrize("name", sorted(TOTALS))
@pytest.mark.parametrize("way", sorted(METHODS))
def test_more_gpus_never_hold_more_each_nor_less_together(name: str, way: str) -> None:
    found, each = model(name), METHODS[way]
    whole, half, eighth = (weight_bytes(found, each, gpus=gpus) for gpus in (1, 2, 8))

    assert whole >= half >= eighth
    assert whole <= 2 * half + 1 <= 8 * eighth + 4


def test_the_methods_of_a_model_are_its_files_own() -> None:
    assert own_method(model("llama-3-8b")).name == "bfloat16"
    assert own_method(model("deepseek-v3")).name == "fp8"


@pytest.mark.parametrize(
    ("alias", "name"), [("BF16", "bfloat16"), ("int4", "awq"), ("bitsandbytes", "bnb-int4")]
)
def test_a_method_has_the_names_that_people_use(alias: str, name: str) -> None:
    assert method(alias).name == name


def test_an_unknown_method_is_a_mistake_that_names_the_known() -> None:
    with pytest.raises(PlanError) as caught:
        method("int3")

    assert caught.value.code == "usage"
    assert "awq" in caught.value.hint


def test_files_quantized_in_an_unknown_way_are_an_error_and_no_guess() -> None:
    with pytest.raises(PlanError, match="method 'aqlm' is not known here"):
        own_method(model("llama-3-8b", quantization_config={"quant_method": "aqlm"}))
