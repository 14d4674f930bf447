"""SGLang: in a virtual environment of its own, in this one, on the PATH, or in a container.

Its facts are read out of the source of SGLang 0.5.23; it needs a GPU.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from penstock.core.config import ModelConfig, TracesConfig
from penstock.engines import container, keyed_module
from penstock.engines.causes import HUB_CAUSES
from penstock.engines.container import image_mistakes, in_image, inside
from penstock.engines.installation import Installation, find
from penstock.engines.options import own_mistakes, words
from penstock.engines.spans import ENDPOINT, span_mistakes, spans_env, spans_of
from penstock.engines.spec import VLLM_MANNER, EngineSpec, Launch, Placement
from penstock.engines.weights import source_of, split_mistakes, weight_mistakes

MODULE = "sglang.launch_server"
SHIM = Path(keyed_module.__file__)

OWN = {
    "host": "Penstock chooses it",
    "port": "Penstock chooses it",
    "api_key": "each replica has a key of its own; models.N.api_key sets one",
    "model": "it is models.N.source",
    "model_path": "it is models.N.source",
    "served_model_name": "it is models.N.name; models.N.aliases adds others",
    "enable_metrics": "it is always on",
    "grpc_mode": "the gateway speaks HTTP to engines",
    "smg_grpc_mode": "the gateway speaks HTTP to engines",
    "ssl_certfile": "the gateway speaks plain HTTP to engines, on loopback",
    "ssl_keyfile": "the gateway speaks plain HTTP to engines, on loopback",
}

ENV = {
    # Its check of health would make a token each time, and take a second; Penstock sends a canary of its own.
    "SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION": "false",
    "PROMETHEUS_DISABLE_CREATED_SERIES": "True",
}


def launch(model: ModelConfig, placement: Placement) -> Launch:
    """The command line of one replica."""
    if model.image:
        command = _command(model, inside(placement), "python3")
        return in_image(command, model, placement, os.environ, reads=(str(SHIM),))
    found = _installation(model)
    return _command(model, placement, str(found.python if found else "python3"))


def _command(model: ModelConfig, placement: Placement, python: str) -> Launch:
    spans = spans_of(model, placement)
    traced = {"enable_trace": True, ENDPOINT: spans.url} if spans else {}
    return Launch(
        argv=(
            *(python, str(SHIM), MODULE, "--model-path", source_of(model), "--served-model-name", model.name),
            *("--host", placement.host, "--port", str(placement.port), "--enable-metrics"),
            *words(
                {**traced, **model.engine_args}, switches=model.engine_args
            ),  # false is its default wherever it is a switch
        ),
        env={
            keyed_module.KEY_VARIABLE: placement.api_key,
            **ENV,
            **placement.gpu_env,
            **(spans_env(spans, "sglang", os.environ) if spans else {}),
        },
    )


def check(model: ModelConfig) -> list[str]:
    """What is wrong with the installation, the weights or the arguments."""
    found = None if model.image else _installation(model)
    if not model.image and (found is None or found.python is None):
        place = f"venv: {model.venv} has no" if model.venv else "engine: there is no"
        return [
            f"{place} SGLang; `pip install sglang` in a virtual environment of its own and set models.N.venv to it"
        ]
    return [
        *image_mistakes(model, os.environ),
        *weight_mistakes(model, "SGLang", takes_gguf=True),
        *split_mistakes(model, "tp_size"),
        *split_mistakes(model, "tensor_parallel_size"),
        *own_mistakes(model.engine_args, OWN),
    ]


def check_spans(model: ModelConfig, traces: TracesConfig) -> Iterator[str]:
    """What keeps it from sending spans of its own."""
    if ENDPOINT not in model.engine_args:
        found = None if model.image else _installation(model)
        yield from span_mistakes(model, traces, found, "pip install 'sglang[tracing]'")


def _installation(model: ModelConfig) -> Installation | None:
    found = find("python3" if model.venv else "sglang", model.venv or "", os.environ)
    return found if found and found.distribution(("sglang",)) else None


SPEC = EngineSpec(
    kind="sglang",
    launch=launch,
    check=check,
    check_spans=check_spans,
    manner=VLLM_MANNER,  # it took over its members
    steps=(b"sglang:realtime_tokens_total",),
    stages=(
        (r"load weight begin", "reading weights"),
        (r"load weight end|memory pool end|kv cache is allocated", "making room for the KV cache"),
        (r"capture (cuda|decode)", "capturing CUDA graphs"),
        (r"fired up and ready", "ready"),
    ),
    causes=(
        *container.CAUSES,
        (
            r"not enough memory\. please try to increase --mem-fraction-static",
            "no memory is left for the KV cache; raise mem_fraction_static, or split the model by tp_size",
        ),
        *HUB_CAUSES,
    ),
)
