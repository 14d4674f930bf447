"""What fits beside the weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.engines.model_files import describe
from penstock.engines.paths import DEMO_FOLDER
from penstock.planner.hardware import known_gpu, main_memory
from penstock.planner.quantization import METHODS, STORED
from penstock.planner.room import (
    Q8_0_BYTES,
    Terms,
    blocks,
    divides,
    room,
    sequence_bytes,
    token_bytes,
    visible_bytes,
)
from tests.planner.models import TOTALS, model

KIB, GIB = 1024, 2**30
TERMS = Terms(context=8192, sequences=256, batch_tokens=2048, utilization=0.9)
SMALL = replace(TERMS, kv_bytes=1)


@pytest.mark.parametrize(
    ("name", "kib"),
    [
        ("llama-3-70b", 320),
        ("llama-3-8b", 128),
        ("llama-2-7b", 512),
        ("qwen2.5-1.5b", 28),
        ("falcon-7b", 8),
        ("deepseek-v3", 68.625),
        ("qwen3-next-80b-a3b", 24),
    ],
)
def test_a_token_takes_what_its_attention_caches(name: str, kib: float) -> None:
    assert token_bytes(model(name), 1, TERMS) == kib * KIB


def test_an_fp8_cache_is_half_and_a_q8_0_cache_a_little_more() -> None:
    assert token_bytes(model("llama-3-70b"), 1, SMALL) == 160 * KIB
    assert token_bytes(model("llama-3-70b"), 1, replace(TERMS, kv_bytes=Q8_0_BYTES)) == 170 * KIB


@pytest.mark.parametrize(("gpus", "kib"), [(1, 320), (2, 160), (8, 40), (16, 40)])
def test_kv_heads_are_divided_between_gpus_and_repeated_where_there_are_more_of_these(
    gpus: int, kib: int
) -> None:
    assert token_bytes(model("llama-3-70b"), gpus, TERMS) == kib * KIB


def test_a_latent_cache_is_whole_on_every_gpu() -> None:
    assert token_bytes(model("deepseek-v3"), 8, TERMS) == token_bytes(model("deepseek-v3"), 1, TERMS)


def test_llamacpp_divides_by_layers() -> None:
    layered = replace(TERMS, layered=True)

    assert token_bytes(model("llama-3-8b"), 3, layered) == 11 * 4 * KIB


def test_a_window_ends_the_growth_of_its_layers() -> None:
    gemma = model("gemma-3-27b")
    sizes = [sequence_bytes(gemma, 1, TERMS, tokens) for tokens in (32768, 65536)]

    # Of 62 layers only ten grow: 80 KiB a token instead of 496.
    assert sizes[1] - sizes[0] == 32768 * 80 * KIB


def test_a_state_is_there_once_for_each_sequence() -> None:
    qwen = model("qwen3-next-80b-a3b")

    state = sequence_bytes(qwen, 1, TERMS, 16) - 16 * 24 * KIB
    assert state == 36 * 32 * (128 * 128 + 768) * 4
    assert sequence_bytes(qwen, 2, TERMS, 16) - 16 * 12 * KIB == state // 2


@pytest.mark.parametrize(
    ("gpu", "gib"), [("T4", 14.56), ("A10G", 22.07), ("RTX 3090", 23.58), ("A100 80GB", 79.22)]
)
def test_the_runtime_sees_what_vllm_logged_of_gpus_of_these_sizes(gpu: str, gib: float) -> None:
    found = known_gpu(gpu)
    assert found is not None

    assert visible_bytes(found) / GIB == pytest.approx(gib, abs=0.1)


@pytest.mark.parametrize(
    ("name", "gpu", "gpus", "terms", "way", "kv_gib"),
    [
        ("llama-3-8b", "A100 80GB", 1, replace(TERMS, batch_tokens=8192, graphs=False), "bfloat16", 54.93),
        ("llama-3.1-8b", "L4", 1, replace(TERMS, graphs=False), "bfloat16", 4.60),
    ],
)
def test_what_is_left_for_the_cache_is_near_what_vllm_logged(
    name: str, gpu: str, gpus: int, terms: Terms, way: str, kv_gib: float
) -> None:
    kind = known_gpu(gpu)
    assert kind is not None

    found = room(model(name), METHODS[way], kind, gpus, terms)

    assert found.kv / GIB == pytest.approx(kv_gib, abs=0.5)


@pytest.mark.parametrize(
    ("name", "kv_gib", "tokens"),
    [("llama-3.1-8b", 4.60, 37_696), ("llama-2-7b", 56.18, 115_056), ("qwen2.5-1.5b", 2.36, 88_304)],
)
def test_tokens_that_fit_are_what_vllm_counted(name: str, kv_gib: float, tokens: int) -> None:
    # "reserved for KV Cache" and "# CUDA blocks" x 16 of the same logs.
    assert kv_gib * GIB / token_bytes(model(name), 1, TERMS) == pytest.approx(tokens, rel=0.002)


def test_the_demo_models_cache_is_what_vllm_says_of_it() -> None:
    # vLLM 0.32 on a CPU, VLLM_CPU_KVCACHE_SPACE=1: "CPU KV cache size: 524,288 tokens".
    demo = describe("demo").architecture

    assert GIB // token_bytes(demo, 1, TERMS) == 524_288


SMALL_GEMMA = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "sliding_window": 128}


@pytest.mark.parametrize(
    ("name", "changes", "sequences", "tokens"),
    [
        ("gemma-3-1b", {**SMALL_GEMMA, "num_hidden_layers": 12}, 157.54, 645_277),
        ("gemma-3-1b", {**SMALL_GEMMA, "num_hidden_layers": 13}, 146.29, 599_186),  # logs a layer of padding
        ("deepseek-v2-lite", {"num_hidden_layers": 4}, 56.89, 233_008),
    ],
)
def test_sequences_are_as_many_as_vllm_says_of_such_models(
    name: str, changes: dict[str, int], sequences: float, tokens: int
) -> None:
    # vLLM 0.32 on a CPU, where a block has 128 tokens and one step is in flight, with random weights:
    # VLLM_CPU_KVCACHE_SPACE=1, --load-format dummy, --max-model-len 4096 --max-num-batched-tokens 256; what it logs as
    # "CPU KV cache size" and "Maximum concurrency for 4,096 tokens per request".
    terms = replace(TERMS, context=4096, batch_tokens=256, steps=1, block_tokens=128)
    each = sequence_bytes(model(name, **changes), 1, terms, 4096)

    assert round(GIB / each, 2) == sequences
    assert GIB * 4096 // each == pytest.approx(tokens, abs=16)


def test_what_others_use_is_not_there() -> None:
    gpu = known_gpu("T4")
    assert gpu is not None
    busy = replace(gpu, used_mib=8192)

    assert room(model("gpt2"), METHODS["float16"], busy, 1, TERMS).budget == 7168 * 2**20


@pytest.mark.parametrize(
    ("name", "possible"),
    [
        ("llama-3-70b", [1, 2, 4, 8, 16, 32, 64]),
        ("falcon-7b", [1]),
        ("qwen2.5-7b", [1, 2, 4]),
        ("gpt2-xl", [1, 5, 25]),
    ],
)
def test_tensor_parallelism_divides_heads_and_mlps(name: str, possible: list[int]) -> None:
    assert [gpus for gpus in range(1, 65) if divides(model(name), gpus)] == possible


def test_weights_that_share_a_scale_stay_on_one_gpu() -> None:
    # 29568 = 231 x 128; Qwen widened the MLP of its AWQ files to 29696 = 232 x 128.
    assert not divides(model("qwen2.5-72b"), 2, METHODS["awq"])
    assert divides(model("qwen2.5-72b", intermediate_size=29696), 8, METHODS["awq"])


MODELS = st.sampled_from(
    ["llama-3-8b", "gemma-3-4b", "deepseek-v2-lite", "qwen3-next-80b-a3b", "mistral-7b-v0.1"]
)
LENGTHS = st.integers(1, 200_000)


@pytest.mark.parametrize(("batch_tokens", "logged_mib"), [(512, 7.52), (2048, 30.07)])
def test_llama_cpp_takes_what_it_logs_for_the_demo_model(batch_tokens: int, logged_mib: float) -> None:
    demo = describe(str(DEMO_FOLDER / "demo.gguf")).architecture
    terms = replace(TERMS, context=2048, batch_tokens=batch_tokens, layered=True, graphs=False)

    found = room(demo, STORED, main_memory(8 * GIB), 1, terms)

    assert found.activations / 2**20 == pytest.approx(logged_mib, rel=0.01)
    assert 8 * found.sequence == 32 * 2**20


@given(MODELS, LENGTHS, LENGTHS, st.sampled_from([1, 2, 4, 8]))
def test_a_longer_sequence_never_takes_less_and_two_never_less_than_one_of_both(
    name: str, one: int, other: int, gpus: int
) -> None:
    both = sequence_bytes(model(name), gpus, TERMS, one + other)
    first, second = (sequence_bytes(model(name), gpus, TERMS, tokens) for tokens in (one, other))

    assert max(first, second) <= both
    assert both <= first + second


@given(MODELS, LENGTHS, st.sampled_from([1, 2, 4]))
def test_an_fp8_cache_never_takes_more(name: str, tokens: int, gpus: int) -> None:
    assert sequence_bytes(model(name), gpus, SMALL, tokens) <= sequence_bytes(
        model(name), gpus, TERMS, tokens
    )


@given(st.sampled_from(sorted(TOTALS)), st.integers(1, 100_000), st.sampled_from(["T4", "A100 80GB", "B200"]))
def test_what_is_said_to_fit_does_fit(name: str, context: int, gpu: str) -> None:
    kind = known_gpu(gpu)
    assert kind is not None

    found = room(model(name), METHODS["awq"], kind, 1, replace(TERMS, context=context))

    used = found.weights + found.activations + found.runtime + found.graphs
    assert used + found.sequences * found.sequence <= found.budget or found.sequences == 0
    assert found.tokens <= blocks(context, 16) * (found.sequences + 1)
