"""`penstock up --model`: from a name to an answer."""

from __future__ import annotations

import json
import re
import signal
import tomllib
import urllib.request
from pathlib import Path

import pytest

from penstock.engines.paths import DEMO_FOLDER
from penstock.supervisor.ports import free_port
from tests.cli.conftest import Command
from tests.cli.test_pull_command import GGUF, WITHIN_S, Site, site

__all__ = ["site"]
HOST = "127.0.0.1"


def test_a_name_is_chosen_for_pulled_served_and_answers(site: Site) -> None:
    port = free_port(HOST)
    gateway = {
        "PENSTOCK_GATEWAY__LISTEN": f"{HOST}:{port}",
        "PENSTOCK_GATEWAY__ADMIN": f"{HOST}:{free_port(HOST)}",
    }
    process = site.start("up", "--model", GGUF, "--engine", "llamacpp", **gateway)
    assert process.stdout is not None
    banner = ""
    while not banner.endswith("`penstock stop`.\n"):
        line = process.stdout.readline()
        assert line, process.communicate()
        banner += line
    key = re.search(r"sk-penstock-\S+", banner)
    assert key is not None

    # By its short name, and by its whole one.
    answers = [_answer(port, key[0], name) for name in ("tiny", GGUF)]
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=WITHIN_S)

    assert process.returncode == 0
    assert answers[0] == answers[1]
    assert "first" in answers[0]
    assert said.splitlines()[:3] == [
        "engine: llamacpp, as asked for, on the CPU",
        *[
            line
            for line in said.splitlines()
            if line.startswith(("weights: Q4_K_M of 2 variants", "context: 2048"))
        ],
    ]
    assert f"{GGUF}/tiny-Q4_K_M.gguf is whole" in said


def _answer(port: int, key: str, model: str) -> str:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "What is time to first token?"}],
        "max_tokens": 20,
        "temperature": 0,
    }
    request = urllib.request.Request(
        f"http://{HOST}:{port}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
    )
    answer = json.load(urllib.request.urlopen(request, timeout=WITHIN_S))
    return str(answer["choices"][0]["message"]["content"])


def test_what_would_be_configured_is_printed_as_toml_and_nothing_is_fetched(penstock: Command) -> None:
    result = penstock("up", "--model", str(DEMO_FOLDER / "demo.gguf"), "--print-config")

    (entry,) = tomllib.loads(result.out)["models"]
    assert result.code == 0
    assert entry == {
        "name": "demo",
        "engine": "llamacpp",
        "source": str(DEMO_FOLDER / "demo.gguf"),
        "engine_args": {"n_ctx": 2048, "n_parallel": 8},
    }
    assert [line.partition(":")[0] for line in result.err.splitlines()] == ["engine", "weights", "context"]


def test_a_model_beside_those_of_the_configuration_is_refused_with_how_to_add_it(
    penstock: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "penstock.toml").write_text('[[models]]\nname = "mine"\nengine = "sim"\n')

    refused = penstock("up", "--model", "demo")
    printed = penstock("up", "--model", "demo", "--print-config")
    (folder / "penstock.toml").write_text('[log]\nlevel = "info"\n')
    monkeypatch.setenv("MODEL_NAME", "mine")
    by_variable = penstock("up", "--model", "demo")

    assert (refused.code, by_variable.code, printed.code) == (2, 2, 0)
    assert "the configuration has models of its own (mine), which it would replace" in refused.err
    assert "--model demo --print-config >> penstock.toml" in refused.err


def test_options_that_mean_nothing_without_a_model_are_refused(penstock: Command) -> None:
    for arguments in (["--engine", "vllm"], ["--print-config"]):
        result = penstock("up", *arguments)
        assert (result.code, "have no effect without --model" in result.err) == (2, True)
