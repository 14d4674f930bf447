"""Parameters and caches, from configurations."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.engines.model_files import describe
from penstock.engines.paths import DEMO_FOLDER
from penstock.planner.architecture import CONFIG_BYTES_MAX, FAMILIES, read_config
from penstock.planner.shapes import KvLayers, PlanError, StateLayers
from tests.planner.models import FOLDER, TOTALS, model


@pytest.mark.parametrize("name", sorted(TOTALS))
def test_every_public_architecture_is_counted_to_the_last_parameter(name: str) -> None:
    assert model(name).parameters == TOTALS[name]["parameters"]


def test_every_family_and_every_file_is_covered() -> None:
    found = {json.loads(path.read_text())["model_type"] for path in FOLDER.glob("*.json")}

    assert found == set(FAMILIES)
    assert {path.stem for path in FOLDER.glob("*.json")} == set(TOTALS)
    assert sum("published" in total for total in TOTALS.values()) >= 15


def test_the_demo_model_is_counted_as_its_safetensors_file_has_it() -> None:
    demo = describe(str(DEMO_FOLDER))

    assert demo.held is not None
    assert demo.architecture.parameters == demo.held.total == 2_885_888


@pytest.mark.parametrize(
    ("name", "active"),
    [("mixtral-8x7b", 12_879_925_248), ("deepseek-v3", 37_552_297_472), ("qwen3-235b-a22b", 22_190_763_520)],
)
def test_a_token_is_computed_with_few_of_the_experts(name: str, active: int) -> None:
    assert model(name).active_parameters == active


def test_a_dense_model_uses_all_its_parameters() -> None:
    assert model("llama-3-8b").active_parameters == model("llama-3-8b").parameters


def test_a_tied_head_is_the_embedding_and_counts_once() -> None:
    tied, untied = model("llama-3.2-1b"), model("llama-3.2-1b", tie_word_embeddings=False)

    assert tied.tied
    assert untied.parameters - tied.parameters == 128256 * 2048


@pytest.mark.parametrize(
    ("name", "kv"),
    [
        ("llama-2-7b", (KvLayers(32, 32, 256),)),
        ("llama-3-70b", (KvLayers(80, 8, 256),)),
        ("falcon-7b", (KvLayers(32, 1, 128),)),
        ("deepseek-v3", (KvLayers(61, 1, 576),)),
        ("mistral-7b-v0.1", (KvLayers(32, 8, 256, 4096),)),
        ("mistral-7b-v0.3", (KvLayers(32, 8, 256),)),
        ("gemma-2-9b", (KvLayers(21, 8, 512), KvLayers(21, 8, 512, 4096))),
        ("gemma-3-27b", (KvLayers(10, 16, 256), KvLayers(52, 16, 256, 1024))),
        ("gpt-oss-20b", (KvLayers(12, 8, 128), KvLayers(12, 8, 128, 128))),
        ("qwen3-next-80b-a3b", (KvLayers(12, 2, 512),)),
    ],
)
def test_layers_cache_as_their_attention_does(name: str, kv: tuple[KvLayers, ...]) -> None:
    assert model(name).kv == kv


def test_layers_with_a_state_hold_it_instead_of_a_cache() -> None:
    (states,) = model("qwen3-next-80b-a3b").states

    assert states == StateLayers(36, 32, 128 * 128 + 3 * 8192 // 32)


def test_a_mistral_that_says_nothing_of_its_window_has_that_of_its_class() -> None:
    assert model("mistral-7b-v0.3").kv[0].window_tokens is None
    values = json.loads((FOLDER / "mistral-7b-v0.3.json").read_text())
    del values["sliding_window"]

    assert read_config(json.dumps(values), "x").kv[0].window_tokens == 4096


def test_qwen_uses_its_window_only_where_it_says_so() -> None:
    windowed = model("qwen2.5-7b", use_sliding_window=True, max_window_layers=20)

    assert model("qwen2.5-7b").kv == (KvLayers(28, 4, 256),)
    assert windowed.kv == (KvLayers(20, 4, 256), KvLayers(8, 4, 256, 131072))


@pytest.mark.parametrize(
    ("part", "method", "group"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 64}, "awq", 64),
        ({"quant_method": "gptq", "bits": 4, "group_size": -1}, "gptq", 0),
        ({"quant_method": "gptq", "bits": 8}, "int8", 0),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8", 0),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bnb-int4", 0),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8", 0),
        ({"quant_method": "mxfp4"}, "mxfp4", 0),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float"}}},
            },
            "fp8",
            0,
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int", "group_size": 128}}},
            },
            "gptq",
            128,
        ),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors", 0),
    ],
)
def test_files_that_are_quantized_already_are_known_as_such(
    part: dict[str, Any], method: str, group: int
) -> None:
    found = model("llama-3-8b", quantization_config=part)

    assert (found.quantized, found.group) == (method, group)


def test_an_unknown_family_is_an_error_that_names_the_nearest_and_all_known() -> None:
    with pytest.raises(PlanError) as caught:
        model("llama-3-8b", model_type="qwen3_mo")

    assert caught.value.message == (
        "llama-3-8b/config.json: architecture 'qwen3_mo' is not known here; the nearest known is qwen3_moe"
    )
    assert all(family in caught.value.hint for family in FAMILIES)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_size": "4096"}, "hidden_size: expected a whole number from 1 to 4294967296, found '4096'"),
        ({"num_hidden_layers": -1}, "num_hidden_layers: expected a whole number"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers: expected a whole number from 1 to 4096"),
        ({"num_hidden_layers": True}, "num_hidden_layers: expected a whole number"),
        ({"vocab_size": 10**30}, "vocab_size: expected a whole number"),
        ({"vocab_size": None}, "vocab_size is missing"),
        ({"num_key_value_heads": 5}, "num_key_value_heads: expected a divisor of the 32 attention heads"),
        (
            {"num_attention_heads": 31, "num_key_value_heads": 31},
            "hidden_size: expected a multiple of the 31",
        ),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings: expected true or false"),
        ({"quantization_config": []}, "quantization_config: expected an object"),
        ({"model_type": None}, "it has no model_type"),
        ({"model_type": "gemma3"}, "text_config is missing"),
        (
            {"model_type": "gemma2", "layer_types": ["full_attention"]},
            "layer_types: expected 32 entries, found 1",
        ),
        ({"model_type": "gemma2", "layer_types": ["chunked"] * 32}, "'chunked' is not"),
        ({"model_type": "gemma2", "layer_types": 3}, "layer_types: expected a list of texts"),
    ],
)
def test_a_wrong_member_is_an_error_with_its_place(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(PlanError) as caught:
        model("llama-3-8b", **changes)

    assert caught.value.message.startswith("llama-3-8b/config.json: ")
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("deepseek-v2", {"moe_layer_freq": 2}, "moe_layer_freq: only 1 is known here"),
        ("mixtral-8x7b", {"num_experts_per_tok": 9}, "expected at most the 8 experts there are"),
        ("phi-2", {"qk_layernorm": True}, "qk_layernorm: only false is known here"),
        ("qwen3-30b-a3b", {"mlp_only_layers": "none"}, "mlp_only_layers: expected a list of whole numbers"),
    ],
)
def test_a_variant_that_is_not_known_is_an_error_and_no_guess(
    name: str, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(PlanError, match=said):
        model(name, **changes)


def test_layers_of_a_mixture_may_be_dense() -> None:
    some = model("qwen3-30b-a3b", mlp_only_layers=[0, 1], decoder_sparse_step=2)

    assert next(weight.count for weight in some.weights if weight.name == "router") == 23
    assert next(weight.count for weight in some.weights if weight.name == "mlp.up") == 25


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not JSON"),
        ("[1]", "expected a JSON object, found list"),
        (" " * (CONFIG_BYTES_MAX + 1), "a config.json has at most"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_what_is_no_configuration_is_an_error(text: str, said: str) -> None:
    with pytest.raises(PlanError, match=said):
        read_config(text, "x")


VALUES = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=3)


@given(
    st.sampled_from(sorted(TOTALS)),
    st.dictionaries(
        st.sampled_from(
            [
                *(
                    "hidden_size",
                    "n_embd",
                    "num_attention_heads",
                    "num_hidden_layers",
                    "n_layer",
                    "layer_types",
                ),
                *("head_dim", "text_config", "num_experts", "n_routed_experts", "decoder_sparse_step"),
                *("sliding_window", "max_window_layers", "first_k_dense_replace", "quantization_config"),
            ]
        ),
        VALUES | st.dictionaries(st.text(max_size=5), VALUES, max_size=2),
        min_size=1,
        max_size=3,
    ),
)
def test_any_change_of_a_configuration_gives_an_architecture_or_an_error_of_ours(
    name: str, changes: dict[str, Any]
) -> None:
    try:
        found = model(name, **changes)
    except PlanError:
        return

    assert found.parameters > 0
