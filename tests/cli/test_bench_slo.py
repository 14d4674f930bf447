"""`penstock bench --slo config` judges by the objectives that the gateway and its alerts go by."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.simulator.sim_client import Sim

CONFIG = """
[[models]]
name = "m"
engine = "sim"
slo = { ttft = { under = "1m" }, e2e = { under = "2.5s" } }
[[models]]
name = "bare"
engine = "sim"
"""


@pytest.fixture
def url() -> Iterator[str]:
    engine = Sim(model=("m",))
    yield f"http://127.0.0.1:{engine.port}"
    engine.stop()


def test_it_takes_the_limits_of_the_model_in_the_configuration(
    penstock: Command, url: str, folder: Path
) -> None:
    (folder / "penstock.toml").write_text(CONFIG)

    load = ("--requests", "4", "--concurrency", "2", "--output-tokens", "2")
    result = penstock("bench", "run", url, "--model", "m", *load, "--slo", "config", "--json", "--quiet")

    assert json.loads(result.out)["all"]["goodput"]["slo"] == "ttft=60000ms,e2e=2500ms"


@pytest.mark.parametrize(
    ("model", "message"),
    [("bare", "bare has no limits in the configuration"), ("x", "'x' is no model of the")],
)
def test_a_model_without_limits_is_a_mistake(
    penstock: Command, folder: Path, model: str, message: str
) -> None:
    (folder / "penstock.toml").write_text(CONFIG)

    result = penstock("bench", "run", "http://127.0.0.1:9", "--model", model, "--slo", "config")

    assert result.code == 2
    assert message in result.err
    assert "hint: " in result.err
