"""What of the configured models can't be had, is not whole, or can't fit into this machine's GPUs, before anything is
started.

Silent where it can't be known: without a GPU or a driver, of an unknown family, with arguments that move memory
elsewhere, and of a model that is only on the Hub where that can't be asked.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from penstock.core.config import ModelConfig
from penstock.core.errors import PenstockError
from penstock.engines.hub import HubName, parse_name
from penstock.engines.model_files import cached, describe
from penstock.engines.paths import path_of
from penstock.planner.hardware import Gpu
from penstock.planner.misfit import misfit, undivided
from penstock.planner.quantization import METHODS, Method, method, own_method
from penstock.planner.shapes import Architecture, DamagedError, PlanError

ELSEWHERE = ("pipeline_parallel_size", "cpu_offload_gb", "data_parallel_size", "hf_overrides", "load_format")
"""Arguments of vLLM with which its memory is not what is counted here."""

FROM_HUB = ("vllm", "transformers", "sglang")
"""Engines that take names of the Hub, and have what is missing downloaded by themselves."""

_OLD_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}")
"""Of a model of the Hub's first days, which it still finds without an owner."""

KV_SMALL = ("fp8", "fp8_e4m3", "fp8_e5m2")


def check_fit(
    models: Sequence[ModelConfig],
    gpus: Callable[[], Sequence[Gpu]],
    only: Callable[[ModelConfig], bool] = lambda _: True,
    lacking: Callable[[HubName, str | None], str] = lambda *_: "",
    cache: Mapping[str, str] = os.environ,
) -> None:
    """Looks for each model, and compares each one of vLLM's that lies on this disk with the GPUs of this machine.

    Args:
        gpus: finds them; raises PenstockError where there are none.
        only: which models are to be started.
        lacking: says why a model at some revision can't be had from the Hub; nothing where it can, or may.
        cache: says where the Hub's cache is.

    Raises:
        PenstockError: some can't fit; every complaint a line, with its numbers.
    """
    complaints: list[str] = []
    local: list[tuple[int, ModelConfig, Path]] = []
    for number, model in enumerate(models):
        if not only(model) or model.engine not in FROM_HUB:
            continue
        here, said = _looked_for(model, lacking, cache)
        complaints += [f"models.{number}.source: {said}"] if said else []
        if here is not None and model.engine == "vllm":
            local.append((number, model, here))
    found = _found(gpus) if local else ()
    complaints += [
        f"models.{number}.{said}" for number, model, here in local for said in _complaints(model, here, found)
    ]
    if complaints:
        raise PenstockError(
            "\n".join(complaints),
            code="models_unusable",
            hint="penstock plan says what is there, and what would fit",
        )


def _looked_for(
    model: ModelConfig, lacking: Callable[[HubName, str | None], str], cache: Mapping[str, str]
) -> tuple[Path | None, str]:
    """Where its folder is, and what is wrong; neither where it is the engine's to find."""
    path = path_of(str(model.source))
    if path.exists():
        return (path if path.is_dir() else None), ""
    source, args = str(model.source), model.engine_args
    name = HubName(source) if _OLD_NAME.fullmatch(source) else parse_name(source)
    if name is None or name.file or name.quantization or "download_dir" in args:
        return None, ""  # what is no name of the Hub is the engine's own check's to say
    revision = args.get("revision")
    try:
        here = cached(name.repo, cache) if revision is None else None
    except DamagedError as error:
        return None, f"{error.message}; {error.hint}"
    except PlanError:
        here = None
    if here is not None and here.is_file():
        return None, f'{name} has GGUF files, which {model.engine} does not load; set engine = "llamacpp"'
    return here, "" if here else lacking(name, revision if isinstance(revision, str) else None)


def _found(gpus: Callable[[], Sequence[Gpu]]) -> Sequence[Gpu]:
    try:
        return gpus()
    except PenstockError:
        return ()


def _complaints(model: ModelConfig, here: Path, gpus: Sequence[Gpu]) -> Iterator[str]:
    try:
        architecture = describe(str(here)).architecture
    except DamagedError as error:
        yield f"source: {error.message}; {error.hint}"
        return
    except PlanError:
        return  # the engine may know more families, and says itself what is wrong with a configuration
    size = model.engine_args.get("tensor_parallel_size", 1)
    if type(size) is not int or size < 1 or any(name in model.engine_args for name in ELSEWHERE):
        return
    if gpus and size > len(gpus):
        yield f"engine_args.tensor_parallel_size: {size} GPUs are asked for; there {_are(len(gpus))} here"
        return
    yield from _misfit(model, architecture, gpus, size)


def _misfit(model: ModelConfig, architecture: Architecture, gpus: Sequence[Gpu], size: int) -> Iterator[str]:
    args = model.engine_args
    try:
        way = _method(architecture, args.get("quantization"))
    except PlanError:
        return  # as above, of methods
    if not gpus:
        uneven = undivided(architecture, way, size)
        if uneven:
            yield f"engine_args.tensor_parallel_size: {uneven}"
        return
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
