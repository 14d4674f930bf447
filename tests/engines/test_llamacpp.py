"""The embedded engine: its command line, what it complains of, and the real thing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock.core.config import ModelConfig
from penstock.engines import llamacpp, remote
from penstock.engines.llamacpp_server import arguments, params
from penstock.engines.spec import Placement
from penstock.supervisor.ports import free_port
from penstock.wire.resume import Manner
from penstock.wire.tokenize import tokens_in

KEY = "secret-of-the-replica"
WITHIN_S = 60.0


def model(source: str = "demo", **engine_args: object) -> ModelConfig:
    """A model for llama.cpp."""
    return ModelConfig(name="penstock-demo", engine="llamacpp", source=source, engine_args=engine_args)


def post(port: int, path: str, body: dict[str, Any], key: str = KEY) -> Any:
    """The JSON answer of the engine."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=WITHIN_S) as reply:
        return json.load(reply)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[ModelConfig, int], subprocess.Popen[str]]]:
    """Starts a replica; it is killed after the test if it still runs."""
    started: list[subprocess.Popen[str]] = []

    def replica(config: ModelConfig, port: int) -> subprocess.Popen[str]:
        launch = llamacpp.launch(config, Placement("127.0.0.1", port, KEY))
        with (tmp_path / "err").open("w") as err:
            process = subprocess.Popen(
                launch.argv, env={**os.environ, **launch.env}, stdout=subprocess.PIPE, stderr=err, text=True
            )
        started.append(process)
        return process

    yield replica
    for process in started:
        process.kill()
        process.communicate()


def test_the_key_is_in_the_environment_and_not_on_the_command_line() -> None:
    launch = llamacpp.launch(model(), Placement("127.0.0.1", 41231, KEY))

    assert launch.env["PENSTOCK_INTERNAL_ENGINE_KEY"] == KEY
    assert KEY not in " ".join(launch.argv)


def test_every_argument_of_the_engine_is_an_option_of_its_process() -> None:
    values = {int: 4, bool: True, str: "f16"}
    special = {"flash_attn": "on", "pooling": "mean", "n_parallel": 2}
    args = {name: special.get(name, values[kind]) for name, kind in llamacpp.ARGS.items()}

    argv = llamacpp.launch(model(**args), Placement("127.0.0.1", 41231, KEY)).argv
    options = arguments().parse_args(argv[3:])

    assert llamacpp.check(model(**args)) == []
    assert params(options, KEY).n_parallel == 2


def test_the_context_is_meant_for_each_slot() -> None:
    options = arguments().parse_args(["--model-path", "x", "--alias", "x", "--port", "1", "--n-ctx", "100"])

    made = params(options, "")

    assert made.n_ctx == 100 * made.n_parallel
    assert list(made.api_keys) == []


def test_an_unknown_cache_type_is_refused() -> None:
    options = arguments().parse_args(
        ["--model-path", "x", "--alias", "x", "--port", "1", "--cache-type-k", "q9"]
    )

    with pytest.raises(ValueError, match=r"--cache-type-k: llama\.cpp has no type 'q9'"):
        params(options, "")


def test_an_unknown_argument_is_answered_with_the_nearest() -> None:
    assert llamacpp.check(model(n_cxt=1)) == [
        "engine_args.n_cxt: llamacpp has no such argument; did you mean n_ctx?"
    ]
    assert "known: n_ctx, " in llamacpp.check(model(zzz=1))[0]


@pytest.mark.parametrize(
    ("name", "value"), [("n_ctx", "many"), ("n_ctx", True), ("embeddings", 1), ("pooling", 2)]
)
def test_an_argument_of_another_type_is_refused(name: str, value: object) -> None:
    (mistake,) = llamacpp.check(model(**{name: value}))

    assert mistake.startswith(f"engine_args.{name}: expected ")


def test_a_file_that_is_no_model_is_refused_before_the_start(tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("hello")
    (tmp_path / "folder.gguf").mkdir()

    mistakes = [
        llamacpp.check(model(str(tmp_path / name)))[0] for name in ("text.gguf", "folder.gguf", "no.gguf")
    ]

    assert "is not a GGUF file" in mistakes[0]
    assert "can't be read: is a directory" in mistakes[1]
    assert "does not exist" in mistakes[2]


@pytest.mark.parametrize("source", ["owner/repo:Q4_K_M", "owner/repo/tiny-Q4_K_M.gguf"])
def test_a_name_of_the_hub_is_looked_for_in_its_cache(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    (before,) = llamacpp.check(model(source))
    repo, commit = tmp_path / "models--owner--repo", "a" * 40
    file = repo / "snapshots" / commit / "tiny-Q4_K_M.gguf"
    file.parent.mkdir(parents=True)
    file.symlink_to(llamacpp.DEMO_FILE)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)

    assert before == f"source: {source} is not on this disk; `penstock pull {source}` fetches it"
    assert llamacpp.check(model(source)) == []
    assert llamacpp.model_path(model(source)) == file


def test_the_demo_model_chats_embeds_and_ends_when_asked_amid_an_answer(
    start: Callable[[ModelConfig, int], subprocess.Popen[str]],
) -> None:
    port = free_port("127.0.0.1")
    process = start(model(), port)
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    question = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}

    chat = post(port, "/v1/chat/completions", question)
    embedding = post(port, "/v1/embeddings", {"input": "Hello " * 200})
    with pytest.raises(urllib.error.HTTPError, match="401"):
        post(port, "/v1/chat/completions", question, key="wrong")
    endless = {**question, "max_tokens": 2000, "ignore_eos": True, "stream": True}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        json.dumps(endless).encode(),
        {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=WITHIN_S) as stream:
        stream.readline()
        process.send_signal(signal.SIGTERM)
        code = process.wait(WITHIN_S)

    assert address == f"http://127.0.0.1:{port}"
    assert chat["choices"][0]["message"]["content"]
    assert chat["model"] == "penstock-demo"
    assert len(embedding["data"][0]["embedding"]) > 0
    assert code == 0


@pytest.mark.parametrize("manner", [llamacpp.SPEC.manner, remote.SPEC.manner], ids=["llamacpp", "remote"])
def test_its_tokenizer_counts_what_it_has_written(
    start: Callable[[ModelConfig, int], subprocess.Popen[str]], manner: Manner
) -> None:
    port = free_port("127.0.0.1")
    process = start(model(), port)
    assert process.stdout is not None
    process.stdout.readline()
    question = {"messages": [{"role": "user", "content": "Count from one to one hundred."}], "temperature": 0}
    chat = post(port, "/v1/chat/completions", {**question, "max_tokens": 60})
    assert manner.tokenizer is not None

    body = manner.tokenizer.body("penstock-demo", chat["choices"][0]["message"]["content"])
    counted = tokens_in(json.dumps(post(port, manner.tokenizer.path, json.loads(body))).encode())

    assert counted == chat["usage"]["completion_tokens"] == 60


def test_a_damaged_model_ends_with_one_sentence(
    start: Callable[[ModelConfig, int], subprocess.Popen[str]], tmp_path: Path
) -> None:
    (tmp_path / "cut.gguf").write_bytes(llamacpp.DEMO_FILE.read_bytes()[:200_000])

    process = start(model(str(tmp_path / "cut.gguf")), free_port("127.0.0.1"))
    code = process.wait(WITHIN_S)

    lines = (tmp_path / "err").read_text().splitlines()
    assert code == 1
    # llama.cpp writes its own log beside us, and may have the last word
    assert sum(line.startswith("error: llama.cpp can't serve ") for line in lines) == 1
    assert not any("Traceback" in line for line in lines)
