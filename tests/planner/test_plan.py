"""The plan as a whole."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.planner.flags import engine_args
from penstock.planner.hardware import GPUS, parse_gpus
from penstock.planner.misfit import misfit
from penstock.planner.plan import Ask, Plan, plan
from penstock.planner.quantization import METHODS, method
from penstock.planner.room import divides
from penstock.planner.shapes import PlanError
from penstock.planner.survey import survey
from tests.planner.models import TOTALS, model

GIB = 2**30


def planned(name: str, gpus: str, way: str | None = None, **asked: Any) -> Plan:
    count, gpu = parse_gpus(gpus)
    return plan(model(name), Ask(gpu, count, method=method(way) if way else None, **asked))


def test_the_fewest_gpus_that_hold_the_model_are_taken_and_the_others_run_replicas() -> None:
    found = planned("llama-3-70b", "8xH100")

    assert (found.choice.fits, found.choice.room.gpus, found.replicas) == (True, 2, 4)
    assert not planned("llama-3-70b", "1xH100").choice.fits


def test_more_sequences_at_once_need_more_gpus() -> None:
    found = planned("llama-3-70b", "8xH100", concurrency=50)

    assert (found.choice.fits, found.choice.room.gpus, found.choice.terms.sequences) == (True, 4, 50)


def test_what_does_not_fit_says_why_with_numbers_and_how_many_would_do() -> None:
    found = planned("llama-3-70b", "2xA6000")

    assert not found.choice.fits
    assert found.choice.why == "the weights alone take 65.7 GiB of 43.7 GiB"
    assert found.needed == 4
    assert planned("llama-3-70b", "4xA6000").choice.fits


def test_a_cache_that_is_too_small_is_told_from_weights_that_are_too_large() -> None:
    found = planned("llama-3.1-8b", "L4", context=131072)

    assert found.choice.why.startswith("one sequence of 131072 tokens takes 16.0 GiB of KV cache, and ")


def test_tensor_parallelism_that_does_not_divide_the_heads_is_a_mistake_that_names_what_does() -> None:
    with pytest.raises(PlanError) as caught:
        planned("qwen2.5-7b", "8xL4", tensor_parallel=8)

    assert "8: does not divide 28 attention heads" in caught.value.message
    assert (caught.value.hint, caught.value.code) == ("possible: 1, 2, 4", "usage")


def test_more_gpus_than_there_are_is_a_mistake() -> None:
    with pytest.raises(PlanError, match="--tensor-parallel 4: there are 2 GPUs"):
        planned("llama-3-8b", "2xL4", tensor_parallel=4)


def test_quantizing_what_is_quantized_is_a_mistake() -> None:
    with pytest.raises(PlanError, match="the model is quantized with fp8 already"):
        planned("deepseek-v3", "8xH200", "awq")


def test_a_gpu_without_bfloat16_is_told_to_use_float16() -> None:
    found = planned("qwen2.5-0.5b", "T4")

    assert found.choice.method.name == "float16"
    assert engine_args(found)["dtype"] == "float16"
    assert "dtype" not in engine_args(planned("qwen2.5-0.5b", "L4"))


def test_a_gpu_that_engines_have_no_kernels_for_is_said_so() -> None:
    found = planned("gpt2", "P100 16GB")

    assert not found.choice.fits
    assert found.choice.why == "float16 needs compute capability 7.0; the P100 16GB has 6.0"
    assert found.needed is None


def test_the_settings_are_those_of_vllm() -> None:
    found = planned("llama-3-70b", "2xA6000", "awq", tensor_parallel=2, small_kv=True, utilization=0.92)

    assert engine_args(found) == {
        "tensor_parallel_size": 2,
        "max_model_len": 8192,
        "max_num_seqs": found.choice.room.sequences,
        "max_num_batched_tokens": 2048,
        "gpu_memory_utilization": 0.92,
        "kv_cache_dtype": "fp8",
    }


def test_a_method_that_vllm_makes_while_loading_is_among_the_settings() -> None:
    assert engine_args(planned("llama-3-8b", "L4", "fp8"))["quantization"] == "fp8"
    assert "quantization" not in engine_args(planned("llama-3-8b", "L4", "awq"))


def test_a_gguf_kind_has_the_settings_of_llamacpp() -> None:
    found = planned("llama-3-8b", "RTX 3060", "q4_k_m", context=4096, small_kv=True)

    assert engine_args(found) == {
        "n_ctx": 4096,
        "n_parallel": 8,
        "n_gpu_layers": 999,
        "cache_type_k": "q8_0",
        "cache_type_v": "q8_0",
    }


def test_what_to_know_is_said() -> None:
    found = planned("llama-3-8b", "4xL40S", "awq", context=16384, small_kv=True)

    notes = " ".join(found.notes)
    assert "16384 tokens are more than the 8192" in notes
    assert "needs files that are quantized so already" in notes
    assert "8 bits costs some quality" in notes
    assert "4 GPUs would hold" in notes


def test_more_gpus_than_kv_heads_is_said() -> None:
    notes = planned("qwen2.5-1.5b", "4xL4", tensor_parallel=4).notes

    assert "each GPU holds a whole KV head or latent: there are 2 for 4 GPUs" in notes


def test_lengths_go_to_what_the_model_was_trained_for() -> None:
    lengths = [length for length, _ in planned("llama-3.1-8b", "H100").lengths]

    assert lengths == [1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072]


def test_choices_compare_ways_to_store_it() -> None:
    rows = [(one.method.name, one.room.gpus, one.fits) for one in planned("llama-3-70b", "2xA6000").choices]

    assert rows == [
        ("bfloat16", 2, False),
        ("fp8", 2, True),
        ("int8", 2, True),
        ("awq", 1, True),
        ("awq", 2, True),
    ]


def test_a_survey_names_the_fewest_of_each_kind() -> None:
    rows = {gpu.name: count for gpu, count, _ in survey(model("llama-3-8b"), Ask(GPUS[0], 1))}

    assert rows["RTX 3060"] == 2
    assert rows["L4"] == rows["B200"] == 1


@pytest.mark.parametrize(
    ("row", "way", "gpus", "weights_gb", "said_gb"),
    [
        ("llama-2-7b", "bf16", 1, 13.5, 14),
        ("llama-2-13b", "bf16", 1, 26.0, 26),
        ("llama-3-70b", "int8", 2, 72.7, 70),
        ("llama-3-70b", "awq", 2, 39.8, 35),
        ("mixtral-8x7b", "int8", 2, 47.0, 56),
    ],
)
def test_the_memory_table_of_an_earlier_stack_is_reproduced_or_corrected(
    row: str, way: str, gpus: int, weights_gb: float, said_gb: int
) -> None:
    # docs/plan.md, "The memory table of an earlier stack", says why 35 and 56 are wrong.
    found = planned(row, "2xA6000", way, tensor_parallel=gpus, utilization=0.92)

    assert found.choice.fits
    assert found.choice.room.weights * gpus / 1e9 == pytest.approx(weights_gb, abs=0.1)
    assert (abs(weights_gb - said_gb) / said_gb < 0.05) == (said_gb not in (35, 56))


@given(
    st.sampled_from(sorted(TOTALS)),
    st.sampled_from(GPUS),
    st.integers(1, 16),
    st.sampled_from([None, "bf16", "fp8", "awq", "q4_k_m"]),
    st.integers(1, 200_000),
)
def test_a_plan_that_fits_does_so_on_fewer_gpus_than_there_are_and_divides_the_model(
    name: str, gpu: Any, count: int, way: str | None, context: int
) -> None:
    architecture = model(name)
    try:
        found = plan(architecture, Ask(gpu, count, context=context, method=method(way) if way else None))
    except PlanError:
        assert architecture.quantized
        return

    room = found.choice.room
    assert 1 <= room.gpus <= count
    if found.choice.fits:
        assert room.sequences >= found.choice.terms.sequences >= 1
        assert found.choice.terms.layered or divides(architecture, room.gpus, found.choice.method)
        assert found.replicas == count // room.gpus
    elif found.needed:
        assert found.needed > count


LOW = {"utilization": 0.9, "small_kv": False}


def test_a_misfit_of_weights_is_the_fault_of_the_number_of_gpus() -> None:
    name, said = misfit(model("llama-3-70b"), METHODS["bfloat16"], GPUS[3], 1, context=8192, **LOW)

    assert name == "tensor_parallel_size"
    assert "the weights take 131.4 GiB on each GPU, and 13.5 GiB of each T4" in said


def test_a_misfit_of_the_cache_names_the_longest_context_that_would_do() -> None:
    _, gpu = parse_gpus("RTX 4090")
    ask: dict[str, Any] = {
        "model": model("llama-3.1-8b"),
        "method": METHODS["bfloat16"],
        "gpu": gpu,
        "gpus": 1,
        **LOW,
    }
    name, said = misfit(context=131072, **ask)

    assert name == "max_model_len"
    longest = int(said.split("set at most ")[1].split(",")[0])
    assert misfit(context=longest, **ask) == ("", "")
    assert misfit(context=longest + 16, **ask)[0] == "max_model_len"


def test_a_misfit_of_heads_names_what_divides_them() -> None:
    assert misfit(model("qwen2.5-7b"), METHODS["bfloat16"], GPUS[3], 3, context=8192, **LOW)[1].endswith(
        "set one of 1, 2, 4"
    )


def test_what_is_no_misfit_is_none_even_where_estimates_say_it_is_tight() -> None:
    _, gpu = parse_gpus("RTX 4090")
    tight = replace(gpu, memory_mib=17 * 1024)

    assert misfit(
        model("llama-3-8b"), METHODS["bfloat16"], tight, 1, context=1024, utilization=1.0, small_kv=False
    ) == (
        "",
        "",
    )
