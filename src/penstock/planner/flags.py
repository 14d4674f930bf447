"""What to set so that an engine runs as planned."""

from __future__ import annotations

from penstock.planner.hardware import BF16_CAPABILITY
from penstock.planner.plan import Plan

Value = int | float | str

LLAMACPP_ALL_LAYERS = 999
"""As llama.cpp's users say "all layers on the GPU"."""


def engine_args(plan: Plan) -> dict[str, Value]:
    """`engine_args` of the model in penstock.toml; `n_ctx` is there for each of `n_parallel` slots."""
    return _llamacpp(plan) if plan.choice.method.engine == "llamacpp" else _vllm(plan)


def _vllm(plan: Plan) -> dict[str, Value]:
    terms, method, gpu = plan.choice.terms, plan.choice.method, plan.ask.gpu
    args: dict[str, Value] = {
        "tensor_parallel_size": plan.choice.room.gpus,
        "max_model_len": terms.context,
        "max_num_seqs": terms.sequences,
        "max_num_batched_tokens": max(terms.batch_tokens, terms.sequences),
        "gpu_memory_utilization": terms.utilization,
    }
    if method.flag and not plan.model.quantized:
        args["quantization"] = method.flag
    if gpu.capability and gpu.capability < BF16_CAPABILITY and plan.model.dtype != "float16":
        args["dtype"] = "float16"
    if plan.ask.small_kv:
        args["kv_cache_dtype"] = "fp8"
    return args


def _llamacpp(plan: Plan) -> dict[str, Value]:
    args: dict[str, Value] = {
        "n_ctx": plan.choice.terms.context,
        "n_parallel": plan.choice.terms.sequences,
    }
    if not plan.ask.gpu.ram:
        args["n_gpu_layers"] = LLAMACPP_ALL_LAYERS
    if plan.ask.small_kv:
        args |= {"cache_type_k": "q8_0", "cache_type_v": "q8_0"}
    return args
