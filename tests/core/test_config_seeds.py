import pytest
from pydantic import SecretStr

from penstock.core.config_seeds import SEEDS
from penstock.core.config_sources import ConfigError, Loaded, load_config

SEED_ENV_FILE = """\
MODEL_NAME=meta-llama/Llama-3.2-7B-Instruct
HF_TOKEN=hf_secret              # required for gated models
VLLM_API_KEY=change-me
export GATEWAY_API_KEYS=key1,key2

TP_SIZE=2
QUANTIZATION=awq             # fits
GPU_MEMORY_UTILIZATION=0.92
MAX_MODEL_LEN=8192
MAX_NUM_SEQS=64
MODEL_CACHE_DIR="./models"
"""


def load(dotenv: str = "", environ: dict[str, str] | None = None, toml: str | None = None) -> Loaded:
    return load_config(
        toml_text=toml,
        toml_name="penstock.toml",
        environ=environ or {},
        dotenv_text=dotenv,
        dotenv_name=".env",
    )


def test_a_dotenv_file_of_the_seeds_works_as_it_is() -> None:
    loaded = load(SEED_ENV_FILE)

    model = loaded.config.models[0]
    assert (model.name, model.engine) == ("Llama-3.2-7B-Instruct", "vllm")
    assert model.source == "meta-llama/Llama-3.2-7B-Instruct"
    assert model.api_key == SecretStr("change-me")
    assert model.engine_args == {
        "tensor_parallel_size": 2,
        "quantization": "awq",
        "gpu_memory_utilization": 0.92,
        "max_model_len": 8192,
        "max_num_seqs": 64,
        "download_dir": "./models",
    }
    assert [key.get_secret_value() for key in loaded.config.gateway.api_keys] == ["key1", "key2"]
    assert loaded.warnings == ()


@pytest.mark.parametrize(
    ("environ", "name", "engine", "source"),
    [
        ({"MODEL_NAME": "gpt2-medium"}, "gpt2-medium", "vllm", "gpt2-medium"),
        ({"MODEL_NAME": "/models/llama/"}, "llama", "vllm", "/models/llama/"),
        ({"MODEL_NAME": "/models/a.GGUF"}, "a.GGUF", "llamacpp", "/models/a.GGUF"),
        ({"MODEL_NAME": "demo"}, "penstock-demo", "llamacpp", "demo"),
        ({"MODEL_NAME": "penstock-demo"}, "penstock-demo", "llamacpp", "demo"),
        ({"MODEL_PATH": "/models/llama"}, "llama", "vllm", "/models/llama"),
        ({"MODEL_PATH": "demo"}, "penstock-demo", "llamacpp", "demo"),
        ({"MODEL_NAME": "org/llama", "MODEL_PATH": "/mnt/x"}, "llama", "vllm", "/mnt/x"),
    ],
)
def test_model_name_and_model_path_describe_the_first_model(
    environ: dict[str, str], name: str, engine: str, source: str
) -> None:
    model = load("", environ).config.models[0]

    assert (model.name, model.engine, model.source) == (name, engine, source)


def test_model_path_moves_a_model_that_the_file_describes() -> None:
    toml = '[[models]]\nname = "mine"\nengine = "vllm"\nsource = "org/x"\n'

    model = load("", {"MODEL_PATH": "/mnt/x"}, toml).config.models[0]

    assert (model.name, model.engine, model.source) == ("mine", "vllm", "/mnt/x")


def test_quantization_none_is_the_same_as_absent() -> None:
    loaded = load("MODEL_NAME=org/m\nQUANTIZATION=none")

    assert loaded.config.models[0].engine_args == {}
    assert loaded.warnings == ()


@pytest.mark.parametrize("name", [seed.name for seed in SEEDS if seed.engines])
def test_an_option_of_another_engine_is_a_warning(name: str) -> None:
    loaded = load("", {name: "1"})

    assert loaded.warnings == (f"environment {name} has no effect: it does nothing with engine llamacpp",)
    assert loaded.config.models[0].engine_args == {}


def test_the_engine_that_counts_is_the_one_that_the_highest_source_chose() -> None:
    environ = {"PENSTOCK_MODELS__0__ENGINE": "vllm", "PENSTOCK_MODELS__0__SOURCE": "org/m"}

    loaded = load("TP_SIZE=4", environ)

    assert loaded.config.models[0].engine_args == {"tensor_parallel_size": 4}


def test_the_key_of_vllm_is_also_that_of_a_remote_engine() -> None:
    toml = '[[models]]\nname = "m"\nengine = "remote"\nsource = "http://a:1"\n'

    loaded = load("VLLM_API_KEY=k", toml=toml)

    assert loaded.config.models[0].api_key == SecretStr("k")


@pytest.mark.parametrize("name", [seed.name for seed in SEEDS if seed.is_gone])
def test_a_name_without_a_meaning_is_a_warning(name: str) -> None:
    warnings = load(f"{name}=1").warnings

    assert len(warnings) == 1
    assert warnings[0].startswith(f".env {name} has no effect: ")


@pytest.mark.parametrize("name", ["SWAP_SPACE", "SWAP_SPACE_GB"])
def test_the_swap_space_warning_says_what_to_do_instead(name: str) -> None:
    (warning,) = load("", {name: "8"}).warnings

    assert "lower MAX_NUM_SEQS or raise GPU_MEMORY_UTILIZATION instead" in warning


@pytest.mark.parametrize("name", [seed.name for seed in SEEDS])
def test_an_empty_seed_name_says_and_does_nothing(name: str) -> None:
    loaded = load(f"{name}=\n", {name: "  "})

    assert loaded == load()


@pytest.mark.parametrize(
    ("dotenv", "path"),
    [
        ("GPU_UTIL=0.8\nGPU_MEMORY_UTILIZATION=0.9", "models.0.engine_args.gpu_memory_utilization"),
        ("MODEL_CACHE_DIR=/a\nMODEL_DOWNLOAD_DIR=/b", "models.0.engine_args.download_dir"),
        ("MODEL_NAME=demo\nMODEL_PATH=/b", "models.0.source"),
    ],
)
def test_two_names_that_disagree_are_a_mistake(dotenv: str, path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(dotenv)

    assert [problem.path for problem in caught.value.problems] == [path]


def test_two_names_that_agree_are_fine() -> None:
    loaded = load("MODEL_NAME=org/m\nGPU_UTIL=0.9\nGPU_MEMORY_UTILIZATION=0.90")

    assert loaded.config.models[0].engine_args == {"gpu_memory_utilization": 0.9}


def test_a_name_that_penstock_does_not_know_is_a_warning_with_the_nearest_one() -> None:
    warnings = load("TP_SIZ=2\nGRAFANA_PASSWORD=x\nPENSTOCK_HOME=/x").warnings

    assert warnings == (
        ".env TP_SIZ has no effect: Penstock does not know this name; did you mean TP_SIZE?",
        ".env GRAFANA_PASSWORD has no effect: Penstock does not know this name",
        ".env PENSTOCK_HOME has no effect: it is read from the environment only",
    )


def test_a_token_in_the_environment_is_not_taken_from_the_dotenv_file() -> None:
    loaded = load("HF_TOKEN=old", {"HF_TOKEN": "new"})

    assert loaded.engine_environ == {}


@pytest.mark.parametrize(
    "dotenv",
    ["TP_SIZE=0", "TP_SIZE=1.5", "TP_SIZE=-1", "GPU_UTIL=0", "GPU_UTIL=0.0", "GPU_UTIL=1.01", "GPU_UTIL=90"],
)
def test_a_number_out_of_its_range_is_a_mistake(dotenv: str) -> None:
    with pytest.raises(ConfigError, match=r"at least 1|above 0 and up to 1"):
        load(dotenv)
