"""vLLM, installed by its owner: on the PATH, or in the virtual environment `PENSTOCK_VLLM_VENV`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from penstock.core.config import ModelConfig
from penstock.engines.spec import VLLM_MANNER, EngineSpec, Launch, Placement

VENV_VARIABLE = "PENSTOCK_VLLM_VENV"
KEY_VARIABLE = "VLLM_API_KEY"
SHUTDOWN_TIMEOUT_S = 20  # without it vLLM cuts or hangs the streams that are open at SIGTERM

REMOVED_ARGS = {
    "swap_space": "vLLM V1 preempts by recomputation and needs no swap; leave it out",
    "disable_log_requests": "requests are not logged by default; set enable_log_requests to log them",
    "num_scheduler_steps": "V1's scheduler needs no multi-step mode; leave it out",
    "use_v2_block_manager": "V1 has one block manager; leave it out",
}
OWN_ARGS = {
    "host": "Penstock chooses it",
    "port": "Penstock chooses it",
    "api_key": "Penstock makes one for each replica",
    "model": "it is models.N.source",
    "served_model_name": "it is models.N.name",
}


def launch(model: ModelConfig, placement: Placement) -> Launch:
    """The command line of one replica."""
    return Launch(
        argv=(
            *(executable() or "vllm", "serve", str(model.source)),
            *("--host", placement.host, "--port", str(placement.port)),
            *("--served-model-name", model.name),
            *_default_args(model.engine_args),
            *(word for name, value in model.engine_args.items() for word in _words(name, value)),
        ),
        env={KEY_VARIABLE: placement.api_key},
    )


def check(model: ModelConfig) -> list[str]:
    """What is wrong with the installation or the arguments."""
    mistakes = []
    if executable() is None:
        mistakes.append(
            "engine: vllm is not installed; `pip install vllm` in a virtual environment of its own "
            f"and set {VENV_VARIABLE} to that folder"
        )
    for name in model.engine_args:
        if name in REMOVED_ARGS:
            mistakes.append(f"engine_args.{name}: vLLM no longer has it; {REMOVED_ARGS[name]}")
        elif name in OWN_ARGS:
            mistakes.append(f"engine_args.{name}: not for you to set: {OWN_ARGS[name]}")
    return mistakes


def executable() -> str | None:
    """The `vllm` command, or None."""
    venv = os.environ.get(VENV_VARIABLE, "")
    return shutil.which("vllm", path=str(Path(venv) / "bin")) if venv else shutil.which("vllm")


def _default_args(args: Mapping[str, object]) -> tuple[str, ...]:
    if "shutdown_timeout" in args:
        return ()
    return ("--shutdown-timeout", str(SHUTDOWN_TIMEOUT_S))


def _words(name: str, value: object) -> Iterator[str]:
    flag = name.replace("_", "-")
    if value is True:
        yield f"--{flag}"
    elif value is False:
        yield f"--no-{flag}"
    elif isinstance(value, list):
        yield f"--{flag}"
        yield from map(str, value)
    else:
        yield from (f"--{flag}", str(value))


STEPS = (b"vllm:iteration_tokens_total_count",)

# Of its log, 0.32, in the order in which they come.
STAGES = (
    (r"Resolved architecture: ", "starting its engine"),
    (r"Initializing a V1 LLM engine", "starting its workers"),
    (r"Starting to load model ", "loading the model"),
    (r"checkpoint shards: +(\d+)% Completed", r"loading weights, \1 %"),
    (r"Prefetching checkpoint files: (\d+)%", r"reading weights, \1 %"),
    (r"Loading weights took ", "weights are loaded"),
    (r"Starting torch\.compile|Dynamo bytecode transform|[Cc]ompile and warming up", "compiling"),
    (r"Warming up model", "warming up"),
    (r"KV cache size: ", "warming up"),
    (r"Capturing CUDA graphs[^%]*?(\d+)%", r"capturing CUDA graphs, \1 %"),
    (r"init engine \(profile", "starting its server"),
)

SPEC = EngineSpec(kind="vllm", launch=launch, check=check, manner=VLLM_MANNER, steps=STEPS, stages=STAGES)
