"""Engines of every kind, started by their own `Launch` and asked over HTTP, for the contract that all of them keep."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.core.config import ModelConfig
from penstock.engines.catalog import SPECS
from penstock.engines.paths import DEMO_FOLDER
from penstock.engines.spec import EngineSpec, Placement
from penstock.engines.vllm import VENV_VARIABLE
from penstock.supervisor.exits import explained
from penstock.supervisor.process import Ended
from penstock.wire.exposition import EngineLoad, read_load, values_of
from tests.e2e.processes import Server, free_port, wait_until

NAME = "penstock-demo"
KEY = "key-of-this-replica"
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
COUNT = "Count from one to one hundred."
PROMPT = f"<|user|>{COUNT}<|end|><|assistant|>"  # as the demo model's template puts it
STORY = "Tell me a long story about a token."
DRAIN_S = 20.0
# A real vLLM imports PyTorch, starts three processes and compiles, on a machine that others use as well.
START_S = 240.0
END_S = 120.0
COUNTER_MAX = 2.0**63

ARGS: Mapping[str, dict[str, object]] = {
    "sim": {"answer_tokens_mean": 400, "base_step_s": 0.002, "jitter": 0.0},
    "llamacpp": {"n_parallel": 4},
    "vllm": {"enforce_eager": True, "max_model_len": 2048, "max_num_seqs": 8},
    "transformers": {"dtype": "float32"},
}
REAL = ("vllm", "transformers")
"""Kinds that are only here where `make test-vllm` has installed them."""

KINDS = tuple(kind for kind in ARGS if kind not in REAL or VENV_VARIABLE in os.environ)
# A stream that goes on until it is stopped.
ENDLESS: Mapping[str, dict[str, object]] = {
    "transformers": {"max_tokens": 1800, "temperature": 2.0},  # it has no ignore_eos
}


def model(kind: str, source: str | None = None) -> ModelConfig:
    """The demo model, or another one."""
    default = "" if kind == "sim" else "demo"
    venv = os.environ.get(VENV_VARIABLE) if kind in REAL else None
    return ModelConfig(name=NAME, engine=kind, source=source or default, venv=venv, engine_args=ARGS[kind])


@dataclass
class Engine(Server):
    """A replica that runs."""

    kind: str = ""

    @property
    def spec(self) -> EngineSpec:
        return SPECS[self.kind]

    def ask(self, path: str = CHAT, **members: Any) -> dict[str, Any]:
        """The plain answer to a greedy request."""
        reply = self.request("POST", path, question(path, **members))
        assert reply.status == 200, reply.body
        answer: dict[str, Any] = reply.json()
        return answer

    @contextmanager
    def stream(self, body: Mapping[str, Any], path: str = CHAT) -> Iterator[Iterator[Any]]:
        """The events of a stream, as they come: parsed, but for `[DONE]`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {**self.headers, "Content-Type": "application/json"}
        try:
            connection.request("POST", path, json.dumps(body), headers)
            response = connection.getresponse()
            assert response.status == 200, response.read()
            assert response.headers["content-type"].startswith("text/event-stream")
            yield _events(response)
        finally:
            connection.close()

    def streamed(self, path: str = CHAT, **members: Any) -> list[Any]:
        """All events of a stream."""
        options = {"include_usage": True}
        with self.stream(question(path, stream=True, stream_options=options, **members), path) as events:
            return list(events)

    def page(self) -> bytes:
        """Its metrics."""
        reply = self.request("GET", self.spec.metrics_path)
        assert reply.status == 200
        return reply.body

    def load(self) -> EngineLoad:
        """What its metrics say of its load."""
        load = read_load(self.page(), self.spec.load)
        assert load is not None
        return load

    def steps(self) -> float:
        """What its metrics count of its steps."""
        return sum(values_of(self.page(), self.spec.steps, COUNTER_MAX))


def question(path: str = CHAT, **members: Any) -> dict[str, Any]:
    """A greedy request."""
    text = members.pop("text", COUNT)
    asked = {"messages": [{"role": "user", "content": text}]} if path == CHAT else {"prompt": PROMPT}
    return {"model": NAME, **asked, "temperature": 0, "max_tokens": 40, **members}


def endless(kind: str) -> dict[str, Any]:
    """A request whose stream lasts for seconds."""
    return question(stream=True, **ENDLESS.get(kind, {"max_tokens": 1500, "ignore_eos": True}))


def text_of(events: list[Any]) -> str:
    """What a stream said."""
    choices = [choice for event in events if event != "[DONE]" for choice in event["choices"]]
    return "".join(one.get("text") or one.get("delta", {}).get("content") or "" for one in choices)


def finish_of(events: list[Any]) -> str | None:
    """Why a stream ended, as its engine says."""
    choices = [choice for event in events if event != "[DONE]" for choice in event["choices"]]
    return next((one["finish_reason"] for one in reversed(choices) if one.get("finish_reason")), None)


def start(config: ModelConfig, log: Path, port: int) -> subprocess.Popen[str]:
    """A replica's process, as the supervisor starts it: by its `Launch`, in a session of its own."""
    launch_of = SPECS[config.engine].launch
    assert launch_of is not None
    launch = launch_of(config, Placement("127.0.0.1", port, KEY, drain_timeout_s=DRAIN_S))
    environ = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", **launch.env}
    with log.open("w") as sink:
        return subprocess.Popen(
            launch.argv, env=environ, stdout=sink, stderr=sink, text=True, start_new_session=True
        )


@contextmanager
def running(kind: str, folder: Path) -> Iterator[Engine]:
    """A replica of the demo model, once it says that it is healthy."""
    port, log = free_port(), folder / f"{kind}.log"
    process = start(model(kind), log, port)
    engine = Engine(process, port, log, {"Authorization": f"Bearer {KEY}"}, kind)
    try:
        wait_until(
            lambda: process.poll() is not None or _is_healthy(engine), f"{kind} to be healthy", START_S
        )
        assert process.poll() is None, log.read_text()[-4000:]
        yield engine
    finally:
        kill(process)


def kill(process: subprocess.Popen[str]) -> None:
    """Ends a replica with all of its processes."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def cause_of(kind: str, code: int, log: Path) -> str:
    """Why it ended, as the supervisor says it."""
    lines = tuple(log.read_text("utf-8", "replace").splitlines())
    return explained(Ended(code, last_lines=lines), SPECS[kind].causes, was_ready=False).sentence


def _is_healthy(engine: Engine) -> bool:
    try:
        return engine.request("GET", engine.spec.health_path).status == 200
    except OSError:
        time.sleep(0.1)
        return False


def _events(response: http.client.HTTPResponse) -> Iterator[Any]:
    while line := response.readline():
        if line.startswith(b"data: "):
            data = line[6:].strip()
            yield data.decode() if data == b"[DONE]" else json.loads(data)


# -- starts that fail -----------------------------------------------------------------------------------


def _missing(folder: Path, _kind: str) -> str:
    return str(folder / "nothing.gguf" if _kind == "llamacpp" else folder / "nothing")


def _damaged(folder: Path, kind: str) -> str:
    if kind == "llamacpp":
        whole = (DEMO_FOLDER / "demo.gguf").read_bytes()
        (folder / "cut.gguf").write_bytes(whole[: len(whole) // 2])
        return str(folder / "cut.gguf")
    for path in (*DEMO_FOLDER.glob("*.json"), *DEMO_FOLDER.glob("*.jinja")):
        (folder / path.name).write_bytes(path.read_bytes())
    whole = (DEMO_FOLDER / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    return str(folder)


def _of_another_format(folder: Path, kind: str) -> str:
    if kind == "llamacpp":
        (folder / "weights.gguf").write_bytes((DEMO_FOLDER / "model.safetensors").read_bytes())
        return str(folder / "weights.gguf")
    return str(DEMO_FOLDER / "demo.gguf")


BAD: Mapping[str, tuple[Callable[[Path, str], str], tuple[str, ...]]] = {
    "missing": (_missing, ("models.N.source",)),
    "damaged": (_damaged, ("damaged or incomplete",)),
    "another-format": (_of_another_format, ("GGUF", "name the model's folder")),
}
"""What `source` names that can't be served, by what is wrong with it; and words of which the cause has one."""
