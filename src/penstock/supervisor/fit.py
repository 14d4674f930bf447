"""What of the configured vLLM models can't fit into this machine's GPUs, or is not whole, before anything is started.

Silent where it can't be known: without a GPU or a driver, of a model that is not on this disk or of an unknown
family, and with arguments that move memory elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from penstock.core.config import ModelConfig
from penstock.core.errors import PenstockError
from penstock.engines.model_files import describe
from penstock.planner.hardware import Gpu
from penstock.planner.misfit import misfit
from penstock.planner.quantization import METHODS, Method, method, own_method
from penstock.planner.shapes import Architecture, DamagedError, PlanError

ELSEWHERE = ("pipeline_parallel_size", "cpu_offload_gb", "data_parallel_size", "hf_overrides", "load_format")
"""Arguments of vLLM with which its memory is not what is counted here."""

KV_SMALL = ("fp8", "fp8_e4m3", "fp8_e5m2")


def check_fit(
    models: Sequence[ModelConfig],
    gpus: Callable[[], Sequence[Gpu]],
    only: Callable[[ModelConfig], bool] = lambda _: True,
) -> None:
    """Compares each vLLM model that lies on this disk with the GPUs of this machine.

    Args:
        gpus: finds them; raises PenstockError where there are none.
        only: which models are to be started.

    Raises:
        PenstockError: some can't fit; every complaint a line, with its numbers.
    """
    local = [(number, model) for number, model in enumerate(models) if only(model) and _is_local(model)]
    if not local:
        return
    found = _found(gpus)
    complaints = [f"models.{number}.{said}" for number, model in local for said in _complaints(model, found)]
    if complaints:
        raise PenstockError(
            "\n".join(complaints),
            code="models_unusable",
            hint="penstock plan says what is there, and what would fit",
        )


def _is_local(model: ModelConfig) -> bool:
    return model.engine == "vllm" and Path(str(model.source)).expanduser().is_dir()


def _found(gpus: Callable[[], Sequence[Gpu]]) -> Sequence[Gpu]:
    try:
        return gpus()
    except PenstockError:
        return ()


def _complaints(model: ModelConfig, gpus: Sequence[Gpu]) -> Iterator[str]:
    try:
        architecture = describe(str(model.source)).architecture
    except DamagedError as error:
        yield f"source: {error.message}; {error.hint}"
        return
    except PlanError:
        return  # the engine may know more families, and says itself what is wrong with a configuration
    size = model.engine_args.get("tensor_parallel_size", 1)
    if not gpus or type(size) is not int or size < 1 or any(name in model.engine_args for name in ELSEWHERE):
        return
    if size > len(gpus):
        yield f"engine_args.tensor_parallel_size: {size} GPUs are asked for; there {_are(len(gpus))} here"
        return
    yield from _misfit(model, architecture, gpus, size)


def _misfit(model: ModelConfig, architecture: Architecture, gpus: Sequence[Gpu], size: int) -> Iterator[str]:
    args = model.engine_args
    try:
        way = _method(architecture, args.get("quantization"))
    except PlanError:
        return  # as above, of methods
    context, utilization = (
        args.get("max_model_len", architecture.context_max),
        args.get("gpu_memory_utilization", 1.0),
    )
    if type(context) is not int or context < 1 or not isinstance(utilization, int | float):
        return
    name, said = misfit(
        architecture,
        way,
        max(gpus, key=lambda gpu: gpu.memory_mib),
        size,
        context=context,
        utilization=float(utilization),
        small_kv=args.get("kv_cache_dtype") in KV_SMALL,
    )
    if name:
        yield f"engine_args.{name}: {said}"


def _are(count: int) -> str:
    return "is 1" if count == 1 else f"are {count}"


def _method(model: Architecture, asked: object) -> Method:
    """How vLLM will hold the weights: as the files are, in 16 bits, or quantized while loading."""
    if not model.quantized and isinstance(asked, str):
        return method(asked)
    own = own_method(model)
    return METHODS["float16"] if own.name == "float32" else own
