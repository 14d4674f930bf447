import re
from pathlib import Path

import pytest

from penstock.core.config import Config
from penstock.core.config_reference import example_toml, reference_page
from penstock.core.config_seeds import SEEDS
from penstock.core.config_sources import Loaded, load_config, settings, variable_of

ROOT = Path(__file__).parents[2]


def load(toml: str | None = None, dotenv: str | None = None) -> Loaded:
    return load_config(
        toml_text=toml, toml_name="penstock.toml", environ={}, dotenv_text=dotenv, dotenv_name=".env"
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [("penstock.example.toml", example_toml()), ("docs/reference/config.md", reference_page())],
)
def test_the_generated_files_are_up_to_date(name: str, text: str) -> None:
    on_disk = (ROOT / name).read_text(encoding="utf-8")

    assert on_disk == text, "run tools/generate_reference.py"


def test_the_example_as_it_is_changes_nothing() -> None:
    loaded = load(example_toml())

    assert loaded == Loaded(Config())


def test_the_example_loads_with_every_setting_uncommented() -> None:
    toml = re.sub(r"(?m)^# ", "", example_toml())

    loaded = load(toml)

    defaults = Config()
    example = loaded.config
    without_default = {
        "api_keys": (),
        "admin_key": None,
        "trusted_proxies": (),
        "address_requests_per_second": None,
        "address_connections_max": None,
    }
    assert example.gateway.model_copy(update=without_default) == defaults.gateway
    assert example.idempotency == defaults.idempotency
    assert example.usage == defaults.usage
    assert example.log == defaults.log
    assert example.models[0].timeouts == defaults.models[0].timeouts
    assert example.models[0].engine_args
    assert example.tenants[0].name


def test_the_example_and_the_page_have_every_key_and_variable() -> None:
    example, page = example_toml(), reference_page()

    missing = [
        path
        for path, _ in settings()
        if f"# {path[-1]} = " not in example or f"`{variable_of(path)}`" not in page
    ]

    assert missing == []


def test_every_key_has_a_description() -> None:
    undescribed = [path for path, field in settings() if not (field.description or "").endswith(".")]

    assert undescribed == []


def test_the_page_says_what_each_seed_name_becomes() -> None:
    page = reference_page()

    missing = [seed.name for seed in SEEDS if f"| `{seed.name}` | " not in page]

    assert missing == []


def test_the_dotenv_example_changes_nothing_and_loads_with_every_line_uncommented() -> None:
    text = (ROOT / ".env.example").read_text(encoding="utf-8")

    as_it_is = load(dotenv=text)
    uncommented = load(dotenv=re.sub(r"(?m)^# (?=[A-Z_]+=)", "", text).replace("penstock-demo", "org/model"))

    assert as_it_is == Loaded(Config())
    assert uncommented.config.models[0].engine == "vllm"
    assert uncommented.warnings == ()
