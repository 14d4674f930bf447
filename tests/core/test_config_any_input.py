import json
import string
from collections.abc import Mapping
from datetime import date
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.core.config_sources import ConfigError, Loaded, Problem, load_config

JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.dates(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KEYS = ["listen", "api_keys", "body_max", "retries_max", "name", "aliases", "engine", "source", "replicas"]
KEYS += ["api_key", "engine_args", "routing", "timeouts", "total", "stall", "level", "keep_alive"]
PLAUSIBLE = JSONISH | st.sampled_from(
    ["a:1", "2s", "3MB", "remote", "sim", "llamacpp", "demo", "http://a:1", "m"]
)
SECTION = st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=6), PLAUSIBLE, max_size=8)
NESTED = st.dictionaries(st.sampled_from(KEYS), PLAUSIBLE | SECTION, max_size=8)
TREES = st.dictionaries(
    st.sampled_from(["gateway", "log", "models", "tenants"]) | st.text(max_size=5),
    NESTED | st.lists(NESTED | JSONISH, max_size=4) | JSONISH,
    max_size=5,
)


def outcome(
    toml: str | None = None, environ: Mapping[str, str] | None = None, dotenv: str | None = None
) -> Loaded | tuple[Problem, ...]:
    try:
        return load_config(
            toml_text=toml,
            toml_name="penstock.toml",
            environ=environ or {},
            dotenv_text=dotenv,
            dotenv_name=".env",
        )
    except ConfigError as error:
        return error.problems


def is_sound(result: Loaded | tuple[Problem, ...]) -> bool:
    """Whether a result is a usable configuration, or at least one problem of one line each."""
    if isinstance(result, Loaded):
        return len(result.config.models) > 0
    return len(result) > 0 and all(len(str(problem).splitlines()) == 1 for problem in result)


def as_toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {as_toml(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_toml, value)) + "]"
    return value.isoformat() if isinstance(value, date) else json.dumps(value).lower()


@settings(max_examples=150, deadline=None)
@given(TREES)
def test_any_data_either_loads_or_is_refused_with_problems(tree: dict[str, Any]) -> None:
    toml = "\n".join(f"{json.dumps(key)} = {as_toml(value)}" for key, value in tree.items())
    environ = {f"PENSTOCK_{key.upper()}": json.dumps(value, default=str) for key, value in tree.items()}

    from_toml, from_variables = outcome(toml), outcome(None, environ)

    assert is_sound(from_toml)
    assert is_sound(from_variables)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60), st.text(max_size=60))
def test_any_text_either_loads_or_is_refused_with_problems(toml: str, dotenv: str) -> None:
    result = outcome(toml, {}, dotenv)

    assert is_sound(result)


NAMES = st.text(alphabet=string.ascii_letters + string.digits + "_", max_size=20)


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(
        NAMES.map("PENSTOCK_".__add__)
        | st.sampled_from(
            ["MODEL_NAME", "MODEL_PATH", "TP_SIZE", "GPU_UTIL", "VLLM_API_KEY", "GATEWAY_API_KEYS"]
        )
        | st.sampled_from(
            ["PENSTOCK_MODELS__0", "PENSTOCK_MODELS__0__SOURCE", "PENSTOCK_MODELS__1__ENGINE_ARGS__X"]
        ),
        st.text(max_size=20) | st.sampled_from(["[", "{}", "[1]", "[" * 9999, "1e999", "9" * 5000, "\udc80"]),
        max_size=5,
    )
)
def test_any_variables_either_load_or_are_refused_with_problems(environ: dict[str, str]) -> None:
    result = outcome(None, environ)

    assert is_sound(result)
