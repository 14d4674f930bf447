"""What of a repository is needed."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.planner.repository import (
    Listed,
    has_weights,
    is_safe,
    quantization_of,
    select,
    variants,
)
from penstock.planner.shapes import PlanError

LLAMA = (
    *("config.json", "tokenizer.json", "generation_config.json", "README.md", "LICENSE", "USE_POLICY.md"),
    *("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"),
    *("original/consolidated.00.pth", "original/params.json", ".gitattributes", "figures/benchmark.png"),
)
GGUF = (
    *("model-Q4_K_M.gguf", "model-Q8_0.gguf", "model-IQ2_XXS.gguf", "mmproj-model-f16.gguf", "README.md"),
    *(
        "BF16/model-BF16-00001-of-00002.gguf",
        "BF16/model-BF16-00002-of-00002.gguf",
        "model.imatrix",
        "config.json",
    ),
)


def listed(*names: str) -> list[Listed]:
    return [Listed(name, len(name), blob="0" * 40) for name in names]


def names(files: tuple[Listed, ...]) -> set[str]:
    return {file.name for file in files}


def test_safetensors_are_taken_with_what_lies_beside_and_nothing_twice() -> None:
    assert names(select(listed(*LLAMA), "m/l")) == {
        *("config.json", "tokenizer.json", "generation_config.json", "README.md", "LICENSE", "USE_POLICY.md"),
        *(
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
        ),
    }


@pytest.mark.parametrize(
    ("there", "taken"),
    [
        (("model.safetensors", "pytorch_model.bin", "tf_model.h5"), {"model.safetensors"}),
        (("pytorch_model.bin", "training_args.bin", "optimizer.pt"), {"pytorch_model.bin"}),
        (
            ("consolidated.safetensors", "model.safetensors", "params.json"),
            {"model.safetensors", "params.json"},
        ),
        (("consolidated.safetensors", "params.json"), {"consolidated.safetensors", "params.json"}),
        (("consolidated.00.pth", "params.json"), {"consolidated.00.pth", "params.json"}),
        (("model.safetensors", "unet/other.safetensors"), {"model.safetensors"}),
        (("unet/a.safetensors", "vae/b.safetensors"), {"unet/a.safetensors", "vae/b.safetensors"}),
        (("model.safetensors", "model-Q4_K_M.gguf"), {"model.safetensors"}),
    ],
)
def test_one_format_of_weights_is_taken(there: tuple[str, ...], taken: set[str]) -> None:
    assert names(select(listed(*there), "a/b")) == taken


def test_small_files_come_first() -> None:
    sizes = [file.size_bytes for file in select(listed(*LLAMA), "m/l")]

    assert sizes == sorted(sizes)


@pytest.mark.parametrize(
    ("asked", "taken"),
    [
        ({}, {"model-Q4_K_M.gguf"}),
        ({"quantization": "q8_0"}, {"model-Q8_0.gguf"}),
        (
            {"quantization": "bf16"},
            {"BF16/model-BF16-00001-of-00002.gguf", "BF16/model-BF16-00002-of-00002.gguf"},
        ),
    ],
)
def test_one_quantization_of_a_gguf_repository_is_taken_with_all_its_parts(
    asked: dict[str, str], taken: set[str]
) -> None:
    assert names(select(listed(*GGUF), "m/g", **asked)) == {*taken, "README.md", "config.json"}  # type: ignore[arg-type]


def test_a_file_that_is_named_is_taken_with_its_other_parts() -> None:
    chosen = select(listed(*GGUF), "m/g", file="BF16/model-BF16-00002-of-00002.gguf")

    assert names(chosen) == {"BF16/model-BF16-00001-of-00002.gguf", "BF16/model-BF16-00002-of-00002.gguf"}


def test_patterns_take_and_leave_files() -> None:
    assert names(select(listed(*GGUF), "m/g", include=["*.gguf"], exclude=["BF16/*", "*Q8*"])) == {
        *("model-Q4_K_M.gguf", "model-IQ2_XXS.gguf", "mmproj-model-f16.gguf")
    }
    assert names(select(listed(*LLAMA), "m/l", exclude=["*.safetensors", "*.md"])) == {
        *(
            "config.json",
            "tokenizer.json",
            "generation_config.json",
            "LICENSE",
            "model.safetensors.index.json",
        )
    }


@pytest.mark.parametrize(
    ("there", "asked", "said", "code"),
    [
        (("a-Q2_K.gguf", "a-Q8_0.gguf"), {}, "it has several quantizations; there are Q2_K, Q8_0", "usage"),
        (GGUF, {"quantization": "Q9_9"}, "it has no quantization Q9_9; there are", "hub_not_found"),
        (GGUF, {"file": "none.gguf"}, "there is no none.gguf in it", "hub_not_found"),
        (GGUF, {"include": ["*.none"]}, "leave none of 9 files", "hub_not_found"),
        (("README.md",), {}, "there are no weights among its 1 files", "hub_not_found"),
        ((), {}, "there are no weights among its 0 files", "hub_not_found"),
        (("model.safetensors",), {"quantization": "Q4_K_M"}, "there is no GGUF model in it", "hub_not_found"),
    ],
)
def test_what_is_not_there_is_said_with_what_is(
    there: tuple[str, ...], asked: dict[str, str], said: str, code: str
) -> None:
    with pytest.raises(PlanError) as caught:
        select(listed(*there), "m/g", **asked)  # type: ignore[arg-type]

    assert said in caught.value.message
    assert caught.value.code == code


def test_a_variant_of_which_a_part_is_missing_is_none() -> None:
    assert variants(listed("a-Q8_0-00001-of-00002.gguf", "a-Q4_0.gguf")) == variants(listed("a-Q4_0.gguf"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf", "Q4_K_M"),
        ("llama-2-7b.q5_0.gguf", "Q5_0"),
        ("gemma-IQ3_XXS.gguf", "IQ3_XXS"),
        ("UD-Q4_K_XL/x-UD-Q4_K_XL-00001-of-00003.gguf", "Q4_K_XL"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
        ("Q8_0/model.gguf", "Q8_0"),
        ("demo.gguf", ""),
    ],
)
def test_a_name_says_how_weights_are_stored(name: str, said: str) -> None:
    assert quantization_of(name) == said


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=12), max_size=4).map("/".join))
def test_a_safe_name_stays_in_its_folder(name: str) -> None:
    folder = Path("/srv/models")
    if is_safe(name):
        resolved = Path(str(folder / name))
        assert folder in resolved.parents
        assert ".." not in resolved.parts


@given(st.lists(st.sampled_from([*LLAMA, *GGUF]), unique=True))
def test_what_is_selected_is_of_the_repository_and_has_weights(there: list[str]) -> None:
    try:
        chosen = select(listed(*there), "a/b")
    except PlanError:
        return

    assert names(chosen) <= set(there)
    assert len(names(chosen)) == len(chosen)
    assert has_weights(chosen) or variants(chosen)
