"""vLLM: in a virtual environment of its own, in this one, on the PATH, or in a container.

What starts it is here. `vllm_installation` finds which vLLM that is, `vllm_arguments` knows what it takes, `vllm_log`
what its log means.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from penstock.core.config import ModelConfig, TracesConfig
from penstock.engines import container
from penstock.engines.container import ENGINE_CACHE, FOREIGN, image_mistakes, in_image, inside
from penstock.engines.options import words
from penstock.engines.spans import ENDPOINT, span_mistakes, spans_env, spans_of
from penstock.engines.spec import VLLM_MANNER, EngineSpec, Launch, Placement
from penstock.engines.vllm_architectures import architecture_mistakes
from penstock.engines.vllm_arguments import mistakes, warnings
from penstock.engines.vllm_installation import VENV_VARIABLE, Vllm, vllm_of
from penstock.engines.vllm_log import CAUSES, STAGES
from penstock.engines.weights import source_of, split_mistakes, weight_mistakes

__all__ = ["SPEC", "VENV_VARIABLE", "check", "launch", "warn"]

KEY_VARIABLE = "VLLM_API_KEY"
SHUTDOWN_TIMEOUT_SINCE = (0, 18)
GGUF_UNTIL = (0, 24)  # from then on it needs a plugin

ENV: Mapping[str, str] = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "PROMETHEUS_DISABLE_CREATED_SERIES": "True",  # half of its page otherwise
}
_PARALLEL = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")


def launch(model: ModelConfig, placement: Placement) -> Launch:
    """The command line of one replica."""
    vllm = vllm_of(model) or Vllm("vllm")
    if model.image:
        return in_image(_command(model, inside(placement), vllm, {}), model, placement, os.environ)
    return _command(model, placement, vllm, os.environ)


def check(model: ModelConfig) -> list[str]:
    """What is wrong with the installation, the weights or the arguments."""
    vllm = vllm_of(model)
    if vllm is None:
        return [_missing(model)]
    takes_gguf = vllm.may_have_more or (vllm.version is not None and vllm.version < GGUF_UNTIL)
    return [
        *image_mistakes(model, os.environ),
        *weight_mistakes(model, vllm.name, takes_gguf=takes_gguf),
        *split_mistakes(model, "tensor_parallel_size"),
        *architecture_mistakes(model, vllm),
        *mistakes(model.engine_args, vllm),
    ]


def warn(model: ModelConfig) -> list[str]:
    """What of the arguments has no effect, and what this vLLM lacks."""
    vllm = vllm_of(model)
    if vllm is None:
        return []
    said = list(warnings(model.engine_args, vllm))
    if not _can_drain(vllm):
        said.append(f"engine: {vllm.name} cuts its streams when it is stopped; 0.18 and newer finish them")
    return said


def check_spans(model: ModelConfig, traces: TracesConfig) -> Iterator[str]:
    """What keeps it from sending spans of its own."""
    vllm = vllm_of(model)
    if vllm is None or ENDPOINT in model.engine_args:
        return
    yield from span_mistakes(model, traces, vllm.sources, "pip install opentelemetry-exporter-otlp")
    if vllm.arguments and ENDPOINT not in vllm.arguments:
        yield f"engine: {vllm.name} has no {ENDPOINT}, which traces.engines needs; set that to false"
    if model.engine_args.get("disable_log_stats") is True:
        yield (
            f"engine_args.disable_log_stats: {vllm.name} makes its spans of these figures, and breaks without them; "
            "leave it out, or set traces.engines to false"
        )


def _command(model: ModelConfig, placement: Placement, vllm: Vllm, environ: Mapping[str, str]) -> Launch:
    switches = {name for name, is_switch in vllm.arguments.items() if is_switch}
    spans = spans_of(model, placement)
    return Launch(
        argv=(
            *(word for name in FOREIGN if name in environ for word in ("env", "-u", name)),
            *(vllm.command, "serve", source_of(model)),
            *("--host", placement.host, "--port", str(placement.port)),
            *("--served-model-name", model.name),
            *(("--shutdown-timeout", str(placement.drain_s)) if _can_drain(vllm) else ()),
            *((f"--{ENDPOINT}".replace("_", "-"), spans.url) if spans else ()),
            *words(model.engine_args, switches),
        ),
        env={
            KEY_VARIABLE: placement.api_key,
            **ENV,
            **placement.gpu_env,
            **_defaults(model, environ),
            **(spans_env(spans, "vllm", os.environ) if spans else {}),
        },
    )


def _can_drain(vllm: Vllm) -> bool:
    """Whether its streams can finish after SIGTERM; a version that is not known is taken for a new one."""
    if vllm.arguments:
        return "shutdown_timeout" in vllm.arguments
    return vllm.version is None or vllm.version >= SHUTDOWN_TIMEOUT_SINCE


def _defaults(model: ModelConfig, environ: Mapping[str, str]) -> dict[str, str]:
    """Variables that its owner may set otherwise."""
    cache = environ.get("XDG_CACHE_HOME") or str(Path(environ.get("HOME", "/root")) / ".cache")
    chosen = {"TRITON_CACHE_DIR": f"{ENGINE_CACHE if model.image else f'{cache}/penstock'}/triton"}
    if any(model.engine_args.get(name, 1) != 1 for name in _PARALLEL):
        chosen["TORCH_NCCL_BLOCKING_WAIT"] = "1"  # or the others wait without end for a GPU that has failed
    return {name: value for name, value in chosen.items() if name not in environ}


def _missing(model: ModelConfig) -> str:
    if model.venv:
        return f"venv: {model.venv} has no bin/vllm; `pip install vllm` there, or name another environment"
    return (
        "engine: vllm is not installed; `pip install vllm` in a virtual environment of its own "
        f"and set models.N.venv or {VENV_VARIABLE} to that folder, or set models.N.image"
    )


SPEC = EngineSpec(
    kind="vllm",
    launch=launch,
    check=check,
    warn=warn,
    check_spans=check_spans,
    manner=VLLM_MANNER,
    # One more for each step of which tokens came; it stands still where EngineCore does.
    steps=(b"vllm:iteration_tokens_total_count",),
    stages=STAGES,
    causes=(*container.CAUSES, *CAUSES),
)
