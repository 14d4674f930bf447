"""The simulated engine: vLLM's API, a service-time model and scripted faults, without a model or a GPU.

It runs as a process of its own, `penstock sim engine`, as every other engine does.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator

from penstock.core.config import ModelConfig
from penstock.engines.spec import VLLM_MANNER, EngineSpec, Launch, Placement

KEY_VARIABLE = "PENSTOCK_SIM_API_KEY"

ARGS: dict[str, type] = {
    "prefill_s_per_token": float,
    "base_step_s": float,
    "step_s_per_seq": float,
    "kv_blocks": int,
    "block_size": int,
    "max_num_seqs": int,
    "max_num_waiting": int,
    "max_num_batched_tokens": int,
    "max_model_len": int,
    "prefix_cache": bool,
    "jitter": float,
    "seed": int,
    "answer_tokens_mean": int,
    "embedding_dimensions": int,
    "fault_rate": list,
    "load_s": float,
    "shutdown_timeout_s": float,
    "keep_alive_s": float,
    "connections_max": int,
    "body_bytes_max": int,
    "request_log_len": int,
}
"""What `engine_args` may set, and its type; `simulator/settings.py` says what each means."""

_TYPE_NAMES = {
    float: "a number",
    int: "a whole number",
    bool: "true or false",
    list: "a list of texts, or one text",
}


def launch(model: ModelConfig, placement: Placement) -> Launch:
    """The command line of one replica."""
    options = [option for name, value in model.engine_args.items() for option in _option(name, value)]
    return Launch(
        argv=(
            *(sys.executable, "-m", "penstock", "sim", "engine"),
            *("--host", placement.host, "--port", str(placement.port), "--model", model.name),
            *options,
        ),
        env={KEY_VARIABLE: placement.api_key},
    )


def _option(name: str, value: object) -> Iterator[str]:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        yield f"--{flag}" if value else f"--no-{flag}"
        return
    for one in value if isinstance(value, list | tuple) else [value]:
        yield f"--{flag}"
        yield str(one)


def check(model: ModelConfig) -> list[str]:
    """What is wrong with the arguments; their ranges are the simulated engine's own to check."""
    return list(_mistakes(model))


def _mistakes(model: ModelConfig) -> Iterator[str]:
    for name, value in model.engine_args.items():
        wanted = ARGS.get(name)
        if wanted is None:
            near = difflib.get_close_matches(name, ARGS, n=1, cutoff=0.0)
            yield f"engine_args.{name}: sim has no such argument; did you mean {near[0]}?"
        elif not _fits(value, wanted):
            yield f"engine_args.{name}: expected {_TYPE_NAMES[wanted]}, found {value!r}"


def _fits(value: object, wanted: type) -> bool:
    if wanted is bool:
        return isinstance(value, bool)
    if wanted is list:
        texts = value if isinstance(value, list | tuple) else [value]
        return all(isinstance(text, str) for text in texts)
    return isinstance(value, (int, float) if wanted is float else wanted) and not isinstance(value, bool)


STEPS = (b"vllm:iteration_tokens_total_count",)

SPEC = EngineSpec(kind="sim", launch=launch, check=check, manner=VLLM_MANNER, steps=STEPS)
