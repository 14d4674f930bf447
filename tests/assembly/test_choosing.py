"""How a name becomes an entry of the configuration, on machines of several kinds."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock.assembly.choosing import Machine, Served, choose, toml
from penstock.assembly.pulling import Wanted, prepare
from penstock.core.config import ModelConfig
from penstock.core.errors import PenstockError
from penstock.engines.hub import Hub, HubName
from penstock.engines.paths import DEMO_FOLDER
from penstock.planner.hardware import GIB, main_memory, parse_gpus
from tests.engines.hub_look_alike import LookAlike, Repo, folder, serving
from tests.planner.models import FOLDER

DEMO = folder(DEMO_FOLDER)
PLAIN = {name: data for name, data in DEMO.items() if not name.endswith(".gguf")}
_, A6000 = parse_gpus("A6000")
CPU = Machine((), main_memory(16 * GIB), vllm=False)
CPU_VLLM = Machine((), main_memory(16 * GIB), vllm=True)
CPU_SLOW = Machine((), main_memory(16 * GIB), vllm=False, transformers=True)
GPU = Machine((A6000, A6000), main_memory(64 * GIB), vllm=True)
GPU_ALONE = Machine((A6000,), main_memory(64 * GIB), vllm=False)


@pytest.fixture
def look() -> Iterator[LookAlike]:
    ggufs = {
        f"tiny-{kind}.gguf": DEMO["demo.gguf"] + bytes(more) for more, kind in enumerate(("Q8_0", "Q4_K_M"))
    }
    config = (FOLDER / "llama-3.1-8b.json").read_bytes()
    with serving(
        LookAlike(
            {
                "acme/tiny": Repo(PLAIN),
                "acme/tiny-GGUF": Repo(ggufs),
                "acme/both": Repo({**PLAIN, **ggufs}),
                "meta/Llama-3.1-8B": Repo({"config.json": config, "model.safetensors": bytes(200)}),
                "acme/none": Repo({"README.md": b"soon"}),
            }
        )
    ) as made:
        yield made


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"HF_HOME": str(tmp_path / "hf")}


def chosen(
    look: LookAlike, environ: dict[str, str], name: str, machine: Machine, engine: str | None = None
) -> Served:
    found = choose(name, engine, machine, Hub(endpoint=look.url), environ)
    # Whatever is chosen is an entry that somebody could have written.
    ModelConfig.model_validate(tomllib.loads(toml(found.entry))["models"][0])
    assert len(found.reasons) == 3
    return found


@pytest.mark.parametrize(
    ("name", "machine", "asked", "engine", "source"),
    [
        ("acme/tiny-GGUF", CPU, None, "llamacpp", "acme/tiny-GGUF/tiny-Q4_K_M.gguf"),
        ("acme/tiny-GGUF:Q8_0", CPU, None, "llamacpp", "acme/tiny-GGUF/tiny-Q8_0.gguf"),
        ("acme/tiny-GGUF/tiny-Q8_0.gguf", CPU, None, "llamacpp", "acme/tiny-GGUF/tiny-Q8_0.gguf"),
        ("acme/tiny-GGUF", GPU, None, "llamacpp", "acme/tiny-GGUF/tiny-Q4_K_M.gguf"),
        ("acme/both", CPU, None, "llamacpp", "acme/both/tiny-Q4_K_M.gguf"),
        ("acme/both", GPU, None, "vllm", "acme/both"),
        ("acme/both", GPU_ALONE, None, "llamacpp", "acme/both/tiny-Q4_K_M.gguf"),
        ("acme/both", GPU, "llamacpp", "llamacpp", "acme/both/tiny-Q4_K_M.gguf"),
        ("acme/tiny", GPU, None, "vllm", "acme/tiny"),
        ("acme/tiny", CPU_VLLM, "vllm", "vllm", "acme/tiny"),
        ("acme/tiny", CPU_SLOW, None, "transformers", "acme/tiny"),
        ("acme/both", CPU_SLOW, None, "llamacpp", "acme/both/tiny-Q4_K_M.gguf"),
        ("acme/both", GPU, "transformers", "transformers", "acme/both"),
        ("demo", CPU, None, "llamacpp", "demo"),
        ("demo", GPU, None, "llamacpp", "demo"),
    ],
)
def test_the_engine_suits_the_machine_and_the_files(
    look: LookAlike,
    environ: dict[str, str],
    name: str,
    machine: Machine,
    asked: str | None,
    engine: str,
    source: str,
) -> None:
    found = chosen(look, environ, name, machine, asked)

    assert (found.entry["engine"], found.entry["source"]) == (engine, source)
    assert found.wanted == (None if name == "demo" else Wanted(_hub_name(source)))


def _hub_name(source: str) -> HubName:
    owner, repo, *file = source.split("/")
    return HubName(f"{owner}/{repo}", file="/".join(file))


def test_a_model_is_served_under_its_short_and_its_whole_name(
    look: LookAlike, environ: dict[str, str]
) -> None:
    entry = chosen(look, environ, "acme/tiny-GGUF", CPU).entry

    assert (entry["name"], entry["aliases"]) == ("tiny", ["acme/tiny-GGUF"])
    assert toml(entry) == (
        '[[models]]\nname = "tiny"\naliases = ["acme/tiny-GGUF"]\nengine = "llamacpp"\n'
        'source = "acme/tiny-GGUF/tiny-Q4_K_M.gguf"\nengine_args = { n_ctx = 2048, n_parallel = 8 }'
    )


def test_the_reasons_say_what_was_found_and_what_fits(look: LookAlike, environ: dict[str, str]) -> None:
    engine, weights, context = chosen(look, environ, "acme/tiny-GGUF", CPU).reasons
    assert engine == "engine: llamacpp, on the CPU, as there is no GPU here"
    assert weights == "weights: Q4_K_M of 2 variants, 0.01 GiB of 16.0 GiB of RAM"
    assert context.startswith(
        "context: 2048 tokens of 2048 that it was trained for; 8 sequences at once, of 35"
    )
    engine, weights, context = chosen(look, environ, "meta/Llama-3.1-8B", GPU).reasons
    assert engine == "engine: vllm, as 2 x RTX A6000 and vLLM are here"
    assert weights.startswith("weights: bfloat16, as stored, 15.0 GiB on 1 of 2 x RTX A6000")
    assert context.startswith("context: 32768 tokens of 131072")


def test_what_is_in_the_cache_is_chosen_without_the_hub(look: LookAlike, environ: dict[str, str]) -> None:
    for name in ("acme/tiny", "acme/tiny-GGUF"):
        pull = prepare(Wanted(HubName(name)), Hub(endpoint=look.url), environ, verify=False)
        pull.download.run(lambda: None)
    look.seen.clear()

    gguf, plain = chosen(look, environ, "acme/tiny-GGUF", CPU), chosen(look, environ, "acme/tiny", GPU)

    assert gguf.entry["source"] == "acme/tiny-GGUF/tiny-Q4_K_M.gguf"
    assert plain.entry["source"] == "acme/tiny"
    assert (gguf.wanted, plain.wanted, look.seen) == (None, None, [])


def test_files_that_were_left_on_the_hub_are_chosen_where_the_cached_ones_do_not_do(
    look: LookAlike, environ: dict[str, str]
) -> None:
    wanted = chosen(look, environ, "acme/both", GPU).wanted
    assert wanted is not None
    prepare(wanted, Hub(endpoint=look.url), environ, verify=False).download.run(lambda: None)

    assert chosen(look, environ, "acme/both", CPU).entry["source"] == "acme/both/tiny-Q4_K_M.gguf"
    assert chosen(look, environ, "acme/both", GPU).wanted is None


def test_folders_and_files_of_this_disk_are_served_too(
    look: LookAlike, environ: dict[str, str], tmp_path: Path
) -> None:
    ours = tmp_path / "my model"
    ours.mkdir()
    (ours / "x-Q4_K_M.gguf").write_bytes(DEMO["demo.gguf"])
    (ours / "x-Q8_0.gguf").write_bytes(DEMO["demo.gguf"])

    by_folder, by_file = (
        chosen(look, environ, str(path), CPU).entry for path in (ours, ours / "x-Q8_0.gguf")
    )
    plain = chosen(look, environ, str(DEMO_FOLDER), GPU).entry

    assert (by_folder["name"], by_folder["source"]) == ("my-model", str(ours / "x-Q4_K_M.gguf"))
    assert (by_file["name"], by_file["source"]) == ("x-Q8_0", str(ours / "x-Q8_0.gguf"))
    assert (plain["engine"], plain["source"]) == ("vllm", str(DEMO_FOLDER))
    assert "aliases" not in by_file


@pytest.mark.parametrize(
    ("name", "machine", "asked", "said", "hint"),
    [
        (
            *("acme/tiny", CPU, None),
            "there is no GPU here, and llama.cpp needs GGUF files, of which it has none",
            "others have made some: penstock up --model acme/tiny-GGUF",
        ),
        ("acme/tiny", CPU_VLLM, None, "there is no GPU here", "or --engine vllm, which runs on a CPU"),
        ("acme/tiny", GPU_ALONE, None, "vLLM is not found", "or install vLLM and set PENSTOCK_VLLM_VENV"),
        ("acme/tiny", GPU, "llamacpp", "llama.cpp needs GGUF files, and it has none", "acme/tiny-GGUF"),
        ("meta/Llama-3.1-8B", CPU, None, "there is no GPU here", "name a GGUF repository or file of it"),
        ("acme/tiny-GGUF", GPU, "vllm", "vLLM serves no GGUF files", "leave --engine out for llama.cpp"),
        ("acme/none", GPU, None, "there are no weights in it", "name another model"),
        ("acme/missing", CPU, None, "there is no acme/missing on the Hub", "check the spelling"),
        (
            "acme/tiny-GGUF:Q3_K_S",
            CPU,
            None,
            "it has no quantization Q3_K_S; there are Q8_0, Q4_K_M",
            "name one",
        ),
        (
            "missing",
            CPU,
            None,
            "there is no such file or folder, and it is no name of the Hub",
            "name owner/model",
        ),
        (
            *("acme/tiny", CPU, None),
            "llama.cpp needs GGUF files",
            "; or, for the slowest engine, which serves it as it is: pip install torch accelerate",
        ),
        (
            "acme/tiny-GGUF",
            CPU_SLOW,
            "transformers",
            "Transformers serves no GGUF files",
            "leave --engine out",
        ),
        (
            *("acme/tiny", GPU, "remote"),
            "--engine: expected llamacpp or vllm or transformers, found 'remote'",
            "",
        ),
    ],
)
def test_what_can_not_be_served_here_is_said_with_what_to_do(
    look: LookAlike,
    environ: dict[str, str],
    name: str,
    machine: Machine,
    asked: str | None,
    said: str,
    hint: str,
) -> None:
    with pytest.raises(PenstockError) as caught:
        chosen(look, environ, name, machine, asked)

    assert said in caught.value.message
    assert hint in caught.value.hint


def test_a_folder_that_is_half_there_is_said_so(
    look: LookAlike, environ: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_bytes(DEMO["config.json"])
    (tmp_path / "a.safetensors").write_bytes(DEMO["model.safetensors"])
    index: dict[str, Any] = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))

    with pytest.raises(PenstockError, match="1 of 2 files are missing"):
        chosen(look, environ, str(tmp_path), GPU)


def test_this_machine_is_looked_at() -> None:
    here = Machine.here({"CUDA_VISIBLE_DEVICES": ""})

    assert here.gpus == ()
    assert here.memory.ram
    assert here.memory.free_bytes > 0
