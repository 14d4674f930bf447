"""What is chosen for a model of which only its name is said."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.engines.model_files import describe
from penstock.engines.paths import DEMO_FOLDER
from penstock.planner.choice import SEQUENCES_WANTED, for_gpus, for_memory, pick
from penstock.planner.hardware import GIB, GPUS, Gpu, main_memory, parse_gpus
from penstock.planner.misfit import misfit
from penstock.planner.quantization import METHODS, own_method
from penstock.planner.repository import Listed, Variant
from penstock.planner.shapes import Architecture, PlanError, Role
from tests.planner.models import TOTALS, model

DEMO_GGUF = describe(str(DEMO_FOLDER / "demo.gguf")).architecture


def gpus(text: str) -> list[Gpu]:
    count, gpu = parse_gpus(text)
    return [gpu] * count


def stored(name: str, bits: float) -> Architecture:
    """A model as a GGUF file would hold it, with every weight in so many bits."""
    plain = model(name)
    return replace(plain, weights=tuple(replace(one, bits=bits) for one in plain.weights))


def variant(quantization: str, size_bytes: int) -> Variant:
    return Variant(quantization, (Listed(f"x-{quantization}.gguf", size_bytes),))


def test_a_model_that_fits_one_gpu_takes_one_and_a_long_context() -> None:
    found = for_gpus(model("llama-3.1-8b"), gpus("2xA6000"))

    assert found.args["tensor_parallel_size"] == 1
    assert found.args["max_model_len"] == 32768
    assert "quantization" not in found.args
    assert found.weights == (
        "bfloat16, as stored, 15.0 GiB on 1 of 2 x RTX A6000, the fewest that hold it; replicas = 2 would fit"
    )
    assert found.context.startswith(
        "32768 tokens of 131072 that it was trained for; 6 sequences at once, of "
    )


def test_a_model_that_needs_several_gpus_is_divided() -> None:
    assert for_gpus(model("llama-3-70b"), gpus("4xA6000")).args["tensor_parallel_size"] == 4


def test_a_model_that_does_not_fit_as_it_is_is_quantized_while_it_loads() -> None:
    found = for_gpus(model("llama-3-70b"), gpus("2xA6000"))

    assert (found.args["quantization"], found.args["tensor_parallel_size"]) == ("fp8", 2)
    assert found.weights.startswith("fp8 on loading")


def test_a_short_context_is_rather_taken_than_none() -> None:
    found = for_gpus(model("llama-3.1-8b"), gpus("T4"))

    assert found.args["quantization"] in ("fp8", "bitsandbytes")


def test_a_model_that_is_too_large_in_any_way_is_said_with_what_would_do() -> None:
    with pytest.raises(PlanError) as caught:
        for_gpus(model("llama-3-70b"), gpus("RTX 3060"))

    assert caught.value.message.startswith(
        "it does not fit into 1 x RTX 3060: the weights alone take 131.4 GiB of 10.6 GiB"
    )
    assert "would do; name a smaller or a quantized model" in caught.value.hint


def test_other_programs_memory_is_not_counted_as_free() -> None:
    taken = replace(parse_gpus("L4")[1], used_mib=20_000)

    with pytest.raises(PlanError, match="does not fit"):
        for_gpus(model("llama-3.1-8b"), [taken])


@given(st.sampled_from(sorted(TOTALS)), st.sampled_from(GPUS), st.integers(1, 8))
def test_what_is_chosen_for_gpus_is_never_refused_before_a_start(name: str, gpu: Gpu, count: int) -> None:
    architecture = model(name)
    try:
        args = for_gpus(architecture, [gpu] * count).args
    except PlanError:
        return

    flags = {method.flag: method for method in METHODS.values() if method.flag}
    asked = flags.get(str(args.get("quantization", "")))
    size, context = args["tensor_parallel_size"], args["max_model_len"]
    assert isinstance(size, int)
    assert isinstance(context, int)
    assert size <= count
    way = asked or own_method(architecture)
    way = METHODS["float16"] if way.name == "float32" else way
    assert misfit(architecture, way, gpu, size, context=context, utilization=0.92, small_kv=False) == ("", "")


def test_a_gguf_model_is_served_in_memory_with_slots_that_fit() -> None:
    found = for_memory(DEMO_GGUF, main_memory(8 * GIB))

    assert found.args == {"n_ctx": 2048, "n_parallel": 8}
    assert found.weights == "0.01 GiB of 8.0 GiB of RAM"


def test_fewer_slots_and_a_shorter_context_are_taken_where_memory_is_short() -> None:
    large, small = (for_memory(stored("llama-3.1-8b", 4.5), main_memory(size * GIB)).args for size in (32, 7))

    assert large["n_ctx"] == 8192
    assert (int(small["n_ctx"]), int(small["n_parallel"])) < (8192, 8)


@pytest.mark.parametrize(
    ("there", "free_gib", "taken"),
    [
        ({"Q8_0": 8, "Q4_K_M": 4, "Q2_K": 2}, 32, "Q4_K_M"),
        ({"Q8_0": 8, "Q6_K": 6, "F16": 16}, 32, "Q6_K"),
        ({"Q8_0": 8, "Q4_K_M": 4, "Q2_K": 2}, 3.5, "Q2_K"),
        ({"F16": 16}, 32, "F16"),
        ({"": 4}, 32, ""),
    ],
)
def test_of_several_quantizations_the_one_that_most_take_is_taken_if_it_fits(
    there: dict[str, float], free_gib: float, taken: str
) -> None:
    among = [variant(name, int(size * GIB)) for name, size in there.items()]

    found, _ = pick(among, main_memory(int(free_gib * GIB)), lambda one: DEMO_GGUF, "a/b")

    assert found.quantization == taken


def test_variants_that_are_all_too_large_are_said_with_numbers() -> None:
    among = [variant("Q4_K_M", 40 * GIB), variant("Q2_K", 26 * GIB)]

    with pytest.raises(PlanError, match=r"the smallest of its 2 variants takes 26\.0 GiB, and 8\.00 GiB of"):
        pick(among, main_memory(8 * GIB), lambda one: DEMO_GGUF, "a/b")


def test_a_variant_whose_cache_does_not_fit_gives_way_to_a_smaller_one() -> None:
    among = [variant("Q4_K_M", 4 * GIB), variant("Q2_K", 2 * GIB)]
    bits = {"Q4_K_M": 8.0, "Q2_K": 2.0}

    found, _ = pick(
        among, main_memory(6 * GIB), lambda one: stored("llama-3.1-8b", bits[one.quantization]), "a/b"
    )

    assert found.quantization == "Q2_K"


def test_enough_sequences_fit_where_the_context_is_long() -> None:
    found = for_gpus(model("llama-3.1-8b"), gpus("RTX 4090"))

    assert int(found.args["max_num_seqs"]) >= SEQUENCES_WANTED or found.args["max_model_len"] == 8192
    assert any(one.role is Role.LINEAR for one in model("llama-3.1-8b").weights)
